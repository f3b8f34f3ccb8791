"""Rating files in the shapes that people have: read as the same ratings, or refused with what to type."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.cli.main import main
from recommender.config import DataConfig
from recommender.data import ratings, reading, times
from recommender.errors import InputError
from tests.conftest import ROOT

ROWS = [
    (str(u), f"é{i}", 1 + (u * i) % 5 - 0.5 * (u % 2), 10**9 + 1000 * u + i)
    for u in range(1, 7)
    for i in range(1, 5)
]
HEAD = "userId,movieId,rating,timestamp\n"
BODY = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS)
CSV = HEAD + BODY
TABS = CSV.replace(",", "\t")
JSON = [dict(zip(HEAD.strip().split(","), row, strict=True)) for row in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in JSON)


def read(source: object, **keys: object) -> ratings.Ratings:
    return reading.read(DataConfig.model_validate({"source": str(source), **keys}))


def triples(ratings: ratings.Ratings) -> list[tuple[str, str, float]]:
    return sorted(ratings.frame().itertuples(index=False, name=None))


EXPECTED = sorted(row[:3] for row in ROWS)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(**members: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(JSON).to_parquet(buffer)
    return buffer.getvalue()


SHAPES: dict[str, tuple[str, str | bytes, dict]] = {
    "gzip": ("r.csv.gz", gzip.compress(CSV.encode()), {}),
    "gzip that is called CSV": ("r.csv", gzip.compress(CSV.encode()), {}),
    "gzip of two members": ("r.gz", gzip.compress(HEAD.encode()) + gzip.compress(BODY.encode()), {}),
    "bzip2": ("r.csv.bz2", bz2.compress(CSV.encode()), {}),
    "xz": ("r.csv.xz", lzma.compress(CSV.encode()), {}),
    "zstd": ("r.csv.zst", pa.compress(CSV.encode(), codec="zstd", asbytes=True), {}),
    "lz4": ("r.csv.lz4", pa.compress(CSV.encode(), codec="lz4", asbytes=True), {}),
    "zip": ("r.zip", zipped(**{"any/r.csv": CSV}), {}),
    "zip of macOS": ("r.zip", zipped(**{"r.csv": CSV, "__MACOSX/._r.csv": "x", ".DS_Store": "x"}), {}),
    "zip of gzip of tabs": ("r.zip", zipped(**{"r.tsv.gz": gzip.compress(TABS.encode())}), {}),
    "packed Parquet": ("r.parquet.gz", gzip.compress(parquet()), {}),
    "Parquet that is called CSV": ("r.csv", parquet(), {}),
    "JSON lines": ("r.jsonl", LINES, {}),
    "JSON lines, packed": ("r.ndjson.gz", gzip.compress(LINES.encode()), {}),
    "JSON lines without a name": ("ratings", "\n" + LINES.replace("\n", "\r\n\r\n"), {}),
    "JSON array": ("r.json", json.dumps(JSON, indent=1), {}),
    "tabs": ("r.tsv", TABS, {}),
    "tabs, as typed": ("r.txt", CSV.replace(",", "\t"), {"separator": "\\t"}),
    "Excel's separator": ("r.csv", "sep=;\r\n" + CSV.replace(",", ";"), {}),
    "Excel's Unicode text": ("r.txt", ("sep=\t\n" + CSV.replace(",", "\t")).encode("utf-16"), {}),
    "a decimal comma": ("r.csv", CSV.replace(",", ";").replace(".", ","), {"separator": ";", "decimal": ","}),
    "a quoted decimal comma": ("r.csv", re.sub(r"(\d)\.(\d)", r'"\1,\2"', CSV), {"decimal": ","}),
    "aligned by blanks": (
        "r.txt", "".join(f"  {a:9}{b:9}{c:9}{d}\n" for a, b, c, d in (e.split(",") for e in CSV.split())),
        {"separator": " "},
    ),
    "Hive's marks": ("r.csv", CSV.replace(",", "\x01"), {"separator": "\\x01"}),
    "blanks": ("r.csv", CSV.replace(",", " ,  ").replace("\n", " \n"), {}),
    "blanks before quotes": ("r.csv", re.sub(r",([^,\n]+)", r', "\1"', CSV), {}),
    "comments before": ("r.csv", "# made by us, on Monday\n\n% twice\n" + CSV, {}),
    "a header like a comment": ("r.csv", "#" + CSV, {}),
    "another case": ("r.csv", CSV.replace("userId", "UserID").replace("rating", "Rating"), {}),
    "UTF-16": ("r.csv", CSV.encode("utf-16"), {}),
    "UTF-16BE, marked": ("r.csv", ("\ufeff" + CSV).encode("utf-16-be"), {"encoding": "utf-16-be"}),
    "UTF-32": ("r.csv", CSV.encode("utf-32"), {}),
    "a mark": ("r.csv", CSV.encode("utf-8-sig"), {"encoding": "U8"}),
    "latin-1": ("r.csv", CSV.encode("latin-1"), {"encoding": "latin1"}),
    "cp1252": ("r.csv", CSV.encode("cp1252"), {"encoding": "windows-1252"}),
    "old Macs": ("r.csv", CSV.replace("\n", "\r"), {}),
    "no header": ("r.csv", BODY, {"header": False}),
    "no header, other order": (
        "r.csv",
        "".join(f"x;{r};{t};{i};{u}\n" for u, i, r, t in ROWS),
        {
            "header": False,
            "separator": ";",
            "columns": {"user": "5", "item": "4", "rating": "2", "timestamp": "3"},
        },
    ),
    "a long field": ("r.csv", CSV.replace("\n", ",note\n", 1).replace("\n", f",{'x' * 200_000}\n").replace(
        f"note,{'x' * 200_000}", "note", 1), {}),
    "a long name of a column": ("r.csv", CSV.replace("timestamp", f"timestamp,{'x' * 200_000}", 1), {}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "keys"), SHAPES.values(), ids=SHAPES)
def test_read_as_the_same(tmp_path: Path, name: str, content: str | bytes, keys: dict) -> None:
    ratings = read(write(tmp_path / name, content), **keys)
    assert triples(ratings) == EXPECTED
    assert ratings.period in ((float(ROWS[0][3]), float(ROWS[-1][3])), None)


def test_a_folder_in_parts(tmp_path: Path) -> None:
    half = len(ROWS) // 2
    halves = ROWS[:half], ROWS[half:]
    for number, rows in enumerate(halves):
        body = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
        write(tmp_path / f"csv/part-0000{number}-a.csv", HEAD + body)
        write(tmp_path / f"packed/part-0000{number}-a.csv.gz", gzip.compress((HEAD + body).encode()))
        write(tmp_path / f"bare/part-0000{number}", body)
        write(
            tmp_path / f"json/part-0000{number}.json", "".join(json.dumps(r) + "\n" for r in JSON[number::2])
        )
        write(tmp_path / f"shop/ratings.csv/part-0000{number}.csv", HEAD + body)
        frame = pd.DataFrame(rows, columns=HEAD.strip().split(","))
        for folder in ("parquet", "frame.parquet"):
            (tmp_path / folder).mkdir(exist_ok=True)
            name = f"part-0000{number}.snappy.parquet" if folder == "parquet" else f"{number}.parquet"
            frame.to_parquet(tmp_path / folder / name)
    pd.DataFrame(JSON).assign(year=[1999, 2000] * half).to_parquet(tmp_path / "hive", partition_cols=["year"])
    for folder in [path for path in tmp_path.iterdir() if path.name != "hive"]:
        for path in list(folder.iterdir()):
            if path.is_file():
                write(folder / f".{path.name}.crc", b"crc\0")
        if folder.name != "shop":
            write(folder / "_SUCCESS", b"")
    write(tmp_path / "csv/part-00002-a.csv", b"")
    write(tmp_path / "shop/movies.csv/part-00000.csv", "movieId,title\né1,One\n")
    for folder in tmp_path.iterdir():
        ratings = read(folder, header=folder.name != "bare")
        assert triples(ratings) == EXPECTED, folder
        assert ratings.name == folder.stem
        assert ratings.titles == ({"é1": "One"} if folder.name == "shop" else {})
    last = tmp_path / "csv/part-00001-a.csv"
    write(last, HEAD + "9,9,9,9\n")
    with pytest.raises(InputError, match=r"part-00001-a\.csv, line 2, column rating: rating '9' is off"):
        read(tmp_path / "csv")
    (tmp_path / "csv/_SUCCESS").unlink()
    (tmp_path / "csv/_temporary").mkdir()
    with pytest.raises(InputError, match="has not finished"):
        read(tmp_path / "csv")
    write(tmp_path / "packed/part-00002.parquet", parquet())
    with pytest.raises(InputError, match=r"several kinds \(csv, parquet\)"):
        read(tmp_path / "packed")
    pd.DataFrame(JSON).to_parquet(tmp_path / "by rating", partition_cols=["rating"])
    with pytest.raises(InputError, match="column 'rating' is in the names of folders"):
        read(tmp_path / "by rating")


def test_ids_in_the_index_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(JSON)
    for index in (["userId"], ["userId", "movieId"]):
        frame.set_index(index).to_parquet(tmp_path / "r.parquet")
        pd.DataFrame({"title": ["One"]}, index=pd.Index(["é1"], name="movieId")).to_parquet(
            tmp_path / "t.parquet"
        )
        ratings = read(tmp_path / "r.parquet", titles=str(tmp_path / "t.parquet"))
        assert triples(ratings) == EXPECTED
        assert ratings.titles == {"é1": "One"}


@pytest.mark.parametrize(("log", "kind"), [("_delta_log", "delta"), (".hoodie", "hudi")])
def test_a_table_with_a_log_is_refused(tmp_path: Path, log: str, kind: str) -> None:
    for place in ("t", "shop/ratings.parquet"):
        write(tmp_path / place / "part-0.parquet", parquet())
        (tmp_path / place / log).mkdir()
    titles = write(tmp_path / "r.csv", CSV), tmp_path / "t"
    for source, keys in (("t", {}), ("shop", {}), (titles[0], {"titles": str(titles[1])})):
        with pytest.raises(
            InputError, match=rf"a {kind.capitalize()} table.*spark\.read\.format\('{kind}'\)"
        ):
            read(tmp_path / source, **keys)


def test_known_names_come_before_parts(tmp_path: Path) -> None:
    write(tmp_path / "shop/ratings.csv", CSV)
    write(tmp_path / "shop/part-time.txt", "a note")
    write(tmp_path / "shop/lr=0.1/model.bin", b"\0")
    assert triples(read(tmp_path / "shop")) == EXPECTED
    # of a finished table all parts count
    write(tmp_path / "shop/_SUCCESS", b"")
    with pytest.raises(InputError, match=r"part-time\.txt, line 1"):
        read(tmp_path / "shop")


@pytest.mark.parametrize("content", [CSV.encode(), gzip.compress(CSV.encode()), parquet(), LINES.encode()])
def test_a_pipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    feeding = threading.Thread(target=path.write_bytes, args=[content])
    feeding.start()
    assert triples(read(path)) == EXPECTED
    feeding.join()


def test_standard_input(tmp_path: Path) -> None:
    assert DataConfig(source="-").source == "/dev/stdin"
    line = [sys.executable, "-m", "recommender", "check", "--data", "-"]
    known = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RECOMMENDER_CACHE": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=known, input=CSV, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ratings                  {len(ROWS)}\n" in done.stdout


def test_home_by_its_tilde(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "r.csv", CSV)
    write(tmp_path / "t.csv", "movieId,title\né1,One\n")
    assert read("~/r.csv", titles="~/t.csv").titles == {"é1": "One"}
    conf = write(tmp_path / "conf/mine.yaml", "data: {source: ~/r.csv, titles: ~/t.csv}\n")
    from recommender import config

    assert reading.read(config.load(conf).data).titles == {"é1": "One"}


# Names of columns and titles of one's own


@pytest.mark.parametrize("place", ["", "ratings.csv"])
def test_own_names_in_ratings_and_titles(tmp_path: Path, place: str) -> None:
    write(tmp_path / "ratings.csv", CSV.replace("userId", "user_id").replace("movieId", "movie_id"))
    write(tmp_path / "movies.csv", "movie_id,name,year\né1,One,1999\n")
    columns = {"user": "user_id", "item": "movie_id"}
    with pytest.raises(
        InputError, match=r"name it with --user-column user_id --item-column movie_id \(data\."
    ):
        read(tmp_path / place)
    with pytest.raises(
        InputError, match=r"movies\.csv, line 1: .* name it with --title-column name \(data\."
    ):
        read(tmp_path / place, columns=columns)
    assert read(tmp_path / place, columns={**columns, "title": "name"}).titles == {"é1": "One"}


def test_titles_of_another_shape(tmp_path: Path) -> None:
    source = write(tmp_path / "r.csv", CSV)
    titles = write(tmp_path / "metadata.csv", "adult;id;title\nFalse;é1;Café\n".encode("latin-1"))
    with pytest.raises(InputError, match="Name it with --titles-separator ';'"):
        read(source, titles=str(titles))
    with pytest.raises(InputError, match="name it with --title-item-column id"):
        read(source, titles=str(titles), titles_separator=";")
    blanks = write(tmp_path / "t.txt", "movieId title\né1 One\n")
    with pytest.raises(InputError, match="Name it with --titles-separator ' '"):
        read(source, titles=str(blanks))
    assert read(source, titles=str(blanks), titles_separator=" ").titles == {"é1": "One"}
    keys = {"titles": str(titles), "columns": {"title_item": "id"}, "titles_separator": ";"}
    assert read(source, **keys).titles == {"é1": "Caf\xe9"}
    titles.write_bytes("adult;id;title\nFalse;é1;Café\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="Say --titles-encoding utf-16-le"):
        read(source, **keys)
    assert read(source, **keys, titles_encoding="utf-16-le").titles == {"é1": "Café"}
    assert read(
        write(tmp_path / "r.csv", CSV.replace(",", ";")), separator=";", **keys, titles_encoding="utf-16-le"
    )


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.csv.gz", "t.tsv", "t.parquet/"])
def test_titles_in_any_file(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"movieId": ["é1", "é2"], "title": ["One", None]})
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
        frame.to_parquet(path / "part-0.parquet")
    elif "parquet" in name:
        frame.to_parquet(path)
    elif "jsonl" in name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame[:1].to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    assert read(write(tmp_path / "r.csv", CSV), titles=str(path)).titles == {"é1": "One"}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ('movieId,title\n1,"Open\n' + "2,Two\n" * 60, "line 2, up to line 62"),
        ('movieId,title\n1,"Open\n' + "2,Two\n" * 60 + '3,"Three"\n', "line 2, up to line 63"),
        ('sep=,\n\nmovieId,title\n1,One\n2,"Two', "line 5, up to line 5"),
        ('movieId,title,"genres\n1,One,Drama\n', "line 1, up to line 2"),
        (
            'movieId,title,genres\n1,One,"Drama\n' + "2,Two,Drama\n" * 20_000 + '"\n',
            "line 2, up to line 20003",
        ),
    ],
)
def test_a_quote_in_titles_that_is_not_closed(tmp_path: Path, content: str, lines: str) -> None:
    write(tmp_path / "ratings.csv", CSV)
    write(tmp_path / "movies.csv", content)
    with pytest.raises(InputError, match=rf"movies\.csv, {lines}: .*Is a quote before it never closed"):
        read(tmp_path)


def test_quotes_in_titles_that_are_sound(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", CSV)
    about = "a line\n" * 50
    rows = f'é1,"One\n"\né2,"Two"and half,\né3,Three "x,"{about}"\né4,"Four","{"x" * 200_000}"'
    write(tmp_path / "movies.csv", f"movieId,title,about\n{rows}")
    titles = {"é1": "One", "é2": "Twoand half", "é3": 'Three "x', "é4": "Four"}
    assert read(tmp_path).titles == titles


@pytest.mark.parametrize(
    ("encoding", "written", "expected"),
    [
        ("cp1251", "cp1251", "Привет"),
        ("cp1251", "utf-8", "Привет"),
        ("shift_jis", "shift_jis", "Привет"),
        ("utf-8", "latin-1", "Café"),
        # cp1252 has no such byte
        ("cp1252", "latin-1", "Caf\x81é"),
    ],
)
def test_titles_without_an_encoding_of_their_own(
    tmp_path: Path, encoding: str, written: str, expected: str
) -> None:
    write(tmp_path / "ratings.csv", "userId,movieId,rating\n1,1,3\n")
    write(tmp_path / "movies.csv", f"movieId,title\n1,{expected}\n".encode(written))
    assert read(tmp_path, encoding=encoding).titles == {"1": expected}


@pytest.mark.parametrize(
    "front", ["# films\n", "// of ours, all\n\n% and\nsep=,\n", "sep=,\n# films\n", "#", "# "]
)
def test_comments_before_the_header_of_titles(tmp_path: Path, front: str) -> None:
    write(tmp_path / "ratings.csv", CSV)
    movies = write(tmp_path / "movies.csv", f"{front}movieId,title\né1,One\n#2,Two\n")
    assert read(tmp_path).titles == {"é1": "One"}
    if front == "# films\n":
        write(movies, f"{front}movieId,name\n")
        with pytest.raises(InputError, match=r"movies\.csv, line 2: .*--title-column name"):
            read(tmp_path)


def test_movielens_titles_beside_ratings_with_other_names(tmp_path: Path) -> None:
    write(tmp_path / "movies.csv", "movieId,title\né1,One\n")
    source = write(tmp_path / "votes.csv", "who;what;rating\n1;é1;3\n")
    assert read(source, separator=";", columns={"user": "who", "item": "what"}).titles == {"é1": "One"}


# Refused, with what to type


def tables(path: Path) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (a)")
    connection.close()
    return path.read_bytes()


COMMA = "userId;movieId;rating\n1;2;3,5\n"
MATRIX = ",m1,m2,m3\nu1,1,,3\nu2,,4,5\n"
REFUSED: dict[str, tuple[str, str | bytes, dict, str]] = {
    "cut off": ("r.csv.gz", gzip.compress(CSV.encode())[:99], {}, "damaged or cut off"),
    "cut off zstd": ("r.zst", pa.compress(CSV.encode(), codec="zstd", asbytes=True)[:-9], {}, "damaged"),
    "an empty one": ("r.csv.gz", gzip.compress(b""), {}, "the file is empty"),
    "two in one": (
        "m.zip",
        zipped(**{"ml/ratings.csv": CSV, "ml/movies.csv": "x"}),
        {},
        "2 files in one archive .* -m zipfile -e {path} {folder}/m, then say --data {folder}/m/ml",
    ),
    "none in one": ("m.zip", zipped(**{"__MACOSX/x": "x"}), {}, "0 files in one archive"),
    "a workbook": ("r.xlsx", zipped(**{"xl/workbook.xml": "x", "a": "x"}), {}, "an Excel workbook. Save"),
    "a web page": ("r.csv", "\n<!DOCTYPE html><html>Sign in", {}, "a web page. Download the file itself"),
    "Git LFS": ("r.csv", "version https://git-lfs.github.com/spec/v1\n", {}, "git lfs pull"),
    "Feather": ("r.feather", b"ARROW1\0\0", {}, r"pandas\.read_feather.*to_parquet"),
    "a pickle": ("r.pkl", pickle.dumps(pd.DataFrame({"userId": [1]}), 5), {}, "a pickle, which can run code"),
    "an older pickle": ("r.pkl", pickle.dumps([1], 2), {}, "a pickle, which can run code"),
    "SPSS": ("r.sav", b"$FL2@(#) SPSS DATA FILE\0\0\2", {}, "an SPSS file"),
    "Stata": ("r.dta", b"<stata_dta><header>\0", {}, r"pandas\.read_stata"),
    "an older Stata": ("r.dta", b"s\2\1\0\5\0\3\0\0\0userId", {}, "a binary file. Write it as"),
    "bytes": ("r.bin", b"\1\0\xff\xfe\x81userId", {}, "a binary file. Write it as"),
    "Matrix Market": ("r.mtx", "%%MatrixMarket matrix\n1 1 1\n", {}, r"scipy\.io\.mmread"),
    "no header": ("r.csv", BODY, {}, r"not names\. If there is no header, say --no-header \(data\.header"),
    "no header, named": (
        "r.csv",
        "A1,B1,3.0\nA2,B2,4.0\n",
        {"columns": {"user": "A1", "item": "B1", "rating": "3.0"}},
        "this looks like data, not names.*--no-header",
    ),
    "no header, other separator": ("r.csv", "1;2;3\n", {}, "--separator ';'.*--no-header"),
    "no header, not numbered": (
        "r.csv", BODY, {"header": False, "columns": {"user": "who"}}, "Say --user-column 1, for instance"
    ),
    "no header, one twice": (
        "r.csv", BODY, {"header": False, "columns": {"user": "2"}}, "column 2 is user and item. Name both"
    ),
    "a header after all": ("r.csv", CSV, {"header": False}, "like names, not data. Leave --no-header out"),
    "no header, too few": ("r.csv", "1;2;3\n", {"header": False}, "Name the separator: --separator ';'"),
    "tabs": ("r.csv", CSV.replace(",", "\t"), {}, r"--separator '\\t'"),
    "semicolons": ("r.csv", CSV.replace(",", ";"), {}, r"--separator ';' \(data\.separator"),
    "carets": ("r.csv", CSV.replace(",", "^"), {}, r"--separator '\^' \(data\.separator"),
    "Hive's marks": ("r.csv", CSV.replace(",", "\x01"), {}, r"--separator '\\x01' \(data\.separator"),
    "blanks between": ("r.csv", CSV.replace(",", " "), {}, r"--separator ' ' \(data\.separator"),
    "blanks and no header": ("r.csv", BODY.replace(",", "  "), {}, r"--separator ' ' .*--no-header"),
    "blanks in names": ("r.csv", CSV.replace("userId", "the id of users"), {}, "--user-column"),
    "two colons": ("r.txt", "1::2::3::4\n", {}, "--format 1m"),
    "a decimal comma": ("r.csv", COMMA, {"separator": ";"}, r"--decimal , \(data\."),
    "a point instead": (
        "r.csv", COMMA.replace("3,", "1.003,"), {"separator": ";", "decimal": ","}, "with a comma"
    ),
    "UTF-16 without a mark": ("r.csv", CSV.encode("utf-16-be"), {}, "Say --encoding utf-16-be"),
    "no encoding of text": ("r.csv", CSV, {"encoding": "base64"}, "not an encoding that Python knows"),
    "not JSON": ("r.jsonl", LINES + '{"userId":\n', {}, f"line {len(ROWS) + 1}: not JSON"),
    "no objects": ("r.jsonl", "[1, 2, 3]\n", {"format": "jsonl"}, "record 1: not an object"),
    "JSON, nested": (
        "r.jsonl", '{"userId": {"id": 1}, "movieId": 2, "rating": 3}\n', {}, "'userId' holds .*single values"
    ),
    "JSON, other names": ("r.jsonl", LINES.replace("userId", "uid"), {}, "has: uid, movieId.*--user-column"),
    "JSON, wrong": ("r.jsonl", LINES.replace("4.5", "45", 1), {}, r"line \d+, column rating: rating 45 is"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "keys", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, name: str, content: str | bytes, keys: dict, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message.format(path=path, folder=tmp_path)) as caught:
        read(path, **keys)
    assert str(path) in str(caught.value) or "encoding" in keys


@pytest.mark.parametrize("word", ["NULL", "", "-"])
def test_no_header_and_a_first_row_that_is_not_rated(tmp_path: Path, word: str) -> None:
    path = write(tmp_path / "r.csv", f"0,0,{word},0\n" + BODY)
    ratings = read(path, header=False, missing=[word])
    assert (triples(ratings), ratings.unrated) == (EXPECTED, 1)
    with pytest.raises(InputError, match=r"like names, not data|line 1, column .*the value is missing"):
        read(path, header=False)


def test_a_database_and_a_tar_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x", tables(tmp_path / "y"))
    with pytest.raises(InputError, match=f"Say --data sqlite:///{path} --table NAME"):
        read(path)
    subprocess.run(["tar", "-czf", tmp_path / "t.tar.gz", "x"], cwd=tmp_path, check=True)
    with pytest.raises(InputError, match=f"a tar archive. Unpack it: tar -xf {tmp_path}/t.tar.gz"):
        read(tmp_path / "t.tar.gz")


def test_what_is_printed_for_archives(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m l.zip", zipped(**{"ml/ratings.csv": CSV, "ml/movies.csv": "movieId,title\né1,One\n"})
    )
    with pytest.raises(InputError, match="2 files in one archive") as caught:
        read(path)
    typed(str(caught.value), ("Unpack it: ", ", then say"), tmp_path)
    assert read(tmp_path / "m l" / "ml").titles == {"é1": "One"}
    path = write(tmp_path / "r.csv", gzip.compress((CSV + "# the end\n").encode()))
    with pytest.raises(InputError, match="is packed") as caught:
        read(path)
    typed(str(caught.value), ("Unpack it: ", ", then say"), tmp_path)
    with pytest.raises(InputError, match="a comment among the ratings"):
        read(tmp_path / "ratings-unpacked.csv")


def test_a_separator_of_two_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="for '::' say format 1m"):
        DataConfig(source="x", separator="::")


def typed(message: str, marks: tuple[str, str], folder: Path) -> None:
    """Type the command of a message as it is printed."""
    command = message.split(marks[0], 1)[1].split(marks[1], 1)[0]
    subprocess.run(command, shell=True, cwd=folder, check=True)


def test_what_is_printed_for_netflix(tmp_path: Path, monkeypatch, capsys) -> None:
    for number in (1, 2):
        write(
            tmp_path / f"n p/combined_data_{number}.txt", f"{number}:\r\n7,3,2005-09-06\r\n8,5,2005-05-13\r\n"
        )
    for source, expected in (("n p", 4), ("n p/combined_data_2.txt", 2)):
        with pytest.raises(InputError, match="blocks of the Netflix Prize") as caught:
            read(tmp_path / source)
        typed(str(caught.value), ("each line: ", ", then say"), tmp_path)
        flags = str(caught.value).split("then say ")[1].removesuffix(".").split()
        monkeypatch.chdir(tmp_path)
        assert main(["check", "--config", str(ROOT / "conf/default.yaml"), *flags]) == 0
        assert f" {expected}\n" in capsys.readouterr().out
    assert ("7", "2", 3.0) in triples(
        read(tmp_path / "ratings.csv", header=False, columns={"item": "1", "user": "2"})
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (MATRIX, [("u1", "m1", 1.0), ("u1", "m3", 3.0), ("u2", "m2", 4.0), ("u2", "m3", 5.0)]),
        ("userId;" + ";".join(map(str, range(12))) + "\n7;" + "3;" * 11 + "2\n", None),
        ("\n".join(",".join("3" for _ in range(12)) for _ in range(3)) + "\n", None),
    ],
)  # fmt: skip
def test_what_is_printed_for_a_matrix(tmp_path: Path, content: str, expected: list | None) -> None:
    path = write(tmp_path / "wide one.csv", content)
    separator = ";" if ";" in content else ","
    with pytest.raises(InputError, match="a wide matrix of") as caught:
        read(path, separator=separator)
    typed(str(caught.value), ("Turn it: ", ", then say"), tmp_path)
    turned = triples(read(tmp_path / "ratings-long.csv"))
    assert turned == expected if expected else len(turned) in (12, 36)


FILMS = [(f"u{u}", *(1 + (u + i) % 5 if (u + i) % 3 else None for i in range(4))) for u in range(1, 8)]
LONG = sorted(
    (row[0], f"m{i}", float(rating))
    for row in FILMS
    for i, rating in enumerate(row[1:])
    if rating is not None
)


@pytest.mark.parametrize(
    "gaps", [["NaN", "NA", "NULL", "Null", "?", "-", "\\N", ""], [" NA", " none", "NA "]]
)
def test_what_is_printed_for_a_matrix_with_gaps(tmp_path: Path, gaps: list[str]) -> None:
    words = itertools.cycle(gaps)
    rows = [",".join(next(words) if value is None else str(value) for value in row) for row in FILMS]
    path = write(tmp_path / "w.csv", "\n".join(["user,m0,m1,m2,m3", *rows]) + "\n")
    with pytest.raises(InputError, match="a wide matrix of 5 columns, one an item") as caught:
        read(path)
    typed(str(caught.value), ("Turn it: ", ", then say"), tmp_path)
    assert triples(read(tmp_path / "ratings-long.csv")) == LONG


def test_what_is_printed_for_a_matrix_from_a_spreadsheet(tmp_path: Path) -> None:
    rows = [
        ";".join("" if value is None else str(value).replace("1", "1,5") for value in row) for row in FILMS
    ]
    content = "\n".join(["sep=;", "# of ours", "user;m0;é1;m2;m3", *(f"é{row}" for row in rows)])
    path = write(tmp_path / "w.csv", f"{content}\n".encode("latin-1"))
    with pytest.raises(InputError, match="a wide matrix of 5 columns") as caught:
        read(path, encoding="latin-1")
    typed(str(caught.value), ("Turn it: ", ", then say"), tmp_path)
    turned = triples(read(tmp_path / "ratings-long.csv"))
    assert len(turned) == len(LONG)
    assert {rating for _, _, rating in turned} == {1.5, 2.0, 3.0, 4.0, 5.0}
    assert {item for _, item, _ in turned} == {"m0", "é1", "m2", "m3"}


def test_what_is_printed_for_a_matrix_of_films(tmp_path: Path) -> None:
    for first in ("Film", "item_id", "movieId"):
        path = write(tmp_path / "w.csv", first + MATRIX)
        with pytest.raises(InputError, match="a wide matrix of 4 columns, one a user") as caught:
            read(path)
    typed(str(caught.value), ("Turn it: ", ", then say"), tmp_path)
    assert ("m3", "u1", 3.0) in triples(read(tmp_path / "ratings-long.csv"))


@pytest.mark.parametrize("shape", ["parquet", "index.parquet", "jsonl"])
def test_what_is_printed_for_a_matrix_in_other_files(tmp_path: Path, shape: str) -> None:
    frame = pd.DataFrame(FILMS, columns=["user", "m0", "m1", "m2", "m3"])
    path = tmp_path / f"w.{shape}"
    if "json" in shape:
        frame.to_json(path, orient="records", lines=shape == "jsonl")
    else:
        (frame.set_index("user") if "index" in shape else frame).to_parquet(path)
    with pytest.raises(InputError, match="a wide matrix of 5 columns, one an item") as caught:
        read(path)
    typed(str(caught.value), ("Turn it: ", ", then say"), tmp_path)
    assert triples(read(tmp_path / "ratings-long.csv")) == LONG


@pytest.mark.parametrize(
    ("content", "wide"),
    [
        ("user,Alien,Heat,Up,Saw\nann,5,1,3,2\nbob,3,4,1,2\n", True),
        ("user,Alien,Heat,Up,Saw\nann,5,0,3,0\nbob,0,4,0,2\n", True),
        ("uid,mid,stars,at,age\nann,5,1,3,2\nbob,3,4,1,2\n", False),
        ("uid,mid,points,at,age\nann,5,1,3,2\nann,3,4,1,2\n", False),
        ("uid,mid,points,at,age\nann,5,1,3,32\nbob,3,4,1,2\n", False),
        ("uid,mid,points\nann,5,\nbob,3,4\n", False),
        ("uid,m0,m1\nann,,5\nbob,3,\n", True),
        ('[{"uid": 1, "a": 3, "b": null, "c": 4}]', True),
    ],
)
def test_a_matrix_without_gaps(tmp_path: Path, content: str, wide: bool) -> None:
    message = "a wide matrix" if wide else "is missing.*-column"
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "w.csv", content))


FRAME = pd.DataFrame(JSON)
DOCUMENTS = {
    "columns": FRAME.to_json(),
    "columns on lines": FRAME.to_json(indent=1, force_ascii=False),
    "lists": json.dumps(FRAME.to_dict("list")),
    "rows by their index": FRAME.to_json(orient="index"),
    "split": FRAME.to_json(orient="split"),
    "a key": json.dumps({"it's": JSON, "count": len(JSON)}),
    "a key, on lines": json.dumps({"ratings": JSON}, indent=2),
    "a table": FRAME.to_json(orient="table"),
    "objects of several lines": "\r\n".join(json.dumps(row, indent=1).replace("\n", "\r\n") for row in JSON),
}


def test_what_is_printed_for_other_json(tmp_path: Path) -> None:
    printed = {}
    for at, content in enumerate(DOCUMENTS.values()):
        with pytest.raises(InputError, match=r"one object, |objects of") as caught:
            read(write(tmp_path / f"{at}.json", content))
        command = str(caught.value).split("Turn it: ")[1].split(", then say")[0]
        printed[command.replace(f"{at}.json", "")] = command
    assert len(printed) == 7
    # all at once: each takes a second
    started = [
        subprocess.Popen(command.replace("ratings-lines", str(at)), shell=True, cwd=tmp_path)
        for at, command in enumerate(printed.values())
    ]
    assert [each.wait() for each in started] == [0] * len(started)
    for at in range(len(started)):
        assert triples(read(tmp_path / f"{at}.jsonl")) == EXPECTED, list(printed)[at]


def test_names_that_the_first_json_record_does_not_have(tmp_path: Path) -> None:
    rows = '{"userId":1,"movieId":1}\n{"userId":1,"movieId":2,"rating":3,"timestamp":5}\n'
    rows += '{"userId":1,"movieId":2,"rating":4,"timestamp":2}\n'
    path = write(tmp_path / "r.jsonl", rows)
    assert triples(read(path, duplicates="latest", missing=["", "0"])) == [("1", "2", 3.0)]
    with pytest.raises(InputError, match="line 1, column rating: the value is missing"):
        read(path)
    path = write(tmp_path / "cut.jsonl", LINES + '{\n"userId": 1,\n')
    with pytest.raises(InputError, match=f"line {len(ROWS) + 1}: not JSON"):
        read(path)


def test_what_is_printed_for_comments(tmp_path: Path) -> None:
    for line in ("# the end\n", "# a, b, c, d, e\n"):
        path = write(tmp_path / "a b.csv", CSV + line)
        with pytest.raises(InputError, match=f"line {len(ROWS) + 2}: a comment among the ratings") as caught:
            read(path)
        typed(str(caught.value), ("Take them out: ", ", then say"), tmp_path)
        assert triples(read(tmp_path / "ratings-clean.csv")) == EXPECTED
    # an id is not a comment
    assert ("#1", "2", 3.0) in triples(read(write(tmp_path / "r.csv", HEAD + "#1,2,3,4\n")))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "sep=,\n\n" + CSV + ",,,\n")
    with pytest.raises(InputError, match=f"line {len(ROWS) + 4}, column userId: the value is missing"):
        read(path)
    long = "x" * 200_000
    path.write_text(HEAD.replace("\n", ",note\n") + f"1,2,3,0,{long}\n1,3,9,0,y\n")
    with pytest.raises(InputError, match="line 3, column rating: rating '9' is off"):
        read(path)
    assert csv.field_size_limit() > 200_000


# Any frame in any of these shapes

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6).filter(
    lambda raw: raw.casefold() not in times.MISSING and reading.whole(raw) == raw and raw[0] not in "#%/"
)
TABLES = st.dictionaries(
    st.tuples(WORDS, WORDS),
    st.tuples(st.integers(1, 10), st.integers(10**9, 2 * 10**9)),
    min_size=1,
    max_size=12,
)
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
    ".lz4": lambda raw: pa.compress(raw, codec="lz4", asbytes=True),
    ".zip": lambda raw: zipped(**{"a/ratings-of-ours": raw}),
}
TIMES: dict[str, Callable[[pd.Series], pd.Series]] = {
    "none": lambda at: at,
    "seconds": lambda at: at,
    "milliseconds": lambda at: at * 1000,
    "iso": lambda at: pd.to_datetime(at, unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "zones": lambda at: (
        pd.to_datetime(at, unit="s", utc=True)
        .dt.tz_convert("Asia/Kolkata")
        .map(lambda moment: moment.isoformat())
    ),
    "%d/%m/%Y %H:%M:%S": lambda at: pd.to_datetime(at, unit="s", utc=True).dt.strftime("%d/%m/%Y %H:%M:%S"),
    "%m-%d-%Y %H:%M:%S": lambda at: pd.to_datetime(at, unit="s", utc=True).dt.strftime("%m-%d-%Y %H:%M:%S"),
}
KINDS = ["csv", "jsonl", "json", "parquet", "csv parts", "parquet parts"]


@settings(max_examples=120, deadline=None)
@given(
    table=TABLES,
    kind=st.sampled_from(KINDS),
    packing=st.sampled_from(sorted(PACKINGS)),
    clock=st.sampled_from(sorted(TIMES)),
    separator=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    front=st.sampled_from(["", "sep=", "# a comment\n", "\n"]),
    header=st.sampled_from(
        ["userId,movieId,rating,timestamp", " USERID , movieid,Rating , TimeStamp", "a,b,c,d", ""]
    ),
    order=st.permutations(range(4)),
)
def test_a_random_frame_in_a_random_shape(
    tmp_path_factory, table, kind, packing, clock, separator, decimal, quoting, encoding, end, front, header,
    order
) -> None:  # fmt: skip
    if kind.startswith(("json", "parquet")):
        decimal, encoding, header = ".", "utf-8", header or "a,b,c,d"
    names = header.split(",") if header else list("1234")
    frame = pd.DataFrame([(u, i, r / 2, t) for (u, i), (r, t) in table.items()], columns=names)
    ends = float(frame[names[3]].min()), float(frame[names[3]].max())
    keys: dict = {"encoding": encoding}
    if clock.startswith("%"):
        keys["time_format"] = clock
    frame[names[3]] = TIMES[clock](frame[names[3]])
    frame = frame[[names[at] for at in order if at != 3 or clock != "none"]]
    columns = dict(zip(("user", "item", "rating", "timestamp"), names, strict=True))
    if not header:
        # a column that is not there is none of them
        columns = {
            each: str(frame.columns.get_loc(name) + 1) for each, name in columns.items() if name in frame
        }
        if clock == "none":
            columns["timestamp"] = "timestamp"
    if header == "a,b,c,d" or not header:
        keys["columns"] = columns
    folder = tmp_path_factory.mktemp("shape")
    pieces = [frame.iloc[: len(frame) // 2], frame.iloc[len(frame) // 2 :]] if "parts" in kind else [frame]
    for number, piece in enumerate(pieces):
        if kind.startswith("parquet"):
            buffer = io.BytesIO()
            piece.to_parquet(buffer)
            raw = buffer.getvalue()
        elif kind.startswith("json"):
            raw = piece.to_json(orient="records", lines=kind == "jsonl", force_ascii=number == 0).encode()
        else:
            keys |= {
                "separator": None if front == "sep=" else separator,
                "decimal": decimal,
                "header": bool(header),
            }
            text = piece.to_csv(
                index=False,
                sep=separator,
                decimal=decimal,
                quoting=quoting,
                header=bool(header),
                lineterminator=end,
            )
            raw = ((f"sep={separator}\n" if front == "sep=" else front) + text).encode(encoding)
        name = f"part-0000{number}" if "parts" in kind else "ratings-of-ours"
        write(folder / f"{name}{packing if kind != 'csv' else ''}", PACKINGS[packing](raw))
    if "parts" in kind:
        write(folder / "_SUCCESS", b"")
        write(folder / ".part-00000.crc", b"crc")
    source = folder if "parts" in kind else next(folder.iterdir())
    if kind in ("parquet", "csv") or "parts" in kind:
        keys["format"] = "auto"
    ratings = read(source, **keys)
    assert triples(ratings) == sorted((u, i, r / 2) for (u, i), (r, _) in table.items())
    assert ratings.period == (None if clock == "none" else ends)
