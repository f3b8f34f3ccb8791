"""Lists for many, new users without training, similar items, reasons: against the slow or the exact way."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from recommender import train
from recommender.algorithms import catalogue, convert, trainset
from recommender.config import Config, DataConfig
from recommender.data import reading
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from recommender.errors import InputError
from recommender.serving import manifest
from recommender.serving import recommender as listing
from recommender.serving.answer import answer
from recommender.serving.recommender import Recommender
from recommender.serving.scorers import factors
from tests.conftest import ROOT
from tests.test_scoring import CASES, names

ALL = {"min_item_ratings": 0}


def rows_of(blocks: Any) -> dict[int, list[tuple[int, float, int]]]:
    lists: dict[int, list[tuple[int, float, int]]] = defaultdict(list)
    for block in blocks:
        columns = (block.user, block.item, block.estimate, block.rank)
        for user, item, estimate, rank in zip(*(column.tolist() for column in columns), strict=True):
            lists[user].append((item, estimate, rank))
    return lists


def the_faqs_way(algo: Any, n: int) -> dict[str, list[tuple[str, float]]]:
    """Surprise's FAQ, "How to get the top-N recommendations for each user"."""
    top: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, item, _, estimate, _ in algo.test(algo.trainset.build_anti_testset()):
        top[user].append((item, estimate))
    for estimates in top.values():
        estimates.sort(key=lambda pair: pair[1], reverse=True)
    return {user: estimates[:n] for user, estimates in top.items()}


@pytest.mark.parametrize("case", CASES, ids=names)
def test_lists_for_all_equal_the_faqs(case, ratings: Ratings, make_config, monkeypatch) -> None:
    recommender, algo = train.fit(ratings, make_config(algorithm=case[0], params=case[1], recommendation=ALL))
    # A few users a block.
    monkeypatch.setattr(listing, "BLOCK", 9 * len(ratings.items))
    expected = the_faqs_way(algo, 5)
    blocks = list(recommender.recommend(k=5))
    assert len(blocks) == -(-len(ratings.users) // 9)
    lists = rows_of(blocks)
    assert len(lists) == len(ratings.users)
    for at, picks in lists.items():
        theirs = expected[ratings.users[at]]
        np.testing.assert_allclose(
            [estimate for _, estimate, _ in picks], [estimate for _, estimate in theirs], rtol=0, atol=1e-9
        )
        assert [rank for *_, rank in picks] == list(range(1, len(theirs) + 1))
        # Which of equally good items comes first is not the FAQ's to say, nor which are cut off.
        estimates = [estimate for _, estimate in theirs]
        for (item, *_), (raw, estimate) in zip(picks, theirs, strict=True):
            if estimate > estimates[-1] + 1e-6 and sum(abs(e - estimate) < 1e-6 for e in estimates) == 1:
                assert ratings.items[item] == raw


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_at_a_time_or_in_blocks_of_any_size(data_) -> None:
    # Few different scores, so that equal ones abound.
    n, m = data_.draw(st.integers(1, 6)), data_.draw(st.integers(1, 8))
    seen = data_.draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, m - 1)), min_size=1))
    score = np.array(data_.draw(st.lists(st.sampled_from([1.0, 2.0, 2.5]), min_size=n * m, max_size=n * m)))
    score = score.reshape(n, m) + data_.draw(st.sampled_from([0, 1e-13])) * np.arange(n * m).reshape(n, m)
    ratings = from_frame(
        pd.DataFrame([(f"u{u}", f"i{i}", 3) for u, i in seen], columns=["user", "item", "rating"])
    )
    users, items = len(ratings.users), len(ratings.items)
    padded = np.vstack((score[:users, :items], np.full(items, 3.0)))
    # Factors that are the scores themselves.
    scorer = factors.Factors(
        0.0,
        3.0,
        np.zeros(users + 1),
        np.zeros(items + 1),
        padded,
        np.vstack((np.eye(items), np.zeros(items))),
    )
    least, k = data_.draw(st.integers(0, 3)), data_.draw(st.integers(1, 9))
    recommender = convert.build(scorer, ratings, {"k": 3, "min_item_ratings": least, "damping": 1})
    count = np.bincount(ratings.item, minlength=items)
    expected = {}
    for u in range(users):
        mine = set(ratings.item[ratings.user == u].tolist())
        often = count >= min(least, count.max())
        open_ = [i for i in range(items) if i not in mine and often[i]]
        first = sorted(open_, key=lambda i: (-np.round(padded[u, i], 6), -count[i], i))
        level = padded[u][~often].mean() if not often.all() else 0.0
        shrunk = level + count / (count + 1) * (padded[u] - level)
        few = [i for i in range(items) if i not in mine and not often[i]]
        rest = sorted(few, key=lambda i: (-np.round(shrunk[i], 6), -count[i], i))
        expected[u] = (first + rest)[:k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "BLOCK", data_.draw(st.integers(1, 50)))
        lists = rows_of(recommender.recommend(k=k))
    assert {u: [item for item, *_ in lists[u]] for u in range(users)} == expected
    for u, user in enumerate(ratings.users):
        assert [pick.item for pick in recommender.top_n(user, k)] == [ratings.items[i] for i in expected[u]]


