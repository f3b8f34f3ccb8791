"""From one environment to the next and back, in a real MLflow store: the gate, and what faults leave."""

import fcntl
import http.server
import json
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from recommender import listener, train
from recommender.algorithms import dump
from recommender.cli import main, printing
from recommender.config import Config
from recommender.errors import InputError, RecommenderError, Refusal
from recommender.promotion import bundle, evidence, gate, promote, trial, unfinished, versions, watch
from recommender.promotion.service import Service
from recommender.tracking import registry, stores
from tests.conftest import ROOT
from tests.test_typed import in_a_shell

# a tiny set's lists are noise
USUAL = gate.Settings(list_errors=None)
ANYTHING = gate.Settings(margins={"rmse": -10.0}, list_errors=None)
MODEL = "promoted"


def trained(
    folder: Path, store: str, environment: str = "dev", model: str = MODEL, **keys: Any
) -> dict[str, Any]:
    content = {
        "params": {"n_factors": 4, "n_epochs": 3},
        "data": {"source": str(folder)},
        "evaluation": {"folds": 2, "k": 5},
        "recommendation": {"min_item_ratings": 3},
        "tracking": {"experiment": f"{environment}-experiment", "model": model},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOMMENDER_ENVIRONMENT", environment)
        patch.setenv("RECOMMENDER_SOURCE_DIGEST", "c0de:conf/tiny.yaml")
        patch.setenv("RECOMMENDER_SOURCE_COMMIT", "c0ffee00" * 5 + "+")
        report: dict[str, Any] = train.train(Config.model_validate({**content, **keys}), store)
    return report


@pytest.fixture(scope="module")
def world(folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """dev's versions 1, and 2, overfitted and worse, each with its report and its archive."""
    place = tmp_path_factory.mktemp("archives")
    reports = [
        trained(folder, store, params={"n_factors": 4, "n_epochs": 1}),
        trained(folder, store, params={"n_factors": 4, "n_epochs": 30}),
    ]
    archives = []
    for number in ("1", "2"):
        archives.append(place / f"{number}.zip")
        assert promote.export("dev", MODEL, number, archives[-1]) == f"dev.{MODEL} {number}"
    return {"reports": reports, "archives": archives}


@pytest.fixture
def target(environment: str) -> str:
    """An environment of the test's own to promote to."""
    return environment


def answers(model: Path, golden: Path, sandbox: bool) -> tuple[dict[str, Any], str]:
    """What training recorded, in the place of the probe, whose process takes seconds."""
    recorded = json.loads(golden.read_text())
    return {**recorded, "made_of": {}, "surprise": False, "load_seconds": 0.0, "latency_ms": 1.0}, ""


@pytest.fixture
def tried(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No probe: for tests of something else."""
    monkeypatch.setattr(trial, "_probe", answers)


def altered(
    archive: Path, to: Path, change: Callable[[Path, dict[str, Any]], object], reseal: bool = False
) -> Path:
    """A copy of an archive after `change(folder, content)`, with `reseal` as if training had made it so."""
    with zipfile.ZipFile(archive) as source:
        source.extractall(to)
    content = json.loads((to / bundle.CONTENT).read_text())
    change(to, content)
    content["files"] = bundle.digests(to)
    if reseal:
        content["tags"]["artifact_digest"] = bundle.artifact_digest(content["files"])
    (to / bundle.CONTENT).write_text(json.dumps(content))
    made = to.with_suffix(".zip")
    with zipfile.ZipFile(made, "w") as target:
        for path in (path for path in to.rglob("*") if path.is_file()):
            target.write(path, path.relative_to(to))
    return made


def left(target: str) -> dict[str, Any]:
    """What is in an environment: versions, aliases, active runs, and which of them are unfinished."""
    name = f"{target}.{MODEL}"
    found = registry.versions(name)
    experiment = mlflow.get_experiment_by_name(name)
    runs = mlflow.search_runs([experiment.experiment_id], output_format="list") if experiment else []
    return {
        "versions": sorted(int(each.version) for each in found),
        "aliases": registry.aliases(name),
        "runs without a version": len({run.info.run_id for run in runs} - {each.run_id for each in found}),
        "pending": [
            each for each in [*found, *(run.data for run in runs)] if unfinished.PENDING in each.tags
        ],
    }


# What training records


def test_golden_sample_is_what_surprise_estimates(world: dict[str, Any]) -> None:
    run_id = world["reports"][0]["model"]["run_id"]
    local = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    golden = json.loads((local / evidence.GOLDEN).read_text())
    algo = dump.load(local / "native")
    pairs = golden["pairs"]
    assert len(pairs["estimate"]) == 200
    expected = [algo.predict(user, item).est for user, item in zip(pairs["user"], pairs["item"], strict=True)]
    np.testing.assert_allclose(pairs["estimate"], expected, rtol=0, atol=1e-9)
    assert len(set(golden["lists"]["user"])) > 5
    data = mlflow.get_run(run_id).data
    assert data.metrics["latency_ms"] > 0
    assert data.metrics["model_bytes"] > 1000
    assert data.tags["artifact_digest"] == registry.version(f"dev.{MODEL}", "1").tags["artifact_digest"]


def test_held_out_data_is_named_by_what_determines_it(make_config: Callable[..., Config]) -> None:
    one = evidence.holdout("data", make_config())
    assert one == evidence.holdout("data", make_config(params={"n_factors": 9}, algorithm="SVDpp"))
    for other in (
        evidence.holdout("other data", make_config()),
        evidence.holdout("data", make_config(seed=1)),
        evidence.holdout("data", make_config(evaluation={"folds": 3, "k": 5})),
    ):
        assert other != one


# By value


def test_a_copy_outlives_its_source(
    folder: Path, store: str, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = trained(folder, store, environment=f"{environment}-source")
    run_id, source = report["model"]["run_id"], f"{environment}-source.{MODEL}"
    asked = pd.DataFrame({"user": ["3", "stranger"], "item": ["7", "17"]})
    before = registry.load(report["model"]["uri"]).predict(asked).estimate.tolist()
    client = MlflowClient()
    run = client.get_run(run_id)
    history = client.get_metric_history(run_id, "fold_rmse")
    promote.export(f"{environment}-source", MODEL, None, tmp_path / "a.zip")
    said: list[str] = []
    done = promote.promote(tmp_path / "a.zip", environment, USUAL, by="ana@desk", say=said.append)
    assert done == f"{environment}.{MODEL} 1 is champion, copied from {source} 1."
    assert [line.split()[:2] for line in said[:-1]] == [
        [name, "passed"] for name in ("order", "digest", "metrics", "size", "loads", "golden", "latency")
    ]
    [took] = re.findall(r"latency +passed +([\d.]+) ms for a list", "\n".join(said))
    assert float(took) > 0

    client.delete_registered_model(source)
    [model] = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    client.delete_logged_model(model.model_id)
    client.delete_run(run_id)
    client.delete_experiment(run.info.experiment_id)
    from mlflow.cli import gc

    collected = CliRunner().invoke(gc, ["--backend-store-uri", store])
    assert collected.exit_code == 0, collected.output
    shutil.rmtree(Path(run.info.artifact_uri).parent, ignore_errors=True)

    version = registry.version(f"{environment}.{MODEL}", None)
    assert registry.load(f"models:/{version.name}@champion").predict(asked).estimate.tolist() == before
    copy = client.get_run(str(version.run_id))
    assert (copy.info.status, copy.info.start_time, copy.info.end_time) == (
        "FINISHED", run.info.start_time, run.info.end_time,
    )  # fmt: skip
    assert copy.data.params == run.data.params
    assert copy.data.metrics == run.data.metrics
    assert [
        (each.value, each.timestamp, each.step)
        for each in client.get_metric_history(copy.info.run_id, "fold_rmse")
    ] == [(each.value, each.timestamp, each.step) for each in history]
    assert [dict(each.dataset) for each in copy.inputs.dataset_inputs] == [
        dict(each.dataset) for each in run.inputs.dataset_inputs
    ]
    assert {
        "algorithm",
        "dataset_digest",
        "model_digest",
        "artifact_digest",
        "holdout_digest",
    } < version.tags.keys()
    assert version.tags["source_digest"] == "c0de:conf/tiny.yaml"
    assert version.tags["source_commit"] == "c0ffee00" * 5 + "+"
    assert (version.tags["source_environment"], version.tags["source_version"]) == (
        f"{environment}-source",
        "1",
    )
    assert (version.tags["source_run_id"], version.tags["promoted_by"]) == (run_id, "ana@desk")
    assert version.tags["promoted_at"].endswith("+00:00")
    assert version.tags["environment"] == environment
    local = Path(mlflow.artifacts.download_artifacts(run_id=copy.info.run_id))
    assert {"config.yaml", "golden.json", "plots", "native", "model"} <= {
        each.name for each in local.iterdir()
    }
    assert dump.load(local / "native").predict("3", "7").est == pytest.approx(before[0], abs=1e-9)

    # and on to the next: what training recorded goes with it
    promote.export(environment, MODEL, None, tmp_path / "b.zip")
    # its files are the same, by their digest below
    monkeypatch.setattr(trial, "_probe", answers)
    promote.promote(tmp_path / "b.zip", f"{environment}-next", USUAL)
    last = registry.version(f"{environment}-next.{MODEL}", None)
    assert last.tags["artifact_digest"] == version.tags["artifact_digest"]
    assert last.tags["lineage"] == (
        f"{environment}-source 1 (run {run_id[:8]}) > {environment} 1 (run {copy.info.run_id[:8]})"
    )


def test_again_changes_nothing(world: dict[str, Any], target: str, tried: None) -> None:
    promote.promote(world["archives"][0], target, USUAL)
    again = promote.promote(world["archives"][0], target, USUAL)
    assert again == f"{target}.{MODEL} 1 is dev.{MODEL} 1, and is champion already."
    assert left(target) == {
        "versions": [1], "aliases": {"champion": "1"}, "runs without a version": 0, "pending": [],
    }  # fmt: skip


# The gate


def refusal(archive: Path, target: str, settings: gate.Settings = ANYTHING, *overridden: str) -> str:
    before = left(target)
    with pytest.raises(Refusal) as caught:
        promote.promote(archive, target, settings, frozenset(overridden))
    assert left(target) == before
    return str(caught.value)


def test_worse_than_the_champion(world: dict[str, Any], target: str, tried: None) -> None:
    better, worse = world["archives"]
    mine, theirs = (f"{world['reports'][at]['metrics']['rmse']:.6f}" for at in (1, 0))
    promote.promote(better, target, USUAL)
    message = refusal(worse, target, USUAL)
    assert f"metrics: rmse {mine}, {theirs} of {target}.{MODEL} 1: gain -" in message
    assert "asked is +0.000000" in message
    assert message.endswith("If you know better: OVERRIDE=metrics")
    promote.promote(worse, target, USUAL, frozenset({"metrics"}))
    version = registry.version(f"{target}.{MODEL}", None)
    assert version.tags["overridden"].startswith(f"metrics: rmse {mine}, {theirs} of")
    assert left(target)["aliases"] == {"champion": "2", "previous": "1"}
    # a margin that even the better one does not reach, and one that it does
    assert "asked is +1.000000" in refusal(
        better, target, gate.Settings(margins={"rmse": 1.0}, list_errors=None)
    )
    margins = {"rmse": 0.0, "mae": 0.0, "list_ndcg": -1.0}
    promote.promote(better, target, gate.Settings(margins=margins, list_errors=None))


def cliques(folder: Path) -> Path:
    """Ratings of 60 people in two groups, each of which picks from its own 14 items and a little else."""
    draw = np.random.default_rng(1)
    lines = []
    for user in range(60):
        own, other = (range(14), range(14, 28)) if user % 2 else (range(14, 28), range(14))
        items = [*draw.choice(own, 9, replace=False), *draw.choice(other, 2, replace=False)]
        lines += [f"{user},{item},{draw.integers(3, 6)}" for item in items]
    folder.mkdir()
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating", *lines]) + "\n")
    return folder / "ratings.csv"


def test_a_worse_list_is_not_promoted(store: str, environment: str, tried: None, tmp_path: Path) -> None:
    """The candidate rates as well; it shows everybody about the same."""
    folder, target = cliques(tmp_path / "data"), f"{environment}-target"
    settings = gate.Settings(size_mb=50)
    for number, ranking in enumerate(({"algorithm": "AutoEASE"}, {"algorithm": "BaselineOnly"}), start=1):
        report = trained(folder, store, environment, ranking=ranking)
        # more users than items
        chosen = {"AutoEASE": "EASE"}.get(ranking["algorithm"], ranking["algorithm"])
        assert report["ranking"] == {**ranking, "params": {}, "chosen": chosen}
        assert f"lists by {chosen}, digest" in printing.summary(report)
        promote.export(environment, "promoted", None, tmp_path / f"{number}.zip")
    said: list[str] = []
    promote.promote(tmp_path / "1.zip", target, settings, say=said.append)
    assert any(line.startswith("  lists    passed") for line in said)
    with pytest.raises(Refusal) as caught:
        promote.promote(tmp_path / "2.zip", target, settings)
    message = str(caught.value)
    assert f"of {target}.promoted 1: -" in message
    assert message.count("\n") == 2 and "  lists: NDCG " in message
    assert message.endswith("If you know better: OVERRIDE=lists")
    done = promote.promote(tmp_path / "2.zip", target, settings, frozenset({"lists"}))
    assert f"{target}.promoted 2 is champion" in done


def test_measured_on_other_data(
    world: dict[str, Any], folder: Path, store: str, target: str, tried: None, tmp_path: Path
) -> None:
    other = trained(folder, store, environment=f"{target}-source", seed=7)
    promote.promote(world["archives"][0], target, USUAL)
    promote.export(f"{target}-source", MODEL, None, tmp_path / "a.zip")
    message = refusal(tmp_path / "a.zip", target)
    run = mlflow.get_run(other["model"]["run_id"])
    assert f"was measured on held-out data {run.data.tags['holdout_digest'][:12]}" in message
    assert "not comparable" in message
    assert "OVERRIDE=metrics" in message


def test_unknown_metric(world: dict[str, Any], target: str, tried: None) -> None:
    message = refusal(world["archives"][0], target, gate.Settings(margins={"accuracy": 0}, list_errors=None))
    assert "has no metric accuracy" in message
    assert "rmse" in message


def test_budgets(world: dict[str, Any], target: str, tried: None) -> None:
    message = refusal(
        world["archives"][0], target, gate.Settings(list_errors=None, latency_ms=0, size_mb=0.001)
    )
    assert "ms for a list (95th percentile), allowed are 0" in message
    assert "MB, allowed are 0.001" in message
    assert message.endswith("OVERRIDE=size,latency")


def test_order(world: dict[str, Any], target: str, tried: None) -> None:
    message = refusal(world["archives"][0], "prod")
    assert "order: dev to prod leaves out staging. Promote to staging first." in message
    promote.promote(world["archives"][0], "prod", ANYTHING, frozenset({"order"}))
    assert (
        registry.version(f"prod.{MODEL}", None).tags["overridden"] == "order: dev to prod leaves out staging"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [("model/artifacts/recommender/recommender.npz", "its sha256 is"), ("model/mlflow_model.py", "")],
)
def test_tampered_artifact(
    world: dict[str, Any], target: str, tmp_path: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(folder: Path, content: dict[str, Any]) -> None:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")

    def never(*arguments: object) -> None:
        raise AssertionError("what was changed was run")

    monkeypatch.setattr(trial, "_probe", never)
    recorded = world["reports"][0]["model"]["run_id"]
    message = refusal(
        altered(world["archives"][0], tmp_path / "a", change), target, ANYTHING, *gate.OVERRIDABLE
    )
    assert f"training recorded {mlflow.get_run(recorded).data.tags['artifact_digest'][:12]}" in message
    assert says in message
    assert "OVERRIDE" not in message


def test_trained_before_there_were_digests(
    world: dict[str, Any], target: str, tmp_path: Path, tried: None
) -> None:
    archive = altered(
        world["archives"][0], tmp_path / "a", lambda _, content: content["tags"].pop("artifact_digest")
    )
    assert "digest: training recorded no artifact_digest. Train it again" in refusal(archive, target)


def test_does_not_load(world: dict[str, Any], target: str, tmp_path: Path) -> None:
    archive = altered(
        world["archives"][0],
        tmp_path / "a",
        lambda folder, _: (folder / "model/mlflow_model.py").write_text("import surprise_2\n"),
        reseal=True,
    )
    message = refusal(archive, target, ANYTHING, *gate.OVERRIDABLE)
    assert "loads: the process that loads it ended with 1: " in message
    assert "No module named 'surprise_2'" in message


def test_answers_otherwise_than_at_training(world: dict[str, Any], target: str, tmp_path: Path) -> None:
    def change(folder: Path, content: dict[str, Any]) -> None:
        golden = json.loads((folder / "run/golden.json").read_text())
        golden["pairs"]["estimate"][5] += 1e-4
        (folder / "run/golden.json").write_text(json.dumps(golden))

    archive = altered(world["archives"][0], tmp_path / "a", change, reseal=True)
    message = refusal(archive, target)
    assert "golden: " in message
    assert "differ by at most 1.0e-04 (user " in message
    assert "allowed is 1e-06" in message


@pytest.mark.parametrize("estimate", [float("nan"), 3.0 + 2e-6])
def test_golden_estimates(estimate: float) -> None:
    rows = {"user": ["1", "2"], "item": ["7", "8"], "estimate": [3.0, 4.0]}
    same = {"pairs": rows, "lists": rows}
    assert gate.golden(same, json.loads(json.dumps(same))).passed
    assert not gate.golden(same, {"pairs": rows, "lists": {**rows, "estimate": [estimate, 4.0]}}).passed
    assert gate.golden(same, {"pairs": rows, "lists": {**rows, "estimate": [3.0 + 9e-7, 4.0]}}).passed
    check = gate.golden(same, {"pairs": rows, "lists": {**rows, "item": ["7", "9"]}})
    assert not check.passed
    assert "user 2: 9 where it was 8" in check.found


def test_a_metric_that_is_no_number_beats_nobody() -> None:
    champion = gate.Measured("1", {"rmse": 0.9}, "h")
    assert not gate.metrics(gate.Measured("2", {"rmse": float("nan")}, "h"), champion, {"rmse": 0.0}).passed
    assert gate.metrics(gate.Measured("2", {"rmse": 0.9}, "h"), champion, {"rmse": 0.0}).passed
    assert not gate.metrics(
        gate.Measured("2", {"rmse": 0.1}, None), gate.Measured("1", {"rmse": 0.9}, None), {"rmse": 0}
    ).passed


# Wrong from the start


def test_bad_requests(world: dict[str, Any], target: str, tmp_path: Path) -> None:
    archive = world["archives"][0]
    with pytest.raises(InputError, match="Source and target are both dev"):
        promote.promote(archive, "dev", ANYTHING)
    with pytest.raises(InputError, match=r"digest, metric cannot be overridden. These can: order, golden"):
        promote.promote(archive, target, ANYTHING, frozenset({"digest", "metric"}))
    with pytest.raises(InputError, match="use letters, digits"):
        promote.promote(archive, "pro/d", ANYTHING)
    with pytest.raises(InputError, match=rf"dev.{MODEL} has no version 99. Available versions: 2, 1."):
        promote.export("dev", MODEL, "99", tmp_path / "a.zip")
    with pytest.raises(InputError, match="has no version x"):
        promote.export("dev", MODEL, "x", tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"has no champion. Available versions: none."):
        promote.export(target, MODEL, None, tmp_path / "a.zip")
    with pytest.raises(InputError, match="is not a valid model name"):
        promote.export("dev", "a' or name='b", None, tmp_path / "a.zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:-20000])
    with pytest.raises(InputError, match="not a complete archive of a version"):
        promote.promote(cut, target, ANYTHING)


def test_damaged_on_the_way(world: dict[str, Any], target: str, tmp_path: Path) -> None:
    content = world["archives"][0].read_bytes()
    at = content.index(b"PNG") + 100
    (tmp_path / "a.zip").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(InputError, match=r"Bad CRC-32 for file 'run/plots/evaluation.png'"):
        promote.promote(tmp_path / "a.zip", target, ANYTHING)


def test_source_run_is_deleted(folder: Path, store: str, environment: str, tmp_path: Path) -> None:
    report = trained(folder, store, environment=environment)
    MlflowClient().delete_run(report["model"]["run_id"])
    with pytest.raises(
        RecommenderError, match=f"mlflow runs restore --run-id {report['model']['run_id']}"
    ) as said:
        promote.export(environment, MODEL, None, tmp_path / "a.zip")
    assert "its run is deleted" in versions.versions_table(environment)
    # as printed, it mends it, and leaves nothing else
    empty = tmp_path / "somewhere"
    empty.mkdir()
    done = in_a_shell(str(said.value).rpartition("has not run: ")[2], empty)
    assert done.returncode == 0, done.stderr
    assert list(empty.iterdir()) == []
    promote.export(environment, MODEL, None, tmp_path / "a.zip")


# Interrupted


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


STEPS = (
    "create_run", "log_batch", "log_inputs", "log_artifacts", "set_terminated", "create_registered_model",
    "create_model_version", "set_registered_model_tag", "set_registered_model_alias",
    "delete_registered_model_tag", "delete_tag", "delete_model_version_tag",
)  # fmt: skip


def kill_at(step: int, patch: pytest.MonkeyPatch, steps: Sequence[str] = STEPS) -> list[str]:
    """Let the client's step-th call that changes something end the process; returns the calls so far."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(MlflowClient, name)

        def call(*arguments: Any, **keys: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                # a dead process cleans nothing up
                patch.setattr(unfinished, "remove_unfinished", lambda *ignored: None)
                raise Killed
            return original(*arguments, **keys)

        return call

    for name in steps:
        patch.setattr(MlflowClient, name, counted(name))
    return calls


def test_killed_at_every_step(world: dict[str, Any], target: str, tried: None) -> None:
    first, second = world["archives"]
    promote.promote(first, target, ANYTHING)
    name = f"{target}.{MODEL}"
    steps, killed, number = 0, True, 1
    while killed:
        steps += 1
        with pytest.MonkeyPatch.context() as patch:
            calls = kill_at(steps, patch)
            try:
                promote.promote(second, target, ANYTHING)
                killed = False
            except Killed:
                pass
        champion = registry.version(name, None)
        # at no moment anything but a whole version is served
        trial.check_whole(champion)
        assert mlflow.get_run(champion.run_id).info.status == "FINISHED"
        said = promote.promote(second, target, ANYTHING)
        after = left(target)
        assert after["pending"] == []
        assert after["runs without a version"] == 0
        number = int(registry.champion(name) or 0)
        assert after["aliases"] == {"champion": str(number), "previous": "1"}, (steps, calls, said)
        # back to where it began
        promote.rollback(target, MODEL)
        MlflowClient().delete_registered_model_alias(name, registry.PREVIOUS)
        registry.move_aliases(name, "1", None)
        MlflowClient().delete_run(registry.version(name, str(number)).run_id)
        MlflowClient().delete_model_version(name, str(number))
    assert set(calls) == set(STEPS)
    assert calls[-1] == "delete_model_version_tag"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), mlflow.exceptions.MlflowException("the connection is lost")],
)
def test_disk_full_and_connection_lost(
    world: dict[str, Any], target: str, tried: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    promote.promote(world["archives"][0], target, ANYTHING)
    before = left(target)
    original = MlflowClient.log_artifacts

    def fail(self: MlflowClient, run_id: str, folder: str, place: str | None = None) -> None:
        if place == bundle.MODEL:
            raise error
        original(self, run_id, folder, place)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", fail)
        with pytest.raises(RecommenderError, match="An unfinished promotion is undone") as caught:
            promote.promote(world["archives"][1], target, ANYTHING)
    assert str(getattr(error, "strerror", None) or error) in str(caught.value)
    assert left(target) == before
    experiment = mlflow.get_experiment_by_name(f"{target}.{MODEL}")
    place = Path(experiment.artifact_location.removeprefix("file://"))
    [gone] = mlflow.search_runs([experiment.experiment_id], run_view_type=2, output_format="list")
    assert not (place / gone.info.run_id).exists() or not [*(place / gone.info.run_id).rglob("*.npz")]


def test_store_that_keeps_something_else(
    world: dict[str, Any], target: str, tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MlflowClient.log_artifacts

    def shorten(self: MlflowClient, run_id: str, folder: str, place: str | None = None) -> None:
        for path in Path(folder).rglob("recommender.npz"):
            path.write_bytes(path.read_bytes()[:-1])
        original(self, run_id, folder, place)

    monkeypatch.setattr(MlflowClient, "log_artifacts", shorten)
    with pytest.raises(RecommenderError, match=r"has changed model/artifacts/recommender/recommender.npz"):
        promote.promote(world["archives"][0], target, ANYTHING)
    assert left(target)["versions"] == []


# Back and forth


def test_rollback(world: dict[str, Any], target: str, tried: None) -> None:
    name = f"{target}.{MODEL}"
    with pytest.raises(InputError, match=f"{name} has no champion"):
        promote.rollback(target, MODEL)
    promote.promote(world["archives"][0], target, ANYTHING)
    with pytest.raises(InputError, match=f"{name} has champion 1 and no version before it to go back to"):
        promote.rollback(target, MODEL)
    promote.promote(world["archives"][1], target, ANYTHING)
    assert promote.rollback(target, MODEL).startswith(f"{name} 1 is champion, 2 is previous.")
    assert left(target)["aliases"] == {"champion": "1", "previous": "2"}
    promote.rollback(target, MODEL)
    assert left(target)["aliases"] == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_rollback_killed_on_the_way(world: dict[str, Any], target: str, tried: None, step: int) -> None:
    for archive in world["archives"]:
        promote.promote(archive, target, ANYTHING)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            promote.rollback(target, MODEL)
    unfinished.remove_unfinished(f"{target}.{MODEL}")
    before, after = {"champion": "2", "previous": "1"}, {"champion": "1", "previous": "2"}
    assert left(target)["aliases"] == (before if step == 1 else after)


def test_a_version_that_was_deleted_while_the_aliases_moved(
    world: dict[str, Any], target: str, tried: None
) -> None:
    for archive in world["archives"]:
        promote.promote(archive, target, ANYTHING)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            promote.rollback(target, MODEL)
    MlflowClient().delete_model_version(f"{target}.{MODEL}", "2")
    with pytest.raises(InputError, match="has champion 1 and no version before it"):
        promote.rollback(target, MODEL)
    assert registry.champion(f"{target}.{MODEL}") == "1"


def test_rollback_to_what_is_damaged(world: dict[str, Any], target: str, tried: None) -> None:
    for archive in world["archives"]:
        promote.promote(archive, target, ANYTHING)
    place = registry.version(f"{target}.{MODEL}", "1").source
    path = Path(place.removeprefix("file://"), "artifacts/recommender/recommender.npz")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(Refusal, match=f"{target}.{MODEL} 1 is damaged: .* The champion is unchanged"):
        promote.rollback(target, MODEL)
    assert left(target)["aliases"] == {"champion": "2", "previous": "1"}


def test_training_after_an_interrupted_move(folder: Path, store: str, environment: str) -> None:
    trained(folder, store, environment=environment)
    with pytest.MonkeyPatch.context() as patch:
        # the new version is there and the first alias has moved
        kill_at(2, patch, ["set_registered_model_alias"])
        with pytest.raises(Killed):
            trained(folder, store, environment=environment)
    trained(folder, store, environment=environment)
    assert left(environment)["aliases"] == {"champion": "3", "previous": "2"}


# The command line


def test_verbs(world: dict[str, Any], store: str, target: str, tried: None, tmp_path: Path, capsys) -> None:
    archive, uri = str(tmp_path / "a.zip"), ["--tracking-uri", store]
    export = ["export", "--environment", "dev", "--model", MODEL, "--output", archive, *uri]
    assert main.main([*export, "--version", "1"]) == 0
    promote = ["promote", "--archive", archive, "--to", target, *uri]
    assert main.main([*promote, "--gate", '{"latency_ms": 0, "list_errors": null}']) == 3
    assert "latency FAILED" in " ".join(capsys.readouterr().err.split())
    assert main.main([*promote, "--gate", '{"speed": 0}']) == 2
    assert "speed: Extra inputs are not permitted" in capsys.readouterr().err
    line = [
        *promote,
        "--gate",
        '{"latency_ms": 0, "list_errors": null}',
        "--override",
        "latency, order",
        "--by",
        "ana@desk",
    ]
    assert main.main(line) == 0
    printed = capsys.readouterr()
    assert "latency  OVERRIDDEN" in printed.err
    assert printed.out == f"{target}.{MODEL} 1 is champion, copied from dev.{MODEL} 1.\n"
    assert main.main(export) == 0
    assert main.main([*promote, "--override", "metrics,lists"]) == 0
    assert main.main(["rollback", "--environment", target, "--model", MODEL, *uri]) == 0
    capsys.readouterr()
    assert main.main(["models", target, "nowhere", *uri]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == f"{target}.{MODEL}"
    assert [line.split()[:2] for line in table[2:4]] == [["2", "previous"], ["1", "champion"]]
    rmse = world["reports"][0]["metrics"]["rmse"]
    for word in (
        "SVD",
        f"{rmse:.4f}",
        "c0ffee00+ conf/tiny.yaml",
        "promoted by ana@desk; overridden latency: ",
    ):
        assert word in table[3]
    assert f"dev 1 (run {world['reports'][0]['model']['run_id'][:8]})" in table[3]
    assert table[4] == "nowhere: no model is registered."


def test_a_server_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert main.main(["models", "dev", "--tracking-uri", "http://127.0.0.1:9"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


# The service of an environment: its command without processes, which tries bundles for real.
TOOL = """#!{python}
import json, pathlib, sys
place, (verb, environment, *words) = pathlib.Path({place!r}), sys.argv[1:]
bundles, state = place / environment, place / f"{{environment}}.json"
bundles.mkdir(exist_ok=True)
nothing = {{"served": None, "damaged": None, "refused": None}}
now = json.loads(state.read_text()) if state.exists() else nothing
with (place / "log").open("a") as log:
    log.write(f"{{verb}} {{words[0] if verb == 'switch' else ''}}".strip() + "\\n")
if (place / f"{{verb}} fails").exists():
    sys.exit("model-server: no process of it runs")
if verb == "accept":
    from recommender.serving.app import trial
    given = dict(zip(words[::2], words[1::2]))
    labels, model, golden = json.loads(given["--labels"]), given["--model"], given["--golden"]
    found = trial.accepted(pathlib.Path(model), pathlib.Path(golden), labels, bundles, None, [])
    now["refused"] = {{**labels, **found}} if found["refused"] else None
    now.setdefault("bundles", {{}})[found.get("bundle")] = {{**labels, "bundle": found.get("bundle")}}
    print(json.dumps(found))
elif verb in ("switch", "drop"):
    now["served"] = now["bundles"][words[0]] if words else None
else:
    each = {{"served": now["served"] and now["served"]["bundle"]}}
    print(json.dumps({{"switching": False, "processes": {{"1": each}}, **now}}))
state.write_text(json.dumps(now))
sys.exit(3 if verb == "accept" and found["refused"] else 0)
"""


@pytest.fixture
def served(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The target's service."""
    place = tmp_path / "served"
    place.mkdir()
    tool = place / "model-server"
    tool.write_text(TOOL.format(python=sys.executable, place=str(place)))
    tool.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    return Service(str(tool), target)


def said(service: Service) -> list[str]:
    """The verbs of the service's command since the last question."""
    log = Path(service.tool).parent / "log"
    verbs = [line.split()[0] for line in log.read_text().splitlines()]
    log.unlink()
    return verbs


def now(service: Service) -> str | None:
    found = service.status()["served"]
    return found["version"] if found else None


def test_what_is_promoted_is_served_first(
    world: dict[str, Any], target: str, tried: None, served: Service
) -> None:
    promote.promote(world["archives"][0], target, USUAL, service=served)
    assert said(served) == ["status", "accept", "switch"]
    promote.promote(world["archives"][1], target, ANYTHING, service=served)
    found = served.status()["served"]
    champion = registry.version(f"{target}.{MODEL}", None)
    tags = registry.tags(champion)
    assert (found["name"], found["version"], found["run_id"]) == (
        f"{target}.{MODEL}", str(champion.version), champion.run_id,
    )  # fmt: skip
    assert found["artifact_digest"] == tags["artifact_digest"] and found["algorithm"] == tags["algorithm"]
    promote.rollback(target, MODEL, service=served)
    assert (now(served), left(target)["aliases"]) == ("1", {"champion": "1", "previous": "2"})


def test_what_the_service_refuses_is_no_champion(
    world: dict[str, Any], target: str, tried: None, served: Service, tmp_path: Path
) -> None:
    promote.promote(world["archives"][0], target, USUAL, service=served)
    before = left(target)

    def other_answers(folder: Path, content: dict[str, Any]) -> None:
        golden = folder / bundle.RUN / evidence.GOLDEN
        recorded = json.loads(golden.read_text())
        recorded["pairs"]["estimate"][3] += 1
        golden.write_text(json.dumps(recorded))

    lying = altered(world["archives"][1], tmp_path / "lying", other_answers, reseal=True)
    with pytest.raises(Refusal, match=r"cannot be served: the estimate of user .* at the training"):
        promote.promote(lying, target, ANYTHING, service=served)
    assert (now(served), left(target)) == ("1", before)


@pytest.mark.parametrize("verb", ["accept", "switch"])
def test_a_service_that_does_not_answer(
    world: dict[str, Any], target: str, tried: None, served: Service, verb: str
) -> None:
    promote.promote(world["archives"][0], target, USUAL, service=served)
    before = left(target)
    fails = Path(served.tool).parent / f"{verb} fails"
    fails.touch()
    with pytest.raises(RecommenderError, match="no process of it runs"):
        promote.promote(world["archives"][1], target, ANYTHING, service=served)
    fails.unlink()
    assert (now(served), left(target)) == ("1", before)
    with pytest.raises(InputError, match=r"Run site.yml --tags serving"):
        promote.promote(world["archives"][1], target, ANYTHING, service=Service("/nowhere/tool", target))


def test_a_first_version_that_does_not_become_champion_is_not_served(
    world: dict[str, Any], target: str, tried: None, served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry, "move_aliases", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(RecommenderError):
            promote.promote(world["archives"][0], target, USUAL, service=served)
    assert now(served) is None and left(target)["aliases"] == {}


def test_a_champion_that_is_not_served_is_served_by_the_same_verb(
    world: dict[str, Any], target: str, tried: None, served: Service
) -> None:
    promote.promote(world["archives"][0], target, USUAL)
    assert now(served) is None
    told = promote.promote(world["archives"][0], target, USUAL, service=served)
    assert told.endswith("and is champion already. It is served again.") and now(served) == "1"
    assert promote.promote(world["archives"][0], target, USUAL, service=served).endswith("champion already.")
    served._ask("drop")
    assert promote.rollback(target, MODEL, "1", served).endswith("champion already. It is served again.")
    assert now(served) == "1"


def test_the_version_before_is_served_again_where_the_alias_does_not_move(
    world: dict[str, Any], target: str, tried: None, served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote.promote(world["archives"][0], target, USUAL, service=served)
    before = left(target)

    def lost(*_: Any) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "move_aliases", lost)
        with pytest.raises(RecommenderError):
            promote.promote(world["archives"][1], target, ANYTHING, service=served)
    assert (now(served), left(target)) == ("1", before)


def test_what_needs_no_attempt(tmp_path: Path) -> None:
    labels = {"version": "3", "run_id": "r3"}
    assert watch.settled(tmp_path) == set()
    (tmp_path / "bundles/current").mkdir(parents=True)
    (tmp_path / "bundles/current/about.json").write_text(json.dumps({"labels": labels}))
    (tmp_path / "refused.json").write_text("{}")
    assert watch.settled(tmp_path) == {("3", "r3")}
    (tmp_path / "refused.json").write_text(json.dumps({"version": "4", "run_id": "r4", "refused": "slow"}))
    assert watch.settled(tmp_path) == {("3", "r3"), ("4", "r4")}
    # some processes may serve another version
    (tmp_path / "switching").touch()
    assert watch.settled(tmp_path) == set()


def test_a_version_that_fails_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    attempts, tried = watch.Attempts(), []
    for now in range(0, 8 * 3600, 20):
        if attempts.due("prod", ("4", "r4")):
            tried.append(now)
            attempts.failed("prod", ("4", "r4"))
    assert tried[:4] == [0, 60, 180, 420] and len(tried) < 15
    assert attempts.due("prod", ("5", "r5")) and attempts.due("dev", ("4", "r4"))


def test_a_moved_champion_starts_the_unit_and_a_problem_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = tmp_path / "started"
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {started}\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answers: list[Any] = [("1", "r1"), None, RecommenderError("down"), RecommenderError("down"), None]

    def answer(name: str, uri: str) -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(watch, "champion", answer)
    problems: dict[str, str] = {}
    while answers:
        watch.watch({"prod": "prod.films"}, "http://127.0.0.1:1", tmp_path, problems)
    assert started.read_text() == "start model-server-follow-prod.service\n"
    assert capsys.readouterr().out == "down\nprod.films: MLflow answers again\n"


class Registry(http.server.BaseHTTPRequestHandler):
    """What the follower asks of MLflow, answered from the store."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(parse_qsl(query))
        if path.endswith("registered-models/search"):
            name = asked["filter"].split("'")[1]
            aliases = [{"alias": a, "version": v} for a, v in registry.aliases(name).items()]
            answer: dict[str, Any] = {"registered_models": [{"name": name, "aliases": aliases}]}
        else:
            of = registry.version(asked["name"], asked["version"])
            answer = {"model_version": {"version": of.version, "run_id": of.run_id}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_the_service_follows_a_champion_that_moved_otherwise(
    world: dict[str, Any],
    target: str,
    tried: None,
    served: Service,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name, lock = f"{target}.{MODEL}", tmp_path / "locks" / "target.lock"
    server = http.server.HTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(stores, "connect", lambda uri: uri)
    monkeypatch.delenv(listener.ACCOUNT, raising=False)
    uri = f"http://127.0.0.1:{server.server_port}"
    try:
        assert served.follow(name, uri, lock) == ""
        for archive, settings in ((world["archives"][0], USUAL), (world["archives"][1], ANYTHING)):
            promote.promote(archive, target, settings)
        assert served.follow(name, uri, lock) == f"{name} 2 is served"
        said(served)
        assert served.follow(name, uri, lock) == "" and said(served) == ["status"]
        assert watch.champion(name, uri) == ("2", registry.version(name, "2").run_id)
        assert watch.champion("nobody.knows", uri) is None
        # as on MLflow's page
        MlflowClient().set_registered_model_alias(name, "champion", "1")
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            # somebody promotes: that ends with the served version
            assert served.follow(name, uri, lock) == "" and now(served) == "2"
        assert served.follow(name, uri, lock) == f"{name} 1 is served"
        assert lock.read_text().startswith("the follower of the model server, process ")
        (Path(served.tool).parent / "accept fails").touch()
        MlflowClient().set_registered_model_alias(name, "champion", "2")
        with pytest.raises(RecommenderError):
            served.follow(name, uri, lock)
        assert now(served) == "1"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RecommenderError, match="does not say which version"):
        served.follow(name, uri, lock)
