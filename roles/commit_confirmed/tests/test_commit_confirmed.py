"""Unit tests of the rollback, with a systemd that only records its calls."""

import errno
import importlib.util
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
from types import ModuleType

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "files/commit_confirmed.py"
Monkey = pytest.MonkeyPatch


class Place:
    """A state folder, an etc folder, and the calls of systemd-run and systemctl."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.state = folder / "state"
        self.etc = folder / "etc"
        self.calls = folder / "calls"
        self.bin = folder / "bin"
        self.environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "COMMIT_CONFIRMED_STATE": str(self.state)}
        self.etc.mkdir()
        self.bin.mkdir()
        self.systemd()

    def systemd(self, code: int = 0) -> None:
        for name in ("systemd-run", "systemctl"):
            file = self.bin / name
            file.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\nexit {code}\n')
            file.chmod(0o755)

    def run(self, *arguments: str, code: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=self.environment
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    def arm(self, *paths: str, reload: str = "true", code: int = 0) -> str:
        return self.run("arm", "web", "60", reload, *(str(self.etc / path) for path in paths), code=code)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def tree(self) -> dict[str, tuple[str, int, int, str]]:
        """Type and mode, owner, group and content of everything below etc."""
        found = {}
        for path in sorted(self.etc.rglob("*")):
            status = path.lstat()
            content = path.readlink() if path.is_symlink() else path.read_text() if path.is_file() else ""
            found[str(path.relative_to(self.etc))] = (
                stat.filemode(status.st_mode), status.st_uid, status.st_gid, str(content)
            )  # fmt: skip
        return found

    def left(self) -> list[str]:
        """What is armed, and copies that are half-made; what a timer put back is kept on purpose."""
        return [path.name for path in self.state.iterdir() if not path.name.endswith(".reverted")]


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    place = Place(tmp_path)
    (place.etc / "file").write_text("old")
    (place.etc / "file").chmod(0o640)
    (place.etc / "link").symlink_to("file")
    (place.etc / "folder/deeper").mkdir(parents=True)
    (place.etc / "folder/deeper/secret").write_text("old")
    (place.etc / "folder/deeper/secret").chmod(0o400)
    (place.etc / "folder").chmod(0o700)
    (place.etc / "folder/dangling").symlink_to("/nowhere")
    if os.geteuid() == 0:
        os.chown(place.etc / "folder/deeper/secret", 65534, 65534)
        os.chown(place.etc / "link", 65534, 65534, follow_symlinks=False)
    return place


@pytest.fixture
def module(place: Place, monkeypatch: Monkey) -> ModuleType:
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("commit_confirmed", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ALL = ("file", "link", "folder", "absent", "absent-folder")


def change(place: Place) -> None:
    """Everything otherwise than it was."""
    (place.etc / "file").write_text("new")
    (place.etc / "file").chmod(0o777)
    (place.etc / "link").unlink()
    (place.etc / "link").write_text("no link any more")
    shutil.rmtree(place.etc / "folder/deeper")
    (place.etc / "folder/added").write_text("new")
    (place.etc / "folder").chmod(0o755)
    (place.etc / "absent").write_text("new")
    (place.etc / "absent-folder").mkdir()
    (place.etc / "absent-folder/file").write_text("new")


def test_a_timer_is_started_that_calls_this_script(place: Place) -> None:
    place.arm("file")
    assert place.called() == [
        f"systemd-run --quiet --collect --unit=commit-confirmed-web --on-active=60 --timer-property=AccuracySec=1s "
        f"--property=Restart=on-failure --property=RestartSec=10s {SCRIPT.resolve()} revert web"
    ]


def test_what_is_kept_is_for_its_owner_alone(place: Place) -> None:
    place.arm("folder")
    assert stat.S_IMODE(place.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((place.state / "web").stat().st_mode) == 0o700


@pytest.mark.parametrize("how", [("revert", "web"), ("revert",), ("boot",)])
def test_everything_is_put_back_as_it_was(place: Place, how: tuple[str, ...]) -> None:
    before = place.tree()
    place.arm(*ALL, reload=f"cat {place.etc}/file > {place.etc.parent}/reloaded")
    assert place.tree() == before
    change(place)
    assert "web was not confirmed" in place.run(*how)
    assert place.tree() == before
    assert place.left() == []
    reloaded = place.etc.parent / "reloaded"
    if how == ("boot",):
        assert not reloaded.exists()
    else:
        assert reloaded.read_text() == "old"
        assert place.called()[-1] == "systemctl stop commit-confirmed-web.timer"


def test_what_was_removed_comes_back(place: Place) -> None:
    before = place.tree()
    place.arm(*ALL)
    shutil.rmtree(place.etc)
    place.run("revert", "web")
    assert place.tree() == before


def test_a_file_in_the_place_of_a_folder_gives_way(place: Place) -> None:
    before = place.tree()
    place.arm(*ALL)
    (place.etc / "file").unlink()
    (place.etc / "file").mkdir()
    (place.etc / "file/inside").write_text("new")
    shutil.rmtree(place.etc / "folder")
    (place.etc / "folder").write_text("new")
    place.run("revert", "web")
    assert place.tree() == before


def test_confirm_leaves_the_change_and_ends_the_timer(place: Place) -> None:
    place.arm(*ALL)
    change(place)
    after = place.tree()
    place.run("confirm", "web")
    assert place.called()[-1] == "systemctl stop commit-confirmed-web.timer"
    # a timer that fires all the same finds nothing to do, and neither does a reboot
    for command in (("revert", "web"), ("revert",), ("boot",)):
        assert place.run(*command) == ""
    assert place.tree() == after
    assert place.left() == []


def test_a_change_that_was_taken_back_cannot_be_confirmed(place: Place) -> None:
    place.arm("file")
    place.run("revert", "web")
    assert "web was taken back before it was confirmed" in place.run("confirm", "web", code=1)


def test_a_second_change_of_the_name_is_refused_and_the_first_kept(place: Place) -> None:
    before = place.tree()
    place.arm(*ALL)
    change(place)
    for path in ("file", "folder/deeper/secret", "."):
        refused = place.run("arm", "db", "60", "true", str(place.etc / path), code=1)
        assert "another run is changing" in refused
        assert "(web); wait until it has ended, or: commit-confirmed revert web" in refused
    assert len(place.called()) == 1
    place.run("revert", "web")
    assert place.tree() == before


def test_changes_of_other_names_do_not_touch_each_other(place: Place) -> None:
    place.arm("file")
    place.run("arm", "db", "60", "true", str(place.etc / "absent"))
    (place.etc / "file").write_text("new")
    (place.etc / "absent").write_text("new")
    place.run("revert", "db")
    assert not (place.etc / "absent").exists()
    assert (place.etc / "file").read_text() == "new"
    place.run("boot")
    assert (place.etc / "file").read_text() == "old"


def test_a_reload_that_fails_is_told_and_the_files_are_back(place: Place) -> None:
    before = place.tree()
    place.arm(*ALL, reload="exit 7")
    change(place)
    # and it stays armed: systemd runs it again
    for _ in range(2):
        assert "exit 7 ended with 7" in place.run("revert", "web", code=1)
        assert place.tree() == before
        assert place.left() == ["web"]


def test_a_run_touches_its_own_change_only(place: Place) -> None:
    token = place.arm(*ALL).strip()
    change(place)
    for command in ("confirm", "revert"):
        assert "meanwhile" in (said := place.run(command, "web", "another", code=1)) or "taken back before" in said
    assert place.left() == ["web"]
    place.run("confirm", "web", token)
    assert place.left() == []


def test_what_is_written_after_the_timer_is_taken_back_once_more(place: Place) -> None:
    """As by a laptop that slept longer than the timer, between arming and writing."""
    before = place.tree()
    token = place.arm(*ALL).strip()
    place.run("revert", "web")
    change(place)
    assert "taken back before it was confirmed" in place.run("confirm", "web", token, code=1)
    assert "is so again" in place.run("revert", "web", token)
    assert place.tree() == before
    assert list(place.state.iterdir()) == []


def test_settle_waits_for_another_run(place: Place) -> None:
    place.arm("file")
    (place.etc / "file").write_text("new")
    # the timer runs as long as the file is there
    (place.bin / "systemctl").write_text(f'#!/bin/sh\n[ "$1" != is-active ] || rm {place.etc}/absent\n')
    (place.etc / "absent").touch()
    place.run("settle", "web")
    assert not (place.etc / "absent").exists()
    assert (place.etc / "file").read_text() == "old"
    assert place.left() == []


def test_without_a_timer_nothing_is_armed(place: Place) -> None:
    place.systemd(code=1)
    assert "systemd-run" in place.arm(*ALL, code=1)
    assert place.left() == []


@pytest.mark.parametrize("arguments", [(), ("arm", "web", "60", "true"), ("confirm",), ("undo", "web")])
def test_usage(place: Place, arguments: tuple[str, ...]) -> None:
    assert "usage: commit-confirmed arm NAME SECONDS RELOAD PATH..." in place.run(*arguments, code=1)


def test_a_full_disk_leaves_no_half_of_a_copy(place: Place, module: ModuleType, monkeypatch: Monkey) -> None:
    before = place.tree()
    copied: list[str] = []
    copy2 = shutil.copy2

    def full(source: pathlib.Path, target: pathlib.Path, **options: bool) -> None:
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(str(source))
        copy2(source, target, **options)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left"):
        module.arm("web", 60, "true", [str(place.etc / path) for path in ALL])
    assert len(copied) == 2
    assert place.left() == []
    assert place.tree() == before
    assert place.called() == []


def test_an_interrupted_revert_is_done_by_the_next(place: Place, module: ModuleType, monkeypatch: Monkey) -> None:
    """Cut off before each of its renames in turn: the next one ends it."""
    before = place.tree()
    rename = pathlib.Path.rename
    cut = 0
    while True:
        place.arm(*ALL)
        change(place)
        renames = 0

        def dying(path: pathlib.Path, target: pathlib.Path, at: int = cut) -> pathlib.Path:
            nonlocal renames
            if renames == at:
                raise KeyboardInterrupt
            renames += 1
            return rename(path, target)

        with monkeypatch.context() as context:
            context.setattr(pathlib.Path, "rename", dying)
            try:
                module.revert("web")
            except KeyboardInterrupt:
                pass
            else:
                break
        place.run("revert", "web")
        assert place.tree() == before, f"cut off before rename {cut}"
        assert place.left() == []
        cut += 1
    # file, link, the two in the folder, the state, and the copies of the three files in it
    assert cut == 8
    assert place.tree() == before


def test_a_folder_that_cannot_be_renamed_is_put_back(place: Place, module: ModuleType, monkeypatch: Monkey) -> None:
    """As on an overlay, where a folder of the lower layer stays where it is."""
    before = place.tree()
    rename = pathlib.Path.rename

    def overlay(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if path.is_dir() and place.etc in path.parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", overlay)
    place.arm(*ALL)
    change(place)
    module.revert("web")
    assert place.tree() == before


@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_without_sudo_the_message_says_to_wait_for_the_timer(tmp_path: pathlib.Path, pipelining: str) -> None:
    """The change took sudo from the login of the run: what would go back at once cannot even begin."""
    tasks = SCRIPT.parents[1] / "tasks"
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "commit_confirmed_name": "access",
            "commit_confirmed_after": 77,
            "__commit_confirmed_command": "/nowhere",
            "__commit_confirmed_armed": {"stdout": "token"},
        },
        "tasks": [
            {
                "block": [{"name": "Write the keys", "fail": {"msg": "Missing sudo password"}}],
                "rescue": [
                    {
                        "set_fact": {
                            "ansible_become": True,
                            "ansible_become_exe": "/bin/false",
                            "ansible_become_user": "x",
                        }
                    },
                    {"include_tasks": str(tasks / "revert.yml")},
                ],
            }
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    result = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "play.yml"],
        cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_PIPELINING": pipelining},
    )  # fmt: skip
    output = " ".join(result.stdout.split())
    assert "access of localhost rolls back automatically within 77 s: wait until then" in output
    assert "What failed: Write the keys: Missing sudo password" in output
