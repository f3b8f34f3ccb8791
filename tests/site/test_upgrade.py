"""One run of site.yml on a server of an earlier release: people lose nothing, and the next run changes nothing.

Training and serving are left out: they cost more than all of the rest, and what they leave behind is MLflow's.
"""

import copy
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT, Checkout, Vultr, recap

RELEASE = "b2207f5f01970672fe2eb5f88b662c30b714368c"
COMMAND = (".venv/bin/ansible-playbook", "site.yml", "-i", "inventory/vultr")
# three people, so that logins of MLflow come with the upgrade
SETTINGS: dict[str, Any] = {
    "people": [
        {"name": "deploy", "role": "operator", "keys": "{{ operator_keys }}"},
        {"name": "analyst", "role": "analyst", "keys": "{{ operator_keys }}"},
        {"name": "ana", "role": "analyst", "keys": "{{ operator_keys }}"},
    ],
    "jupyter_people": [{"name": "ana", "port": 8889}],
    "recommender_train": False,
    "serving_environments": [],
}
PEOPLE = ("analyst", "ana")
CLIENT = "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 /opt/mlflow/current/bin/python -"
# what people have besides MLflow's data: files, and the token of their JupyterLab
FILES = "cd ~/notebooks && sha256sum data.csv examples/2-training.ipynb /etc/jupyter-screen/tokens/$(id -un)"
# an experiment, a run of it and an alias that were there before
CHANGE = """
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("ratings").experiment_id
client.log_metric(client.create_run(experiment).info.run_id, "rmse", 1)
client.set_registered_model_alias("dev.movie-recommender", "mine", "1")
"""
# the kernels that run; with an argument, starts one
JUPYTER = """
import json, sys, urllib.request
token = open("/etc/jupyter-screen/tokens/analyst").read().strip()
headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
data = json.dumps({"name": "recommender"}).encode() if sys.argv[1:] else None
request = urllib.request.Request("http://127.0.0.1:8888/api/kernels", data=data, headers=headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def at(vultr: Vultr, person: str, command: str, program: str = "") -> str:
    """What a person's command on the server prints; the program is its input."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.known_hosts", f"{person}@{vultr.address}", command]
    folder, environment = vultr.checkout.folder, vultr.checkout.environment
    done = subprocess.run(
        ssh, cwd=folder, env=environment, input=program, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def mlflow(vultr: Vultr, name: str) -> str:
    """Runs a program that logs one of everything, or prints as JSON all that a client reads."""
    return at(vultr, "analyst", CLIENT, (ROOT / "roles/mlflow_server/molecule" / name).read_text())


def earlier(checkout: Checkout, folder: pathlib.Path) -> Checkout:
    """The earlier release, with the same inventory."""
    packed = subprocess.run(["git", "archive", RELEASE], cwd=ROOT, capture_output=True)
    if packed.returncode:
        pytest.skip(
            f"git has no commit {RELEASE}, from which this test upgrades: {packed.stderr.decode().strip()}. "
            "In a shallow clone, type: git fetch --unshallow"
        )
    subprocess.run(["tar", "-x"], cwd=folder, input=packed.stdout, check=True)
    for shared in (".venv", ".cache", ".known_hosts"):
        (folder / shared).symlink_to(checkout.folder / shared)
    for file in ("hosts.yml", "group_vars/all/zz-mine.yml"):
        shutil.copy(checkout.folder / "inventory/vultr" / file, folder / "inventory/vultr" / file)
    old = copy.copy(checkout)
    old.folder = folder
    # it takes another zone for a wrong clock, and has no way through mitogen
    plugins = str(ROOT / "playbooks/strategy_plugins")
    old.environment = checkout.environment | {"TZ": "UTC", "ANSIBLE_STRATEGY_PLUGINS": plugins}
    return old


@pytest.fixture(scope="module")
def vultr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vultr]:
    """A server that the earlier release made, in the inventory of both."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    vultr = Vultr(checkout, tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("state"), "upgrade")
    try:
        vultr.start("trixie")
        with vultr.mine.open("a") as mine:
            mine.write(yaml.safe_dump(SETTINGS))
        earlier(checkout, tmp_path_factory.mktemp("earlier")).run(*COMMAND, fast=True)
        yield vultr
    finally:
        vultr.end()


def test_one_run_upgrades_it(vultr: Vultr) -> None:
    mlflow(vultr, "fill.py")
    for person in PEOPLE:
        at(vultr, person, "cd ~/notebooks && echo mine > data.csv && echo >> examples/2-training.ipynb")
    assert json.loads(at(vultr, "analyst", "python3 - start", JUPYTER))["name"] == "recommender"
    logged, files = json.loads(mlflow(vultr, "dump.py")), [at(vultr, person, FILES) for person in PEOPLE]
    assert len(logged) > 20
    assert recap(vultr.checkout.run(*COMMAND, fast=True))["failed"] == 0
    assert [at(vultr, person, FILES) for person in PEOPLE] == files
    found = json.loads(mlflow(vultr, "dump.py"))
    assert {name: found.get(name) for name in logged} == logged


def test_the_next_run_changes_nothing(vultr: Vultr) -> None:
    assert recap(vultr.checkout.run(*COMMAND, fast=True))["changed"] == 0


def test_people_continue_with_what_they_had(vultr: Vultr) -> None:
    # MLflow asks for a login now
    asked = "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/api/2.0/mlflow/registered-models/search')"
    assert "HTTP Error 401" in at(vultr, "analyst", f'python3 -c "{asked}" 2>&1 || true')
    for person in PEOPLE:
        at(vultr, person, CLIENT, CHANGE)
    # kernels end with their JupyterLab, as the changelog says; the token opens the next one
    assert json.loads(at(vultr, "analyst", "python3 -", JUPYTER)) == []


def test_unchanged_examples_are_those_of_this_release(vultr: Vultr) -> None:
    for person in PEOPLE:
        shown = at(vultr, person, "cat ~/notebooks/examples/1-data.ipynb")
        assert shown == (ROOT / "ml/notebooks/1-data.ipynb").read_text()
