"""Copies of the database: made, put back, and what is not lost on the way."""

import json
import pathlib
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow_admin import copies
from mlflow_admin.store import Refused

Capture = pytest.CaptureFixture[str]


def made(capsys: Capture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_copy_is_put_back(database: pathlib.Path, sql: Any, capsys: Capture) -> None:
    copies.backup("sqlite-before-9")
    copy = made(capsys)
    file = pathlib.Path(copy["file"])
    assert file.parent == database.parent / "backups" and file.name.startswith("sqlite-before-9-")
    assert copy["counts"]["runs"] == 1
    assert list(file.parent.iterdir()) == [file]
    sql(database, "DELETE FROM metrics")
    with pytest.raises(Refused, match=r"^The migrated database does not hold the same rows: metrics 3 -> 0$"):
        copies.compare(copy["counts"])
    for name in ("-wal", "-shm", "-journal"):
        pathlib.Path(f"{database}{name}").write_text("of the database that goes")
    copies.restore(str(file))
    copies.compare(copy["counts"])
    assert sorted(path.name for path in database.parent.iterdir()) == ["backups", "mlflow.db"]


def test_a_database_that_is_not_there_is_not_copied(
    tmp_path: pathlib.Path, database: pathlib.Path, capsys: Capture
) -> None:
    database.unlink()
    copies.backup("sqlite-before-9")
    copy = made(capsys)
    assert copy == {"file": "", "counts": {}}
    copies.undo(copy)
    copies.migrate()
    assert not list(tmp_path.iterdir())


def test_a_copy_that_cannot_be_written(database: pathlib.Path) -> None:
    with pytest.raises(Refused, match=r"The database could not be copied to .*/backups/none/label-.*\.db: unable to"):
        copies.backup("none/label")


@pytest.mark.parametrize("logged", [False, True], ids=["same", "logged since"])
def test_what_was_logged_since_the_copy_is_set_aside(
    database: pathlib.Path, sql: Any, capsys: Capture, logged: bool
) -> None:
    copies.backup("sqlite-before-9")
    copy = made(capsys)
    if logged:
        sql(database, "DELETE FROM latest_metrics")
    copies.undo(copy)
    copies.compare(copy["counts"])
    aside = list(pathlib.Path(copy["file"]).parent.glob("set-aside-*"))
    assert len(aside) == logged
    assert all(sql(path, "SELECT count(*) FROM latest_metrics") == [(0,)] for path in aside)


def test_a_migration_keeps_all_rows(database: pathlib.Path, capsys: Capture) -> None:
    copies.backup("before")
    copy = made(capsys)
    copies.migrate()
    copies.compare(copy["counts"])


def test_postgresql_is_put_back_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(url: sa.URL, *command: str, **options: Any) -> str:
        asked.append((command, options))
        return "-- the copy\n"

    monkeypatch.setattr(copies, "run", run)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg://mlflow@/mlflow")
    copies.restore("/var/lib/mlflow/backups/one.dump")
    (dump, _), (psql, options) = asked
    assert dump[0] == "pg_restore" and dump[-1] == "/var/lib/mlflow/backups/one.dump"
    assert psql[0] == "psql" and {"--single-transaction", "--set=ON_ERROR_STOP=1"} <= set(psql)
    assert "DROP TABLE" in options["input"] and options["input"].endswith("END $$;\n-- the copy\n")


def test_a_script_of_pg_restore_17_is_for_older_servers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    head = "--\n\n\\restrict a\n\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\n"
    rest = "CREATE TABLE notes (text text);\nCOPY notes (text) FROM stdin;\nSET transaction_timeout = 0;\n\\.\n"
    given: list[str] = []
    for script in (head + rest, rest):
        monkeypatch.setattr(copies, "run", lambda url, *command, input="", script=script: given.append(input) or script)
        monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg://mlflow@/mlflow")
        copies.restore("/var/lib/mlflow/backups/one.dump")
    assert given[1].endswith("SET lock_timeout = 0;\n" + rest)
    assert given[3].endswith("END $$;\n" + rest)
