"""What messages say to type works as it is printed."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import mlflow
import pytest

from recommender import cli, tracking, typed
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "src/recommender").rglob("*.py"))


def in_a_shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a person types it, in a folder of theirs, with nothing set that is this program's."""
    ours = ("MLFLOW_TRACKING", "RECOMMENDER_", "MAKE", "MFLAGS", "PYTHONPATH")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return subprocess.run(
        command, shell=True, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
    )


def test_a_deleted_experiment_is_restored_by_what_is_printed(
    conf: Path, store: str, environment: str, tmp_path: Path, capsys
) -> None:
    tracking.connect(store)
    name = f"deleted {environment}"
    made = tracking.experiment(name, store)
    mlflow.MlflowClient().delete_experiment(made)
    line = ["train", "--config", str(conf), "--tracking-uri", store, "--set", f"tracking.experiment={name}"]
    assert cli.main(line) == 2
    said = capsys.readouterr().err
    empty = tmp_path / "somewhere"
    empty.mkdir()
    done = in_a_shell(said.rpartition("Restore it: ")[2].partition("\n")[0], empty)
    assert done.returncode == 0, done.stderr
    assert list(empty.iterdir()) == []
    assert mlflow.get_experiment(made).lifecycle_stage == "active"


def test_a_store_that_is_named_relatively_and_one_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "sqlite:///mlruns/mlflow.db")
    assert f"MLFLOW_TRACKING_URI=sqlite:///{Path.cwd()}/mlruns/mlflow.db " in typed.mlflow("experiments")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "postgresql://me:secret@host/mlflow")
    assert "secret" not in typed.mlflow("experiments")
    assert "in the place of ***" in typed.mlflow("experiments")


@pytest.mark.parametrize("by_make", [False, True])
def test_a_verb_can_be_typed_in_any_folder(
    by_make: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if by_make:
        monkeypatch.setenv("MAKELEVEL", "1")
        monkeypatch.setenv("RECOMMENDER_CONFIG", "conf/ease.yaml")
    else:
        monkeypatch.delenv("MAKELEVEL", raising=False)
    command = typed.runnable("recommender train --help")
    if by_make:
        assert command == f"make -C {ROOT} run CONF=conf/ease.yaml ARGS='train --help'"
        line = f"{command} -n"
    else:
        assert command.startswith("PYTHONPATH=")
        line = command
    done = in_a_shell(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train --help" in done.stdout if by_make else "--no-register" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_follows_a_verb_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "_typed", lambda words: f"<{words}>")
    for text, shown in [
        ("Train one: recommender train; or not", "Train one: <train>; or not"),
        ("(recommender evaluate) but", "(<evaluate>) but"),
        (
            "recommender export --environment dev --output /a/b.zip.",
            "<export --environment dev --output /a/b.zip>.",
        ),
        ("recommender train --data 'a b'", "<train --data 'a b'>"),
        ("made by recommender 1.2, a recommender trained", "made by recommender 1.2, a recommender trained"),
        ("/srv/recommender check", "/srv/recommender check"),
    ]:
        assert typed.runnable(text) == shown


def messages() -> list[str]:
    """All texts of the package but docstrings, what is filled in as x."""
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        for node in joined:
            docs |= {id(part) for part in node.values}
            found.append(
                "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
            )
        found += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
        ]
    return found


def test_every_command_in_a_message_is_one() -> None:
    verbs = [found[1] for text in messages() for found in typed._COMMAND.finditer(text)]
    assert len(verbs) >= 8
    for words in verbs:
        try:
            cli._parser().parse_args(shlex.split(words))
        except SystemExit as error:
            raise AssertionError(f"recommender {words}") from error
    targets = {
        target
        for makefile in (ROOT / "Makefile", ROOT.parent / "Makefile")
        if makefile.exists()
        for target in re.findall(r"^([a-z-]+):", makefile.read_text(encoding="utf-8"), re.M)
    }
    made = [
        found[1] for text in messages() for found in re.finditer(r"\bmake ([a-z]+)(?= [A-Z]|,|\.|$)", text)
    ]
    # of rollback: "make previous … champion"
    assert made and set(made) - {"previous"} <= targets
    # a command of MLflow's goes by way of typed.mlflow, which names the store
    for text in messages():
        assert not re.search(r"\bmlflow (experiments|runs|models) ", text), text
