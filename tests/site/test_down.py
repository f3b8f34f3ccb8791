"""`make down` at the end: runs after test_up.py in the same session."""

import pathlib
import subprocess
from typing import Any

import pytest
from conftest import Checkout


@pytest.fixture(scope="module")
def checkout(shared_checkout: Checkout) -> Checkout:
    return shared_checkout


def test_make_down_leaves_nothing(checkout: Checkout, settings: dict[str, Any]) -> None:
    checkout.run("make", "down")
    names = subprocess.check_output(["docker", "ps", "-a", "--format", "{{.Names}}"], text=True).split()
    assert settings["cloud_server_name"] not in names
    files = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=pathlib.Path(__file__).parents[2], text=True
    )
    left = {
        str(path.relative_to(checkout.folder))
        for path in checkout.folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    left = {path for path in left if "__pycache__" not in path and not path.startswith(".ansible")}
    assert left - set(files.splitlines()) == {".venv", ".cache"}
