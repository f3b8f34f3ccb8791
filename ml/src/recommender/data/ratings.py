"""Hold checked ratings as three arrays."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

HALF_STARS = (0.5, 5.0)


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """Ratings in canonical order: by user, then by item, ids in the order of length, then text.

    `user` and `item` (int32, shape (n,)) index `users` and `items`; `rating` is float64, shape (n,). Numeric
    ids thus are in numeric order, and the order of lines or rows does not influence
    a model. `period` is the time of the first and the last rating in seconds since 1970, None where the data
    has no times; `replaced` counts the ratings replaced by another of the same pair, `unrated`
    the rows skipped as not rated. `remarks` name unusable data.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float64]
    scale: tuple[float, float] = HALF_STARS
    titles: dict[str, str] = field(default_factory=dict)
    name: str = "ratings"
    period: tuple[float, float] | None = None
    replaced: int = 0
    unrated: int = 0
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Ratings {self.name}: {len(self)} of {len(self.users)} users for {len(self.items)} items>"

    def __len__(self) -> int:
        return len(self.rating)

    def digest(self) -> str:
        """Return the SHA-256 (hex) of ids, ratings and scale, independent of the file."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        seal = hashlib.sha256(json.dumps([self.users, self.items, self.scale]).encode())
        for array in (self.user, self.item, self.rating):
            seal.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
        return seal.hexdigest()

    def frame(self) -> pd.DataFrame:
        """Return the ratings as a frame with columns user, item (str) and rating (float64)."""
        return pd.DataFrame(
            {
                "user": np.asarray(self.users, dtype=object)[self.user],
                "item": np.asarray(self.items, dtype=object)[self.item],
                "rating": self.rating,
            }
        )
