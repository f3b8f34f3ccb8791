"""Times of one column, read in one way from its first row to its last."""

import re
import shlex
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recommender.errors import InputError

# A day and a month in numbers, whichever comes first, before a year; clocks and weekdays may stand before.
_DATE = (
    r"(?<![\d:/.-])(\d{1,2})(\s*[-/.]\s*|\s)(\d{1,2})(\s*[-/.]\s*|\s)"
    r"(\d{4}(?!\d)|\d{2}(?![\d:]|[-/.]\d{1,2}[-/.]))"
)
# The first part, and the order of all three.
_ORDERS = {"day": "dmy", "month": "mdy", "year": "ymd"}
# Possible surroundings, in strptime's form.
_CLOCK = r"\d{1,2}([:.])\d\d(\1\d\d)?(\.\d+)?(\s*)([AaPp][Mm]\b)?"
_WORDS = (
    (r"(?i)\b(mon|tues|wednes|thurs|fri|satur|sun)day\b", "%A"),
    (r"(?i)\b(mon|tue|wed|thu|fri|sat|sun)\b", "%a"),
    (r"(?<=%M|%S|%f|%p)(\s*)([+-]\d\d:?\d\d|Z)\b", r"\1%z"),
    (r"\b(UTC|GMT)\b", "%Z"),
)
_SETTLED = (
    r"(?<!\d)\d{4}(\d{4}|\s*[-/. ]\s*\d)"
    r"|(?i:(?<![a-z])(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))"
)
_ONLY_CLOCK = r"^\d{1,2}:\d\d[\d:.]*\s*([AaPp][Mm])?$"
_YEAR_2 = datetime(2, 1, 1, tzinfo=UTC).timestamp()
# From here numbers are not seconds: those would be beyond the year 5000.
_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
_SECONDS = (1.0, "seconds")
# Days written as one number, 20150213.
_COMPACT = (19_000_101, 21_001_231)
# Programs' words for a missing value, in small letters.
MISSING = frozenset({"", "null", "\\n", "nan", "-nan", "none", "<na>", "n/a", "#n/a", "nat"})


@dataclass(frozen=True)
class Reading:
    """The times of a column in seconds since 1970 (None unless kept), and the first and last of them.

    `problem` says why times are missing or ambiguous.
    """

    values: NDArray[np.float64] | None
    period: tuple[float, float] | None
    problem: str | None


