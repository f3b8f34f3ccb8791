"""What follows the training job on a server: a JupyterLab learns of its account's new group. No server."""

import os
import pathlib
import subprocess

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAY = yaml.safe_load((ROOT / "playbooks/recommender.yml").read_text())[0]
VARIABLES = {"recommender_user": "recommender", "analyst": "analyst", "jupyter_people": [{"name": "ana"}]}


def restarted(folder: pathlib.Path, accounts: str, process: str, active: str = "true") -> tuple[list[str], str]:
    """What is restarted, and what is printed, for an account and a JupyterLab of these groups."""
    task = next(task for task in PLAY["post_tasks"] if task["name"].startswith("Restart each JupyterLab"))
    templar = Templar(loader=DataLoader(), variables=VARIABLES)
    script = templar.template(trust_as_template(task["ansible.builtin.shell"]["cmd"]))
    asked = 'case "$1" in is-active) {};; show) echo 42;; *) echo "$@" >>{}/log;; esac'
    stubs = {
        "systemctl": asked.format(active, folder), "getent": "echo recommender:x:990:analyst,ana",
        "id": f"echo {accounts}", "sed": f'test "$3" = /proc/42/status && printf "\\t{process} \\n"',
    }  # fmt: skip
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "log").write_text("")
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return (folder / "log").read_text().splitlines(), run.stdout


def test_a_jupyterlab_older_than_the_membership_is_restarted(tmp_path: pathlib.Path) -> None:
    log, said = restarted(tmp_path, "1001 27 990", "27 9901")
    assert log == [f"restart jupyter-screen@{name}.service" for name in ("analyst", "ana")]
    assert said == "analyst\nana\n"


@pytest.mark.parametrize(
    ("accounts", "process", "active"),
    [("1001 990", "27 990", "true"), ("1001 27", "27", "true"), ("1001 990", "27", "false")],
    ids=["it has the group", "the account has not", "it does not run"],
)
def test_no_other_jupyterlab_is_restarted(tmp_path: pathlib.Path, accounts: str, process: str, active: str) -> None:
    assert restarted(tmp_path, accounts, process, active) == ([], "")


def test_no_playbook_reads_what_is_a_roles_own() -> None:
    """Names with two underscores are a role's own; a role's task file may be included, and its defaults are public."""
    files = [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("playbooks/*/*"), ROOT / "site.yml"]
    files += [ROOT / "inventory/settings.yml", ROOT / "inventory/wiring.yml"]
    roles = [path.name for path in ROOT.glob("roles/*")]
    private = tuple(f"__{role}_" for role in roles)
    found = [str(path) for path in files if path.is_file() and any(name in path.read_text() for name in private)]
    assert roles and found == []
