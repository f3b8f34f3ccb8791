"""Read ratings into three arrays and check them before training."""

import contextlib
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recommender.config import Columns, DataConfig
from recommender.data import cache, readers
from recommender.data.ratings import HALF_STARS, Ratings
from recommender.data.times import MISSING, Times, is_missing
from recommender.errors import InputError

# Scales of MovieLens' README files; the default is half stars.
SCALES: dict[str, tuple[float, float]] = {"100k": (1.0, 5.0), "1m": (1.0, 5.0)}

# Further words for a missing rating.
_NO_RATING = MISSING | {"na", "-", "--", "?", ".", "nil", "undefined", "unknown", "missing"}
_WHOLE = re.compile(r"(?:0|-?[1-9]\d*)\.0+")
_FRACTION = re.compile(r"-?\d+\.\d*[1-9]\d*")
# Control characters that `tr` can take out of a file: not tab, newline and return.
_TAKEN_OUT = {chr(code) for code in (*range(9), 11, 12, *range(14, 32), 127)}


def read(config: DataConfig) -> Ratings:
    """Read and check the ratings that `config` names; unchanged files come from the cache.

    Raises InputError with file and line (or file and row, or table and row) for invalid data: missing
    columns, ratings off the scale, duplicate pairs, empty input, a wrong encoding.
    """
    source = readers.source(config)
    low, high = config.scale or SCALES.get(source.kind, HALF_STARS)
    scale = (float(low), float(high))

    def check() -> Ratings:
        return _checked(source, scale, config)

    if not source.paths:
        ratings = check()
    else:
        # These settings change the meaning of the bytes.
        meaning = config.model_dump(exclude={"source", "table", "scale", "titles"})
        ratings = cache.cached(source.paths, source.shown, [source.kind, scale, meaning], check)
    return replace(ratings, name=source.name, titles=_titled(source.titles(), ratings.items))


def from_frame(
    frame: pd.DataFrame,
    scale: tuple[float, float] = HALF_STARS,
    titles: dict[str, str] | None = None,
    name: str = "ratings",
) -> Ratings:
    """Read ratings from a frame with columns user, item and rating; raises InputError like `read`."""
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
    return replace(ratings, titles=_titled(titles or {}, ratings.items))


class _Times(Exception):
    """Rows of a pair are equal without their times, which must be read to compare them."""


def _checked(source: readers.Source, scale: tuple[float, float], config: DataConfig) -> Ratings:
    try:
        return _collected(source, scale, config, config.duplicates == "mean")
    except _Times:
        return _collected(source, scale, config, True)


