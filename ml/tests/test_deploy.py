"""The deployment becomes champion, or the run says why not: changed and back, trained or chosen by hand."""

import json
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest

from recommender.cli import main, options
from recommender.errors import InputError
from recommender.promotion import promote
from recommender.tracking import registry
from tests.conftest import ROOT


@pytest.fixture
def run(
    conf: Path, store: str, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> Any:
    """One run of the role: its answer, with what it told people under `said`."""
    other = tmp_path / "mine.yaml"
    other.write_text(conf.read_text().replace("n_epochs: 3", "n_epochs: 2"))
    files = {"tiny": conf, "mine": other}

    def once(name: str, *more: str, verb: str = "deploy") -> dict[str, Any]:
        monkeypatch.setenv("RECOMMENDER_SOURCE_DIGEST", f"c0de:conf/{name}.yaml")
        line = [verb, "--config", str(files[name]), "--tracking-uri", store]
        assert main.main([*line, "--report", str(tmp_path / "report.json"), *more]) == 0
        printed = capsys.readouterr()
        return (json.loads(printed.out) if verb == "deploy" else {}) | {"said": printed.err}

    return once


def told(answer: dict[str, Any]) -> tuple[str, str | None]:
    return answer["what"], answer["champion"]


def test_what_is_deployed_is_champion(run: Any, environment: str, tmp_path: Path) -> None:
    name = f"{environment}.movie-recommender"

    def reported() -> str:
        return str(json.loads((tmp_path / "report.json").read_text())["model"]["version"])

    assert told(run("tiny", "--check")) == ("train", None)
    assert registry.versions(name) == []
    assert told(run("tiny")) == ("train", "1")
    assert told(run("tiny")) == ("champion", "1")
    # other data, and back: nothing is trained for what has a version
    assert told(run("mine")) == ("train", "2")
    assert told(run("tiny", "--check")) == ("back", "2")
    assert registry.champion(name) == "2"
    assert told(run("tiny")) == ("back", "1")
    assert registry.aliases(name) == {"champion": "1", "previous": "2"}
    assert reported() == "1"
    assert told(run("tiny")) == ("champion", "1")
    # A version trained since stays, and the run says so.
    run("mine", verb="train")
    answer = run("tiny")
    assert told(answer) == ("stays", "3")
    assert f"{name} 3, of conf/mine.yaml, is champion, but conf/tiny.yaml is deployed" in answer["said"]
    assert f"make rollback ENV={environment} VERSION=1" in answer["said"]
    assert reported() == "3"
    # So does a version chosen by a rollback.
    assert promote.rollback(environment, "movie-recommender", "2") == (
        f"{name} 2 is champion, 3 is previous. Another rollback undoes this one."
    )
    assert told(run("tiny")) == ("stays", "2")
    assert promote.rollback(environment, "movie-recommender", "2").endswith("Nothing was changed.")
    # the newest that fits
    assert told(run("mine")) == ("champion", "2")
    assert told(run("tiny")) == ("back", "1")
    assert len(registry.versions(name)) == 3


def test_parameters_of_the_command_line_are_not_what_is_deployed(run: Any, environment: str) -> None:
    run("tiny", "--set", "params.n_epochs=1", verb="train")
    version = registry.version(f"{environment}.movie-recommender", None)
    assert version.tags["source_digest"] == "c0de:conf/tiny.yaml+"
    assert told(run("tiny")) == ("train", "2")


def test_another_name_is_the_name_everywhere(
    run: Any, environment: str, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    shop = tmp_path / "mine.yaml"
    shop.write_text(shop.read_text() + "tracking:\n  model: shop\n")
    first = run("mine")
    assert told(first) == ("train", "1") and "--model shop" in first["said"]
    # Runs of the site do not train unchanged sources.
    assert told(run("mine")) == ("champion", "1") == told(run("mine", "--check"))
    assert [version.name for version in registry.versions(f"{environment}.shop")] == [f"{environment}.shop"]
    assert registry.versions(f"{environment}.movie-recommender") == []

    def ask(*more: str) -> tuple[int, str]:
        code = main.main(["recommend", "--user", "1", "-k", "2", *more, "--tracking-uri", store])
        printed = capsys.readouterr()
        return code, printed.out if code == 0 else printed.err

    code, listed = ask("--config", str(shop))
    assert (code, len(listed.splitlines())) == (0, 2)
    # make says it by CONF
    monkeypatch.setenv(options.CONFIG, str(shop))
    assert (
        ask()
        == ask("--model", "shop")
        == ask("--model", f"models:/{environment}.shop@champion")
        == (0, listed)
    )
    monkeypatch.delenv(options.CONFIG)
    code, refusal = ask()
    assert code == 2 and f"{environment}.movie-recommender@champion: no such model" in refusal
    named = refusal[refusal.index("--model") :].split()[:2]
    assert ask(*named) == (0, listed)
    with pytest.raises(InputError, match=f"Models of {environment} with a champion: shop"):
        promote.rollback(environment, "movie-recommender")
    archive = tmp_path / "shop.zip"
    line = ["export", "--environment", environment, "--tracking-uri", store, "--output", str(archive)]
    assert main.main([*line, "--config", str(shop)]) == 0 and archive.exists()
    line = ["rollback", "--environment", environment, "--tracking-uri", store, "--version", "1"]
    assert main.main([*line, "--config", str(shop)]) == 0
    assert f"{environment}.shop 1 is champion already" in capsys.readouterr().out


def test_a_damaged_version_is_trained_again(run: Any, environment: str) -> None:
    name = f"{environment}.movie-recommender"
    run("tiny")
    run("mine")
    model = mlflow.MlflowClient().get_logged_model(
        registry.version(name, "1").source.removeprefix("models:/")
    )
    path = Path(model.artifact_location.removeprefix("file://"), "artifacts/recommender/recommender.npz")
    path.write_bytes(path.read_bytes() + b"\0")
    answer = run("tiny")
    assert told(answer) == ("train", "3")
    assert f"skipped: {name} 1 is damaged" in answer["said"]


def test_a_version_that_is_not_there(run: Any, environment: str) -> None:
    run("tiny")
    with pytest.raises(InputError, match=r"has no version 7. Available versions: 1"):
        promote.rollback(environment, "movie-recommender", "7")


def test_outside_of_a_server(conf: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("RECOMMENDER_SOURCE_DIGEST", raising=False)
    assert main.main(["deploy", "--config", str(conf)]) == 2
    assert "RECOMMENDER_SOURCE_DIGEST, the deployment's digest, is not set" in capsys.readouterr().err


def test_make_names_the_parameter_file() -> None:
    said = "said: ; @echo $$RECOMMENDER_CONFIG"
    line = [
        "make",
        "-s",
        "--no-print-directory",
        "-C",
        str(ROOT),
        "said",
        "--eval",
        said,
        "CONF=conf/mine.yaml",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["conf/mine.yaml"]
