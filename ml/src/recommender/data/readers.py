"""Read ratings as frames of text in chunks: MovieLens, CSV, JSON lines, Parquet, SQL."""

import contextlib
import csv
import io
import itertools
import json
import math
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os.path import expanduser
from pathlib import Path
from typing import IO, Any, NoReturn

import pandas as pd

from recommender.config import Columns, DataConfig
from recommender.data import files
from recommender.data.files import File
from recommender.errors import InputError

RATINGS_FILES = {
    "latest": "ratings.csv",
    "100k": "u.data",
    "1m": "ratings.dat",
    "parquet": "ratings.parquet",
    "jsonl": "ratings.jsonl",
}
TITLES_FILES = {"latest": "movies.csv", "100k": "u.item", "1m": "movies.dat"}
_LINES = ("latest", "100k", "1m", "csv", "jsonl")
FIELDS = ("user", "item", "rating", "timestamp")

# Records searched for names: Spark omits nulls.
JSON_AHEAD = 10_000
# Rows per frame: 100 MB of text. SQL's and JSON's objects take ten times that.
CHUNK = 2**20
SQL_CHUNK = 2**17

# A matrix has at least so many columns; or gaps and one column more than a table of ratings needs; or so
# many without a name for ratings, and each row is of another user.
_WIDE = 11
_WIDE_NAMED = 5
# Words for an empty cell of a matrix; pandas knows most of the first row.
_GAPS = frozenset(
    {"", "nan", "-nan", "na", "null", "none", "n/a", "#n/a", "#na", "<na>"}
    | {"?", "-", "--", ".", "\\n", "missing"}
)  # fmt: skip
_GAPS_OF_PANDAS = frozenset(
    {"", "#N/A", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
# First characters of a comment before the ratings.
_COMMENTS = ("#", "%", "//")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
# Marks between fields, for hints. \x01 is Hive's.
_MARKS = (";", "\t", "|", ",", "^", "\x01")
_NETFLIX = re.compile(r"\d+:")
# A title of more lines, or a field of more characters in several lines, has swallowed others.
_TITLE_LINES = 20
_LONG_FIELD = 2**17
_OPEN = "the file ends inside quotes"

# Words in column names, to suggest a column for a missing name.
_GUESSES = {
    "user": ("user", "reviewer", "customer", "member", "person", "who"),
    "item": ("movie", "item", "film", "product", "book", "isbn", "asin", "song", "anime", "what", "id"),
    "rating": ("rating", "score", "stars", "overall", "vote"),
    "timestamp": ("timestamp", "time", "date", "when"),
    "title": ("title", "name", "label"),
}

# csv's default refuses fields above 128 KiB.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Source:
    """A source of ratings.

    `paths` are the files, empty for SQL. `columns` are the names in messages. `chunks` reads frames with the
    columns user, item, rating and, if present, timestamp. `locate` describes the place of a row, given its
    number from 0, its user and its item. `titles` reads the items' titles.
    """

    kind: str
    name: str
    shown: str
    paths: tuple[Path, ...]
    columns: Columns
    chunks: Callable[[], Iterator[pd.DataFrame]]
    locate: Callable[[int, Any, Any], str]
    titles: Callable[[], dict[str, str]]
    # The text file to mend, quoted for a shell.
    plain: str = ""


def text(value: Any) -> str:
    """Return an id as text: 7, "7" and 7.0 are the same user. NaN becomes ""."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else "" if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    return str(value).strip()


def source(config: DataConfig) -> Source:
    """Return the source that `config` names, without reading ratings. Raises InputError if missing."""
    if config.is_sql:
        return _sql(config)
    kind, place, found = _recognise(config)
    readers = [_reader(kind, file, config, _wanted(kind, config), len(found) > 1) for file in found]
    reader = _Parts(readers)
    logical = place.name if place.is_dir() else found[0].name
    return Source(
        kind=kind,
        name=place.parent.name if _is_known(logical) else Path(logical).stem,
        shown=str(place),
        paths=tuple(file.path for file in found),
        columns=Columns() if kind in ("100k", "1m") else config.columns,
        chunks=reader.chunks,
        locate=reader.locate,
        titles=lambda: _titles_beside(place.parent, kind, config),
        plain=shlex.quote(str(place)) if place.is_file() and not found[0].layers and kind in _LINES else "",
    )


def _is_known(name: str) -> bool:
    return name in RATINGS_FILES.values()


def _recognise(config: DataConfig) -> tuple[str, Path, list[File]]:
    """Return the kind, the file or folder of the ratings, and the files to read in order."""
    path = Path(expanduser(config.source))
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder. Give --data (data.source) a MovieLens folder, a file, or a "
            "database's SQLAlchemy URL (postgresql+psycopg://host/database)."
        )
    kind = None
    if path.is_dir() and (place := _known_place(path, config)) is not None:
        kind, path = place
    elif path.is_dir() and not files.parts(path):
        _refuse_folder(path, config)
    if not path.is_dir():
        file = files.examine(path)
        kind = config.format if config.format != "auto" else kind or _kind(file)
        return _settled(kind, file), path, [file]
    found = [files.examine(part) for part in files.parts(path)]
    if partition := next(
        (
            piece.partition("=")[0]
            for file in found
            for piece in file.path.relative_to(path).parent.parts
            if piece.partition("=")[0] in [getattr(config.columns, each) for each in FIELDS]
        ),
        None,
    ):
        raise InputError(
            f"{path}: column {partition!r} is in the names of folders. Write it again without partitionBy."
        )
    kinds = {config.format if config.format != "auto" else _kind(file) for file in found if file.head}
    if len(kinds) > 1:
        raise InputError(
            f"{path}: files of several kinds ({', '.join(sorted(kinds))}). Give --data one of them."
        )
    return next(iter(kinds), "csv"), path, found


def _settled(kind: str, file: File) -> str:
    # Parquet is not text, whatever its name
    return "parquet" if file.head.startswith(b"PAR1") else kind


def _known_names(config: DataConfig) -> dict[str, str]:
    if config.format in ("auto", "csv"):
        return RATINGS_FILES
    return {config.format: RATINGS_FILES[config.format]}


def _known_place(path: Path, config: DataConfig) -> tuple[str, Path] | None:
    """Return the kind and the place of the ratings in a folder with known file names."""
    # Parts of a table may have any name, even one of MovieLens'.
    if files.is_marked(path) and files.parts(path):
        return None
    for kind, file in _known_names(config).items():
        for ending in files.ENDINGS:
            place = path / f"{file}{ending}"
            if place.is_file() or (place.is_dir() and files.parts(place)):
                return kind, place
    return None


def _refuse_folder(path: Path, config: DataConfig) -> NoReturn:
    if blocks := next((glob for glob in ("combined_data_*.txt", "mv_*.txt") if any(path.glob(glob))), None):
        _refuse_netflix(path, f"{shlex.quote(str(path))}/{blocks}")
    held = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
    raise InputError(
        f"{path}: contains none of {', '.join(_known_names(config).values())}. Give --data the ratings file "
        f"itself; the folder has: {', '.join(held[:10]) or 'nothing'}."
    )


def _kind(file: File) -> str:
    """Return a file's kind by its name and first bytes."""
    if file.head.startswith(b"PAR1"):
        return "parquet"
    if file.name == "u.data":
        return "100k"
    suffix = Path(file.name).suffix.lower()
    if suffix == ".dat":
        return "1m"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if suffix in (".jsonl", ".ndjson", ".json") or re.match(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"', file.head):
        return "jsonl"
    return "csv"


def _wanted(kind: str, config: DataConfig) -> "_Wanted":
    optional = frozenset({"timestamp"} if config.duplicates != "latest" else ())
    columns = Columns() if kind in ("100k", "1m") else config.columns
    return _Wanted({field: getattr(columns, field) for field in FIELDS}, optional)


@dataclass(frozen=True)
class _Wanted:
    """The fields to read with their column names; `optional` fields may be missing."""

    names: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    # The titles' item column has its own flag.
    flags: Mapping[str, str] = field(default_factory=dict)

    def match(self, present: list[str]) -> dict[str, int]:
        """Return fields by position. Exact names win; otherwise case and blanks are ignored."""
        folded = [_folded(name) for name in present]
        found = {}
        for each, name in self.names.items():
            if name in present:
                found[each] = present.index(name)
            elif _folded(name) in folded:
                found[each] = folded.index(_folded(name))
        return found

    def columns(
        self, present: list[str], where: str, of: str, hint: Callable[[], str | None]
    ) -> dict[int, str]:
        """Return the position of each field. Raises InputError for missing and duplicate names."""
        found = self.match(present)
        folded = [_folded(name) for name in present]
        for each, at in found.items():
            name = self.names[each]
            if present.count(name) > 1 or (name not in present and folded.count(_folded(name)) > 1):
                raise InputError(f"{where}: column {present[at]!r} occurs twice. Rename or drop one.")
        missing = [each for each in self.names if each not in found and each not in self.optional]
        if missing:
            remedy = hint() or self._name_it(
                missing, [n for at, n in enumerate(present) if at not in found.values()]
            )
            if "timestamp" in missing:
                remedy += ". Without times say --duplicates last, first or mean (data.duplicates)"
            raise InputError(
                f"{where}: column {self.names[missing[0]]!r} is missing; the {of} has: {_listed(present)}"
                f"{'; ' if remedy[0].islower() else '. '}{remedy}."
            )
        return {at: each for each, at in found.items()}

    def _name_it(self, missing: list[str], free: list[str]) -> str:
        flags, keys = [], []
        for each in missing:
            words = _GUESSES.get(each, ())
            guess = next((name for word in words for name in free if word in name.lower()), None)
            if guess is not None:
                free = [name for name in free if name != guess]
            flag = self.flags.get(each, each)
            flags.append(f"--{flag}-column {shlex.quote(guess) if guess else 'NAME'}")
            keys.append(f"data.columns.{flag.replace('-', '_')}")
        return f"name it with {' '.join(flags)} ({', '.join(keys)} in a parameter file)"


def _folded(name: str) -> str:
    return name.replace("\ufeff", "").strip().lstrip("#").strip().casefold()


def _listed(names: list[str]) -> str:
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:20])
    shown = shown if len(shown) <= 1000 else f"{shown[:1000]}…"
    return f"{shown}, … ({len(names)} in all)" if len(names) > 20 else shown


def _reader(
    kind: str, file: File, config: DataConfig, wanted: _Wanted, part: bool = False
) -> "_Text | _Json | _Parquet":
    if kind == "parquet":
        return _Parquet(file.on_disk(), wanted)
    if kind == "jsonl":
        return _Json(file, config, wanted)
    return _Text(file, kind, config, wanted, part)


class _Parts:
    """Several files, read in order."""

    def __init__(self, readers: "list[_Text | _Json | _Parquet]") -> None:
        self._readers = readers
        self._starts = [0]

    def chunks(self) -> Iterator[pd.DataFrame]:
        self._starts, row = [], 0
        for reader in self._readers:
            self._starts.append(row)
            for frame in reader.chunks():
                row += len(frame)
                yield frame

    def locate(self, row: int, user: Any, item: Any) -> str:
        at = max(at for at, start in enumerate(self._starts) if start <= row)
        return self._readers[at].locate(row - self._starts[at], user, item)


@dataclass(frozen=True)
class _Layout:
    """Number of lines before the header or first row, the separator, fields by position."""

    skip: int
    separator: str
    header: list[str] | None
    fields: dict[int, str]


class _Text:
    """A file of lines: MovieLens' three formats and CSV."""

    def __init__(self, file: File, kind: str, config: DataConfig, wanted: _Wanted, part: bool) -> None:
        self._file, self._kind, self._config, self._wanted = file, kind, config, wanted
        self._part = part
        self._blanks, self._skip = False, 0
        self._csv = kind not in ("100k", "1m")
        self._header = self._csv and config.header
        self._quoting: Any = csv.QUOTE_MINIMAL if self._csv else csv.QUOTE_NONE

    @cached_property
    def _encoding(self) -> str:
        return files.encoding_of(self._file, self._config.encoding, "--encoding")

    def chunks(self) -> Iterator[pd.DataFrame]:
        file = self._file
        try:
            layout = self._layout
            if layout is None:
                return
            names = layout.header
            columns = {names[at] if names else at: each for at, each in layout.fields.items()}
            # With chosen columns, pandas accepts lines with too many fields (decimal commas).
            with files.sound(file), file.open() as stream:
                frames = pd.read_csv(
                    stream,
                    sep=layout.separator,
                    quoting=self._quoting,
                    header=0 if names else None,
                    skiprows=layout.skip,
                    skipinitialspace=self._blanks,
                    index_col=False,
                    # As numbers, 007 would become 7, and messages could not quote ratings.
                    dtype={at: str for at, each in columns.items() if each != "timestamp"},
                    keep_default_na=False,
                    na_values=[""],
                    encoding=self._encoding,
                    compression=None,
                    chunksize=CHUNK,
                )
                with frames:
                    while (frame := self._next(frames)) is not None:
                        yield frame.rename(columns=columns)[list(columns.values())]
        # The parent class: UTF-16 without a mark is not a UnicodeDecodeError.
        except UnicodeError as error:
            raise files.undecodable(file, self._encoding, "--encoding") from error
        except (pd.errors.ParserError, csv.Error) as error:
            detail = str(error).split("C error: ")[-1].strip()
            # Only here pandas counts lines from 0.
            detail = re.sub(
                r"starting at row (\d+)", lambda row: f"starting at line {int(row[1]) + 1}", detail
            )
            if (line := re.search(r"fields in line (\d+)", detail)) is not None:
                self._refuse_comment(int(line[1]))
            raise InputError(
                f"{file.shown}: {detail}. Every line must have the same fields; check quotes too."
            ) from error

    def _next(self, frames: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                return next(frames, None)
            except pd.errors.ParserWarning as error:
                raise InputError(
                    f"{self._file.shown}, line 2: more fields than line 1 names columns. Every line must "
                    "have the same fields: is a comma in a number, or a column without a name?"
                ) from error

    def _text(self) -> IO[str]:
        return self._file.text(self._encoding)

    @cached_property
    def _layout(self) -> _Layout | None:
        """Find the layout by the first lines; None for an empty part of several."""
        file, config = self._file, self._config
        with files.sound(file), self._text() as lines:
            skip, separator = 0, config.separator
            first = ""
            for number, line in enumerate(lines, start=1):
                bare = line.strip("\r\n")
                if not bare.strip():
                    continue
                if self._csv and not skip and (told := _SEPARATOR_LINE.fullmatch(bare)):
                    skip, separator = number, separator or told[1]
                elif self._csv and self._is_comment(bare, separator or self._usual):
                    skip = number
                else:
                    first = line
                    break
            if not first and self._part:
                return None
            if not first:
                raise InputError(f"{file.shown}: the file is empty. Give a file with at least one rating.")
            if _NETFLIX.fullmatch(first.strip()):
                file.refuse_packed()
                _refuse_netflix(file.shown, shlex.quote(file.shown))
            if self._header and "\0" in first:
                raise files.binary(file)
            if not self._csv:
                return self._of_movielens(first)
            self._skip = skip
            separator = separator or self._usual
            ahead = [first, *itertools.islice(lines, 100)]
            # The search for blanks before fields takes a tenth of the time.
            self._blanks = any(line.startswith(" ") or f"{separator} " in line for line in ahead)
            rest = csv.reader(ahead, delimiter=separator, skipinitialspace=self._blanks)
            header = next(record for record in rest if any(record))
            sample = [record for record in itertools.islice(rest, 20) if record]
        if not self._header:
            return self._positions(skip, separator, header, sample)
        where = f"{file.shown}, line 1"
        # A rating column named 3.5 is a rating, unless all columns are numbers.
        at = self._wanted.match(header).get("rating")
        if at is not None and _is_number(header[at]) and header != [str(each) for each in range(len(header))]:
            raise InputError(
                f"{where}: {_listed(header)}: this looks like data, not names. {self._say_no_header}."
            )
        fields = self._wanted.columns(header, where, "file", lambda: self._hint(header, sample, separator))
        return _Layout(skip, separator, header, fields)

    @property
    def _usual(self) -> str:
        return "\t" if Path(self._file.name).suffix.lower() in (".tsv", ".tab") else ","

    def _is_comment(self, line: str, separator: str) -> bool:
        """Check that a line before the ratings is a comment: neither the header nor a row."""
        if not line.lstrip().startswith(_COMMENTS):
            return False
        record = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        if self._header:
            return not {"user", "item", "rating"} <= self._wanted.match(record).keys()
        return len(record) < 3 or not any(_is_number(value) for value in record[1:])

    def _of_movielens(self, first: str) -> _Layout:
        mark, shown = ("\t", "tabs") if self._kind == "100k" else ("::", "'::'")
        where = f"{self._file.shown}, line 1"
        if mark not in first:
            raise InputError(
                f"{where}: no {shown} between the fields. For a CSV file say --format csv (data.format)."
            )
        found = min(first.count(mark) + 1, len(FIELDS))
        if found < 3:
            raise InputError(f"{where}: fewer than three fields. Each line needs user, item and rating.")
        # pandas' fast parser takes one character: "::" gives empty fields between.
        fields = {at * len(mark): each for at, each in enumerate(FIELDS[:found])}
        return _Layout(0, mark[0], None, fields)

    def _positions(self, skip: int, separator: str, first: list[str], sample: list[list[str]]) -> _Layout:
        """Find columns without a header: numbers from 1, by default in the usual order."""
        where = f"{self._file.shown}, line 1"
        usual = Columns()
        found: dict[int, str] = {}
        for each in sorted(FIELDS, key=lambda each: self._wanted.names[each] == getattr(usual, each)):
            name = self._wanted.names[each]
            flag = f"--{each}-column"
            if name == getattr(usual, each):
                at = FIELDS.index(each)
                if each == "timestamp" and (at in found or at >= len(first)):
                    if each in self._wanted.optional:
                        continue
                    raise InputError(
                        f"{where}: no column of times. Say {flag} NUMBER, or --duplicates last, first or "
                        "mean (data.duplicates)."
                    )
            elif name.isdecimal() and int(name) >= 1:
                at = int(name) - 1
            else:
                raise InputError(
                    f"{where}: without a header columns are numbers from 1, and {name!r} is not one. "
                    f"Say {flag} {FIELDS.index(each) + 1}, for instance (data.columns.{each})."
                )
            if at in found:
                raise InputError(
                    f"{where}: column {at + 1} is {found[at]} and {each}. Name both: {flag} NUMBER."
                )
            if at >= len(first):
                mark = _other_mark(separator.join(first), separator)
                hint = f"Name the separator: {mark}" if mark else f"Say {flag} NUMBER, from 1"
                raise InputError(
                    f"{where}: {len(first)} columns, and {each} would be number {at + 1}. {hint}."
                )
            found[at] = each
        if _is_wide(first, sample):
            self._refuse_wide(first, sample, separator)
        at = next(at for at, each in found.items() if each == "rating")
        unrated = first[at].strip() in ("", *self._config.missing)
        if (
            not unrated
            and not _is_number(first[at])
            and any(len(row) > at and _is_number(row[at]) for row in sample)
        ):
            raise InputError(
                f"{where}: {_listed(first)}: this looks like names, not data. "
                f"Leave --no-header out (data.header)."
            )
        return _Layout(skip, separator, None, found)

    @property
    def _say_no_header(self) -> str:
        return "If there is no header, say --no-header (data.header: false in a parameter file)"

    def _hint(self, header: list[str], sample: list[list[str]], separator: str) -> str | None:
        """Return another cause of missing names: the separator, the header, the shape."""
        line = separator.join(header)
        if (mark := _other_mark(line, separator)) is not None:
            numbers = line.split() if "' '" in mark else re.split(r"::|[,;\t|^\x01]", line)
            hint = f"or is the separator another? Name it with {mark}"
            if not mark.startswith("--format") and len(numbers) >= 3 and any(map(_is_number, numbers)):
                hint += f". {self._say_no_header}"
            return hint
        if _is_wide(header, sample):
            self._refuse_wide(header, sample, separator)
        if len(header) >= 3 and any(map(_is_number, header)):
            return f"Line 1 looks like data, not names. {self._say_no_header}"
        return None

    def _refuse_wide(self, header: list[str], sample: list[list[str]], separator: str) -> NoReturn:
        self._file.refuse_packed()
        names = sum(map(_is_number, header)) < len(header) / 2 or not _is_number(header[0])
        options = "index_col=0" if names else "header=None"
        if separator != ",":
            options += f", sep={_python(separator)}"
        if self._blanks:
            options += ", skipinitialspace=True"
        if self._skip:
            options += f", skiprows={self._skip}"
        if self._encoding != "utf-8-sig":
            options += f", encoding={_python(self._encoding)}"
        if any("," in value for record in sample for value in record[1:] if _is_number(value)):
            options += ', decimal=","'
        gaps = {value for record in sample for value in record[1:] if _is_gap(value)}
        if gaps := gaps - _GAPS_OF_PANDAS:
            options += f", na_values=[{', '.join(map(_python, sorted(gaps)))}]"
        read = f"pandas.read_csv(sys.argv[1], {options})"
        _refuse_wide(self._file.shown, header, self._wanted, read)

    def _refuse_comment(self, number: int) -> None:
        """Raise InputError if that line is a comment."""
        with self._text() as lines:
            line = next(itertools.islice(lines, number - 1, None), "")
        if self._csv and line.startswith(_COMMENTS):
            self._file.refuse_packed()
            mark = next(mark for mark in _COMMENTS if line.startswith(mark))
            path = shlex.quote(self._file.shown)
            raise InputError(
                f"{self._file.shown}, line {number}: a comment among the ratings. Take them out: "
                f"grep -v '^{mark}' {path} > ratings-clean.csv, then say --data ratings-clean.csv."
            )

    def locate(self, row: int, user: Any, item: Any) -> str:
        # Counted only for a message: fields may span lines, blank lines are skipped.
        layout = self._layout
        assert layout is not None
        with self._text() as lines:
            for _ in itertools.islice(lines, layout.skip):
                pass
            reader = csv.reader(
                lines, delimiter=layout.separator, quoting=self._quoting, skipinitialspace=self._blanks
            )
            start, seen, record = 1, -1 - self._header, []
            for record in reader:
                seen += len(record) > 1 or any(map(str.strip, record))
                if seen == row:
                    break
                start = reader.line_num + 1
        if len(record) <= max(layout.fields):
            self._refuse_comment(start + layout.skip)
        return f"{self._file.shown}, line {start + layout.skip}"


def _is_number(value: str) -> bool:
    try:
        float(value.replace(",", "."))
    except ValueError:
        return False
    return True


def _other_mark(line: str, separator: str) -> str | None:
    """Return the flag for a line's separator if it differs from `separator`."""
    if line.count("::") >= 2:
        return "--format 1m (data.format)"
    marks = {mark: line.count(mark) for mark in _MARKS if mark != separator}
    best = max(marks, key=lambda mark: marks[mark])
    if not marks[best] and separator not in line and " " in line.strip():
        # Names contain blanks too.
        best = " "
    elif not marks[best] or marks[best] < line.count(separator):
        return None
    shown = {"\t": "'\\t'", "\x01": "'\\x01'"}.get(best, f"'{best}'")
    return f"--separator {shown} (data.separator in a parameter file)"


def _python(value: str) -> str:
    """Return a Python string in double quotes, as the command is in single quotes."""
    return json.dumps(value).replace("'", "\\u0027")


def _is_gap(value: str) -> bool:
    return value.strip().casefold() in _GAPS


def _is_wide(header: list[str], sample: list[list[str]]) -> bool:
    """Check that a row has many small numbers, so that it belongs to a matrix: see _WIDE."""
    if len(header) < 3 or not sample:
        return False
    values = [value.strip() for record in sample for value in record[1:]]
    numbers = [value for value in values if not _is_gap(value)]
    if not numbers or not all(map(_is_number, numbers)):
        return False
    highest = max(abs(float(value.replace(",", "."))) for value in numbers)
    if not highest <= 100:
        return False
    if len(header) >= _WIDE:
        return True
    if len(numbers) < len(values):
        # A rating may be missing, an id hardly.
        columns = [[row[at] for row in sample if len(row) > at] for at in range(1, len(header))]
        return len(header) > 3 or all(any(map(_is_gap, column)) for column in columns)
    firsts = [row[0] for row in sample]
    return (
        len(header) >= _WIDE_NAMED
        and not _is_number(header[0])
        and not any(word in name.casefold() for name in header for word in _GUESSES["rating"])
        and highest <= 10
        and len(firsts) == len(set(firsts))
    )


def _refuse_wide(shown: str, header: list[str], wanted: _Wanted, read: str) -> NoReturn:
    """Raise InputError with the command that reshapes a matrix; `read` is its Python expression."""
    rows, columns = "userId", "movieId"
    first = _folded(header[0])
    words = [word for word in _GUESSES["item"] if word not in ("what", "id")]
    if first == _folded(wanted.names["item"]) or (
        first != _folded(wanted.names["user"])
        and not any(word in first for word in _GUESSES["user"])
        and any(word in first for word in words)
    ):
        rows, columns = columns, rows
    target = "ratings-long.csv"
    one = "an item" if rows == "userId" else "a user"
    raise InputError(
        f"{shown}: a wide matrix of {len(header)} columns, one {one}; ratings must be one "
        f"per line. Turn it: {shlex.quote(sys.executable)} -c 'import pandas, sys; "
        f'{read}.rename_axis(index="{rows}", columns="{columns}")'
        f'.stack().dropna().rename("rating").to_csv("{target}")\' {shlex.quote(shown)}, '
        f"then say --data {target}."
    )


def _refuse_netflix(shown: Any, quoted: str) -> NoReturn:
    raise InputError(
        f"{shown}: blocks of the Netflix Prize ('1:', then user, rating, date). Write the film into "
        "each line: "
        f'awk \'/:\\r?$/ {{sub(/:\\r?$/, ""); film = $0; next}} {{print film "," $0}}\' '
        f"{quoted} > ratings.csv, "
        "then say --data ratings.csv --no-header --item-column 1 --user-column 2 --rating-column 3 "
        "--timestamp-column 4."
    )


# Between two objects: JSON strings contain no line ends.
_BETWEEN = r"\},?\s*\n\s*\{"
_FIRST_AS_INDEX = ".pipe(lambda wide: wide.set_index(wide.columns[0]))"


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


class _Json:
    """JSON lines, or one JSON array: an object for each rating."""

    def __init__(self, file: File, config: DataConfig, wanted: _Wanted) -> None:
        self._file, self._config, self._wanted = file, config, wanted
        self._unit = "line"

    def chunks(self) -> Iterator[pd.DataFrame]:
        found: dict[str, str] = {}
        rows: list[list[Any]] = []
        records = self._records()
        ahead = list(itertools.islice(records, JSON_AHEAD))
        for number, record in itertools.chain(ahead, records):
            where = f"{self._file.shown}, {self._unit} {number}"
            if not isinstance(record, dict):
                raise InputError(f'{where}: not an object. Write {{"userId": 1, "movieId": 2, "rating": 3}}.')
            if not found:
                self._refuse_document(record)
                objects = (each for _, each in ahead if isinstance(each, dict))
                names = list(dict.fromkeys(itertools.chain.from_iterable(objects)))
                at = self._wanted.columns(names, where, "record", self._refuse_wide)
                found = {each: names[place] for place, each in at.items()}
            row = [record.get(name) for name in found.values()]
            for name, value in zip(found.values(), row, strict=True):
                if isinstance(value, dict | list):
                    raise InputError(f"{where}: {name!r} holds {value!r:.60}, and single values are needed.")
            rows.append(row)
            if len(rows) == SQL_CHUNK:
                yield pd.DataFrame(rows, columns=list(found), dtype=object)
                rows = []
        if rows:
            yield pd.DataFrame(rows, columns=list(found), dtype=object)

    def _refuse_wide(self) -> None:
        """Raise InputError if the file is a matrix."""
        sample = [record for _, record in itertools.islice(self._records(), 20) if isinstance(record, dict)]
        header = list(dict.fromkeys(name for record in sample for name in record))
        if _is_wide(header, [[_shown(record.get(name)) for name in header] for record in sample]):
            self._file.refuse_packed()
            lines = ", lines=True" if self._unit == "line" else ""
            read = f"pandas.read_json(sys.argv[1]{lines}, dtype=False)"
            _refuse_wide(self._file.shown, header, self._wanted, f"{read}{_FIRST_AS_INDEX}")

    def _refuse_pretty(self) -> None:
        """Raise InputError if the file holds objects of several lines."""
        encoding = files.encoding_of(self._file, self._config.encoding, "--encoding")
        with self._file.text(encoding) as lines:
            content = lines.read()
        try:
            found = json.loads(f"[{re.sub(_BETWEEN, '},{', content)}]")
        except json.JSONDecodeError:
            return
        if len(found) == 1 and isinstance(found[0], dict):
            self._refuse_document(found[0])
        self._refuse(
            "objects of several lines",
            f'import json, re, sys; text = re.sub(r"{_BETWEEN}", "}},{{", {self._opened}.read()); '
            r'print(*map(json.dumps, json.loads("[" + text + "]")), sep="\n")',
        )

    def _refuse_document(self, record: dict[str, Any]) -> None:
        """Raise InputError if an object holds the whole table."""
        known = self._wanted.match(list(record))
        values = list(record.values())
        lists = [name for name, value in record.items() if _are_objects(value)]
        if known and all(isinstance(values[at], dict | list) for at in known.values()):
            self._refuse_pandas("")
        elif {"columns", "data"} <= record.keys() and isinstance(record["data"], list) and not lists:
            self._refuse_pandas(', orient="split"')
        elif len(lists) == 1:
            self._refuse(
                f"one object, with the ratings in {lists[0]!r}",
                f"import json, sys; print(*map(json.dumps, json.load({self._opened})[{_python(lists[0])}]), "
                f'sep="\\n")',
            )
        elif values and all(isinstance(value, dict) and self._wanted.match(list(value)) for value in values):
            self._refuse_pandas(', orient="index"')

    def _refuse_pandas(self, orient: str) -> NoReturn:
        self._refuse(
            "one object, as pandas writes a frame",
            f"import pandas, sys; print(pandas.read_json({self._opened}, dtype=False, convert_dates=False"
            f'{orient}).to_json(orient="records", lines=True))',
        )

    @property
    def _opened(self) -> str:
        encoding = files.encoding_of(self._file, self._config.encoding, "--encoding")
        return f"open(sys.argv[1], encoding={_python(encoding)})"

    def _refuse(self, what: str, command: str) -> NoReturn:
        self._file.refuse_packed()
        target = "ratings-lines.jsonl"
        raise InputError(
            f"{self._file.shown}: {what}; it has to be one rating a line. Turn it: "
            f"{shlex.quote(sys.executable)} -c '{command}' {shlex.quote(self._file.shown)} > {target}, "
            f"then say --data {target}."
        )

    def _records(self) -> Iterator[tuple[int, Any]]:
        file = self._file
        encoding = files.encoding_of(file, self._config.encoding, "--encoding")
        try:
            with files.sound(file), file.text(encoding) as lines:
                if re.match(rb"(\xef\xbb\xbf)?\s*\[", file.head):
                    self._unit = "record"
                    yield from enumerate(json.load(lines), start=1)
                    return
                seen = False
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        try:
                            yield number, json.loads(line)
                            seen = True
                        except json.JSONDecodeError as error:
                            if not seen:
                                self._refuse_pretty()
                            raise InputError(
                                f"{file.shown}, line {number}: not JSON ({error.msg}). Write objects."
                            ) from error
        except json.JSONDecodeError as error:
            raise InputError(
                f"{file.shown}, line {error.lineno}: not JSON ({error.msg}). Copy it again."
            ) from error
        except UnicodeError as error:
            raise files.undecodable(file, encoding, "--encoding") from error

    def locate(self, row: int, user: Any, item: Any) -> str:
        number = next(itertools.islice((number for number, _ in self._records()), row, None))
        return f"{self._file.shown}, {self._unit} {number}"


class _Parquet:
    """A Parquet file, ids of any type."""

    def __init__(self, file: File, wanted: _Wanted) -> None:
        self._file, self._wanted = file, wanted

    def chunks(self) -> Iterator[pd.DataFrame]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        shown = self._file.shown
        try:
            with pq.ParquetFile(self._file.path) as file:
                present = file.schema_arrow.names
                at = self._wanted.columns(present, shown, "file", lambda: self._refuse_wide(file))
                found = {present[place]: each for place, each in at.items()}
                for name in found:
                    if pa.types.is_nested(kind := file.schema_arrow.field(name).type):
                        raise InputError(
                            f"{shown}: column {name!r} holds {kind}, and single values are needed."
                        )
                for batch in file.iter_batches(CHUNK, columns=list(found)):
                    # Arrow's types: otherwise a gap turns 7 into 7.0. Without
                    # metadata, ids in pandas' index stay columns.
                    frame = batch.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
                    yield frame.rename(columns=found)
        except OSError as error:
            raise InputError(
                f"{shown}: {error.strerror or error}. Give --data a file that you can read."
            ) from error
        except pa.ArrowException as error:
            raise InputError(
                f"{shown}: not a valid Parquet file ({str(error).splitlines()[0]}). Write or copy it again."
            ) from error

    def _refuse_wide(self, file: Any) -> None:
        """Raise InputError if the file is a matrix."""
        of_pandas = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in of_pandas if isinstance(name, str)]
        header = [*index, *(name for name in file.schema_arrow.names if name not in index)]
        rows = next(file.iter_batches(20), None)
        sample = rows.select(header).to_pylist() if rows is not None else []
        if _is_wide(header, [[_shown(value) for value in row.values()] for row in sample]):
            read = f"pandas.read_parquet(sys.argv[1]){'' if index else _FIRST_AS_INDEX}"
            _refuse_wide(self._file.shown, header, self._wanted, read)

    def locate(self, row: int, user: Any, item: Any) -> str:
        return f"{self._file.shown}, row {row + 1} (user {_plain(user)}, item {_plain(item)})"


def _plain(value: Any) -> str:
    return repr(None if pd.isna(value) else str(value))


def _titles_beside(folder: Path, kind: str, config: DataConfig) -> dict[str, str]:
    if config.titles is not None:
        path = Path(expanduser(config.titles))
        if not path.exists() or (path.is_dir() and not files.parts(path)):
            raise InputError(
                f"{path}: no such file. Give --titles (data.titles) a file of titles, or leave it out."
            )
    else:
        name = TITLES_FILES.get(kind, TITLES_FILES["latest"])
        path = next((p for ending in files.ENDINGS if (p := folder / f"{name}{ending}").exists()), folder)
        if path == folder:
            return {}
    titles: dict[str, str] = {}
    for part in files.parts(path) if path.is_dir() else [path]:
        titles |= _read_titles(files.examine(part), config)
    return titles


def _read_titles(file: File, config: DataConfig) -> dict[str, str]:
    columns = config.columns
    wanted = _Wanted(
        {"item": columns.title_item or columns.item, "title": columns.title}, flags={"item": "title-item"}
    )
    kind = _kind(file)
    if kind in ("parquet", "jsonl"):
        titled: dict[str, str] = {}
        for frame in _reader(kind, file, config, wanted).chunks():
            titled |= _paired(frame)
        return titled
    content = _titles_text(file, config)
    if file.name in ("u.item", "movies.dat"):
        mark = "|" if file.name == "u.item" else "::"
        rows: Iterable[list[str]] = (line.split(mark) for line in content.splitlines())
        item, title = 0, 1
    else:
        rows, item, title = _titles_table(file, content, config, wanted)
    return {text(row[item]): _written(row[title]) for row in rows if len(row) > max(item, title)}


def _table(file: File, content: str, start: int, mark: str, title: int | None = None) -> Iterator[list[str]]:
    """Yield a table's records from the text's current position; `title` is the titles' position.

    Raises InputError for an unclosed quote.
    """
    lines = io.StringIO(content, newline="")
    lines.seek(start)
    # Inside an open quote, csv reads this last record as part of the field.
    end = ["\0end"]
    rows = csv.reader(itertools.chain(lines, end), delimiter=mark, skipinitialspace=True)
    before = _breaks(content[:start])
    first = before + 1
    wrong: str | None = None
    try:
        for row in rows:
            if row == end:
                return
            if row and row[-1].endswith(end[0]):
                wrong = _OPEN
            elif rows.line_num + before > first and _has_swallowed(row, title):
                wrong = "a field has many lines"
            if wrong is not None:
                break
            yield row
            first = rows.line_num + before + 1
    except csv.Error as error:
        wrong = str(error)
    last = rows.line_num + before - (wrong == _OPEN)
    raise InputError(
        f"{file.shown}, line {first}, up to line {last}: {wrong}. Is a quote before it never closed?"
    )


def _has_swallowed(row: list[str], title: int | None) -> bool:
    if title is not None and len(row) > title and _breaks(row[title]) >= _TITLE_LINES:
        return True
    return any(len(value) > _LONG_FIELD and _breaks(value) for value in row)


def _breaks(content: str) -> int:
    """Count line ends like csv; splitlines knows more."""
    return sum(1 for _ in re.finditer(r"\r\n?|\n", content))


def _paired(frame: pd.DataFrame) -> dict[str, str]:
    rows = zip(frame["item"], frame["title"], strict=True)
    return {
        text(item): _written(text(title)) for item, title in rows if not (pd.isna(item) or pd.isna(title))
    }


def _written(title: str) -> str:
    """Return a title on one line of valid UTF-8; it is only displayed."""
    title = re.sub("[\ud800-\udfff]", "\ufffd", title)
    return " ".join(title.split()) if not title.isprintable() else title.strip()


def _titles_text(file: File, config: DataConfig) -> str:
    with files.sound(file), file.open() as stream:
        raw = stream.read()
    named = config.titles_encoding
    encoding = files.encoding_of(file, named or "utf-8", "--titles-encoding")
    try:
        return raw.decode(encoding)
    except UnicodeError as error:
        if named is not None:
            raise files.undecodable(file, encoding, "--titles-encoding") from error
        with contextlib.suppress(UnicodeError):
            return raw.decode(files.encoding_of(file, config.encoding, "--encoding"))
        # MovieLens' older sets are latin-1, which decodes every byte.
        return raw.decode("latin-1")


def _titles_table(
    file: File, content: str, config: DataConfig, wanted: _Wanted
) -> tuple[Iterable[list[str]], int, int]:
    """Return the rows of a titles file, and the positions of items and titles in them."""
    usual = "\t" if Path(file.name).suffix.lower() in (".tsv", ".tab") else ","
    given, start = config.titles_separator, 0
    either = _Wanted({**wanted.names, "movielens": "movieId"})
    for line in io.StringIO(content, newline=""):
        if told := _SEPARATOR_LINE.fullmatch(line.strip("\r\n")):
            given = given or told[1]
        elif line.strip():
            marks = (given or config.separator or usual, usual, ",")
            record = (next(csv.reader([line], delimiter=mark, skipinitialspace=True)) for mark in marks)
            if not line.lstrip().startswith(_COMMENTS) or any(len(either.match(each)) > 1 for each in record):
                break
        start += len(line)

    def header(mark: str) -> list[str]:
        return next((record for record in _table(file, content, start, mark) if any(record)), [])

    # A movies.csv has MovieLens' layout, whatever the ratings' layout.
    for mark in [given] if given else dict.fromkeys([config.separator or usual, usual, ","]):
        for names in (
            (wanted, _Wanted({**wanted.names, "item": "movieId"}))
            if not config.columns.title_item
            else (wanted,)
        ):
            found = names.match(header(mark))
            if len(found) == 2:
                rows = _table(file, content, start, mark, found["title"])
                next(record for record in rows if any(record))
                return rows, found["item"], found["title"]
    mark = given or config.separator or usual
    present = header(mark)

    def hint() -> str | None:
        other = _other_mark(mark.join(present), mark)
        return (
            None
            if other is None
            else "or is the separator another? Name it with "
            + other.replace("--separator", "--titles-separator").replace(
                "data.separator", "data.titles_separator"
            )
        )

    number = _breaks(content[:start]) + 1
    wanted.columns(present, f"{file.shown}, line {number}", "file", hint)
    raise AssertionError("a header that fits was found before")


def _sql(config: DataConfig) -> Source:
    import sqlalchemy as sa

    try:
        url = sa.make_url(config.source)
        shown = url.set(query={}).render_as_string(hide_password=True)
        timeout = (
            {"connect_timeout": 10} if url.get_backend_name() in ("postgresql", "mysql", "mariadb") else {}
        )
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and file != ":memory:" and not Path(file).is_file():
            # SQLite would create an empty database for a mistyped name.
            raise InputError(f"{shown}: no such file: {file}. An absolute path takes four slashes.")
        engine = sa.create_engine(url, connect_args=timeout)
    except sa.exc.NoSuchModuleError as error:
        raise InputError(
            f"{shown}: SQLAlchemy knows no such database. Files from the web have to be downloaded first."
        ) from error
    # ValueError: a port that is not a number
    except (sa.exc.ArgumentError, ValueError) as error:
        raise InputError(
            f"{config.source.split('@')[-1]}: not an SQLAlchemy URL (dialect+driver://host/database)."
        ) from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"{shown}: the driver {error.name!r} is not installed. For PostgreSQL say "
            "postgresql+psycopg://…; else install the driver into this environment."
        ) from error
    if config.table is None:
        raise InputError(
            f"{shown}: no table is named. Name it with --table, or data.table in the parameter file."
        )
    names = config.columns
    wanted = _wanted("sql", config)
    table = config.table
    where = f"{shown}, table {table}"

    def titles() -> dict[str, str]:
        if config.titles is None:
            return {}
        of_titles = _Wanted(
            {"item": names.title_item or names.item, "title": names.title}, flags={"item": "title-item"}
        )
        found: dict[str, str] = {}
        for frame in _select(engine, shown, config.titles, of_titles):
            found |= _paired(frame)
        return found

    return Source(
        kind="sql",
        name=table,
        shown=where,
        paths=(),
        columns=names,
        chunks=lambda: _select(engine, shown, table, wanted),
        locate=lambda row, user, item: f"{where}, row {row + 1} (user {_plain(user)}, item {_plain(item)})",
        titles=titles,
    )


def _select(engine: Any, shown: str, table: str, wanted: _Wanted) -> Iterator[pd.DataFrame]:
    import sqlalchemy as sa

    schema, _, bare = table.rpartition(".")
    try:
        with engine.connect() as connection:
            inspector = sa.inspect(connection)
            known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
            if bare not in known:
                raise InputError(
                    f"{shown}: no table {table!r}; there are: {', '.join(known) or 'none'}. "
                    "Name it with --table (data.table)."
                )
            present = [column["name"] for column in inspector.get_columns(bare, schema or None)]
            at = wanted.columns(present, f"{shown}, table {table}", "table", lambda: None)
            found = {each: present[place] for place, each in at.items()}
            query: Any = sa.select(*(sa.column(name) for name in found.values())).select_from(
                sa.table(bare, schema=schema or None)
            )
            # A server-side cursor: otherwise the driver fetches the whole table first.
            rows = connection.execution_options(stream_results=True, yield_per=SQL_CHUNK).execute(query)
            for part in rows.partitions():
                yield pd.DataFrame([tuple(row) for row in part], columns=list(found), dtype=object)
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(
            f"{shown}: {cause}. Check address, user, password and that the server runs."
        ) from error
    finally:
        engine.dispose()
