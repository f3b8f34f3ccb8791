"""One operator's run must neither take over another's account nor remove it unless that is meant."""

import contextlib
import ctypes
import importlib.util
import os
import pathlib
import subprocess
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FILE = pathlib.Path(__file__).parents[1] / "library/access.py"
PR_SET_CHILD_SUBREAPER = 36
ALICE, BOB, NEW = "ssh-ed25519 A alice\n", "ssh-ed25519 B bob\n", "ssh-ed25519 C new\n"


@pytest.fixture(scope="module")
def access() -> ModuleType:
    spec = importlib.util.spec_from_file_location("access_module", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(access: ModuleType, there: dict[str, str], wanted: dict[str, str], operator: str) -> str:
    said: list[str] = []

    def fail_json(msg: str, **_: Any) -> None:
        said.append(msg)

    access.refuse_takeover(SimpleNamespace(module=SimpleNamespace(fail_json=fail_json)), wanted, there, operator)
    return " ".join(said)


def test_another_operators_account_is_not_taken_over(access: ModuleType) -> None:
    there = {"deploy": ALICE, "bob": BOB}
    said = refusal(access, there, {"deploy": BOB, "bob": BOB}, "bob")
    assert "replace all keys of deploy by those of bob" in said


@pytest.mark.parametrize(
    ("there", "wanted", "operator"),
    [
        # one person with two accounts changes the key of both
        ({"deploy": ALICE, "analyst": ALICE}, {"deploy": NEW, "analyst": NEW}, "deploy"),
        # an account gets a further key, and one that had none its first
        ({"deploy": ALICE, "bob": BOB}, {"deploy": ALICE, "bob": BOB + ALICE, "ana": ALICE}, "deploy"),
        # somebody else's own new key
        ({"deploy": ALICE, "bob": BOB}, {"deploy": ALICE, "bob": NEW}, "deploy"),
        ({}, {"deploy": ALICE, "analyst": ALICE}, "deploy"),
    ],
)
def test_other_changes_pass(access: ModuleType, there: Any, wanted: Any, operator: str) -> None:
    assert refusal(access, there, wanted, operator) == ""


PEOPLE = {"operator": {"deploy", "bob"}, "analyst": {"ana"}, "tunnel": {"tina"}}


def gone(access: ModuleType, listed: dict[str, str], operator: str, named: list[str], there: dict[str, str]) -> Any:
    """Who leaves, and who of them is refused."""
    groups = {f"access-{role}": names for role, names in PEOPLE.items()}
    host = access.Host.__new__(access.Host)
    host.users, host.groups = dict.fromkeys(set().union(*PEOPLE.values())), groups
    people = [{"name": name, "keys": [{"line": line} for line in text.splitlines()]} for name, text in listed.items()]
    left = access.leaving(host, people, there, operator, named)
    return [person["name"] for person in left], [person["title"] for person in access.refused(left)]


THERE = {"deploy": ALICE, "bob": BOB, "ana": "ssh-ed25519 D ana\n", "tina": "ssh-ed25519 E tina\n"}


@pytest.mark.parametrize(
    ("listed", "operator", "named", "refused"),
    [
        # a checkout without people.yml
        ({"bob": BOB, "analyst": BOB}, "bob", [], ["deploy (operator)", "ana (analyst)", "tina (tunnel)"]),
        ({"bob": BOB, "analyst": BOB}, "bob", ["deploy", "ana"], []),
        ({"bob": BOB, "analyst": BOB}, "bob", ["deploy"], ["ana (analyst)", "tina (tunnel)"]),
        # one operator is one too many, one other is not
        ({"bob": BOB, "ana": NEW, "tina": NEW}, "bob", [], ["deploy (operator)"]),
        ({"bob": BOB, "deploy": ALICE, "ana": NEW}, "bob", [], []),
        ({"bob": BOB, "deploy": ALICE}, "bob", [], ["ana (analyst)", "tina (tunnel)"]),
        # the same person under another name, whatever the comment of the key
        ({"carl": "ssh-ed25519 A me\n", "bob": BOB, "ana": NEW, "tina": NEW}, "carl", [], []),
    ],
)
def test_nobody_is_removed_by_mistake(
    access: ModuleType, listed: Any, operator: str, named: list[str], refused: list[str]
) -> None:
    left, said = gone(access, listed, operator, named, THERE)
    assert set(left) == THERE.keys() - listed.keys()
    assert said == refused


@pytest.mark.parametrize(
    ("before", "after", "less"),
    [
        ("operator", "command", True), ("analyst", "command", True), ("tunnel", "command", True),
        ("command", "tunnel", True), ("command", "analyst", False), ("command", "command", False),
        ("analyst", "tunnel", True), ("tunnel", "analyst", False), (None, "command", False),
    ],
)  # fmt: skip
def test_sessions_end_that_the_new_role_would_not_allow(
    access: ModuleType, before: Any, after: str, less: bool
) -> None:
    assert access.shrinks(before, after) is less


def test_an_account_with_one_command_has_no_password_and_the_plain_shell(access: ModuleType) -> None:
    host = SimpleNamespace(users={"ana": SimpleNamespace(pw_shell="/bin/bash")}, shadow={"ana": ["ana", "$y$hash"]})
    assert access.differing(host, "ana", "command") == ["--shell", "/bin/sh", "--password", "*"]
    assert access.differing(host, "ana", "analyst") == []
    host.shadow["ana"][1], host.users["ana"].pw_shell = "*", "/bin/sh"
    assert access.differing(host, "ana", "command") == []


def test_an_interrupted_removal_is_completed(access: ModuleType) -> None:
    left, said = gone(access, {"bob": BOB}, "bob", [], {"bob": BOB})
    assert len(left) == 3
    assert said == []


@pytest.mark.skipif(os.getuid() != 0, reason="kills the processes of another account")
def test_processes_that_fork_fast_are_ended(access: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lives for a moment and leaves another behind: a list of them is old when it is read."""
    uid = 54321
    fork = "import os, time\nend = time.time() + 20\nwhile time.time() < end:\n  if os.fork(): os._exit(0)"
    # the dead are this process' to bury, where process 1 does not
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    # two, so that there is always one between the list and the signal
    for _ in range(2):
        subprocess.Popen(["/usr/bin/python3", "-S", "-c", fork], user=uid, group=uid, start_new_session=True)
    time.sleep(0.3)
    said: list[str] = []
    host = SimpleNamespace(
        users={"ana": SimpleNamespace(pw_uid=uid)},
        module=SimpleNamespace(fail_json=lambda msg: said.append(msg) or pytest.fail(msg)),
    )
    monkeypatch.setattr(access, "SECONDS", 10)
    access.end_processes(host, "ana")
    assert access.processes(uid) == []
    time.sleep(0.3)
    assert access.processes(uid) == []
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_what_a_list_misses_is_ended_as_well(access: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that fork fast, a list may hold none."""
    killed: list[int] = []
    monkeypatch.setattr(access, "kill_all", killed.append)
    monkeypatch.setattr(access, "processes", lambda uid: [])
    access.end_processes(SimpleNamespace(users={"ana": SimpleNamespace(pw_uid=1)}), "ana")
    assert killed == [1]


def test_processes_that_do_not_end_are_told(access: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SECONDS", 0)
    monkeypatch.setattr(access, "kill_all", lambda uid: None)
    monkeypatch.setattr(access, "processes", lambda uid: [os.getpid()])

    def fail_json(msg: str) -> None:
        raise RuntimeError(msg)

    host = SimpleNamespace(users={"ana": SimpleNamespace(pw_uid=1)}, module=SimpleNamespace(fail_json=fail_json))
    with pytest.raises(RuntimeError, match=r"1 processes still run after 0 s: \d+ \S.*run this again"):
        access.end_processes(host, "ana")