def _collected(
    source: readers.Source, scale: tuple[float, float], config: DataConfig, marked: bool
) -> Ratings:
    """Return the ratings of all chunks. With `marked`, equal rows must have equal times."""
    ids = {"user": _Ids(), "item": _Ids()}
    parts: list[tuple[NDArray[Any], ...]] = []
    times = Times(config.time_format, config.duplicates == "latest")
    timed, unrated = False, 0
    for row, frame in _numbered(source.chunks()):
        places = None
        if config.missing:
            rated = ~_unrated(frame["rating"], config)
            unrated += len(rated) - int(rated.sum())
            places, frame = np.flatnonzero(rated), frame[rated]
            if not len(frame):
                continue

        def locate(
            at: int, row: int = row, frame: pd.DataFrame = frame, places: NDArray[Any] | None = places
        ) -> str:
            place = at if places is None else int(places[at])
            return source.locate(row + place, frame["user"].iloc[at], frame["item"].iloc[at])

        codes = [seen.codes(frame[column]) for column, seen in ids.items()]
        for column, coded in zip(ids, codes, strict=True):
            if (coded < 0).any():
                at = int((coded < 0).argmax())
                _refuse_id(source, column, frame[column].iloc[at], locate(at))
        gaps = frame["rating"].isna().to_numpy(dtype=bool)
        if gaps.any():
            raise InputError(
                f"{locate(int(gaps.argmax()))}, column {source.columns.rating}: the value is missing. Fill "
                f"it in, drop the row, or {_missing(config, '', ' to leave such rows out')}."
            )
        rating = _numbers(frame["rating"], scale, locate, source.columns.rating, config)
        part: list[NDArray[Any]] = [*codes, rating]
        if places is not None:
            part.append(places + row)
        if "timestamp" in frame:
            timed = True
            raw = frame["timestamp"]
            wrong = times.add(raw)
            if wrong is not None and is_missing(raw.iloc[[wrong]]).all():
                word = "" if pd.isna(raw.iloc[wrong]) else f" ({raw.iloc[wrong]!r} is not a time)"
                raise InputError(
                    f"{locate(wrong)}, column {source.columns.timestamp}: the time is missing{word}. Fill it "
                    "in, drop the row, or say --duplicates last, first or mean (data.duplicates)."
                )
            if wrong is not None and (config.duplicates == "latest" or config.time_format is not None):
                raise InputError(
                    f"{locate(wrong)}, column {source.columns.timestamp}: {raw.iloc[wrong]!r} is not a time, "
                    "or not like those before. Write seconds since 1970 or 2026-01-31T12:00, or name the "
                    "format of all: --time-format '%d/%m/%Y %H:%M' (data.time_format)."
                )
        if marked:
            part.append(_marks(frame))
        parts.append(tuple(part))
    if not parts:
        raise InputError(f"{source.shown}: contains no ratings. Give at least one.")
    read = times.reading()
    if read.problem is not None and config.duplicates == "latest":
        raise InputError(f"{source.shown}, column {source.columns.timestamp}: {read.problem}.")
    user, item, rating, *rest = (_joined(parts, at) for at in range(len(parts[0])))
    del parts
    mark = rest.pop() if marked else None
    rows = rest.pop() if rest else None
    (user, users), (item, items) = ids["user"].ranked(user), ids["item"].ranked(item)
    table = _Table(source, users, items, user, item, rating, rows, read.values, mark, timed)
    user, item, rating, replaced = table.paired(config.duplicates)
    return Ratings(
        users,
        items,
        user,
        item,
        rating,
        scale,
        name=source.name,
        period=read.period,
        replaced=replaced,
        unrated=unrated,
        remarks=(f"Times are not used: {read.problem}.",) if read.problem is not None else (),
    )


def _unrated(raw: "pd.Series[Any]", config: DataConfig) -> NDArray[np.bool_]:
    """Return a mask of the rows whose value means "not rated"; shape (n,)."""
    numbers, words = set(), set(config.missing)
    # Parquet, JSON and databases have their own null; CSV does not.
    none = "" in words
    if not isinstance(raw.dtype, pd.StringDtype):
        none = none or any(word.casefold() in MISSING for word in words)
    for word in config.missing:
        with contextlib.suppress(ValueError):
            numbers.add(float(word))
    codes, unique = _factorized(raw)

    def means_none(value: Any) -> bool:
        if not (word := readers.text(value)):
            return none
        if config.decimal == ",":
            word = word.replace(",", ".")
        try:
            return word in words or float(word) in numbers
        except ValueError:
            return False

    known = [means_none(value) for value in unique]
    found: NDArray[np.bool_] = np.array([*known, none], dtype=bool)[codes]
    return found


def _missing(config: DataConfig, word: str, what: str = "") -> str:
    """Return the flags that make `word`, too, mean "not rated", followed by `what`."""
    others = [each for each in config.missing if each != word]
    together = f"; with the others: {_missing_flags([*others, word])}" if others else ""
    return f"say {_missing_flags([word])}{what} (data.missing{together})"


def _missing_flags(words: list[str]) -> str:
    # argparse reads -nan as a flag.
    apart = [each for each in words if each[:1] == "-" and not re.fullmatch(r"-(\d*\.)?\d*", each)]
    plain = [shlex.quote(each) for each in words if each not in apart]
    flags = [f"--missing={shlex.quote(each)}" for each in apart]
    return " ".join(["--missing " + " ".join(plain), *flags] if plain else flags)


def _marks(frame: pd.DataFrame) -> NDArray[np.uint64]:
    """Return numbers that are equal for equal times; shape (n,)."""
    if "timestamp" not in frame:
        return np.zeros(len(frame), dtype=np.uint64)
    marks: NDArray[np.uint64] = pd.util.hash_pandas_object(
        frame["timestamp"].astype(str), index=False
    ).to_numpy()
    return marks


def _factorized(raw: "pd.Series[Any]") -> tuple[NDArray[Any], Any]:
    # Half a surrogate pair is not valid UTF-8, which pandas would need.
    codes, unique = pd.factorize(raw.to_numpy() if raw.dtype == object else raw)
    return codes, unique


