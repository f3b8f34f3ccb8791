"""Surprise's Trainset over three arrays, without a Python object per rating, and its folds."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import numpy as np
import pandas as pd
import surprise
from numpy.typing import NDArray
from surprise.utils import get_rng

from recommender.data.ratings import Ratings

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

# Ratings that are Python objects at a time while all are gone through.
_BLOCK = 2**16


class ArrayTrainset(surprise.Trainset):  # type: ignore[misc]
    """A Trainset that keeps n ratings as arrays and makes Surprise's lists of tuples when one is asked for.

    `user` and `item` are Surprise's inner ids (int32) and `rating` float64, each of shape (n,), in the order
    in which Surprise's own would have read them; inner ids count from 0 in the order of first appearance.
    Every method and attribute answers as Surprise's does, but nothing can be added to `ur` and `ir`, and
    unknown keys are KeyErrors in them. Pickled, it becomes Surprise's own Trainset, which does not need this
    code.
    """

    def __init__(
        self,
        user: Codes,
        item: Codes,
        rating: Floats,
        users: Iterable[str],
        items: Iterable[str],
        scale: tuple[float, float],
    ) -> None:
        raw_users = {raw: inner for inner, raw in enumerate(users)}
        raw_items = {raw: inner for inner, raw in enumerate(items)}
        sizes = len(raw_users), len(raw_items), len(rating)
        super().__init__(None, None, *sizes, scale, raw_users, raw_items)
        self._global_mean: float | None = None
        self._order = user, item, rating
        # Surprise's constructor sets them, and here they are made when they are needed.
        del self.ur, self.ir

    @cached_property
    def ur(self) -> "Rows":
        """Surprise's ur: for each user the list of (item, rating)."""
        user, item, rating = self._order
        return Rows(user, item, rating, self.n_users)

    @cached_property
    def ir(self) -> "Rows":
        """Surprise's ir: for each item the list of (user, rating)."""
        user, item, rating = self._order
        return Rows(item, user, rating, self.n_items)

    def arrays(self) -> tuple[Codes, Codes, Floats]:
        """User, item (int32) and rating (float64), shapes (n,), in the order of all_ratings."""
        user = np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.ur.start))
        return user, self.ur.other, self.ur.rating

    def all_ratings(self) -> Iterator[tuple[int, int, float]]:
        """Every (user, item, rating), by user."""
        user, item, rating = self.arrays()
        for at in range(0, len(rating), _BLOCK):
            part = slice(at, at + _BLOCK)
            yield from zip(user[part].tolist(), item[part].tolist(), rating[part].tolist(), strict=True)

    @property
    def global_mean(self) -> float:
        """The mean of all ratings, summed in the order in which Surprise does."""
        if self._global_mean is None:
            self._global_mean = float(np.mean(self.ur.rating))
        return self._global_mean

    def __reduce__(self) -> tuple[Any, ...]:
        sizes = self.n_users, self.n_items, self.n_ratings
        names = self._raw2inner_id_users, self._raw2inner_id_items
        return surprise.Trainset, (self.ur, self.ir, *sizes, self.rating_scale, *names)


class Rows(Mapping[int, list[tuple[int, float]]]):
    """A read-only mapping of `size` keys to lists of (other, rating), built on each access.

    The row of key k is `other[start[k]:start[k + 1]]` and `rating[…]`.
    """

    def __init__(self, key: Codes, other: Codes, rating: Floats, size: int) -> None:
        self.start = np.concatenate(([0], np.cumsum(np.bincount(key, minlength=size))))
        if np.any(key[1:] < key[:-1]):
            order = np.argsort(key, kind="stable")
            other, rating = other[order], rating[order]
        self.other, self.rating = other, rating
        # SVD++ asks for the row of a user again with each of its ratings.
        self._last: tuple[int, list[tuple[int, float]]] = (-1, [])

    def __getitem__(self, key: int) -> list[tuple[int, float]]:
        if key not in self:
            raise KeyError(key)
        if self._last[0] != key:
            row = slice(self.start[key], self.start[key + 1])
            pairs = zip(self.other[row].tolist(), self.rating[row].tolist(), strict=True)
            self._last = key, list(pairs)
        return self._last[1]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, (int, np.integer)) and bool(0 <= key < len(self))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.start) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        # The pickle holds the arrays and the calls that make of them what Surprise makes: a defaultdict of
        # lists of tuples. A tuple per rating in the pickle takes fifty times the memory to write.
        bounds = self.start[1:-1]
        columns = (_Call(np.split, array, bounds) for array in (self.other, self.rating))
        rows = _Call(map, zip, *(_Call(map, np.ndarray.tolist, column) for column in columns))
        return defaultdict, (list, _Call(enumerate, _Call(map, list, rows)))


class _Call:
    """A call that is pickled instead of its result."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def full(ratings: Ratings) -> ArrayTrainset:
    """All ratings: what Dataset.build_full_trainset makes of them, in their canonical order."""
    return _trainset(ratings, np.arange(len(ratings)))


def folds(ratings: Ratings, n: int, seed: int) -> Iterator[tuple[ArrayTrainset, NDArray[np.int64]]]:
    """Trainset and positions of the testset, for each fold of Surprise's KFold(n, random_state=seed).

    The positions, in KFold's order, index the arrays of `ratings`. There have to be n ratings at least.
    """
    shuffled = np.arange(len(ratings))
    get_rng(seed).shuffle(shuffled)
    for test in np.array_split(np.arange(len(ratings)), n):
        left = np.concatenate((shuffled[: test[0]], shuffled[test[-1] + 1 :]))
        yield _trainset(ratings, left), shuffled[test]


def _trainset(ratings: Ratings, at: NDArray[np.int64]) -> ArrayTrainset:
    whole = len(at) == len(ratings)
    rating = ratings.rating if whole else ratings.rating[at]
    (user, users), (item, items) = (
        pd.factorize(codes if whole else codes[at]) for codes in (ratings.user, ratings.item)
    )
    return ArrayTrainset(
        user.astype(np.int32),
        item.astype(np.int32),
        rating,
        map(tuple.__getitem__, repeat(ratings.users), users.tolist()),
        map(tuple.__getitem__, repeat(ratings.items), items.tolist()),
        ratings.scale,
    )


def arrays(trainset: Any) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Inner users, inner items and ratings of a trainset, in the order of its `all_ratings`, shapes (n,)."""
    if hasattr(trainset, "arrays"):
        columns: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]] = trainset.arrays()
        return columns
    ur = trainset.ur
    length = [len(row) for row in ur.values()]
    user = np.repeat(np.fromiter(ur.keys(), np.int32, len(length)), length)
    flat = chain.from_iterable(chain.from_iterable(ur.values()))
    pairs = np.fromiter(flat, np.float64, 2 * len(user)).reshape(-1, 2)
    return user, pairs[:, 0].astype(np.int32), np.ascontiguousarray(pairs[:, 1])
