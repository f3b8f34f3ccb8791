"""What the role does with MLflow's database, artifacts and users. The interpreter is that of MLflow's environment.

The settings in force come by the environment, as the server gets them; what is new comes as JSON on standard input,
since an argument would show in the list of processes. Each verb ends with 0, or with 1 and one message for the operator
on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.util
import json
import os
import pathlib
import pwd
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

BACKUPS = pathlib.Path(os.environ.get("MLFLOW_ADMIN_BACKUPS", "/var/lib/mlflow/backups"))
URI = "MLFLOW_BACKEND_STORE_URI"
DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"
# where they were while it was told by the command line alone
ARTIFACTS = "/var/lib/mlflow/artifacts"
# what an operator would miss: no migration may change how many of them there are
KEPT = [
    "experiments", "experiment_tags", "runs", "metrics", "latest_metrics", "params", "tags", "datasets", "inputs",
    "input_tags", "logged_models", "registered_models", "registered_model_tags", "registered_model_aliases",
    "model_versions", "model_version_tags", "users",
]  # fmt: skip
PASSWORD = r"[A-Za-z0-9._~@+=:,/-]{12,128}"
# kinds of a permission, as mlflow_server_users and as MLflow call them
RESOURCES = {"experiment": "experiment", "model": "registered_model"}


class Refused(Exception):
    """Something that the operator has to mend; the message says how."""


def connect(uri: str) -> sa.Engine:
    """Engine of a database that answers.

    Raises:
        Refused: it does not, or nothing can be created in it.
    """
    url = sa.make_url(uri)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        options["connect_args"] = {"connect_timeout": 10}
    where = url.render_as_string(hide_password=True)
    try:
        engine = sa.create_engine(url, **options)
        if url.get_backend_name() == "sqlite" and not pathlib.Path(str(url.database)).exists():
            return engine
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            if engine.name == "postgresql" and not connection.scalar(
                sa.text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            ):
                raise Refused(
                    f"mlflow_server_backend {where}: the account may not create tables. GRANT CREATE ON SCHEMA"
                    " public to it."
                )
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise Refused(
            f"mlflow_server_backend {where} cannot be used: {getattr(error, 'orig', None) or error}\n"
            "Correct it, start the database, or let mlflow_server_ip_allow have its address."
        ) from None
    if tables and "alembic_version" not in tables:
        raise Refused(
            f"mlflow_server_backend {where} holds tables that are not MLflow's ({', '.join(sorted(tables)[:5])})."
            " Give MLflow a database of its own, empty at first."
        )
    return engine


def is_there(engine: sa.Engine) -> bool:
    """Whether the database holds MLflow's tables. Asking makes no SQLite file."""
    if engine.name == "sqlite" and not pathlib.Path(str(engine.url.database)).exists():
        return False
    return bool(sa.inspect(engine).has_table("alembic_version"))


def counts(engine: sa.Engine) -> dict[str, int]:
    """Number of rows of each table that an operator would miss."""
    if not is_there(engine):
        return {}
    present = set(sa.inspect(engine).get_table_names())
    with engine.connect() as connection:
        return {
            name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0
            for name in KEPT
            if name in present
        }


def holds_data(engine: sa.Engine) -> bool:
    """Whether somebody logged or registered something; a new server makes one experiment by itself."""
    rows = counts(engine)
    return rows.get("experiments", 0) > 1 or any(
        rows.get(name, 0) for name in ("runs", "registered_models", "logged_models")
    )


