"""Where copies go, which one is meant, and what is said of them."""

import importlib.util
import json
import pathlib
import sys
import time
from typing import Any

import pytest

ROLE = pathlib.Path(__file__).resolve().parents[1]


spec = importlib.util.spec_from_file_location("backup_place", ROLE / "filter_plugins/backup_place.py")
assert spec and spec.loader
place = importlib.util.module_from_spec(spec)
spec.loader.exec_module(place)
KEEP = {"daily": 7}
PART = {"name": "data", "paths": ["/srv/data"]}


@pytest.fixture
def program(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with folders of its own."""
    for name in ("etc", "var"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"SERVER_BACKUP_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("SERVER_BACKUP_LOCK", str(tmp_path / "lock"))
    monkeypatch.syspath_prepend(ROLE / "files")
    # they read their folders when they are imported
    for name in [name for name in sys.modules if name.split(".")[0] == "server_backup"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("server_backup.back")
    return sys.modules["server_backup"]


def settings(program: Any, **changes: Any) -> Any:
    part = program.settings.Part(**PART)
    people = program.settings.Part("notebooks", items={"ana": "/home/ana"})
    given = {
        "name": "one", "repository": "/mnt/copies/one", "options": [], "environment": {}, "append_only": False,
        "keep": KEEP, "hold": [], "late_after_hours": 26, "drill_late_after_days": 9, "parts": [part, people],
    }  # fmt: skip
    return program.settings.Settings(**given | changes)


@pytest.mark.parametrize(
    ("to", "repository", "options"),
    [
        ("/mnt/copies/", "/mnt/copies/one", []),
        ("s3:https://s3.example.org/bucket", "s3:https://s3.example.org/bucket/one", []),
        (
            "sftp:me@host.example.org:2222:/copies",
            "sftp:me@host.example.org:/copies/one",
            ["sftp.command=ssh -F none -p 2222", "me@host.example.org -s sftp"],
        ),
        (
            "append:other",
            "rclone:one",
            ["rclone.program=ssh -F none -p 22", "StrictHostKeyChecking=yes", "me@192.0.2.1"],
        ),
    ],
)
def test_restic_is_told_where(to: str, repository: str, options: list[str]) -> None:
    found = place.place(to, "one", {"host": "192.0.2.1", "user": "me"}, True, ["192.0.2.1 ssh-ed25519 AAAA"])
    assert found["repository"] == repository
    assert len(found["options"]) == bool(options)
    assert all(each in found["options"][0] for each in options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": "mnt/copies"}, "backup_to is 'mnt/copies': give a folder"),
        ({"to": "append:other"}, "backup_append needs host and user"),
        ({"key": "short"}, "backup_key has fewer than 20 characters"),
        ({"name": "a b"}, "backup_name is 'a b'"),
        ({"parts": [PART, PART]}, "part 'data' of backup_parts: give each a name of its own"),
        ({"parts": [{"name": "all", "paths": ["/"]}]}, "has the path '/'"),
        ({"keep": {"daily": 0}}, "backup_keep has daily: 0"),
        ({"keep": {}}, "backup_keep is empty"),
        ({"keeps": [{"name": "../x"}]}, "backup_keeps has '../x'"),
    ],
)
def test_a_value_that_cannot_work_is_told(changes: dict[str, Any], words: str) -> None:
    good = {"to": "/mnt", "name": "one", "key": "k" * 20, "append": {}, "parts": [PART], "keep": KEEP, "keeps": []}
    assert place.faults(*good.values()) == []
    assert any(words in fault for fault in place.faults(*(good | changes).values()))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("latest", "cccccc33"),
        ("bbbbbb", "bbbbbb22"),
        ("2026-11-28T12:00", "aaaaaa11"),
        ("2026-11-28T13:00+01:00", "aaaaaa11"),
        # a day means its end
        ("2026-11-28", "bbbbbb22"),
    ],
)
def test_a_copy_is_named_by_its_id_or_a_time(program: Any, at: str, expected: str) -> None:
    # noon and nine in the evening of 28 November, and the next day
    times = {"aaaaaa11": 1795867200, "bbbbbb22": 1795899600, "cccccc33": 1795953600}
    snapshots = [program.repository.Snapshot(name, when, "me") for name, when in times.items()]
    assert program.back.choose(snapshots, at).id == expected


def test_an_empty_server_does_not_push_out_the_copies_of_a_lost_one(program: Any) -> None:
    mine, other = (program.repository.Snapshot(f"{who}{'0' * 8}", time.time(), who) for who in ("me", "lost"))
    program.state.update(id="me")
    program.copies.guard([], "one")
    program.copies.guard([other, mine], "one")
    with pytest.raises(program.copies.Foreign, match="make restore HOST=one"):
        program.copies.guard([mine, other], "one")
    program.state.update(adopted=other.id)
    program.copies.guard([mine, other], "one")


def test_what_is_wrong_is_said_until_it_is_well(program: Any) -> None:
    given, now = settings(program), time.time()

    def said() -> str:
        return "; ".join(program.state.faults(given, now))

    assert "no copy was proven yet" in said()
    program.state.update(proven={"time": now})
    assert said() == ""
    with pytest.raises(ValueError), program.state.recorded("run"):
        raise ValueError("no space")
    assert said() == "backup: the last copy failed: no space"
    with program.state.recorded("run"):
        pass
    assert said() == ""
    program.state.update(run={"began": now - 27 * 3600, "good": now - 27 * 3600, "error": ""})
    assert "no copy for more than 26 hours" in said()
    program.state.update(run={"good": now}, drill={"good": now - 10 * 86400})
    assert "no copy was tried for more than 9 days" in said()


def test_a_file_that_no_disk_can_hold_is_told(program: Any, tmp_path: pathlib.Path) -> None:
    for name in ("home/a", "home/holes", "home/.cache/holes", "home/deep/__pycache__/holes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("w") as file:
            file.truncate(4097 if name.endswith("holes") else 4096)
    home = str(tmp_path / "home")
    found = program.copies.larger([home], [f"{home}/.cache", f"{home}/**/__pycache__"], 4096)
    assert found == [f"{home}/holes"]
    assert program.copies.larger([], [], 4096) == []
    program.state.update(proven={"time": time.time()}, run={"good": time.time(), "left_out": found})
    [said] = program.state.faults(settings(program), time.time())
    assert (
        said
        == f"backup: {home}/holes is larger than its disk, and no copy holds it: delete it, or cut it with truncate"
    )


def test_a_copy_that_does_not_fit_changes_nothing(
    program: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = program.settings.Part(**PART, fits='echo "$FOLDER is of another kind" >&2; false')
    given, put = settings(program, parts=[part]), []
    snapshot = program.repository.Snapshot("a" * 64, time.time(), "me")
    monkeypatch.setattr(program.back.Repository, "snapshots", lambda self: [snapshot])
    monkeypatch.setattr(program.back, "bring", lambda *words, **more: {})
    monkeypatch.setattr(program.back, "put", lambda part, *words: put.append(part.name) or [])
    with pytest.raises(program.settings.Refused, match=r"data was left as it is: /.*/now/data is of another kind"):
        program.back.restore(given, [], "latest", "", True, False)
    assert not put and "adopted" not in program.state.read()
    # the operator takes what is damaged
    program.back.restore(given, [], "latest", "", True, True)
    assert put == ["data"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Fatal: wrong password or no key found", "make backup-key"),
        ("write /x: no space left on device", "There is no space left"),
        ("Permission denied (publickey).", "No connection to /mnt/copies/one."),
        ("Load() failed: The request signature we calculated does not match the", "keys of backup_environment"),
        # as it was said of a network that went; the digest holds 403
        ("Save(<data/68ce403cdf>) failed: rclone stdio connection already closed", "No connection to /mnt/copies/one."),
        ("Remove(<data/68ce403cdf>) failed", "restic backup: Remove"),
        ("unexpected status 403", "can only be appended to"),
        ("Fatal: something new", "restic backup: Fatal: something new"),
    ],
)
def test_restics_errors_say_what_mends_them(program: Any, said: str, words: str) -> None:
    assert words in program.repository.Repository(settings(program)).explain("backup", said)


def test_parts_and_items_are_named(program: Any) -> None:
    given = settings(program)
    assert [(part.name, item) for part, item in program.back.select(given, ["notebooks:ana"])] == [("notebooks", "ana")]
    assert [part.name for part, _ in program.back.select(given, [])] == ["data", "notebooks"]
    with pytest.raises(program.settings.Refused, match="Name one of: data, notebooks"):
        program.back.select(given, ["mlfow"])
    with pytest.raises(program.settings.Refused, match="Name one of: notebooks:ana"):
        program.back.select(given, ["notebooks:bea"])


def test_a_lock_that_another_holds_is_told(program: Any, tmp_path: pathlib.Path) -> None:
    with (
        program.state.locked(),
        pytest.raises(program.settings.Refused, match="fuser -v"),
        program.state.locked(seconds=0.1),
    ):
        pass


def test_the_state_survives_a_half_written_one(program: Any, tmp_path: pathlib.Path) -> None:
    first = program.state.read()["id"]
    (tmp_path / "var/state.new").write_text("{")
    assert program.state.read()["id"] == first
    assert json.loads((tmp_path / "var/state.json").read_text())["id"] == first
