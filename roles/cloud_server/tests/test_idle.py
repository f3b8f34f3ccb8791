"""The script that ends a server which nobody uses, under sh, with planted answers."""

import http.server
import json
import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator

import jinja2
import pytest

TEMPLATES = pathlib.Path(__file__).parents[1] / "templates"
HOUR = 3600
# 2026-11-01 12:00 UTC
NOON = 1793534400
STUBS = {
    "date": 'cat "$PLANTED/now"',
    "wall": 'echo "wall: $*" >> "$PLANTED/said"',
    "loginctl": """case $* in
      *list-sessions) cat "$PLANTED/sessions" ;;
      *--value*) echo "${4%-*}" ;;
    esac""",
    "systemctl": """case $* in
      poweroff) echo poweroff >> "$PLANTED/said" ;;
      "is-active --quiet recommender-deploy.service") test -e "$PLANTED/training" ;;
      *Id,Environment*) cat "$PLANTED/jupyter" ;;
      *Listen*) cat "$PLANTED/sockets" ;;
      *) exit 9 ;;
    esac""",
}


class Server:
    """What the script sees."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.clock = folder, NOON
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.asked.append(self.path)
                path = self.path.partition("?")[0]
                told = path == "/metrics" or self.headers["Authorization"] == "token secret"
                self.send_response(200 if told and path in server.answers else 500)
                self.end_headers()
                self.wfile.write(server.answers.get(path, "").encode())

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        (folder / "bin").mkdir()
        for name, body in STUBS.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / "bin" / name).chmod(0o755)
        for name in ("sessions", "said", "jupyter", "sockets"):
            (folder / name).write_text("")
        (folder / "tokens").mkdir()
        (folder / "proc/77").mkdir(parents=True)
        (folder / "tokens/ana").write_text("secret")
        self.script = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES)).get_template("idle.sh.j2")

    def plant(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def look(self, hours: float = 0) -> str:
        """What the script does so many hours later, and has said until then."""
        self.clock += round(hours * HOUR)
        self.plant("now", str(self.clock))
        (self.folder / "said").write_text("")
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "PLANTED": str(self.folder),
            "STATE": str(self.folder / "state"), "TOKENS": str(self.folder / "tokens"),
            "PROC": str(self.folder / "proc"),
        }  # fmt: skip
        text = self.script.render(__cloud_server_idle=4 * HOUR)
        subprocess.run(["sh"], input=text, text=True, env=environment, check=True)
        return (self.folder / "said").read_text()

    def jupyter(self, last: str, state: str) -> None:
        port = self.web.server_port
        other = "Id=jupyter-screen@gone.service\nEnvironment=\n\n"
        self.plant("jupyter", f"{other}Environment=JUPYTER_SCREEN_PORT={port} A=b\nId=jupyter-screen@ana.service\n")
        self.answers["/api/status"] = json.dumps({"last_activity": last, "kernels": 1})
        self.answers["/api/kernels"] = json.dumps([{"execution_state": "idle"}, {"execution_state": state}])

    def requests(self, lists: int, health: int) -> None:
        self.plant("sockets", f"127.0.0.1:{self.web.server_port} (Stream)\n")
        self.answers["/metrics"] = "".join(
            f'recommender_requests_total{{route="{route}",status="200",version="3"}} {number}.0\n'
            for route, number in (("/v1/recommend", lists), ("/health/ready", health))
        )


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    planted = Server(tmp_path)
    yield planted
    planted.web.shutdown()
    planted.web.server_close()


def ends(server: Server) -> bool:
    """Whether it warns, and then powers off, at the next two looks."""
    warned = server.look(4)
    off = server.look(1 / 6)
    assert ("It ends in 10 minutes" in warned) == (off == "poweroff\n")
    return bool(warned)


def test_a_server_that_nobody_uses_warns_and_ends_ten_minutes_later(server: Server) -> None:
    # the first look after each start
    assert server.look() == ""
    assert server.look(3.9) == ""
    assert "It ends in 10 minutes" in server.look(0.2)
    assert server.look(1 / 6) == "poweroff\n"


def test_a_login_after_the_warning_keeps_it_for_another_term(server: Server) -> None:
    server.look()
    assert "wall" in server.look(4.1)
    server.plant("sessions", "user-7 0 root - pts/0\n")
    assert server.look(1 / 6) == ""
    server.plant("sessions", "")
    assert server.look(3.9) == ""
    assert ends(server)


@pytest.mark.parametrize(
    ("session", "ended"), [("user-7", False), ("user-early-7", False), ("manager-8", True), ("background-9", True)]
)
def test_sessions_of_people_count_and_those_of_the_system_do_not(server: Server, session: str, ended: bool) -> None:
    server.look()
    server.plant("sessions", f"c1 0 root\n{session} 0 root - -\n")
    assert ends(server) == ended


@pytest.mark.parametrize(
    ("title", "ended"),
    [
        ("sshd: ana@pts/0", False), ("sshd-session: deploy@notty", False), ("sshd-session: root [priv]", True),
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", True),
    ],
)  # fmt: skip
def test_a_login_over_ssh_counts_without_a_session_and_a_try_does_not(server: Server, title: str, ended: bool) -> None:
    server.look()
    server.plant("proc/77/cmdline", f"{title}\0\0")
    assert ends(server) == ended


def test_a_training_counts(server: Server) -> None:
    server.look()
    server.plant("training", "")
    assert not ends(server)


@pytest.mark.parametrize(
    ("last", "state", "ended"),
    [
        ("2026-11-01T11:00:00.5Z", "idle", True),
        ("2026-11-01T11:00:00.5Z", "busy", False),
        ("2026-11-01T15:59:00.123456Z", "idle", False),
    ],
)
def test_kernels_that_are_busy_or_were_active_count(server: Server, last: str, state: str, ended: bool) -> None:
    server.look()
    server.jupyter(last, state)
    assert bool(server.look(4.1)) == ended
    assert "/api/kernels?no_track_activity=1" in server.asked


def test_requests_to_the_served_model_count_and_those_for_its_health_do_not(server: Server) -> None:
    server.requests(lists=5, health=1)
    server.look()
    server.requests(lists=5, health=900)
    assert ends(server)
    server.requests(lists=6, health=900)
    assert not server.look(1 / 6)
    assert not server.look(3.9)


def test_what_refuses_a_connection_is_off_and_what_answers_wrongly_counts(server: Server) -> None:
    server.look()
    server.jupyter("2026-11-01T11:00:00Z", "idle")
    server.plant("tokens/ana", "another")
    assert not server.look(4.1)
    server.web.shutdown()
    server.web.server_close()
    assert ends(server)
