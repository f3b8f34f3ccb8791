"""The cache of checked ratings: its content, when it is stale, and damage that must not harm a run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recommender import files
from recommender.config import DataConfig
from recommender.data import reading
from recommender.data.ratings import Ratings
from recommender.errors import InputError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("RECOMMENDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_bytes((folder / "ratings.csv").read_bytes())
    return path


def read(path: Path, **keys: object) -> Ratings:
    return reading.read(DataConfig.model_validate({"source": str(path), **keys}))


def forbid(monkeypatch) -> None:
    monkeypatch.setattr(reading, "_checked", lambda *arguments: pytest.fail("the file was parsed again"))


def same(one: Ratings, other: Ratings) -> bool:
    arrays = all(np.array_equal(getattr(one, key), getattr(other, key)) for key in ("user", "item", "rating"))
    types = [getattr(one, key).dtype == getattr(other, key).dtype for key in ("user", "item", "rating")]
    words = [
        getattr(one, key) == getattr(other, key)
        for key in ("users", "items", "scale", "titles", "name", "period", "replaced")
    ]
    return arrays and all(types) and all(words) and one.digest() == other.digest()


def test_the_second_reading_is_the_first(source: Path, place: Path, folder: Path, monkeypatch) -> None:
    (source.parent / "movies.csv").write_text((folder / "movies.csv").read_text())
    first = read(source)
    [kept] = place.iterdir()
    assert kept.stat().st_size < source.stat().st_size
    forbid(monkeypatch)
    again = read(source)
    assert same(first, again) and again.titles
    # Titles are no part of it, and neither is the file's place or age.
    (source.parent / "movies.csv").unlink()
    assert read(source).titles == {}
    moved = source.rename(source.with_name("votes.csv"))
    os.utime(moved, (0, 0))
    assert read(moved).name == "votes" and read(moved).digest() == first.digest()


def test_a_changed_source_is_read_again(source: Path, place: Path) -> None:
    first, was = read(source), source.stat()
    text = source.read_text()
    source.write_text(text.replace(",0.5,", ",1.0,", 1))
    os.utime(source, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert source.stat().st_size == was.st_size
    assert read(source).digest() != first.digest()
    source.write_text(text)
    assert read(source, scale=(0, 5)).scale == (0, 5)
    source.write_text(text + "1,7,9,1\n")
    with pytest.raises(InputError, match="off the scale"):
        read(source)
    assert len(list(place.iterdir())) == 3


def test_no_more_files_than_are_used(source: Path, place: Path) -> None:
    for high in range(5, 5 + reading.cache.KEPT + 3):
        read(source, scale=(0, high))
    assert len(list(place.iterdir())) == reading.cache.KEPT


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "another's"])
def test_damage_is_noticed(source: Path, place: Path, damage: str, caplog) -> None:
    first = read(source)
    [kept] = place.iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "emptied":
        content.clear()
    else:
        with np.load(kept) as stored:
            arrays = {key: stored[key] for key in stored.files}
        arrays["level"] = arrays["level"][::-1]
        np.savez(kept, **arrays)
        content = bytearray(kept.read_bytes())
    kept.write_bytes(content)
    assert same(read(source), first)
    assert "damaged, read again" in caplog.text
    caplog.clear()
    assert same(read(source), first)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_is_a_warning(
    source: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("RECOMMENDER_CACHE", str(tmp_path / "a file"))
    assert len(read(source)) > 400
    assert "nothing is cached" in caplog.text and "RECOMMENDER_CACHE" in caplog.text


def test_a_full_disk_leaves_nothing_half_written(source: Path, place: Path, monkeypatch, caplog) -> None:
    def full(file, **arrays) -> None:
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(read(source)) > 400
    assert list(place.iterdir()) == []
    assert "No space left on device" in caplog.text


READ = """
import sys
from recommender.config import DataConfig
from recommender.data import reading
print(reading.read(DataConfig(source=sys.argv[1])).digest())
"""


def test_runs_at_once_share_it(source: Path, place: Path) -> None:
    line = [sys.executable, "-c", READ, str(source)]
    clean = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    runs = [subprocess.Popen(line, env=clean, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    digests = {run.communicate()[0].strip() for run in runs}
    assert digests == {read(source).digest()}
    assert len(list(place.iterdir())) == 1


def test_a_device_and_a_link_stay_what_they_are(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    target.write_text("before")
    link.symlink_to(target)
    with (tmp_path / "pipe").open("rb+", buffering=0) as reader:
        files.write_whole(pipe, "x")
        assert reader.read(1) == b"x"
    files.write_whole(link, "after")
    assert pipe.is_fifo() and link.is_symlink() and target.read_text() == "after"
