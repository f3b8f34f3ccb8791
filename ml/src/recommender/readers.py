"""Ratings as frames of text, a chunk at a time: MovieLens files, any CSV or Parquet file, any SQL table."""

import codecs
import contextlib
import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from recommender.config import Columns, DataConfig
from recommender.errors import InputError

RATINGS_FILES = {
    "latest": "ratings.csv",
    "100k": "u.data",
    "1m": "ratings.dat",
    "parquet": "ratings.parquet",
}
TITLES_FILES = {"latest": "movies.csv", "100k": "u.item", "1m": "movies.dat"}
FIELDS = ("user", "item", "rating", "timestamp")

# Rows in one frame: 100 MB of text at most. Of SQL they are Python objects, ten times the size.
CHUNK = 2**20
SQL_CHUNK = 2**17


@dataclass(frozen=True)
class Source:
    """Where ratings come from.

    `path` is the file, None for SQL. `columns` are the names that messages use. `chunks` reads frames with
    the columns user, item, rating and, where there is one, timestamp. `locate` says where a row is, by its
    number from 0 and what it has as user and item. `titles` reads the items' titles.
    """

    kind: str
    name: str
    shown: str
    path: Path | None
    columns: Columns
    chunks: Callable[[], Iterator[pd.DataFrame]]
    locate: Callable[[int, Any, Any], str]
    titles: Callable[[], dict[str, str]]


def text(value: Any) -> str:
    """Ids are text: what a database holds as 7 and a file as "7" is the same user, and so is a 7.0.

    Empty where there is none, as NaN is none.
    """
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else "" if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    return str(value).strip()


def source(config: DataConfig) -> Source:
    """The source that `config` names; nothing is read yet. Raises InputError when there is none."""
    if config.is_sql:
        return _sql(config)
    kind, path = _recognise(config)
    reader = _Parquet(path, config) if kind == "parquet" else _Text(path, kind, config)
    return Source(
        kind=kind,
        name=path.parent.name if path.name in RATINGS_FILES.values() else path.stem,
        shown=str(path),
        path=path,
        columns=config.columns if kind in ("csv", "parquet") else Columns(),
        chunks=reader.chunks,
        locate=reader.locate,
        titles=lambda: _titles_beside(path, kind, config),
    )


def _recognise(config: DataConfig) -> tuple[str, Path]:
    path = Path(config.source)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder. Give --data a MovieLens folder, a file, or a database's "
            "SQLAlchemy URL (postgresql+psycopg://host/database)."
        )
    if path.is_dir():
        kinds = (
            RATINGS_FILES
            if config.format in ("auto", "csv")
            else {config.format: RATINGS_FILES[config.format]}
        )
        for kind, file in kinds.items():
            if (path / file).is_file():
                return kind, path / file
        raise InputError(
            f"{path}: holds none of {', '.join(kinds.values())}. Give --data the ratings file itself."
        )
    if config.format != "auto":
        return config.format, path
    if path.name == "u.data":
        return "100k", path
    if path.suffix == ".dat":
        return "1m", path
    if path.suffix in (".parquet", ".pq"):
        return "parquet", path
    return "csv", path


