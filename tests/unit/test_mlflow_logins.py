"""MLflow's logins, derived from environment and people of an inventory. No server."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# of all servers at once: a task of its own for each would take most of the time
FOUND = """{% set found = {} %}{% for name in ansible_play_hosts %}{% set of = hostvars[name] %}
{% set _ = found.update({name: [of.mlflow_server_auth, of.mlflow_server_users, of.recommender_credentials]}) %}
{% endfor %}{{ found | to_json }}"""
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "connection": "local",
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "dest": "{{ my_folder }}/found.json",
                    "content": FOUND,
                    "mode": "0600",
                },
                "run_once": True,
                "delegate_to": "localhost",
                "vars": {"ansible_python_interpreter": sys.executable, "ansible_become": False},
            }
        ],
    }
]
TEAM = [
    {"name": "deploy", "role": "operator", "keys": "k"},
    {"name": "analyst", "role": "analyst", "keys": "k"},
    {"name": "ana", "role": "analyst", "keys": "k"},
    {"name": "admin", "role": "analyst", "keys": "k"},
    {"name": "tina", "role": "tunnel", "keys": "k", "ports": [5000]},
    {"name": "gone", "role": "operator", "state": "absent"},
    {"name": "nas", "role": "command", "keys": "k", "command": "internal-sftp"},
]
READ = [{"experiment": "*", "permission": "READ"}, {"model": "*", "permission": "READ"}]


def write(environment: str) -> list[dict[str, str]]:
    return [
        {"experiment": "movie-recommender", "permission": "MANAGE"},
        {"model": f"{environment}.movie-recommender", "permission": "MANAGE"},
    ]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Logins, users and the job's credentials of servers in each environment, with two people and with a team."""
    folder = tmp_path_factory.mktemp("logins")
    copy = folder / "inventory/onprem"
    shutil.copytree(ROOT / "inventory/onprem", copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(ROOT / "inventory" / name, copy.parent)
    team = {"people": TEAM, "jupyter_people": [{"name": "ana", "port": 8889}]}
    groups: dict[str, Any] = {name: {"hosts": {f"{name}-two": {}}} for name in ("dev", "staging", "prod")}
    groups["dev"]["hosts"]["dev-team"] = team
    groups["prod"]["hosts"]["prod-team"] = team
    # a parameter file of one's own names its experiment and its model
    (folder / "job/conf").mkdir(parents=True)
    (folder / "job/conf/shop.yaml").write_text("tracking: {experiment: shops, model: shop}\n")
    job = {"recommender_source": str(folder / "job"), "recommender_config": "conf/shop.yaml"}
    groups["staging"]["hosts"]["staging-two"] = job
    # the third is gone, a program is nobody, and so there are no logins
    groups["dev"]["hosts"]["dev-gone"] = {"people": [*TEAM[:2], *TEAM[-2:]]}
    (copy / "hosts.yml").write_text(yaml.safe_dump(groups))
    (folder / "play.yml").write_text(yaml.safe_dump(PLAY))
    run = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), folder / "play.yml", "-i", copy, "-e",
         f"my_folder={folder}"],
        cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def test_there_are_logins_but_on_dev_with_two_people(hosts: dict[str, Any]) -> None:
    logins = {name: found[0] for name, found in hosts.items()}
    assert logins == {
        "dev-two": False, "dev-gone": False, "dev-team": True, "staging-two": True, "prod-two": True,
        "prod-team": True,
    }  # fmt: skip
    for name, (_, _, credentials) in hosts.items():
        assert credentials == ("/etc/mlflow/users/recommender.env" if logins[name] else "")


def test_everybody_has_a_login_of_their_own(hosts: dict[str, Any]) -> None:
    _, users, _ = hosts["dev-team"]
    trains = ["deploy", "analyst", "ana"]
    assert users == [
        {"name": "recommender", "permissions": write("dev")},
        {"name": "reader", "permissions": READ},
        *({"name": name, "accounts": [name], "permissions": READ + write("dev")} for name in trains),
        # of these nobody trains, and MLflow's own admin has the name already
        {"name": "admin.person", "accounts": ["admin"], "permissions": READ},
        {"name": "tina", "accounts": ["tina"], "permissions": READ},
    ]  # fmt: skip


def test_where_nothing_is_trained_only_operators_write(hosts: dict[str, Any]) -> None:
    _, users, _ = hosts["prod-team"]
    permissions = {user["name"]: user["permissions"] for user in users}
    assert permissions == {
        "recommender": write("prod"), "reader": READ, "deploy": READ + write("prod"), "analyst": READ, "ana": READ,
        "admin.person": READ, "tina": READ,
    }  # fmt: skip


def test_the_jobs_own_names_are_what_may_be_changed(hosts: dict[str, Any]) -> None:
    [job] = [user for user in hosts["staging-two"][1] if user["name"] == "recommender"]
    assert job["permissions"] == [
        {"experiment": "shops", "permission": "MANAGE"}, {"model": "staging.shop", "permission": "MANAGE"},
    ]  # fmt: skip


def test_the_names_are_those_that_the_role_takes(hosts: dict[str, Any]) -> None:
    source = (ROOT / "roles/mlflow_server/files/mlflow_admin/logins.py").read_text()
    pattern = re.search(r'fullmatch\(r"(\S+)", str\(name\)\)', source)
    assert pattern
    for _, users, _ in hosts.values():
        names = [user["name"] for user in users]
        assert all(re.fullmatch(pattern[1], name) for name in names) and len(set(names)) == len(names)