def revisions(engine: sa.Engine) -> tuple[str | None, bool]:
    """Revision of the database's schema, and whether this MLflow's migrations know it."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    with engine.connect() as connection:
        current = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    script = ScriptDirectory(str(pathlib.Path(mlflow.store.__file__).parent / "db_migrations"))
    return current, current is None or any(revision.revision == current for revision in script.walk_revisions())


def libpq(url: sa.URL) -> dict[str, str]:
    """Environment that leads PostgreSQL's programs to the database, so that the password is in no command line."""
    values = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "database": url.database,
    }
    values |= {name: str(value) for name, value in url.query.items()}
    names = {"connect_timeout": "PGCONNECT_TIMEOUT", "application_name": "PGAPPNAME"}
    given = {
        names.get(name, f"PG{name.replace('_', '').upper()}"): str(value)
        for name, value in values.items()
        if value is not None
    }
    return dict(os.environ) | given


def run(url: sa.URL, *command: str, **options: Any) -> str:
    """Output of one of PostgreSQL's programs."""
    try:
        return str(
            subprocess.run(command, env=libpq(url), check=True, capture_output=True, text=True, **options).stdout
        )
    except FileNotFoundError:
        raise Refused(f"{command[0]} is missing: apt install postgresql-client") from None
    except subprocess.CalledProcessError as error:
        raise Refused(f"{command[0]} failed: {error.stderr.strip()}") from None


def check_backup(engine: sa.Engine) -> None:
    """Whether a copy of the database can be made before an upgrade.

    Raises:
        Refused: no room for it, or PostgreSQL's programs are missing or too old.
    """
    if not is_there(engine):
        return
    needed = 0
    if engine.name == "sqlite":
        needed = os.stat(str(engine.url.database)).st_size
    elif engine.name == "postgresql":
        with engine.connect() as connection:
            needed = connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0
            server = int(connection.scalar(sa.text("SHOW server_version_num")) or 0) // 10000
        client = int((re.search(r"\d+", run(engine.url, "pg_dump", "--version")) or ["0"])[0])
        if client < server:
            raise Refused(
                f"PostgreSQL {server} cannot be backed up by this host's pg_dump {client}: install"
                f" postgresql-client-{server}"
                " (PostgreSQL's own apt repository has it), then run this again."
            )
    folder = next(path for path in [BACKUPS, *BACKUPS.parents] if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1 + 2**20:
        raise Refused(
            f"The copy of the database before the upgrade needs up to {needed / 2**20:.1f} MiB and {folder} has"
            f" {free / 2**20:.1f} MiB free."
            f" Make room, for instance by removing old copies from {BACKUPS}, and run this again."
        )


def check_artifacts(settings: dict[str, str]) -> None:
    """Whether an S3-compatible store takes, gives and deletes an object, with the settings that the server will have.

    Raises:
        Refused: it does not.
    """
    store = re.fullmatch(r"s3://([^/]+)/?(.*)", settings[DESTINATION])
    if not store:
        return
    try:
        bucket, prefix = store.groups()
        client = s3(settings)
        key = f"{prefix}/.probe".lstrip("/")
        client.put_object(Bucket=bucket, Key=key, Body=b"probe")
        client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.delete_object(Bucket=bucket, Key=key)
    except Exception as error:
        where = settings.get("MLFLOW_S3_ENDPOINT_URL", "AWS")
        raise Refused(
            f"mlflow_server_s3: {settings[DESTINATION]} at {where} cannot be written, read and deleted from: {error}\n"
            "Correct bucket, endpoint or keys, or let mlflow_server_ip_allow have its address."
        ) from None


def s3(settings: dict[str, str]) -> Any:
    """Client of the S3-compatible store, configured as MLflow configures its own, but for its patience."""
    import boto3
    from botocore.config import Config

    style = settings.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")
    return boto3.client(
        "s3",
        endpoint_url=settings.get("MLFLOW_S3_ENDPOINT_URL"),
        aws_access_key_id=settings.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=settings.get("AWS_SECRET_ACCESS_KEY"),
        region_name=settings.get("AWS_DEFAULT_REGION"),
        verify=settings.get("AWS_CA_BUNDLE"),
        config=Config(connect_timeout=5, retries={"max_attempts": 2}, s3={"addressing_style": style}),
    )


def check_users(users: list[Any]) -> None:
    """Whether mlflow_server_users says what can be done.

    Raises:
        Refused: at the first entry that does not.
    """
    names = [user.get("name") if isinstance(user, dict) else user for user in users]
    for user, name in zip(users, names, strict=True):
        what = f"mlflow_server_users: {name}"
        if not isinstance(user, dict) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}", str(name)):
            raise Refused(f"{what} is no user: give a name of letters, digits and ._@-")
        if name == "admin" or names.count(name) > 1:
            raise Refused(
                f"{what} stands {'for the account that the role makes itself' if name == 'admin' else 'twice'}: take"
                " one out."
            )
        unknown = set(user) - {"name", "password", "admin", "permissions", "accounts"}
        if unknown:
            raise Refused(
                f"{what} has {', '.join(sorted(unknown))}: an entry has name, password, admin, permissions and"
                " accounts."
            )
        if "password" in user and not re.fullmatch(PASSWORD, str(user["password"])):
            raise Refused(
                f"{what}: give a password of 12 to 128 letters, digits and ._~@+=:,/- or none, and one is made on"
                " the host."
            )
        if not isinstance(user.get("admin", False), bool):
            raise Refused(f"{what}: admin is true or false.")
        for account in user.get("accounts", []):
            try:
                home = pathlib.Path(pwd.getpwnam(account).pw_dir)
            except KeyError:
                home = pathlib.Path("/nonexistent")
            if not home.is_dir():
                raise Refused(
                    f"{what}: {account} is not an account with a home here. Make it (those of people are made by"
                    " site.yml --tags access), or take it out of accounts."
                )
        for grant in user.get("permissions", []):
            kinds = set(grant) & set(RESOURCES) if isinstance(grant, dict) else set()
            if (
                len(kinds) != 1
                or set(grant) != kinds | {"permission"}
                or grant["permission"] not in ("READ", "USE", "EDIT", "MANAGE", "DENY")
            ):
                raise Refused(
                    f"{what}: {json.dumps(grant)} is no permission: give {{experiment: NAME, permission: …}} or"
                    f" {{model: NAME, permission: …}}"
                    " with READ, USE, EDIT, MANAGE or DENY; the name * stands for all."
                )


