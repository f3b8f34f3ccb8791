"""UserEASE: weights from the other users who have rated an item."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recommender.serving.scorers.base import Floats, FoldIn, Index, PickScorer


@dataclass(frozen=True, eq=False)
class Peers(PickScorer):
    """UserEASE: a user's score of an item is a weighted sum of the other users' scaled ratings of it.

    The ratings of the t trained users are `rated[first[v]:first[v + 1]]`, indices of items, and `value`, what
    each counts, scaled; `first` has shape (t+1,). Their weights for each other come from `inverse` (t, t).
    `position` (n+1,) of a user is that among them, t + j for column j of `folded` (t, f), the weights for a
    folded-in user, and -1 for others, who get the item's `popularity` (m+1,). The estimate is
    low + (high - low) * score. A rating r counts 1 - rating_weight + rating_weight * (r - low) /
    (high - low), scaled by unit / (number of the user's ratings) ** activity.
    """

    activity: float
    unit: float
    popularity: Floats
    position: NDArray[np.int32]
    first: NDArray[np.int64]
    rated: NDArray[np.int32]
    value: Floats
    inverse: Floats
    folded: Floats

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.position) - 1

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        score = np.empty((len(user), len(item)))
        for row, at in enumerate(self.position[user].tolist()):
            # The last is the unknown item, which nobody has rated.
            score[row] = (self.popularity if at < 0 else self._sums(self._weights(at)))[item]
        return self.low + (self.high - self.low) * score

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self:
        """Find the new user's row from those of the others, as in training; the inverse does not change."""
        scale = self._scale(len(item))
        row = np.zeros(len(self.popularity))
        row[item] = scale * self._counts(rating)
        common = np.bincount(self._owner, self.value * row[self.rated], minlength=len(self.inverse))
        weights = self._solved(common.astype(np.float64), known) / scale
        at = len(self.inverse)
        return replace(self, position=np.array([at, -1], dtype=np.int32), folded=weights[:, None])

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn, known: int = -1) -> Floats | None:
        """Return each rating's term: by way of the other users the score is a sum over the user's ratings."""
        terms: Floats = self._sums(self._solved(self._column(item), known))[rated] * self._counts(rating)
        return (self.high - self.low) * terms

    def similar(self, item: int) -> Floats:
        """What one rating of the item adds to the scores of all, shape (m,); 0 for what nobody has rated."""
        return self._sums(self._solved(self._column(item), -1))[:-1]

    @cached_property
    def _owner(self) -> NDArray[np.int64]:
        """The trained user of each of `rated`."""
        return np.repeat(np.arange(len(self.inverse)), np.diff(self.first))

    @cached_property
    def _item(self) -> NDArray[np.int64]:
        """`rated` as numpy counts it: without a copy at each call."""
        return self.rated.astype(np.int64)

    def _column(self, item: int) -> Floats:
        """The scaled ratings of an item, by trained user, shape (t,)."""
        column = np.zeros(len(self.inverse))
        raters = self.rated == item
        column[self._owner[raters]] = self.value[raters]
        return column

    def _weights(self, at: int) -> Floats:
        """The trained users' weights (t,) for the user at this position."""
        if at >= len(self.inverse):
            return self.folded[:, at - len(self.inverse)]
        scale = self._scale(int(self.first[at + 1] - self.first[at]))
        weights: Floats = self.inverse[at] / (-self.inverse[at, at] * scale)
        weights[at] = 0
        return weights

    def _sums(self, weights: Floats) -> Floats:
        """For each item, and the unknown one, the weighted sum (m+1,) of its scaled ratings."""
        terms = np.repeat(weights, np.diff(self.first))
        terms *= self.value
        return np.bincount(self._item, terms, minlength=len(self.popularity)).astype(np.float64, copy=False)

    def _solved(self, right: Floats, known: int) -> Floats:
        """The system's solution (t,), without the row that a known user has in it."""
        solved: Floats = self.inverse @ right
        at = int(self.position[known])
        if 0 <= at < len(self.inverse):
            solved -= self.inverse[at] * (solved[at] / self.inverse[at, at])
            solved[at] = 0
        return solved

    def _scale(self, count: int) -> float:
        return float(self.unit * np.float64(count) ** -self.activity)
