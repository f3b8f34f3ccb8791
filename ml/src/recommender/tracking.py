"""MLflow's edge: which store, whether it answers, and what one run logs."""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from recommender import listener, typed
from recommender.errors import InputError, RecommenderError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from recommender.config import Config
    from recommender.data import Ratings
    from recommender.evaluate import Evaluation

# A server that does not answer is told in seconds; MLflow's own default is minutes of retries. Git is no part
# of a run here: the deployed folder is no checkout, and its digest is a tag.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
    # The report names the run; standard output holds nothing else.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Seconds to connect and to answer.
TIMEOUT = (3.0, 5.0)
SERVING = Path(__file__).with_name("serving.py")


def connect(uri: str | None = None) -> str:
    """Choose and check the store: `uri`, else MLFLOW_TRACKING_URI, else an SQLite database under ./mlruns.

    Returns the URI that MLflow now uses. Raises RecommenderError when a server does not answer within
    seconds, and when it is somebody else's program, InputError for an address that is none.
    """
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlruns' / 'mlflow.db'}"
    server = uri.startswith(("http://", "https://"))
    if server:
        listener.check(uri, has_login(uri))
        _check_health(uri)
    elif not re.match(r"(sqlite|postgresql|mysql|mssql)[+a-z0-9]*://", uri):
        raise InputError(
            f"{uri}: no tracking server. Give http://host:port, sqlite:///path/mlflow.db, or leave it out."
        )
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if server:
        _check_login(uri)
    else:
        _check_database(uri)
    return uri


def _check_login(uri: str) -> None:
    """Raise RecommenderError where the server asks for a login and does not take this account's."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        if error.error_code == "UNAUTHENTICATED" or "error code 401" in error.message:
            has = "does not take the one that this account has" if has_login(uri) else "this account has none"
            raise RecommenderError(
                f"{shown(uri)}: MLflow asks for a login, and {has}. It is read from ~/.mlflow/credentials, "
                "or from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. On a server an operator gives"
                " your account one: recommender_members or mlflow_users in zz-mine.yml, then site.yml --tags "
                "tracking,recommender."
            ) from error
        raise RecommenderError(f"{shown(uri)}: MLflow: {error.message}") from error


def has_login(uri: str) -> bool:
    """Whether requests to `uri` carry a login: its own, the environment's or ~/.mlflow/credentials'."""
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    return (
        urlsplit(uri).username is not None
        or any(os.environ.get(name) for name in names)
        or os.path.exists(os.path.expanduser("~/.mlflow/credentials"))
    )


def _check_database(uri: str) -> None:
    """Make the tables of a local database; raise RecommenderError where there is no store."""
    import mlflow
    import sqlalchemy as sa

    database = local_database(uri)
    try:
        if database is None:
            # MLflow itself would try again for minutes
            sa.create_engine(uri, poolclass=sa.NullPool).connect().close()
        else:
            database.parent.mkdir(parents=True, exist_ok=True)
            # SQLite itself would make a file that the group cannot write, whatever the umask.
            with open(database.parent / ".lock", "ab") as lock, open(database, "ab"):
                # Two first runs at once would both make the tables.
                fcntl.flock(lock, fcntl.LOCK_EX)
                mlflow.MlflowClient().search_experiments(max_results=1)
    except OSError as error:
        raise RecommenderError(
            f"{shown(uri)}: {error.strerror}. The local store needs a folder that you can write; "
            "see --tracking-uri."
        ) from error
    except (sa.exc.SQLAlchemyError, mlflow.exceptions.MlflowException, ModuleNotFoundError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise RecommenderError(
            f"{shown(uri)}: no store of MLflow's that answers: {cause}. See --tracking-uri."
        ) from error


# Schemes of stores that a server may name to its clients; no folder of theirs is among them.
_STORES = ("mlflow-artifacts", "s3", "gs", "wasbs", "abfss")


class Untrusted(RecommenderError):
    """A tracking server keeps artifacts where it has no business."""


def trusted(place: str) -> str:
    """`place`, where artifacts are; raises Untrusted when a tracking server names a folder or another server.

    Whoever may make an experiment there chooses that folder, and what is read, written and removed in it by
    this process, which may be root's. And MLflow's client sends its login to a server that is named there.
    """
    import mlflow

    by_server = mlflow.get_tracking_uri().startswith(("http://", "https://"))
    found = urlsplit(place)
    if by_server and found.scheme == "mlflow-artifacts" and found.netloc:
        raise Untrusted(
            f"{place}: the tracking server names another one, {found.netloc}, as the place of the artifacts. "
            "The login would be sent there, so nothing was asked of it. Find out who made that experiment. "
            "Artifacts of the tracking server itself are at mlflow-artifacts:/, without a host."
        )
    if by_server and found.scheme not in _STORES:
        raise Untrusted(
            f"{place}: the tracking server names this as the place of the artifacts, and it is none that a "
            "server keeps. Nothing there was touched. Find out who made that experiment with a place of its "
            f"own, and rename it. {typed.mlflow('experiments', 'search')} lists the experiments."
        )
    return place


def shown(uri: str) -> str:
    """The URI without its password, and a database's without its query, which may hold one too."""
    import sqlalchemy as sa

    if not uri.startswith(("http://", "https://")):
        with contextlib.suppress(sa.exc.ArgumentError, ValueError):
            return sa.make_url(uri).set(query={}).render_as_string(hide_password=True)
    return re.sub(r"//.*@", "//***@", uri)