@pytest.fixture(scope="module")
def trained(ratings: Ratings) -> Recommender:
    config = Config.model_validate(
        {
            "params": {"n_factors": 4, "n_epochs": 30},
            "data": {"source": "x"},
            "recommendation": {"min_item_ratings": 3},
        }
    )
    return train.fit(ratings, config)[0]


def test_strangers_among_many_get_the_popular(trained: Recommender) -> None:
    asked = ["stranger", "1", "another", "2", "1"]
    lists = rows_of(trained.recommend(asked, 3))
    for at, user in enumerate(asked):
        assert [trained.items[item] for item, *_ in lists[at]] == [
            pick.item for pick in trained.top_n(user, 3)
        ]
    assert lists[0] == lists[2] and lists[1] == lists[4] != lists[3]
    best = trained.popularity[[item for item, *_ in lists[0]]]
    assert list(best) == sorted(trained.popularity[trained.count >= 3], reverse=True)[:3]
    [block] = trained.recommend(asked, 3)
    assert block.known.tolist() == [user in trained.users for user in asked for _ in range(3)]


def test_more_than_there_is(trained: Recommender) -> None:
    lists = rows_of(trained.recommend(k=10**9))
    for at, picks in lists.items():
        seen = set(trained.rated[trained.start[at] : trained.start[at + 1]].tolist())
        assert {item for item, *_ in picks} == set(range(len(trained.items))) - seen
    assert list(trained.recommend([])) == []


@pytest.fixture(scope="module")
def long_tail() -> Ratings:
    """As in a shop: two items have 20 ratings, the other 300 have one to four."""
    draw = np.random.default_rng(0)
    pairs = {(u, i) for i in (0, 1) for u in draw.choice(100, 20, replace=False).tolist()}
    pairs |= {(u, i) for i in range(2, 302) for u in draw.choice(100, i % 4 + 1, replace=False).tolist()}
    lines = [(f"u{u}", f"i{i}", draw.integers(1, 6)) for u, i in sorted(pairs)]
    return from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]))


SHOPS = [
    ("SVD", {}), ("BMF", {"n_epochs": 2}), ("EASE", {}), ("UserEASE", {}), ("KNNBasic", {}),
    ("BaselineOnly", {}),
]  # fmt: skip


