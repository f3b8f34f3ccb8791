"""Predictions as formulas over plain arrays, for our algorithms and all of Surprise's but the random one.

Needs numpy alone, so that a model outlives the versions that trained it. n users and m items are indices from
0 on, and -1 is one that is unknown: the last row of what is indexed by user or item is that of the unknown.
Estimates are in rating units and not clipped. They are Surprise's own to the last digits of float64.
Source of the formulas: the methods `estimate` of scikit-surprise 1.1.5.
"""

from abc import ABC, abstractmethod
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.integer[Any]]

# Ratings looked at in one go: what bounds the memory of many pairs at once, to some 100 MB.
PART = 2**20
# Users from which on SlopeOne is faster item by item than pair by pair, and compiled code worth its loading.
FEW = 8


class FoldIn(TypedDict, total=False):
    """What folding in and reasons need besides the arrays; a kind of scorer has its own keys, see `convert`.

    noise: variance of ratings around the estimate, in squared rating units. similarity, min_support and
    shrinkage: of the measure. level: what a user's level is, baseline, mean or none; reg_u its
    regularisation. spread: the deviation of all ratings, in rating units, where each user has one, else 0.
    """

    noise: float
    similarity: str
    min_support: int
    shrinkage: float
    level: str
    reg_u: float
    spread: float


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

    def fold_in(self, item: Index, rating: Floats, how: FoldIn) -> Self | None:
        """A scorer whose last user (n_users - 1) is one with these h ratings, shapes (h,), of known items.

        Nothing is trained: what the model knows of the items stays as it is. `how` is what
        recommender.algorithms.convert found out when the model was trained. None where this kind cannot.
        """
        return None

    def similar(self, item: int) -> Floats | None:
        """The similarity of each item to this one, shape (m,), higher is nearer; None if there is none."""
        return None

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn) -> Floats | None:
        """What each of a user's h ratings adds to the estimate of an item, in rating units, shape (h,).

        None where the model answers from something else than the user's single ratings.
        """
        return None
