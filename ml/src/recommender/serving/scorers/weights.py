"""EASE: weights from the items that a user has rated."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recommender.serving.scorers.base import Floats, FoldIn, Index, PickScorer

# Rows of the weights at once: their copies stay in the processor's cache.
_ROWS = 32


@dataclass(frozen=True, eq=False)
class Weights(PickScorer):
    """EASE: a user's score of an item is the sum of the weights from the items that the user has rated to it.

    The k learnt items stand at `position` (m+1,), which is -1 for others; `weights` (k, k), float32, is from
    row to column. The learnt items that user u has rated are `rated[first[u]:first[u] + length[u]]`, by
    position, and `value` are their weights in the sum; `first` and `length` have shape (n+1,). Without a
    weight or a rating, the score is the item's `popularity` (m+1,). The estimate is
    low + (high - low) * score. A rating r counts
    1 - rating_weight + rating_weight * (r - low) / (high - low).
    """

    position: NDArray[np.int32]
    popularity: Floats
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    rated: NDArray[np.int32]
    value: Floats
    weights: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.length) - 1

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        score = np.repeat(self.popularity[item][None], len(user), axis=0)
        column = np.flatnonzero(self.position[item] >= 0)
        known = np.flatnonzero(self.length[user] > 0)
        if len(column) and len(known):
            score[np.ix_(known, column)] = self._sums(user[known])[:, self.position[item[column]]]
        return self.low + (self.high - self.low) * score

    def _sums(self, user: Index) -> Floats:
        """Sum the weights to each learnt item from those that b users have rated, shape (b, k)."""
        sums = np.zeros((len(user), len(self.weights)))
        for row, u in zip(sums, user.tolist(), strict=True):
            end = self.first[u] + self.length[u]
            for at in range(self.first[u], end, _ROWS):
                part = slice(at, min(at + _ROWS, end))
                row += self.value[part] @ self.weights[self.rated[part]]
        return sums

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self:
        """Add a user with these ratings, scored like a known one."""
        learnt = self.position[item] >= 0
        return replace(
            self,
            first=np.zeros(2, dtype=np.int64),
            length=np.array([np.count_nonzero(learnt), 0]),
            rated=self.position[item[learnt]],
            value=self._counts(rating[learnt]),
        )

    def similar(self, item: int) -> Floats | None:
        """Return the weights from the item, None if it is not learnt."""
        if self.position[item] < 0:
            return None
        row = np.append(self.weights[self.position[item]], 0.0)
        return row[self.position[:-1]].astype(np.float64)

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn, known: int = -1) -> Floats | None:
        """Return each rating's term of the sum, None if the item is not learnt."""
        if self.position[item] < 0:
            return None
        terms = np.zeros(len(rated))
        learnt = self.position[rated] >= 0
        weight = self.weights[self.position[rated[learnt]], self.position[item]]
        terms[learnt] = (self.high - self.low) * self._counts(rating[learnt]) * weight
        return terms
