"""Times of one column, read in one way from its first row to its last."""

import re
import shlex
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
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
# What may stand around it, as strptime takes it.
_CLOCK = r"\d{1,2}([:.])\d\d(\1\d\d)?(\.\d+)?(\s*)([AaPp][Mm]\b)?"
_WORDS = (
    (r"(?i)\b(mon|tues|wednes|thurs|fri|satur|sun)day\b", "%A"),
    (r"(?i)\b(mon|tue|wed|thu|fri|sat|sun)\b", "%a"),
    (r"(?<=%M|%S|%f|%p)(\s*)([+-]\d\d:?\d\d|Z)\b", r"\1%z"),
    (r"\b(UTC|GMT)\b", "%Z"),
)
_YEAR_FIRST = r"(?<!\d)\d{4}(\d{4}|\s*[-/. ]\s*\d)"
_ONLY_CLOCK = r"^\d{1,2}:\d\d[\d:.]*\s*([AaPp][Mm])?$"
_YEAR_2 = datetime(2, 1, 1, tzinfo=UTC).timestamp()
# Numbers from here on are milli-, micro- and nanoseconds: as seconds they lie beyond the year 5000.
_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
_SECONDS = (1.0, "seconds")
# Days written as one number, 20150213.
_COMPACT = (19_000_101, 21_001_231)
# What programs write for a time that is missing.
_NONE = ("", "null", "\\n", "nan", "none", "<na>", "nat", "n/a")


@dataclass(frozen=True)
class Reading:
    """What a column says: times in seconds since 1970 (None unless kept), the first and the last of them.

    `problem` says why there are none, or why the column cannot be read in one way.
    """

    values: NDArray[np.float64] | None
    period: tuple[float, float] | None
    problem: str | None


