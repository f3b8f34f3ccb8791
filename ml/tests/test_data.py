import random
import re
import shlex
import sqlite3
import subprocess
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.cli.main import main
from recommender.config import DataConfig
from recommender.data import ratings, readers, reading, times
from recommender.errors import InputError
from tests.conftest import ROOT, rows

PAIRS = [("2", "b", 4.5), ("10", "a", 3.0), ("2", "a", 1.0)]


def read(source: object, **keys: object) -> ratings.Ratings:
    return reading.read(DataConfig.model_validate({"source": str(source), **keys}))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def triples(ratings: ratings.Ratings) -> list[tuple[str, str, float]]:
    return list(ratings.frame().itertuples(index=False, name=None))


# Formats


def test_embedded_dataset() -> None:
    ratings = read(ROOT / "data" / "ml-latest-small")
    assert (len(ratings), len(ratings.users), len(ratings.items)) == (100_836, 610, 9_724)
    assert triples(ratings)[:2] == [("1", "1", 4.0), ("1", "3", 4.0)]
    assert ratings.titles["1"] == "Toy Story (1995)"
    assert ratings.name == "ml-latest-small"


def test_100k_tabs_and_latin_titles(tmp_path: Path) -> None:
    write(tmp_path / "u.data", "196\t242\t3\t881250949\r\n22\t377\t1\t878887116\r\n")
    write(tmp_path / "u.item", "242|Café (1996)|24-Jan-1997||x\n377|Heavyweights|x\n", "latin-1")
    for source in (tmp_path, tmp_path / "u.data"):
        ratings = read(source)
        assert triples(ratings) == [("22", "377", 1.0), ("196", "242", 3.0)]
        assert ratings.titles["242"] == "Café (1996)"
        assert ratings.scale == (1.0, 5.0)


def test_1m_double_colons(tmp_path: Path) -> None:
    write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    write(tmp_path / "movies.dat", "661::James: the Peach::Animation\n1193::Léon::Drama\n", "latin-1")
    for source in (tmp_path, tmp_path / "ratings.dat"):
        ratings = read(source)
        assert triples(ratings) == [("1", "661", 3.0), ("1", "1193", 5.0)]
        assert ratings.titles == {"661": "James: the Peach", "1193": "Léon"}


def test_any_csv_with_named_columns(tmp_path: Path) -> None:
    text = "score;who;note;what\n3,5;x;;y\n".replace("3,5", "3.5")
    titles = write(tmp_path / "names.csv", "what;label\ny;Ünder\n")
    ratings = read(
        write(tmp_path / "r.csv", text),
        separator=";",
        titles=str(titles),
        columns={"user": "who", "item": "what", "rating": "score", "title": "label"},
    )
    assert triples(ratings) == [("x", "y", 3.5)]
    assert ratings.titles == {"y": "Ünder"}


def test_byte_order_mark_blank_lines_and_spaces(tmp_path: Path) -> None:
    ratings = read(write(tmp_path / "r.csv", "\ufeffuserId,movieId,rating\n\n 1 ,2,3\n\n"))
    assert triples(ratings) == [("1", "2", 3.0)]


def test_sql_table_and_titles(tmp_path: Path) -> None:
    url = database(tmp_path, [(1, 20, 4.5, 0), (1, 3, 2, 0)])
    ratings = read(url, table="votes", titles="films", columns=SQL)
    assert triples(ratings) == [("1", "3", 2.0), ("1", "20", 4.5)]
    assert ratings.titles == {"20": "Twenty"}
    assert ratings.name == "votes"


SQL = {"user": "who", "item": "film", "rating": "stars", "timestamp": "at", "title": "name"}


def database(folder: Path, votes: list[tuple[object, ...]]) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "votes.db"
    connection = sqlite3.connect(path)
    connection.execute("create table votes (who integer, film integer, stars, at integer)")
    connection.execute("create table films (film integer, name text)")
    connection.executemany("insert into votes values (?, ?, ?, ?)", votes)
    connection.execute("insert into films values (20, 'Twenty'), (99, 'Nobody rates it')")
    connection.commit()
    connection.close()
    return f"sqlite:///{path}"


# One dataset, whatever it is written in


def test_digest_depends_on_content_only(tmp_path: Path) -> None:
    csv = write(
        tmp_path / "a.csv", "rating,movieId,userId\n" + "".join(f"{r},{i},{u}\n" for u, i, r in PAIRS)
    )
    other = write(
        tmp_path / "b.csv",
        "userId,movieId,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in reversed(PAIRS)),
    )
    assert read(csv).digest() == read(other).digest()
    assert read(csv).digest() != read(csv, scale=(1, 5)).digest()
    changed = write(tmp_path / "c.csv", csv.read_text().replace("4.5", "4.0"))
    assert read(changed).digest() != read(csv).digest()


# Neither words that mean "missing" nor 3.0, which is 3.
ids = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5).filter(
    lambda raw: raw.casefold() not in times.MISSING and reading.whole(raw) == raw
)
tables = st.dictionaries(
    st.tuples(ids, ids), st.integers(1, 10).map(lambda half: half / 2), min_size=1, max_size=20
)


