"""What is built ahead: only in a whole first run, on a server with the memory for it."""

import pathlib
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIRST: dict[str, Any] = {
    "ansible_user": "root", "operator": "deploy", "ansible_run_tags": ("all",), "ansible_skip_tags": (),
    "ansible_check_mode": False, "ansible_facts": {"memtotal_mb": 3900},
}  # fmt: skip


@pytest.mark.parametrize(
    ("otherwise", "begun"),
    [
        ({}, True),
        ({"ansible_user": "deploy"}, False),
        ({"ansible_run_tags": ("secure", "begin")}, False),
        ({"ansible_skip_tags": ("workbench",)}, False),
        ({"ansible_check_mode": True}, False),
        ({"ansible_facts": {"memtotal_mb": 1900}}, False),
        ({"ansible_facts": {}}, False),
    ],
)
def test_only_a_whole_first_run_builds_ahead(otherwise: dict[str, Any], begun: bool) -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/begin.yml").read_text())
    (task,) = play["tasks"]
    templar = Templar(DataLoader(), variables=FIRST | otherwise)
    assert all(templar.template(trust_as_template("{{ " + condition + " }}")) for condition in task["when"]) is begun


def test_all_builds_take_turns_by_one_lock() -> None:
    locks = {"conda": "__conda_lock", "locked_environment": "__locked_environment_builds"}
    values = {yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text())[name] for role, name in locks.items()}
    # /run is root's: an account could lay a link in /run/lock
    assert values == {"/run/environment-builds.lock"}
