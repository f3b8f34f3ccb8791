"""The array scorer against Surprise itself, lists, and persistence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise import dump

from recommender import algorithm, evaluate, train
from recommender.answer import answer
from recommender.config import Config
from recommender.data import Ratings, from_frame
from recommender.errors import InputError
from recommender.model import Factors, Native, Recommender

BY_FORMULA = [
    ("SVD", {"n_factors": 5, "n_epochs": 4}),
    ("SVD", {"n_factors": 5, "n_epochs": 4, "biased": False}),
    ("SVDpp", {"n_factors": 3, "n_epochs": 3}),
    ("NMF", {"n_factors": 4, "n_epochs": 5}),
    ("NMF", {"n_factors": 4, "n_epochs": 5, "biased": True, "lr_bu": 0.002, "lr_bi": 0.002}),
    ("BaselineOnly", {}),
    ("BaselineOnly", {"bsl_options": {"method": "sgd", "n_epochs": 3}}),
]
BY_DUMP = [
    ("KNNBasic", {"k": 5}),
    ("KNNWithMeans", {"k": 5, "sim_options": {"name": "cosine", "user_based": False}}),
    ("KNNWithZScore", {}),
    ("KNNBaseline", {"sim_options": {"name": "pearson_baseline"}, "bsl_options": {"method": "als"}}),
    ("SlopeOne", {}),
    ("CoClustering", {"n_epochs": 3}),
    ("NormalPredictor", {}),
]


def names(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *case[1]])


def trained(
    case: tuple[str, dict[str, Any]], ratings: Ratings, make_config: Callable[..., Config]
) -> tuple[Any, Any]:
    return train.fit(ratings, make_config(algorithm=case[0], params=case[1]))


def test_every_algorithm_is_tried() -> None:
    assert {name for name, _ in BY_FORMULA + BY_DUMP} == set(algorithm.ALGORITHMS)


@pytest.mark.parametrize("case", BY_FORMULA, ids=names)
def test_arrays_equal_surprise(case, ratings: Ratings, make_config, tmp_path: Path) -> None:
    recommender, algo = trained(case, ratings, make_config)
    assert isinstance(recommender.scorer, Factors)
    recommender.save(tmp_path / "r.npz")
    loaded = Recommender.load(tmp_path / "r.npz")
    pairs = [(u, i) for u in (*ratings.users, "stranger") for i in (*ratings.items, "unheard-of")]
    expected = [algo.predict(u, i).est for u, i in pairs]
    for model in (recommender, loaded):
        found = model.estimate(*zip(*pairs, strict=True))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert loaded.digest() == recommender.digest()


@pytest.mark.parametrize("case", BY_FORMULA, ids=names)
def test_arrays_equal_surprise_for_ids_absent_from_a_fold(case, ratings: Ratings, make_config) -> None:
    part = ratings.frame().query("user != '1' and item != '7'")
    algo = algorithm.make(*case, 0)
    algorithm.fit(algo, algorithm.dataset(from_frame(part)).build_full_trainset(), 0)
    user, item = np.divmod(np.arange(len(ratings.users) * len(ratings.items)), len(ratings.items))
    expected = [
        algo.predict(ratings.users[u], ratings.items[i], clip=False).est
        for u, i in zip(user, item, strict=True)
    ]
    factors = algorithm.factors(algo, ratings)
    np.testing.assert_allclose(factors.pairs(user, item), expected, rtol=0, atol=1e-9)
    rows = np.concatenate(
        [factors.of_user(u, np.arange(len(ratings.items))) for u in range(len(ratings.users))]
    )
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz")), st.integers(1, 5), min_size=2
    ),
    st.sampled_from(["SVD", "SVDpp", "NMF", "BaselineOnly"]),
    st.integers(0, 2**32 - 1),
)
def test_arrays_equal_surprise_on_any_ratings(table: dict, name: str, seed: int) -> None:
    ratings = from_frame(
        pd.DataFrame([(u, i, r) for (u, i), r in table.items()], columns=["user", "item", "rating"])
    )
    params = {} if name == "BaselineOnly" else {"n_factors": 2, "n_epochs": 2}
    config = Config.model_validate(
        {"algorithm": name, "params": params, "seed": seed, "data": {"source": "x"}}
    )
    recommender, algo = train.fit(ratings, config)
    pairs = [(u, i) for u in "abcde?" for i in "vwxyz?"]
    expected = [algo.predict(u, i).est for u, i in pairs]
    np.testing.assert_allclose(recommender.estimate(*zip(*pairs, strict=True)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", BY_DUMP, ids=names)
def test_the_others_answer_from_surprises_dump(case, ratings: Ratings, make_config, tmp_path: Path) -> None:
    recommender, algo = trained(case, ratings, make_config)
    assert isinstance(recommender.scorer, Native)
    recommender.save(tmp_path / "r.npz")
    dump.dump(str(tmp_path / "r.dump"), algo=algo)
    with pytest.raises(InputError, match="needs Surprise's dump"):
        Recommender.load(tmp_path / "r.npz")
    loaded = Recommender.load(tmp_path / "r.npz", tmp_path / "r.dump")
    assert loaded.digest() == recommender.digest()
    pairs = [(u, i) for u in ("1", "2", "stranger") for i in (*ratings.items, "unheard-of")]
    np.random.seed(1)
    expected = [algo.predict(u, i).est for u, i in pairs]
    np.random.seed(1)
    np.testing.assert_allclose(loaded.estimate(*zip(*pairs, strict=True)), expected, rtol=0, atol=1e-9)
    assert len(loaded.top_n("1", 3)) == 3


@pytest.mark.parametrize("case", [*BY_FORMULA[:1], *BY_FORMULA[2:4], *BY_DUMP], ids=names)
def test_one_seed_one_model(case, ratings: Ratings, make_config) -> None:
    first, second = (trained(case, ratings, make_config)[0].digest() for _ in range(2))
    assert first == second


def test_another_seed_is_another_model(ratings: Ratings, make_config) -> None:
    assert len({train.fit(ratings, make_config(seed=seed))[0].digest() for seed in (0, 0, 1)}) == 2


def test_saved_file_needs_no_pickle_and_others_are_refused(
    ratings: Ratings, make_config, tmp_path: Path
) -> None:
    trained(BY_FORMULA[0], ratings, make_config)[0].save(tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as stored:
        assert {array.dtype.kind for array in (stored[key] for key in stored.files)} <= set("fiu")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    for name in ("none.npz", "broken.npz", "other.npz"):
        with pytest.raises(InputError, match="no saved recommender"):
            Recommender.load(tmp_path / name)


# Lists


@pytest.fixture(scope="module")
def recommender(ratings: Ratings) -> Recommender:
    algo = algorithm.fit(
        algorithm.make("SVD", {"n_factors": 4, "n_epochs": 3}, 0),
        algorithm.dataset(ratings).build_full_trainset(),
        0,
    )
    settings = {"k": 4, "min_item_ratings": 18, "damping": 5.0}
    return Recommender.build(algorithm.factors(algo, ratings), ratings, settings)


@given(user=st.sampled_from([*(str(u + 1) for u in range(30)), "stranger"]), k=st.integers(1, 30))
def test_lists(recommender: Recommender, ratings: Ratings, user: str, k: int) -> None:
    picks = recommender.top_n(user, k)
    frame = ratings.frame()
    seen = set(frame.item[frame.user == user])
    often = set(frame.item.value_counts().loc[lambda count: count > 17].index)
    assert 0 < len(often) < len(ratings.items)
    assert {pick.item for pick in picks} <= often - seen
    assert len({pick.item for pick in picks}) == len(picks) == min(k, len(often - seen))
    assert [pick.rank for pick in picks] == list(range(1, len(picks) + 1))
    estimates = [pick.estimate for pick in picks]
    assert estimates == sorted(estimates, reverse=True)
    assert all(pick.title == ratings.titles[pick.item] for pick in picks)
    assert picks == recommender.top_n(user, 30)[:k]
    if user != "stranger":
        best = recommender.estimate([user] * len(often - seen), sorted(often - seen))
        np.testing.assert_allclose(estimates, sorted(best, reverse=True)[:k], atol=1e-9)


def test_strangers_get_the_highest_damped_means(recommender: Recommender, ratings: Ratings) -> None:
    frame, damping = ratings.frame(), 5.0
    groups = frame.groupby("item").rating
    damped = (groups.sum() + damping * frame.rating.mean()) / (groups.count() + damping)
    expected = damped[groups.count() > 17].nlargest(3)
    picks = recommender.top_n("stranger", 3)
    assert [pick.item for pick in picks] == list(expected.index)
    assert [pick.estimate for pick in picks] == pytest.approx(list(expected))


def test_minimum_that_no_item_reaches_means_the_most_rated(ratings: Ratings, make_config) -> None:
    config = make_config(recommendation={"min_item_ratings": 10_000})
    most = ratings.frame().item.value_counts()
    picks = train.fit(ratings, config)[0].top_n("stranger", 25)
    assert {pick.item for pick in picks} == set(most[most == most.max()].index)


# Requests


def test_pairs(recommender: Recommender) -> None:
    reply = answer(
        recommender, pd.DataFrame({"user": ["1", "stranger", 2, 2.0], "item": ["7", "none", 7, "7"]})
    )
    assert list(reply.columns) == ["user", "item", "estimate", "known_user"]
    assert list(reply.known_user) == [True, False, True, True]
    assert reply.estimate.between(0.5, 5).all()
    assert reply.estimate[2] == reply.estimate[3]


def test_lists_by_frame(recommender: Recommender) -> None:
    reply = answer(recommender, pd.DataFrame({"user": ["1", "stranger"], "k": [2, np.nan]}))
    assert list(reply.columns) == ["user", "item", "title", "estimate", "rank", "known_user"]
    assert list(reply["rank"]) == [1, 2, 1, 2, 3, 4]
    assert answer(recommender, pd.DataFrame({"user": ["1"]})).shape == (4, 6)
    assert answer(recommender, pd.DataFrame({"user": []})).empty


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"item": ["1"]}, "no column 'user'"),
        ({"user": ["1", None]}, "Row 1 has no user"),
        ({"user": ["1"], "item": [" "]}, "Row 0 has no item"),
        ({"user": ["1"], "k": [0]}, "k = 0"),
        ({"user": ["1"], "k": [1.5]}, "k = 1.5"),
        ({"user": ["1"], "k": ["many"]}, "k = 'many'"),
    ],
)
def test_requests_without_sense(recommender: Recommender, request_: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer(recommender, pd.DataFrame(request_))


# Parameters and evaluation


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("SDV", {}, r"Surprise has no 'SDV'; it has: BaselineOnly, CoClustering"),
        ("AlgoBase", {}, "Surprise has no 'AlgoBase'"),
        ("SVD", {"factors": 3}, "SVD does not take 'factors'; it takes: biased, init_mean"),
        ("KNNBasic", {"kk": 3}, "KNNBasic does not take 'kk'; it takes: bsl_options, k, min_k, sim_options"),
        ("SVD", {"random_state": 3}, "the key 'seed' sets it"),
        ("SlopeOne", {"a": 1}, "it takes: none"),
        ("KNNBasic", {"sim_options": {"name": "psychic"}}, "KNNBasic cannot train with these"),
        ("BaselineOnly", {"bsl_options": {"method": "magic"}}, "BaselineOnly cannot train with these"),
        ("SVD", {"n_factors": "many"}, "SVD cannot train with these"),
        ("SVD", {"lr_all": 1000}, "the training of SVD diverged"),
    ],
)
def test_bad_parameters(ratings: Ratings, make_config, name: str, params: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate.cross_validate(ratings, make_config(algorithm=name, params=params))


def test_options_of_one_algorithm_do_not_leak_into_another() -> None:
    algorithm.make("KNNBasic", {"sim_options": {"user_based": False}}, 0)
    assert algorithm.make("KNNBasic", {}, 0).sim_options == {"user_based": True}
    given_ = {"sim_options": {"name": "cosine"}}
    algorithm.make("KNNBasic", given_, 0)
    assert given_ == {"sim_options": {"name": "cosine"}}


def test_cross_validation_equals_surprises_own(ratings: Ratings, make_config) -> None:
    from surprise.model_selection import KFold, cross_validate

    config = make_config(evaluation={"folds": 3})
    lines: list[str] = []
    result = evaluate.cross_validate(ratings, config, lines.append)
    theirs = cross_validate(
        algorithm.make("SVD", config.params, 0), algorithm.dataset(ratings), cv=KFold(3, random_state=0)
    )
    np.testing.assert_allclose([fold.rmse for fold in result.folds], theirs["test_rmse"], atol=1e-12)
    np.testing.assert_allclose([fold.mae for fold in result.folds], theirs["test_mae"], atol=1e-12)
    assert result.mean()["rmse"] == pytest.approx(theirs["test_rmse"].mean())
    assert len(result.true) == len(result.estimate) == len(ratings)
    assert [line.split(":")[0] for line in lines] == ["fold 1/3", "fold 2/3", "fold 3/3"]
    assert result.table(5).splitlines()[-1].split()[:2] == ["mean", f"{result.mean()['rmse']:.4f}"]


def test_fewer_ratings_than_folds(make_config) -> None:
    two = from_frame(pd.DataFrame({"user": ["1", "2"], "item": ["1", "1"], "rating": [1, 2]}))
    with pytest.raises(InputError, match="2 ratings cannot make 5 folds"):
        evaluate.cross_validate(two, make_config(evaluation={"folds": 5}))
