import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import dcg_score, ndcg_score

from recommender.evaluation import metrics

stars = st.integers(1, 10).map(lambda half: half / 2)
cases = st.lists(
    st.tuples(st.integers(0, 4), stars, st.floats(0.5, 5).map(lambda x: round(x, 2))), min_size=1, max_size=40
)
lengths = st.integers(1, 12)


def plain_ranking(
    case: list[tuple[int, float, float]], k: int, threshold: float, lowest: float
) -> dict[str, float]:
    """The definitions, user by user, as one would say them."""
    by_user = defaultdict(list)
    for user, true, estimate in case:
        by_user[user].append((estimate, true))
    precision, recall, ndcg = [], [], []
    for pairs in by_user.values():
        top = sorted(pairs, key=lambda pair: -pair[0])[:k]
        hits = sum(true >= threshold and estimate >= threshold for estimate, true in top)
        chosen = sum(estimate >= threshold for estimate, _ in top)
        relevant = sum(true >= threshold for _, true in pairs)
        precision.append(hits / chosen if chosen else 0)
        recall.append(hits / relevant if relevant else 0)
        best = sorted((true for _, true in pairs), reverse=True)[:k]
        ideal = sum((true - lowest) / math.log2(rank + 1) for rank, true in enumerate(best, 1))
        if ideal:
            gains = sum((true - lowest) / math.log2(rank + 1) for rank, (_, true) in enumerate(top, 1))
            ndcg.append(gains / ideal)
    return {
        "rated_precision": float(np.mean(precision)),
        "rated_recall": float(np.mean(recall)),
        "rated_ndcg": float(np.mean(ndcg)) if ndcg else 0.0,
    }


def columns(case: list[tuple[int, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user, true, estimate = zip(*case, strict=True)
    return np.array(user), np.array(true), np.array(estimate)


@given(cases, lengths, stars)
def test_ranking_equals_its_definition(case: list, k: int, threshold: float) -> None:
    found = metrics.ranking(*columns(case), k, threshold, 0.5)
    assert found == pytest.approx(plain_ranking(case, k, threshold, 0.5), abs=1e-12)
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.randoms(), lengths)
def test_ndcg_equals_scikit_learn_without_ties(gains: list[int], random, k: int) -> None:
    if not any(gains):
        gains[0] = 1
    estimate = list(range(len(gains)))
    random.shuffle(estimate)
    found = metrics.ranking(
        np.zeros(len(gains)), np.array(gains, float), np.array(estimate, float), k, 4.0, 0.0
    )
    assert found["rated_ndcg"] == pytest.approx(ndcg_score([gains], [estimate], k=k))


@given(cases, lengths)
def test_true_order_is_ideal(case: list, k: int) -> None:
    user, true, _ = columns(case)
    found = metrics.ranking(user, true, true, k, 4.0, 0.5)
    assert found["rated_ndcg"] == pytest.approx(1.0 if (true > 0.5).any() else 0.0)


@given(cases, lengths, st.integers(1, 3))
def test_ranking_ignores_names_of_users_and_shifts_of_the_scale(case: list, k: int, shift: int) -> None:
    user, true, estimate = columns(case)
    found = metrics.ranking(100 - 7 * user, true + shift, estimate + shift, k, 4.0 + shift, 0.5 + shift)
    assert found == pytest.approx(metrics.ranking(user, true, estimate, k, 4.0, 0.5), abs=1e-9)


@given(cases)
def test_errors(case: list) -> None:
    _, true, estimate = columns(case)
    assert 0 <= metrics.mae(true, estimate) <= metrics.rmse(true, estimate) + 1e-12
    assert metrics.rmse(true, true) == metrics.mae(true, true) == 0
    assert metrics.rmse(true, true + 0.5) == pytest.approx(0.5) == metrics.mae(true, true - 0.5)


@given(
    st.lists(st.lists(st.integers(-1, 8), min_size=3, max_size=3), min_size=1, max_size=5),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 8)), min_size=1),
)
def test_lists_equal_scikit_learn_and_their_definition(rows: list[list[int]], held_out: set) -> None:
    # A list names no item twice, and where it ends, nothing follows.
    distinct = [[pick for pick in dict.fromkeys(row) if pick >= 0] for row in rows]
    picks = np.array([[*row, -1, -1, -1][:3] for row in distinct])
    pairs = [(user, item) for user, item in sorted(held_out) if user < len(picks)]
    user, item = (np.array([pair[at] for pair in pairs], dtype=int) for at in (0, 1))
    found, by_user = metrics.lists(picks, user, item, 9)
    wanted = np.zeros((len(picks), 9))
    wanted[user, item] = 1
    scores = np.zeros((len(picks), 9))
    for row, chosen in enumerate(picks):
        for rank, pick in enumerate(chosen):
            if pick >= 0:
                scores[row, pick] = 10 - rank
    judged = np.flatnonzero(wanted.any(axis=1))
    expected = {"list_precision": [], "list_recall": [], "list_ndcg": []}
    for row in judged:
        hits = len(set(picks[row].tolist()) & set(np.flatnonzero(wanted[row]).tolist()))
        expected["list_precision"].append(hits / 3)
        expected["list_recall"].append(hits / wanted[row].sum())
        # Whatever is on no list must gain nothing, which scikit-learn grants to ties.
        gains = np.where(scores[row] > 0, wanted[row], 0)
        ideal = np.zeros(9)
        ideal[: min(int(wanted[row].sum()), 3)] = 1
        best = dcg_score([ideal], [np.arange(9, 0, -1)], k=3)
        expected["list_ndcg"].append(dcg_score([gains], [scores[row]], k=3) / best)
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values) if values else 0, abs=1e-12)
    assert by_user.tolist() == pytest.approx(expected["list_ndcg"], abs=1e-12)
    assert found["coverage"] == pytest.approx(len(set(picks[picks >= 0].tolist())) / 9)