@given(tables, st.randoms(), st.sampled_from(",;\t"))
def test_csv_round_trip_in_any_order(
    tmp_path_factory, table: dict, shuffle: random.Random, separator: str
) -> None:
    lines = [(user, item, rating) for (user, item), rating in table.items()]
    shuffle.shuffle(lines)
    path = tmp_path_factory.mktemp("csv") / "ratings.txt"
    pd.DataFrame(lines, columns=["userId", "movieId", "rating"]).to_csv(path, index=False, sep=separator)
    ratings = read(path, separator=separator)
    assert {(user, item): rating for user, item, rating in triples(ratings)} == table
    assert list(ratings.users) == sorted(ratings.users, key=lambda raw: (len(raw), raw))
    assert (
        ratings.digest()
        == reading.from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"])).digest()
    )


@settings(max_examples=50, deadline=None)
@given(tables, st.sampled_from(["text", "int", "category"]), st.integers(1, 5), st.booleans())
def test_parquet_round_trip(
    tmp_path_factory, table: dict, kind: str, rows_in_a_group: int, timed: bool
) -> None:
    frame = pd.DataFrame([(u, i, r) for (u, i), r in table.items()], columns=["userId", "movieId", "rating"])
    if kind == "int":
        frame[["userId", "movieId"]] = frame[["userId", "movieId"]].apply(lambda ids: pd.factorize(ids)[0])
    elif kind == "category":
        frame = frame.astype({"userId": "category", "movieId": "category"})
    if timed:
        frame["timestamp"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(range(len(frame)), "s")
    path = tmp_path_factory.mktemp("parquet") / "ratings.parquet"
    frame.to_parquet(path, row_group_size=rows_in_a_group)
    expected = reading.from_frame(
        frame.rename(columns={"userId": "user", "movieId": "item"})[["user", "item", "rating"]]
    )
    assert triples(read(path)) == triples(read(path.parent)) == triples(expected)
    first = pd.Timestamp("2026-01-01", tz="UTC").timestamp()
    assert read(path).period == ((first, first + len(frame) - 1) if timed else None)


@settings(max_examples=20, deadline=None)
@given(tables, st.integers(1, 4))
def test_chunks_make_no_difference(tmp_path_factory, table: dict, rows_in_a_chunk: int) -> None:
    lines = [(u, i, r, at) for at, ((u, i), r) in enumerate([*table.items(), *table.items()])]
    path = tmp_path_factory.mktemp("chunks") / "ratings.csv"
    frame = pd.DataFrame(lines, columns=["userId", "movieId", "rating", "timestamp"])
    frame.to_csv(path, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CHUNK", rows_in_a_chunk)
        ratings = read(path, duplicates="latest")
        with pytest.raises(InputError, match=f"rates item .* again .*; {len(table)} such rows"):
            other = frame.drop(columns="timestamp").assign(
                rating=frame["rating"].where(frame.index < len(table), 0.5)
            )
            other["rating"] = other["rating"].mask(
                (frame.index >= len(table)) & (frame["rating"] == 0.5), 1.0
            )
            read(write(path.with_name("r.csv"), other.to_csv(index=False)))
    assert {(user, item): rating for user, item, rating in triples(ratings)} == table
    assert (ratings.replaced, ratings.period) == (len(table), (0.0, 2 * len(table) - 1))


# Bad input: the error, its place, its remedy

HEAD = "userId,movieId,rating,timestamp\n"
BAD_FILES = {
    "empty": ("", "the file is empty"),
    "header only": (HEAD, "contains no ratings"),
    "missing column": (
        "userId,rating\n1,3\n",
        "line 1: column 'movieId' is missing; the file has: userId, rating",
    ),
    "missing column, hint": ("user,movieId,rating\n1,2,3\n", "name it with --user-column"),
    "other separator": ("userId;movieId;rating\n1;2;3\n", "--separator"),
    "off the scale": (
        HEAD + "1,2,3,0\n1,3,6,0\n",
        "line 3, column rating: rating '6' is off the scale 0.5 to 5",
    ),
    "below the scale": (HEAD + "1,2,0,0\n", "line 2, column rating: rating '0' is off the scale"),
    "no number": (HEAD + "1,2,good,0\n", "line 2, column rating: rating 'good' is not a number"),
    "infinite": (HEAD + "1,2,inf,0\n", "line 2, column rating: rating 'inf' is not a number"),
    "decimal comma": (HEAD + '1,2,"3,5",0\n', "with a point"),
    "no rating": (HEAD + "1,2,,0\n", "line 2, column rating: the value is missing"),
    "no user": (HEAD + "1,2,3,0\n,2,3,0\n", "line 3, column userId: the value is missing"),
    "blank item": (HEAD + "1, ,3,0\n", "line 2, column movieId: the value is missing"),
    "short line": (HEAD + "1,2,3,0\n1,5\n", "line 3, column rating: the value is missing"),
    "after blank and long lines": (
        'userId,movieId,rating,note\n\n1,2,3,"two\nlines"\n\n1,4,9,\n',
        "line 6, column rating: rating '9' is off",
    ),
    "duplicate": (
        HEAD + "1,2,3,0\n7,2,3,0\n1,2,4,0\n",
        "line 4: user '1' rates item '2' again (first: {path}, line 2; 1 such rows)",
    ),
    "decimal comma without quotes": (HEAD + "1,2,3,0\n1,3,3,5,0\n", "Expected 4 fields in line 3, saw 5"),
    "decimal comma everywhere": (HEAD + "1,2,3,5,0\n", "line 2: more fields than line 1 names columns"),
    "column twice": ("userId,userId,movieId,rating\n1,2,3,4\n", "line 1: column 'userId' occurs twice"),
    "open quote": (HEAD + '1,2,3,0\n1,"2,3,0\n', "EOF inside string starting at line 3"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "ratings.csv", text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message.format(path=path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "u.data",
            "1\t2\t3\t4\n1\t3\t0.5\t4\n",
            "line 2, column rating: rating '0.5' is off the scale 1 to 5",
        ),
        ("u.data", "1,2,3,4\n", "line 1: no tabs between the fields"),
        ("u.data", "1\t2\n", "line 1: fewer than three fields"),
        ("ratings.dat", "1::2::3::4\n1::2::3::5\n", "line 2: user '1' rates item '2' again"),
        ("ratings.dat", "1,2,3\n", "line 1: no '::' between the fields"),
        ("ratings.dat", "1::2::3::4\n1::7\n", "line 2, column rating: the value is missing"),
        ("ratings.dat", "1::2::3::4\n1:5::2::3::4\n", "in line 2"),
        ("u.data", "1\t2\t3\t4\n1\t3\t3\t5\t4\n", "Expected 4 fields in line 2, saw 5"),
    ],
)
def test_bad_movielens_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(write(tmp_path / name, text))
    assert message in str(caught.value)


def test_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", HEAD + "1,2,3,0\n1,é,3,0\n", "latin-1")
    with pytest.raises(InputError, match=r"r\.csv, line 3: byte 0xe9 is not utf-8.*--encoding latin-1"):
        read(path)
    assert triples(read(path, encoding="latin-1"))[1][1] == "é"
    with pytest.raises(InputError, match=r"r\.csv: not utf-16"):
        read(path, encoding="utf-16")
    with pytest.raises(InputError, match="not an encoding that Python knows"):
        read(path, encoding="klingon")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"contains none of ratings\.csv, u\.data, ratings\.dat"):
        read(tmp_path)
    path = write(tmp_path / "r.csv", HEAD + "1,2,3,0\n")
    with pytest.raises(InputError, match=r"titles\.csv: no such file"):
        read(path, titles=str(tmp_path / "titles.csv"))
    titles = write(tmp_path / "titles.csv", "movieId,name\n2,Two\n")
    with pytest.raises(InputError, match=r"titles\.csv, line 1: column 'title' is missing"):
        read(path, titles=str(titles))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": None}, "no table is named"),
        ({"table": "wotes"}, "no table 'wotes'; there are: films, votes"),
        (
            {"columns": {**SQL, "item": "movie"}},
            "column 'movie' is missing; the table has: who, film, stars, at",
        ),
        ({"source": "sqlite:////nowhere/x.db"}, "no such file: /nowhere/x.db"),
        ({"source": "https://example.org/ratings.csv"}, "have to be downloaded first"),
        ({"source": "postgresql+nodriver://h/d"}, "knows no such database"),
        ({"source": "://"}, "not an SQLAlchemy URL"),
        ({"source": "postgresql+psycopg://127.0.0.1:abc/x"}, "not an SQLAlchemy URL"),
        ({"titles": "votes"}, "column 'name' is missing"),
        (
            {"source": "postgresql+psycopg://me:secret@127.0.0.1:9/db"},
            "postgresql+psycopg://me:***@127.0.0.1:9/db",
        ),
    ],
)
def test_bad_sql(tmp_path: Path, change: dict, message: str) -> None:
    settings = {"source": database(tmp_path, [(1, 2, 3, 0)]), "table": "votes", "columns": SQL, **change}
    with pytest.raises(InputError) as caught:
        reading.read(DataConfig.model_validate(settings))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([], "contains no ratings"),
        (
            [(1, 2, 3, 0), (None, 2, 3, 0)],
            "table votes, row 2 (user None, item '2'), column who: the value is missing",
        ),
        ([(1, 2, 7, 0)], "row 1 (user '1', item '2'), column stars: rating 7 is off the scale"),
        (
            [(1, 2, 3, 0), (1, 2, 4, 0)],
            "table votes, row 2 (user '1', item '2'): user '1' rates item '2' again",
        ),
    ],
)
def test_bad_rows_in_sql(tmp_path: Path, votes: list, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(database(tmp_path, votes), table="votes", columns=SQL)
    assert message in str(caught.value)


GOOD_PARQUET = {"userId": [1, 2], "movieId": [3, 3], "rating": [4.0, 5.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"userId": [1, None]}, "row 2 (user None, item '3'), column userId: the value is missing"),
        ({"rating": [1.0, float("nan")]}, "row 2 (user '2', item '3'), column rating: the value is missing"),
        ({"rating": [1.0, 7.0]}, "row 2 (user '2', item '3'), column rating: rating 7.0 is off the scale"),
        ({"movieId": [" ", "3"]}, "row 1 (user '1', item ' '), column movieId: the value is missing"),
        ({"userId": [1, 1]}, "row 2 (user '1', item '3'): user '1' rates item '3' again"),
        ({"userId": [[1], [2]]}, "column 'userId' holds list<element: int64>, and single values are needed"),
        ({name: [] for name in GOOD_PARQUET}, "contains no ratings"),
        (None, "column 'rating' is missing; the file has: userId, movieId"),
    ],
)
def test_bad_parquet(tmp_path: Path, change: dict | None, message: str) -> None:
    frame = pd.DataFrame({**GOOD_PARQUET, **(change or {})})
    path = tmp_path / "votes.parquet"
    (frame if change else frame.drop(columns="rating")).to_parquet(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_parquet_as_only_arrow_writes_it(tmp_path: Path) -> None:
    """NaN that is not null, ids in bytes, a duplicate name."""
    path = tmp_path / "votes.parquet"
    rating, ids = pa.array([4.0, 5.0]), pa.array([b"a", b"b"])
    pq.write_table(pa.table([pa.array([1.0, float("nan")]), ids, rating], [*GOOD_PARQUET]), path)
    with pytest.raises(InputError, match=r"row 2 .* column userId: the value is missing"):
        read(path)
    pq.write_table(pa.table([pa.array([1.0, 2.0]), ids, rating], [*GOOD_PARQUET]), path)
    assert triples(read(path)) == [("1", "a", 4.0), ("2", "b", 5.0)]
    pq.write_table(pa.table([ids, ids, rating, rating], [*GOOD_PARQUET, "rating"]), path)
    with pytest.raises(InputError, match="column 'rating' occurs twice"):
        read(path)


def test_titles_of_ids_that_are_floats_in_sql(tmp_path: Path) -> None:
    url = database(tmp_path, [(1.0, 2.0, 3, 0)])
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("CREATE TABLE f (film REAL, name TEXT)")
        connection.execute("INSERT INTO f VALUES (2.0, 'Two')")
    connection.close()
    assert read(url, table="votes", columns=SQL, titles="f").titles == {"2": "Two"}


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "votes.parquet"
    pd.DataFrame(GOOD_PARQUET).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"votes\.parquet: not a valid Parquet file .* Write or copy it again"
    ):
        read(path)


