"""The account that loads a model on a server: never an operator's own, with the same commands."""

import grp
import os
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recommender import confined
from recommender.cli import main
from recommender.errors import RecommenderError
from recommender.tracking import registry

SUDO = """#!/bin/sh
cd "${0%/*}" && printf '%s\\n' "$*" >> asked
if test "$2" = true; then
  test ! -e password || { echo 'sudo: a password is required' >&2; exit 1; }
  exit
fi
echo 'user,item,title'
exit "$(cat code 2>/dev/null || echo 0)"
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's settings, with `deploy` at work, who has sudo: the folder with what sudo was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sudo").write_text(SUDO)
    (folder / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv(confined.ACCOUNT, "recommender")
    monkeypatch.setenv(confined.OPERATORS, "root deploy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    become(monkeypatch, "deploy")

    def never(*arguments: object) -> None:
        raise AssertionError("an operator's process loads the model")

    monkeypatch.setattr(registry, "load", never)
    return folder


def become(monkeypatch: pytest.MonkeyPatch, name: str, group: str = "users") -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgroups", lambda: [])
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=name))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=group))


def test_an_operator_hands_it_over(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setenv(confined.LOGIN, "/etc/mlflow/users/recommender.env")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert main.main(["recommend", "--user", "1", "-k", "3"]) == 0
    assert capfd.readouterr().out == "user,item,title\n"
    asked = (server / "asked").read_text().splitlines()
    assert asked[0] == "-n true"
    assert "--uid=recommender" in asked[1]
    assert "--property=EnvironmentFile=-/etc/mlflow/users/recommender.env" in asked[1]
    assert "--setenv=MLFLOW_TRACKING_URI" in asked[1].split()
    assert "127.0.0.1" not in asked[1] and "secret" not in asked[1] and "PASSWORD" not in asked[1]
    assert asked[1].endswith(f"-- {sys.executable} -m recommender recommend --user 1 -k 3")


def test_the_name_in_the_parameter_file_is_handed_over(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("data: {source: x}\ntracking: {model: shop}\n")
    assert main.main(["recommend", "--config", str(own), "--user", "1"]) == 0
    asked = (server / "asked").read_text()
    # what has the name does not read the file, which stands in a folder of somebody's
    assert asked.endswith(f"recommend --config {own} --user 1 --model models:/dev.shop@champion\n")
    monkeypatch.chdir(tmp_path)
    assert main.main(["recommend", "--config", "own.yaml", "--user", "1"]) == 0
    # its messages name the file, in a folder that is not this one
    assert (server / "asked").read_text().endswith(f" --config {own}\n")


def test_the_file_is_the_operators(server: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "lists.csv"
    line = ["recommend", "--all", "--output", str(wanted)]
    assert main.main(line) == 0
    assert wanted.read_text() == "user,item,title\n"
    assert (server / "asked").read_text().endswith(f"recommend --all --output {wanted} --output -\n")
    (server / "code").write_text("2")
    wanted.unlink()
    assert main.main(line) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_sudo_that_asks_for_a_password(server: Path, capsys) -> None:
    (server / "password").touch()
    assert main.main(["recommend", "--user", "1"]) == 1
    assert "sudo says: sudo: a password is required. Type sudo -v" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "group", "other"),
    [
        ("deploy", "users", True),
        ("eve", "sudo", True),
        ("ana", "users", False),
        ("recommender", "recommender", False),
    ],
)
def test_who_hands_it_over(
    server: Path, monkeypatch: pytest.MonkeyPatch, name: str, group: str, other: bool
) -> None:
    become(monkeypatch, name, group)
    assert confined.account() == ("recommender" if other else None)


def test_root_and_a_machine_of_ones_own(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="root"))
    assert confined.account() == "recommender"
    monkeypatch.delenv(confined.ACCOUNT)
    assert confined.account() is None


def test_the_library_refuses(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(confined.ACCOUNT, "recommender")
    monkeypatch.setenv(confined.OPERATORS, "deploy")
    become(monkeypatch, "deploy")
    with pytest.raises(RecommenderError, match=r"an account with sudo must not run\. Load it as recommender"):
        registry.load("models:/dev.movie-recommender@champion")


def test_standard_output_as_csv(conf: Path, store: str, environment: str, capsys) -> None:
    assert main.main(["train", "--config", str(conf), "--tracking-uri", store]) == 0
    capsys.readouterr()
    assert main.main(["recommend", "--user", "1", "-k", "2", "--output", "-", "--tracking-uri", store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], len(lines)) == ("user,item,title,estimate,score,rank,known_user", 3)
