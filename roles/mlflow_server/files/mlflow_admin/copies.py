"""Copies of the database: made before an upgrade, compared after it, put back when it failed."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import re
import sqlite3
from typing import Any

import sqlalchemy as sa

from .store import BACKUPS, URI, Refused, connect, counts, is_there, run


def backup(label: str) -> None:
    """Copies the database into the folder of the backups; prints the copy's path and the numbers of rows as JSON."""
    print(json.dumps(kept(label)))


def kept(label: str) -> dict[str, Any]:
    """Copies the database into the folder of the backups; gives the copy's path and the numbers of rows."""
    engine = connect(os.environ[URI])
    result: dict[str, Any] = {"file": "", "counts": counts(engine)}
    if is_there(engine) and engine.name in ("sqlite", "postgresql"):
        BACKUPS.mkdir(mode=0o750, exist_ok=True)
        time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        file = BACKUPS / f"{label}-{time}.{'db' if engine.name == 'sqlite' else 'dump'}"
        part = file.with_name(f".{file.name}")
        try:
            if engine.name == "sqlite":
                copy_sqlite(str(engine.url.database), str(part))
            else:
                run(engine.url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={part}")
            part.rename(file)
        except (OSError, sqlite3.Error) as error:
            raise Refused(f"The database could not be copied to {file}: {error}") from None
        finally:
            part.unlink(missing_ok=True)
        result["file"] = str(file)
    return result


def copy_sqlite(source: str, target: str) -> None:
    """Copies a SQLite database, also one that is in use."""
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def restore(file: str) -> None:
    """Puts a copy back in the place of the database in force. PostgreSQL takes all of it or nothing."""
    url = sa.make_url(os.environ[URI])
    if file.endswith(".db"):
        part = f"{url.database}.restored"
        copy_sqlite(file, part)
        for leftover in ("-wal", "-shm", "-journal"):
            pathlib.Path(f"{url.database}{leftover}").unlink(missing_ok=True)
        os.replace(part, str(url.database))
        return
    # what the migration had added would be in the way of the next one
    empty = """DO $$ DECLARE name text; BEGIN
      FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = current_schema()
      LOOP EXECUTE 'DROP TABLE ' || name || ' CASCADE'; END LOOP;
      FOR name IN SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
      LOOP EXECUTE 'DROP FUNCTION ' || name || ' CASCADE'; END LOOP;
      FOR name IN SELECT format('%I.%I', n.nspname, t.typname) FROM pg_type t
        JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = current_schema() AND t.typtype = 'e'
      LOOP EXECUTE 'DROP TYPE ' || name || ' CASCADE'; END LOOP;
      END $$;\n"""
    script = run(url, "pg_restore", "--no-owner", "--no-privileges", "--file=-", file)
    # pg_restore 17 sets it in the head of each script; a server before 17 does not know it
    script = re.sub(r"\A((?:(?!CREATE |COPY ).*\n)*?)SET transaction_timeout = 0;\n", r"\1", script)
    run(url, "psql", "--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1", input=empty + script)


def migrate() -> None:
    """Brings the database in force to the schema of this MLflow. One that is not there yet is left to the server."""
    from mlflow.cli import cli

    engine = connect(os.environ[URI])
    if not is_there(engine):
        return
    cli.main(["db", "upgrade", os.environ[URI]], standalone_mode=False)
    if sa.inspect(engine).has_table("users"):
        from mlflow.server.auth.db.utils import migrate_if_needed

        migrate_if_needed(engine, "head")


def undo(made: dict[str, Any]) -> None:
    """Puts the copy back that `backup` made, where it made one; what holds other rows by now is copied before.

    Args:
        made: what `backup` printed.
    """
    if not made["file"]:
        return
    now = counts(connect(os.environ[URI]))
    if any(now.get(name) != rows for name, rows in made["counts"].items()):
        backup("set-aside")
    restore(made["file"])


def compare(before: dict[str, int]) -> None:
    """Compares the numbers of rows with those before.

    Raises:
        Refused: a table has lost or gained some.
    """
    after = counts(connect(os.environ[URI]))
    lost = [f"{name} {rows} -> {after.get(name, 0)}" for name, rows in before.items() if after.get(name) != rows]
    if lost:
        raise Refused(f"The migrated database does not hold the same rows: {', '.join(lost)}")