def test_sql_in_chunks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "SQL_CHUNK", 2)
    votes = [(user, film, 1 + (user + film) % 5, user) for user in range(3) for film in range(3)]
    ratings = read(database(tmp_path, votes), table="votes", columns=SQL)
    assert triples(ratings) == [(str(user), str(film), float(stars)) for user, film, stars, _ in votes]
    with pytest.raises(
        InputError, match=r"row 10 \(user '1', item '1'\): user '1' rates item '1' again \(first: .* row 5"
    ):
        read(database(tmp_path / "again", [*votes, (1, 1, 5, 1)]), table="votes", columns=SQL)


# Duplicates on request


@pytest.mark.parametrize("times", [("5", "9", "7"), ("2026-01-01", "2026-01-03T10:00", "2026-01-02")])
def test_latest_of_duplicates(tmp_path: Path, times: tuple[str, ...]) -> None:
    lines = "".join(f"1,2,{rating},{time}\n" for rating, time in zip((1, 2, 3), times, strict=True))
    assert triples(read(write(tmp_path / "r.csv", HEAD + lines), duplicates="latest")) == [("1", "2", 2.0)]


DATES = {
    "day first, told by the first row": (["13/02/2015", "02/03/2015"], 2),
    "day first, told by a later row": (["02/03/2015", "01/02/2015", "13/02/2015"], 1),
    "day first, with points and times": (["13.02.2015 10:00", "02.03.2015 9:00"], 2),
    "day first, of two figures": (["13-02-15", "02-03-15"], 2),
    "after a clock": (["10:00 02/03/2015", "10:00 13/02/2015"], 1),
    "after a clock with points": (["10.30 02.03.2015", "9.45 13.02.2015"], 1),
    "after a weekday": (["Mon 02/03/2015", "Tue 03/02/2015", "Fri 13/02/2015"], 1),
    "after a weekday and a comma": (["Monday, 02/03/2015", "Friday, 13/02/2015"], 1),
    "in quotes": (["'02/03/2015'", "'13/02/2015'"], 1),
    "with points and blanks": (["2. 3. 2015", "13. 2. 2015"], 1),
    "with the year before and a clock": (["2015 02 13 10:00", "2015 02 03 11:00"], 1),
    "as ctime": (["Fri Feb 13 10:00:00 2015", "Mon Mar  2 10:00:00 2015"], 2),
    "day first, of two figures, of some years": (["25-12-14", "03-01-15", "17-06-15"], 3),
    "year first, of two figures": (["99-02-13", "02-03-15", "15-03-02"], 3),
    "month first, of two figures": (["02-13-15", "03-02-15"], 2),
    "month first": (["02/13/2015", "01/03/2015"], 1),
    "month first, with noon": (["02/13/2015 11:00 AM", "02/13/2015 01:00 PM"], 2),
    "mixed lengths": (["13/02/2015", "02/03/2015 10:00:01", "02/03/2015 10:00"], 2),
    "equal both ways": (["02/02/2015", "03/03/2015"], 2),
    "year first": (["2015/02/13", "2015/02/03"], 1),
    "names of months": (["13-Feb-15", "02-Mar-15"], 2),
    "mails": (["Fri, 13 Feb 2015 10:00:00 +0000", "Mon, 02 Mar 2015 10:00:00 +0000"], 2),
    "zones": (["2015-02-13T10:00:00+02:00", "2015-02-13T09:00:00Z", "2015-02-13T08:30"], 2),
    "milliseconds": (["1425283200000", "1423821600000"], 1),
    "nanoseconds": (["1425283200000000000", "1423821600000000000"], 1),
    "days as numbers": (["20150302", "20150213"], 1),
}


