"""Neighbourhoods: KNNBasic, KNNWithMeans, KNNWithZScore, KNNBaseline."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recommender.serving.scorers import base
from recommender.serving.scorers.base import FEW, Floats, FoldIn, Index
from recommender.serving.scorers.compared import PairwiseScorer


def _weighted_means() -> Callable[..., Floats] | None:
    """Return the compiled kernel, or None without numba (numpy is slower)."""
    try:
        from recommender.serving.scorers.nearest import weighted_means
    except ImportError:
        return None
    found: Callable[..., Floats] = weighted_means
    return found


@dataclass(frozen=True, eq=False)
class Neighbours(PairwiseScorer):
    """KNNBasic, KNNWithMeans, KNNWithZScore, KNNBaseline.

    The correction is scale[x] * sum(similarity * deviation) / sum(similarity) over the k most similar of
    those near, of equal ones the first; it is 0 when fewer than min_k of these similarities are positive.
    Only positive ones are stored. `deviation`, aligned with `near`, is the rating less base and levels of its
    own pair, over the scale of its own x. One difference: with min_k 0 and no neighbours, Surprise's KNNBasic
    ends with a ZeroDivisionError.
    """

    scale: Floats
    deviation: Floats
    k: int
    min_k: int

    def of_users(self, user: Index, item: Index) -> Floats:
        """Return the estimates of b users for p items, shape (b, p), with one lookup per user or item."""
        estimate = self.base + self.user_level[user][:, None] + self.item_level[item]
        compiled = _weighted_means() if len(user) >= FEW else None
        if compiled:
            x, y, rows = (user, item, estimate) if self.user_based else (item, user, estimate.T)
            correct = self._of_many(compiled, x[x >= 0], y)
        else:
            x, rows = user, estimate
            one_by_one = self._of_similar_users if self.user_based else self._of_similar_items
            correct = one_by_one(user[user >= 0], item)
        # Unknown users and items cannot be compared.
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
            step = max(1, 8 * base.PART // max(1, len(near)))
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

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self | None:
        """Add a user with these ratings as Surprise would, all else unchanged.

        For compared items the user is a separate row. For compared users the algorithm's measure gives the
        similarities to all others. None for pearson_baseline between users in algorithms other than
        KNNBaseline, which do not keep the baselines it needs.
        """
        if how["level"] == "baseline":
            level = float(np.sum(rating - self.base - self.item_level[item]) / (how["reg_u"] + len(rating)))
        else:
            level = float(rating.mean()) if how["level"] == "mean" and self.user_based else 0.0
        if not self.user_based:
            expected = self.base + self.item_level[item] + level
            return self._alone(level, item, deviation=(rating - expected) / self.scale[item])
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
            # Only the new user's pairs are needed.
            key=other * (n + 1) + n,
            value=similarity[other],
        )

    def _similarities(self, item: Index, rating: Floats, level: float, how: FoldIn) -> Floats:
        """Return a new user's similarity to each known one, shape (n,), as in surprise.similarities."""
        n = self.n_users
        mine, at = self._ratings(item)
        other = self.near[at]
        expected = self.base + self.item_level[item][mine]
        theirs = self.deviation[at] * self.scale[other] + expected + self.user_level[other]
        # Restores digits lost in the deviation, so that equal ratings are equal.
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
        """Return the item's similarities if items are compared, else None."""
        if self.user_based:
            return None
        everything = np.arange(len(self.item_level) - 1)
        at, found = self._stored(np.full(len(everything), item), everything)
        similarity = np.zeros(len(everything))
        similarity[found] = self.value[at[found]]
        return similarity

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn, known: int = -1) -> Floats | None:
        """Return each neighbour's term of the weighted mean; None if the neighbours are users."""
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
        """Return the weighted means of n pairs, shape (n,), from the output of `_found`."""
        count = np.bincount(pair, minlength=n)
        # Only pairs with more than k neighbours need a selection.
        crowd = (count > self.k)[pair]
        crowded = np.flatnonzero(crowd)
        # Stable like heapq.nlargest: equal similarities stay in Surprise's order.
        crowded = crowded[np.lexsort((-similarity[crowded], pair[crowded]))]
        place = np.arange(len(crowded)) - np.searchsorted(pair[crowded], pair[crowded])
        nearest = np.concatenate((np.flatnonzero(~crowd), crowded[place < self.k]))
        pair, rating, similarity = pair[nearest], rating[nearest], similarity[nearest]
        total = np.bincount(pair, similarity * self.deviation[rating], minlength=n)
        whole = np.bincount(pair, similarity, minlength=n)
        enough = np.minimum(count, self.k) >= max(self.min_k, 1)
        return np.divide(total, whole, out=np.zeros(n), where=enough)