def _refuse_id(source: readers.Source, column: str, raw: Any, where: str) -> NoReturn:
    shown = "" if pd.isna(raw) else readers.text(raw)
    named = f"{where}, column {getattr(source.columns, column)}"
    if _is_quoted_late(raw):
        remedy = "Write no blanks before quotes."
        if source.plain:
            remedy = (
                f"Take such blanks out: sed -E 's/([,;|]) +\"/\\1\"/g' < {source.plain} > ratings-clean.csv, "
                "then say --data ratings-clean.csv."
            )
        raise InputError(f"{named}: {shown} is in quotes after a blank, which makes another id. {remedy}")
    if (wrong := next((each for each in shown if _is_unfit(each)), None)) is None:
        word = f" ({shown!r})" if shown else ""
        raise InputError(f"{named}: the value is missing{word}. Fill it in or drop the row.")
    what = "half of a surrogate pair" if "\ud800" <= wrong <= "\udfff" else "a control character"
    remedy = "Write the id without it."
    if source.plain and wrong in _TAKEN_OUT:
        remedy = (
            f"Take such out: tr -d '\\000-\\010\\013\\014\\016-\\037\\177' < {source.plain} > "
            "ratings-clean.csv, "
            "then say --data ratings-clean.csv."
        )
    raise InputError(f"{named}: {shown!r} holds {what} (U+{ord(wrong):04X}). {remedy}")


