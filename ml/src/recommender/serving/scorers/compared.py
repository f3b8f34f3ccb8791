"""Share the base of neighbourhoods and SlopeOne: a number for each pair of x."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recommender.serving.scorers import base
from recommender.serving.scorers.base import Floats, Index, Scorer


@dataclass(frozen=True, eq=False)
class PairwiseScorer(Scorer):
    """base + user_level + item_level + a correction from comparing x with the near of y.

    x is the user and y the item when `user_based`, the other way round when not. The levels have shapes
    (n+1,) and (m+1,); where they are NaN the estimate is `fallback`. The x that have a rating together with y
    are `near[first[y]:first[y] + length[y]]`, in Surprise's order; `first` and `length` have shape (y+1,).

    Of the symmetric matrix over x (similarities, deviations) only the entries (a, b) with a <= b that there
    are stand in `value`, at `key` = a * (number of x) + b, ascending: for the 9,724 items of ml-latest-small
    158 MB at most, where the whole matrix is 756 MB. Not float32: it makes nearly equal similarities equal,
    and then other neighbours count.
    """

    base: float
    fallback: float
    user_level: Floats
    item_level: Floats
    user_based: bool
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    near: NDArray[np.int32]
    key: Index
    value: Floats

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        estimate = self.base + self.user_level[user] + self.item_level[item]
        x, y = (user, item) if self.user_based else (item, user)
        ratings = np.cumsum(self.length[y])
        for part in np.split(np.arange(len(y)), np.flatnonzero(np.diff(ratings // base.PART)) + 1):
            estimate[part] += self._correction(x[part], y[part])
        return np.where(np.isnan(estimate), self.fallback, estimate)

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.user_level) - 1

    def similar(self, item: int) -> Floats | None:
        """The stored similarities of the item; None where users are compared, or deviations stored."""
        return None

    def _partners(self, x: int) -> tuple[Index, Floats]:
        """Return the x that share a value with this one, and the values."""
        n = len(self.user_level if self.user_based else self.item_level) - 1
        order, first = self._turned()
        before = order[first[x] : first[x + 1]]
        # Same type as the keys, to avoid converting them in each search.
        bounds = np.array((x * n + x, x * n + n - 1), dtype=self.key.dtype)
        after = slice(*np.searchsorted(self.key, bounds, side="right"))
        other: Index = np.concatenate((self.key[before] // n, self.key[after] % n))
        return other, np.concatenate((self.value[before], self.value[after]))

    def _turned(self) -> tuple[Index, Index]:
        """The places of the values by the larger index, and where each index begins among these."""
        cached: tuple[Index, Index] | None = self.__dict__.get("_places")
        if cached is None:
            n = len(self.user_level if self.user_based else self.item_level) - 1
            high = self.key % n
            order = np.argsort(high, kind="stable")
            cached = order, np.searchsorted(high[order], np.arange(n + 1))
            object.__setattr__(self, "_places", cached)
        return cached

    def _alone(self, level: float, item: Index, **columns: Any) -> Self:
        """Return a copy, for compared items, with a single user of this level and these rated items."""
        alone = replace(
            self,
            user_level=np.array([level, self.user_level[-1]]),
            first=np.zeros(2, dtype=np.int64),
            length=np.array([len(item), 0]),
            near=item.astype(np.int32),
            **columns,
        )
        # The values are shared.
        object.__setattr__(alone, "_places", self._turned())
        return alone

    def _correction(self, x: Index, y: Index) -> Floats:
        raise NotImplementedError

    def _ratings(self, y: Index) -> tuple[Index, Index]:
        """Return all near of several y: the position of their y, and their place in `near`."""
        length = self.length[y]
        of = np.repeat(np.arange(len(y)), length)
        return of, np.arange(len(of)) + (self.first[y] - np.cumsum(length) + length)[of]

    def _found(self, x: Index, y: Index) -> tuple[Index, Index, Floats]:
        """Return the near of all y that share a value with x: their pair, place in `near`, value."""
        pair, rating = self._ratings(y)
        at, found = self._stored(x[pair], self.near[rating])
        return pair[found], rating[found], self.value[at[found]]

    def _stored(self, x: Index, other: Index) -> tuple[Index, NDArray[np.bool_]]:
        """Return the place of each pair's value, and a mask of the pairs that have one."""
        low, high = np.minimum(x, other), np.maximum(x, other)
        n = len(self.user_level if self.user_based else self.item_level) - 1
        key = low.astype(self.key.dtype) * n + high.astype(self.key.dtype)
        at = np.searchsorted(self.key, key, side="right") - 1
        return at, self.key[at] == key if len(self.key) else np.zeros(len(key), dtype=bool)