def dated(path: Path, times: list[str]) -> Path:
    lines = "".join(f'1,2,{at},"{time}"\n' for at, time in enumerate(times, start=1))
    return write(path, HEAD + lines)


@pytest.mark.parametrize(("times", "newest"), DATES.values(), ids=DATES)
@pytest.mark.parametrize("rows_in_a_chunk", [1, 100])
def test_times_are_read_in_one_way(
    tmp_path: Path, times: list[str], newest: int, rows_in_a_chunk: int, monkeypatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK", rows_in_a_chunk)
    ratings = read(dated(tmp_path / "r.csv", times), duplicates="latest")
    assert triples(ratings) == [("1", "2", float(newest))]
    low, high = (pd.Timestamp(end, unit="s").year for end in ratings.period)
    assert (low, high) == ({"25-12-14": 2014, "99-02-13": 1999}.get(times[0], 2015), 2015)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["01/02/2015", "02/01/2015"], "'01/02/2015': no row says .* '%d/%m/%Y' or '%m/%d/%Y'"),
        (["10:00 01/02/2015", "9:00 02/01/2015"], "no row says .* '%H:%M %d/%m/%Y' or '%H:%M %m/%d/%Y'"),
        (["Mon 02/03/2015", "Tue 03/02/2015"], "no row says .* '%a %d/%m/%Y' or '%a %m/%d/%Y'"),
        (["2015 Feb 13", "Mon 02/03/2015"], "line 3, .*'Mon 02/03/2015' is not a time, or not like"),
        (["15-02-13", "15-03-02"], "the day or the year comes first.* '%d-%m-%y' or '%y-%m-%d'"),
        (["05-03-01", "15-02-01"], "the day or the year comes first"),
        (["05-02-28", "15-03-31"], "the day or the year comes first"),
        (["02-03-04"], "the day or the month or the year comes first.* or '%y-%m-%d' "),
        (["02/03/15 10:00", "03/04/15 10:00"], "month or the year .* or '%m/%d/%y %H:%M' or '%y/%m/%d %H"),
        (["2015-02-13", "02/03"], "line 3, .*'02/03' is not a time, or not like"),
        (["May", "June"], "line 2, .*'May' is not a time, or not like"),
        (["10:00", "9:30 pm"], "line 2, .*'10:00' is not a time, or not like"),
        (["20150231", "20150201"], "20150231 is not a day"),
        (["02/13/2015", "13/02/2015"], r"line 3, .*'13/02/2015' is not a time, or not like .*--time-format"),
        (["1423821600", "2015-03-02"], r"line 3, .*'2015-03-02' is not a time, or not like"),
        (["1423821600", "1425283200000"], "some times are seconds and some milliseconds"),
        (["2015-02-13", "02/03/2015"], "line 3, .*'02/03/2015' is not a time, or not like"),
        (["1423821600", "NULL"], "line 3, .* is not a time"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows_in_a_chunk", [1, 100])
def test_times_that_cannot_be_read_in_one_way(
    tmp_path: Path, times: list[str], message: str, rows_in_a_chunk: int, monkeypatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK", rows_in_a_chunk)
    path = dated(tmp_path / "r.csv", times)
    with pytest.raises(InputError, match=message):
        read(path, duplicates="latest")
    # Nothing depends on them without it: a remark.
    other = read(write(path, path.read_text().replace("1,2,2,", "1,3,2,")))
    assert (other.period is None) == bool(other.remarks)
    assert bool(other.remarks) == ("NULL" not in times)


SENTINELS = ["0001-01-01 00:00:00", "0001-01-01T00:00:00Z", "9999-12-31", "31/12/9999", "Dec 31 9999"]


@pytest.mark.parametrize("time", SENTINELS)
@pytest.mark.parametrize("rows_in_a_chunk", [1, 100])
def test_years_1_and_9999(tmp_path: Path, time: str, rows_in_a_chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(readers, "CHUNK", rows_in_a_chunk)
    other = "13/02/2015" if "/" in time else "2015-02-13 10:00:00"
    path = dated(tmp_path / "r.csv", [time, other] if time[0] == "0" else [other, time])
    ratings = read(path, duplicates="latest")
    assert triples(ratings) == [("1", "2", 2.0)]
    assert ratings.period[time[0] != "0"] in (-62135596800.0, 253402214400.0)
    assert read(path, duplicates="last").period == ratings.period


@pytest.mark.parametrize("unit", ["s", "us"])
def test_year_1_in_parquet(tmp_path: Path, unit: str) -> None:
    times = pa.array([datetime(1, 1, 1), datetime(2015, 2, 13)], pa.timestamp(unit))
    table = pa.table({"userId": [1, 1], "movieId": [2, 2], "rating": [1.0, 2.0], "timestamp": times})
    pq.write_table(table, tmp_path / "r.parquet")
    assert triples(read(tmp_path / "r.parquet", duplicates="latest")) == [("1", "2", 2.0)]


@pytest.mark.parametrize(
    "time",
    ["02/03/2015", "02-03-15 9:05", "10:00:01 02/03/2015", "Mon, 02.03.2015 10:00", "'02/03/2015'",
     "02/03/2015 10:00:00 PM", "02/03/2015 01:00 am", "2. 3. 2015", "02/03/2015 10:00:00.25 +0200"],
)  # fmt: skip
def test_the_printed_format_of_times_works(tmp_path: Path, time: str) -> None:
    path = dated(tmp_path / "r.csv", [time, time])
    with pytest.raises(InputError, match="no row says") as caught:
        read(path, duplicates="latest")
    words = shlex.split(str(caught.value).split("--time-format ")[1])
    for pattern in (words[0], words[2]):
        ratings = read(path, duplicates="latest", time_format=pattern)
        assert {pd.Timestamp(end, unit="s").year for end in ratings.period} == {2015}


def test_the_format_of_times_is_told(tmp_path: Path) -> None:
    path = dated(tmp_path / "r.csv", ["01/02/2015", "02/01/2015"])
    for pattern, newest in (("%d/%m/%Y", 1.0), ("%m/%d/%Y", 2.0)):
        assert triples(read(path, duplicates="latest", time_format=pattern)) == [("1", "2", newest)]
    # These are read as numbers, without zeros in front; the empty one makes them 2032015.0.
    for gap in ([], [""]):
        days = write(path, dated(path, ["02032015", "13022015", *gap]).read_text().replace("2,3", "3,3"))
        low, high = read(days, duplicates="last", time_format="%d%m%Y").period
        assert (low, high) == (1423785600, 1425254400)
    path = dated(path, ["01/02/2015", "02/01/2015"])
    with pytest.raises(InputError, match=r"line 2, .*'01/02/2015' is not a time"):
        read(path, duplicates="last", time_format="%Y-%m-%d")
    with pytest.raises(InputError, match="--time-format '%Q'"):
        read(path, duplicates="last", time_format="%Q")


# Ratings of one pair


TWICE = [("a", "x", 3.0, 5), ("a", "x", 1.0, 4), ("a", "x", 3.0, 5), ("a", "y", 2.0, 1)]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(
    ("duplicates", "rating"), [("first", 3.0), ("last", 3.0), ("mean", 2.0), ("latest", 3.0)]
)
def test_which_of_a_pair_counts(tmp_path: Path, duplicates: str, rating: float, timed: bool) -> None:
    columns = ["userId", "movieId", "rating", "timestamp"][: 3 + timed]
    path = tmp_path / "r.csv"
    pd.DataFrame([row[: 3 + timed] for row in TWICE], columns=columns).to_csv(path, index=False)
    if duplicates == "latest" and not timed:
        with pytest.raises(
            InputError, match=r"column 'timestamp' is missing; .*--duplicates last, first or mean"
        ):
            read(path, duplicates=duplicates)
        return
    ratings = read(path, duplicates=duplicates)
    assert triples(ratings) == [("a", "x", rating), ("a", "y", 2.0)]
    assert ratings.replaced == 2
    with pytest.raises(InputError) as caught:
        read(path)
    assert ("latest" in str(caught.value)) == timed
    for named in re.findall(r"latest|last|first|mean", str(caught.value).split("--duplicates ")[1]):
        read(path, duplicates=named)


def test_equal_rows_count_once(tmp_path: Path) -> None:
    rows = [("a", "x", 3.0, 5), ("a", "y", 2.0, 1), ("a", "x", 3.0, 5)]
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])
    for columns in (4, 3):
        frame.iloc[:, :columns].to_csv(tmp_path / "r.csv", index=False)
        ratings = read(tmp_path / "r.csv")
        assert triples(ratings) == [("a", "x", 3.0), ("a", "y", 2.0)] and ratings.replaced == 1
    frame.assign(timestamp=[5, 1, 6]).to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(
        InputError, match=r"line 4: user 'a' rates item 'x' again \(first: .*line 2; 1 such rows"
    ):
        read(tmp_path / "r.csv")


# Ids and values that are missing


@pytest.mark.parametrize("word", ["NULL", "\\N", "NaN", "None", "nan", "null", "NONE", "N/A", "<NA>"])
@pytest.mark.parametrize("column", ["userId", "movieId"])
def test_words_for_missing_ids(tmp_path: Path, word: str, column: str) -> None:
    line = f"{word},2,3,0\n" if column == "userId" else f"1,{word},3,0\n"
    with pytest.raises(InputError) as caught:
        read(write(tmp_path / "r.csv", f"{HEAD}1,2,3,0\n{line}"))
    assert f"line 3, column {column}: the value is missing ({word!r})" in str(caught.value)


@pytest.mark.parametrize("word", ["-nan", "#N/A", "NaT", "<NA>"])
def test_words_for_missing_times(tmp_path: Path, word: str) -> None:
    found = read(write(tmp_path / "r.csv", f"{HEAD}1,2,3,5\n1,3,3,{word}\n"))
    assert found.period == (5, 5) and not found.remarks
    with pytest.raises(InputError, match=r"line 3, column timestamp: the time is missing"):
        read(write(tmp_path / "d.csv", f"{HEAD}1,2,3,5\n1,2,3,{word}\n"), duplicates="latest")


def test_whole_numbers_with_a_point(tmp_path: Path) -> None:
    write(tmp_path / "movies.csv", "movieId,title\n20.0,Twenty\n3,Three\n")
    ratings = read(write(tmp_path / "r.csv", HEAD + "1.0,20,3,0\n1,3.0,4,0\n2.0,3,5,0\n"))
    assert triples(ratings) == [("1", "3", 4.0), ("1", "20", 3.0), ("2", "3", 5.0)]
    assert ratings.titles == {"20": "Twenty", "3": "Three"}
    # where there are fractions it is not a whole number's other name
    versions = read(write(tmp_path / "v.csv", HEAD + "a,1.0,3,0\na,1.5,4,0\na,1,5,0\n"))
    assert versions.items == ("1", "1.0", "1.5")
    with pytest.raises(InputError, match=r"line 3: user '1' rates item '2' again"):
        read(write(tmp_path / "d.csv", HEAD + "1,2,3,0\n1.0,2,4,0\n"))


@pytest.mark.parametrize("character", ["\0", "\x01", "\x7f"])
def test_control_characters_in_ids(tmp_path: Path, character: str) -> None:
    path = write(tmp_path / "a b.csv", HEAD + f"ab,1,3,0\na{character}b,2,4,0\n")
    with pytest.raises(InputError, match=r"line 3, column userId: .* holds a control character") as caught:
        read(path)
    command = str(caught.value).split("Take such out: ")[1].split(", then say")[0]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert triples(read(tmp_path / "ratings-clean.csv")) == [("ab", "1", 3.0), ("ab", "2", 4.0)]


def test_quotes_after_a_blank_far_down(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = "userId,movieId,rating\n" + "".join(f"{at},10,3\n" for at in range(150))
    path = write(tmp_path / "my r.csv", plain + '7, "11", 4\n8,11,4\n')
    with pytest.raises(InputError, match=r'line 152, column movieId: "11" is in quotes after') as caught:
        read(path)
    command = re.search(r"sed .*\.csv(?=, then)", str(caught.value))[0]
    subprocess.run(command, shell=True, check=True)
    assert read("ratings-clean.csv").items == ("10", "11")
    # Quotes that belong to an id.
    assert read(write(path, plain + '7,"""Heroes""",4\n')).items == ("10", '"Heroes"')


def test_halves_of_a_surrogate_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", '{"userId": "\\ud800", "movieId": 1, "rating": 3}\n')
    with pytest.raises(InputError, match=r"line 1, column userId: .* half of a surrogate pair \(U\+D800\)"):
        read(path)
    with pytest.raises(InputError, match="half of a surrogate pair"):
        reading.from_frame(pd.DataFrame({"user": ["\udfff"], "item": ["a"], "rating": [3.0]}, dtype=object))
    write(tmp_path / "t.jsonl", '{"movieId": 1, "title": "a\\ud800b"}\n')
    write(path, '{"userId": "x", "movieId": 1, "rating": 3}\n')
    assert read(path, titles=str(tmp_path / "t.jsonl")).titles == {"1": "a\ufffdb"}


@pytest.mark.parametrize(
    ("missing", "left"), [([0], 2), (0, 2), (["0", "-1"], 1), (["0.0", "NULL", "-1", ""], 1)]
)
def test_ratings_that_mean_not_rated(tmp_path: Path, missing: object, left: int) -> None:
    lines = "a,x,4\nb,x,0\nb,y,0\nc,x,-1\n" + ("d,x,NULL\nd,z,\n" if "" in str(missing).split("'") else "")
    path = write(tmp_path / "r.csv", "userId,movieId,rating\n" + lines)
    if left == 1:
        ratings = read(path, missing=missing)
        assert triples(ratings) == [("a", "x", 4.0)] and ratings.users == ("a",)
        assert ratings.unrated == lines.count("\n") - 1
    else:
        # the row is that of the file, not of what is left
        with pytest.raises(
            InputError, match=r"line 5, .*'-1' is off the scale.* say --missing -1 \(data\.missing"
        ):
            read(path, missing=missing)
    write(path, "userId,movieId,rating\na,x,0\nc,x,3\nb,x,0\nc,x,4\n")
    with pytest.raises(InputError, match=r"line 5: user 'c' rates item 'x' again \(first: .*, line 3; 1"):
        read(path, missing=[0])
    with pytest.raises(InputError, match="contains no ratings"):
        read(path, missing=[0, 3, 4])


@pytest.mark.parametrize("decimal", [".", ","])
def test_the_printed_flags_for_missing_ratings_work(tmp_path: Path, decimal: str, capsys) -> None:
    words = ["0", "-1", "NULL", "NaN", "n/a", "<NA>", "-", "?", "-nan", "", "\\N", "1234567", f"9{decimal}25"]
    path = tmp_path / "r.csv"
    write(
        path,
        "userId,movieId,rating\n" + "".join(f'1,{at},"{word}"\n' for at, word in enumerate([*words, "5"])),
    )
    line = ["check", "--config", str(ROOT / "conf/default.yaml"), "--data", str(path), "--decimal", decimal]
    for _ in words:
        assert main(line) == 2
        said = capsys.readouterr().err
        [flags] = re.findall(r"others: (--missing.*)\)", said) or re.findall(r"say (--missing.*?) [t(]", said)
        line = [*line[:7], *shlex.split(flags)]
    assert main(line) == 0
    assert "ok: 13 rows that mean 'not rated'" in capsys.readouterr().out
    write(path, "userId,movieId,rating\n1,1,0\n1,2,-1\n1,3,4\n")
    assert main([*line[:7], "--missing", "0", "--missing", "-1"]) == 0


@pytest.mark.parametrize("form", ["parquet", "json", "sql", "floats"])
def test_nulls_of_typed_sources_are_missing_ratings(tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame(
        {
            "userId": [1, 1, 2],
            "movieId": [1, 2, 2],
            "rating": pd.array([4, None, 3], "Int64"),
            "timestamp": [1, 2, 3],
        }
    )
    more = {}
    if form in ("parquet", "floats"):
        path = tmp_path / "r.parquet"
        (
            frame if form == "parquet" else frame.astype({"rating": "Float64"}).astype({"rating": "float64"})
        ).to_parquet(path)
    elif form == "json":
        path = tmp_path / "r.jsonl"
        frame.to_json(path, orient="records", lines=True)
    else:
        path = f"sqlite:///{tmp_path}/r.db"
        with sqlite3.connect(tmp_path / "r.db") as base:
            frame.to_sql("ratings", base, index=False)
        more = {"table": "ratings"}
    with pytest.raises(InputError, match="the value is missing"):
        read(path, **more)
    ratings = read(path, missing=["0", "NULL"], **more)
    assert len(ratings) == 2 and ratings.unrated == 1
    text = write(tmp_path / "r.csv", "userId,movieId,rating\n1,1,4\n1,2,\n")
    with pytest.raises(InputError, match=r"line 3, .*say --missing '' to .* others: --missing NULL ''\)"):
        read(text, missing=["NULL"])


@pytest.mark.parametrize("kind", [None, pa.int64(), pa.float64(), pa.string(), pa.timestamp("s")])
def test_latest_needs_each_time(tmp_path: Path, kind: pa.DataType | None) -> None:
    table = pa.table(
        {
            "userId": [1, 1],
            "movieId": [2, 3],
            "rating": [1.0, 2.0],
            "timestamp": pa.array([None, 5]).cast(kind or pa.int64()),
        }
    )
    path = tmp_path / ("r.parquet" if kind else "r.csv")
    pq.write_table(table, path) if kind else table.to_pandas().to_csv(path, index=False)
    with pytest.raises(InputError, match=r"column timestamp: the time is missing\. .*--duplicates last, "):
        read(path, duplicates="latest")


def test_latest_needs_times(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2, column timestamp: 'noon' is not a time"):
        read(write(tmp_path / "r.csv", HEAD + "1,2,3,noon\n"), duplicates="latest")
    with pytest.raises(InputError, match="column 'timestamp' is missing"):
        read(write(tmp_path / "r.csv", "userId,movieId,rating\n1,2,3\n"), duplicates="latest")


def test_from_frame_says_what_is_missing() -> None:
    frame = pd.DataFrame(rows(), columns=["user", "item", "stars", "timestamp"])
    with pytest.raises(InputError, match="column 'rating' is missing; the frame has: user, item, stars"):
        reading.from_frame(frame)
