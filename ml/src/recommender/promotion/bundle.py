"""Pack a registered version into one file: its description, its run and every artifact.

A zip archive of version.json, run/ (the run's artifacts) and model/ (the MLflow model). version.json has the
version's tags, the run's parameters, metrics with their history, tags and inputs, and each file's SHA-256.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from recommender import typed
from recommender.errors import InputError, RecommenderError
from recommender.serving import manifest
from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = 1


class Input(TypedDict):
    """A dataset of a run, as MLflow describes it, and the tags of its use."""

    dataset: dict[str, str]
    tags: dict[str, str]


class Run(TypedDict):
    """A run; times in milliseconds since 1970, metrics as (name, value, time, step)."""

    id: str
    name: str
    start_time: int
    end_time: int
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]
    tags: dict[str, str]
    inputs: list[Input]


class Content(TypedDict):
    """version.json: a registered version, its run, and the SHA-256 (hex) of each file by its path."""

    format: int
    environment: str
    name: str
    version: str
    description: str
    tags: dict[str, str]
    run: Run
    files: dict[str, str]


CONTENT = "version.json"
MODEL, RUN = "model", "run"
# Files that determine or verify the answers; the rest are plots and notes.
_SEALED = (f"{MODEL}/", f"{RUN}/native/", f"{RUN}/golden.json", f"{RUN}/lists.json")


def download(run_id: str, source: str, folder: Path) -> None:
    """Fetch a run's artifacts into `folder`/run and the model at the URI `source` into `folder`/model.

    Raises RecommenderError for artifacts that the tracking server does not keep itself.
    """
    import mlflow

    stores.require_server_store(str(mlflow.MlflowClient().get_run(run_id).info.artifact_uri))
    mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=str(folder / RUN))
    if source.startswith("models:/"):
        download_model(source, folder)
    else:
        # A promoted version has its model among its run's artifacts.
        shutil.move(folder / RUN / MODEL, folder / MODEL)
        _strip(folder / MODEL)


def download_model(uri: str, folder: Path) -> None:
    """Fetch the logged model at a URI models:/m-… into `folder`/model; raises as `download` does."""
    import mlflow

    if not re.fullmatch(r"models:/m-[0-9a-f]+", uri):
        raise InputError(f"{uri}: this is not a model but a reference to another version. Promote that one.")
    logged = mlflow.MlflowClient().get_logged_model(uri.removeprefix("models:/"))
    stores.require_server_store(str(logged.artifact_location))
    mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / MODEL))
    _strip(folder / MODEL)


def _strip(model: Path) -> None:
    """Remove traces of loading and downloading from a model's folder, even inside a local store."""
    # This file names the requested version.
    (model / "registered_model_meta").unlink(missing_ok=True)
    # Python would run bytecode instead of the sealed sources.
    for cache in [*model.rglob("__pycache__")]:
        shutil.rmtree(cache)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file below run/ and model/, by its path relative to `folder`."""
    return {path.relative_to(folder).as_posix(): manifest.sha256(path) for path in _files(folder)}


def artifact_digest(files: dict[str, str]) -> str:
    """artifact_digest: SHA-256 (hex) over name and digest of each file that decides how a version answers."""
    lines = [f"{of}  {name}\n" for name, of in sorted(files.items()) if name.startswith(_SEALED)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size(folder: Path) -> int:
    """Return the size of the model's files in bytes."""
    return sum(path.stat().st_size for path in _files(folder) if path.is_relative_to(folder / MODEL))


def write(version: "ModelVersion", environment: str, path: Path, scratch: Path) -> None:
    """Write a registered version into the archive `path`; `scratch` is an empty folder for its files."""
    import mlflow

    client = mlflow.MlflowClient()
    run = registry.run_of(version)
    if run is None or version.source is None:
        raise RecommenderError(
            f"{version.name} {version.version}: its run {version.run_id} is deleted, and with it metrics and "
            f"artifacts. While mlflow gc has not run: "
            + typed.mlflow("runs", "restore", "--run-id", str(version.run_id))
        )
    run_id = run.info.run_id
    download(run_id, version.source, scratch)
    content: Content = {
        "format": FORMAT,
        "environment": environment,
        "name": version.name,
        "version": str(version.version),
        "description": version.description or "",
        "tags": registry.tags(version),
        "run": {
            "id": run_id,
            "name": run.info.run_name,
            "start_time": run.info.start_time,
            "end_time": run.info.end_time,
            "params": run.data.params,
            "metrics": [
                (key, point.value, point.timestamp, point.step)
                for key in sorted(run.data.metrics)
                for point in client.get_metric_history(run_id, key)
            ],
            "tags": run.data.tags,
            "inputs": [
                {"dataset": dict(each.dataset), "tags": {tag.key: tag.value for tag in each.tags}}
                for each in (run.inputs.dataset_inputs if run.inputs else [])
            ],
        },
        "files": digests(scratch),
    }
    (scratch / CONTENT).write_text(json.dumps(content), encoding="utf-8")
    with zipfile.ZipFile(path, "w") as archive:
        for file in (scratch / CONTENT, *_files(scratch)):
            archive.write(file, file.relative_to(scratch))


def read(path: Path, folder: Path, environment: str = "dev") -> Content:
    """Unpack an archive of a version in `environment` into `folder`; returns its version.json's content.

    Raises InputError for an invalid or truncated archive, another format, or a changed file.
    """
    again = f"recommender export --environment {environment} --output {typed.quoted(path)}"
    mend = f"Write it again where its version is: {again}"
    try:
        # Not tar: its extraction is safe from Python 3.11.4 on, and Debian 12 has 3.11.2.
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        content: Content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
        form, files = content["format"], content["files"]
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a complete archive of a version ({error}). {mend}") from error
    if form != FORMAT:
        raise InputError(
            f"{path}: format {form}, but this code needs format {FORMAT}. Use the same code at both ends."
        )
    if files != (found := digests(folder)):
        name = min(key for key in {*files, *found} if files.get(key) != found.get(key))
        raise InputError(f"{path}: {name} was changed. {mend}")
    return content


def _files(folder: Path) -> Iterator[Path]:
    for part in (RUN, MODEL):
        yield from sorted(path for path in (folder / part).rglob("*") if path.is_file())
