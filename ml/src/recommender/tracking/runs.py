"""Runs and experiments: how they begin and end."""

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


# Tags of a run: whose process it is. One whose process is gone is ended by the next.
PROCESS = ("process_host", "process_boot", "process")


def _process() -> dict[str, str]:
    # of a container as well, whose kernel was there before
    boot = f"{_read(Path('/proc/sys/kernel/random/boot_id'))} {_began(1)}".strip()
    return dict(zip(PROCESS, (platform.node(), boot, f"{os.getpid()} {_began(os.getpid())}"), strict=True))


def _began(pid: int) -> str:
    """When a process began, in ticks since the kernel's start; empty where the system does not tell."""
    # its name, in brackets, may hold blanks
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def end_lost(at: str) -> list[str]:
    """Set the runs of experiment `at` to KILLED whose process, of this job on this host, is gone.

    Returns their ids. Nobody is told of a process that was killed or whose host lost power.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client, mine, ended = mlflow.MlflowClient(), _process(), []
    for run in client.search_runs([at], "attributes.status = 'RUNNING'"):
        of = [run.data.tags.get(key, "") for key in PROCESS]
        if of[0] != mine[PROCESS[0]] or not of[2] or _alive(of[1], of[2], mine[PROCESS[1]]):
            continue
        # whoever may not end it leaves it
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
    """An MLflow run in the configured experiment: FINISHED at the end of the block, FAILED when it raises.

    It is called `name`, or after the algorithm; with `nested` it belongs to the active run, and with `run_id`
    an earlier run goes on.
    Raises RecommenderError for whatever MLflow cannot do, Untrusted before anything is written elsewhere.
    """
    import mlflow

    with stores.explained(f"{uris.redacted(uri)}: MLflow"):
        at = experiment(config.tracking.experiment, uri)
        if not nested and run_id is None:
            end_lost(at)
        with mlflow.start_run(
            run_id=run_id,
            experiment_id=at,
            run_name=None if run_id else name or config.algorithm,
            nested=nested,
            tags={**tags, **_process()},
        ) as active:
            # one that goes on may be of another experiment
            stores.require_server_store(active.info.artifact_uri)
            yield active


def experiment(name: str, uri: str) -> str:
    """The id of an experiment, made where there is none; raises InputError, Untrusted for one of no use."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    database = uris.local_database(uri)
    # A server has a place of its own; beside a local database the artifacts stand.
    place = (database.parent / "artifacts").as_uri() if database else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:
            # Another run may have made it meanwhile.
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
    """The parameter file as it was used, without the data's place, which may hold a password."""
    return config.model_dump(mode="json", exclude={"data": {"source"}})


def tag(run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run."""
    import mlflow
    from mlflow.entities import RunTag

    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
