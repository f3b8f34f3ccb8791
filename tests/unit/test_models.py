"""bin/models sends the same requests in any language, encoding and time zone."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = {
    "host": "192.0.2.7", "port": 2222, "key": "", "options": "", "user": "deploy",
    "servers": {"dev": "desk", "staging": "", "prod": ""}, "tracking_uri": "http://127.0.0.1:5000",
    "tracking_account": "mlflow", "python": "/opt/mlflow/current/bin/python", "credentials": "/etc/mlflow/admin.env",
    "gate": {}, "serves": [],
}  # fmt: skip
# Says of one host what bin/models asks, and writes down what ssh is called with.
STUB = """#!{python}
import json, pathlib, sys
if pathlib.Path(sys.argv[0]).name == "ansible":
    print("Meldung: äöü".encode("ascii", "replace").decode())
    print(json.dumps({{"plays": [{{"tasks": [{{"hosts": {{"desk": {{"msg": {host!r}}}}}}}]}}]}}))
else:
    pathlib.Path({folder!r}, "asked").write_text(json.dumps(sys.argv[1:]), encoding="utf-8")
"""


@pytest.fixture
def models(tmp_path: pathlib.Path) -> Any:
    for name in ("ansible", "ssh"):
        (tmp_path / name).write_text(
            STUB.format(python=sys.executable, host=HOST, folder=str(tmp_path)), encoding="utf-8"
        )
        (tmp_path / name).chmod(0o755)
    git = pathlib.Path(shutil.which("git") or "git").parent
    hostile = {
        "PATH": f"{tmp_path}:{git}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "POSIX", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu", "USER": "jörg", "LOGNAME": "jörg",
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, str(ROOT / "bin/models"), "-i", "inventory/onprem", *words]
        return subprocess.run(command, cwd=ROOT, env=hostile, capture_output=True, timeout=60, check=False)

    return run


def asked(folder: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
    words = json.loads((folder / "asked").read_text(encoding="utf-8"))
    request = re.search(r"'(\{.*\})'$", words[-1])
    assert request, words[-1][-300:]
    return words, json.loads(request[1].replace("'\"'\"'", "'"))


def test_a_version_is_named_to_go_back_to(models: Any, tmp_path: pathlib.Path) -> None:
    result = models("rollback", "--environment", "dev", "--version", "2")
    assert result.returncode == 0, result.stderr
    words, request = asked(tmp_path)
    assert words[words.index("-p") + 1] == "2222"
    wanted = ["rollback", "--environment", "dev", "--model", "movie-recommender", "--version", "2"]
    assert request["command"] == wanted
    assert request["lock"] == "dev"
    assert request["environment"] == {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "RECOMMENDER_TRACKING_ACCOUNT": "mlflow",
    }  # fmt: skip
    assert models("rollback", "--environment", "dev", "--version", "").returncode == 0
    assert asked(tmp_path)[1]["command"] == wanted[:-2]


def test_the_model_is_the_one_that_the_servers_parameter_file_names(models: Any, tmp_path: pathlib.Path) -> None:
    stub = STUB.format(python=sys.executable, host=HOST | {"model": "shop"}, folder=str(tmp_path))
    (tmp_path / "ansible").write_text(stub, encoding="utf-8")
    for words in (["rollback", "--environment", "dev"], ["rollback", "--environment", "dev", "--model", ""]):
        assert models(*words).returncode == 0
        assert asked(tmp_path)[1]["command"] == ["rollback", "--environment", "dev", "--model", "shop"]
    assert models("rollback", "--environment", "dev", "--model", "other").returncode == 0
    assert asked(tmp_path)[1]["command"][-1] == "other"


def test_help_is_printed_in_any_encoding(models: Any) -> None:
    result = models("promote", "--help")
    assert (result.returncode, result.stderr) == (0, b"")


def test_make_hands_the_version_on() -> None:
    line = ["make", "-n", "-o", ".venv/.complete", "rollback", "ENV=dev", "VERSION=2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "rollback --environment 'dev' --version '2'" in result.stdout
