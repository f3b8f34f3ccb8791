"""What pack.py says of a training job: equal files give equal digests, and git's word for the commit."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tarfile

import pytest
import yaml

PACK = pathlib.Path(__file__).parents[1] / "files/pack.py"


@pytest.fixture
def job(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "repository" / "ml"
    (folder / "src").mkdir(parents=True)
    (folder / "Makefile").write_text("train:\n")
    (folder / "src/train.py").write_text("print('trained')\n")
    return folder


def git(folder: pathlib.Path, *arguments: str) -> str:
    who = ["-c", "user.name=ana", "-c", "user.email=ana@example.org"]
    command = ["git", "-C", folder, *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pack(source: pathlib.Path, folder: pathlib.Path | None = None) -> list[str]:
    command = [sys.executable, PACK, source, folder or source.parents[1]]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [found.pop(name) for name in ("digest", "inputs", "commit", "archive")] + list(found)


def test_without_git_there_is_no_commit(job: pathlib.Path) -> None:
    digest, inputs, commit, archive = pack(job)
    assert commit == "-"
    assert archive.endswith(f"recommender-{digest}.tar") and pathlib.Path(archive).exists()
    assert pack(job)[:2] == [digest, inputs]


def test_a_blank_in_the_path_is_part_of_it(job: pathlib.Path) -> None:
    folder = job.parents[1] / "Ana's own jobs"
    digest, _, _, archive = pack(job, folder)
    assert archive == str(folder / f"recommender-{digest}.tar") and pathlib.Path(archive).is_file()


def test_archives_of_earlier_days_are_removed(job: pathlib.Path) -> None:
    folder = job.parents[1]
    earlier, younger, other = (folder / name for name in ("recommender-1.tar", "recommender-2.tar", "notes.tar"))
    for path in (earlier, younger, other):
        path.touch()
    for path in (earlier, other):
        os.utime(path, (0, 0))
    archive = pathlib.Path(pack(job)[3])
    assert sorted(folder.glob("*.tar")) == sorted([other, younger, archive])


def test_the_commit_is_the_last_one_that_touched_the_job(job: pathlib.Path) -> None:
    git(job.parent, "init", "-q")
    assert pack(job)[2] == "-"
    git(job.parent, "add", "-A")
    git(job.parent, "commit", "-qm", "Begin")
    first = git(job, "rev-parse", "HEAD")
    (job.parent / "README.md").write_text("not of the job\n")
    git(job.parent, "add", "-A")
    git(job.parent, "commit", "-qm", "Describe it")
    assert pack(job)[2] == first
    (job / "src/train.py").write_text("print('changed')\n")
    assert pack(job)[2] == f"{first}+"


def test_what_a_link_leads_to_is_packed(job: pathlib.Path) -> None:
    elsewhere = job.parents[1] / "my data"
    elsewhere.mkdir()
    (elsewhere / "ratings.csv").write_text("userId,movieId,rating\n1,2,3\n")
    (job / "data").mkdir()
    (job / "data/one.csv").symlink_to(elsewhere / "ratings.csv")
    (job / "data/all").symlink_to(elsewhere)
    (job / "data/again.csv").symlink_to("one.csv")
    before = pack(job)[1]
    with tarfile.open(pack(job)[3]) as archive:
        for name in ("data/one.csv", "data/all/ratings.csv", "data/again.csv"):
            file = archive.extractfile(name)
            assert file is not None and file.read() == (elsewhere / "ratings.csv").read_bytes()
        assert all(entry.isfile() or entry.isdir() for entry in archive)
    # what it leads to is what a model is made from
    (elsewhere / "ratings.csv").write_text("userId,movieId,rating\n1,2,4\n")
    assert pack(job)[1] != before


def checked(source: pathlib.Path, config: str = "") -> tuple[int, str, list[str]]:
    command = [sys.executable, PACK, "--check", source, config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    there = [entry["path"] for entry in json.loads(done.stdout)] if done.returncode == 0 else []
    return done.returncode, done.stderr, there


def conf(job: pathlib.Path, source: str, more: str = "") -> str:
    (job / "conf").mkdir(exist_ok=True)
    (job / "data").mkdir(exist_ok=True)
    (job / "conf/mine.yaml").write_text(f"data:\n  source: {source}\n{more}")
    return "conf/mine.yaml"


@pytest.mark.parametrize(
    ("source", "there"),
    [("../data/r.csv", []), ("postgresql://host/shop", []), ("${DATA}/r.csv", []), ("/srv/r.csv", ["/srv/r.csv"])],
)
def test_data_that_will_be_on_the_server(job: pathlib.Path, source: str, there: list[str]) -> None:
    config = conf(job, source)
    (job / "data/r.csv").write_text("")
    assert checked(job, config) == (0, "", there)


# Where the data is, what is said, and what it says to type.
OUTSIDE = [
    ("../../r.csv", "data.source is ../../r.csv, which is not deployed", "ln -s "),
    ("../mine/r.csv", "which is not deployed", "ln -s "),
    ("~/r.csv", "which is not deployed", "ln -s "),
    ("{job}/data/r.csv", "which the server does not have. Write data.source: ../data/r.csv", ""),
    ("../data/none.csv", "data/none.csv does not exist", ""),
    ("../data/dangling.csv", "dangling.csv is a link to /nowhere/r.csv, which does not exist", "rm "),
]


@pytest.mark.parametrize(("source", "says", "mend"), OUTSIDE, ids=[each[0] for each in OUTSIDE])
def test_data_that_would_be_missing_on_the_server_is_refused(
    job: pathlib.Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str, mend: str
) -> None:
    monkeypatch.setenv("HOME", str(job.parents[1]))
    config = conf(job, source.format(job=job))
    (job / "mine").mkdir()
    for place in (job.parent, job / "mine", job / "data", job.parents[1]):
        (place / "r.csv").write_text("userId,movieId,rating\n")
    if "dangling" in source:
        (job / "data/dangling.csv").symlink_to("/nowhere/r.csv")
    if mend == "ln -s ":
        (job / "data/r.csv").unlink()
    code, said, _ = checked(job, config)
    assert code == 1 and says in said
    if mend:
        typed = re.search(rf"{mend}[^,\n]+", said)
        assert typed
        subprocess.run(shlex.split(typed[0]), check=True)
    if mend == "ln -s ":
        written = re.search(r"write data\.source: (\S+)", said)
        assert written
        assert checked(job, conf(job, written[1])) == (0, "", [])
        with tarfile.open(pack(job)[3]) as archive:
            assert archive.getmember("data/r.csv").isfile()


@pytest.mark.parametrize("config", ["conf/none.yaml", "../own.yaml", "own.yaml"])
def test_a_parameter_file_that_is_not_deployed_is_refused(job: pathlib.Path, config: str) -> None:
    conf(job, "../data/r.csv")
    (job / "data/r.csv").write_text("")
    for place in (job.parent, job):
        (place / "own.yaml").write_text("data: {source: ../data/r.csv}\n")
    code, said, _ = checked(job, config)
    assert code == 1
    if "own" not in config:
        assert "There are: conf/mine.yaml" in said
        return
    typed = re.search(r"cp \S+ \S+/(?=,)", said)
    assert typed
    subprocess.run(shlex.split(typed[0]), check=True)
    found = re.search(r"recommender_config: (conf/\S+)$", said.strip())
    assert found and checked(job, found[1]) == (0, "", [])


@pytest.mark.parametrize("what", ["dangling", "loop", "fifo"])
def test_what_cannot_be_packed_is_refused(job: pathlib.Path, what: str) -> None:
    path = job / "src/odd"
    if what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/nowhere" if what == "dangling" else "..")
    code, said, _ = checked(job)
    assert code == 1 and str(path) in said
    typed = re.search(r"rm \S+$", said.strip())
    assert typed
    subprocess.run(shlex.split(typed[0]), check=True)
    assert checked(job) == (0, "", [])


def linked(said: str, where: pathlib.Path) -> str:
    """Types what is said to link data, in another folder; returns what data.source is to be."""
    typed, _, written = said.partition("the run packs it: ")[2].partition(", then write data.source: ")
    for command in typed.split(", its titles too: "):
        subprocess.run(command, shell=True, check=True, cwd=where)
    return str(yaml.safe_load(written))


@pytest.mark.parametrize("name", ["a #1.csv", "u.data"])
@pytest.mark.parametrize("titles", [False, True])
@pytest.mark.parametrize("taken", ["", "ratings", "titles"])
def test_linked_data_takes_nobodys_place(job: pathlib.Path, name: str, titles: bool, taken: str) -> None:
    elsewhere = job.parents[1] / "my data"
    elsewhere.mkdir()
    (elsewhere / name).write_text("userId,movieId,rating\n1,2,3\n")
    beside = "u.item" if name == "u.data" else "movies.csv"
    if titles:
        (elsewhere / beside).write_text("own titles\n")
    before = json.dumps(f"../../../my data/{name}")
    config = conf(job, before)
    place = job / "data" / (name if taken == "ratings" else beside)
    if taken:
        place.write_text("of others\n")
    else:
        (job / "data").rmdir()
    code, said, _ = checked(job, config)
    assert code == 1 and "which is not deployed" in said
    source = linked(said, job.parents[1])
    assert checked(job, conf(job, json.dumps(source))) == (0, "", [])
    found = job / "conf" / source
    assert found.resolve() == elsewhere / name
    there = found.parent / beside
    assert there.exists() == titles
    assert not titles or there.read_text() == "own titles\n"
    assert not taken or place.read_text() == "of others\n"
    # what is linked already is named again
    again = checked(job, conf(job, before))[1].partition("It is linked: write data.source: ")[2]
    assert yaml.safe_load(again) == source


def test_a_missing_file_is_not_to_be_removed(job: pathlib.Path) -> None:
    said = checked(job, conf(job, "../data/none.csv"))[1]
    assert "none.csv does not exist. Put it there, or correct data.source" in said and "rm " not in said
    assert "ln -s" not in checked(job, conf(job, "../../none.csv"))[1]
    # a link above it is
    (job / "data/old").symlink_to("/nowhere")
    typed = re.search(r"rm [^,]+", checked(job, conf(job, "../data/old/r.csv"))[1])
    assert typed and shlex.split(typed[0]) == ["rm", str(job / "data/old")]


def test_a_parameter_file_of_that_name_stays(job: pathlib.Path) -> None:
    conf(job, "../data/r.csv")
    (job / "data/r.csv").touch()
    before = (job / "conf/mine.yaml").read_text()
    (job.parent / "mine.yaml").write_text("seed: 1\ndata: {source: ../data/r.csv}\n")
    said = checked(job, "../mine.yaml")[1]
    typed = re.search(r"cp [^,]+", said)
    assert typed and said.strip().endswith("recommender_config: conf/mine-2.yaml")
    subprocess.run(typed[0], shell=True, check=True, cwd=job.parent)
    assert (job / "conf/mine.yaml").read_text() == before
    assert checked(job, "conf/mine-2.yaml") == (0, "", [])
    assert "Its copy is there: set recommender_config: conf/mine-2.yaml" in checked(job, "../mine.yaml")[1]


def test_all_experiments_that_are_delivered_can_be_deployed() -> None:
    job = PACK.parents[3] / "ml"
    found = [f"conf/{path.name}" for path in (job / "conf").glob("*.yaml")]
    assert found
    assert [checked(job, config) for config in found] == [(0, "", [])] * len(found)
