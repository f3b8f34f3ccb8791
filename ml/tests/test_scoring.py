"""The arrays against Surprise itself: every algorithm, any ratings, known and unknown users and items."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from recommender import train
from recommender.algorithms import catalogue, convert
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from recommender.errors import InputError
from recommender.serving.recommender import Recommender
from recommender.serving.scorers import base
from recommender.serving.scorers.nearest import weighted_means

BY_ITEM = {"name": "cosine", "user_based": False}
CASES = [
    ("SVD", {"n_factors": 5, "n_epochs": 4}),
    ("SVD", {"n_factors": 5, "n_epochs": 4, "biased": False}),
    ("SVDpp", {"n_factors": 3, "n_epochs": 3}),
    ("NMF", {"n_factors": 4, "n_epochs": 5}),
    ("NMF", {"n_factors": 4, "n_epochs": 5, "biased": True, "lr_bu": 0.002, "lr_bi": 0.002}),
    ("BaselineOnly", {}),
    ("BaselineOnly", {"bsl_options": {"method": "sgd", "n_epochs": 3}}),
    ("CoClustering", {"n_epochs": 3}),
    ("SlopeOne", {}),
    ("KNNBasic", {"k": 5}),
    ("KNNBasic", {"k": 3, "min_k": 3, "sim_options": BY_ITEM}),
    ("KNNWithMeans", {"k": 5, "sim_options": {"name": "pearson"}}),
    ("KNNWithMeans", {"min_k": 0, "sim_options": BY_ITEM}),
    ("KNNWithZScore", {}),
    ("KNNWithZScore", {"k": 2, "min_k": 2, "sim_options": BY_ITEM}),
    ("KNNBaseline", {"sim_options": {"name": "pearson_baseline"}, "bsl_options": {"method": "als"}}),
    ("KNNBaseline", {"k": 4, "min_k": 2, "sim_options": {"name": "pearson_baseline", "user_based": False}}),
]
OURS = [
    ("BMF", {"n_factors": 3, "n_epochs": 4}),
    ("BMF", {"n_factors": 2, "n_epochs": 3, "implicit": False, "n_kept": 2}),
    ("BMF", {"n_factors": 0, "n_epochs": 2}),
    ("EASE", {"min_ratings": 2}),
    ("EASE", {"reg": 3.0, "min_ratings": 15, "rating_weight": 0.0}),
    ("UserEASE", {"reg": 3.0}),
    ("AutoEASE", {}),
    ("UserEASE", {"reg": 0.5, "rating_weight": 1.0, "activity": 0.0}),
    ("SparkALS", {"n_factors": 2, "n_epochs": 3}),
    ("SparkPicks", {"n_factors": 2, "n_epochs": 3}),
]
CASES += OURS
EXACT = {"rtol": 0, "atol": 1e-9}


def names(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *case[1]])


def surprises(algo: Any, pairs: Iterable[tuple[str, str]]) -> list[float]:
    return [algo.predict(user, item).est for user, item in pairs]


def by_numpy_alone(scorer: base.Scorer, user: base.Index, item: base.Index) -> base.Floats:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        patch.delitem(sys.modules, "recommender.serving.scorers.nearest", raising=False)
        patch.delitem(sys.modules, "recommender.compiled", raising=False)
        return scorer.of_users(user, item)


def test_every_algorithm_is_tried() -> None:
    assert {name for name, _ in CASES} == set(catalogue.ALGORITHMS) - {catalogue.UNSERVED}


@pytest.mark.parametrize("case", CASES, ids=names)
def test_arrays_equal_surprise(case, ratings: Ratings, make_config, tmp_path: Path) -> None:
    recommender, algo = train.fit(ratings, make_config(algorithm=case[0], params=case[1]))
    recommender.save(tmp_path / "saved", {})
    loaded = Recommender.load(tmp_path / "saved")
    pairs = [(u, i) for u in (*ratings.users, "stranger") for i in (*ratings.items, "unheard-of")]
    for model in (recommender, loaded):
        np.testing.assert_allclose(model.estimate(*zip(*pairs, strict=True)), surprises(algo, pairs), **EXACT)
    assert loaded.digest() == recommender.digest()
    assert len(loaded.top_n("1", 3)) == 3


@pytest.mark.parametrize("case", CASES, ids=names)
def test_arrays_equal_surprise_for_ids_absent_from_a_fold(case, ratings: Ratings) -> None:
    part = ratings.frame().query("user != '1' and item != '7'").sample(frac=1, random_state=0)
    algo = catalogue.make(*case, 0)
    dataset = catalogue.surprise.Dataset.load_from_df(part, catalogue.surprise.Reader(rating_scale=(0.5, 5)))
    catalogue.fit(algo, dataset.build_full_trainset())
    user, item = np.divmod(np.arange(len(ratings.users) * len(ratings.items)), len(ratings.items))
    expected = [
        algo.predict(ratings.users[u], ratings.items[i], clip=False).est
        for u, i in zip(user, item, strict=True)
    ]
    scorer = convert.scorer(algo, ratings)
    np.testing.assert_allclose(scorer.pairs(user, item), expected, **EXACT)
    rows = [scorer.of_user(u, np.arange(len(ratings.items))) for u in range(len(ratings.users))]
    np.testing.assert_allclose(np.concatenate(rows), expected, **EXACT)


FACTORS = st.fixed_dictionaries({"n_factors": st.just(2), "n_epochs": st.just(2)})
NEIGHBOURS = st.fixed_dictionaries(
    {
        "k": st.integers(1, 4),
        "min_k": st.integers(1, 3),
        "sim_options": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["cosine", "msd", "pearson", "pearson_baseline"]),
                "user_based": st.booleans(),
                "min_support": st.integers(1, 2),
            }
        ),
    }
)
ANY = st.one_of(
    st.tuples(st.sampled_from(["SVD", "SVDpp", "NMF", "BMF"]), FACTORS),
    st.tuples(st.just("EASE"), st.fixed_dictionaries({"min_ratings": st.integers(0, 3)})),
    st.tuples(st.just("UserEASE"), st.fixed_dictionaries({"rating_weight": st.sampled_from([0, 0.5, 1])})),
    st.tuples(st.sampled_from(["BaselineOnly", "SlopeOne"]), st.just({})),
    st.tuples(st.just("CoClustering"), st.fixed_dictionaries({"n_epochs": st.just(2)})),
    *(
        st.tuples(st.just(name), NEIGHBOURS)
        for name in sorted(catalogue.ALGORITHMS)
        if name.startswith("KNN")
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefg"), st.sampled_from("tuvwxyz")),
        # Few different ratings make many equal similarities.
        st.sampled_from([1, 2, 2.5, 5]),
        min_size=2,
    ),
    ANY,
    st.integers(0, 2**32 - 1),
)
def test_arrays_equal_surprise_on_any_ratings(table: dict, case: tuple[str, dict], seed: int) -> None:
    ratings = from_frame(
        pd.DataFrame([(u, i, r) for (u, i), r in table.items()], columns=["user", "item", "rating"])
    )
    config = Config.model_validate(
        {"algorithm": case[0], "params": case[1], "seed": seed, "data": {"source": "x"}}
    )
    try:
        recommender, algo = train.fit(ratings, config)
    except InputError:
        # Where every rating is its baseline, pearson_baseline divides nothing by nothing.
        reject()
    if case[0] == "KNNWithZScore" and len({*table.values()}) == 1:
        assert set(recommender.estimate(["a", "?"], ["t", "t"])) == {*table.values()}
        return
    pairs = [(u, i) for u in "abcdefg?" for i in "tuvwxyz?"]
    expected = surprises(algo, pairs)
    np.testing.assert_allclose(recommender.estimate(*zip(*pairs, strict=True)), expected, **EXACT)
    user, item = (
        np.array([known.index(raw) if raw in known else -1 for raw in asked])
        for known, asked in ((ratings.users, "abcdefg?"), (ratings.items, "tuvwxyz?"))
    )
    for grid in (recommender.scorer.of_users(user, item), by_numpy_alone(recommender.scorer, user, item)):
        np.testing.assert_allclose(np.clip(grid.ravel(), *ratings.scale), expected, **EXACT)


@pytest.mark.parametrize("case", CASES, ids=names)
def test_arrays_equal_surprise_on_the_embedded_set(case, films: Ratings, make_config) -> None:
    recommender, algo = train.fit(films, make_config(algorithm=case[0], params=case[1]))
    draw = np.random.default_rng(0)
    users = [*draw.choice(films.users, 1000), "stranger", "1", "stranger"]
    items = [*draw.choice(films.items, 1000), "318", "unheard-of", "unheard-of"]
    expected = surprises(algo, zip(users, items, strict=True))
    np.testing.assert_allclose(recommender.estimate(users, items), expected, **EXACT)
    user, item = np.arange(0, len(films.users), 60), np.arange(len(films.items))
    grid = recommender.scorer.of_users(user, item)
    np.testing.assert_allclose(grid, by_numpy_alone(recommender.scorer, user, item), **EXACT)


def test_similarities_that_are_none_are_left_out(make_config) -> None:
    """Surprise's pearson takes the root of what rounding made negative, where common ratings are constant."""
    draw = np.random.default_rng(3)
    table = [
        (f"u{u}", f"i{i}", round(float(draw.choice([1.1, 2.3, 3.7])), 1))
        for u in range(60) for i in range(12) if draw.random() < 0.5
    ]  # fmt: skip
    ratings = from_frame(pd.DataFrame(table, columns=["user", "item", "rating"]))
    config = make_config(algorithm="KNNWithMeans", params={"sim_options": {"name": "pearson"}})
    with np.errstate(invalid="ignore"):
        plain = catalogue.surprise.KNNWithMeans(verbose=False, sim_options={"name": "pearson"})
        assert np.isnan(plain.fit(catalogue.dataset(ratings).build_full_trainset()).sim).any()
    recommender, algo = train.fit(ratings, config)
    pairs = [(u, i) for u in ratings.users for i in ratings.items]
    np.testing.assert_allclose(
        recommender.estimate(*zip(*pairs, strict=True)), surprises(algo, pairs), **EXACT
    )


