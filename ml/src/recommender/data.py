"""Ratings as three arrays, checked before anything is trained on them."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recommender import readers, store
from recommender.config import Columns, DataConfig
from recommender.errors import InputError

# The scales that MovieLens states in its README files; other data uses the half-star scale unless told.
SCALES: dict[str, tuple[float, float]] = {"100k": (1.0, 5.0), "1m": (1.0, 5.0)}
HALF_STARS = (0.5, 5.0)


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """Ratings in canonical order: by user, then by item, ids in the order of length, then text.

    `user` and `item` (int32, shape (n,)) index `users` and `items`; `rating` is float64, shape (n,). Numeric
    ids thus stand in numeric order, and the order of a file's lines or of a table's rows has no influence on
    a model. `period` is the time of the first and the last rating in seconds since 1970, None where the data
    has no times; `replaced` counts the ratings that a newer one of the same pair took the place of.
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

    def __repr__(self) -> str:
        return f"<Ratings {self.name}: {len(self)} of {len(self.users)} users for {len(self.items)} items>"

    def __len__(self) -> int:
        return len(self.rating)

    def digest(self) -> str:
        """SHA-256 (hex) of ids, ratings and scale: equal for equal ratings, whatever file they came from."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        seal = hashlib.sha256(json.dumps([self.users, self.items, self.scale]).encode())
        for array in (self.user, self.item, self.rating):
            seal.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
        return seal.hexdigest()

    def frame(self) -> pd.DataFrame:
        """The ratings as a frame with columns user, item (str) and rating (float64)."""
        return pd.DataFrame(
            {
                "user": np.asarray(self.users, dtype=object)[self.user],
                "item": np.asarray(self.items, dtype=object)[self.item],
                "rating": self.rating,
            }
        )


def read(config: DataConfig) -> Ratings:
    """Read and check the ratings that `config` names; a file that was read before comes from the cache.

    Raises InputError with file and line (or file and row, or table and row) for missing columns, ratings off
    the scale, duplicate pairs, empty input, wrong encoding and whatever else makes the data unfit.
    """
    source = readers.source(config)
    low, high = config.scale or SCALES.get(source.kind, HALF_STARS)
    scale = (float(low), float(high))

    def check() -> Ratings:
        return _checked(source, scale, config)

    if not source.paths:
        ratings = check()
    else:
        # What the files' bytes mean depends on these.
        meaning = config.model_dump(exclude={"source", "table", "scale", "titles"})
        ratings = store.cached(source.paths, source.shown, [source.kind, scale, meaning], check)
    known = set(ratings.items)
    titles = {item: title for item, title in source.titles().items() if item in known}
    return replace(ratings, name=source.name, titles=titles)


def from_frame(
    frame: pd.DataFrame,
    scale: tuple[float, float] = HALF_STARS,
    titles: dict[str, str] | None = None,
    name: str = "ratings",
) -> Ratings:
    """Ratings from a frame with columns user, item and rating; raises InputError as `read` does."""
    for column in ("user", "item", "rating"):
        if column not in frame:
            raise InputError(
                f"{name}: column {column!r} is missing; the frame has: {', '.join(map(str, frame))}."
            )
    source = readers.Source(
        kind="frame",
        name=name,
        shown=name,
        paths=(),
        columns=Columns(user="user", item="item", rating="rating"),
        chunks=lambda: iter([frame]),
        locate=lambda row, user, item: f"{name}, row {row}",
        titles=dict,
    )
    ratings = _checked(source, (float(scale[0]), float(scale[1])), DataConfig(source=name))
    known = set(ratings.items)
    return replace(ratings, titles={i: t for i, t in (titles or {}).items() if i in known})


def _checked(source: readers.Source, scale: tuple[float, float], config: DataConfig) -> Ratings:
    duplicates = config.duplicates
    ids = {"user": _Ids(), "item": _Ids()}
    parts: list[tuple[NDArray[Any], ...]] = []
    period = (np.inf, -np.inf)
    for row, frame in _numbered(source.chunks()):

        def locate(at: int, row: int = row, frame: pd.DataFrame = frame) -> str:
            return source.locate(row + at, frame["user"].iloc[at], frame["item"].iloc[at])

        codes = [seen.codes(frame[column]) for column, seen in ids.items()]
        missing = [*((code < 0) for code in codes), frame["rating"].isna().to_numpy(dtype=bool)]
        for column, gaps in zip(("user", "item", "rating"), missing, strict=True):
            if gaps.any():
                raise InputError(
                    f"{locate(int(gaps.argmax()))}, column {getattr(source.columns, column)}: "
                    "the value is missing. Fill it in or drop the row."
                )
        rating = _numbers(frame["rating"], scale, locate, source.columns.rating, config.decimal)
        part: list[NDArray[Any]] = [*codes, rating]
        if "timestamp" in frame:
            times = _times(frame["timestamp"])
            if duplicates == "latest":
                if np.isnan(times).any():
                    at = int(np.isnan(times).argmax())
                    raise InputError(
                        f"{locate(at)}, column {source.columns.timestamp}: "
                        f"{frame['timestamp'].iloc[at]!r} is no time. "
                        "Write seconds since 1970 or 2026-01-31T12:00."
                    )
                part.append(times)
            if not np.isnan(times).all():
                period = min(period[0], float(np.nanmin(times))), max(period[1], float(np.nanmax(times)))
        parts.append(tuple(part))
    if not parts:
        raise InputError(f"{source.shown}: holds no ratings. Give at least one.")
    user, item, rating, *latest = (_joined(parts, at) for at in range(len(parts[0])))
    del parts
    (user, users), (item, items) = ids["user"].ranked(user), ids["item"].ranked(item)
    user, item, rating, replaced = _paired(source, users, items, user, item, rating, latest)
    return Ratings(
        users,
        items,
        user,
        item,
        rating,
        scale,
        name=source.name,
        period=period if period[0] <= period[1] else None,
        replaced=replaced,
    )


def _numbered(frames: Iterator[pd.DataFrame]) -> Iterator[tuple[int, pd.DataFrame]]:
    row = 0
    for frame in frames:
        if len(frame):
            yield row, frame
        row += len(frame)


def _joined(parts: list[tuple[NDArray[Any], ...]], at: int) -> NDArray[Any]:
    return np.concatenate([part[at] for part in parts])


class _Ids:
    """Codes for ids in the order of their first appearance, chunk after chunk."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def codes(self, ids: "pd.Series[Any]") -> NDArray[np.int32]:
        """A code for each id, -1 where it is missing or blank; shape (n,)."""
        codes, unique = pd.factorize(ids)
        known = [
            self._at.setdefault(raw, len(self._at)) if (raw := readers.text(value)) else -1
            for value in unique
        ]
        coded: NDArray[np.int32] = np.array([*known, -1], dtype=np.int32)[codes]
        return coded

    def ranked(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The codes in the canonical order of ids, and the ids in that order."""
        names = sorted(self._at, key=lambda raw: (len(raw), raw))
        rank = np.empty(len(names), dtype=np.int32)
        rank[[self._at[raw] for raw in names]] = np.arange(len(names), dtype=np.int32)
        return rank[codes], tuple(names)


def _numbers(
    raw: "pd.Series[Any]",
    scale: tuple[float, float],
    locate: Callable[[int], str],
    column: str,
    decimal: str,
) -> NDArray[np.float64]:
    codes, unique = pd.factorize(raw)
    distinct = pd.Series(np.asarray(unique, dtype=object))
    if decimal == ",":
        distinct = distinct.map(_pointed)
    distinct = pd.to_numeric(distinct, errors="coerce")
    numbers: NDArray[np.float64] = distinct.to_numpy(dtype=np.float64)[codes]
    low, high = scale
    written = "3.5, with a point" if decimal == "." else "3,5, with a comma, or leave --decimal out"
    for wrong, what in (
        (~np.isfinite(numbers), f"is no number. Write ratings as {written}"),
        (
            ~((numbers >= low) & (numbers <= high)),
            f"is off the scale {low:g} to {high:g}. Mend it, or name the scale with --scale LOW HIGH "
            "(data.scale)",
        ),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            if decimal == "." and "number" in what and "," in str(raw.iloc[at]):
                what += ", or say --decimal , (data.decimal)"
            raise InputError(f"{locate(at)}, column {column}: rating {raw.iloc[at]!r} {what}.")
    return numbers


def _pointed(value: Any) -> Any:
    """A number with a decimal comma as Python writes it; one with a point is not one."""
    return value.replace(".", "?").replace(",", ".") if isinstance(value, str) else value


def _times(raw: "pd.Series[Any]") -> NDArray[np.float64]:
    """Seconds since 1970, NaN for what is no time."""
    if pd.api.types.is_datetime64_any_dtype(raw):
        times = np.full(len(raw), np.nan)
    else:
        times = pd.to_numeric(raw, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(times).any():
        moments = pd.to_datetime(raw, errors="coerce", utc=True, format="mixed")
        seconds = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
        times = np.where(np.isnan(times), seconds.to_numpy(dtype=np.float64, na_value=np.nan), times)
    return times


def _paired(
    source: readers.Source,
    users: tuple[str, ...],
    items: tuple[str, ...],
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    rating: NDArray[np.float64],
    latest: list[NDArray[np.float64]],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], int]:
    """The ratings in canonical order, one a pair, and how many gave way to a newer one."""
    pair = user.astype(np.int64) * len(items) + item
    if np.all(pair[1:] > pair[:-1]):
        return user, item, rating, 0
    order = np.lexsort((*latest, pair)) if latest else np.argsort(pair, kind="stable")
    pair = pair[order]
    again = pair[1:] == pair[:-1]
    if again.any():
        if not latest:
            at = int(again.argmax())
            ids = users[pair[at] // len(items)], items[pair[at] % len(items)]
            first, second = (source.locate(int(row), *ids) for row in sorted(order[at : at + 2]))
            raise InputError(
                f"{second}: user {ids[0]!r} rates item {ids[1]!r} again "
                f"(first: {first}; {int(again.sum())} such rows). Keep one rating a pair, "
                "or say --duplicates latest to keep the newest."
            )
        order = order[np.append(~again, True)]
    return user[order], item[order], rating[order], int(again.sum())
