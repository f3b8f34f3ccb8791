"""The move: every row arrives, or the new database is as it was."""

import pathlib
from typing import Any

import pytest
from mlflow_admin import move
from mlflow_admin.store import Refused, connect, counts

Capture = pytest.CaptureFixture[str]


def uri(path: pathlib.Path) -> str:
    return f"sqlite:///{path}"


def test_all_rows_arrive_and_a_second_time_nothing_is_written(
    database: pathlib.Path, empty: pathlib.Path, capsys: Capture
) -> None:
    before = database.read_bytes()
    move.copy_database(uri(database), uri(empty))
    assert capsys.readouterr().out.startswith("copied and compared: ")
    assert counts(connect(uri(empty))) == counts(connect(uri(database)))
    assert database.read_bytes() == before
    move.copy_database(uri(database), uri(empty))
    assert capsys.readouterr().out == "The new database holds the same already.\n"


def test_tables_are_made_where_there_are_none(database: pathlib.Path, tmp_path: pathlib.Path) -> None:
    move.copy_database(uri(database), uri(tmp_path / "new.db"))
    assert counts(connect(uri(tmp_path / "new.db"))) == counts(connect(uri(database)))
    # nothing to copy
    move.copy_database(uri(tmp_path / "none.db"), uri(tmp_path / "other.db"))
    assert not (tmp_path / "other.db").exists()


def refused(database: pathlib.Path, target: pathlib.Path, message: str) -> None:
    """The copy is refused, and the target is as it was."""
    before = counts(connect(uri(target)))
    with pytest.raises(Refused, match=message):
        move.copy_database(uri(database), uri(target))
    assert counts(connect(uri(target))) == before


def test_a_database_with_other_data_is_not_overwritten(database: pathlib.Path, empty: pathlib.Path, sql: Any) -> None:
    sql(empty, "INSERT INTO registered_models (name) VALUES ('theirs')")
    wanted = rf"is not empty, and holds other data .*\. Move it away \(sudo mv {empty} {empty}\.old\), then run this"
    refused(database, empty, wanted)


def test_a_table_without_a_place(database: pathlib.Path, empty: pathlib.Path, sql: Any) -> None:
    sql(database, "CREATE TABLE plugin (id)", "INSERT INTO plugin VALUES (1)", "CREATE TABLE unused (id)")
    refused(database, empty, r"^The new database has no place for plugin: nothing was moved\.$")


def test_a_column_without_a_place(database: pathlib.Path, empty: pathlib.Path, sql: Any) -> None:
    sql(database, "ALTER TABLE runs ADD COLUMN mood TEXT")
    refused(database, empty, r"^The new table runs has no column mood: nothing was moved\.$")


def test_a_row_that_the_new_database_does_not_take(database: pathlib.Path, empty: pathlib.Path, sql: Any) -> None:
    fail = "BEGIN SELECT RAISE(ABORT, 'not here'); END"
    sql(empty, f"CREATE TRIGGER no BEFORE INSERT ON metrics {fail}")
    refused(database, empty, r"^Table metrics cannot be copied: not here\nNothing was moved\.$")


def test_what_arrives_otherwise_is_not_kept(database: pathlib.Path, empty: pathlib.Path, sql: Any) -> None:
    sql(empty, "CREATE TRIGGER less AFTER INSERT ON metrics BEGIN DELETE FROM metrics WHERE step = 1; END")
    refused(database, empty, r"^What was copied is not the same: metrics \(3 rows, 2 copied\)\. Nothing was moved\.$")


def test_the_order_of_rows_makes_no_difference(database: pathlib.Path, tmp_path: pathlib.Path, sql: Any) -> None:
    import sqlalchemy as sa

    found = []
    for name, rows in (("one", "(1, x'00'), (2, NULL)"), ("two", "(2, NULL), (1, x'00')"), ("three", "(1, x'01')")):
        sql(tmp_path / name, "CREATE TABLE t (id, data)", f"INSERT INTO t VALUES {rows}")
        engine, table = sa.create_engine(uri(tmp_path / name)), sa.Table("t", sa.MetaData(), sa.Column("id"))
        table.append_column(sa.Column("data", sa.LargeBinary))
        with engine.connect() as connection:
            found.append(move.fingerprint(connection, table, ["id", "data"]))
    assert found[0] == found[1] and found[0][0] == 2 and found[2][1] != found[0][1]


@pytest.fixture
def artifacts(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "artifacts"
    (folder / "1/run").mkdir(parents=True)
    (folder / "1/run/note.txt").write_text("five stars")
    return folder


def test_artifacts_arrive_and_the_folder_stays(
    artifacts: pathlib.Path, store: Any, database: pathlib.Path, capsys: Capture
) -> None:
    settings = {"MLFLOW_BACKEND_STORE_URI": uri(database), "MLFLOW_ARTIFACTS_DESTINATION": "s3://models/mlflow/"}
    move.move({"settings": settings})
    assert store.objects == {"models/mlflow/1/run/note.txt": b"five stars"}
    assert capsys.readouterr().out == "copied and compared: 1 artifacts\n"
    assert (artifacts / "1/run/note.txt").exists()


@pytest.mark.parametrize(("source", "target"), [("s3://old", "s3://new"), ("/srv/mlflow", "/data/mlflow")])
def test_artifacts_move_from_a_folder_to_s3_only(store: Any, source: str, target: str) -> None:
    wanted = f"^Artifacts can be moved from a folder to S3 only, not from {source} to {target}.$"
    with pytest.raises(Refused, match=wanted):
        move.copy_artifacts(source, {"MLFLOW_ARTIFACTS_DESTINATION": target})


def test_artifacts_that_do_not_arrive(artifacts: pathlib.Path, store: Any) -> None:
    settings = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://models"}
    store.error = OSError("connection refused")
    wanted = "could not be sent to s3://models: connection refused. Nothing was moved; run this again.$"
    with pytest.raises(Refused, match=wanted):
        move.copy_artifacts(str(artifacts), settings)
    store.error, store.limit = None, 4
    wanted = "^1 artifacts did not arrive whole, such as 1/run/note.txt. Nothing was moved; run this again.$"
    with pytest.raises(Refused, match=wanted):
        move.copy_artifacts(str(artifacts), settings)