class Times:
    """Collects a column chunk by chunk. With `keep` all times are kept, and none may be missing."""

    def __init__(self, time_format: str | None, keep: bool) -> None:
        self._format, self._keep = time_format, keep
        self._kind: str | None = None
        self._parts: dict[str, list[NDArray[np.float64]]] = {}
        self._ends: dict[str, tuple[float, float]] = {}
        # Of numbers: the least and the greatest without their sign, and whether all look like 20150213.
        self._sizes, self._compact = (np.inf, 0.0), True
        self._problem: str | None = None
        self._sample: str | None = None
        self._differs = False

    def add(self, raw: "pd.Series[Any]") -> int | None:
        """Read one chunk more; returns the first row that is no time like those before, None if all are."""
        if self._problem is not None:
            return None
        gaps = _gaps(raw)
        if gaps.any() and self._keep:
            return int(gaps.argmax())
        places = None
        if gaps.any():
            raw, places = raw[~gaps], np.flatnonzero(~gaps)
            if not len(raw):
                return None
        if self._kind is None:
            self._kind = self._guess(raw)
            self._parts = {name: [] for name in (("day", "month") if self._kind == "date" else ("",))}
        wrong = {}
        read = {}
        for name in self._parts:
            values = self._values(raw, name)
            bad = np.isnan(values)
            if bad.any():
                wrong[name] = int(bad.argmax())
            else:
                read[name] = values
        if not read:
            at = max(wrong.values())
            self._problem = f"{raw.iloc[at]!r} is no time like those before"
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
        if len(read) == 2 and not self._differs:
            unlike = read["day"] != read["month"]
            if unlike.any():
                self._differs, self._sample = True, str(raw.iloc[int(unlike.argmax())])
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
        """What was read of all chunks."""
        if self._problem is not None or not self._ends:
            return Reading(None, None, self._problem)
        name = next(iter(self._parts))
        if len(self._parts) == 2 and self._differs:
            day, month = (_typed(_pattern(str(self._sample), day_first)) for day_first in (True, False))
            return Reading(
                None,
                None,
                f"{self._sample!r}: no row says whether the day or the month comes first. "
                f"Say --time-format {day} or {month} (data.time_format)",
            )
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

    def _guess(self, raw: "pd.Series[Any]") -> str:
        first = raw.iloc[0]
        if self._format is not None:
            return "format"
        if pd.api.types.is_datetime64_any_dtype(raw) or isinstance(first, date):
            return "moment"
        if not np.isnan(_numbers(raw[:1])[0]):
            return "number"
        return "date" if re.search(_DATE, str(first)) else "text"

    def _values(self, raw: "pd.Series[Any]", name: str) -> NDArray[np.float64]:
        """Seconds since 1970 (numbers: as they are), NaN for what is no time in this reading."""
        if self._kind == "number":
            return _numbers(raw)
        if self._kind == "moment":
            return _seconds(pd.to_datetime(raw.astype(object), errors="coerce", utc=True, format="mixed"))
        words = raw.astype(str).str.strip()
        if self._kind == "format":
            return _seconds(self._parsed(words, self._format))
        if self._kind == "text":
            return self._of_text(words)
        dates = words.str.extract(_DATE)
        numeric = dates[0].notna().to_numpy(dtype=bool)
        of_day, of_month = (pd.to_numeric(dates[at]) for at in ((0, 2) if name == "day" else (2, 0)))
        fits = numeric & (of_day <= 31).to_numpy(dtype=bool) & (of_month <= 12).to_numpy(dtype=bool)
        if not fits.all():
            return np.where(fits, 0.0, np.nan)
        day_first = name == "day"
        return self._first_fit(words, [_pattern(str(words.iloc[0]), day_first), "mixed"], day_first)

    def _of_text(self, words: "pd.Series[Any]") -> NDArray[np.float64]:
        values = self._first_fit(words, ["ISO8601"])
        if not np.isnan(values).any():
            return values
        pattern = _pattern(str(words.iloc[0]), False)
        if pattern is not None and "%b" in pattern.casefold():
            values = self._first_fit(words, [pattern])
            if not np.isnan(values).any():
                return values
        values = self._first_fit(words, [pattern, "mixed"])
        # pandas would guess the day, row by row.
        other = _seconds(self._parsed(words, "mixed", day_first=True))
        guessed = (values != other) & ~np.isnan(other) & ~_found(_YEAR_FIRST, words)
        # It takes year 1 where there is none, and today where there is a clock only.
        without_year = (values < _YEAR_2) & ~_found("0001", words) | _found(_ONLY_CLOCK, words)
        values[guessed | without_year | _found(_DATE, words)] = np.nan
        return values

    def _first_fit(
        self, words: "pd.Series[Any]", formats: Iterable[str | None], day_first: bool = False
    ) -> NDArray[np.float64]:
        values = np.full(len(words), np.nan)
        for pattern in filter(None, formats):
            values = _seconds(self._parsed(words, pattern, day_first))
            if not np.isnan(values).any():
                break
        return values

    def _parsed(self, words: "pd.Series[Any]", pattern: str | None, day_first: bool = False) -> Any:
        with warnings.catch_warnings():
            # of days that come first, and of zones that it does not know
            warnings.simplefilter("ignore")
            try:
                return pd.to_datetime(words, errors="coerce", utc=True, format=pattern, dayfirst=day_first)
            except ValueError as error:
                raise InputError(
                    f"--time-format {pattern!r}: {error}. Write it as '%d/%m/%Y %H:%M' (data.time_format)."
                ) from error


def _gaps(raw: "pd.Series[Any]") -> NDArray[np.bool_]:
    gaps: NDArray[np.bool_] = raw.isna().to_numpy(dtype=bool, copy=True)
    if pd.api.types.is_string_dtype(raw) or raw.dtype == object:
        gaps |= raw.astype(str).str.strip().str.casefold().isin(_NONE).to_numpy(dtype=bool)
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


def _pattern(word: str, day_first: bool) -> str | None:
    """The format of one time, as strptime takes it; None when pandas cannot tell."""
    from pandas.tseries.api import guess_datetime_format

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (parts := re.search(_DATE, word)) is None:
            found: str | None = guess_datetime_format(word, dayfirst=day_first)
            return found
        year = "%Y" if len(parts[5]) == 4 else "%y"
        first, second = ("%d", "%m") if day_first else ("%m", "%d")
        written = f"{first}{parts[2]}{second}{parts[4]}{year}"
        # The date is marked until its surroundings are replaced.
        written = _around(f"{word[: parts.start()]}\0{word[parts.end() :]}").replace("\0", written)
        fits = pd.notna(pd.to_datetime(word, format=written, errors="coerce", utc=True))
        return written if fits else guess_datetime_format(word, dayfirst=day_first)


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
