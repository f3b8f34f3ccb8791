"""Models with two heads: one algorithm rates, the other orders the lists. And the gate on lists."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import surprise
from pydantic import ValidationError

from recommender import train
from recommender.algorithms import catalogue, dump, heads, trainset
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from recommender.errors import InputError
from recommender.evaluation import metrics, validation
from recommender.promotion import evidence, gate
from recommender.serving import Recommender
from recommender.serving.answer import answer
from recommender.serving.scorers import base

PAIRS = [
    (("SVD", {"n_factors": 4, "n_epochs": 3}), ("AutoEASE", {})),
    (("BMF", {"n_factors": 2, "n_epochs": 3}), ("EASE", {"min_ratings": 2})),
    (("KNNBasic", {"k": 5}), ("BMF", {"n_factors": 2, "n_epochs": 3})),
    (("SlopeOne", {}), ("KNNBaseline", {})),
]


def names(pair: Any) -> str:
    return f"{pair[0][0]}-{pair[1][0]}"


@pytest.fixture(scope="module", params=PAIRS, ids=names)
def three(request: pytest.FixtureRequest, ratings: Ratings) -> tuple[Recommender, Recommender, Recommender]:
    """A model with two heads, and each of the heads alone."""
    (rating, params), (ranking, others) = request.param
    content = {
        "data": {"source": "x"}, "evaluation": {"k": 5},
        "recommendation": {"k": 4, "min_item_ratings": 3},
    }  # fmt: skip
    one = {"algorithm": rating, "params": params}
    two = {"algorithm": ranking, "params": others}
    both, first, second = (
        train.fit(ratings, Config.model_validate({**content, **keys}))[0]
        for keys in ({**one, "ranking": two}, one, two)
    )
    return both, first, second


HISTORIES = [None, {"7": 5.0, "17": 1.0}, {"27": 4.5}]


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("user", ["1", "2", "stranger"])
def test_one_head_orders_and_the_other_estimates(three, user: str, history) -> None:
    both, rating, ranking = three
    picks, others = (model.top_n(user, 6, history) for model in (both, ranking))
    if user == "stranger" and history is None and isinstance(ranking.scorer, base.PickScorer):
        # alone, it shows strangers the best rated; here it orders them too
        score = ranking.scorer.of_user(-1, np.arange(len(ranking.items)))
        shown = [score[both.items.index(pick.item)] for pick in picks]
        assert shown == sorted(score, reverse=True)[:6]
    else:
        assert [pick.item for pick in picks] == [pick.item for pick in others]
        assert [pick.score for pick in picks] == [pick.score for pick in others]
    items = [pick.item for pick in picks]
    estimates = rating.estimate([user] * len(items), items, history)
    np.testing.assert_array_equal([pick.estimate for pick in picks], estimates)
    np.testing.assert_array_equal(both.estimate([user] * 25, both.items, history), rating.estimate(
        [user] * 25, both.items, history
    ))  # fmt: skip


def test_similar_and_reasons_are_of_what_orders(three) -> None:
    both, _, ranking = three
    for item in ("7", "17", "107"):
        assert both.similar(item, 5) == ranking.similar(item, 5)
        assert both.reasons("1", item, 3) == ranking.reasons("1", item, 3)
        assert both.reasons("new", item, 3, {"27": 5}) == ranking.reasons("new", item, 3, {"27": 5})


def test_stored_and_read(three, tmp_path: Path) -> None:
    both, rating, _ = three
    both.save(tmp_path / "saved", {})
    loaded = Recommender.load(tmp_path / "saved")
    assert loaded.digest() == both.digest() != rating.digest()
    assert repr(loaded) == repr(both)
    for history in HISTORIES:
        assert loaded.top_n("1", 5, history) == both.top_n("1", 5, history)
    request = pd.DataFrame({"user": ["1", "stranger"], "reasons": [2, 2]})
    pd.testing.assert_frame_equal(answer(loaded, request), answer(both, request))


def test_the_score_says_where_on_the_scale(ratings: Ratings, make_config) -> None:
    model, _ = train.fit(ratings, make_config())
    for pick in model.top_n("1"):
        low, high = ratings.scale
        assert low + (high - low) * pick.score == pytest.approx(pick.estimate)


def test_surprise_takes_a_model_with_two_heads(ratings: Ratings, make_config, tmp_path: Path) -> None:
    config = make_config(ranking={"algorithm": "AutoEASE"})
    both = catalogue.of(config)
    assert isinstance(both, heads.TwoHeads)
    table = catalogue.dataset(ratings)
    one, two = (
        surprise.model_selection.cross_validate(
            algo, table, cv=surprise.model_selection.KFold(2, random_state=0)
        )
        for algo in (both, catalogue.make("SVD", config.params, 0))
    )
    np.testing.assert_array_equal(one["test_rmse"], two["test_rmse"])
    catalogue.fit(both, trainset.full(ratings))
    dump.save(both, tmp_path / "native", {})
    stored = dump.load(tmp_path / "native")
    # Surprise's own class: what rates
    assert type(stored) is surprise.SVD
    assert stored.predict("1", "7").est == both.predict("1", "7").est


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ({"algorithm": "EAZE"}, "ranking.algorithm: there is no 'EAZE'"),
        ({"algorithm": "EASE", "params": {"regg": 1}}, "ranking.params: EASE does not take 'regg'"),
        ({"algorithm": "NormalPredictor"}, "ranking.algorithm: NormalPredictor draws each answer at random"),
    ],
)
def test_a_wrong_second_head(ranking: dict[str, Any], message: str, make_config) -> None:
    with pytest.raises(InputError, match=message):
        catalogue.of(make_config(ranking=ranking))


def test_params_of_no_algorithm(make_config) -> None:
    with pytest.raises(ValidationError, match="params without an algorithm"):
        make_config(ranking={"params": {"reg": 1}})


# Lists, measured and compared


def test_measured_lists_are_those_of_the_model(ratings: Ratings, make_config) -> None:
    config = make_config(ranking={"algorithm": "AutoEASE"}, recommendation={"min_item_ratings": 0})
    found = validation.lists(ratings, config, 0)
    rest, out = validation.split(ratings, 0)
    model, _ = train.fit(rest, config)
    held = ratings.user[out], ratings.item[out], len(ratings.items)

    def picks(lists: list[list[str]]) -> np.ndarray:
        return np.array(
            [[ratings.items.index(item) for item in row] + [-1] * (5 - len(row)) for row in lists]
        )

    mine = picks([[pick.item for pick in model.top_n(user, 5)] for user in ratings.users])
    expected, ndcg = metrics.lists(mine, *held)
    more = ("list_ratings", "popular_ndcg", "list_users")
    assert found.metrics == expected | {key: found.metrics[key] for key in more}
    assert found.metrics["list_users"] == len(ndcg)
    np.testing.assert_array_equal(found.ndcg, ndcg)
    count = np.bincount(rest.item, minlength=len(ratings.items))
    assert found.metrics["list_ratings"] == pytest.approx(count[mine].mean())
    rated = [set(rest.item[rest.user == user].tolist()) for user in range(len(ratings.users))]
    most = sorted(range(len(ratings.items)), key=lambda item: (-count[item], item))
    popular = np.array([[item for item in most if item not in seen][:5] for seen in rated])
    np.testing.assert_array_equal(found.popular, metrics.lists(popular, *held)[1])
    assert found.metrics["popular_ndcg"] == pytest.approx(found.popular.mean())


def measured(ndcg: Any, popular: Any = 0.0, holdout: str | None = "same") -> gate.Measured:
    ndcg = np.asarray(ndcg, dtype=float)
    return gate.Measured("dev.m 2", {}, holdout, (ndcg, np.broadcast_to(popular, ndcg.shape)))


GOOD = np.linspace(0.3, 0.6, 50)
NOISE = np.tile([0.1, -0.1], 25)


@pytest.mark.parametrize(
    ("candidate", "champion", "passed", "says"),
    [
        (measured(GOOD), None, True, "NDCG 0.4500, 0.0000 of the most rated items: +0.4500"),
        (measured(GOOD, GOOD), None, False, "+0.0 standard errors, asked are more than 1.645"),
        (measured(GOOD, GOOD + NOISE), None, False, "asked are more than"),
        (measured(GOOD, GOOD), measured(GOOD), True, "asked are at least -1.645"),
        # worse by less than the noise, and by more; a bare difference would refuse both
        (measured(GOOD + NOISE - 0.01), measured(GOOD), True, "of dev.m 2: -0.0100, -0.7 standard errors"),
        (measured(GOOD + NOISE - 0.05), measured(GOOD), False, "of dev.m 2: -0.0500, -3.5 standard errors"),
        # the same difference for everybody is no noise
        (measured(GOOD - 0.001), measured(GOOD), False, "-inf standard errors"),
        # no worse than the champion, which is worse than popularity
        (measured(GOOD, GOOD + 0.1 + NOISE), measured(GOOD), False, "of the most rated items: -0.1000"),
        # where a champion of other data, or of an earlier release, cannot be compared, as for a first version
        (measured(GOOD), measured(GOOD + 1, holdout="other"), True, "not compared with dev.m 2, whose"),
        (measured(GOOD), gate.Measured("old", {}, "same"), True, "not compared with old, whose lists were"),
        (measured(GOOD, GOOD), gate.Measured("old", {}, "same"), False, "asked are more than 1.645"),
        (measured(GOOD, holdout=None), measured(GOOD + 1, holdout=None), True, "not compared with dev.m 2"),
        (measured([]), measured([]), True, "not measured: nobody has four ratings"),
        (gate.Measured("dev.m 2", {}, "same"), None, False, "dev.m 2 has no measured lists"),
        (measured(GOOD), measured(GOOD[1:]), False, "dev.m 2 was measured for other users"),
    ],
)  # fmt: skip
def test_gate_on_lists(candidate, champion, passed: bool, says: str) -> None:
    found = gate.lists(candidate, champion, 1.645)
    assert (found.name, found.passed) == ("lists", passed)
    assert says in found.found


def test_nothing_that_is_no_number_passes() -> None:
    assert not gate.lists(measured([np.nan, 0.5]), None, 1.645).passed
    assert not gate.lists(measured([np.nan]), None, 1.645).passed
    assert not gate.lists(measured([0.5, 0.5]), measured([np.nan, 0.5]), 1.645).passed


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"ndcg": [1], "popular": []}', '{"ndcg": 1, "popular": 1}', "[" * 300_000,
        '{"ndcg": ["x"], "popular": [1]}', '{"ndcg": [NaN], "popular": [0]}',
        '{"ndcg": [1.5], "popular": [0]}',
        f'{{"ndcg": [1{"0" * 400}], "popular": [0]}}', f'{{"ndcg": [0], "popular": [0]{" " * 2**20}}}',
    ],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_evidence_of_another_form_is_none(content: str, tmp_path: Path) -> None:
    assert evidence.read_lists(tmp_path / "missing") is None
    (tmp_path / "lists.json").write_text(content)
    assert evidence.read_lists(tmp_path / "lists.json") is None


def test_spread_divides_the_score_by_a_power_of_the_ratings(ratings: Ratings, make_config) -> None:
    rules = {"k": 25, "min_item_ratings": 0}
    for keys in ({"ranking": {"algorithm": "AutoEASE"}}, {}):
        plain, spread = (
            train.fit(ratings, make_config(recommendation={**rules, "spread": power}, **keys))[0]
            for power in (0.0, 0.5)
        )
        count = dict(zip(plain.items, plain.count.tolist(), strict=True))
        for history in (None, {"7": 5}):
            before, after = (model.top_n("1", history=history) for model in (plain, spread))
            expected = {pick.item: pick.score / count[pick.item] ** 0.5 for pick in before}
            assert {pick.item: pytest.approx(pick.score) for pick in after} == expected
            assert [pick.item for pick in after] == sorted(expected, key=lambda item: -expected[item])
            assert [pick.item for pick in after] != [pick.item for pick in before]
            estimates = {pick.item: pick.estimate for pick in before}
            assert {pick.item: pytest.approx(pick.estimate) for pick in after} == estimates
        # strangers get what is popular all the same
        assert spread.top_n("stranger") == plain.top_n("stranger")


def test_of_many_users_some_are_drawn(ratings: Ratings, make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(ranking={"algorithm": "AutoEASE"})
    every = validation.lists(ratings, config, 3)
    monkeypatch.setattr(validation, "MOST_LISTED", 12)
    some, again = (validation.lists(ratings, config, 3) for _ in range(2))
    assert (len(every.ndcg), len(some.ndcg)) == (30, 12)
    assert some.metrics == again.metrics
    drawn = np.sort(np.random.RandomState(3).choice(30, 12, replace=False))
    np.testing.assert_array_equal(some.ndcg, every.ndcg[drawn])
    np.testing.assert_array_equal(some.popular, every.popular[drawn])


def test_spread_leaves_scores_below_0_in_their_order(ratings: Ratings, make_config) -> None:
    head = {"algorithm": "EASE", "params": {"reg": 1}}
    plain, spread = (
        train.fit(
            ratings,
            make_config(ranking=head, recommendation={"k": 25, "min_item_ratings": 0, "spread": power}),
        )[0]
        for power in (0.0, 1.0)
    )
    assert any(pick.score < 0 for user in ratings.users for pick in plain.top_n(user))
    for user in ratings.users:
        before, after = (
            [(pick.item, pick.score) for pick in model.top_n(user) if pick.score < 0]
            for model in (plain, spread)
        )
        assert after == before


NO_NEW_USERS = {"sim_options": {"name": "pearson_baseline", "user_based": True}}


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_list_is_personal_where_its_own_head_knows_the_user(
    ratings: Ratings, make_config, power: float
) -> None:
    """KNNBasic between users takes no new users by pearson_baseline; EASE does."""
    knn, ease = {"algorithm": "KNNBasic", "params": NO_NEW_USERS}, {"algorithm": "EASE", "params": {}}
    rules = {"recommendation": {"min_item_ratings": 0, "spread": power}}
    alone, by_ease, by_knn = (
        train.fit(ratings, make_config(**keys, **rules))[0]
        for keys in (ease, {**knn, "ranking": ease}, {**ease, "ranking": knn})
    )
    request = pd.DataFrame({"user": ["new"], "history": [{"7": 5, "17": 2}]})
    columns = ["item", "score", "known_user"]
    found = answer(by_ease, request)
    pd.testing.assert_frame_equal(found[columns], answer(alone, request)[columns])
    assert found.known_user.all()
    popular = answer(by_knn, request)
    assert not popular.known_user.any()
    assert popular.score.between(0, 1).all()


def test_the_measured_algorithm_is_the_served_one(make_config) -> None:
    """Of the items some are held out entirely, and AutoEASE goes by their number."""
    rows = [(f"u{u}", f"i{(u + step) % 12}", 4.0) for u in range(12) for step in range(4)]
    rare = {("u11", "i0"), ("u10", "i0"), ("u9", "i0")}
    ratings = from_frame(
        pd.DataFrame([row for row in rows if row[:2] not in rare], columns=["user", "item", "rating"])
    )
    model, _ = train.fit(ratings, make_config(ranking={"algorithm": "AutoEASE"}))
    assert model.settings["ranking"]["algorithm"] == "UserEASE"
    chosen = []
    for seed in range(20):
        rest, _ = validation.split(ratings, seed)
        chosen.append(
            type(catalogue.fit(catalogue.make("AutoEASE", {}, 0), trainset.full(rest)).chosen).__name__
        )
        auto, user = (
            validation.lists(ratings, make_config(algorithm=name, params={}), seed).ndcg
            for name in ("AutoEASE", "UserEASE")
        )
        np.testing.assert_array_equal(auto, user)
    assert "EASE" in chosen


def test_more_spread_covers_more(ratings: Ratings, make_config) -> None:
    config = make_config(ranking={"algorithm": "AutoEASE"}, recommendation={"min_item_ratings": 0})
    found = validation.lists(ratings, config, 0, spreads=(0.0, 1.0))
    (_, none), (_, much) = found.curve
    assert none == {key: found.metrics[key] for key in none}
    own = make_config(
        ranking={"algorithm": "AutoEASE"}, recommendation={"min_item_ratings": 0, "spread": 1.0}
    )
    assert much == {key: validation.lists(ratings, own, 0).metrics[key] for key in much}
    assert much != none