def check(new: dict[str, Any]) -> None:
    """Everything that would keep the new server from working, while the old one still runs.

    Args:
        new: settings (environment of the new server), options (its command line), users, upgrade (whether another
            environment is in use), switch (refuse, move or leave: what to do about data where the server would no
            longer look), command (what moves it).

    Raises:
        Refused: with what to mend.
    """
    import click
    from mlflow.cli import server

    before = dict(os.environ)
    os.environ.update(new["settings"])
    try:
        server.make_context("mlflow server", list(new["options"]))
    except click.ClickException as error:
        raise Refused(
            f"mlflow server would not take its options (mlflow_server_extra_options): {error.format_message()}"
        ) from None
    except click.exceptions.Exit:
        raise Refused("mlflow_server_extra_options makes mlflow server end at once (such as --help)") from None
    if "basic-auth" in new["options"] and not importlib.util.find_spec("flask_wtf"):
        raise Refused("Logins need mlflow[auth] in mlflow_server_requirements: Flask-WTF is missing there.")
    check_users(new["users"])
    engine = connect(new["settings"][URI])
    if is_there(engine):
        revision, known = revisions(engine)
        if not known:
            raise Refused(
                f"The database's schema {revision} is of a newer MLflow than the one of mlflow_server_requirements."
                " MLflow cannot go back by itself:"
                f" take the newer lock, or restore the copy in {BACKUPS} that was made before the upgrade, as the"
                " role's README says."
            )
    if new["upgrade"]:
        check_backup(engine)
    check_artifacts(new["settings"])
    check_switch(new, before)


