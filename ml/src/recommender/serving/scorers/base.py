"""Predictions as formulas over plain arrays, for our algorithms and all of Surprise's but the random one.

Needs numpy alone, so that a model outlives the versions that trained it. n users and m items are indices from
0 on; -1 is an unknown one, whose row is the last of each array over users or items.
Estimates are in rating units and not clipped. They are Surprise's own to the last digits of float64.
Source of the formulas: the methods `estimate` of scikit-surprise 1.1.5.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.integer[Any]]

# Ratings per block: limits memory to some 100 MB.
PART = 2**20
# From this many users SlopeOne by item, and compiled code, are faster.
FEW = 8


class FoldIn(TypedDict, total=False):
    """Further inputs of folding in and reasons; the keys depend on the kind of scorer, see `convert`.

    noise: variance of ratings around the estimate, in squared rating units. similarity, min_support and
    shrinkage: of the measure. level: the kind of a user's level, baseline, mean or none; reg_u its
    regularisation. spread: the deviation of all ratings, in rating units, if each user has one, else 0.
    """

    noise: float
    similarity: str
    min_support: int
    shrinkage: float
    level: str
    reg_u: float
    spread: float


class Scorer(ABC):
    """Raw estimates of pairs, and further answers of a trained model about users and items.

    A kind of scorer defines `pairs` and `n_users`, is a frozen dataclass of arrays and numbers, and is
    listed in KINDS. The other methods have a default that is correct for any kind, but slow or None.
    """

    @property
    @abstractmethod
    def n_users(self) -> int:
        """Return the number of known users."""

    @abstractmethod
    def pairs(self, user: Index, item: Index) -> Floats:
        """Return the estimates of p pairs; both arrays have shape (p,)."""

    def of_users(self, user: Index, item: Index) -> Floats:
        """Return the estimates of b users for p items, shape (b, p)."""
        grid = self.pairs(np.repeat(user, len(item)), np.tile(item, len(user)))
        return grid.reshape(len(user), len(item))

    def of_user(self, user: int, item: Index) -> Floats:
        """Return the estimates of one user for p items, shape (p,)."""
        estimate: Floats = self.of_users(np.array([user]), item)[0]
        return estimate

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self | None:
        """Return a scorer whose last user (n_users - 1) has these h ratings, shapes (h,), of known items.

        Nothing is trained: the items' arrays do not change. `how` comes from
        recommender.algorithms.convert at the training. `known` is the user's index, -1 for a new one.
        None if this kind does not support it.
        """
        return None

    def similar(self, item: int) -> Floats | None:
        """Return the similarity of each item to this one, shape (m,), higher is nearer, or None."""
        return None

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn, known: int = -1) -> Floats | None:
        """Return each rating's part of a user's estimate for an item, in rating units, shape (h,).

        `known` is as for `fold_in`. None if the model does not estimate from the user's single ratings.
        """
        return None


@dataclass(frozen=True, eq=False)
class PickScorer(Scorer):
    """What EASE and UserEASE share: the ends of the rating scale, and what a rating counts as a pick."""

    low: float
    high: float
    rating_weight: float

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs, user by user; both arrays have shape (p,)."""
        estimate = np.empty(len(user))
        order = np.argsort(user, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
            if len(part):
                estimate[part] = self.of_users(user[part[:1]], item[part])[0]
        return estimate

    def _counts(self, rating: Floats) -> Floats:
        return 1 - self.rating_weight + self.rating_weight * (rating - self.low) / (self.high - self.low)
