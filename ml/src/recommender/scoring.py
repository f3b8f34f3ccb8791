"""Predictions as formulas over plain arrays, for our algorithms and all of Surprise's but the random one.

Needs numpy alone, so that a model outlives the versions that trained it. n users and m items are indices from
0 on, and -1 is one that is unknown: the last row of what is indexed by user or item is that of the unknown.
Estimates are in rating units and not clipped. They are Surprise's own to the last digits of float64.
Source of the formulas: the methods `estimate` of scikit-surprise 1.1.5.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.integer[Any]]

# Ratings looked at in one go: what bounds the memory of many pairs at once, to some 100 MB.
_PART = 2**20
# Users from which on SlopeOne is faster item by item than pair by pair, and compiled code worth its loading.
_FEW = 8


def _weighted_means() -> Callable[..., Floats] | None:
    """What does it compiled; None where numba is not installed, and numpy does it more slowly."""
    try:
        from recommender.algorithms.nearest import weighted_means
    except ImportError:
        return None
    found: Callable[..., Floats] = weighted_means
    return found


class Scorer(ABC):
    """Raw estimates of pairs, and what else a trained model can say of users and items.

    A kind of scorer has to give `pairs` and `n_users`, is a frozen dataclass of arrays and numbers, and is
    listed in KINDS. The other methods have an answer that is right for any kind; it is slow, or None.
    """

    @property
    @abstractmethod
    def n_users(self) -> int:
        """How many users are known."""

    @abstractmethod
    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        grid = self.pairs(np.repeat(user, len(item)), np.tile(item, len(user)))
        return grid.reshape(len(user), len(item))

    def of_user(self, user: int, item: Index) -> Floats:
        """Estimates of one user for p items, shape (p,)."""
        estimate: Floats = self.of_users(np.array([user]), item)[0]
        return estimate

    def fold_in(self, item: Index, rating: Floats, how: dict[str, Any]) -> Self | None:
        """A scorer whose last user (n_users - 1) is one with these h ratings, shapes (h,), of known items.

        Nothing is trained: what the model knows of the items stays as it is. `how` is what
        recommender.folding found out when the model was trained. None where this kind cannot.
        """
        return None

    def similar(self, item: int) -> Floats | None:
        """The similarity of each item to this one, shape (m,), higher is nearer; None if there is none."""
        return None

    def reasons(self, item: int, rated: Index, rating: Floats, how: dict[str, Any]) -> Floats | None:
        """What each of a user's h ratings adds to the estimate of an item, in rating units, shape (h,).

        None where the model answers from something else than the user's single ratings.
        """
        return None


@dataclass(frozen=True, eq=False)
class Factors(Scorer):
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

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.user_bias) - 1

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        product = np.einsum("ij,ij->i", self.user_factors[user], self.item_factors[item])
        return self._answered(self.base + self.user_bias[user] + self.item_bias[item] + product)

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        estimate = self.user_factors[user] @ self.item_factors[item].T
        estimate += (self.base + self.user_bias[user])[:, None]
        estimate += self.item_bias[item]
        return self._answered(estimate)

    def fold_in(self, item: Index, rating: Floats, how: dict[str, Any]) -> Self:
        """Ridge regression of the ratings on the items' factors, drawn to what users are like.

        Bias and factors of the new user are the mean of their posterior when those of the known users are the
        sample of a normal prior and ratings have the variance `noise` around the estimate: Rasmussen and
        Williams (2006), Gaussian Processes for Machine Learning, section 2.1.
        """
        weights, residual, mean = self._regression(item, rating, how)
        user = mean + weights @ residual
        return replace(
            self,
            user_bias=np.append(user[0], self.user_bias[-1]),
            user_factors=np.stack((user[1:], self.user_factors[-1])),
        )

    def _regression(self, item: Index, rating: Floats, how: dict[str, Any]) -> tuple[Floats, Floats, Floats]:
        """Weights (f+1, h), residuals of the ratings at the prior's mean (h,), and that mean (f+1,)."""
        mean, spread = self._prior()
        seen = np.column_stack((np.ones(len(item)), self.item_factors[item]))
        residual = rating - self.base - self.item_bias[item] - seen @ mean
        # Items that the algorithm has not seen say nothing.
        unseen = ~np.isfinite(residual)
        seen[unseen], residual[unseen] = 0, 0
        pull = spread @ seen.T
        weights = np.linalg.solve(how["noise"] * np.eye(len(mean)) + pull @ seen, pull)
        return weights, residual, mean

    def _prior(self) -> tuple[Floats, Floats]:
        """Mean (f+1,) and covariance (f+1, f+1) of the known users' bias and factors."""
        cached: tuple[Floats, Floats] | None = self.__dict__.get("_moments")
        if cached is None:
            known = np.column_stack((self.user_bias, self.user_factors))[:-1]
            known = known[np.isfinite(known).all(axis=1)]
            cached = known.mean(axis=0), np.atleast_2d(np.cov(known, rowvar=False, bias=True))
            object.__setattr__(self, "_moments", cached)
        return cached

    def similar(self, item: int) -> Floats | None:
        """Cosine of the items' factors; None for a model of biases only."""
        factors = self.item_factors[:-1]
        if factors.shape[1] == 0:
            return None
        length = np.sqrt(np.einsum("ij,ij->i", factors, factors))
        product = length * length[item]
        cosine = np.zeros(len(factors))
        np.divide(factors @ factors[item], product, out=cosine, where=product > 0)
        return cosine

    def reasons(self, item: int, rated: Index, rating: Floats, how: dict[str, Any]) -> Floats | None:
        """The estimate of a user that is folded in is linear in the ratings: each one's term.

        As Hu, Koren and Volinsky (2008), section 5, doi:10.1109/ICDM.2008.22. None for a model of biases
        only.
        """
        if self.item_factors.shape[1] == 0:
            return None
        weights, residual, _ = self._regression(rated, rating, how)
        # Without the bias, by which every rating speaks for every item alike.
        terms: Floats = (self.item_factors[item] @ weights[1:]) * residual
        return terms

    def _answered(self, estimate: Floats) -> Floats:
        return np.where(np.isnan(estimate), self.fallback, estimate)


