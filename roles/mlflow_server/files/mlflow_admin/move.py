"""Moves the data to another database and to an S3-compatible store."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from .store import ARTIFACTS, DESTINATION, KEPT, URI, Refused, connect, is_there, s3


def move(new: dict[str, Any]) -> None:
    """Copies database and artifacts to where the new settings say; nothing is taken away from where they are."""
    if new["settings"][URI] != os.environ[URI]:
        copy_database(os.environ[URI], new["settings"][URI])
    source = os.environ.get(DESTINATION, ARTIFACTS)
    if new["settings"][DESTINATION] != source:
        copy_artifacts(source, new["settings"])


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
