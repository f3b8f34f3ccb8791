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
# port 2222 never answers; it ends once the test does
SSH = """#!/bin/sh
case "$*" in
  *"-p 2222 "*) while [ -e "$FOLDER/open" ]; do sleep 0.1; done; echo "port 2222: timed out" >&2; exit 255 ;;
  *"-p 22 "*) [ ! -e "$FOLDER/closed" ] || { echo "port 22: denied" >&2; exit 255; } ;;
esac
"""


def command(folder: pathlib.Path, ports: list[Any]) -> list[str]:
    (task,) = (task for task in yaml.safe_load(TASKS.read_text()) if task["name"] == "Try a new login as the operator")
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    variables = {"access_ports": ports, "access_operator": "deploy", "__access_host": "198.51.100.7"}
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


def test_a_port_that_is_silent_does_not_keep_the_other_waiting(tmp_path: pathlib.Path) -> None:
    (tmp_path / "open").touch()
    try:
        result = run(tmp_path, [2222, 22])
    finally:
        (tmp_path / "open").unlink()
    assert (result.returncode, result.stdout) == (0, "1\n")


def test_without_a_login_each_port_says_why(tmp_path: pathlib.Path) -> None:
    (tmp_path / "closed").touch()
    result = run(tmp_path, [2222, 22])
    assert (result.returncode, result.stdout) == (1, "")
    assert sorted(result.stderr.splitlines()) == ["port 2222: timed out", "port 22: denied"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "ssh"]


@pytest.mark.parametrize("ports", [[22], [None]])
def test_one_port_is_as_before(tmp_path: pathlib.Path, ports: list[Any]) -> None:
    assert run(tmp_path, ports).stdout == "0\n"