@dataclass(frozen=True, eq=False)
class _Compared(Scorer):
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

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.user_level) - 1

    def similar(self, item: int) -> Floats | None:
        """The stored similarities of the item; None where users are compared, or deviations stored."""
        return None

    def _partners(self, x: int) -> tuple[Index, Floats]:
        """The x that have a value together with this one, and the values."""
        n = len(self.user_level if self.user_based else self.item_level) - 1
        order, first = self._turned()
        before = order[first[x] : first[x + 1]]
        # Of the keys' own type, or all of them are converted for each search.
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
        """Where items are compared: with one user only, of this level, who has rated these items."""
        alone = replace(
            self,
            user_level=np.array([level, self.user_level[-1]]),
            first=np.zeros(2, dtype=np.int64),
            length=np.array([len(item), 0]),
            near=item.astype(np.int32),
            **columns,
        )
        # The values are the same ones.
        object.__setattr__(alone, "_places", self._turned())
        return alone

    def _correction(self, x: Index, y: Index) -> Floats:
        raise NotImplementedError

    def _ratings(self, y: Index) -> tuple[Index, Index]:
        """All near of several y: of which of these each is, and where it stands in `near`."""
        length = self.length[y]
        of = np.repeat(np.arange(len(y)), length)
        return of, np.arange(len(of)) + (self.first[y] - np.cumsum(length) + length)[of]

    def _found(self, x: Index, y: Index) -> tuple[Index, Index, Floats]:
        """The near of all y that have a value together with x: of which pair, where in `near`, the value."""
        pair, rating = self._ratings(y)
        at, found = self._stored(x[pair], self.near[rating])
        return pair[found], rating[found], self.value[at[found]]

    def _stored(self, x: Index, other: Index) -> tuple[Index, NDArray[np.bool_]]:
        """Where the value of each pair of x stands, and whether there is one."""
        low, high = np.minimum(x, other), np.maximum(x, other)
        n = len(self.user_level if self.user_based else self.item_level) - 1
        key = low.astype(self.key.dtype) * n + high.astype(self.key.dtype)
        at = np.searchsorted(self.key, key, side="right") - 1
        return at, self.key[at] == key if len(self.key) else np.zeros(len(key), dtype=bool)


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

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p); similarities are looked up once a user or item."""
        estimate = self.base + self.user_level[user][:, None] + self.item_level[item]
        compiled = _weighted_means() if len(user) >= _FEW else None
        if compiled:
            x, y, rows = (user, item, estimate) if self.user_based else (item, user, estimate.T)
            correct = self._of_many(compiled, x[x >= 0], y)
        else:
            x, rows = user, estimate
            one_by_one = self._of_similar_users if self.user_based else self._of_similar_items
            correct = one_by_one(user[user >= 0], item)
        # Of somebody or something unknown nothing is known to compare.
        for row, correction in zip(np.flatnonzero(x >= 0), correct, strict=True):
            rows[row] += correction
        return np.where(np.isnan(estimate), self.fallback, estimate)

    def _of_many(self, weighted_means: Callable[..., Floats], x: Index, y: Index) -> Iterator[Floats]:
        similarity = np.zeros(len(self.scale))
        near = self.first[y], self.length[y], self.near, self.deviation
        for each in x.tolist():
            other, value = self._partners(each)
            similarity[other] = value
            yield self.scale[each] * weighted_means(similarity, *near, self.k, max(self.min_k, 1))
            similarity[other] = 0

    def _of_similar_users(self, user: Index, item: Index) -> Iterator[Floats]:
        pair, rating = self._ratings(item)
        near, similarity = self.near[rating], np.zeros(self.n_users)
        for x in user.tolist():
            other, value = self._partners(x)
            similarity[other] = value
            weight = similarity[near]
            similarity[other] = 0
            found = np.flatnonzero(weight)
            yield self.scale[x] * self._mean(pair[found], rating[found], weight[found], len(item))

    def _of_similar_items(self, user: Index, item: Index) -> Iterator[Floats]:
        similarity = np.zeros(len(self.item_level))
        for y in user.tolist():
            row = slice(self.first[y], self.first[y] + self.length[y])
            near, deviation = self.near[row], self.deviation[row]
            correction = np.zeros(len(item))
            step = max(1, 8 * _PART // max(1, len(near)))
            for part in (slice(at, at + step) for at in range(0, len(item), step)):
                weight = np.empty((len(near), len(item[part])))
                for at, x in enumerate(near.tolist()):
                    other, value = self._partners(x)
                    similarity[other] = value
                    weight[at] = similarity[item[part]]
                    similarity[other] = 0
                if len(near) > self.k:
                    least = np.partition(weight, -self.k, axis=0)[-self.k]
                    nearest = weight > least
                    equal = weight == least
                    # Of equal ones the first.
                    nearest |= equal & (np.cumsum(equal, axis=0) <= self.k - nearest.sum(axis=0))
                    weight *= nearest
                enough = np.count_nonzero(weight, axis=0) >= max(self.min_k, 1)
                whole = weight.sum(axis=0)
                np.divide(deviation @ weight, whole, out=correction[part], where=enough)
            yield self.scale[item] * correction

    def fold_in(self, item: Index, rating: Floats, how: dict[str, Any]) -> Self | None:
        """What Surprise would make of these ratings, all else left as it was; `how` as folding finds it.

        Where items are compared, the user is a row of their own; where users are, the similarities to all
        others are computed by the algorithm's measure. None for pearson_baseline between users in algorithms
        other than KNNBaseline, which do not keep the baselines that it takes.
        """
        if how["level"] == "baseline":
            level = float(np.sum(rating - self.base - self.item_level[item]) / (how["reg_u"] + len(rating)))
        else:
            level = float(rating.mean()) if how["level"] == "mean" and self.user_based else 0.0
        if not self.user_based:
            known = self.base + self.item_level[item] + level
            return self._alone(level, item, deviation=(rating - known) / self.scale[item])
        if how["similarity"] == "pearson_baseline" and how["level"] != "baseline":
            return None
        sigma = 1.0
        if how["spread"]:
            sigma = float(rating.std()) or how["spread"]
        n = self.n_users
        similarity = self._similarities(item, rating, level, how)
        other = np.flatnonzero(similarity > 0)
        return replace(
            self,
            user_level=np.insert(self.user_level, n, level),
            scale=np.insert(self.scale, n, sigma),
            # Only the new user's pairs are asked for.
            key=other * (n + 1) + n,
            value=similarity[other],
        )

    def _similarities(self, item: Index, rating: Floats, level: float, how: dict[str, Any]) -> Floats:
        """Of a new user to each known one, shape (n,), as surprise.similarities defines them."""
        n = self.n_users
        mine, at = self._ratings(item)
        other = self.near[at]
        expected = self.base + self.item_level[item][mine]
        theirs = self.deviation[at] * self.scale[other] + expected + self.user_level[other]
        # The digits that were lost in the deviation: equal ratings have to be equal again.
        a, b = rating[mine], np.round(theirs, 9)
        if how["similarity"] == "pearson_baseline":
            a, b = a - expected - level, b - expected - self.user_level[other]

        def total(values: Floats) -> Floats:
            return np.bincount(other, values, minlength=n).astype(np.float64)

        count = np.bincount(other, minlength=n).astype(np.float64)
        if how["similarity"] == "msd":
            above, below = count, total((a - b) ** 2) + count
        else:
            above, left, right = total(a * b), total(a * a), total(b * b)
            if how["similarity"] == "pearson":
                sum_a, sum_b = total(a), total(b)
                above = count * above - sum_a * sum_b
                left, right = count * left - sum_a**2, count * right - sum_b**2
            below = np.sqrt(left * right)
            if how["similarity"] == "pearson_baseline":
                above, below = above * (count - 1), below * (count - 1 + how["shrinkage"])
        least = max(how["min_support"], 2 if how["similarity"] == "pearson_baseline" else 1)
        return np.divide(above, below, out=np.zeros(n), where=(count >= least) & (below > 0))

    def similar(self, item: int) -> Floats | None:
        """The similarities between items, which are there where items are compared."""
        if self.user_based:
            return None
        everything = np.arange(len(self.item_level) - 1)
        at, found = self._stored(np.full(len(everything), item), everything)
        similarity = np.zeros(len(everything))
        similarity[found] = self.value[at[found]]
        return similarity

    def reasons(self, item: int, rated: Index, rating: Floats, how: dict[str, Any]) -> Floats | None:
        """Each neighbour's term of the weighted mean; None where the neighbours are other users."""
        if self.user_based:
            return None
        alone = self.fold_in(rated, rating, how)
        assert alone is not None
        _, at, similarity = alone._found(np.array([item]), np.array([0]))
        nearest = np.argsort(-similarity, kind="stable")[: self.k]
        terms = np.zeros(len(rated))
        if len(nearest) >= max(self.min_k, 1):
            weight = similarity[nearest] / similarity[nearest].sum()
            terms[at[nearest]] = self.scale[item] * weight * alone.deviation[at[nearest]]
        return terms

    def _correction(self, x: Index, y: Index) -> Floats:
        return self.scale[x] * self._mean(*self._found(x, y), len(x))

    def _mean(self, pair: Index, rating: Index, similarity: Floats, n: int) -> Floats:
        """The weighted means of n pairs, shape (n,), from what `_found` gives."""
        count = np.bincount(pair, minlength=n)
        # Only where there are more than k has one to look for the nearest.
        crowd = (count > self.k)[pair]
        crowded = np.flatnonzero(crowd)
        # Stable, as heapq.nlargest is: equal similarities stay in Surprise's order.
        crowded = crowded[np.lexsort((-similarity[crowded], pair[crowded]))]
        place = np.arange(len(crowded)) - np.searchsorted(pair[crowded], pair[crowded])
        nearest = np.concatenate((np.flatnonzero(~crowd), crowded[place < self.k]))
        pair, rating, similarity = pair[nearest], rating[nearest], similarity[nearest]
        total = np.bincount(pair, similarity * self.deviation[rating], minlength=n)
        whole = np.bincount(pair, similarity, minlength=n)
        enough = np.minimum(count, self.k) >= max(self.min_k, 1)
        return np.divide(total, whole, out=np.zeros(n), where=enough)


