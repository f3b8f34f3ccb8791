"""The command line: what each verb takes, and how it ends."""

import io
import json
import pathlib
import sys
from typing import Any

import mlflow.cli
import pytest
from mlflow_admin import __main__ as tool

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: str, given: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["mlflow_admin.py", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        return tool.main()

    return run


CALLS = [
    ("check", "", '{"a": 1}', ({"a": 1},)),
    ("backup", "label", "", ("label",)),
    ("restore", "/one.db", "", ("/one.db",)),
    ("migrate", "", "", ()),
    ("compare", '{"counts": {"runs": 1}}', "", ({"runs": 1},)),
    ("undo", '{"file": ""}', "", ({"file": ""},)),
    ("probe", "http://127.0.0.1:5000", "", ("http://127.0.0.1:5000",)),
    ("move", "", '{"a": 1}', ({"a": 1},)),
    ("credentials", "", '{"a": 1}', ({"a": 1},)),
    ("users", "http://127.0.0.1:5000", '{"a": 1}', ({"a": 1}, "http://127.0.0.1:5000")),
    ("users", "http://127.0.0.1:5000", "", ({}, "http://127.0.0.1:5000")),
    ("gc", "30d", "", ("30d",)),
    ("save", "/srv/copy", "", ("/srv/copy",)),
    ("verify", "/srv/copy", "", ("/srv/copy", "")),
    ("load", "/srv/copy", "", ("/srv/copy",)),
]


@pytest.mark.parametrize(("verb", "argument", "given", "wanted"), CALLS)
def test_a_verb_takes_what_is_new(
    main: Any, monkeypatch: pytest.MonkeyPatch, verb: str, argument: str, given: str, wanted: Any
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(tool, verb, lambda *words: calls.append(words))
    assert main(*[verb, argument][: 2 if argument else 1], given=given) == 0
    assert calls == [wanted]


def test_a_refusal_is_one_message_and_1(main: Any, database: pathlib.Path, capsys: Capture) -> None:
    assert main("compare", '{"counts": {"runs": 2}}') == 1
    assert capsys.readouterr() == ("", "The migrated database does not hold the same rows: runs 2 -> 1\n")


def test_switch_judges_by_the_settings_in_force(main: Any, database: pathlib.Path, capsys: Capture) -> None:
    wanted = {"settings": {"MLFLOW_BACKEND_STORE_URI": "sqlite:////other.db"}, "upgrade": False, "command": "typed"}
    assert main("switch", json.dumps(wanted | {"switch": "move"})) == 0
    assert capsys.readouterr().out == "move\n"
    assert main("switch", json.dumps(wanted | {"switch": "refuse"})) == 1
    assert "Move it by typed\n" in capsys.readouterr().err


def test_what_was_deleted_is_collected_from_the_places_in_force(
    main: Any, database: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(mlflow.cli.cli, "main", lambda words, standalone_mode: asked.extend(words))
    assert main("gc", "30d") == 0
    places = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", f"{database.parent}/artifacts"]
    assert asked == ["gc", "--older-than", "30d", *places]


def test_an_unknown_verb_is_named(main: Any, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main("upgrade")
    assert "argument verb: invalid choice: 'upgrade' (choose from" in capsys.readouterr().err
