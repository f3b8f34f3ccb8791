"""MLflow's database and its store of artifacts: what the other modules stand on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

BACKUPS = pathlib.Path(os.environ.get("MLFLOW_ADMIN_BACKUPS", "/var/lib/mlflow/backups"))
# whoever reads artifacts holds it shared, and what deletes them holds it alone
LOCK = pathlib.Path(os.environ.get("MLFLOW_ADMIN_LOCK", "/opt/mlflow/artifacts.lock"))
# seconds that it is waited for: by a copy, and by the deletion
COPY_WAITS, GC_WAITS = 120, 3600
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
    with engine.connect() as connection:
        current = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return current, current is None or is_known("alembic_version", current)


def is_known(table: str, revision: str) -> bool:
    """Whether this MLflow's migrations know a revision: that of the tables, or of the users' (alembic_version_auth)."""
    import mlflow
    from alembic.script import ScriptDirectory

    folder = "server/auth/db/migrations" if table == "alembic_version_auth" else "store/db_migrations"
    script = ScriptDirectory(str(pathlib.Path(mlflow.__file__).parent / folder))
    return any(found.revision == revision for found in script.walk_revisions())


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


@contextlib.contextmanager
def held(operation: int, seconds: float) -> Iterator[bool]:
    """Holds the lock of the artifacts; gives whether it was free within the seconds.

    Raises:
        Refused: there is no lock, as the role has not run since it knows of it.
    """
    try:
        # reading suffices: the file is root's, and the account only reads it
        descriptor = os.open(LOCK, os.O_RDONLY)
    except FileNotFoundError:
        raise Refused(f"{LOCK} is missing: run site.yml --tags tracking.") from None
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    yield False
                    return
                time.sleep(0.2)
        yield True
    finally:
        os.close(descriptor)


def gc(age: str) -> None:
    """Deletes for good what was deleted longer ago than the age, artifacts included, through the server.

    Waits for a backup that copies artifacts. After an hour it leaves them to its next run.
    """
    from mlflow.cli import cli

    with held(fcntl.LOCK_EX, GC_WAITS) as free:
        if not free:
            print(f"Nothing was deleted: somebody has read artifacts for {GC_WAITS} s (sudo fuser -v {LOCK}).")
            return
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