@dataclass(frozen=True, eq=False)
class Slopes(_Compared):
    """SlopeOne: the correction of item x is its mean deviation from the items that user y has rated.

    `value` is the deviation of item a from item b, and there is one where somebody has rated both.
    """

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p): each item's deviations go to all who rated it."""
        if len(user) < _FEW:
            return super().of_users(user, item)
        row, rating = self._ratings(user)
        near = self.near[rating]
        order = np.argsort(near, kind="stable")
        total, count = np.zeros((len(user), len(item))), np.zeros((len(user), len(item)), dtype=np.int32)
        deviation = np.zeros(len(self.item_level))
        there = np.zeros(len(self.item_level), dtype=np.int32)
        rated, first = np.unique(near[order], return_index=True)
        # Where nobody has rated anything there is nothing to go through, but one empty part.
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

    def fold_in(self, item: Index, rating: Floats, how: dict[str, Any]) -> Self:
        """A user with these ratings, the deviations left as they were."""
        return self._alone(float(rating.mean()), item)

    def _correction(self, x: Index, y: Index) -> Floats:
        pair, rating, deviation = self._found(x, y)
        signed = np.where(x[pair] <= self.near[rating], deviation, -deviation)
        count = np.bincount(pair, minlength=len(x))
        total = np.bincount(pair, signed, minlength=len(x))
        return np.divide(total, count, out=np.zeros(len(x)), where=count > 0)


