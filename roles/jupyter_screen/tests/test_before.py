"""What ran before is kept until its successor has answered, also over an interruption."""

import os
import pathlib
import subprocess

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = {
    # the files active-NAME tell which servers run
    "systemctl": 'case $1 in is-active) unit=${3%.service}; [ -e "$HERE/active-${unit#*@}" ];; '
    'stop) rm -f "$HERE"/active-*;; esac',
    # only root may use it
    "runuser": 'shift 3; exec "$@"',
    "getent": 'echo "$2:x:1:1::$HERE/home:/bin/sh"',
    # macOS lacks it
    "flock": "true",
}


class Host:
    """A folder with an environment in use, and a person, ana, whose server runs."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.before, self.current, self.state = folder / "before", folder / "current", folder / "state/ana"
        (folder / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        self.settings = folder / "home/.jupyter/lab/settings"
        for file in (self.state / "documents.db", self.settings, folder / "helper"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("old")
        self.switch("old")
        self.start()

    def switch(self, name: str) -> None:
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(self.folder / name)

    def start(self) -> None:
        (self.folder / "active-ana").touch()

    def migrate(self) -> None:
        """What a new JupyterLab may do with a person's state."""
        for file in (self.state / "documents.db", self.settings):
            file.write_text("new")
        (self.state / "more").touch()

    def left(self) -> list[str]:
        return [self.settings.read_text(), *sorted(file.name + file.read_text() for file in self.state.iterdir())]

    def run(self, *command: str, text: str = "") -> str:
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "HERE": str(self.folder)}
        done = subprocess.run(["bash", *command], input=text, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def template(self, text: str) -> str:
        variables = {
            "__jupyter_screen_before": str(self.before),
            "__jupyter_screen_before_lock": str(self.folder / "lock"),
            "__jupyter_screen_current": str(self.current),
            "__jupyter_screen_helper": str(self.folder / "helper"),
            "__jupyter_screen_state": str(self.folder / "state"),
        }
        return str(Templar(DataLoader(), variables).template(trust_as_template(text)))

    def keep(self) -> str:
        """What the role's step says."""
        [task] = yaml.safe_load((ROLE / "tasks/keep.yml").read_text())
        steps = self.template((ROLE / "templates/before.sh.j2").read_text())
        return self.run("-c", self.template(task["ansible.builtin.shell"]["cmd"]), text=steps).strip()

    def stop(self) -> None:
        self.run(str(self.before / "steps"), "stop", "ana")


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def test_a_run_that_ended_before_it_changed_anything_restarts_nothing(host: Host) -> None:
    assert host.keep() == ""
    assert host.keep() == ""
    (host.folder / "helper").write_text("another")
    assert host.keep() == "earlier"


def test_nothing_is_kept_where_nothing_was_installed(host: Host) -> None:
    host.current.unlink()
    assert host.keep() == ""
    assert not host.before.exists()


@pytest.mark.parametrize("runs", [False, True])
def test_a_return_after_an_interruption_puts_back_what_nobody_has_worked_with(host: Host, runs: bool) -> None:
    host.keep()
    host.stop()
    host.switch("new")
    host.migrate()
    if runs:
        host.start()
    assert host.keep() == "earlier"
    assert (host.before / "link").read_text().strip() == str(host.folder / "old")
    host.switch("old")
    host.stop()
    assert host.left() == (["new", "documents.dbnew", "more"] if runs else ["old", "documents.dbold"])


def test_a_state_that_cannot_be_copied_holds_up_nobody(host: Host) -> None:
    (host.folder / "bin/runuser").write_text("#!/bin/sh\necho half\nexit 1\n")
    host.keep()
    host.stop()
    assert sorted(file.name for file in (host.before / "people").iterdir()) == ["ana.ran", "ana.stopped"]
    assert host.left() == ["old", "documents.dbold"]
