"""Predictions as formulas over plain arrays, for our algorithms and all of Surprise's but the random one.

Needs numpy alone, so that a model outlives the versions that trained it. n users and m items are indices from
0 on, and -1 is one that is unknown: the last row of what is indexed by user or item is that of the unknown.
Estimates are in rating units and not clipped. They are Surprise's own to the last digits of float64.
Source of the formulas: the methods `estimate` of scikit-surprise 1.1.5.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.integer[Any]]

# Ratings looked at in one go: what bounds the memory of many pairs at once, to some 100 MB.
_PART = 2**20


class Scorer(Protocol):
    """Raw estimates of pairs."""

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""

    def of_user(self, user: int, item: Index) -> Floats:
        """Estimates of one user for p items, shape (p,)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """SVD, SVDpp, NMF, BaselineOnly, CoClustering: biases and a product of factors.

    base + user_bias + item_bias + user_factors · item_factors, of shapes (n+1,), (m+1,), (n+1, f) and
    (m+1, f), float64. Where that is NaN (the unknown's bias is, in algorithms that have no answer for it) the
    estimate is `fallback`.
    """

    base: float
    fallback: float
    user_bias: Floats
    item_bias: Floats
    user_factors: Floats
    item_factors: Floats

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        product = np.einsum("ij,ij->i", self.user_factors[user], self.item_factors[item])
        return self._answered(self.base + self.user_bias[user] + self.item_bias[item] + product)

    def of_user(self, user: int, item: Index) -> Floats:
        """Estimates of one user for p items, shape (p,)."""
        product = self.item_factors[item] @ self.user_factors[user]
        return self._answered(self.base + self.user_bias[user] + self.item_bias[item] + product)

    def _answered(self, estimate: Floats) -> Floats:
        return np.where(np.isnan(estimate), self.fallback, estimate)


