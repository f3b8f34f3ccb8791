"""What would keep a new server from working, while the old one still runs; and whether it works."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import shutil
from typing import Any

import sqlalchemy as sa

from .logins import check_users
from .store import ARTIFACTS, BACKUPS, DESTINATION, URI, Refused, connect, holds_data, is_there, revisions, run, s3


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
