"""One operator's run must not give the account of another to its own keys."""

import importlib.util
import pathlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FILE = pathlib.Path(__file__).parents[1] / "library/access.py"
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