def local_database(uri: str) -> Path | None:
    """The file of a local SQLite store, absolute; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def place(uri: str) -> Path:
    """The folder of a local store; for a server mlruns/ in the working directory."""
    database = local_database(uri)
    return database.parent if database else Path.cwd() / "mlruns"


def _check_health(uri: str) -> None:
    mend = "Start it (or the tunnel to it), mend MLFLOW_TRACKING_URI, or unset that for a local store."
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
    verify: bool | str = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        reply = requests.get(uri.rstrip("/") + "/health", timeout=TIMEOUT, verify=verify)
    except requests.Timeout as error:
        raise RecommenderError(
            f"{shown(uri)}: the tracking server does not answer within seconds. {mend}"
        ) from error
    except requests.RequestException as error:
        # The innermost cause says what happened; requests wraps it in its own words thrice.
        raise RecommenderError(
            f"{shown(uri)}: the tracking server cannot be reached ({_innermost(error)}). {mend}"
        ) from error
    if reply.status_code != 200 or reply.text.strip() != "OK":
        raise RecommenderError(
            f"{shown(uri)}: GET /health answers {reply.status_code}, not the OK of an MLflow server. {mend}"
        )


def _innermost(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error)


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
    from mlflow.exceptions import MlflowException

    try:
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
            trusted(active.info.artifact_uri)
            yield active
    except MlflowException as error:
        raise RecommenderError(f"{shown(uri)}: MLflow: {why(error)}") from error


def why(error: "MlflowException") -> str:
    """What MLflow says, and how to be given a right that it misses."""
    denied = error.error_code == "PERMISSION_DENIED"
    return error.message + (
        " Your login may read this and not change it: an operator gives more in mlflow_users (zz-mine.yml), "
        "then site.yml --tags tracking."
        if denied
        else ""
    )


def experiment(name: str, uri: str) -> str:
    """The id of an experiment, made where there is none; raises InputError, Untrusted for one of no use."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    database = local_database(uri)
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
            f"{shown(uri)}: experiment {name!r} is deleted. Restore it: {restore}\n"
            "Or give another name as tracking.experiment."
        )
    trusted(found.artifact_location)
    return str(found.experiment_id)


def log_inputs(client: "MlflowClient", run_id: str, inputs: list[Any]) -> None:
    """Log the datasets of a run. Raises MlflowException, of the second try."""
    import mlflow

    try:
        client.log_inputs(run_id, inputs)
    except mlflow.exceptions.MlflowException:
        # of two runs that are the first with a dataset, MLflow refuses the one that is later by a moment
        client.log_inputs(run_id, inputs)