class Times:
    """Collect a column chunk by chunk. With `keep` all times are kept and must be present."""

    def __init__(self, time_format: str | None, keep: bool) -> None:
        self._format, self._keep = time_format, keep
        self._kind: str | None = None
        self._parts: dict[str, list[NDArray[np.float64]]] = {}
        self._ends: dict[str, tuple[float, float]] = {}
        # Of numbers: the least and the greatest without their sign, and whether all look like 20150213.
        self._sizes, self._compact = (np.inf, 0.0), True
        self._problem: str | None = None
        # By two readings of dates: the first time that they read as different days.
        self._unlike: dict[tuple[str, str], str] = {}
        # The least and the greatest first and last number of dates whose year may come first.
        self._spans = np.array([[np.inf, -np.inf]] * 2)

    def add(self, raw: "pd.Series[Any]") -> int | None:
        """Read another chunk; return the first row with an invalid or different time, or None."""
        if self._problem is not None:
            return None
        gaps = is_missing(raw)
        if gaps.any() and self._keep:
            return int(gaps.argmax())
        places = None
        if gaps.any():
            raw, places = raw[~gaps], np.flatnonzero(~gaps)
            if not len(raw):
                return None
        if self._kind is None:
            self._kind = self._guess(raw)
            self._parts = {name: [] for name in (_ORDERS if self._kind == "date" else ("",))}
        wrong = {}
        read = {}
        words = raw.astype(str).str.strip() if self._kind == "date" else raw
        dates = words.str.extract(_DATE) if self._kind == "date" else None
        for name in self._parts:
            values = self._values(raw) if dates is None else self._of_dates(words, dates, name)
            bad = np.isnan(values)
            if bad.any():
                wrong[name] = int(bad.argmax())
            else:
                read[name] = values
        if not read:
            at = max(wrong.values())
            self._problem = f"{raw.iloc[at]!r} is not a time like those before"
            return at if places is None else int(places[at])
        self._parts = {name: part for name, part in self._parts.items() if name in read}
        self._note(raw, read)
        return None

    def _note(self, raw: "pd.Series[Any]", read: dict[str, NDArray[np.float64]]) -> None:
        for name, values in read.items():
            low, high = self._ends.get(name, (np.inf, -np.inf))
            self._ends[name] = min(low, float(values.min())), max(high, float(values.max()))
            if self._keep:
                self._parts[name].append(values)
        for pair in combinations(read, 2):
            unlike = read[pair[0]] != read[pair[1]]
            if pair not in self._unlike and unlike.any():
                self._unlike[pair] = str(raw.iloc[int(unlike.argmax())])
        if self._kind == "number":
            values = read[""]
            low, high = self._ends[""]
            if low <= 0:
                sizes = np.abs(values)
                low, high = float(np.min(sizes, where=sizes > 0, initial=np.inf)), max(-low, high)
            self._sizes = min(self._sizes[0], low), max(self._sizes[1], high)
            if self._compact:
                self._compact = bool(_looks_compact(values).all())

    def reading(self) -> Reading:
        """Return the result of all chunks."""
        if self._problem is not None or not self._ends:
            return Reading(None, None, self._problem)
        orders = [name for name in self._parts if name != "year" or not self._year_is_last()]
        samples = [self._unlike[pair] for pair in combinations(orders, 2) if pair in self._unlike]
        if samples:
            word = samples[0].strip()
            first = [f"the {name}" for name in orders]
            formats = " or ".join(_typed(_pattern(word, name)) for name in orders)
            return Reading(
                None,
                None,
                f"{word!r}: no row says whether {' or '.join(first)} comes first. "
                f"Say --time-format {formats} (data.time_format)",
            )
        name = orders[0]
        low, high = self._ends[name]
        values = np.concatenate(self._parts[name]) if self._keep else None
        if self._kind == "number":
            if self._compact:
                ends = [f"{end:.0f}" for end in (low, high)]
                days = pd.to_datetime(ends, format="%Y%m%d", errors="coerce", utc=True)
                if days.hasnans:
                    return Reading(None, None, f"{ends[days.isna().argmax()]} is not a day")
                return Reading(values, (days[0].timestamp(), days[1].timestamp()), None)
            units = [_unit(size) for size in self._sizes if np.isfinite(size)]
            if units[0] != units[-1]:
                return Reading(
                    None,
                    None,
                    f"some times are {units[0][1]} and some {units[-1][1]} since 1970. Write one unit",
                )
            divisor = units[0][0]
            low, high = low / divisor, high / divisor
            values = None if values is None else values / divisor
        return Reading(values, (low, high), None)

    def _year_is_last(self) -> bool:
        """Check that the last of the two-digit numbers varies so little that it is the year."""
        if len(self._parts) == 1:
            return False
        first, last = self._spans[:, 1] - self._spans[:, 0]
        # Days that are always the first or the last of a month vary little too.
        day_of_months = self._spans[1, 1] == 1 or self._spans[1, 0] >= 28
        return bool(2 * last + 5 < first and not day_of_months)

    def _guess(self, raw: "pd.Series[Any]") -> str:
        first = raw.iloc[0]
        if self._format is not None:
            return "format"
        if pd.api.types.is_datetime64_any_dtype(raw) or isinstance(first, date):
            return "moment"
        if not np.isnan(_numbers(raw[:1])[0]):
            return "number"
        return "date" if re.search(_DATE, str(first)) else "text"

    def _values(self, raw: "pd.Series[Any]") -> NDArray[np.float64]:
        """Return seconds since 1970 (numbers unchanged), NaN for invalid times."""
        if self._kind == "number":
            return _numbers(raw)
        if self._kind == "moment":
            return _seconds(pd.to_datetime(raw.astype(object), errors="coerce", utc=True, format="mixed"))
        words = raw.astype(str).str.strip()
        if self._kind == "format":
            if pd.api.types.is_numeric_dtype(raw):
                # 02032015 was read as a number, without its zero.
                width = len(datetime(2015, 12, 13).strftime(str(self._format)))
                words = words.str.removesuffix(".0").str.zfill(width)
            return _seconds(self._parsed(words, self._format))
        return self._of_text(words)

    def _of_dates(self, words: "pd.Series[Any]", dates: pd.DataFrame, name: str) -> NDArray[np.float64]:
        order = _ORDERS[name]
        numbers = {each: pd.to_numeric(dates[at]) for each, at in zip(order, (0, 2, 4), strict=True)}
        fits = dates[0].notna() & numbers["d"].between(1, 31) & numbers["m"].between(1, 12)
        if name == "year":
            fits &= dates[4].str.len() == 2
        if not fits.all():
            return np.where(fits.to_numpy(dtype=bool), 0.0, np.nan)
        if name == "year":
            for span, each in zip(self._spans, "yd", strict=True):
                span[:] = min(span[0], numbers[each].min()), max(span[1], numbers[each].max())
        return self._first_fit(words, [_pattern(str(words.iloc[0]), name), "mixed"], name)

    def _of_text(self, words: "pd.Series[Any]") -> NDArray[np.float64]:
        values = self._first_fit(words, ["ISO8601"])
        if not np.isnan(values).any():
            return values
        values = self._first_fit(words, [_pattern(str(words.iloc[0]), "month"), "mixed"])
        # pandas would guess the day, row by row, where no month has a name and no year comes first.
        guessed = ~_found(_SETTLED, words)
        if guessed.any():
            other = _seconds(self._parsed(words[guessed], "mixed", "day"))
            guessed[guessed] = (values[guessed] != other) & ~np.isnan(other)
        # pandas assumes year 1 for a missing year, today for a mere clock.
        without_year = (values < _YEAR_2) & ~_found("0001", words) | _found(_ONLY_CLOCK, words)
        values[guessed | without_year | _found(_DATE, words)] = np.nan
        return values

    def _first_fit(
        self, words: "pd.Series[Any]", formats: Iterable[str | None], order: str = "month"
    ) -> NDArray[np.float64]:
        values = np.full(len(words), np.nan)
        for pattern in filter(None, formats):
            values = _seconds(self._parsed(words, pattern, order))
            if not np.isnan(values).any():
                break
        return values

    def _parsed(self, words: "pd.Series[Any]", pattern: str | None, order: str = "month") -> Any:
        with warnings.catch_warnings():
            # pandas warns about leading days and unknown zones.
            warnings.simplefilter("ignore")
            try:
                return pd.to_datetime(
                    words,
                    errors="coerce",
                    utc=True,
                    format=pattern,
                    dayfirst=order == "day",
                    yearfirst=order == "year",
                )
            except ValueError as error:
                raise InputError(
                    f"--time-format {pattern!r}: {error}. Write it as '%d/%m/%Y %H:%M' (data.time_format)."
                ) from error


