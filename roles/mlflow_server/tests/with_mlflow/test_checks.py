"""What keeps a new server from working is said while the old one still runs."""

import os
import pathlib
import types
from typing import Any

import mlflow
import pytest
import requests
import sqlalchemy as sa
from mlflow_admin import checks
from mlflow_admin.store import Refused

Capture = pytest.CaptureFixture[str]


def new(database: pathlib.Path, artifacts: str = "", **more: Any) -> dict[str, Any]:
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{database}",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts or str(database.parent / "artifacts"),
    }
    options = ["--host", "127.0.0.1", "--port", "5000", "--serve-artifacts"]
    known = {"settings": settings, "options": options, "users": [], "upgrade": False, "switch": "refuse"}
    return known | {"command": "ansible-playbook playbooks/migrate_tracking.yml"} | more


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check writes into the environment does not outlive its test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        checks.check(wanted)


def test_what_would_work_is_not_refused(database: pathlib.Path, capsys: Capture) -> None:
    checks.check(new(database, upgrade=True))
    assert capsys.readouterr().out == ""


def test_an_option_that_the_server_does_not_know(database: pathlib.Path) -> None:
    message = r"^mlflow server would not take its options \(mlflow_server_extra_options\): No such option"
    refused(new(database, options=["--worker"]), message)


def test_an_option_that_ends_the_server(database: pathlib.Path) -> None:
    refused(new(database, options=["--help"]), r"^mlflow_server_extra_options makes mlflow server end at once")


def test_logins_without_their_package(database: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    message = r"^Logins need mlflow\[auth\] in mlflow_server_requirements: Flask-WTF is missing there\.$"
    refused(new(database, options=["--app-name", "basic-auth"]), message)


def test_users_that_cannot_be_made(database: pathlib.Path) -> None:
    refused(new(database, users=[{"name": "admin"}]), "^mlflow_server_users: admin stands for the account")


def test_a_database_of_a_newer_version(database: pathlib.Path, sql: Any) -> None:
    sql(database, "UPDATE alembic_version SET version_num = 'of_tomorrow'")
    message = (
        rf"^The database's schema of_tomorrow is of a newer MLflow.* restore the copy in {database.parent}/backups"
    )
    refused(new(database), message)


def test_no_room_for_the_copy_before_an_upgrade(database: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**20))
    folder = database.parent
    message = (
        rf"needs up to \d\.\d MiB and {folder} has 1\.0 MiB free\. Make room, .* old copies from {folder}/backups,"
    )
    refused(new(database, upgrade=True), message)
    checks.check(new(database))


@pytest.mark.parametrize(("version", "message"), [(15, "pg_dump 15: install postgresql-client-17 "), (17, "")])
def test_programs_of_postgresql_older_than_the_server(
    monkeypatch: pytest.MonkeyPatch, version: int, message: str
) -> None:
    class Connection:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None: ...

        def scalar(self, query: Any) -> int:
            return 170004 if "version" in str(query) else 1000

    engine = types.SimpleNamespace(name="postgresql", url=sa.make_url("postgresql://ana@/mlflow"), connect=Connection)
    monkeypatch.setattr(checks, "is_there", lambda engine: True)
    monkeypatch.setattr(checks, "run", lambda url, *command: f"pg_dump (PostgreSQL) {version}.3 (Debian)")
    if message:
        with pytest.raises(Refused, match=rf"^PostgreSQL 17 cannot be backed up by this host's {message}"):
            checks.check_backup(engine)
    else:
        checks.check_backup(engine)


def test_a_store_that_takes_nothing(database: pathlib.Path, store: Any) -> None:
    wanted = new(database, "s3://models/mlflow", switch="leave")
    checks.check(wanted)
    assert store.objects == {}
    store.error = OSError("403 Forbidden")
    wanted["settings"]["MLFLOW_S3_ENDPOINT_URL"] = "http://127.0.0.1:1"
    message = (
        "^mlflow_server_s3: s3://models/mlflow at http://127.0.0.1:1 cannot be written, read and deleted from: 403"
    )
    refused(wanted, message)