@pytest.mark.parametrize("case", SHOPS, ids=names)
def test_lists_of_a_long_tail_are_filled_up(case, long_tail: Ratings, make_config, monkeypatch) -> None:
    rules = {"k": 10, "min_item_ratings": 20, "damping": 5}
    config = make_config(algorithm=case[0], params=case[1], recommendation=rules)
    recommender, _ = train.fit(long_tail, config)
    monkeypatch.setattr(listing, "BLOCK", 9 * len(long_tail.items))
    lists = rows_of(recommender.recommend(k=10))
    often = {at for at, count in enumerate(recommender.count.tolist()) if count >= 20}
    assert len(often) == 2
    for at, user in enumerate(long_tail.users):
        seen = set(recommender.rated[recommender.start[at] : recommender.start[at + 1]].tolist())
        items = [item for item, *_ in lists[at]]
        assert len(set(items)) == 10 and not seen & set(items)
        assert set(items[: len(often - seen)]) == often - seen
        assert [rank for *_, rank in lists[at]] == list(range(1, 11))
        # shrunk, the rest goes down
        rest = [estimate for item, estimate, _ in lists[at] if item not in often]
        assert rest == sorted(rest, reverse=True)
        if at % 10 == 0:
            mine = recommender.top_n(user, 10)
            assert [pick.item for pick in mine] == [long_tail.items[item] for item in items]
            assert [pick.item for pick in recommender.top_n(user, 10, {})] == [pick.item for pick in mine]
    if case[0] != "BaselineOnly":
        assert len({tuple(sorted(item for item, *_ in picks)) for picks in lists.values()}) > 20
    for history in (None, {"i7": 5.0}):
        assert len(recommender.top_n("stranger", 10, history)) == 10


def test_few_ratings_shrink_what_is_thought_of_an_item(long_tail: Ratings) -> None:
    m = len(long_tail.items)
    count = np.bincount(long_tail.item, minlength=m)
    once, often = (int(np.flatnonzero(count == n)[-1]) for n in (1, 4))
    bias = np.zeros(m + 1)
    bias[[once, often]] = 1.0, 0.6
    n = len(long_tail.users)
    scorer = factors.Factors(3.0, 3.0, np.zeros(n + 1), bias, np.zeros((n + 1, 0)), np.zeros((m + 1, 0)))
    settings = {"k": 10, "min_item_ratings": 20, "damping": 5}
    recommender = convert.build(scorer, long_tail, settings)
    user = next(u for u in range(n) if not set(long_tail.item[long_tail.user == u]) & {once, often, 0, 1})
    picks = recommender.top_n(long_tail.users[user], 4)
    assert [pick.item for pick in picks[2:]] == [long_tail.items[often], long_tail.items[once]]
    level = 3.0 + 1.6 / (m - 2)
    assert picks[2].estimate == pytest.approx(level + 4 / 9 * (3.6 - level))
    assert picks[3].estimate == pytest.approx(level + 1 / 6 * (4.0 - level))


def test_a_model_from_before_fills_up_too(long_tail: Ratings, make_config, tmp_path: Path) -> None:
    recommender, _ = train.fit(long_tail, make_config(recommendation={"min_item_ratings": 20}))
    recommender.save(tmp_path / "saved", {})
    settings = {key: value for key, value in recommender.settings.items() if key != "damping"}
    was = Recommender(**{**vars_of(recommender), "settings": settings})
    assert Recommender.load(tmp_path / "saved").top_n("u1") == was.top_n("u1")
    assert len(was.top_n("u1")) == 10


def test_items_alike_are_filled_up(long_tail: Ratings, make_config) -> None:
    config = make_config(algorithm="BaselineOnly", params={}, recommendation={"min_item_ratings": 20})
    recommender, _ = train.fit(long_tail, config)
    picks = recommender.similar("i0", 10)
    assert len(picks) == 10 and {pick.item for pick in picks[:1]} == {"i1"}
    rest = [pick.estimate for pick in picks[1:]]
    assert rest == sorted(rest, reverse=True) and rest[-1] > 0


