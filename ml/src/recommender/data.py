"""Ratings from MovieLens files, any CSV file or any SQL table, checked before anything is trained."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recommender.config import Columns, DataConfig
from recommender.errors import InputError

Locate = Callable[[int], str]

# The scales that MovieLens states in its README files; other data uses the half-star scale unless told.
SCALES: dict[str, tuple[float, float]] = {"100k": (1.0, 5.0), "1m": (1.0, 5.0)}
HALF_STARS = (0.5, 5.0)
RATINGS_FILES = {"latest": "ratings.csv", "100k": "u.data", "1m": "ratings.dat"}
TITLES_FILES = {"latest": "movies.csv", "100k": "u.item", "1m": "movies.dat"}


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """Ratings in canonical order: by user, then by item, ids in the order of length, then text.

    `user` and `item` (int32, shape (n,)) index `users` and `items`; `rating` is float64, shape (n,). Numeric
    ids thus stand in numeric order, and the order of a file's lines or of a table's rows has no influence on
    a model.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float64]
    scale: tuple[float, float] = HALF_STARS
    titles: dict[str, str] = field(default_factory=dict)
    name: str = "ratings"

    def __repr__(self) -> str:
        return f"<Ratings {self.name}: {len(self)} of {len(self.users)} users for {len(self.items)} items>"

    def __len__(self) -> int:
        return len(self.rating)

    def digest(self) -> str:
        """SHA-256 (hex) of ids, ratings and scale: equal for equal ratings, whatever file they came from."""
        seal = hashlib.sha256(json.dumps([self.users, self.items, self.scale]).encode())
        for array in (self.user, self.item, self.rating):
            seal.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
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
    """Read and check the ratings that `config` names.

    Raises InputError with file and line (or table and row) for missing columns, ratings off the scale,
    duplicate pairs, empty input, wrong encoding and whatever else makes the data unfit.
    """
    if config.is_sql:
        frame, locate, titles, name = _read_sql(config)
        kind = "sql"
    else:
        kind, path = _recognise(config)
        name = path.parent.name if path.name in RATINGS_FILES.values() else path.stem
        frame, locate = _read_file(path, kind, config)
        titles = _titles_beside(path, kind, config)
    return _checked(frame, locate, kind, name, titles, config)


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
    config = DataConfig(source=name, scale=scale, columns=Columns(user="user", item="item", rating="rating"))
    return _checked(
        frame.reset_index(drop=True), lambda row: f"{name}, row {row}", "csv", name, titles or {}, config
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
    return "csv", path


def _decoded(path: Path, encoding: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Give --data a file that you can read.") from error
    try:
        # Spreadsheets put a byte order mark before the header, which would otherwise become part of a
        # column's name.
        return raw.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise InputError(
            f"{encoding!r} is no encoding that Python knows. Name one, as utf-8 or latin-1."
        ) from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding}. "
            "Name the file's encoding, for instance --encoding latin-1, or save it as UTF-8."
        ) from error


def _read_file(path: Path, kind: str, config: DataConfig) -> tuple[pd.DataFrame, Locate]:
    text = _decoded(path, config.encoding)
    if not text.strip():
        raise InputError(f"{path}: the file is empty. Give a file with at least one rating.")
    columns = ["user", "item", "rating", "timestamp"]
    if kind in ("100k", "1m"):
        if kind == "1m":
            text = text.replace("::", "\t")
        first = text[: text.find("\n") + 1 or None]
        if "\t" not in first:
            mark = "tabs" if kind == "100k" else "'::'"
            raise InputError(
                f"{path}, line 1: no {mark} between the fields. For a CSV file say --format csv."
            )
        return _parse(path, text, "\t", csv.QUOTE_NONE, dict(enumerate(columns)), header=False)
    named = config.columns
    if kind == "latest":
        named = Columns()
    separator = "," if kind == "latest" else config.separator
    names = {getattr(named, column): column for column in columns}
    header = next(csv.reader(io.StringIO(text), delimiter=separator))
    for name, column in names.items():
        if name not in header and (column != "timestamp" or config.duplicates == "latest"):
            hint = f"name it with --{column}-column"
            if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
                hint = "or is the separator another? Name it with --separator"
            raise InputError(
                f"{path}, line 1: column {name!r} is missing; the file has: {', '.join(header)}. {hint}."
            )
    wanted = {name: column for name, column in names.items() if name in header}
    return _parse(path, text, separator, csv.QUOTE_MINIMAL, wanted, header=True)


