"""`make chaos`: which faults, in which order, on which server, and what counts as lost."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))
import chaos  # noqa: E402

SERVER = {"name": "bare-server-1", "host": "127.0.0.1"}
STATE: dict[str, dict[str, Any]] = {
    "models": {"dev.films": {"champion": "1"}, "staging.films": {"champion": "1"}},
    "runs": {"a": ["FINISHED", []]},
    "files": {"/home/analyst/own.ipynb": "0f"},
}


def test_the_seed_decides_the_order() -> None:
    first = chaos.chosen(chaos.FAULTS, 7, 5, "", 1)
    assert first == chaos.chosen(chaos.FAULTS, 7, 5, "", 1) != chaos.chosen(chaos.FAULTS, 8, 5, "", 1)
    assert sorted(fault.name for fault in chaos.chosen(chaos.FAULTS, 7, 0, "", 1)) == sorted(
        fault.name for fault in chaos.FAULTS
    )


def test_one_kind_several_times() -> None:
    assert [fault.name for fault in chaos.chosen(chaos.FAULTS, 1, 0, "power", 3)] == ["power cut"] * 3
    with pytest.raises(SystemExit, match=r"no fault is called meteor\. There are: mlflow killed, .*power cut"):
        chaos.chosen(chaos.FAULTS, 1, 0, "meteor", 1)


def test_names_are_unique_and_conditions_end() -> None:
    assert len({fault.name for fault in chaos.FAULTS}) == len(chaos.FAULTS) > 20
    # a small file system is removed only after the fault on it has ended
    assert all(fault.undo for fault in chaos.FAULTS if fault.clear or fault.refuses)
    assert all(fault.clear for fault in chaos.FAULTS if fault.do.startswith("over "))


@pytest.mark.parametrize("fault", chaos.FAULTS, ids=lambda fault: fault.name)
def test_each_step_is_shell(fault: chaos.Fault) -> None:
    for script in (fault.do, fault.undo, fault.clear, fault.bites, fault.needs):
        done = subprocess.run(["bash", "-n"], input=chaos.SHELL + script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("inventory", ["inventory/local", "inventory/local/", "./inventory/local"])
def test_the_throw_away_server_is_hurt(inventory: str) -> None:
    assert chaos.refusal(inventory, SERVER) == ""


def test_no_other_server_is() -> None:
    assert "not in inventory/vultr. Type: make chaos" in chaos.refusal("inventory/vultr", SERVER)
    assert "not in inventory/local/../onprem" in chaos.refusal("inventory/local/../onprem", SERVER)
    assert "is not the container" in chaos.refusal("inventory/local", {**SERVER, "host": "198.51.100.7"})
    assert "is not the container" in chaos.refusal("inventory/local", {**SERVER, "name": ""})
    command = [sys.executable, str(ROOT / "bin/chaos.py"), "-i", "inventory/vultr"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "not in inventory/vultr" in refused.stderr


def test_what_is_gone_or_different_is_lost() -> None:
    after = {**STATE, "runs": {"b": ["FINISHED", []]}, "files": {"/home/analyst/own.ipynb": "1e"}}
    assert chaos.lost(STATE, STATE, False) == []
    assert chaos.lost(STATE, after, False) == [
        "lost: runs a",
        "changed: files /home/analyst/own.ipynb: 0f, now 1e",
    ]
    moved = {**STATE, "models": {"dev.films": {"champion": "1"}, "staging.films": {"champion": "2"}}}
    assert chaos.lost(STATE, moved, True) == []
    assert chaos.lost(STATE, moved, False) == [
        "changed: models staging.films: {'champion': '1'}, now {'champion': '2'}"
    ]
    gone = {**STATE, "models": {"dev.films": {}}}
    assert chaos.lost(STATE, gone, True) == [
        "changed: models dev.films: {'champion': '1'}, now {}",
        "lost: models staging.films",
    ]


def test_commands_that_mend_are_typed() -> None:
    said = (
        "- jupyter-screen@analyst.service: STOPPED; sudo systemctl start jupyter-screen@analyst.service\n"
        "- mlflow.service has failed: sudo journalctl -u mlflow.service; then sudo systemctl restart mlflow.service"
    )
    assert chaos.commands(said) == [
        "systemctl start jupyter-screen@analyst.service",
        "systemctl restart mlflow.service",
    ]