def test_somebody_who_has_rated_everything_gets_nothing(make_config) -> None:
    lines = [("all", f"i{i}", 3) for i in range(4)] + [("some", "i0", 3), ("some", "i1", 4)]
    ratings = from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]))
    recommender, _ = train.fit(ratings, make_config(recommendation={"min_item_ratings": 2}))
    assert recommender.top_n("all") == []
    assert {pick.item for pick in recommender.top_n("some")} == {"i2", "i3"}


# New users, without training


def history_of(ratings: Ratings, at: int) -> dict[str, float]:
    row = ratings.user == at
    return {
        ratings.items[item]: float(r) for item, r in zip(ratings.item[row], ratings.rating[row], strict=True)
    }


# AutoEASE is EASE here: users are more than items
EXACT = [case for case in CASES if case[0].startswith(("KNN", "Slope", "EASE", "Auto"))]


@pytest.mark.parametrize("case", EXACT, ids=names)
def test_folded_in_is_trained(case, ratings: Ratings, make_config) -> None:
    """Somebody with a known user's ratings is given that user's estimates, of what both have not seen."""
    recommender, _ = train.fit(ratings, make_config(algorithm=case[0], params=case[1], recommendation=ALL))
    for at in range(0, len(ratings.users), 7):
        history = history_of(ratings, at)
        open_ = [item for item in ratings.items if item not in history]
        folded = recommender.estimate([""] * len(open_), open_, history)
        np.testing.assert_allclose(
            folded, recommender.estimate([ratings.users[at]] * len(open_), open_), rtol=0, atol=1e-9
        )
        mine, theirs = recommender.top_n("new", 4, history), recommender.top_n(ratings.users[at], 4)
        assert [pick.item for pick in mine] == [pick.item for pick in theirs]


MEASURES = ["cosine", "msd", "pearson", "pearson_baseline"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefg"), st.sampled_from("tuvwxyz")),
        st.sampled_from([1, 2, 2.5, 3.3, 5]), min_size=10,
    ),
    st.sampled_from(["KNNBasic", "KNNWithMeans", "KNNWithZScore", "KNNBaseline"]),
    st.sampled_from(MEASURES), st.integers(1, 3), st.booleans(),
)  # fmt: skip
def test_any_neighbourhood_folds_in(table: dict, name: str, measure: str, least: int, by_user: bool) -> None:
    lines = [(u, i, r) for (u, i), r in table.items()]
    ratings = from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]))
    options = {"name": measure, "min_support": least, "user_based": by_user}
    algo = catalogue.make(name, {"k": 3, "sim_options": options}, 0)
    try:
        catalogue.fit(algo, trainset.full(ratings))
    except InputError:
        return  # pearson_baseline divides by zero where every rating is its baseline
    scorer = convert.scorer(algo, ratings)
    history = ratings.user == 0
    item, rating = ratings.item[history], ratings.rating[history]
    folded = scorer.fold_in(item, rating, convert.fold_in_parameters(algo, scorer, ratings))
    if folded is None:
        assert by_user and measure == "pearson_baseline" and name != "KNNBaseline"
        return
    open_ = np.setdiff1d(np.arange(len(ratings.items)), item)
    np.testing.assert_allclose(
        folded.of_user(folded.n_users - 1, open_), scorer.of_user(0, open_), rtol=0, atol=1e-9
    )


PEERS = [case for case in CASES if case[0] == "UserEASE"]


