"""Steps of the unit that need no server: what is waited for and how long, and which servers get another go."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

STEPS = pathlib.Path(__file__).parents[1] / "files/jupyter_screen.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, STEPS, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("listens", [True, False])
def test_a_server_that_does_not_answer_is_waited_for_by_the_clock(tmp_path: pathlib.Path, listens: bool) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 48)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not listens:
            silent.close()
        began = time.monotonic()
        ended = run(
            "ready", "1", JUPYTER_TOKEN_FILE=str(token), JUPYTER_SCREEN_PORT=str(port), MAINPID=str(os.getpid())
        )
    assert time.monotonic() - began < 5
    assert ended.returncode == 1
    assert "within 1 s; on a slow machine raise jupyter_screen_start_timeout" in ended.stderr


def test_a_server_that_ended_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 48)
    gone = subprocess.Popen(["true"])
    gone.wait()
    ended = run("ready", "60", JUPYTER_TOKEN_FILE=str(token), JUPYTER_SCREEN_PORT="1", MAINPID=str(gone.pid))
    assert "JupyterLab ended before it answered" in ended.stderr


def test_only_servers_that_are_still_wanted_get_another_go(tmp_path: pathlib.Path) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/asked\n'
        'case "$1 $3" in\n'
        '  list-units*) printf "jupyter-screen@%s.service loaded failed failed JupyterLab\\n" ana ben ;;\n'
        "  'is-enabled jupyter-screen@ben.service') exit 1 ;;\n"
        "esac\n"
    )
    systemctl.chmod(0o755)
    ended = run("again", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ended.returncode == 0, ended.stderr
    asked = (tmp_path / "asked").read_text()
    assert "reset-failed jupyter-screen@ana.service\nstart --no-block jupyter-screen@ana.service\n" in asked
    assert "start --no-block jupyter-screen@ben" not in asked
