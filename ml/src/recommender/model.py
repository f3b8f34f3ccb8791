"""A trained recommender: estimates for pairs, lists for users, and its persistence without pickle."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recommender import manifest
from recommender.scoring import KINDS, Floats, Scorer

if TYPE_CHECKING:
    from recommender.data import Ratings

# The one file beside the manifest of a saved recommender.
ARRAYS = "recommender.npz"


@dataclass(frozen=True)
class Pick:
    """One line of a list: rank counts from 1, estimate is in rating units."""

    item: str
    title: str
    estimate: float
    rank: int


@dataclass(frozen=True, eq=False, repr=False)
class Recommender:
    """Scorer, ids, titles, what each user has rated, and each item's popularity.

    `rated[start[u]:start[u + 1]]` are the items of user u; `count` and `popularity` have shape (m,),
    popularity is the damped mean rating. `settings` holds scale, k and min_item_ratings besides what
    describes the model.
    """

    scorer: Scorer
    users: tuple[str, ...]
    items: tuple[str, ...]
    titles: tuple[str, ...]
    start: NDArray[np.int64]
    rated: NDArray[np.int32]
    count: NDArray[np.int64]
    popularity: Floats
    settings: dict[str, Any]

    def __repr__(self) -> str:
        kind = type(self.scorer).__name__
        return f"<Recommender by {kind}: {len(self.users)} users, {len(self.items)} items>"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_user_at", {raw: at for at, raw in enumerate(self.users)})
        object.__setattr__(self, "_item_at", {raw: at for at, raw in enumerate(self.items)})

    @classmethod
    def build(cls, scorer: Scorer, ratings: "Ratings", settings: dict[str, Any]) -> "Recommender":
        """Join a scorer over all of `ratings` to them; `settings` needs k, min_item_ratings and damping.

        The damped mean is (sum of an item's ratings + damping x overall mean) / (its ratings + damping):
        damping is the number of average ratings that a new item starts with.
        """
        m, damping = len(ratings.items), settings["damping"]
        count = np.bincount(ratings.item, minlength=m)
        total = np.bincount(ratings.item, weights=ratings.rating, minlength=m)
        start = np.concatenate(([0], np.cumsum(np.bincount(ratings.user, minlength=len(ratings.users)))))
        return cls(
            scorer=scorer,
            users=ratings.users,
            items=ratings.items,
            titles=tuple(ratings.titles.get(item, "") for item in ratings.items),
            start=start,
            rated=ratings.item,
            count=count,
            popularity=(total + damping * ratings.rating.mean()) / (count + damping),
            settings={**settings, "scale": list(ratings.scale), "scorer": type(scorer).__name__},
        )

    def knows(self, user: str) -> bool:
        """Whether the user was among the ratings."""
        return user in self._user_at  # type: ignore[attr-defined]

    def estimate(self, users: Sequence[str], items: Sequence[str]) -> Floats:
        """Estimates clipped to the scale for n pairs of raw ids; unknown ids get what Surprise gives them."""
        user = np.array([self._user_at.get(raw, -1) for raw in users], dtype=np.int64)  # type: ignore[attr-defined]
        item = np.array([self._item_at.get(raw, -1) for raw in items], dtype=np.int64)  # type: ignore[attr-defined]
        return self._clipped(self.scorer.pairs(user, item))

    def top_n(self, user: str, k: int | None = None) -> list[Pick]:
        """The k best items that the user has not rated, best first; fewer when there are not so many.

        Items need `min_item_ratings` ratings, or as many as the most rated item has when none has so many. An
        unknown user gets the items of highest popularity. Equal estimates: the item with more ratings first.
        """
        k = self.settings["k"] if k is None else k
        at = self._user_at.get(user, -1)  # type: ignore[attr-defined]
        open_ = self.count >= min(self.settings["min_item_ratings"], int(self.count.max()))
        if at >= 0:
            open_[self.rated[self.start[at] : self.start[at + 1]]] = False
        item = np.flatnonzero(open_)
        score = self.scorer.of_user(at, item) if at >= 0 else self.popularity[item]
        best = np.lexsort((item, -self.count[item], -score))[:k]
        shown = self._clipped(score[best])
        return [
            Pick(self.items[i], self.titles[i], float(estimate), rank)
            for rank, (i, estimate) in enumerate(
                zip(item[best].tolist(), shown.tolist(), strict=True), start=1
            )
        ]

    def _clipped(self, estimate: Floats) -> Floats:
        low, high = self.settings["scale"]
        return np.clip(estimate, low, high)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that `save` writes; ids, titles and settings are JSON in bytes, so nothing needs pickle."""
        words = {"users": self.users, "items": self.items, "titles": self.titles, "settings": self.settings}
        arrays: dict[str, NDArray[Any]] = {
            key: np.frombuffer(json.dumps(value, sort_keys=True).encode(), dtype=np.uint8)
            for key, value in words.items()
        }
        arrays |= {key: getattr(self, key) for key in ("start", "rated", "count", "popularity")}
        return arrays | {f"scorer_{key}": np.asarray(value) for key, value in vars(self.scorer).items()}

    def digest(self) -> str:
        """SHA-256 (hex) of all that determines the answers: equal for two runs of one configuration."""
        seal = hashlib.sha256()
        for key, array in sorted(self.arrays().items()):
            seal.update(
                f"{key} {array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
            )
        return seal.hexdigest()

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the arrays and their manifest, with `about`, into a folder, which is made."""
        folder.mkdir(parents=True)
        np.savez_compressed(folder / ARRAYS, **self.arrays())  # type: ignore[arg-type]
        manifest.write(folder, about)

    @classmethod
    def load(cls, folder: Path) -> "Recommender":
        """Read what `save` wrote; nothing is unpickled.

        Raises InputError when a file is missing, is not the one that was saved, or is of another format.
        """
        manifest.check(folder, ARRAYS)
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        words = {
            key: json.loads(arrays.pop(key).tobytes()) for key in ("users", "items", "titles", "settings")
        }
        parts: dict[str, Any] = {
            key.removeprefix("scorer_"): arrays.pop(key) for key in list(arrays) if key.startswith("scorer_")
        }
        numbers = {key: value.item() for key, value in parts.items() if value.ndim == 0}
        scorer = KINDS[words["settings"]["scorer"]](**{**parts, **numbers})
        named: dict[str, Any] = {key: tuple(words[key]) for key in ("users", "items", "titles")}
        return cls(scorer=scorer, settings=words["settings"], **named, **arrays)
