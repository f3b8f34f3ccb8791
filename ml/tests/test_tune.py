"""Searches for parameters, interrupted and not, and the leaderboard."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from surprise.model_selection import GridSearchCV, KFold

from bench.__main__ import PAGE, put
from recommender import files
from recommender.algorithms import catalogue
from recommender.cli.main import main
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.errors import InputError, RecommenderError
from recommender.evaluation import leaderboard, plots, processes, tune, validation
from recommender.tracking import stores
from tests.conftest import ROOT

SPACE = {"n_factors": {"low": 2, "high": 6}, "lr_all": {"low": 0.001, "high": 0.1, "log": True}}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes take seconds to start."""

    @contextmanager
    def pool(count: int, prepare: Callable[..., None] | None = None, *arguments: object):
        if prepare is not None:
            prepare(*arguments)
        with ThreadPoolExecutor(count) as workers:
            yield workers

    monkeypatch.setattr(processes, "pool", pool)


def searching(make_config, **tuning: object) -> Config:
    return make_config(tuning={"space": SPACE, "trials": 4, **tuning}, evaluation={"folds": 3})


def children(store: str, parent: str) -> list:
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")


def test_an_interrupted_search_goes_on_in_its_run(
    threads: None, ratings: Ratings, make_config, store: str, tmp_path: Path
) -> None:
    uri, config = stores.connect(store), searching(make_config)

    def stop(line: str) -> None:
        if line.startswith("2/4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.tune(config, ratings, uri, tmp_path, stop)
    lines: list[str] = []
    outcome = tune.tune(config, ratings, uri, tmp_path, lines.append)
    assert lines[0] == "resuming after 2 of 4 trials"
    assert [line.split()[0] for line in lines[1:]] == ["3/4", "4/4"]
    assert outcome.trials == 4
    runs = children(store, outcome.run_id)
    assert len(runs) == 4 and all(run.info.status == "FINISHED" for run in runs)
    whole = [run for run in runs if run.data.tags["pruned"] == "false"]
    assert outcome.pruned == 4 - len(whole)
    assert outcome.value == pytest.approx(min(run.data.metrics["rmse"] for run in whole))
    # The best of the search is what its parameters give.
    best = config.model_copy(update={"params": outcome.params})
    assert validation.cross_validate(ratings, best).mean()["rmse"] == pytest.approx(outcome.value)
    # Once more does nothing, and more trials extend it.
    assert tune.tune(config, ratings, uri, tmp_path) == outcome
    more = tune.tune(searching(make_config, trials=5), ratings, uri, tmp_path)
    assert (more.trials, more.run_id) == (5, outcome.run_id)


def test_bad_trials_are_pruned_after_a_fold(
    threads: None, ratings: Ratings, make_config, store: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tune, "_measure", lambda chosen, fold: 1.0 + chosen["n_factors"])
    space = {"n_factors": list(range(2, 12))}
    outcome = tune.tune(
        searching(make_config, trials=9, space=space), ratings, stores.connect(store), tmp_path
    )
    assert outcome.trials == 9 and outcome.pruned > 0
    folds = {
        run.data.tags["pruned"]: len(tracking_history(store, run.info.run_id))
        for run in children(store, outcome.run_id)
    }
    assert folds["true"] < folds["false"] == 3


def tracking_history(store: str, run_id: str) -> list:
    import mlflow

    return mlflow.MlflowClient(store).get_metric_history(run_id, "fold_rmse")


def test_grid_is_surprises_and_goes_on(
    ratings: Ratings, make_config, store: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tune, "_processes", lambda: 1)
    space = {"n_factors": [2, 4], "reg_all": [0.02, 0.4]}
    config, uri = searching(make_config, search="grid", space=space), stores.connect(store)

    def stop(line: str) -> None:
        if line.startswith("1/4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.tune(config, ratings, uri, tmp_path, stop)
    outcome = tune.tune(config, ratings, uri, tmp_path)
    theirs = GridSearchCV(
        catalogue.ALGORITHMS["SVD"],
        {**space, "n_epochs": [3], "random_state": [0]},
        measures=["rmse"],
        cv=KFold(3, random_state=0),
    )
    theirs.fit(catalogue.dataset(ratings))
    assert outcome.value == pytest.approx(theirs.best_score["rmse"], abs=1e-12)
    assert {key: outcome.params[key] for key in space} == {
        key: theirs.best_params["rmse"][key] for key in space
    }
    assert len(children(store, outcome.run_id)) == outcome.trials == 4


def test_random_search_and_lists(
    threads: None, ratings: Ratings, make_config, store: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tune, "_processes", lambda: 1)
    uri = stores.connect(store)
    random = tune.tune(searching(make_config, search="random", trials=2), ratings, uri, tmp_path)
    assert (
        random.trials == 2
        and 2 <= random.params["n_factors"] <= 6
        and 0.001 <= random.params["lr_all"] <= 0.1
    )
    ranking = make_config(
        algorithm="EASE",
        params={"min_ratings": 1},
        evaluation={"folds": 2, "k": 5},
        tuning={"metric": "list_ndcg", "trials": 2, "space": {"reg": {"low": 1.0, "high": 50.0}}},
    )
    assert 0 < tune.tune(ranking, ratings, uri, tmp_path).value <= 1


def test_a_search_beside_another_head_for_lists(
    threads: None, ratings: Ratings, make_config, store: str, tmp_path: Path
) -> None:
    import mlflow

    uri = stores.connect(store)
    keys = {
        "ranking": {"algorithm": "EASE", "params": {"min_ratings": 2}},
        "evaluation": {"folds": 2, "k": 5},
    }
    searched = {"trials": 2, "space": {"n_factors": [2, 3]}}
    of_lists = make_config(**keys, tuning={"metric": "list_ndcg", **searched})
    with pytest.raises(InputError, match="Give EASE as the algorithm, and leave ranking out"):
        tune.tune(of_lists, ratings, uri, tmp_path)
    found = tune.tune(make_config(**keys, tuning=searched), ratings, uri, tmp_path)
    best = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{found.run_id}/best.yaml"))
    assert best["ranking"] == keys["ranking"]


def test_two_searches_at_once_are_refused(ratings: Ratings, make_config, tmp_path: Path) -> None:
    config = searching(make_config)
    with (
        files.alone(tmp_path / f"{tune.digest(config, ratings)}.lock", "taken"),
        pytest.raises(RecommenderError, match="another process runs this search"),
    ):
        tune.tune(config, ratings, "sqlite://", tmp_path)


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"space": {}}, "tuning.space"),
        ({"space": {"n_factors": []}}, "tuning.space.n_factors"),
        ({"space": {"lr_all": {"low": 1, "high": 0}}}, "the lower of low and high comes first"),
        ({"space": {"lr_all": {"low": 0, "high": 1, "log": True}}}, "begins above 0"),
        ({"space": {"lr_all": {"low": 0, "high": float("inf")}}}, "Input should be a finite number"),
        ({"search": "grid", "space": {"lr_all": {"low": 0, "high": 1}}}, "a grid needs lists of values"),
        ({"search": "random", "metric": "list_ndcg", "space": {"lr_all": [1]}}, "search: optuna"),
        (
            {"search": "random", "space": {"sim_options.min_support": {"low": 1, "high": 3}}},
            "random search takes no range for sim_options.min_support",
        ),
        ({"space": {"n_epochs.x": [1]}}, "params.n_epochs is a single value, not options"),
        ({"trials": 0, "space": {"lr_all": [1]}}, "tuning.trials"),
        ({"space": {"factors": [1]}}, "SVD does not take 'factors'"),
        ({"space": {"lr_all": [1000.0]}}, "every trial failed"),
        (None, "tuning: missing"),
    ],
)
def test_searches_without_sense(
    threads: None, tuning: dict | None, message: str, conf: Path, store: str, tmp_path: Path, capsys
) -> None:
    content = yaml.safe_load(conf.read_text())
    if tuning is not None:
        content["tuning"] = tuning
    conf.write_text(yaml.safe_dump(content))
    line = ["tune", "--config", str(conf), "--tracking-uri", store, "--state", str(tmp_path / "state")]
    assert main(line) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


