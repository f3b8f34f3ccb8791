"""Saves of open documents, by the cases of saves_cases.py in JupyterLab's own environment, which the lock makes."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

ROLE = pathlib.Path(__file__).parents[1]
CACHE = ROLE.parents[1] / ".cache"
CASES = ROLE / "tests/saves_cases.py"
NAMES = re.findall(r"^async def (case_\w+)", CASES.read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def python() -> pathlib.Path:
    """Returns the interpreter of an environment that is made once for each lock."""
    lock = ROLE / "files/requirements.txt"
    version = "{}.{}".format(*sys.version_info)
    environment = CACHE / f"jupyter-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}-py{version}"
    if not environment.exists():
        CACHE.mkdir(exist_ok=True)
        # atomic, even if two processes make it at the same time
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            uv = shutil.which("uv") or f"{sys.prefix}/bin/uv"
            made = pathlib.Path(folder, "made")
            subprocess.run([uv, "-q", "venv", "--relocatable", "--python", sys.executable, str(made)], check=True)
            command = [uv, "-q", "pip", "sync", "--require-hashes", str(lock)]
            subprocess.run(command, env={**os.environ, "VIRTUAL_ENV": str(made)}, check=True)
            if not environment.exists():
                made.rename(environment)
    return environment / "bin/python"


@pytest.fixture(scope="session")
def found(python: pathlib.Path) -> dict[str, str]:
    """Returns what was wrong in each case, all of which wait at the same time."""
    ended = subprocess.run([python, CASES], capture_output=True, text=True, timeout=300)
    assert ended.stdout, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_saves(found: dict[str, str], name: str) -> None:
    assert found[name] == "", found[name]