@pytest.mark.parametrize("case", PEERS, ids=names)
def test_user_ease_folds_in_by_ridge_regression_on_the_others(case, ratings: Ratings, make_config) -> None:
    recommender, algo = train.fit(ratings, make_config(algorithm=case[0], params=case[1], recommendation=ALL))
    history = history_of(ratings, 3)
    item = np.array([ratings.items.index(raw) for raw in history])
    rating = np.array(list(history.values()))
    to_ours = np.array([ratings.items.index(algo.trainset.to_raw_iid(i)) for i in range(len(ratings.items))])
    rows = np.zeros((len(ratings.users), len(ratings.items)))
    owner = np.repeat(np.arange(len(ratings.users)), np.diff(algo.start))
    rows[owner, to_ours[algo.rated]] = algo.value
    scale = algo.unit * len(history) ** -algo.activity
    mine = np.zeros(len(ratings.items))
    mine[item] = scale * (1 - algo.rating_weight + algo.rating_weight * (rating - 0.5) / 4.5)
    weights = Ridge(alpha=algo.reg, fit_intercept=False).fit(rows.T, mine).coef_
    expected = np.clip(0.5 + 4.5 * (weights @ rows) / scale, 0.5, 5)
    stranger = recommender.estimate([""] * len(ratings.items), ratings.items, history)
    np.testing.assert_allclose(stranger, expected, atol=1e-9)
    # A known user's old row is no other user's: the same ratings give the same answers.
    for at in range(0, len(ratings.users), 7):
        user, again = ratings.users[at], history_of(ratings, at)
        known = recommender.estimate([user] * len(ratings.items), ratings.items)
        with_history = recommender.estimate([user] * len(ratings.items), ratings.items, again)
        np.testing.assert_allclose(with_history, known, rtol=0, atol=1e-9)
        mine, theirs = recommender.top_n(user, 4, again), recommender.top_n(user, 4)
        assert [pick.item for pick in mine] == [pick.item for pick in theirs]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("case", PEERS, ids=names)
def test_reasons_of_user_ease_add_up_to_the_score(case, known: bool, ratings: Ratings, make_config) -> None:
    recommender, _ = train.fit(ratings, make_config(algorithm=case[0], params=case[1], recommendation=ALL))
    history, user = history_of(ratings, 4), ratings.users[4]
    who = user if known else "new"
    pick = recommender.top_n(who, 1, history)[0]
    found = recommender.reasons(who, pick.item, 100, history)
    assert found and all(history[reason.item] == reason.rating for reason in found)
    item = np.array([ratings.items.index(raw) for raw in history])
    rating, at = np.array(list(history.values())), ratings.items.index(pick.item)
    number = ratings.users.index(user) if known else -1
    terms = recommender.scorer.reasons(at, item, rating, {}, number)
    folded = recommender.scorer.fold_in(item, rating, {}, number)
    assert 0.5 + terms.sum() == pytest.approx(folded.pairs(np.array([0]), np.array([at]))[0], abs=1e-9)
    assert sum(reason.share for reason in found) == pytest.approx(terms[terms > 0].sum())


FACTORED = [case for case in CASES if case not in EXACT + PEERS]


@pytest.mark.parametrize("case", FACTORED, ids=names)
def test_factors_fold_in_by_ridge_regression(case, ratings: Ratings, make_config) -> None:
    recommender, _ = train.fit(ratings, make_config(algorithm=case[0], params=case[1]))
    scorer, noise = recommender.scorer, recommender.settings["fold_in"]["noise"]
    residual = ratings.rating - np.clip(scorer.pairs(ratings.user, ratings.item), 0.5, 5)
    assert noise == pytest.approx(np.mean(residual**2))
    history = history_of(ratings, 3)
    item = np.array([ratings.items.index(raw) for raw in history])
    rating = np.array(list(history.values()))
    folded = scorer.fold_in(item, rating, {"noise": noise})
    # The same posterior mean in its textbook form, where the prior has an inverse.
    users = np.column_stack((scorer.user_bias, scorer.user_factors))[:-1]
    mean, spread = users.mean(axis=0), np.cov(users, rowvar=False, bias=True).reshape(users.shape[1], -1)
    x = np.column_stack((np.ones(len(item)), scorer.item_factors[item]))
    target = rating - scorer.base - scorer.item_bias[item]
    free = np.linalg.svd(spread)[0][:, np.linalg.svd(spread)[1] > 1e-12]
    inverse = np.linalg.inv(free.T @ spread @ free)
    w = mean + free @ np.linalg.solve(
        free.T @ x.T @ x @ free / noise + inverse, free.T @ x.T @ (target - x @ mean) / noise
    )
    found = np.append(folded.user_bias[0], folded.user_factors[0])
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-7)
    # The more ratings, the more they count; none at all, and one is like everybody.
    nobody = scorer.fold_in(item[:0], rating[:0], {"noise": noise})
    np.testing.assert_allclose(np.append(nobody.user_bias[0], nobody.user_factors[0]), mean, atol=1e-12)