def test_leaderboard(
    threads: None, drawing: None, conf: Path, folder: Path, store: str, tmp_path: Path, capsys
) -> None:
    import mlflow

    (tmp_path / "ranks.yaml").write_text(
        f"---\nalgorithm: EASE\nparams: {{min_ratings: 1}}\ndata: {{source: {folder}}}\n"
        "recommendation: {min_item_ratings: 0}\n"
    )
    board = tmp_path / "board.yaml"
    board.write_text(
        f"---\nexperiments: [tiny.yaml, ranks.yaml]\ndata: {{source: {folder}}}\n"
        f"evaluation: {{folds: 2, k: 3}}\n"
    )
    assert main(["leaderboard", "--config", str(board), "--tracking-uri", store]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "experiment", "RMSE", "MAE", "precision", "recall", "NDCG", "coverage", "popularity", "fit", "s",
        "predict", "s", "memory", "MB", "size", "MB",
    ]  # fmt: skip
    assert {line.split()[0] for line in printed[1:3]} == {"tiny", "ranks"}
    run_id = printed[-1].split("run ")[1].split(":")[0]
    client = mlflow.MlflowClient(store)
    paths = {file.path for at in ("", "plots") for file in client.list_artifacts(run_id, at)}
    assert {"leaderboard.txt", "leaderboard.json"} < paths
    assert len([path for path in paths if path.startswith("plots/")]) == 5
    assert {run.info.run_name for run in children(store, run_id)} == {"tiny", "ranks"}
    stored = json.loads(
        Path(client.download_artifacts(run_id, "leaderboard.json", str(tmp_path))).read_text()
    )
    assert stored["tiny"]["rmse"] == pytest.approx(
        float(printed[1 if "tiny" in printed[1] else 2].split()[1]), abs=1e-4
    )
    assert all(np.isfinite(value) for line in stored.values() for value in line.values())


