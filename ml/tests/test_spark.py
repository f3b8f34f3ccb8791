"""Training on Spark, without a cluster: what is computed here, what is refused, how the engine is chosen."""

import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recommender import config, engines, listener, train
from recommender.algorithms import spark
from recommender.algorithms import trainset as trainsets
from recommender.cli import training
from recommender.cli.main import main
from recommender.data.ratings import Ratings
from recommender.errors import InputError
from tests.conftest import ROOT

WITHOUT = {"n_factors": 1, "n_epochs": 1, "reg": 1e9}


def test_biases_are_damped_means(ratings: Ratings) -> None:
    algo = spark.SparkALS(**WITHOUT, damping_user=5, damping_item=3, bias_epochs=200).fit(
        trainsets.full(ratings)
    )
    user, item, rating = trainsets.arrays(algo.trainset)
    rest = rating - rating.mean()
    # the fixed point of the two averages
    for bias, codes, others, damping in (
        (algo.bu, user, algo.bi[item], 5),
        (algo.bi, item, algo.bu[user], 3),
    ):
        mean = np.bincount(codes, rest - others) / (np.bincount(codes) + damping)
        np.testing.assert_allclose(bias, mean, atol=1e-9)


def test_factors_explain_what_biases_leave(ratings: Ratings) -> None:
    def error(**params: Any) -> float:
        algo = spark.SparkALS(**params).fit(trainsets.full(ratings))
        user, item, rating = trainsets.arrays(algo.trainset)
        found = [algo.estimate(u, i) for u, i in zip(user, item, strict=True)]
        return float(np.sqrt(np.mean((rating - np.array(found)) ** 2)))

    assert error(n_factors=2, n_epochs=10, reg=0.05) < 0.7 * error(**WITHOUT)


def test_lists_by_picks(ratings: Ratings, make_config) -> None:
    ranking = {"algorithm": "SparkPicks", "params": {"n_factors": 2, "n_epochs": 5}}
    chosen = make_config(algorithm="SparkALS", params={"n_factors": 2, "n_epochs": 5}, ranking=ranking)
    recommender, algo = train.fit(ratings, chosen)
    assert recommender.settings["ranking"]["algorithm"] == "SparkPicks"
    low = ratings.scale[0]
    rated = np.mean([algo.ranking.estimate(u, i) for u, i, _ in algo.trainset.all_ratings()])
    every = np.mean(
        [algo.ranking.estimate(u, i) for u in algo.trainset.all_users() for i in algo.trainset.all_items()]
    )
    assert rated > every > low
    assert algo.ranking.estimate("UKN__x", 0) == low
    assert len(recommender.top_n(ratings.users[0], 3)) == 3