def test_folding_in_is_better_than_knowing_nothing(make_config) -> None:
    ratings = reading.read(DataConfig(source=str(ROOT / "data" / "ml-latest-small")))
    new = ratings.user % 10 == 0
    recommender, _ = train.fit(from_frame(ratings.frame()[~new]), make_config(params={"n_epochs": 10}))
    folded, stranger = [], []
    for at in range(0, len(ratings.users), 10):
        history = list(history_of(ratings, at).items())
        items = [item for item, _ in history[1::2]]
        truth = np.array([rating for _, rating in history[1::2]])
        folded += list(truth - recommender.estimate([""] * len(items), items, dict(history[::2])))
        stranger += list(truth - recommender.estimate(["?"] * len(items), items))
    # Measured: 0.86 and 0.92; trained again with the shown half it is 0.88.
    assert np.mean(np.square(folded)) < 0.92 * np.mean(np.square(stranger))


def test_a_history_adds_to_what_is_known(trained: Recommender) -> None:
    unseen = trained.top_n("1", 1)[0].item
    for user in ("1", "stranger"):
        picks = trained.top_n(user, 100, {unseen: 5.0})
        assert unseen not in [pick.item for pick in picks]
    assert len(trained.top_n("1", 100, {unseen: 5.0})) == len(trained.top_n("1", 100)) - 1
    assert trained.top_n("stranger", 3, {"unheard-of": 5.0}) == trained.top_n("stranger", 3)
    assert trained.top_n("stranger", 3, {}) == trained.top_n("stranger", 3)
    for wrong in (9, float("nan"), "5", None):
        with pytest.raises(InputError, match=r"rating .* of item '7' is not on the scale 0\.5 to 5"):
            trained.top_n("1", 3, {"7": wrong})


def test_a_history_that_adds_nothing_changes_nothing(trained: Recommender) -> None:
    known = trained.estimate(["1"], ["7"])
    for history in ({}, {"unheard-of": 5.0}):
        assert trained.estimate(["1"], ["7"], history) == known


@pytest.mark.parametrize("by_user", [True, False])
def test_a_history_beside_ratings_that_float32_cannot_hold(by_user: bool, make_config) -> None:
    draw = np.random.default_rng(0)
    pairs = sorted(
        {(u, i) for u, i in zip(draw.integers(40, size=600), draw.integers(25, size=600), strict=True)}
    )
    table = [(f"u{u}", f"i{i}", draw.choice([3.3, 3.4, 4.1])) for u, i in pairs]
    ratings = from_frame(pd.DataFrame(table, columns=["user", "item", "rating"]))
    params = {"k": 3, "sim_options": {"user_based": by_user}}
    recommender, _ = train.fit(ratings, make_config(algorithm="KNNBasic", params=params, recommendation=ALL))
    for at, user in enumerate(ratings.users):
        history = history_of(ratings, at)
        open_ = [item for item in ratings.items if item not in history]
        again = dict([next(iter(history.items()))])
        known, new = (
            recommender.estimate([who] * len(open_), open_, what)
            for who, what in ((user, again), ("new", history))
        )
        np.testing.assert_allclose(known, new, rtol=0, atol=1e-9)