def _opened(path: Path, encoding: str) -> IO[str]:
    try:
        codecs.lookup(encoding)
        return path.open(encoding=_marked(encoding), newline="")
    except LookupError as error:
        raise InputError(
            f"{encoding!r} is no encoding that Python knows. Name one, as utf-8 or latin-1."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Give --data a file that you can read.") from error


def _marked(encoding: str) -> str:
    # Spreadsheets put a byte order mark before the header, which would otherwise become part of a column's
    # name.
    return "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding


def _undecodable(path: Path, encoding: str) -> InputError:
    with path.open("rb") as file, contextlib.suppress(UnicodeError):
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return InputError(
                    f"{path}, line {number}: byte 0x{line[error.start]:02x} is not {encoding}. "
                    "Name the file's encoding, for instance --encoding latin-1, or save it as UTF-8."
                )
    return InputError(f"{path}: not {encoding}. Name the file's encoding, for instance --encoding latin-1.")


class _Text:
    """A file of lines: MovieLens' three formats and CSV."""

    def __init__(self, path: Path, kind: str, config: DataConfig) -> None:
        self._path, self._kind, self._config = path, kind, config
        # pandas' fast parser takes one character: of "1::1193::5" every other field is empty.
        self._separator = {"latest": ",", "100k": "\t", "1m": ":"}.get(kind, config.separator)
        self._header = kind not in ("100k", "1m")
        self._quoting: Any = csv.QUOTE_MINIMAL if self._header else csv.QUOTE_NONE

    def chunks(self) -> Iterator[pd.DataFrame]:
        try:
            columns = self._columns()
            # All columns: told which to use, pandas takes lines with too many fields for sound ones, and a
            # decimal comma makes such.
            frames = pd.read_csv(
                self._path,
                sep=self._separator,
                quoting=self._quoting,
                header=0 if self._header else None,
                index_col=False,
                # Ratings and ids are text here, or 007 would become 7 and a wrong rating nameless.
                dtype={at: str for at, field in columns.items() if field != "timestamp"},
                keep_default_na=False,
                na_values=[""],
                encoding=_marked(self._config.encoding),
                compression=None,
                chunksize=CHUNK,
            )
            with frames:
                while (frame := self._next(frames)) is not None:
                    yield frame.rename(columns=columns)[list(columns.values())]
        # the parent class: UTF-16 without its mark is no UnicodeDecodeError
        except UnicodeError as error:
            raise _undecodable(self._path, self._config.encoding) from error
        except (pd.errors.ParserError, csv.Error) as error:
            detail = str(error).split("C error: ")[-1].strip()
            # pandas counts lines from 1 elsewhere, and from 0 here
            detail = re.sub(
                r"starting at row (\d+)", lambda row: f"starting at line {int(row[1]) + 1}", detail
            )
            raise InputError(
                f"{self._path}: {detail}. Every line must have the same fields; check quotes too."
            ) from error

    def _next(self, frames: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                return next(frames, None)
            except pd.errors.ParserWarning as error:
                raise InputError(
                    f"{self._path}, line 2: more fields than line 1 names columns. Every line must have the "
                    "same fields: is a comma in a number, or a column without a name?"
                ) from error

    def _columns(self) -> dict[Any, str]:
        """The columns to read, by position or name, and which field each is."""
        path, config = self._path, self._config
        with _opened(path, config.encoding) as file:
            first = next((line for line in file if line.strip()), "")
            if not first:
                raise InputError(f"{path}: the file is empty. Give a file with at least one rating.")
            if not self._header:
                mark, shown = ("\t", "tabs") if self._kind == "100k" else ("::", "'::'")
                if mark not in first:
                    raise InputError(
                        f"{path}, line 1: no {shown} between the fields. For a CSV file say --format csv."
                    )
                found = min(first.count(mark) + 1, len(FIELDS))
                if found < 3:
                    raise InputError(
                        f"{path}, line 1: fewer than three fields. Each line needs user, item and rating."
                    )
                return {at * len(mark): field for at, field in enumerate(FIELDS[:found])}
            file.seek(0)
            records = csv.reader(file, delimiter=self._separator)
            header = next(record for record in records if any(record))
            for name in (getattr(config.columns, field) for field in FIELDS):
                if header.count(name) > 1:
                    raise InputError(f"{path}, line 1: column {name!r} is there twice. Rename or drop one.")
        named = Columns() if self._kind == "latest" else config.columns
        names = {getattr(named, field): field for field in FIELDS}
        for name, field in names.items():
            if name not in header and (field != "timestamp" or config.duplicates == "latest"):
                hint = f"name it with --{field}-column"
                if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
                    hint = "or is the separator another? Name it with --separator"
                raise InputError(
                    f"{path}, line 1: column {name!r} is missing; the file has: {', '.join(header)}. {hint}."
                )
        return {name: field for name, field in names.items() if name in header}

    def locate(self, row: int, user: Any, item: Any) -> str:
        # Counted only for a message: quoted fields may span lines and blank lines are skipped.
        with _opened(self._path, self._config.encoding) as file:
            reader = csv.reader(file, delimiter=self._separator, quoting=self._quoting)
            start, seen = 1, -1 - self._header
            for record in reader:
                seen += any(record)
                if seen == row:
                    break
                start = reader.line_num + 1
        return f"{self._path}, line {start}"


class _Parquet:
    """A Parquet file, ids of any type."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._path, self._config = path, config

    def chunks(self) -> Iterator[pd.DataFrame]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, names = self._path, self._config.columns
        try:
            with pq.ParquetFile(path) as file:
                present = file.schema_arrow.names
                for field in FIELDS:
                    optional = field == "timestamp" and self._config.duplicates == "error"
                    if (name := getattr(names, field)) not in present and not optional:
                        raise InputError(
                            f"{path}: column {name!r} is missing; the file has: {', '.join(present)}. "
                            f"Name it with --{field}-column."
                        )
                    if present.count(name) > 1:
                        raise InputError(f"{path}: column {name!r} is there twice. Rename or drop one.")
                    if name in present and pa.types.is_nested(kind := file.schema_arrow.field(name).type):
                        raise InputError(
                            f"{path}: column {name!r} holds {kind}, and single values are needed."
                        )
                found = {getattr(names, f): f for f in FIELDS if getattr(names, f) in present}
                for batch in file.iter_batches(CHUNK, columns=list(found)):
                    # Arrow's own types, or an integer column with a gap would turn 7 into 7.0.
                    yield batch.to_pandas(types_mapper=pd.ArrowDtype).rename(columns=found)
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror or error}. Give --data a file that you can read."
            ) from error
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: no sound Parquet file ({str(error).splitlines()[0]}). Write or copy it anew."
            ) from error

    def locate(self, row: int, user: Any, item: Any) -> str:
        return f"{self._path}, row {row + 1} (user {_plain(user)}, item {_plain(item)})"


def _plain(value: Any) -> str:
    return repr(None if pd.isna(value) else str(value))


def _titles_beside(path: Path, kind: str, config: DataConfig) -> dict[str, str]:
    if config.titles is not None:
        file = Path(config.titles)
        if not file.is_file():
            raise InputError(
                f"{file}: no such file. Give --titles a file with items and titles, or leave it out."
            )
    else:
        file = path.parent / TITLES_FILES.get(kind, TITLES_FILES["latest"])
        if not file.is_file():
            return {}
    return _read_titles(file, config)


def _read_titles(path: Path, config: DataConfig) -> dict[str, str]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Give --titles a file that you can read.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # MovieLens' older sets are latin-1, which decodes anything.
        text = raw.decode("latin-1")
    if path.name in ("u.item", "movies.dat"):
        mark = "|" if path.name == "u.item" else "::"
        rows: Iterable[list[str]] = (line.split(mark) for line in text.splitlines())
        item, title = 0, 1
    else:
        rows = csv.reader(
            io.StringIO(text, newline=""), delimiter="," if path.name == "movies.csv" else config.separator
        )
        header = next(iter(rows), [])
        named = Columns() if path.name == "movies.csv" else config.columns
        for column in (named.item, named.title):
            if column not in header:
                raise InputError(
                    f"{path}, line 1: column {column!r} is missing; the file has: {', '.join(header)}. "
                    "Name it with --item-column or --title-column."
                )
        item, title = header.index(named.item), header.index(named.title)
    try:
        return {row[item].strip(): row[title].strip() for row in rows if len(row) > max(item, title)}
    except csv.Error as error:
        # only of the reader's: the other rows are split by hand
        line = getattr(rows, "line_num", 0)
        raise InputError(f"{path}, up to line {line}: {error}. Is a quote before it never closed?") from error


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
            # SQLite would make an empty database of a mistyped name.
            raise InputError(f"{shown}: no such file: {file}. An absolute path takes four slashes.")
        engine = sa.create_engine(url, connect_args=timeout)
    except sa.exc.NoSuchModuleError as error:
        raise InputError(
            f"{shown}: SQLAlchemy knows no such database. Files from the web have to be downloaded first."
        ) from error
    # ValueError: a port that is no number
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
    required = {"user": names.user, "item": names.item, "rating": names.rating}
    optional = {"timestamp": names.timestamp}
    if config.duplicates == "latest":
        required |= optional
    table = config.table
    where = f"{shown}, table {table}"

    def titles() -> dict[str, str]:
        if config.titles is None:
            return {}
        wanted = {"item": names.item, "title": names.title}
        found: dict[str, str] = {}
        for frame in _select(engine, shown, config.titles, wanted, {}):
            rows = zip(frame["item"], frame["title"], strict=True)
            found |= {
                text(item): text(title) for item, title in rows if item is not None and title is not None
            }
        return found

    return Source(
        kind="sql",
        name=table,
        shown=where,
        path=None,
        columns=names,
        chunks=lambda: _select(engine, shown, table, required, optional),
        locate=lambda row, user, item: f"{where}, row {row + 1} (user {_plain(user)}, item {_plain(item)})",
        titles=titles,
    )


def _select(
    engine: Any, shown: str, table: str, required: dict[str, str], optional: dict[str, str]
) -> Iterator[pd.DataFrame]:
    import sqlalchemy as sa

    schema, _, bare = table.rpartition(".")
    try:
        with engine.connect() as connection:
            inspector = sa.inspect(connection)
            known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
            if bare not in known:
                raise InputError(
                    f"{shown}: no table {table!r}; there are: {', '.join(known) or 'none'}. "
                    "Name it with --table."
                )
            present = [column["name"] for column in inspector.get_columns(bare, schema or None)]
            for column, name in required.items():
                if name not in present:
                    raise InputError(
                        f"{shown}, table {table}: column {name!r} is missing; the table has: "
                        f"{', '.join(present)}. Name it with --{column}-column."
                    )
            found = {column: name for column, name in {**required, **optional}.items() if name in present}
            query: Any = sa.select(*(sa.column(name) for name in found.values())).select_from(
                sa.table(bare, schema=schema or None)
            )
            # A cursor on the server's side: the driver would otherwise fetch the whole table first.
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
