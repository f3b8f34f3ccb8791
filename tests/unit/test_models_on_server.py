"""The server's side of bin/models, tested without a server."""

import fcntl
import hashlib
import importlib.util
import io
import os
import pathlib
import sys
import threading
import zipfile
from types import ModuleType
from typing import Any

import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "bin/models_on_server.py"


@pytest.fixture
def on_server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_on_server", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path / "registry")
    monkeypatch.setattr(module, "SILENCE", 0.2)
    return module


def sent(script: str) -> bytes:
    """A request whose package `recommender` is the script."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("src/recommender/__main__.py", script)
    return buffer.getvalue()


def ask(module: ModuleType, content: bytes, arrives: bytes, close: bool = True, **more: Any) -> int:
    """Exit code of a request of which only `arrives` is received."""
    read, write = os.pipe()
    os.write(write, arrives)
    if close:
        os.close(write)
    before = os.dup(0)
    os.dup2(read, 0)
    try:
        code: int = module.main(
            {
                "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "command": ["verb"],
                "python": sys.executable, "environment": {"NAME": "value"}, "environment_file": "/nowhere",
                "lock": "prod", "by": "ana@desk", "output": None, **more,
            }
        )  # fmt: skip
        return code
    finally:
        os.dup2(before, 0)


def test_runs_the_verb_with_credentials_and_leaves_nothing(
    on_server: ModuleType, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "admin.env").write_text("# of the registry\nUSER_NAME=admin\nPASSWORD=a=b\n")
    request = sent(
        "import os, sys; print('noise'); names = ('NAME', 'USER_NAME', 'PASSWORD');"
        "open('out', 'w').write(repr([sys.argv[1:], *map(os.environ.get, names)]))"
    )
    assert ask(on_server, request, request, environment_file=str(tmp_path / "admin.env"), output="out") == 0
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("[['verb'], 'value', 'admin', 'a=b']", "noise\n")
    assert [path.name for path in on_server.ROOT.iterdir()] == ["prod.lock"]
    assert ask(on_server, request, request, lock=None) == 0
    assert [path.name for path in on_server.ROOT.iterdir()] == ["prod.lock"]


@pytest.mark.parametrize("close", [True, False], ids=["gone", "silent"])
def test_connection_lost(on_server: ModuleType, capfd: pytest.CaptureFixture[str], close: bool) -> None:
    request = sent("raise AssertionError('it was run')")
    with pytest.raises(SystemExit) as caught:
        ask(on_server, request, request[:-1], close)
    assert caught.value.code == 75
    said = capfd.readouterr().err
    assert f"The connection was lost after {len(request) - 1} of {len(request)} bytes; nothing was changed." in said
    assert [path.name for path in on_server.ROOT.iterdir()] == ["prod.lock"]


def test_something_else_arrives(on_server: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    request = sent("raise AssertionError('it was run')")
    with pytest.raises(SystemExit):
        ask(on_server, request, request[:-1] + b"!")
    assert "What arrived is not what was sent" in capfd.readouterr().err


def test_one_at_a_time_and_the_next_begins_clean(on_server: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    request = sent("import os; assert not os.path.exists('left')")
    (on_server.ROOT / "prod").mkdir(parents=True)
    (on_server.ROOT / "prod" / "left").touch()
    with (on_server.ROOT / "prod.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("bob@desk, process 7")
        lock.flush()
        with pytest.raises(SystemExit) as caught:
            ask(on_server, request, request)
    assert caught.value.code == 75
    assert "prod is being changed by bob@desk, process 7. Nothing was done" in capfd.readouterr().err
    assert (on_server.ROOT / "prod" / "left").exists()
    assert ask(on_server, request, request) == 0
    assert [path.name for path in on_server.ROOT.iterdir()] == ["prod.lock"]


def test_a_copy_of_the_database_is_waited_for(on_server: ModuleType) -> None:
    request, script = sent("pass"), PATH.parents[1] / "roles/mlflow_server/templates/mlflow-admin.sh.j2"
    on_server.ROOT.mkdir()
    lock = (on_server.ROOT / "prod.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # as the script writes it
    lock.write(next(holder for holder in on_server.BRIEF if f'echo -n "{holder}, process' in script.read_text()))
    lock.flush()
    threading.Timer(0.5, lock.close).start()
    assert ask(on_server, request, request) == 0


def test_a_server_without_mlflow(on_server: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ask(on_server, b"", b"", python="/opt/mlflow/current/bin/python-of-nobody")
    assert "run site.yml --tags tracking first" in capfd.readouterr().err
