"""Which database the tool takes, and what it says of one that it does not."""

import pathlib
import re
import time
import types
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow_admin import store
from mlflow_admin.store import Refused


def test_what_is_counted_is_what_an_operator_would_miss(database: pathlib.Path, empty: pathlib.Path) -> None:
    rows = store.counts(store.connect(f"sqlite:///{database}"))
    assert {name: rows[name] for name in ("experiments", "runs", "metrics", "model_versions")} == {
        "experiments": 2, "runs": 1, "metrics": 3, "model_versions": 1,
    }  # fmt: skip
    assert store.holds_data(store.connect(f"sqlite:///{database}"))
    assert not store.holds_data(store.connect(f"sqlite:///{empty}"))


def test_to_ask_for_a_database_makes_none(tmp_path: pathlib.Path) -> None:
    engine = store.connect(f"sqlite:///{tmp_path}/none.db")
    assert not store.is_there(engine) and store.counts(engine) == {} and not store.holds_data(engine)
    assert not list(tmp_path.iterdir())


def test_the_schema_is_this_versions(database: pathlib.Path, sql: Any) -> None:
    revision, known = store.revisions(store.connect(f"sqlite:///{database}"))
    assert revision and known
    sql(database, "UPDATE alembic_version SET version_num = 'of_tomorrow'")
    assert store.revisions(store.connect(f"sqlite:///{database}")) == ("of_tomorrow", False)


def test_a_database_that_does_not_answer() -> None:
    with pytest.raises(Refused) as refused:
        store.connect("postgresql+psycopg://ana:secret@127.0.0.1:1/mlflow?connect_timeout=2")
    first, last = str(refused.value).split("\n")[0], str(refused.value).split("\n")[-1]
    assert first.startswith("mlflow_server_backend postgresql+psycopg://ana:***@127.0.0.1:1/mlflow")
    assert "cannot be used: " in first and "secret" not in str(refused.value)
    assert last == "Correct it, start the database, or let mlflow_server_ip_allow have its address."


def test_a_database_without_a_driver() -> None:
    with pytest.raises(Refused, match="cannot be used: No module named 'MySQLdb'"):
        store.connect("mysql://ana@127.0.0.1/mlflow")


def test_a_database_of_something_else(tmp_path: pathlib.Path, sql: Any) -> None:
    sql(tmp_path / "shop.db", "CREATE TABLE orders (id)", "CREATE TABLE items (id)")
    with pytest.raises(Refused, match=r"holds tables that are not MLflow's \(items, orders\)\. Give MLflow a database"):
        store.connect(f"sqlite:///{tmp_path}/shop.db")


def test_an_account_that_may_not_create_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None: ...

        def scalar(self, query: object) -> bool:
            return False

    engine = types.SimpleNamespace(name="postgresql", connect=Connection)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(sa, "create_engine", lambda url, **options: asked.update(options) or engine)
    monkeypatch.setattr(sa, "inspect", lambda connection: types.SimpleNamespace(get_table_names=list))
    with pytest.raises(Refused, match=r"the account may not create tables\. GRANT CREATE ON SCHEMA public to it\."):
        store.connect("postgresql+psycopg://ana@10.0.0.1/mlflow")
    assert asked == {"connect_args": {"connect_timeout": 10}}


def test_the_password_of_postgresql_is_in_no_command_line() -> None:
    url = sa.make_url("postgresql+psycopg://ana:secret@/mlflow?host=/run/pg&connect_timeout=3&sslmode=require")
    found = store.run(url, "sh", "-c", 'printf %s "$PGUSER $PGPASSWORD $PGHOST $PGCONNECT_TIMEOUT $PGSSLMODE"')
    assert found == "ana secret /run/pg 3 require"


def test_programs_that_are_missing_or_fail() -> None:
    url = sa.make_url("postgresql://ana@/mlflow")
    with pytest.raises(Refused, match=r"^no-such-dump is missing: apt install postgresql-client$"):
        store.run(url, "no-such-dump")
    with pytest.raises(Refused, match=r"^sh failed: no route$"):
        store.run(url, "sh", "-c", "echo no route >&2; exit 1")


def test_a_file_is_replaced_whole_and_for_its_owner(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "ana.env"
    (tmp_path / ".ana.env.new").write_text("cut off")
    assert store.write(file, "one") and not store.write(file, "one") and store.write(file, "two")
    assert file.read_text() == "two" and file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_connections_are_renewed_so_that_it_writes_after_a_read_only_disk(
    database: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps a connection read-only that was opened while the disk was."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    variables = (pathlib.Path(__file__).parents[2] / "vars/main.yml").read_text()
    [seconds] = re.findall(r"'MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE': '(\d+)'", variables)
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE", seconds)
    engine = create_sqlalchemy_engine(f"sqlite:///{database}")

    def connection() -> object:
        with engine.connect() as connected:
            return connected.connection.dbapi_connection

    first, now = connection(), time.time()
    assert connection() is first
    monkeypatch.setattr("sqlalchemy.pool.base.time.time", lambda: now + 31)
    assert connection() is not first
