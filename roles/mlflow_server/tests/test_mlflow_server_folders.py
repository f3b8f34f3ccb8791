"""Unit tests of the module that makes the server's folders: no container, and no root."""

import importlib.util
import os
import pathlib
import stat
from types import ModuleType

import pytest


def load() -> ModuleType:
    path = pathlib.Path(__file__).parents[1] / "library/mlflow_server_folders.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


folders = load()
ME = (os.getuid(), os.getgid(), 0o750)


@pytest.fixture
def shared(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder in which somebody other than root can write, as the server's account can in its own."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def test_makes_what_is_missing_and_again_changes_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "above/mlflow"
    assert folders.ensure(str(path), *ME, check=True)
    assert not path.parent.exists()
    assert folders.ensure(str(path), *ME, check=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert not folders.ensure(str(path), *ME, check=False)
    path.chmod(0o777)
    assert folders.ensure(str(path), *ME, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert folders.ensure(str(path), *ME, check=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


@pytest.mark.parametrize("below", ["", "/artifacts"], ids=["last", "between"])
@pytest.mark.parametrize("check", [True, False])
def test_a_link_that_an_account_can_lay_gives_nothing_away(
    tmp_path: pathlib.Path, shared: pathlib.Path, below: str, check: bool
) -> None:
    target = tmp_path / "etc"
    target.mkdir(mode=0o755)
    (shared / "artifacts").symlink_to(target)
    before = target.stat()
    with pytest.raises(folders.Refused, match=rf"{shared}/artifacts is a link to {target}, .*sudo rm {shared}/"):
        folders.ensure(f"{shared}/artifacts{below}", *ME, check=check)
    after = target.stat()
    assert (after.st_uid, after.st_mode, after.st_ctime_ns) == (before.st_uid, before.st_mode, before.st_ctime_ns)
    assert not list(target.iterdir())


def test_what_is_somebody_elses_is_not_given_away(shared: pathlib.Path) -> None:
    path = shared / "artifacts"
    path.mkdir()
    (path / "private").touch()
    with pytest.raises(folders.Refused, match=f"{path} belongs to user {os.getuid()} and lies where others"):
        folders.ensure(str(path), os.getuid() + 1, os.getgid(), 0o750, check=False)


def test_a_link_of_roots_is_followed() -> None:
    # Debian has the first, macOS the second
    path = next(path for path in ("/bin", "/etc") if os.path.islink(path))
    assert not folders.ensure(path, *owner_of(path), check=True)


def owner_of(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_a_file_in_the_way_is_named(shared: pathlib.Path) -> None:
    (shared / "artifacts").touch()
    with pytest.raises(folders.Refused, match=f"{shared}/artifacts is not a folder"):
        folders.ensure(f"{shared}/artifacts", *ME, check=False)
