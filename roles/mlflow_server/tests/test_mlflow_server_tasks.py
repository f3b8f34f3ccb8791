"""What the role's tasks say: no container."""

import os
import pathlib
import subprocess
import time
from typing import Any

import jinja2
import pytest
import yaml

ROLE = pathlib.Path(__file__).parents[1]


def tasks(given: Any) -> list[dict[str, Any]]:
    """All tasks of a file, those of its blocks as well."""
    found = []
    for task in given:
        found.append(task)
        for part in ("block", "rescue", "always"):
            found += tasks(task.get(part, []))
    return found


ALL = [task for path in ROLE.glob("tasks/*.yml") for task in tasks(yaml.safe_load(path.read_text()))]


def test_no_task_has_an_environment() -> None:
    # Ansible makes it part of a command line, which shows in the list of processes and in sudo's log
    assert [task["name"] for task in ALL if "environment" in task] == []


@pytest.mark.skipif(not os.path.exists("/proc/uptime"), reason="the server's side, which is Linux")
@pytest.mark.parametrize("ended", [False, True])
def test_the_timeout_is_in_seconds_on_a_slow_machine_too(tmp_path: pathlib.Path, ended: bool) -> None:
    # each of the two is called once a turn; the server restarts at the second turn, or never
    count = "echo >>$0.turns; wc -l <$0.turns" if ended else "echo 0"
    for name, script in {"ss": "sleep 0.7", "systemctl": f"sleep 0.7; {count}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (task,) = (task for task in ALL if task["name"] == "Wait until it answers, or ends")
    values = {"mlflow_server_port": 5000, "mlflow_server_start_timeout": 5, "__mlflow_server_listens": "ss | grep -q x"}
    command = jinja2.Template(task["ansible.builtin.shell"]["cmd"]).render(values)
    began = time.monotonic()
    run = subprocess.run(
        ["sh", "-c", command], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True
    )
    assert run.returncode == 1
    if ended:
        assert run.stderr.startswith("The server ended ")
    else:
        # turns of two seconds and more: five of them would take twelve
        assert 5 <= time.monotonic() - began < 9
        assert run.stderr.strip() == (
            f"The server does not answer on port 5000 after {run.stderr.split(' s.')[0].split()[-1]} s."
            " If it only is slow, give it more: mlflow_server_start_timeout: 15"
        )


def test_no_loop_counts_turns_for_seconds() -> None:
    for path in [*ROLE.glob("tasks/*.yml"), *ROLE.glob("templates/*")]:
        assert "$(seq " not in path.read_text(), path
