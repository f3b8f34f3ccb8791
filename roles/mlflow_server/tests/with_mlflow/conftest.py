"""What the tests of the tool share: MLflow's database as two SQLite files, and a store of objects in memory."""

import pathlib
import shutil
import sqlite3
import sys
import types
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "files"))


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with an empty database of MLflow's and one with a run, a metric and a registered model."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("databases")
    MlflowClient(f"sqlite:///{folder}/empty.db").search_experiments()
    shutil.copy(folder / "empty.db", folder / "full.db")
    client = MlflowClient(f"sqlite:///{folder}/full.db")
    run = client.create_run(client.create_experiment("ratings", "file:///nowhere"))
    for step in range(3):
        client.log_metric(run.info.run_id, "rmse", 0.9 - step / 10, step=step)
    client.create_registered_model("dev.movie-recommender")
    version = client.create_model_version("dev.movie-recommender", "file:///nowhere", run.info.run_id)
    client.set_registered_model_alias("dev.movie-recommender", "champion", version.version)
    return folder


@pytest.fixture
def database(
    templates: pathlib.Path,
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> pathlib.Path:
    """The database in force, with data; copies of it go to the folder beside it."""
    path = tmp_path / "mlflow.db"
    shutil.copy(templates / "full.db", path)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{path}")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "artifacts"))
    for name in ("checks", "copies"):
        module = __import__(f"mlflow_admin.{name}", fromlist=[""])
        monkeypatch.setattr(module, "BACKUPS", tmp_path / "backups")
    lock = tmp_path_factory.mktemp("locks") / "artifacts.lock"
    lock.touch()
    monkeypatch.setattr(__import__("mlflow_admin.store", fromlist=[""]), "LOCK", lock)
    return path


@pytest.fixture
def empty(templates: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A database of a server that nobody has used."""
    path = tmp_path / "empty.db"
    shutil.copy(templates / "empty.db", path)
    return path


class Store:
    """S3's client as the tool uses it: objects in memory, what is cut off by `limit`, and an error to raise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.limit: int | None = None
        self.error: Exception | None = None

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:
        if self.error:
            raise self.error
        self.objects[f"{Bucket}/{Key}"] = Body

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": types.SimpleNamespace(read=lambda: self.objects[f"{Bucket}/{Key}"])}

    def delete_object(self, Bucket: str, Key: str) -> None:
        del self.objects[f"{Bucket}/{Key}"]

    def upload_file(self, path: str, bucket: str, key: str) -> None:
        self.put_object(bucket, key, pathlib.Path(path).read_bytes()[: self.limit])

    def get_paginator(self, name: str) -> Any:
        def paginate(Bucket: str, Prefix: str) -> list[dict[str, Any]]:
            found = {key.partition("/")[2]: len(body) for key, body in self.objects.items()}
            return [{"Contents": [{"Key": key, "Size": size}]} for key, size in found.items()] + [{}]

        return types.SimpleNamespace(paginate=paginate)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in the place of S3. Its Python package is on servers alone."""
    from mlflow_admin import checks, move

    found = Store()
    errors = types.ModuleType("botocore.exceptions")
    errors.BotoCoreError = errors.ClientError = type("ClientError", (Exception,), {})  # type: ignore[attr-defined]
    boto = types.ModuleType("boto3.exceptions")
    boto.Boto3Error = type("Boto3Error", (Exception,), {})  # type: ignore[attr-defined]
    for module in (errors, boto):
        monkeypatch.setitem(sys.modules, module.__name__.partition(".")[0], types.ModuleType("parent"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for user in (checks, move):
        monkeypatch.setattr(user, "s3", lambda settings: found)
    return found


def sql(path: pathlib.Path, *statements: str) -> list[Any]:
    """Rows of the last of the statements."""
    connection = sqlite3.connect(path)
    try:
        rows = [connection.execute(statement).fetchall() for statement in statements][-1]
        connection.commit()
    finally:
        connection.close()
    return rows


@pytest.fixture(name="sql")
def fixture_sql() -> Any:
    return sql