def check_switch(new: dict[str, Any], before: dict[str, str]) -> None:
    """Whether data stays behind where the server would no longer look; prints `move` where it is to be moved.

    Args:
        new: as `check` takes it, and command (what the operator types to move the data). Settings may be the database's
            alone, which says nothing of the artifacts.
        before: the settings in force.

    Raises:
        Refused: data would stay behind, or cannot be moved that way.
    """
    uri, source = new["settings"][URI], before.get(DESTINATION, ARTIFACTS)
    destination = new["settings"].get(DESTINATION, source)
    moved = before.get(URI, "") not in ("", uri)
    rehoused = bool(before.get(URI)) and source != destination
    kinds = ("postgresql", "sqlite")
    no_database = moved and not {sa.make_url(url).get_backend_name() for url in (uri, before[URI])} <= set(kinds)
    no_artifacts = rehoused and not (source.startswith("/") and destination.startswith("s3://"))
    if new["switch"] == "move" and (moved or rehoused):
        if new["upgrade"]:
            raise Refused(
                "MLflow would be upgraded and its data moved at once: run site.yml with the old backend, then move."
            )
        if no_database:
            raise Refused(
                "Data can be moved between SQLite and PostgreSQL only. mlflow_server_switch=leave begins with what is"
                " there."
            )
        if no_artifacts:
            raise Refused(f"Artifacts can be moved from a folder to S3 only, not from {source}.")
        print("move")
    if new["switch"] != "refuse":
        return
    choices = "leave it where it is, with -e mlflow_server_switch=leave, or take back the change of"
    if not (no_database or no_artifacts):
        choices = f"Move it by {new['command']}\nor {choices}"
    else:
        choices = f"It cannot be moved there: {choices}"
    if moved and holds_data(connect(before[URI])):
        raise Refused(
            f"The database in force holds data that the one of mlflow_server_backend would not have. {choices}"
            " mlflow_server_backend."
        )
    if rehoused and (source.startswith("s3:") or any(path.is_file() for path in pathlib.Path(source).rglob("*"))):
        raise Refused(f"{source} holds artifacts that would no longer be found. {choices} the artifacts' place.")


def backup(label: str) -> None:
    """Copies the database into the folder of the backups; prints the copy's path and the numbers of rows as JSON."""
    engine = connect(os.environ[URI])
    result: dict[str, Any] = {"file": "", "counts": counts(engine)}
    if is_there(engine) and engine.name in ("sqlite", "postgresql"):
        BACKUPS.mkdir(mode=0o750, exist_ok=True)
        time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
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
    print(json.dumps(result))


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


def probe(address: str) -> None:
    """Asks the server for its version, and reads experiments, runs, metrics and the registry as a client does.

    Raises:
        Refused: it does not answer, or is another version than this environment's.
    """
    import mlflow
    import requests
    from mlflow import MlflowClient

    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    try:
        answer = requests.get(
            f"{address}/version", auth=(name, os.environ["MLFLOW_TRACKING_PASSWORD"]) if name else None, timeout=60
        )
    except requests.RequestException as error:
        raise Refused(f"The server had no answer in 60 s when asked for its version: {error}") from None
    if answer.text != mlflow.__version__:
        raise Refused(
            f"The server answers {answer.status_code} {answer.text[:100]!r} when asked for its version, not"
            f" {mlflow.__version__}."
        )
    client = MlflowClient(address)
    experiments = client.search_experiments()
    for found in client.search_runs([experiment.experiment_id for experiment in experiments], max_results=5):
        run_read = client.get_run(found.info.run_id)
        for name in list(run_read.data.metrics)[:3]:
            client.get_metric_history(run_read.info.run_id, name)
    for model in client.search_registered_models(max_results=5):
        for alias in model.aliases:
            client.get_model_version_by_alias(model.name, alias)
        client.search_model_versions(f"name='{model.name}'", max_results=5)