def test_a_random_search_ends_when_all_is_tried(
    threads: None, conf: Path, store: str, tmp_path: Path, capsys
) -> None:
    content = yaml.safe_load(conf.read_text())
    content["tuning"] = {"search": "random", "trials": 30, "space": {"n_factors": [2, 3]}}
    conf.write_text(yaml.safe_dump(content))
    line = ["tune", "--config", str(conf), "--tracking-uri", store, "--state", str(tmp_path)]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("best of 2 trials")
    assert main([*line, "--set", "evaluation.folds=100000"]) == 2
    assert "cannot make 100000 folds" in capsys.readouterr().err
    assert main([*line[:-1], "/dev/null/state"]) == 1
    assert "Name a folder with --state" in capsys.readouterr().err


def test_experiments_of_one_name(conf: Path, store: str, tmp_path: Path, capsys) -> None:
    content = yaml.safe_load(conf.read_text()) | {
        "experiments": ["tiny.yaml", "../" + str(tmp_path.name) + "/tiny.yaml"]
    }
    conf.write_text(yaml.safe_dump(content))
    assert main(["leaderboard", "--config", str(conf), "--tracking-uri", store]) == 2
    assert "two experiments are called tiny" in capsys.readouterr().err


def test_leaderboard_without_experiments(conf: Path, store: str, capsys) -> None:
    assert main(["leaderboard", "--config", str(conf), "--tracking-uri", store]) == 2
    assert "no experiments" in capsys.readouterr().err


def test_a_leaderboard_is_not_trained(conf: Path, store: str, capsys) -> None:
    with conf.open("a") as file:
        file.write("experiments: [tiny.yaml]\n")
    assert main(["train", "--config", str(conf), "--tracking-uri", store]) == 2
    assert "which the command leaderboard compares" in capsys.readouterr().err


def test_split_holds_a_quarter_of_everybodys_out(ratings: Ratings) -> None:
    rest, out = validation.split(ratings, 3)
    before, held = np.bincount(ratings.user), np.bincount(ratings.user[out], minlength=len(ratings.users))
    assert list(held) == [count // 4 for count in before]
    assert len(rest) == len(ratings) - out.sum()
    assert not np.array_equal(out, validation.split(ratings, 4)[1])
    assert np.array_equal(out, validation.split(ratings, 3)[1])


def test_plots_of_nothing_but_a_ranking(ratings: Ratings, make_config) -> None:
    config = make_config(algorithm="EASE", params={"min_ratings": 1})
    entry = leaderboard.measure("ranks", config, ratings)
    assert len(plots.leaderboard([entry], leaderboard.SHARES)) == 5
    assert len(entry.true) == len(entry.estimate) == len(entry.item_ratings) == len(ratings)


ORPHANS = """
import os, sys, time
from recommender.evaluation import processes
if __name__ == "__main__":
    with processes.pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_workers_of_a_killed_process_end_too(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    clean = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, script], env=clean, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.send_signal(signal.SIGKILL)
        # Its end of the pipe closes with the worker, which holds it too.
        assert parent.stdout.read() == ""
    assert not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()


def test_bench_writes_between_its_markers() -> None:
    page = "a\n<!-- bench one -->\nold\n<!-- end one -->\nb\n"
    assert put(page, "one", "new\n") == "a\n<!-- bench one -->\nnew\n<!-- end one -->\nb\n"
    with pytest.raises(ValueError, match="bench two"):
        put(page, "two", "new")


def test_every_part_of_the_bench_has_its_place_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("algorithms", "serving", "scaling"):
        assert "\nnew\n" in put(page, name, "new")
    assert "<!-- bench" not in (ROOT / "README.md").read_text(encoding="utf-8")