@pytest.mark.parametrize("params", [{"reg": 0}, {"n_factors": 0.5}, {"blocks": 0}])
def test_parameters_are_checked_before_the_cluster_is_asked(
    params: dict[str, Any], ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(spark, "connection", lambda: pytest.fail("asked"))
    with pytest.raises(ValueError, match=next(iter(params))):
        spark.SparkALS(**params).fit(trainsets.full(ratings))


def test_nothing_is_sent_to_another_accounts_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv(spark.ADDRESS, address)
        monkeypatch.setattr(spark, "_token", lambda: pytest.fail("read"))
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        monkeypatch.setattr(listener, "owners", lambda address, port: {54321})
        said = f"{address}: a program of account 54321 listens there, but Spark Connect runs as spark"
        with pytest.raises(listener.Foreign, match=said), spark.connection():
            pass


def test_a_missing_token_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", raising=False)
    monkeypatch.setenv(spark.TOKEN_FILE, str(tmp_path / "token"))
    with pytest.raises(InputError, match=rf"token: No such file.* {spark.TOKEN_FILE}=FILE$"):
        spark._token()
    (tmp_path / "token").write_text("abc\n")
    assert spark._token() == "abc"


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    with pytest.raises(InputError, match="pyspark-client"), spark.connection():
        pass


def test_a_cluster_without_workers_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Session:
        def range(self, n: int) -> Any:
            return self

        def count(self) -> None:
            end = time.monotonic() + 30
            while not (told := capsys.readouterr().err) and time.monotonic() < end:
                time.sleep(0.01)
            assert "no worker is up" in told

    spark._await_processor(Session(), 0.01)
    spark._await_processor(SimpleNamespace(range=lambda n: SimpleNamespace(count=lambda: n)), 0.1)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_the_engine_keeps_the_data_and_changes_the_heads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(train, "train", lambda settings, *others: seen.append((settings, others[-1])))
    monkeypatch.setattr(training.printing, "summary", lambda report: "")
    line = [
        "train",
        "--engine",
        "spark",
        "--config",
        str(ROOT / "conf/default.yaml"),
        "--set",
        "evaluation.folds=7",
    ]
    assert main(line) == 0
    (settings, altered), engine = seen[0], config.load(ROOT / "conf/spark-als.yaml")
    assert (settings.named, settings.params) == ("SparkALS + SparkPicks", engine.params)
    assert settings.evaluation.folds == 7
    assert altered
    # a file elsewhere has conf's
    own = tmp_path / "own.yaml"
    own.write_text("data: {source: ratings.csv}\n")
    monkeypatch.chdir(ROOT)
    assert main(["train", "--engine", "spark", "--config", str(own)]) == 0
    assert seen[1][0].params == engine.params
    # and one that names Spark's algorithms stays as it is
    own.write_text("algorithm: SparkALS\ndata: {source: ratings.csv}\n")
    assert main(["train", "--engine", "spark", "--config", str(own)]) == 0
    assert seen[2][0].named == "SparkALS"


def test_parameters_of_other_heads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--engine", "spark", "--config", str(ROOT / "conf/default.yaml")]
    assert main([*line, "--set", "params.n_factors=50"]) == 2
    said = capsys.readouterr().err
    assert (
        f"--set params.n_factors=50: --engine spark takes the algorithms of {ROOT / 'conf/spark-als.yaml'}"
        in said
    )


def test_the_engine_needs_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("data: {source: ratings.csv}\n")
    assert main(["train", "--engine", "spark", "--config", str(tmp_path / "own.yaml")]) == 2
    assert "conf/spark-als.yaml: No such file" in capsys.readouterr().err


MEASURED = """engine,ratings,seconds
local,1000000,100
local,100000,10
local,20000000,inf
1,100000,60
1,1000000,80
2,100000,50
2,1000000,40
"""


@pytest.mark.parametrize(
    ("ratings", "says"),
    [
        (100_000, "one machine 10 s, Spark with 2 workers 50 s. A cluster does not pay"),
        (1_000_000, "one machine 100 s, Spark with 2 workers 40 s. A cluster pays: docs/spark.md"),
        # below what was measured it is no faster, beyond it is in proportion
        (1_000, "one machine 10 s, Spark with 2 workers 50 s. A cluster does not pay"),
        (10_000_000, "one machine 17 min, Spark with 2 workers 7 min. A cluster pays: docs/spark.md"),
        (
            25_000_000,
            "one machine has too little memory, Spark with 2 workers 17 min. A cluster pays: docs/spark.md",
        ),
    ],
)
def test_which_engine_pays(ratings: int, says: str) -> None:
    measured = engines.table(MEASURED.splitlines())
    # of the two that are compared, the one that was measured less far
    how = "measured elsewhere" if ratings <= 1_000_000 else "in proportion to 1,000,000 measured elsewhere"
    assert engines.advice(ratings, measured) == f"engine: {ratings:,} ratings, {how}: {says}"


def test_the_measured_table_knows_one_machine_and_clusters() -> None:
    measured = engines.table(engines.TABLE.read_text().splitlines())
    assert measured.keys() == {engines.LOCAL, "1", "2", "3"}
    assert all(len(rows) > 1 for rows in measured.values())


@pytest.mark.parametrize("address", ["spark", "localhost:", ":15002"])
def test_an_address_without_host_or_port_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(spark.ADDRESS, address)
    with pytest.raises(InputError, match=f"{spark.ADDRESS}={address}: write HOST:PORT"), spark.connection():
        pass