def _is_unfit(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def _is_quoted_late(value: Any) -> bool:
    """Check for a blank before the quotes of a CSV field, which makes them part of it."""
    return isinstance(value, str) and re.fullmatch(r'\s+".*"\s*', value) is not None


def _numbered(frames: Iterator[pd.DataFrame]) -> Iterator[tuple[int, pd.DataFrame]]:
    row = 0
    for frame in frames:
        if len(frame):
            yield row, frame
        row += len(frame)


def _joined(parts: list[tuple[NDArray[Any], ...]], at: int) -> NDArray[Any]:
    return np.concatenate([part[at] for part in parts])


class _Ids:
    """Codes of ids in order of their first appearance, chunk after chunk."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def codes(self, ids: "pd.Series[Any]") -> NDArray[np.int32]:
        """Return a code for each id, -1 for missing and invalid ones; shape (n,)."""
        codes, unique = _factorized(ids)
        at = self._at
        known = [at[raw] if (raw := readers.text(value)) in at else self._new(raw, value) for value in unique]
        coded: NDArray[np.int32] = np.array([*known, -1], dtype=np.int32)[codes]
        return coded

    def _new(self, raw: str, value: Any) -> int:
        if (
            _is_quoted_late(value)
            or raw.casefold() in MISSING
            or (not raw.isprintable() and any(map(_is_unfit, raw)))
        ):
            return -1
        code = self._at[raw] = len(self._at)
        return code

    def ranked(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return the codes in the canonical order of ids, and the ids in that order."""
        # In a column with gaps pandas writes 3 as 3.0, unless fractions occur.
        dotted = [raw for raw in self._at if "." in raw]
        if any(map(_FRACTION.fullmatch, dotted)):
            dotted = []
        short = {raw: whole(raw) for raw in dotted}
        names = sorted({*self._at}.difference(dotted) | {*short.values()}, key=lambda raw: (len(raw), raw))
        place = {name: at for at, name in enumerate(names)}
        rank = np.fromiter((place[short.get(raw, raw)] for raw in self._at), np.int32, len(self._at))
        return rank[codes], tuple(names)


def whole(raw: str) -> str:
    """Return the id 3 for 3.0; others unchanged."""
    return raw.partition(".")[0] if _WHOLE.fullmatch(raw) else raw


def _titled(titles: dict[str, str], items: tuple[str, ...]) -> dict[str, str]:
    known = set(items)
    found = {item: title for item, title in titles.items() if item in known}
    for item, title in titles.items():
        if (short := whole(item)) in known:
            found.setdefault(short, title)
    return found


def _numbers(
    raw: "pd.Series[Any]",
    scale: tuple[float, float],
    locate: Callable[[int], str],
    column: str,
    config: DataConfig,
) -> NDArray[np.float64]:
    codes, unique = _factorized(raw)
    distinct = pd.Series(np.asarray(unique, dtype=object))
    if config.decimal == ",":
        distinct = distinct.map(_pointed)
    distinct = pd.to_numeric(distinct, errors="coerce")
    numbers: NDArray[np.float64] = distinct.to_numpy(dtype=np.float64)[codes]
    low, high = scale
    written = "3.5, with a point" if config.decimal == "." else "3,5, with a comma, or leave --decimal out"
    for wrong, what in (
        (~np.isfinite(numbers), f"is not a number. Write ratings as {written}"),
        (
            ~((numbers >= low) & (numbers <= high)),
            f"is off the scale {low:g} to {high:g}. Mend it, or name the scale "
            f"with --scale LOW HIGH (data.scale)",
        ),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            word = readers.text(raw.iloc[at])
            if "off the scale" in what:
                remedy = _missing(config, readers.text(float(numbers[at])))
                what += f". If it means 'not rated', {remedy}"
            elif word.casefold() in _NO_RATING:
                what += f", or {_missing(config, word, ' to leave such rows out')}"
            elif config.decimal == "." and "," in str(raw.iloc[at]):
                what += ", or say --decimal , (data.decimal)"
            raise InputError(f"{locate(at)}, column {column}: rating {raw.iloc[at]!r} {what}.")
    return numbers


def _pointed(value: Any) -> Any:
    """Return a number with a decimal comma in Python's form; one with a point is invalid."""
    return value.replace(".", "?").replace(",", ".") if isinstance(value, str) else value


@dataclass(frozen=True)
class _Table:
    """All rows: codes, ratings, numbers in the source, times, marks of equal times."""

    source: readers.Source
    users: tuple[str, ...]
    items: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float64]
    rows: NDArray[np.int64] | None
    times: NDArray[np.float64] | None
    mark: NDArray[np.uint64] | None
    timed: bool

    def paired(
        self, duplicates: str
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], int]:
        """Return the ratings in canonical order, one per pair, and the number of replaced ones.

        Raises InputError for two ratings of a pair if `duplicates` is error, _Times if they are equal and
        their times were not read.
        """
        pair = self.user.astype(np.int64) * len(self.items) + self.item
        if np.all(pair[1:] > pair[:-1]):
            return self.user, self.item, self.rating, 0
        if duplicates == "latest" and self.times is not None:
            order = np.lexsort((self.times, pair))
        elif duplicates == "mean" and self.mark is not None:
            order = np.lexsort((self.mark, self.rating, pair))
        else:
            order = np.argsort(pair, kind="stable")
        pair, rating = pair[order], self.rating[order]
        again = pair[1:] == pair[:-1]
        if not again.any():
            return self.user[order], self.item[order], rating, 0
        replaced = int(again.sum())
        if duplicates in ("error", "mean"):
            equal = again & (rating[1:] == rating[:-1])
            if self.mark is not None:
                equal &= self.mark[order][1:] == self.mark[order][:-1]
        if duplicates == "error":
            if (other := again & ~equal).any():
                raise self._twice(pair, order, other)
            if self.timed and self.mark is None:
                raise _Times
        if duplicates == "mean":
            once = np.append(True, ~equal)
            order, pair, rating = order[once], pair[once], rating[once]
            starts = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))
            sums = np.add.reduceat(rating, starts)
            rating = sums / np.diff(np.append(starts, len(pair)))
            return self.user[order[starts]], self.item[order[starts]], rating, replaced
        order = order[np.append(True, ~again) if duplicates == "first" else np.append(~again, True)]
        return self.user[order], self.item[order], self.rating[order], replaced

    def _twice(self, pair: NDArray[Any], order: NDArray[Any], other: NDArray[np.bool_]) -> InputError:
        at = int(other.argmax())
        ids = self.users[pair[at] // len(self.items)], self.items[pair[at] % len(self.items)]
        rows = sorted(int(row if self.rows is None else self.rows[row]) for row in order[at : at + 2])
        first, second = (self.source.locate(row, *ids) for row in rows)
        newest = "latest to keep the newest, " if self.timed else ""
        return InputError(
            f"{second}: user {ids[0]!r} rates item {ids[1]!r} again "
            f"(first: {first}; {int(other.sum())} such rows). Keep one rating a pair, "
            f"or say --duplicates {newest}last or first by their order, or mean (data.duplicates)."
        )