def fingerprint(connection: sa.Connection, table: sa.Table, names: list[str]) -> tuple[int, int]:
    """Number of a table's rows and a digest that does not depend on their order."""
    rows, digest = 0, 0
    for row in stream(connection, table, names):
        text = json.dumps(
            [value.hex() if isinstance(value, bytes) else value for value in row.values()], sort_keys=True, default=str
        )
        digest = (digest + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")) % 2**128
        rows += 1
    return rows, digest


def stream(connection: sa.Connection, table: sa.Table, names: list[str]) -> Iterator[dict[str, Any]]:
    """A table's rows, a few thousand in memory at a time."""
    query = sa.select(*(table.c[name] for name in names)).execution_options(yield_per=5000)
    for row in connection.execute(query):
        yield dict(zip(names, row, strict=True))


def copy_database(source_uri: str, target_uri: str) -> None:
    """Copies every row from the database in force to an empty one, in one transaction, and compares both.

    Raises:
        Refused: the target holds other data, the schemas differ, or a row cannot be kept; the target is then as it was.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    source, target = connect(source_uri), connect(target_uri)
    if not is_there(source):
        return
    # makes the tables where there are none, and refuses those of another version
    SqlAlchemyStore(target_uri, "mlflow-artifacts:/")
    if sa.inspect(source).has_table("users"):
        from mlflow.server.auth.db.utils import migrate_if_needed

        migrate_if_needed(target, "head")
    old, new = sa.MetaData(), sa.MetaData()
    old.reflect(source)
    new.reflect(target)
    with source.connect() as reading, target.begin() as writing:
        missing = [
            name
            for name, table in old.tables.items()
            if name not in new.tables and reading.scalar(sa.select(sa.func.count()).select_from(table))
        ]
        if missing:
            raise Refused(f"The new database has no place for {', '.join(missing)}: nothing was moved.")
        shared = {
            table.name: [column.name for column in table.columns if column.name in old.tables[table.name].c]
            for table in new.sorted_tables
            if table.name in old.tables
        }
        before = {name: fingerprint(reading, old.tables[name], columns) for name, columns in shared.items()}
        present = {name: fingerprint(writing, new.tables[name], columns) for name, columns in shared.items()}
        if before == present:
            print("The new database holds the same already.")
            return
        if any(
            rows for name, (rows, _) in present.items() if name in KEPT and not (name == "experiments" and rows == 1)
        ):
            where = target.url.render_as_string(hide_password=True)
            file = target.url.database
            empty = (
                f"Move it away (sudo mv {file} {file}.old)"
                if target.name == "sqlite"
                else "Empty it (of Debian's own server: sudo -u postgres dropdb mlflow)"
            )
            raise Refused(
                f"{where} is not empty, and holds other data than the database in force: nothing was moved."
                f" {empty}, then run this again."
            )
        for table in reversed(new.sorted_tables):
            writing.execute(table.delete())
        for table in new.sorted_tables:
            if table.name not in shared:
                continue
            names = [name for name in shared[table.name] if table.c[name].computed is None]
            lost = set(old.tables[table.name].c.keys()) - set(table.c.keys())
            if lost:
                raise Refused(f"The new table {table.name} has no column {', '.join(sorted(lost))}: nothing was moved.")
            batch: list[dict[str, Any]] = []
            try:
                for row in stream(reading, old.tables[table.name], names):
                    batch.append(row)
                    if len(batch) == 5000:
                        writing.execute(table.insert(), batch)
                        batch = []
                if batch:
                    writing.execute(table.insert(), batch)
            except sa.exc.SQLAlchemyError as error:
                raise Refused(
                    f"Table {table.name} cannot be copied: {getattr(error, 'orig', None) or error}\nNothing was moved."
                ) from None
            # SQLite takes the next number from the rows
            for column in table.primary_key.columns if target.name == "postgresql" else []:
                sequence = writing.scalar(sa.select(sa.func.pg_get_serial_sequence(f'"{table.name}"', column.name)))
                if sequence:
                    last = writing.scalar(sa.select(sa.func.max(column)))
                    writing.execute(
                        sa.select(sa.func.setval(sequence, max(last or 0, 1), last is not None and last > 0))
                    )
        after = {name: fingerprint(writing, new.tables[name], columns) for name, columns in shared.items()}
        differing = [
            f"{name} ({before[name][0]} rows, {after[name][0]} copied)"
            for name in shared
            if before[name] != after[name]
        ]
        if differing:
            raise Refused(f"What was copied is not the same: {', '.join(differing)}. Nothing was moved.")
    print(f"copied and compared: {sum(rows for rows, _ in after.values())} rows of {len(after)} tables")


def copy_artifacts(source: str, settings: dict[str, str]) -> None:
    """Copies the artifacts of a folder to an S3-compatible store, and compares names and sizes. The folder stays.

    Raises:
        Refused: another direction, the store did not take them, or what arrived is not the same.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    store = re.fullmatch(r"s3://([^/]+)/?(.*)", settings[DESTINATION])
    if not store or not source.startswith("/"):
        raise Refused(f"Artifacts can be moved from a folder to S3 only, not from {source} to {settings[DESTINATION]}.")
    bucket, prefix = store.group(1), store.group(2).strip("/")
    client = s3(settings)
    files = {
        "/".join(filter(None, [prefix, str(path.relative_to(source))])): path
        for path in sorted(pathlib.Path(source).rglob("*"))
        if path.is_file()
    }
    try:
        for key, path in files.items():
            client.upload_file(str(path), bucket, key)
        sizes = {
            item["Key"]: item["Size"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for item in page.get("Contents", [])
        }
    except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
        raise Refused(
            f"The artifacts of {source} could not be sent to {settings[DESTINATION]}: {error}. Nothing was moved; run"
            " this again."
        ) from None
    differing = [key for key, path in files.items() if sizes.get(key) != path.stat().st_size]
    if differing:
        raise Refused(
            f"{len(differing)} artifacts did not arrive whole, such as {differing[0]}. Nothing was moved; run this"
            " again."
        )
    print(f"copied and compared: {len(files)} artifacts")


def move(new: dict[str, Any]) -> None:
    """Copies database and artifacts to where the new settings say; nothing is taken away from where they are."""
    if new["settings"][URI] != os.environ[URI]:
        copy_database(os.environ[URI], new["settings"][URI])
    source = os.environ.get(DESTINATION, ARTIFACTS)
    if new["settings"][DESTINATION] != source:
        copy_artifacts(source, new["settings"])


def credentials(wanted: dict[str, Any]) -> None:
    """Makes passwords that are not there, keeps each user's in a file for root, gives it to the user's accounts.

    Run by root. Prints what `users` takes: the users with their passwords, and what changed.

    Args:
        wanted: users, and the folder of their files.

    Raises:
        Refused: at the end of all, for the accounts whose file could not be written.
    """
    folder = pathlib.Path(wanted["folder"])
    changes: list[str] = []
    complete: list[dict[str, Any]] = []
    failed: list[str] = []
    folder.mkdir(mode=0o700, exist_ok=True)
    for user in wanted["users"]:
        file = folder / f"{user['name']}.env"
        text = file.read_text() if file.exists() else ""
        kept = re.search(rf"^MLFLOW_TRACKING_PASSWORD=({PASSWORD})$", text, re.M)
        password = user.get("password") or (kept and kept[1]) or secrets.token_urlsafe(24)
        if write(file, f"MLFLOW_TRACKING_USERNAME={user['name']}\nMLFLOW_TRACKING_PASSWORD={password}\n"):
            changes.append(f"wrote {file}")
        ini = f"[mlflow]\nmlflow_tracking_username = {user['name']}\nmlflow_tracking_password = {password}\n"
        for account in user.get("accounts", []):
            # as the account itself: in its home, root could be led elsewhere by a link
            script = (
                "cd && umask 077 && mkdir -p .mlflow && cd .mlflow && new=$(cat) && "
                "if test -e credentials && ! test -f credentials; then echo it is no regular file >&2; exit 1; fi && "
                'if test "$new" != "$(cat credentials 2>/dev/null)"; then '
                'printf "%s\\n" "$new" >credentials.new && mv credentials.new credentials && echo wrote; fi'
            )
            command = [
                "timeout",
                "30",
                "runuser",
                "-u",
                account,
                "--",
                "env",
                f"HOME={pwd.getpwnam(account).pw_dir}",
                "sh",
                "-c",
                script,
            ]
            written = subprocess.run(command, input=ini, text=True, capture_output=True)
            if written.returncode:
                why = written.stderr.strip() or (
                    "no answer for 30 s" if written.returncode == 124 else "no reason given"
                )
                failed.append(f"~{account}/.mlflow/credentials cannot be written: {why}")
            changes += [f"wrote ~{account}/.mlflow/credentials"] if written.stdout else []
        complete.append(user | {"password": password})
    for file in set(folder.glob("*.env")) - {folder / f"{user['name']}.env" for user in wanted["users"]}:
        file.unlink()
        changes.append(f"removed {file}")
    json.dump({"users": complete, "changes": changes}, sys.stdout)
    if failed:
        raise Refused("\n".join(failed))


def write(file: pathlib.Path, text: str) -> bool:
    """Replaces a file that only its owner reads, whole or not at all; false where it says the same already."""
    if file.exists() and file.read_text() == text:
        return False
    part = file.with_name(f".{file.name}.new")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    part.replace(file)
    return True


def users(wanted: dict[str, Any], address: str) -> None:
    """Makes the server's users those that are wanted, through its API so that its cache learns of it.

    Prints what changed. Permissions that a user has by having made something stay; those that an earlier run gave and
    that are no longer wanted go.

    Args:
        wanted: what `credentials` prints.
        address: of the server.
    """
    import requests
    from werkzeug.security import check_password_hash, generate_password_hash

    if not wanted:
        raise Refused("The users on the server were not changed.")
    changes = list(wanted["changes"])
    admin = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    # what earlier runs gave, lest it be taken for what a user has made
    file = pathlib.Path("/var/lib/mlflow/granted.json")
    table = sa.table("users", sa.column("username"), sa.column("is_admin"), sa.column("password_hash"))
    with connect(os.environ[URI]).begin() as connection:
        present = {row.username: row for row in connection.execute(sa.select(table))}
        # made anew on the host, while the server knows the one before
        if not check_password_hash(present[admin[0]].password_hash, admin[1]):
            changed = (
                table.update()
                .where(table.c.username == admin[0])
                .values(password_hash=generate_password_hash(admin[1]), is_admin=True)
            )
            connection.execute(changed)
            changes.append("password of admin")

    def ask(method: str, path: str, expected: tuple[int, ...] = (200, 204), **content: Any) -> Any:
        """What the server answers an admin's request."""
        try:
            answer = requests.request(method, f"{address}/api/{path}", auth=admin, timeout=60, **content)
        except requests.RequestException as error:
            raise Refused(f"{method} {path} had no answer in 60 s: {error}. Run this again.") from None
        if answer.status_code not in expected:
            raise Refused(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer

    def identifier(kind: str, name: str) -> str:
        """What MLflow's permissions call a thing; an experiment that is not there is made, to have one."""
        if kind == "model" or name == "*":
            return name
        found = ask("GET", "2.0/mlflow/experiments/get-by-name", (200, 404), params={"experiment_name": name})
        if found.status_code == 404:
            found = ask("POST", "2.0/mlflow/experiments/create", json={"name": name})
            changes.append(f"experiment {name}")
            return str(found.json()["experiment_id"])
        return str(found.json()["experiment"]["experiment_id"])

    for name in present.keys() - {admin[0]} - {user["name"] for user in wanted["users"]}:
        ask("DELETE", "2.0/mlflow/users/delete", json={"username": name})
        changes.append(f"removed {name}")
    granted = json.loads(file.read_text()) if file.exists() else {}
    given: dict[str, list[list[str]]] = {}
    for user in wanted["users"]:
        name, password = user["name"], user["password"]
        if name not in present:
            ask("POST", "2.0/mlflow/users/create", json={"username": name, "password": password})
            changes.append(f"made {name}")
        elif not check_password_hash(present[name].password_hash, password):
            ask("PATCH", "2.0/mlflow/users/update-password", json={"username": name, "password": password})
            changes.append(f"password of {name}")
        is_admin = bool(name in present and present[name].is_admin)
        if is_admin != user.get("admin", False):
            ask("PATCH", "2.0/mlflow/users/update-admin", json={"username": name, "is_admin": not is_admin})
            changes.append(f"{name} is {'no longer ' if is_admin else ''}admin")
        wants = {}
        for grant in user.get("permissions", []):
            kind = next(iter(set(grant) & set(RESOURCES)))
            wants[RESOURCES[kind], identifier(kind, grant[kind])] = grant["permission"]
        listed = ask("GET", "3.0/mlflow/users/permissions/list", params={"username": name}).json()["permissions"]
        has = {(item["resource_type"], item["resource_pattern"]): item["permission"] for item in listed}
        earlier = {(kind, pattern) for kind, pattern in granted.get(name, [])}
        for kind, pattern in (earlier & has.keys() - wants.keys()) | {
            key for key, value in wants.items() if has.get(key, value) != value
        }:
            ask(
                "POST",
                "3.0/mlflow/users/permissions/revoke",
                json={"username": name, "resource_type": kind, "resource_id": pattern},
            )
            changes.append(f"{name} lost {has.pop((kind, pattern))} on {kind} {pattern}")
        for (kind, pattern), permission in wants.items():
            if has.get((kind, pattern)) != permission:
                content = {"username": name, "resource_type": kind, "resource_id": pattern, "permission": permission}
                ask("POST", "3.0/mlflow/users/permissions/grant", json=content)
                changes.append(f"{name} has {permission} on {kind} {pattern}")
        given[name] = [list(key) for key in wants]
    write(file, json.dumps(given, sort_keys=True))
    print("\n".join(changes))


def gc(age: str) -> None:
    """Deletes for good what was deleted longer ago than the age, artifacts included, through the server."""
    from mlflow.cli import cli

    cli.main(
        [
            "gc",
            "--older-than",
            age,
            "--backend-store-uri",
            os.environ[URI],
            "--artifacts-destination",
            os.environ[DESTINATION],
        ],
        standalone_mode=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "verb",
        choices=[
            "check",
            "switch",
            "backup",
            "restore",
            "migrate",
            "compare",
            "undo",
            "probe",
            "move",
            "credentials",
            "users",
            "gc",
        ],
    )
    parser.add_argument("argument", nargs="?", default="")
    arguments = parser.parse_args()
    verbs: dict[str, Any] = {
        "check": lambda: check(json.load(sys.stdin)),
        "switch": lambda: check_switch(json.loads(arguments.argument), dict(os.environ)),
        "backup": lambda: backup(arguments.argument),
        "restore": lambda: restore(arguments.argument),
        "migrate": migrate,
        "compare": lambda: compare(json.loads(arguments.argument)["counts"]),
        "undo": lambda: undo(json.loads(arguments.argument)),
        "probe": lambda: probe(arguments.argument),
        "move": lambda: move(json.load(sys.stdin)),
        "credentials": lambda: credentials(json.load(sys.stdin)),
        "users": lambda: users(json.loads(sys.stdin.read() or "{}"), arguments.argument),
        "gc": lambda: gc(arguments.argument),
    }
    try:
        verbs[arguments.verb]()
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