def test_asked_in_other_ways(trained: Recommender) -> None:
    [one] = trained.recommend("1", 2)
    assert set(one.user.tolist()) == {0} and [*one.item] == [*next(trained.recommend(["1"], 2)).item]
    assert trained.top_n(1, 2) == trained.top_n("1", 2)
    for ask in (lambda k: trained.top_n("1", k), lambda k: trained.similar("7", k)):
        for k in (0, -1):
            with pytest.raises(InputError, match=f"k is {k}: ask for at least one"):
                ask(k)


# Similar items and reasons


def test_similar_items(trained: Recommender, ratings: Ratings, make_config) -> None:
    picks = trained.similar("7", 3)
    factors = trained.scorer.item_factors[:-1]
    cosine = factors @ factors[0] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[0])
    cosine[[0, *np.flatnonzero(trained.count < 3)]] = -1
    assert [pick.item for pick in picks] == [trained.items[i] for i in np.argsort(-cosine)[:3]]
    assert [pick.estimate for pick in picks] == pytest.approx(sorted(cosine, reverse=True)[:3])
    with pytest.raises(InputError, match="item 'unheard-of' is unknown"):
        trained.similar("unheard-of")
    by_item = {"sim_options": {"name": "cosine", "user_based": False}}
    neighbours, algo = train.fit(ratings, make_config(algorithm="KNNBasic", params=by_item))
    inner = algo.trainset.to_inner_iid("7")
    for pick in neighbours.similar("7", 4):
        assert pick.estimate == algo.sim[inner, algo.trainset.to_inner_iid(pick.item)]
    biases, _ = train.fit(ratings, make_config(algorithm="BaselineOnly", params={}))
    rated = np.zeros((len(ratings.users), len(ratings.items)))
    rated[ratings.user, ratings.item] = 1
    shared = rated.T @ rated[:, 0] / np.sqrt(rated.sum(axis=0) * rated[:, 0].sum())
    [best] = biases.similar("7", 1)
    assert best.estimate == pytest.approx(max(shared[1:]))


@pytest.mark.parametrize(
    "case",
    [CASES[0], CASES[2], CASES[3], ("KNNWithMeans", {"sim_options": {"user_based": False}}), CASES[16]],
    ids=names,
)
def test_reasons_add_up(case, ratings: Ratings, make_config) -> None:
    recommender, _ = train.fit(ratings, make_config(algorithm=case[0], params=case[1]))
    history = history_of(ratings, 4)
    pick = recommender.top_n(ratings.users[4], 1)[0]
    at = ratings.items.index(pick.item)
    found = recommender.reasons(ratings.users[4], pick.item, 100)
    assert found and all(history[reason.item] == reason.rating for reason in found)
    shares = [reason.share for reason in found]
    assert shares == sorted(shares, reverse=True) and shares[-1] > 0
    assert recommender.reasons("new", pick.item, 100, history) == found
    # All of them, those that speak against it too, make the difference to what is thought of everybody.
    item = np.array([ratings.items.index(raw) for raw in history])
    how = recommender.settings["fold_in"]
    terms = recommender.scorer.reasons(at, item, np.array(list(history.values())), how)
    folded = recommender.scorer.fold_in(item, np.array(list(history.values())), how)
    if isinstance(folded, factors.Factors):
        mean = recommender.scorer.user_factors[:-1].mean(axis=0)
        difference = (folded.user_factors[0] - mean) @ folded.item_factors[at]
    else:
        level = folded.base + folded.user_level[0] + folded.item_level[at]
        difference = folded.pairs(np.array([0]), np.array([at]))[0] - level
    assert terms.sum() == pytest.approx(difference)


def test_no_reasons_where_there_are_none(trained: Recommender, ratings: Ratings, make_config) -> None:
    assert trained.reasons("stranger", "7") == [] == trained.reasons("1", "unheard-of")
    for name in ("KNNBasic", "SlopeOne", "BaselineOnly"):
        assert train.fit(ratings, make_config(algorithm=name, params={}))[0].reasons("1", "7") == []


# Persistence and the served contract