def _parse(
    path: Path, text: str, separator: str, quoting: int, columns: dict[Any, str], header: bool
) -> tuple[pd.DataFrame, Locate]:
    def locate(row: int) -> str:
        # Counted only for a message: quoted fields may span lines and blank lines are skipped.
        reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting)  # type: ignore[arg-type]
        start, seen = 1, -1 - header
        for record in reader:
            seen += any(record)
            if seen == row:
                break
            start = reader.line_num + 1
        return f"{path}, line {start}"

    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            quoting=quoting,
            header=0 if header else None,
            index_col=False,
            usecols=list(columns) if header else None,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
        )
    except pd.errors.ParserError as error:
        detail = str(error).split("C error: ")[-1].strip()
        raise InputError(
            f"{path}: {detail}. Every line must have the same fields; check quotes too."
        ) from error
    if not header and len(frame.columns) < 3:
        raise InputError(f"{path}, line 1: fewer than three fields. Each line needs user, item and rating.")
    return frame.rename(columns=columns), locate


def _titles_beside(path: Path, kind: str, config: DataConfig) -> dict[str, str]:
    if config.titles is not None:
        file = Path(config.titles)
        if not file.is_file():
            raise InputError(
                f"{file}: no such file. Give --titles a file with items and titles, or leave it out."
            )
    else:
        file = path.parent / TITLES_FILES.get("latest" if kind == "csv" else kind, "")
        if not file.is_file():
            return {}
    return _read_titles(file, config)


def _read_titles(path: Path, config: DataConfig) -> dict[str, str]:
    try:
        text = _decoded(path, "utf-8")
    except InputError:
        # MovieLens' older sets are latin-1, which decodes anything.
        text = _decoded(path, "latin-1")
    if path.name in ("u.item", "movies.dat"):
        mark = "|" if path.name == "u.item" else "::"
        rows: Iterable[list[str]] = (line.split(mark) for line in text.splitlines())
        item, title = 0, 1
    else:
        rows = csv.reader(io.StringIO(text), delimiter="," if path.name == "movies.csv" else config.separator)
        header = next(iter(rows), [])
        named = Columns() if path.name == "movies.csv" else config.columns
        for column in (named.item, named.title):
            if column not in header:
                raise InputError(
                    f"{path}, line 1: column {column!r} is missing; the file has: {', '.join(header)}. "
                    "Name it with --item-column or --title-column."
                )
        item, title = header.index(named.item), header.index(named.title)
    return {row[item].strip(): row[title].strip() for row in rows if len(row) > max(item, title)}


def _read_sql(config: DataConfig) -> tuple[pd.DataFrame, Locate, dict[str, str], str]:
    import sqlalchemy as sa

    try:
        url = sa.make_url(config.source)
        shown = url.render_as_string(hide_password=True)
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
    except sa.exc.ArgumentError as error:
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
    ratings: dict[str, str] = {"user": names.user, "item": names.item, "rating": names.rating}
    try:
        with engine.connect() as connection:
            optional = {"timestamp": names.timestamp}
            rows, found = _select(connection, shown, config.table, ratings, optional)
            titles: dict[str, str] = {}
            if config.titles is not None:
                wanted = {"item": names.item, "title": names.title}
                titles = {
                    str(item): str(title)
                    for item, title in _select(connection, shown, config.titles, wanted, {})[0]
                    if item is not None and title is not None
                }
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(
            f"{shown}: {cause}. Check address, user, password and that the server runs."
        ) from error
    finally:
        engine.dispose()
    if "timestamp" not in found and config.duplicates == "latest":
        raise InputError(
            f"{shown}, table {config.table}: column {names.timestamp!r} is missing. "
            "Name it with --timestamp-column."
        )
    frame = pd.DataFrame(rows, columns=found, dtype=object)

    def locate(row: int) -> str:
        user, item = frame.at[row, "user"], frame.at[row, "item"]
        return f"{shown}, table {config.table}, row {row + 1} (user {user!r}, item {item!r})"

    return frame, locate, titles, config.table


