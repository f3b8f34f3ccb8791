"""Start and end runs; find or create experiments."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender import typed, uris
from recommender.errors import InputError
from recommender.tracking import stores

if TYPE_CHECKING:
    from recommender.config import Config


# Tags of a run that identify its process; the next run ends lost ones.
PROCESS = ("process_host", "process_boot", "process")


def _process() -> dict[str, str]:
    # A container's kernel booted before it: add the start of process 1.
    boot = f"{_read(Path('/proc/sys/kernel/random/boot_id'))} {_began(1)}".strip()
    return dict(zip(PROCESS, (platform.node(), boot, f"{os.getpid()} {_began(os.getpid())}"), strict=True))


def _began(pid: int) -> str:
    """Return when a process began, in ticks since boot; empty if unknown."""
    # The name, in brackets, may contain blanks.
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def end_lost(at: str) -> list[str]:
    """Set running runs of experiment `at` to KILLED if their process on this host is gone.

    MLflow does not notice a killed process or a power loss. Returns the runs' ids.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client, mine, ended = mlflow.MlflowClient(), _process(), []
    for run in client.search_runs([at], "attributes.status = 'RUNNING'"):
        of = [run.data.tags.get(key, "") for key in PROCESS]
        if of[0] != mine[PROCESS[0]] or not of[2] or _alive(of[1], of[2], mine[PROCESS[1]]):
            continue
        # This login may lack the right to end it.
        with contextlib.suppress(MlflowException):
            client.set_terminated(run.info.run_id, "KILLED")
            ended.append(run.info.run_id)
    return ended


def _alive(boot: str, process: str, boot_now: str) -> bool:
    if boot and boot_now and boot != boot_now:
        return False
    pid, _, began = process.partition(" ")
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass
    except (OSError, ValueError, OverflowError):
        return False
    now = _began(int(pid))
    return not began or not now or began == now


@contextlib.contextmanager
def run(
    config: "Config",
    uri: str,
    tags: dict[str, str],
    name: str | None = None,
    nested: bool = False,
    run_id: str | None = None,
) -> Iterator[Any]:
    """Open an MLflow run in the configured experiment: FINISHED after the block, FAILED when it raises.

    The name is `name`, or the algorithm's. With `nested` the run belongs to the active run. With `run_id` an
    earlier run resumes.
    Raises RecommenderError for errors of MLflow, Untrusted before anything is written elsewhere.
    """
    import mlflow

    with stores.explained(f"{uris.redacted(uri)}: MLflow"):
        at = experiment(config.tracking.experiment, uri)
        if not nested and run_id is None:
            end_lost(at)
        with mlflow.start_run(
            run_id=run_id,
            experiment_id=at,
            run_name=None if run_id else name or config.named,
            nested=nested,
            tags={**tags, **_process()},
        ) as active:
            # A resumed run may belong to another experiment.
            stores.require_server_store(active.info.artifact_uri)
            yield active


def experiment(name: str, uri: str) -> str:
    """Return the id of an experiment; create it if missing.

    Raises InputError for a deleted experiment, Untrusted for one with a foreign artifact store.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    database = uris.local_database(uri)
    # A server chooses its own place; a local store keeps artifacts beside the database.
    place = (database.parent / "artifacts").as_uri() if database else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:
            # Another run may have created it meanwhile.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        restore = typed.mlflow("experiments", "restore", "--experiment-id", str(found.experiment_id))
        raise InputError(
            f"{uris.redacted(uri)}: experiment {name!r} is deleted. Restore it: {restore}\n"
            "Or give another name as tracking.experiment."
        )
    stores.require_server_store(found.artifact_location)
    return str(found.experiment_id)


def parameters(config: "Config") -> dict[str, Any]:
    """Return the effective parameter file without data.source, which may contain a password."""
    return config.model_dump(mode="json", exclude={"data": {"source"}})


def tag(run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run."""
    import mlflow
    from mlflow.entities import RunTag

    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