def log_evaluation(
    run_id: str, config: "Config", ratings: "Ratings", evaluation: "Evaluation | None"
) -> None:
    """Log parameters, dataset, per-fold and mean metrics, plot and environment to the active run."""
    import mlflow
    from mlflow.entities import Metric, Param

    flat = {
        "algorithm": config.algorithm,
        "seed": config.seed,
        **{f"params.{key}": value for key, value in config.params.items()},
        **{f"evaluation.{key}": value for key, value in config.evaluation},
        **{f"recommendation.{key}": value for key, value in config.recommendation},
    }
    client = mlflow.MlflowClient()
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])
    log_inputs(client, run_id, [_dataset(config, ratings)])
    mlflow.log_dict(parameters(config), "config.yaml")
    mlflow.log_dict(_environment(), "environment.json")
    if evaluation is not None:
        now = int(time.time() * 1000)
        numbers = [Metric(key, value, now, 0) for key, value in evaluation.mean().items()]
        for step, fold in enumerate(evaluation.folds, start=1):
            numbers += [Metric(f"fold_{key}", value, now, step) for key, value in vars(fold).items()]
        client.log_batch(run_id, metrics=numbers)
        from recommender import plots

        mlflow.log_figure(plots.evaluation(evaluation, ratings.scale), "plots/evaluation.png")


def parameters(config: "Config") -> dict[str, Any]:
    """The parameter file as it was used, without the data's place, which may hold a password."""
    return config.model_dump(mode="json", exclude={"data": {"source"}})


def log_seconds(run_id: str, seconds: dict[str, float]) -> None:
    """Log wall seconds of the run's parts as metrics seconds_<part>."""
    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(
        run_id, metrics=[Metric(f"seconds_{k}", v, now, 0) for k, v in seconds.items()]
    )


def log_report(report: dict[str, Any], name: str) -> None:
    """Keep the run's own report as its artifact `name`."""
    import mlflow

    mlflow.log_dict(report, name)


def tag(run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run."""
    import mlflow
    from mlflow.entities import RunTag

    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_model(native: Path, arrays: Path, metadata: dict[str, Any], example: dict[str, float]) -> Any:
    """Log the folder with Surprise's dump as the run's artifact native/, and the MLflow model.

    `arrays` is the folder of a saved Recommender, all that the model answers from; `example` is a history,
    item: rating, for the input example. Returns MLflow's ModelInfo.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    mlflow.log_artifacts(str(native), "native")
    packages = ("mlflow", "numpy", "pandas")
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(SERVING),
        code_paths=[str(SERVING.parent)],
        artifacts={"recommender": str(arrays)},
        # Named here, or MLflow starts a second process to find them out.
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in packages],
        signature=ModelSignature(
            inputs=Schema(
                [
                    ColSpec("string", "user", required=False),
                    ColSpec("string", "item", required=False),
                    ColSpec("long", "k", required=False),
                    ColSpec(AnyType(), "history", required=False),  # type: ignore[no-untyped-call]
                    ColSpec("long", "reasons", required=False),
                    ColSpec("string", "similar_to", required=False),
                ]
            )
        ),
        input_example=pd.DataFrame({"user": ["new"], "k": [10], "history": [example], "reasons": [2]}),
        metadata=metadata,
    )


def _dataset(config: "Config", ratings: "Ratings") -> Any:
    """The dataset as MLflow shows it; its own from_pandas looks at every id to learn that ids are text."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = (("string", "user"), ("string", "item"), ("double", "rating"))
    schema = {"mlflow_colspec": [{"type": kind, "name": name, "required": True} for kind, name in columns]}
    profile = {"num_rows": len(ratings), "num_users": len(ratings.users), "num_items": len(ratings.items)}
    entity = Dataset(
        name=ratings.name,
        # MLflow's column for it has 36 characters; the tag dataset_digest has it whole.
        digest=ratings.digest()[:32],
        source_type="sql" if config.data.is_sql else "local",
        source=json.dumps({"uri": shown(config.data.source)}),
        schema=json.dumps(schema),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])


def _environment() -> dict[str, Any]:
    packages = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }
