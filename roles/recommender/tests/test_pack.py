"""What pack.py says of a training job: equal files give equal digests, and git's word for the commit."""

import os
import pathlib
import subprocess
import sys

import pytest

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


def pack(source: pathlib.Path) -> list[str]:
    command = [sys.executable, PACK, source, source.parents[1]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_without_git_there_is_no_commit(job: pathlib.Path) -> None:
    digest, inputs, commit, archive = pack(job)
    assert commit == "-"
    assert archive.endswith(f"recommender-{digest}.tar") and pathlib.Path(archive).exists()
    assert pack(job)[:2] == [digest, inputs]


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
