"""SlopeOne: mean differences between items."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from recommender.serving.scorers.base import FEW, Floats, FoldIn, Index
from recommender.serving.scorers.compared import PairwiseScorer


@dataclass(frozen=True, eq=False)
class Slopes(PairwiseScorer):
    """SlopeOne: the correction of item x is its mean deviation from the items that user y has rated.

    `value` is the deviation of item a from item b, present if a user has rated both.
    """

    def of_users(self, user: Index, item: Index) -> Floats:
        """Return the estimates of b users for p items, shape (b, p), adding each item's deviations once."""
        if len(user) < FEW:
            return super().of_users(user, item)
        row, rating = self._ratings(user)
        near = self.near[rating]
        order = np.argsort(near, kind="stable")
        total, count = np.zeros((len(user), len(item))), np.zeros((len(user), len(item)), dtype=np.int32)
        deviation = np.zeros(len(self.item_level))
        there = np.zeros(len(self.item_level), dtype=np.int32)
        rated, first = np.unique(near[order], return_index=True)
        # Without ratings there is one empty part, hence strict=False.
        for x, rows in zip(rated.tolist(), np.split(row[order], first[1:]), strict=False):
            other, value = self._partners(x)
            # `value` is the smaller index's deviation from the larger one's.
            deviation[other], there[other] = np.where(other <= x, value, -value), 1
            total[rows] += deviation[item]
            count[rows] += there[item]
            deviation[other], there[other] = 0, 0
        estimate = self.base + self.user_level[user][:, None] + self.item_level[item]
        estimate += np.divide(total, count, out=total, where=count > 0)
        return np.where(np.isnan(estimate), self.fallback, estimate)

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self:
        """Add a user with these ratings; the deviations do not change."""
        return self._alone(float(rating.mean()), item)

    def _correction(self, x: Index, y: Index) -> Floats:
        pair, rating, deviation = self._found(x, y)
        signed = np.where(x[pair] <= self.near[rating], deviation, -deviation)
        count = np.bincount(pair, minlength=len(x))
        total = np.bincount(pair, signed, minlength=len(x))
        return np.divide(total, count, out=np.zeros(len(x)), where=count > 0)
