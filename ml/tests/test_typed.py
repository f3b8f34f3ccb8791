"""Commands in messages work as printed."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import mlflow
import pytest

from recommender import typed
from recommender.cli import main, options
from recommender.tracking import runs, stores
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
    stores.connect(store)
    name = f"deleted {environment}"
    made = runs.experiment(name, store)
    mlflow.MlflowClient().delete_experiment(made)
    line = ["train", "--config", str(conf), "--tracking-uri", store, "--set", f"tracking.experiment={name}"]
    assert main.main(line) == 2
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
            main._parser().parse_args(shlex.split(words))
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


# Printed commands repeat what was given


def typed_elsewhere(said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Go to another folder and take a printed command apart as a shell does; returns the program's words."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    words = shlex.split(said)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    return words[words.index("recommender") + 1 :]


@pytest.mark.parametrize("chosen", [None, "shop-2", "2"])
def test_a_missing_model_is_trained_and_asked_by_what_is_printed(
    chosen: str | None,
    conf: Path,
    store: str,
    environment: str,
    tmp_path: Path,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    own = tmp_path / "my files,"
    own.mkdir()
    (own / "other.yaml").write_text(conf.read_text() + "tracking:\n  model: other\n")
    monkeypatch.chdir(tmp_path)
    line = ["--config", "my files,/other.yaml", "--tracking-uri", store]
    asked = ["recommend", *line, "--user", "1", *(["--model", chosen] if chosen else [])]
    assert main.main(asked) == 2
    said = capsys.readouterr().err
    assert f"RECOMMENDER_ENVIRONMENT={environment} " in said and "--tracking-uri" in said
    train = typed_elsewhere(
        said.rpartition("Train one with: ")[2].strip(), tmp_path / "elsewhere", monkeypatch
    )
    assert main.main(train) == 0
    printed = capsys.readouterr().out
    ask = re.search(r"^ask it +(.*)$", printed, re.M)
    assert f"version   {environment}.{chosen or 'other'} 1" in printed and ask
    assert main.main(typed_elsewhere(ask[1], tmp_path / "third", monkeypatch)) == 0
    assert capsys.readouterr().out.startswith("   1  ")
    # what was asked for is there now, and export and rollback name it for one that is not
    monkeypatch.chdir(tmp_path)
    assert main.main(asked) == 0
    missing = ["--environment", environment, "--model", "none", "--tracking-uri", store]
    for verb in (["export", "--output", "a.zip"], ["rollback"]):
        assert main.main([*verb, *missing]) == 2
        assert (
            f"Models of {environment} with a champion: {chosen or 'other'}. Say --model "
            in capsys.readouterr().err
        )
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == []


def test_a_missing_archive_is_written_by_what_is_printed(
    store: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAKELEVEL", raising=False)
    for name in ("my x.zip", "it's.zip", "a,b.zip", "ends."):
        archive = tmp_path / name
        lines = [["--to", "prod", "--tracking-uri", store, "--archive", str(archive)]]
        assert main.main(["promote", *lines[0]]) == 2
        first = capsys.readouterr().err.rpartition("Write it first: ")[2]
        archive.write_bytes(b"PK")
        assert main.main(["promote", *lines[0]]) == 2
        second = capsys.readouterr().err.rpartition("where its version is: ")[2]
        for said in (first, second):
            words = typed_elsewhere(said.strip(), tmp_path / "elsewhere", monkeypatch)
            found = main._parser().parse_args(words)
            assert (found.output, found.environment, found.tracking_uri) == (archive, "staging", store)


def test_what_was_given_is_repeated_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
    # nothing was given: the store below this folder is in use, and no other folder has it
    assert f"--tracking-uri sqlite:///{tmp_path}/mlruns/mlflow.db" in typed.runnable("recommender train")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    assert "host" not in typed.runnable("recommender train")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    # the job's own parameter file, which this folder does not have
    assert f"train --config {ROOT}/conf/default.yaml" in typed.runnable("recommender train")
    (tmp_path / "my r.csv").touch()
    (tmp_path / "p.yaml").touch()
    line = [
        "check", "--config", "p.yaml", "--data", "my r.csv", "--separator", ";", "--no-header", "--missing",
        "0", "-1", "--set", "seed=3", "--tracking-uri", "postgresql://me:secret@host/mlflow",
    ]  # fmt: skip
    with typed.repeating(options.given(main._parser().parse_args(line))):
        train, ask = typed.runnable("recommender train."), typed.runnable("recommender recommend --user=1")
        monkeypatch.setenv("MAKELEVEL", "1")
        monkeypatch.setenv("MAKEFLAGS", r" -- CONF=p.yaml PYTHON=/my\ env/python")
        monkeypatch.setenv("RECOMMENDER_CONFIG", "p.yaml")
        made = typed.runnable("recommender train")
    assert "secret" not in train + ask and "in the place of ***" in train
    words = typed_elsewhere(train.partition(" (with")[0], tmp_path / "elsewhere", monkeypatch)
    found = vars(main._parser().parse_args(words))
    assert found["config"] == tmp_path / "p.yaml" and found["data.source"] == str(tmp_path / "my r.csv")
    assert found["data.separator"] == ";" and found["data.header"] is False
    assert found["data.missing"] == ["0", "-1"] and found["set"] == ["seed=3"]
    assert "--data" not in ask and f"--config {tmp_path}/p.yaml" in ask
    assert "PYTHON='/my env/python' CONF=p.yaml" in made