def _select(
    connection: Any, shown: str, table: str, required: dict[str, str], optional: dict[str, str]
) -> tuple[list[tuple[Any, ...]], list[str]]:
    import sqlalchemy as sa

    schema, _, bare = table.rpartition(".")
    inspector = sa.inspect(connection)
    known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
    if bare not in known:
        raise InputError(
            f"{shown}: no table {table!r}; there are: {', '.join(known) or 'none'}. Name it with --table."
        )
    present = [column["name"] for column in inspector.get_columns(bare, schema or None)]
    for column, name in required.items():
        if name not in present:
            raise InputError(
                f"{shown}, table {table}: column {name!r} is missing; the table has: {', '.join(present)}. "
                f"Name it with --{column}-column."
            )
    found = {column: name for column, name in {**required, **optional}.items() if name in present}
    query: Any = sa.select(*(sa.column(name) for name in found.values())).select_from(
        sa.table(bare, schema=schema or None)
    )
    return [tuple(row) for row in connection.execute(query)], list(found)


def _checked(
    frame: pd.DataFrame, locate: Locate, kind: str, name: str, titles: dict[str, str], config: DataConfig
) -> Ratings:
    if frame.empty:
        raise InputError(f"{config.source if kind != 'sql' else name}: holds no ratings. Give at least one.")
    names = config.columns if kind in ("csv", "sql") else Columns()
    for column in ("user", "item", "rating"):
        missing = frame[column].isna().to_numpy()
        if column != "rating" and not missing.any():
            # Ids are text: what a database holds as 7 and a file as "7" is the same user.
            frame[column] = frame[column].astype(str).str.strip()
            missing = (frame[column] == "").to_numpy()
        if missing.any():
            where = locate(int(missing.argmax()))
            raise InputError(
                f"{where}, column {getattr(names, column)}: the value is missing. Fill it in or drop the row."
            )
    numbers = pd.to_numeric(frame["rating"], errors="coerce").to_numpy(dtype=np.float64)
    low, high = config.scale or SCALES.get(kind, HALF_STARS)
    for wrong, what in (
        (~np.isfinite(numbers), "is no number. Write ratings as 3.5, with a point"),
        (
            ~((numbers >= low) & (numbers <= high)),
            f"is off the scale {low:g} to {high:g}. Mend it, or name the scale with --scale LOW HIGH",
        ),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{locate(row)}, column {names.rating}: rating {frame['rating'].iloc[row]!r} {what}."
            )
    user, users = _coded(frame["user"])
    item, items = _coded(frame["item"])
    keys: list[NDArray[Any]] = [item, user]
    if config.duplicates == "latest":
        keys.insert(0, _times(frame, locate, names.timestamp))
    order = np.lexsort(keys)
    user, item, numbers = user[order], item[order], numbers[order]
    again = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    if again.any():
        if config.duplicates == "error":
            at = int(again.argmax())
            first, second = sorted(int(row) for row in order[at : at + 2])
            raise InputError(
                f"{locate(second)}: user {users[user[at]]!r} rates item {items[item[at]]!r} again "
                f"(first: {locate(first)}; {int(again.sum())} such rows). Keep one rating a pair, "
                "or say --duplicates latest to keep the newest."
            )
        last = np.append(~again, True)
        user, item, numbers = user[last], item[last], numbers[last]
    known = set(items)
    return Ratings(
        users, items, user, item, numbers, (low, high), {i: t for i, t in titles.items() if i in known}, name
    )


def _coded(ids: "pd.Series[Any]") -> tuple[NDArray[np.int32], tuple[str, ...]]:
    codes, unique = pd.factorize(ids)
    names = [str(name) for name in unique]
    order = sorted(range(len(names)), key=lambda at: (len(names[at]), names[at]))
    rank = np.empty(len(names), dtype=np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return rank[codes], tuple(names[at] for at in order)


def _times(frame: pd.DataFrame, locate: Locate, name: str) -> NDArray[np.float64]:
    raw = frame["timestamp"]
    times: NDArray[np.float64] = pd.to_numeric(raw, errors="coerce").to_numpy(dtype=np.float64)
    if np.isnan(times).any():
        moments = pd.to_datetime(raw, errors="coerce", utc=True, format="mixed")
        times = np.where(moments.isna(), np.nan, (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds())
    if np.isnan(times).any():
        row = int(np.isnan(times).argmax())
        raise InputError(
            f"{locate(row)}, column {name}: {raw.iloc[row]!r} is no time. "
            "Write seconds since 1970 or 2026-01-31T12:00."
        )
    return times
