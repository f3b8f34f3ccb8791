"""The login of the operator is tried at all ports at once, with an ssh that only pretends."""

import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TASKS = pathlib.Path(__file__).parents[1] / "tasks/find_login.yml"
# port 2222 is silent for a moment; then it lets in, or it has timed out
SSH = """#!/bin/sh
case "$*" in
  *"-p 2222 "*) sleep 0.5; [ ! -e "$FOLDER/moving" ] || { echo "port 2222: timed out" >&2; exit 255; } ;;
  *"-p 22 "*) [ ! -e "$FOLDER/closed" ] || { echo "port 22: denied" >&2; exit 255; } ;;
  *"-p 23 "*) sleep 60 ;;
esac
# what was asked for ran, but for a forced command
[ -e "$FOLDER/forced" ] || exit 97
"""


def command(folder: pathlib.Path, ports: list[Any]) -> list[str]:
    (task,) = (task for task in yaml.safe_load(TASKS.read_text()) if task["name"] == "Try a new login as the operator")
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    variables = {"access_ports": ports, "access_operator": "deploy", "__access_host": "198.51.100.7"}
    variables["__access_got_in"] = 97
    variables["__access_login"] = str(folder / "ssh")
    shell = task["ansible.builtin.shell"]
    return [
        shell["executable"],
        "-c",
        Templar(DataLoader(), variables=variables).template(trust_as_template(shell["cmd"])),
    ]


def run(folder: pathlib.Path, ports: list[Any]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FOLDER": str(folder), "TMPDIR": str(folder)}
    return subprocess.run(command(folder, ports), env=environment, capture_output=True, text=True, timeout=30)


def test_the_wanted_port_is_used_although_another_answers_first(tmp_path: pathlib.Path) -> None:
    """Behind one address, the other port may be that of another server."""
    result = run(tmp_path, [2222, 22])
    assert (result.returncode, result.stdout) == (0, "0\n")


def test_another_port_is_used_once_the_wanted_one_has_failed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "moving").touch()
    result = run(tmp_path, [2222, 22, 23])
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moving", "ssh"]


def test_without_a_login_each_port_says_why(tmp_path: pathlib.Path) -> None:
    for name in ("closed", "moving"):
        (tmp_path / name).touch()
    result = run(tmp_path, [2222, 22])
    assert (result.returncode, result.stdout) == (1, "")
    assert sorted(result.stderr.splitlines()) == ["port 2222: timed out", "port 22: denied"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "moving", "ssh"]


def test_a_forced_command_is_no_way_in(tmp_path: pathlib.Path) -> None:
    """It ends with 0, whatever it was asked for."""
    (tmp_path / "forced").touch()
    result = run(tmp_path, [22])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "deploy gets in, and sudo does not run\n"


@pytest.mark.parametrize("ports", [[22], [None]])
def test_one_port_is_as_before(tmp_path: pathlib.Path, ports: list[Any]) -> None:
    assert run(tmp_path, ports).stdout == "0\n"
