"""The command line from end to end, in this process; exit codes and messages."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from recommender.cli.main import main
from tests.conftest import ROOT


def test_train_then_recommend(conf: Path, store: str, environment: str, tmp_path: Path, capsys) -> None:
    target = tmp_path / "new" / "report.json"
    assert main(["train", "--config", str(conf), "--tracking-uri", store, "--report", str(target)]) == 0
    printed = capsys.readouterr()
    assert "fold 2/2: RMSE" in printed.err
    assert f"version   {environment}.movie-recommender 1, alias champion" in printed.out
    report = json.loads(target.read_text())
    first = report["recommendations"]["items"][0]
    assert first["title"] in printed.out

    assert main(["recommend", "--user", "1", "-k", "1", "--tracking-uri", store]) == 0
    assert capsys.readouterr().out == f"   1  {first['estimate']:.2f}  {first['title']}\n"
    assert main(["recommend", "--user", "stranger", "-k", "2", "--json", "--tracking-uri", store]) == 0
    picks = json.loads(capsys.readouterr().out)
    assert [(pick["user"], pick["rank"], pick["known_user"]) for pick in picks] == [
        ("stranger", 1, False), ("stranger", 2, False),
    ]  # fmt: skip
    assert (
        main(["recommend", "--user", "stranger", "--model", report["model"]["uri"], "--tracking-uri", store])
        == 0
    )
    assert "user stranger is unknown: these are the popular items" in capsys.readouterr().err

    assert main(["recommend", "--user", "1", "stranger", "-k", "1", "--tracking-uri", store]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[::2]] == [
        "user 1",
        "user stranger",
    ]
    # As POST /invocations reads them: numbers without a point, and rows without a history.
    model = mlflow.pyfunc.load_model(report["model"]["uri"])
    body = {"columns": ["user", "k", "history"], "data": [["new", 2, {"7": 5, "17": 1}], ["1", 1, None]]}
    frame = infer_and_parse_data({"dataframe_split": body}, model.metadata.get_input_schema())
    assert list(model.predict(frame).known_user) == [True] * 3
    new = ["recommend", "--history", "7=5", "17=1", "--reasons", "1", "-k", "2", "--tracking-uri", store]
    assert main(new) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2 and printed.err == ""
    assert "because of Film, The" in printed.out
    assert main(["recommend", "--history", "7=5", "none=1", "-k", "2", "--tracking-uri", store]) == 0
    assert "not among the ratings, left out: none" in capsys.readouterr().err
    assert main([*new, "--json"]) == 0
    assert {pick["known_user"] for pick in json.loads(capsys.readouterr().out)} == {True}
    assert main(["recommend", "--similar", "7", "-k", "3", "--tracking-uri", store]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    lists = tmp_path / "lists" / "all.csv"
    everybody = ["recommend", "--all", "-k", "2", "--tracking-uri", store]
    assert main([*everybody, "--output", str(lists)]) == 0
    assert main(everybody) == 0
    assert capsys.readouterr().out == lists.read_text() == "\n".join(lists.read_text().splitlines()) + "\n"
    assert lists.read_text().count("\n") == 1 + 2 * 30
    for line, message in (
        ([*new, "--user", "1", "2"], "these ratings are one user's"),
        (
            ["recommend", "--history", "7=9", "--tracking-uri", store],
            "rating 9.0 of item '7' is not on the scale",
        ),
        (["recommend", "--similar", "nothing", "--tracking-uri", store], "item 'nothing' is unknown"),
    ):
        assert main(line) == 2
        assert message in capsys.readouterr().err
    assert main([*everybody, "--output", "/proc/nowhere/all.csv"]) == 2
    assert "Name a file that you can write" in capsys.readouterr().err


def test_evaluate_logs_only_when_asked(conf: Path, store: str, environment: str, capsys) -> None:
    line = [
        "evaluate",
        "--config",
        str(conf),
        "--tracking-uri",
        store,
        "--set",
        f"tracking.experiment={environment}",
    ]
    assert main(line) == 0
    table = capsys.readouterr().out
    *_, mean, lists = table.splitlines()
    assert mean.split()[0] == "mean"
    mlflow.set_tracking_uri(store)
    assert mlflow.get_experiment_by_name(environment) is None
    assert main([*line, "--log"]) == 0
    [run] = mlflow.search_runs(experiment_names=[environment], output_format="list")
    numbers = run.data.metrics
    assert f"{numbers['rmse']:.4f}" == mean.split()[1]
    assert lists == (
        f"lists over the whole catalogue: NDCG@5 {numbers['list_ndcg']:.4f} (the most rated items: "
        f"{numbers['popular_ndcg']:.4f}), recall@5 {numbers['list_recall']:.4f}, "
        f"coverage {numbers['coverage']:.4f}"
    )
    assert mlflow.search_model_versions(filter_string=f"name='{environment}.movie-recommender'") == []


def test_random_answers_have_no_lists(conf: Path, capsys) -> None:
    line = ["evaluate", "--config", str(conf), "--set", "algorithm=NormalPredictor", "--set", "params={}"]
    assert main(line) == 0
    assert "lists" not in capsys.readouterr().out
    assert main([*line, "--set", "ranking.algorithm=AutoEASE"]) == 0
    assert "lists over the whole catalogue: NDCG@5 0." in capsys.readouterr().out


def test_nobody_with_four_ratings(conf: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "few.csv"
    lines = [f"u{u},i{(u + step) % 9},{1 + (u + step) % 5}" for u in range(12) for step in range(3)]
    path.write_text("\n".join(["userId,movieId,rating", *lines]) + "\n")
    assert main(["evaluate", "--config", str(conf), "--data", str(path)]) == 0
    assert "lists over the whole catalogue: not measured: nobody has four ratings" in capsys.readouterr().out


def test_data_by_flags(conf: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(
        "who;what;stars;when\n"
        + "".join(f"{u};{i};{1 + (u * i) % 7};{u}\n" for u in range(9) for i in range(9))
    )
    line = ["evaluate", "--config", str(conf), "--data", str(path), "--separator", ";", "--scale", "1", "7"]
    columns = ["--user-column", "who", "--item-column", "what", "--rating-column", "stars"]
    assert main([*line, *columns, "--set", "algorithm=BaselineOnly", "--set", "params={}"]) == 0
    assert "BaselineOnly on votes: 81 ratings" in capsys.readouterr().out
    assert main([*line, *columns[:4]]) == 2
    assert "column 'rating' is missing; the file has: who, what, stars, when" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["train", "--config", "{conf}", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["train", "--config", "{conf}", "--set", "algorithm=SDV"], "there is no 'SDV'"),
        (["evaluate", "--config", "{conf}", "--set", "algorithm=SDV"], "there is no 'SDV'"),
        (["evaluate", "--config", "{conf}", "--set", "evaluation.folds=1"], "evaluation.folds"),
        (["evaluate", "--config", "{conf}", "--set", "folds"], "write KEY=VALUE"),
        (["evaluate", "--config", "{conf}", "--set", "a=["], "the value is not YAML"),
        (["evaluate", "--config", "{conf}", "--set", "seed=2026-02-30"], "the value is not YAML"),
        (["evaluate", "--config", "{conf}", "--set", "evaluation.threshold=.nan"], "evaluation.threshold"),
        (["train", "--config", "{conf}", "--set", "evaluation.threshold=8"], "off the scale 0.5 to 5 of"),
        (["tune", "--config", "{conf}", "--set", "evaluation.threshold=8"], "--set evaluation.threshold=4"),
        (["evaluate", "--config", "{conf}", "--set", "tracking.model=o'brien"], "tracking.model"),
        (["evaluate", "--config", "{conf}", "--user-column", "rating"], "'rating' is named twice"),
        (["train", "--config", "{conf}", "--report", "/dev/null/x.json"], "Name a file that you can write"),
        (["generate", "--ratings", "9", "--output", "."], "Name a file that you can write"),
        (["generate", "--ratings", "9", "--seed", "-1", "--output", "{conf}"], "a seed is 0 or more"),
        (["promote", "--archive", "/nowhere/x.zip", "--to", "staging"], "/nowhere/x.zip: no such file"),
        (
            ["recommend", "--user", "1", "--tracking-uri", "{store}", "--model", "http://127.0.0.1:9/x"],
            "no such model",
        ),
        (["recommend", "--user", "1", "-k", "0"], "ask for at least one"),
        (["recommend"], "No user or item is named"),
        (["recommend", "--history", "7"], "write ITEM=RATING"),
        (["recommend", "--history", "7=good"], "write ITEM=RATING"),
        (
            ["recommend", "--user", "1", "--tracking-uri", "{store}", "--model", "models:/none@champion"],
            "no such model",
        ),
        (["train", "--config", "{conf}", "--tracking-uri", "nonsense"], "not a tracking server"),
    ],
)
def test_bad_input_is_exit_code_2(line: list[str], message: str, conf: Path, store: str, capsys) -> None:
    assert main([part.format(conf=conf, store=store) for part in line]) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("recommender: ")
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_no_room_and_no_memory_are_said(conf: Path, monkeypatch, capfd) -> None:
    def too_much(*_: object) -> None:
        raise MemoryError("1.00 TiB")

    monkeypatch.setattr("recommender.evaluation.validation.cross_validate", too_much)
    assert main(["evaluate", "--config", str(conf)]) == 1
    assert capfd.readouterr().err == "recommender: out of memory: 1.00 TiB\n"
    monkeypatch.undo()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["evaluate", "--config", str(conf)]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "recommender: [Errno 28] No space left on device"


def test_absent_server_is_exit_code_1(conf: Path, capsys) -> None:
    assert main(["train", "--config", str(conf), "--tracking-uri", "http://127.0.0.1:9"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["train", "--no-such-flag"],
        ["recommend", "--user"],
        ["recommend", "--user", "1", "-k", "x"],
        ["generate", "--ratings", "0", "--output", "x"],
    ],
)
def test_bad_usage_is_exit_code_2(line: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line)
    assert stopped.value.code == 2


def test_packaged_names_agree() -> None:
    import tomllib

    import recommender

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == recommender.__version__
    locked = (ROOT / "requirements.txt").read_text()
    for pin in (name for name in project["dependencies"] if "==" in name):
        assert f"\n{pin} " in locked


def test_account_without_a_home(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": str(ROOT / "src")}
    environment.pop("SURPRISE_DATA_FOLDER", None)
    line = [
        sys.executable,
        "-c",
        "import recommender.algorithms.catalogue, os; print(os.environ['SURPRISE_DATA_FOLDER'])",
    ]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_dir()


def test_lists_of_a_long_tail(tmp_path: Path, conf: Path, store: str, environment: str, capsys) -> None:
    """What share may come first is said; what is left out of a list has its reason."""
    shop = tmp_path / "shop.csv"
    lines = [f"u{u},i{item},{u % 5 + 1}" for u in range(40) for item in (u % 2, u + 2)]
    lines += [f"all,i{item},3" for item in range(42)] + ["lonely,alone,3"]
    shop.write_text("\n".join(["userId,movieId,rating", *lines]) + "\n")
    options = ["--config", str(conf), "--data", str(shop), "--set", "recommendation.min_item_ratings=20"]
    says = (
        "2 of 43 items (4.65%) may be recommended first, with 20 ratings or more; "
        "the others fill up lists that are too short"
    )
    remark = "Only 2 of 43 items (4.65%) have 20 ratings or more, and come first in everybody's list."
    assert main(["check", *options]) == 0
    printed = capsys.readouterr().out
    assert says in printed and f"LOOK: {remark}" in printed
    report = tmp_path / "report.json"
    assert main(["train", *options, "--tracking-uri", store, "--report", str(report)]) == 0
    printed = capsys.readouterr()
    assert f"catalogue {says}" in printed.out and f"data: {remark}" in printed.err
    assert json.loads(report.read_text())["dataset"]["lists"]["items"] == 2
    # what the remark says to type is taken
    mend = re.search(r"--set \S+=\d+", printed.err)
    assert mend is not None and main(["check", *options, *mend.group().split()]) == 0
    assert remark not in capsys.readouterr().out
    assert main(["recommend", "--all", "--tracking-uri", store]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 40 * 10 + 1 + 10
    asked = ["--user", "all", "--history", "alone=3", "--json"]
    assert main(["recommend", *asked, "--tracking-uri", store]) == 0
    printed = capsys.readouterr()
    assert printed.out == "[]\n"
    assert "no list for user all: all 43 items are rated already" in printed.err


LOST = """
import argparse, signal, sys, time
from recommender.cli import main

class Final:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def command(arguments):
    Final()
    time.sleep(30)
    print("went on")

parser = argparse.ArgumentParser()
parser.set_defaults(command=command)
main._parser = lambda: parser
main.main([])
"""


def test_a_signal_while_an_object_is_finalized_is_not_lost() -> None:
    clean = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", LOST], env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
