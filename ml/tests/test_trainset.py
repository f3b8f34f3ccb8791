"""The Trainset over arrays against Surprise's own: in every method, in every algorithm, in every fold."""

import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import surprise
from hypothesis import given
from hypothesis import strategies as st
from surprise.model_selection import KFold

from recommender.algorithms import catalogue, trainset
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from tests.test_scoring import CASES, names

TABLES = st.dictionaries(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from("tuvwxyz")),
    st.integers(1, 10).map(lambda half: half / 2),
    min_size=2,
)


def from_table(table: dict) -> Ratings:
    lines = [(user, item, rating) for (user, item), rating in table.items()]
    return from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]))


def content(one: surprise.Trainset) -> list[Any]:
    """All that Surprise's documentation promises of a Trainset."""
    users, items = list(one.all_users()), list(one.all_items())
    return [
        list(one.ur.items()), list(one.ir.items()), [one.ur[at] for at in users],
        [one.ir[at] for at in items],
        one.n_users, one.n_items, one.n_ratings, one.rating_scale, one.global_mean,
        list(one.all_ratings()), one.build_testset(), one.build_anti_testset(), one.build_anti_testset(1),
        [(one.to_raw_uid(user), one.to_inner_uid(one.to_raw_uid(user))) for user in users],
        [(one.to_raw_iid(item), one.to_inner_iid(one.to_raw_iid(item))) for item in items],
        [one.knows_user(at) for at in (-1, 0, one.n_users)],
        [one.knows_item(at) for at in (-1, 0, one.n_items)],
    ]  # fmt: skip


@given(TABLES, st.integers(2, 4), st.integers(0, 9))
def test_equal_to_surprises_own(table: dict, n: int, seed: int) -> None:
    ratings = from_table(table)
    dataset = catalogue.dataset(ratings)
    ours, theirs = trainset.full(ratings), dataset.build_full_trainset()
    assert content(ours) == content(theirs)
    assert list(zip(*map(np.ndarray.tolist, ours.arrays()), strict=True)) == list(theirs.all_ratings())
    if n > len(ratings):
        return
    splits = KFold(n, random_state=seed).split(dataset)
    for (ours, held_out), (theirs, testset) in zip(trainset.folds(ratings, n, seed), splits, strict=True):
        assert content(ours) == content(theirs)
        assert [
            (ratings.users[ratings.user[at]], ratings.items[ratings.item[at]], ratings.rating[at])
            for at in held_out
        ] == testset


@given(TABLES)
def test_pickled_it_is_surprises_own(table: dict) -> None:
    ours = trainset.full(from_table(table))
    stream = pickle.dumps(ours)
    assert b"recommender" not in stream
    again = pickle.loads(stream)
    assert (type(again), type(again.ur), type(again.ir)) == (surprise.Trainset, defaultdict, defaultdict)
    assert content(again) == content(ours)


def test_unknown_keys() -> None:
    ours = trainset.full(from_table({("a", "t"): 1, ("b", "t"): 2}))
    with pytest.raises(KeyError):
        ours.ur[2]
    with pytest.raises(ValueError, match="User c is not part of the trainset"):
        ours.to_inner_uid("c")
    with pytest.raises(TypeError):
        ours.ur[0] = []  # type: ignore[index]


@pytest.mark.parametrize("case", CASES, ids=names)
def test_every_algorithm_trains_equally(case, ratings: Ratings) -> None:
    [(ours, _), *_], [(theirs, _), *_] = (
        list(trainset.folds(ratings, 2, 1)), list(KFold(2, random_state=1).split(catalogue.dataset(ratings))),
    )  # fmt: skip
    fitted = (catalogue.fit(catalogue.make(*case, 0), known) for known in (ours, theirs))
    one, other = (vars(getattr(algo, "chosen", algo)) for algo in fitted)
    assert one.keys() == other.keys()
    for key in one.keys() - {"trainset", "xr", "yr"}:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)
