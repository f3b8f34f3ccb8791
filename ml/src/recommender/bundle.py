"""A registered version as one file: what it is, its run and every artifact, to be copied by value.

A tar archive of version.json, run/ (the run's artifacts) and model/ (the MLflow model). version.json has the
version's tags, the run's parameters, metrics with their history, tags and inputs, and each file's SHA-256.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender import registry
from recommender.errors import InputError, RecommenderError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = 1
CONTENT = "version.json"
MODEL, RUN = "model", "run"
# What decides how a version answers, or whether that can be checked; the rest are plots and notes.
_SEALED = (f"{MODEL}/", f"{RUN}/native/", f"{RUN}/golden.json")


def download(run_id: str, source: str, folder: Path) -> None:
    """Fetch a run's artifacts into `folder`/run and the model at the URI `source` into `folder`/model."""
    import mlflow

    mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=str(folder / RUN))
    if source.startswith("models:/"):
        mlflow.artifacts.download_artifacts(source, dst_path=str(folder / MODEL))
    else:
        # A promoted version has its model among its run's artifacts.
        shutil.move(folder / RUN / MODEL, folder / MODEL)
    # Written by the download itself; it names the version that was asked for.
    (folder / MODEL / "registered_model_meta").unlink(missing_ok=True)
    # Loading from a folder leaves bytecode in it, which Python would run instead of the sealed sources.
    for cache in [*folder.rglob("__pycache__")]:
        shutil.rmtree(cache)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file below run/ and model/, by its path relative to `folder`."""
    found = {}
    for path in _files(folder):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def seal(files: dict[str, str]) -> str:
    """artifact_digest: SHA-256 (hex) over name and digest of each file that decides how a version answers."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(files.items()) if name.startswith(_SEALED)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size(folder: Path) -> int:
    """Bytes of the model, which is what a server of it fetches."""
    return sum(path.stat().st_size for path in _files(folder) if path.is_relative_to(folder / MODEL))


def write(version: "ModelVersion", environment: str, path: Path, scratch: Path) -> None:
    """Write a registered version into the archive `path`; `scratch` is an empty folder for its files."""
    import mlflow

    client = mlflow.MlflowClient()
    run = registry.run_of(version)
    if run is None or version.source is None:
        raise RecommenderError(
            f"{version.name} {version.version}: its run {version.run_id} is deleted, and with it metrics and "
            f"artifacts. While mlflow gc has not run: mlflow runs restore --run-id {version.run_id}"
        )
    run_id = run.info.run_id
    download(run_id, version.source, scratch)
    content = {
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
                [key, point.value, point.timestamp, point.step]
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
    with tarfile.open(path, "w") as archive:
        for part in (CONTENT, RUN, MODEL):
            archive.add(scratch / part, part)


def read(path: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive into `folder` and return the content of its version.json.

    Raises InputError when it is none, is cut short, is of another format, or a file is not as it was written.
    """
    mend = "Write it anew: recommender export."
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        content: dict[str, Any] = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
        form, files = content["format"], content["files"]
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no complete archive of a version ({error!r}). {mend}") from error
    if form != FORMAT:
        raise InputError(f"{path}: format {form}, this is format {FORMAT}: use the same code at both ends.")
    if files != (found := digests(folder)):
        name = min(key for key in {*files, *found} if files.get(key) != found.get(key))
        raise InputError(f"{path}: {name} is not as it was written. {mend}")
    return content


def _files(folder: Path) -> Iterator[Path]:
    for part in (RUN, MODEL):
        yield from sorted(path for path in (folder / part).rglob("*") if path.is_file())