@dataclass(frozen=True, eq=False)
class Weights(Scorer):
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

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.length) - 1

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        estimate = np.empty(len(user))
        order = np.argsort(user, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
            if len(part):
                estimate[part] = self.of_users(user[part[:1]], item[part])[0]
        return estimate

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        score = np.repeat(self.popularity[item][None], len(user), axis=0)
        column = np.flatnonzero(self.position[item] >= 0)
        known = np.flatnonzero(self.length[user] > 0)
        if len(column) and len(known):
            rows = np.zeros((len(known), len(self.weights)))
            for row, u in enumerate(user[known]):
                span = slice(self.first[u], self.first[u] + self.length[u])
                np.add.at(rows[row], self.rated[span], self.value[span])
            # Of few users the weights from what none of them has rated need not be read.
            used = np.flatnonzero(rows.any(axis=0))
            score[np.ix_(known, column)] = (
                rows[:, used] @ self.weights[np.ix_(used, self.position[item[column]])]
            )
        return self.low + (self.high - self.low) * score

    def fold_in(self, item: Index, rating: Floats, how: dict[str, Any]) -> Self:
        """A row of these ratings times the weights, which is what a known user gets."""
        learnt = self.position[item] >= 0
        return replace(
            self,
            first=np.zeros(2, dtype=np.int64),
            length=np.array([np.count_nonzero(learnt), 0]),
            rated=self.position[item[learnt]],
            value=self._counts(rating[learnt]),
        )

    def similar(self, item: int) -> Floats | None:
        """The weights from the item, None if it is not learnt: what else is picked where this one was."""
        if self.position[item] < 0:
            return None
        row = np.append(self.weights[self.position[item]], 0.0)
        return row[self.position[:-1]].astype(np.float64)

    def reasons(self, item: int, rated: Index, rating: Floats, how: dict[str, Any]) -> Floats | None:
        """Each rating's term of the sum, None if the item is not learnt."""
        if self.position[item] < 0:
            return None
        terms = np.zeros(len(rated))
        learnt = self.position[rated] >= 0
        weight = self.weights[self.position[rated[learnt]], self.position[item]]
        terms[learnt] = (self.high - self.low) * self._counts(rating[learnt]) * weight
        return terms

    def _counts(self, rating: Floats) -> Floats:
        return 1 - self.rating_weight + self.rating_weight * (rating - self.low) / (self.high - self.low)


KINDS: dict[str, type[Scorer]] = {kind.__name__: kind for kind in (Factors, Neighbours, Slopes, Weights)}