def is_missing(raw: "pd.Series[Any]") -> NDArray[np.bool_]:
    """Return a mask of the missing times and of words for them; shape (n,)."""
    gaps: NDArray[np.bool_] = raw.isna().to_numpy(dtype=bool, copy=True)
    if pd.api.types.is_string_dtype(raw) or raw.dtype == object:
        gaps |= raw.astype(str).str.strip().str.casefold().isin(MISSING).to_numpy(dtype=bool)
    return gaps


def _found(pattern: str, words: "pd.Series[Any]") -> NDArray[np.bool_]:
    search = re.compile(pattern).search
    return np.fromiter((search(word) is not None for word in words), np.bool_, len(words))


def _numbers(raw: "pd.Series[Any]") -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = pd.to_numeric(raw, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    finite = np.isfinite(numbers)
    return numbers if finite.all() else np.where(finite, numbers, np.nan)


def _seconds(moments: Any) -> NDArray[np.float64]:
    # Nanoseconds do not reach the years 1 and 9999.
    epoch = pd.Timestamp(0, tz="UTC").as_unit(moments.dt.unit)
    seconds = (moments - epoch).dt.total_seconds()
    values: NDArray[np.float64] = seconds.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    return values


def _looks_compact(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    low, high = _COMPACT
    if values.min() < low or values.max() > high:
        return np.zeros(1, dtype=bool)
    month, day = values // 100 % 100, values % 100
    found: NDArray[np.bool_] = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 28 + 3) & (day % 1 == 0)
    return found


def _typed(pattern: str | None) -> str:
    return shlex.quote(str(pattern)) if "'" in str(pattern) else f"'{pattern}'"


def _unit(size: float) -> tuple[float, str]:
    return next(((divisor, name) for least, divisor, name in _UNITS if size >= least), _SECONDS)


def _pattern(word: str, order: str) -> str | None:
    """Return the strptime format of one time, or None if pandas cannot tell."""
    from pandas.tseries.api import guess_datetime_format

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (parts := re.search(_DATE, word)) is not None:
            first, second, third = (f"%{each}" for each in _ORDERS[order])
            written = f"{first}{parts[2]}{second}{parts[4]}{third}"
            if len(parts[5]) == 4:
                written = written.replace("%y", "%Y")
            # The date is marked until its surroundings are replaced.
            written = _around(f"{word[: parts.start()]}\0{word[parts.end() :]}").replace("\0", written)
            if pd.notna(pd.to_datetime(word, format=written, errors="coerce", utc=True)):
                return written
        guess: str | None = guess_datetime_format(word, dayfirst=order == "day")
        return guess


def _around(text: str) -> str:
    def clock(found: "re.Match[str]") -> str:
        mark, seconds, parts, blank, half = found.groups()
        return (
            f"{'%I' if half else '%H'}{mark}%M{f'{mark}%S' if seconds else ''}{'.%f' if parts else ''}{blank}"
            + ("%p" if half else "")
        )

    text = re.sub(_CLOCK, clock, text.replace("%", "%%"))
    for pattern, written in _WORDS:
        text = re.sub(pattern, written, text)
    return text
