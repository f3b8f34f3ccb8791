"""Generated ratings: as many as asked for, reproducible, sound, with a long tail and something to learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.algorithms import catalogue, convert, trainset
from recommender.cli.main import main
from recommender.config import DataConfig
from recommender.data import reading, synthetic
from recommender.errors import InputError
from recommender.evaluation import metrics, validation


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 9), st.integers(40, 90), st.integers(40, 90))
def test_exactly_what_was_asked_for(n: int, seed: int, users: int, items: int) -> None:
    one, other = (synthetic.generate(n, seed, users, items) for _ in range(2))
    assert len(one) == n and one.digest() == other.digest()
    assert one.digest() != synthetic.generate(n, seed + 1, users, items).digest() or n < 5
    # What a reader makes of the same ratings: canonical order, no pair twice, no id without a rating.
    assert reading.from_frame(one.frame()).digest() == one.digest()


def test_long_tails_and_a_structure_to_learn() -> None:
    ratings = synthetic.generate(60_000, users=600, items=1000)
    for codes in (ratings.user, ratings.item):
        count = np.sort(np.bincount(codes))[::-1]
        assert count[: len(count) // 10].sum() > 0.25 * len(ratings)
    errors = {}
    for name, params in (
        ("BaselineOnly", {}),
        ("SVD", {"n_factors": 8, "n_epochs": 60, "lr_all": 0.01, "reg_all": 0.08}),
    ):
        known, held_out = next(trainset.folds(ratings, 5, 0))
        scorer = convert.scorer(catalogue.fit(catalogue.make(name, params, 0), known), ratings)
        estimate = np.clip(scorer.pairs(ratings.user[held_out], ratings.item[held_out]), 0.5, 5)
        errors[name] = metrics.rmse(ratings.rating[held_out], estimate)
    # The noise is what nobody can learn, the factors' 0.6 stars what biases cannot.
    assert 0.75 < errors["SVD"] < errors["BaselineOnly"] - 0.05


def test_groups_for_lists_to_learn(make_config) -> None:
    ratings = synthetic.generate(30_000, users=900, items=1500)
    rules = {"recommendation": {"min_item_ratings": 0}, "evaluation": {"k": 10}}
    found = validation.lists(ratings, make_config(algorithm="AutoEASE", params={}, **rules), 0).metrics
    assert found["list_ndcg"] > 1.2 * found["popular_ndcg"]


@pytest.mark.parametrize("name", ["ratings.csv", "votes.parquet"])
def test_written_and_read(tmp_path: Path, name: str, capsys) -> None:
    path = tmp_path / "new" / name
    assert main(["generate", "--ratings", "2000", "--seed", "3", "--output", str(path)]) == 0
    assert "2,000 ratings" in capsys.readouterr().out
    ratings = reading.read(DataConfig(source=str(path)))
    assert ratings.digest() == synthetic.generate(2000, 3).digest()
    assert ratings.period is not None
    content = path.read_bytes()
    assert main(["generate", "--ratings", "2000", "--seed", "3", "--output", str(path)]) == 0
    assert path.read_bytes() == content


def test_refusals(tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="draw 1 to 25, a quarter"):
        synthetic.generate(26, users=10, items=10)
    with pytest.raises(InputError, match="draw 1 to"):
        synthetic.generate(0)
    (tmp_path / "a file").touch()
    assert main(["generate", "--ratings", "50", "--output", str(tmp_path / "a file" / "x.csv")]) == 2
    assert "Name a file that you can write" in capsys.readouterr().err
