"""What the role's tasks say: no container."""

import http.server
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


class Answers(http.server.BaseHTTPRequestHandler):
    """200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a program that answers."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.skipif(not os.path.exists("/proc/uptime"), reason="the server's side, which is Linux")
@pytest.mark.parametrize("held", ["", "other", "same"])
def test_going_back_gives_the_port_to_the_server_of_before(tmp_path: pathlib.Path, server: str, held: str) -> None:
    # before: a server that has its port itself, a socket on another port, the same socket
    new, before, etc = tmp_path / "bin", tmp_path / "before", tmp_path / "etc"
    for folder in (new, before, etc, tmp_path / "env/bin"):
        folder.mkdir(parents=True)
    (etc / "mlflow.socket").write_text("new")
    (before / "link").write_text("before")
    (before / "mlflow.service").write_text("before")
    if held:
        (before / "mlflow.socket").write_text("new" if held == "same" else "before")
    listen, active = f'show) echo "{server} (Stream)"', "true" if held else "false"
    scripts = {
        "systemctl": f'echo "$@" >>{tmp_path}/log\ncase $1 in is-active) {active};; {listen};; esac',
        "ss": f"echo LISTEN 0 5 {server} 0.0.0.0:* cgroup:/system.slice/mlflow.service",
    }
    for name, script in scripts.items():
        (new / name).write_text(f"#!/bin/sh\n{script}\n")
        (new / name).chmod(0o755)
    (tmp_path / "env/bin/python").symlink_to(sys.executable)
    values = {
        "__mlflow_server_before": before, "__mlflow_server_env": tmp_path / "env", "mlflow_server_start_timeout": 1,
        "__mlflow_server_env_file": etc / "mlflow.env", "__mlflow_server_unit": etc / "mlflow.service",
        "__mlflow_server_socket": etc / "mlflow.socket", "__mlflow_server_auth_file": etc / "auth.ini",
        "__mlflow_server_current": tmp_path / "current",
    }  # fmt: skip
    script = jinja2.Template((ROLE / "templates/back.j2").read_text()).render(values)
    run = subprocess.run(
        ["sh", "-c", script], cwd=etc, env={"PATH": f"{new}:{os.environ['PATH']}"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = (tmp_path / "log").read_text().splitlines()
    assert ("stop mlflow.socket mlflow-port.service" in said) == (held != "same")
    assert ("disable --quiet mlflow.socket" in said) == (not held)
    assert (etc / "mlflow.socket").exists() == bool(held)
    assert (etc / "mlflow.service").read_text() == "before"
    assert said.index("stop mlflow.service") < said.index("daemon-reload") < said.index("start mlflow.service")
    assert not before.exists()