def test_many_neighbours_of_nearly_one_similarity() -> None:
    """One that is far nearer than the others leaves these in one bin, more than are sorted by insertion."""
    n = 500
    similarity = np.append(np.linspace(0.001, 0.0069, n - 1), 1.0)
    deviation, near = np.arange(n, dtype=float), np.arange(n, dtype=np.int32)
    mean = weighted_means(similarity, np.array([0]), np.array([n]), near, deviation, 100, 1)
    np.testing.assert_allclose(mean, np.average(deviation[-100:], weights=similarity[-100:]), rtol=1e-12)


def test_of_equally_near_neighbours_the_first_count(make_config) -> None:
    same = [(user, "seen", 3) for user in "abcde"]
    asked = [(user, "asked", rating) for user, rating in zip("bcde", (1, 2, 4, 5), strict=True)]
    ratings = from_frame(pd.DataFrame([*same, *asked], columns=["user", "item", "rating"]))
    recommender, algo = train.fit(ratings, make_config(algorithm="KNNBasic", params={"k": 2}))
    assert recommender.estimate(["a"], ["asked"]) == algo.predict("a", "asked").est == 1.5


def test_items_that_nobody_rated_both_have_no_slope(make_config) -> None:
    table = [("a", "x", 2), ("a", "y", 4), ("b", "z", 5)]
    ratings = from_frame(pd.DataFrame(table, columns=["user", "item", "rating"]))
    recommender, _ = train.fit(ratings, make_config(algorithm="SlopeOne", params={}))
    assert list(recommender.estimate(["a", "a", "b"], ["x", "z", "x"])) == [2, 3, 5]


@pytest.mark.parametrize("case", CASES[8:11], ids=names)
def test_many_pairs_are_answered_in_parts(case, ratings: Ratings, make_config, monkeypatch) -> None:
    recommender, _ = train.fit(ratings, make_config(algorithm=case[0], params=case[1]))
    pairs = list(zip(*[(u, i) for u in ratings.users for i in ratings.items], strict=True))
    whole = recommender.estimate(*pairs)
    parts: list[int] = []
    correction = type(recommender.scorer)._correction
    monkeypatch.setattr(
        type(recommender.scorer),
        "_correction",
        lambda self, x, y: parts.append(len(x)) or correction(self, x, y),
    )
    monkeypatch.setattr(base, "PART", 100)
    np.testing.assert_array_equal(recommender.estimate(*pairs), whole)
    assert len(parts) > 50 and sum(parts) == len(whole)