def test_folding_in_survives_saving_and_changes_nothing(trained: Recommender, tmp_path: Path) -> None:
    before = trained.digest()
    trained.save(tmp_path / "saved", {})
    loaded = Recommender.load(tmp_path / "saved")
    history = {"7": 5.0, "17": 1.0}
    assert loaded.top_n("new", 3, history) == trained.top_n("new", 3, history)
    assert loaded.reasons("1", "27") == trained.reasons("1", "27")
    assert loaded.digest() == trained.digest() == before


def test_a_model_of_format_1_still_answers(trained: Recommender, tmp_path: Path, monkeypatch) -> None:
    arrays = trained.arrays()
    del arrays["rating"]
    old = {key: value for key, value in trained.settings.items() if key != "fold_in"}
    monkeypatch.setattr(manifest, "FORMAT", 1)
    was = Recommender(**{**vars_of(trained), "settings": old, "rating": None})
    was.save(tmp_path / "old", {})
    loaded = Recommender.load(tmp_path / "old")
    assert loaded.top_n("1", 3) == trained.top_n("1", 3)
    # It has nothing to fold in with, and says so by known_user.
    assert loaded.top_n("new", 3, {"7": 5.0})[0].item != "7"
    assert loaded.reasons("1", "7") == []


def vars_of(recommender: Recommender) -> dict[str, Any]:
    return {name: getattr(recommender, name) for name in Recommender.__dataclass_fields__}


def test_requests_with_history_reasons_and_similar_items(trained: Recommender) -> None:
    history = {"7": 5, " 17": 1.5, "unheard-of": 3}
    request = pd.DataFrame(
        {"user": ["new", "1", "new"], "k": [2, 3, None], "history": [history, None, {"unheard-of": 3}]}
    )
    reply = answer(trained, request.assign(reasons=[1, None, 1]))
    assert list(reply.columns) == [
        "user",
        "item",
        "title",
        "estimate",
        "score",
        "rank",
        "known_user",
        "because",
    ]
    assert list(reply.user) == ["new"] * 2 + ["1"] * 3 + ["new"] * 10
    assert list(reply.known_user) == [True] * 5 + [False] * 10
    picks = trained.top_n("new", 2, {"7": 5, "17": 1.5})
    assert list(reply.item[:2]) == [pick.item for pick in picks]
    reasons = [trained.reasons("new", pick.item, 1, {"7": 5, "17": 1.5}) for pick in picks]
    assert list(reply.because[:2]) == ["; ".join(f"{r.title} ({r.rating:g})" for r in row) for row in reasons]
    assert set(reply.because[2:]) == {""}
    assert "because" not in answer(trained, request)
    pairs = answer(
        trained, pd.DataFrame({"user": ["new"] * 2, "item": ["27"] * 2, "history": [history, None]})
    )
    assert list(pairs.known_user) == [True, False]
    assert pairs.estimate[0] == trained.estimate(["new"], ["27"], {"7": 5, "17": 1.5})[0] != pairs.estimate[1]
    near = answer(trained, pd.DataFrame({"similar_to": ["7", "17"], "k": [2, 1]}))
    assert list(near.columns) == ["similar_to", "item", "title", "similarity", "rank"]
    assert list(near["rank"]) == [1, 2, 1]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"user": ["1"], "history": [{"7": 9}]},
            "Row 0, history: rating 9.0 of item '7' is not on the scale",
        ),
        ({"user": ["1", "2"], "history": [None, "7=5"]}, "Row 1 has history = '7=5'"),
        ({"user": ["1"], "item": ["7"], "history": [{"7": None}]}, "Row 0, history: rating None"),
        ({"user": ["1"], "reasons": [0]}, "Row 0 asks for reasons = 0"),
        ({"similar_to": ["nothing"]}, "item 'nothing' is unknown"),
        ({"similar_to": [None]}, "Row 0 has no similar_to"),
    ],
)
def test_requests_without_sense(trained: Recommender, request_: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer(trained, pd.DataFrame(request_))