MOVE = r"\nor leave it where it is, with -e mlflow_server_switch=leave, or take back the change of "
BACK = "leave it where it is, with -e mlflow_server_switch=leave, or take back the change of "
SWITCHES = {
    # what changes; the switch; what is refused, or printed
    "nothing": ({}, "refuse", "", ""),
    "database": (
        {"uri": "sqlite:///other.db"}, "refuse",
        r"^The database in force holds data that the one of mlflow_server_backend would not have\. Move it by "
        rf"ansible-playbook playbooks/migrate_tracking\.yml{MOVE}mlflow_server_backend\.$", "",
    ),
    "database, to be moved": ({"uri": "sqlite:///other.db"}, "move", "", "move\n"),
    "database, to be left": ({"uri": "sqlite:///other.db"}, "leave", "", ""),
    "another kind": (
        {"uri": "mysql://h/m"}, "refuse", rf"would not have\. It cannot be moved there: {BACK}mlflow_server", "",
    ),
    "another kind, to be moved": (
        {"uri": "mysql://h/m"}, "move",
        r"^Data can be moved between SQLite and PostgreSQL only\. mlflow_server_switch=leave begins with what", "",
    ),
    "move and upgrade": (
        {"uri": "sqlite:///other.db", "upgrade": True}, "move",
        "^MLflow would be upgraded and its data moved at once: run site.yml with the old backend, then move.$", "",
    ),
    "artifacts": (
        {"artifacts": "s3://models"}, "refuse",
        rf"artifacts holds artifacts that would no longer be found\. Move it by .*{MOVE}the artifacts' place\.$", "",
    ),
    "artifacts, to be moved": ({"artifacts": "s3://models"}, "move", "", "move\n"),
    "another folder": (
        {"artifacts": "/data/mlflow"}, "refuse", rf"no longer be found\. It cannot be moved there: {BACK}the", "",
    ),
    "another folder, to be moved": (
        {"artifacts": "/data/mlflow"}, "move", r"^Artifacts can be moved from a folder to S3 only, not from /", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "switch", "message", "printed"), SWITCHES.values(), ids=SWITCHES)
def test_no_data_is_left_behind_unasked(
    database: pathlib.Path, capsys: Capture, changed: dict[str, Any], switch: str, message: str, printed: str
) -> None:
    (database.parent / "artifacts/1").mkdir(parents=True)
    (database.parent / "artifacts/1/note.txt").touch()
    wanted = new(database, changed.get("artifacts", ""), switch=switch, upgrade=changed.get("upgrade", False))
    wanted["settings"]["MLFLOW_BACKEND_STORE_URI"] = changed.get("uri", f"sqlite:///{database}")
    if message:
        with pytest.raises(Refused, match=message):
            checks.check_switch(wanted, dict(os.environ))
    else:
        checks.check_switch(wanted, dict(os.environ))
    assert capsys.readouterr().out == printed


def test_a_server_that_nobody_used_may_change_its_places(database: pathlib.Path, empty: pathlib.Path) -> None:
    wanted = new(pathlib.Path("/other.db"), "s3://models")
    checks.check_switch(wanted, {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{empty}"})
    # the first run of all
    checks.check_switch(wanted, {})


@pytest.mark.parametrize("logins", [False, True])
def test_a_server_is_read_as_a_client_does(
    database: pathlib.Path, monkeypatch: pytest.MonkeyPatch, logins: bool
) -> None:
    address, asked = f"sqlite:///{database}", []
    if logins:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    answer = types.SimpleNamespace(status_code=200, text=mlflow.__version__)
    monkeypatch.setattr(requests, "get", lambda *words, **options: asked.append((words, options)) or answer)
    checks.probe(address)
    assert asked == [((f"{address}/version",), {"auth": ("admin", "secret") if logins else None, "timeout": 60})]
    answer.text, answer.status_code = "<html>", 502
    message = rf"^The server answers 502 '<html>' when asked for its version, not {mlflow.__version__}\.$"
    with pytest.raises(Refused, match=message):
        checks.probe(address)


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(*words: Any, **options: Any) -> None:
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(Refused, match=r"^The server had no answer in 60 s when asked for its version: refused$"):
        checks.probe("http://127.0.0.1:5000")
