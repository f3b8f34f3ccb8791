"""Compute error and ranking metrics: arrays in, numbers out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rmse(true: Floats, estimate: Floats) -> float:
    """Return the root mean squared error; arrays of shape (n,), n > 0, in rating units."""
    return float(np.sqrt(np.mean((true - estimate) ** 2)))


def mae(true: Floats, estimate: Floats) -> float:
    """Return the mean absolute error; arrays of shape (n,), n > 0, in rating units."""
    return float(np.mean(np.abs(true - estimate)))


def ranking(
    user: NDArray[Any], true: Floats, estimate: Floats, k: int, threshold: float, lowest: float
) -> dict[str, float]:
    """Return precision, recall and NDCG at k of the order of each user's held-out ratings, the mean of users.

    `user` holds group codes, shape (n,), n > 0; `lowest` is the bottom of the rating scale. Only rated items
    can be judged, and most of them are good: the metrics measure the order of a user's own items, and are
    high for any model. `lists` measures lists.
    Precision and recall as in Surprise's FAQ ("How to compute precision@k and recall@k"): an item is relevant
    when its rating, and recommended when it is among the k highest estimates and its estimate, is >=
    threshold; a user with an empty denominator counts as 0.
    NDCG: gain rating - lowest, discount log2(rank + 1) (Järvelin and Kekäläinen 2002,
    doi:10.1145/582415.582418); users whose gains are all 0 lack an ideal order and are skipped. Equal
    estimates keep their order in the input.
    """
    _, group = np.unique(user, return_inverse=True)
    n_users = int(group.max()) + 1
    size = np.bincount(group, minlength=n_users)
    start = np.concatenate(([0], np.cumsum(size)[:-1]))

    def total(values: NDArray[Any]) -> Floats:
        return np.bincount(group, weights=values.astype(np.float64), minlength=n_users).astype(np.float64)

    def rank(by: Floats) -> NDArray[np.int64]:
        order = np.lexsort((-by, group))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - start[group[order]]
        return place

    place = rank(estimate)
    top = place < k
    relevant = true >= threshold
    recommended = top & (estimate >= threshold)
    hits = total(relevant & recommended)
    gain = true - lowest
    reached = total(np.where(top, gain / np.log2(place + 2.0), 0.0))
    best = rank(true)
    ideal = total(np.where(best < k, gain / np.log2(best + 2.0), 0.0))
    judged = ideal > 0
    return {
        "rated_precision": _mean_ratio(hits, total(recommended)),
        "rated_recall": _mean_ratio(hits, total(relevant)),
        "rated_ndcg": float(np.mean(reached[judged] / ideal[judged])) if judged.any() else 0.0,
    }


def lists(
    picks: NDArray[Any], user: NDArray[Any], item: NDArray[Any], n_items: int
) -> tuple[dict[str, float], Floats]:
    """Return precision, recall and NDCG of one list per user over the whole catalogue, and coverage.

    `picks` holds items, best first, shape (users, k), -1 where a list is shorter; `user` and `item` are the
    held-out pairs, shapes (n,), each of which is relevant. Averages are over users with such pairs; a hit at
    rank r gains 1 / log2(r + 1) (Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418), precision divides
    by k. Coverage is the share of the `n_items` items that are on any list.
    Also returns the NDCG of each user with such pairs, in their order.
    """
    k = picks.shape[1]
    wanted = np.bincount(user, minlength=len(picks))
    rows = np.arange(len(picks))[:, None]
    hits = np.isin(rows * (n_items + 1) + picks + 1, user.astype(np.int64) * (n_items + 1) + item + 1)
    hits &= picks >= 0
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discount)))[np.minimum(wanted, k)]
    judged = wanted > 0
    found = hits.sum(axis=1)[judged]
    ndcg: Floats = (hits @ discount)[judged] / ideal[judged]
    return {
        "list_precision": float(np.mean(found / k)) if len(found) else 0.0,
        "list_recall": float(np.mean(found / wanted[judged])) if len(found) else 0.0,
        "list_ndcg": float(np.mean(ndcg)) if len(found) else 0.0,
        "coverage": len(np.unique(picks[picks >= 0])) / n_items,
    }, ndcg


def _mean_ratio(part: Floats, whole: Floats) -> float:
    return float(np.mean(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)))