@dataclass(frozen=True, eq=False)
class _Compared:
    """base + user_level + item_level + a correction, for which x is compared with what y was rated with.

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
        for part in np.split(np.arange(len(y)), np.flatnonzero(np.diff(ratings // _PART)) + 1):
            estimate[part] += self._correction(x[part], y[part])
        return np.where(np.isnan(estimate), self.fallback, estimate)

    def of_user(self, user: int, item: Index) -> Floats:
        """Estimates of one user for p items, shape (p,)."""
        return self.pairs(np.full(len(item), user), item)

    def _correction(self, x: Index, y: Index) -> Floats:
        raise NotImplementedError

    def _found(self, x: Index, y: Index) -> tuple[Index, Index, Floats]:
        """The near of all y that have a value together with x: of which pair, where in `near`, the value."""
        length = self.length[y]
        pair = np.repeat(np.arange(len(y)), length)
        rating = np.arange(len(pair)) + (self.first[y] - np.cumsum(length) + length)[pair]
        low, high = np.minimum(x[pair], self.near[rating]), np.maximum(x[pair], self.near[rating])
        n = len(self.user_level if self.user_based else self.item_level) - 1
        key = low.astype(self.key.dtype) * n + high.astype(self.key.dtype)
        at = np.searchsorted(self.key, key, side="right") - 1
        found = self.key[at] == key
        return pair[found], rating[found], self.value[at[found]]


@dataclass(frozen=True, eq=False)
class Neighbours(_Compared):
    """KNNBasic, KNNWithMeans, KNNWithZScore, KNNBaseline.

    The correction is scale[x] * sum(similarity * deviation) / sum(similarity) over the k most similar of
    those near, of equal ones the first; it is 0 when fewer than min_k of these similarities are positive.
    Only positive ones are stored. `deviation`, aligned with `near`, is the rating less base and levels of its
    own pair, over the scale of its own x. One thing is not Surprise's: where nobody is near, its KNNBasic
    with min_k 0 ends with a ZeroDivisionError.
    """

    scale: Floats
    deviation: Floats
    k: int
    min_k: int

    def _correction(self, x: Index, y: Index) -> Floats:
        pair, rating, similarity = self._found(x, y)
        # Stable, as heapq.nlargest is: equal similarities stay in Surprise's order.
        order = np.lexsort((-similarity, pair))
        nearest = order[np.arange(len(pair)) - np.searchsorted(pair, pair) < self.k]
        pair, rating, similarity = pair[nearest], rating[nearest], similarity[nearest]
        enough = np.bincount(pair, minlength=len(x)) >= max(self.min_k, 1)
        total = np.bincount(pair, similarity * self.deviation[rating], minlength=len(x))
        weight = np.bincount(pair, similarity, minlength=len(x))
        return self.scale[x] * np.divide(total, weight, out=np.zeros(len(x)), where=enough)


@dataclass(frozen=True, eq=False)
class Slopes(_Compared):
    """SlopeOne: the correction of item x is its mean deviation from the items that user y has rated.

    `value` is the deviation of item a from item b, and there is one where somebody has rated both.
    """

    def _correction(self, x: Index, y: Index) -> Floats:
        pair, rating, deviation = self._found(x, y)
        signed = np.where(x[pair] <= self.near[rating], deviation, -deviation)
        count = np.bincount(pair, minlength=len(x))
        total = np.bincount(pair, signed, minlength=len(x))
        return np.divide(total, count, out=np.zeros(len(x)), where=count > 0)


@dataclass(frozen=True, eq=False)
class Weights:
    """EASE: a user's score of an item is the sum of the weights from the items that the user has rated to it.

    The k learnt items stand at `position` (m+1,), which is -1 for others; `weights` (k, k), float32, is from
    row to column. The learnt items that user u has rated are `rated[first[u]:first[u] + length[u]]`, by
    position, and `value` is what each counts; `first` and `length` have shape (n+1,). Where there is no
    weight, or nothing rated, the score is the item's `popularity` (m+1,). The estimate is
    low + (high - low) * score. A rating r counts
    1 - rating_weight + rating_weight * (r - low) / (high - low).
    """

    low: float
    high: float
    rating_weight: float
    position: NDArray[np.int32]
    popularity: Floats
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    rated: NDArray[np.int32]
    value: Floats
    weights: NDArray[np.float32]

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        estimate = np.empty(len(user))
        order = np.argsort(user, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
            if len(part):
                estimate[part] = self.of_user(int(user[part[0]]), item[part])
        return estimate

    def of_user(self, user: int, item: Index) -> Floats:
        """Estimates of one user for p items, shape (p,)."""
        row = slice(self.first[user], self.first[user] + self.length[user])
        return self.of_row(self.rated[row], self.value[row], item)

    def of_row(self, rated: Index, value: Floats, item: Index) -> Floats:
        """Estimates for p items of a user who has rated the learnt items at positions `rated`."""
        score = self.popularity[item]
        at = self.position[item]
        learnt = at >= 0
        if len(rated) and learnt.any():
            # Few columns are picked, of many the rows are added up: both read the matrix once at most.
            columns = at[learnt]
            if len(columns) * 8 < len(self.weights):
                total = value @ self.weights[np.ix_(rated, columns)]
            else:
                total = (value @ self.weights[rated])[columns]
            score[learnt] = total
        return self.low + (self.high - self.low) * score

    def fold_in(self, item: Index, rating: Floats) -> Floats:
        """Estimates for all m items of a new user who has given these ratings, shape (m,)."""
        learnt = self.position[item] >= 0
        share = (rating[learnt] - self.low) / (self.high - self.low)
        value = 1 - self.rating_weight + self.rating_weight * share
        return self.of_row(self.position[item][learnt], value, np.arange(len(self.popularity) - 1))


KINDS: dict[str, type[Factors | Neighbours | Slopes | Weights]] = {
    kind.__name__: kind for kind in (Factors, Neighbours, Slopes, Weights)
}
