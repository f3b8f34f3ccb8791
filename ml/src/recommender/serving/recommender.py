"""Answer from a trained recommender: estimates for pairs, lists for users; save it without pickle."""

import hashlib
import json
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from recommender.errors import InputError
from recommender.serving import manifest
from recommender.serving.scorers.base import Floats, FoldIn, PickScorer, Scorer
from recommender.serving.scorers.kinds import KINDS

# The one file beside the manifest of a saved recommender.
ARRAYS = "recommender.npz"

# Estimates per block of lists: 64 MB, several times that during sorting.
BLOCK = 2**23
# Scores nearer than this are equal: summation order changes the last digits.
NEAR = 1e-9

History = Mapping[str, float]
# Row, item or column, and score of each entry of several lists.
Rows = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


def supported(count: NDArray[np.int64], least: int) -> NDArray[np.bool_]:
    """Return a mask of items with `least` ratings, or if none, of the most rated ones; shape (m,)."""
    return count >= min(least, int(count.max()))


def _cut(parts: list[Rows], k: int) -> Rows:
    """Return the first k entries of each row; entries of an earlier part come first."""
    if len(parts) == 1:
        return parts[0]
    row, item, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    row, item, score = row[order], item[order], score[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < k
    return row[kept], item[kept], score[kept]


@dataclass(frozen=True)
class Pick:
    """One line of a list: rank counts from 1, estimate is in rating units; score as in `Lists`."""

    item: str
    title: str
    estimate: float
    score: float
    rank: int


@dataclass(frozen=True)
class Lists:
    """Lists of several users, one below the other, as arrays of shape (r,).

    `user` is the position in the request, `item` indexes Recommender.items, `estimate` is in rating
    units and on the scale, `rank` counts from 1, `known` says whether the list is personal. `score` is what
    the list is ordered by: 0 at the lowest rating and 1 at the highest, not clipped; with a spread above 0,
    divided by that power of the item's number of ratings, if the list is personal and the score above 0.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    estimate: Floats
    score: Floats
    rank: NDArray[np.int64]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Reason:
    """A rating in favour of a recommendation; `share` is its part of what orders the list."""

    item: str
    title: str
    rating: float
    share: float


class Head(TypedDict, total=False):
    """The algorithm that orders the lists; scorer: a key of KINDS."""

    algorithm: str
    scorer: str
    fold_in: FoldIn


class Settings(TypedDict, total=False):
    """A model's kind and its rules for lists.

    k: the length of a list. min_item_ratings: the ratings an item needs to come first. damping: the
    average ratings that an item starts with. spread: the power of an item's number of ratings by which its
    score is divided, 0 if missing. scale: lowest and highest rating. scorer: a key of KINDS.
    ranking: where another algorithm than that of the ratings orders the lists.
    """

    k: int
    min_item_ratings: int
    damping: float
    spread: float
    scale: list[float]
    scorer: str
    algorithm: str
    fold_in: FoldIn
    ranking: Head


@dataclass(frozen=True, eq=False, repr=False)
class Recommender:
    """Scorers, ids, titles, each user's ratings, and each item's popularity.

    `scorer` estimates ratings. `lister` orders lists and answers what is similar and why, None if `scorer`
    does.

    `rated[start[u]:start[u + 1]]` are the items of user u and `rating[…]` (float32) their ratings, None in a
    model of format 1; `count` and `popularity` have shape (m,), popularity is the damped mean rating.
    """

    scorer: Scorer
    users: tuple[str, ...]
    items: tuple[str, ...]
    titles: tuple[str, ...]
    start: NDArray[np.int64]
    rated: NDArray[np.int32]
    count: NDArray[np.int64]
    popularity: Floats
    settings: Settings
    rating: NDArray[np.float32] | None = None
    lister: Scorer | None = None

    def __repr__(self) -> str:
        kind = type(self.scorer).__name__
        if self.lister is not None:
            kind += f" and {type(self.lister).__name__}"
        return f"<Recommender by {kind}: {len(self.users)} users, {len(self.items)} items>"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_user_at", {raw: at for at, raw in enumerate(self.users)})
        object.__setattr__(self, "_item_at", {raw: at for at, raw in enumerate(self.items)})

    def knows(self, user: str) -> bool:
        """Check that the user was among the ratings."""
        return user in self._user_at  # type: ignore[attr-defined]

    def knows_any(self, history: History) -> bool:
        """Check that one of the history's items was among the ratings."""
        return any(item in self._item_at for item in history)  # type: ignore[attr-defined]

    def knows_item(self, item: str) -> bool:
        """Check that the item was among the ratings."""
        return item in self._item_at  # type: ignore[attr-defined]

    def estimate(self, users: Sequence[str], items: Sequence[str], history: History | None = None) -> Floats:
        """Return estimates clipped to the scale for n pairs of raw ids; unknown ids get Surprise's estimate.

        With a history (item: rating), `users` is one user, whose known ratings the history complements.
        Raises InputError for ratings off the scale.
        """
        item = np.array([self._item_at.get(raw, -1) for raw in items], dtype=np.int64)  # type: ignore[attr-defined]
        if history is not None:
            scorer, at, _ = self._folded(self.scorer, self._fold_in, users[0] if len(users) else "", history)
            return self._clipped(scorer.pairs(np.full(len(item), at), item))
        user = np.array([self._at(raw) for raw in users], dtype=np.int64)
        return self._clipped(self.scorer.pairs(user, item))

    def top_n(self, user: str, k: int | None = None, history: History | None = None) -> list[Pick]:
        """Return the k best items that the user has not rated, best first; fewer if fewer exist.

        Items with `min_item_ratings` ratings come first (if no item has so many, those with the most). The
        others fill up a short list, see `_shrunk`. An unknown user gets the items of highest popularity: the
        number of ratings where EASE or its like orders lists, else the damped mean. Equal estimates: the item
        with more ratings first.
        `history` (item: rating) are ratings since the training. They complement the user's known ratings; the
        user may be unknown. Raises InputError for ratings off the scale.
        """
        return self.personal_top_n(user, k, history)[0]

    def personal_top_n(
        self, user: str, k: int | None = None, history: History | None = None
    ) -> tuple[list[Pick], bool]:
        """Return the list of `top_n`, and whether it is personal; other lists have the popular items."""
        [lists] = [self.list_for(user, k, history)] if history is not None else self.recommend([user], k)
        personal = bool(lists.known.all()) if len(lists.known) else self.knows(user)
        picks = [
            Pick(self.items[item], self.titles[item], float(estimate), float(score), int(rank))
            for item, estimate, score, rank in zip(
                lists.item, lists.estimate, lists.score, lists.rank, strict=True
            )
        ]
        return picks, personal

    def recommend(self, users: Sequence[str] | None = None, k: int | None = None) -> Iterator[Lists]:
        """Yield the lists of `top_n` for these users or for all, in blocks of bounded memory.

        A block is some hundred users; `Lists.user` counts across blocks. Raises InputError for a k
        below 1.
        """
        k = self._length(k)
        if isinstance(users, str):
            # Otherwise each character would be a user.
            users = [users]
        known = range(len(self.users)) if users is None else map(self._at, users)
        at = np.fromiter(known, dtype=np.int64)
        step = max(1, BLOCK // max(1, len(self._eligible)))
        for first in range(0, len(at), step):
            part = at[first : first + step]
            yield self._lists(part, first, k)

    def list_for(self, user: str, k: int | None, history: History) -> Lists:
        """Return the list of one user with ratings since the training, see `top_n`."""
        k = self._length(k)
        lister, at, rated = self._folded(*self._lister, user, history)
        row, known = np.zeros(len(rated), dtype=np.int64), np.array([at >= 0])
        if at < 0:
            listed = self._popular(row, rated, k)
        else:
            listed = self._filled(lister, np.array([at]), row, rated, k)
        rater = lister
        if self.lister is not None:
            rater, at, _ = self._folded(self.scorer, self._fold_in, user, history)
        return self._as_lists(*listed, rater, np.array([at]), known, 0)

    def reasons(self, user: str, item: str, n: int = 3, history: History | None = None) -> list[Reason]:
        """Return the n ratings of the user that add most to an item's place in the list, most first.

        None for models without such reasons (neighbouring users, deviations, biases), an unknown item,
        and a user without ratings. Raises InputError for ratings off the scale.
        """
        at = self._item_at.get(item, -1)  # type: ignore[attr-defined]
        rated, rating = self._ratings_of(user, history or {})
        if at < 0 or not len(rated):
            return []
        lister, how = self._lister
        shares = lister.reasons(at, rated, rating, how or {}, self._at(user))
        if shares is None:
            return []
        return [
            Reason(self.items[rated[j]], self.titles[rated[j]], float(rating[j]), float(shares[j]))
            for j in np.argsort(-shares, kind="stable")[:n]
            if shares[j] > 0
        ]

    def similar(self, item: str, k: int | None = None) -> list[Pick]:
        """Return the k items nearest to an item; a Pick's estimate and score are the similarity.

        The similarity is the model's own or that of its factors, otherwise the cosine of the items' sets of
        users. As in `top_n`, items with many ratings come first; the similarity of the others is
        shrunk. Raises InputError for an unknown item.
        """
        k = self._length(k)
        at = self._item_at.get(item, -1)  # type: ignore[attr-defined]
        if at < 0:
            raise InputError(f"item {item!r} is unknown. Ask for one that was among the ratings.")
        nearness = self._lister[0].similar(at)
        if nearness is None:
            raters = np.searchsorted(self.start, np.flatnonzero(self.rated == at), side="right") - 1
            shared = np.zeros(len(self.items))
            for user in raters.tolist():
                shared[self.rated[self.start[user] : self.start[user + 1]]] += 1
            nearness = shared / np.sqrt(np.maximum(self.count * self.count[at], 1))
        row, itself = np.zeros(1, dtype=np.int64), np.array([at])
        parts = [self._best(nearness[self._eligible][None], self._eligible, row, itself, k)]
        if len(self._rest):
            shrunk = nearness[self._rest] * self._support
            parts.append(self._best(shrunk[None], self._rest, row, itself, k))
        like = [(of[score > 0], place[score > 0], score[score > 0]) for of, place, score in parts]
        _, near, similarity = _cut(like, k)
        return [
            Pick(self.items[i], self.titles[i], value, value, rank)
            for rank, (i, value) in enumerate(zip(near.tolist(), similarity.tolist(), strict=True), start=1)
        ]

    @property
    def _fold_in(self) -> FoldIn | None:
        return self.settings.get("fold_in")

    @property
    def _lister(self) -> tuple[Scorer, FoldIn | None]:
        """What orders the lists, and its inputs of folding in."""
        if self.lister is None:
            return self.scorer, self._fold_in
        return self.lister, self.settings["ranking"].get("fold_in")

    @cached_property
    def _eligible(self) -> NDArray[np.int64]:
        """Return the items that come first in lists, by descending number of ratings."""
        return self._by_count(supported(self.count, self.settings["min_item_ratings"]) & (self.count > 0))

    @cached_property
    def _rest(self) -> NDArray[np.int64]:
        """Return the rated items that fill up lists, by descending number of ratings."""
        few = ~supported(self.count, self.settings["min_item_ratings"])
        return self._by_count(few & (self.count > 0))

    @cached_property
    def _column(self) -> NDArray[np.int64]:
        """Return each item's position in the shelf followed by the rest; -1 for items without ratings."""
        column = np.full(len(self.items), -1)
        column[np.concatenate((self._eligible, self._rest))] = np.arange(
            len(self._eligible) + len(self._rest)
        )
        return column

    def _by_count(self, open_: NDArray[np.bool_]) -> NDArray[np.int64]:
        items = np.flatnonzero(open_)
        return items[np.argsort(-self.count[items], kind="stable")]

    @cached_property
    def _support(self) -> Floats:
        """Return the weight of each item's ratings against `damping`, for `_rest`: above 0, at most 1."""
        count = self.count[self._rest]
        return count / (count + float(self.settings.get("damping", 25.0)))

    def _at(self, user: str) -> int:
        # Ids are text: 7 means "7".
        return self._user_at.get(str(user), -1)  # type: ignore[attr-defined,no-any-return]

    def _length(self, k: int | None) -> int:
        k = self.settings["k"] if k is None else k
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one.")
        return k

    def _lists(self, at: NDArray[np.int64], first: int, k: int) -> Lists:
        asked = np.flatnonzero(at >= 0)
        length = self.start[at[asked] + 1] - self.start[at[asked]]
        row = np.repeat(np.arange(len(asked)), length)
        place = np.arange(len(row)) + np.repeat(self.start[at[asked]] - np.cumsum(length) + length, length)
        seen = self.rated[place]
        row, item, score = self._filled(self._lister[0], at[asked], row, seen, k)
        parts = [(asked[row], item, score)]
        if len(asked) < len(at):
            nothing = np.zeros(0, dtype=np.int64)
            _, item, score = self._popular(nothing, nothing, k)
            strangers = np.flatnonzero(at < 0)
            again = len(strangers)
            parts.append((np.repeat(strangers, len(item)), np.tile(item, again), np.tile(score, again)))
        row, item, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(row, kind="stable")
        return self._as_lists(row[order], item[order], score[order], self.scorer, at, at >= 0, first)

    def _filled(
        self, scorer: Scorer, user: NDArray[np.int64], row: NDArray[np.int64], seen: NDArray[Any], k: int
    ) -> Rows:
        """Return the k best items of each of `user`, shape (b,), filled up from the rest if needed.

        `seen[i]` is an item that the user of row `row[i]` has rated. Returns rows, ascending, with items and
        scores, best first.
        """
        score = self._spread(scorer.of_users(user, self._eligible), self._eligible)
        parts = [self._best(score, self._eligible, row, seen, k)]
        if not len(self._rest):
            return parts[0]
        short = np.flatnonzero(np.bincount(parts[0][0], minlength=len(user)) < k)
        step = max(1, BLOCK // len(self._rest))
        for first in range(0, len(short), step):
            part = short[first : first + step]
            mine = np.isin(row, part)
            shrunk = self._spread(self._shrunk(scorer.of_users(user[part], self._rest)), self._rest)
            at, item, score = self._best(shrunk, self._rest, np.searchsorted(part, row[mine]), seen[mine], k)
            parts.append((part[at], item, score))
        return _cut(parts, k)

    def _popular(self, row: NDArray[np.int64], seen: NDArray[Any], k: int) -> Rows:
        """Return the k most popular unseen items, in the order of `_filled`, in row 0."""
        popularity, (lister, _) = self.popularity, self._lister
        if isinstance(lister, PickScorer):
            popularity = lister.of_user(-1, np.arange(len(self.items)))
        parts = [self._best(popularity[self._eligible][None], self._eligible, row, seen, k)]
        if len(parts[0][0]) < k and len(self._rest):
            parts.append(self._best(popularity[self._rest][None], self._rest, row, seen, k))
        return _cut(parts, k)

    def _spread(self, score: Floats, items: NDArray[np.int64]) -> Floats:
        """Return the scores, shape (b, p), by which p items are ordered, see `Lists`.

        Source: H. Steck, "Item popularity and recommendation accuracy" (RecSys 2011,
        doi:10.1145/2043932.2043957), whose measure counts what is found less by a power of its popularity.
        """
        power = self.settings.get("spread", 0.0)
        if not power:
            return score
        low, _ = self.settings["scale"]
        # A score below the lowest rating would come the nearer to it, the more ratings the item has.
        return np.where(score > low, low + (score - low) * self.count[items] ** -power, score)

    def _shrunk(self, estimate: Floats) -> Floats:
        """Return estimates for `_rest`, shrunk towards the user's mean; fewer ratings shrink more."""
        level = estimate.mean(axis=1, keepdims=True)
        shrunk: Floats = level + self._support * (estimate - level)
        return shrunk

    def _best(
        self, score: Floats, items: NDArray[np.int64], row: NDArray[np.int64], seen: NDArray[Any], k: int
    ) -> Rows:
        """Return the k best of each row of scores over `items` (`_eligible` or `_rest`), without seen items.

        Returns rows, ascending, with items and scores, best first.
        """
        column = self._column[seen] if items is self._eligible else self._column[seen] - len(self._eligible)
        inside = (column >= 0) & (column < len(items))
        score[row[inside], column[inside]] = -np.inf
        k = min(k, score.shape[1])
        least = -np.partition(-score, k - 1, axis=1)[:, k - 1 : k]
        # -inf minus a number is -inf: short rows contain seen items too.
        row, column = np.nonzero((score >= least - 2 * NEAR) & (score > -np.inf))
        score = score[row, column]
        order = np.lexsort((column, -np.round(score / NEAR), row))
        row, column, score = row[order], column[order], score[order]
        best = np.arange(len(row)) - np.searchsorted(row, row) < k
        return row[best], items[column[best]], score[best]

    def _as_lists(
        self,
        row: NDArray[np.int64],
        item: NDArray[np.int64],
        score: Floats,
        rater: Scorer,
        at: NDArray[np.int64],
        known: NDArray[np.bool_],
        first: int,
    ) -> Lists:
        """Return lists, whose users are `at` for `rater`; `known` says which lists are personal."""
        rank = np.arange(len(row)) - np.searchsorted(row, row) + 1
        known = known[row]
        low, high = self.settings["scale"]
        estimate = score
        if self.lister is not None:
            estimate = rater.pairs(at[row], item)
        elif self.settings.get("spread"):
            estimate = np.where(known, rater.pairs(at[row], item), score)
        share = (score - low) / (high - low)
        return Lists(row + first, item, self._clipped(estimate), share, rank, known)

    def _ratings_of(self, user: str, history: History) -> tuple[NDArray[np.int64], Floats]:
        """Return a user's items and ratings: those of the training, overridden by the history."""
        at = self._at(user)
        known: dict[int, float] = {}
        if at >= 0 and self.rating is not None:
            row = slice(self.start[at], self.start[at + 1])
            # Through text: float32 3.3 becomes float64 3.2999999523.
            exact = self.rating[row].astype(str).astype(np.float64)
            known = dict(zip(self.rated[row].tolist(), exact.tolist(), strict=True))
        low, high = self.settings["scale"]
        for raw, rating in history.items():
            if not isinstance(rating, numbers.Real) or not low <= rating <= high:
                shown = float(rating) if isinstance(rating, numbers.Real) else rating
                raise InputError(
                    f"history: rating {shown!r} of item {raw!r} is not on the scale {low:g} to {high:g}."
                )
            if (item := self._item_at.get(raw, -1)) >= 0:
                known[item] = float(rating)
        return np.array([*known], dtype=np.int64), np.array([*known.values()], dtype=np.float64)

    def _folded(
        self, scorer: Scorer, how: FoldIn | None, user: str, history: History
    ) -> tuple[Scorer, int, NDArray[np.int64]]:
        """Return the scorer with the history, the user's index in it (-1: unknown), and the seen items."""
        rated, rating = self._ratings_of(user, history)
        at = self._at(user)
        # Without new ratings the trained user is better than a folded-in one.
        adds = at < 0 or self.knows_any(history)
        folded = None
        if len(rated) and how is not None and adds:
            folded = scorer.fold_in(rated, rating, how, at)
        if folded is not None:
            return folded, folded.n_users - 1, rated
        if at >= 0:
            rated = np.union1d(rated, self.rated[self.start[at] : self.start[at + 1]])
        return scorer, at, rated

    def _clipped(self, estimate: Floats) -> Floats:
        low, high = self.settings["scale"]
        return np.clip(estimate, low, high)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to save; ids, titles and settings are JSON bytes, to avoid pickle."""
        words = {"users": self.users, "items": self.items, "titles": self.titles, "settings": self.settings}
        arrays: dict[str, NDArray[Any]] = {
            key: np.frombuffer(json.dumps(value, sort_keys=True).encode(), dtype=np.uint8)
            for key, value in words.items()
        }
        arrays |= {key: getattr(self, key) for key in ("start", "rated", "count", "popularity")}
        if self.rating is not None:
            arrays["rating"] = self.rating
        for prefix, head in (("scorer_", self.scorer), ("lister_", self.lister)):
            if head is not None:
                parts = (part.name for part in fields(head))  # type: ignore[arg-type]
                arrays |= {prefix + name: np.asarray(getattr(head, name)) for name in parts}
        return arrays

    def digest(self) -> str:
        """Return the SHA-256 (hex) of all arrays; it is equal for two runs of one configuration."""
        seal = hashlib.sha256()
        for key, array in sorted(self.arrays().items()):
            seal.update(
                f"{key} {array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
            )
        return seal.hexdigest()

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the arrays and their manifest, with `about`, into a new folder."""
        folder.mkdir(parents=True)
        np.savez_compressed(folder / ARRAYS, **self.arrays())  # type: ignore[arg-type]
        manifest.write(folder, about)

    @classmethod
    def load(cls, folder: Path) -> "Recommender":
        """Read the files of `save`, without pickle.

        Raises InputError when a file is missing, was changed or is of another format.
        """
        manifest.check(folder, ARRAYS)
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            return cls.of_arrays({key: stored[key] for key in stored.files})

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Recommender":
        """Make a recommender of the arrays that `arrays` returns; takes them out of the dictionary."""
        words = {
            key: json.loads(arrays.pop(key).tobytes()) for key in ("users", "items", "titles", "settings")
        }
        settings: Settings = words["settings"]
        scorer = _head(arrays, "scorer_", settings["scorer"])
        ranking = settings.get("ranking")
        lister = _head(arrays, "lister_", ranking["scorer"]) if ranking else None
        named: dict[str, Any] = {key: tuple(words[key]) for key in ("users", "items", "titles")}
        rest: dict[str, Any] = arrays
        return cls(scorer=scorer, lister=lister, settings=settings, **named, **rest)


def _head(arrays: dict[str, Any], prefix: str, kind: str) -> Scorer:
    """Take a scorer's fields out of stored arrays."""
    parts = {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}
    numbers = {key: value.item() for key, value in parts.items() if value.ndim == 0}
    return KINDS[kind](**{**parts, **numbers})
