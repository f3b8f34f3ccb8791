"""Choose and check the MLflow store; explain its errors."""

import contextlib
import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from recommender import listener, typed, uris
from recommender.errors import InputError, RecommenderError

# MLflow's defaults retry for minutes. Git is not needed: the source digest is a tag.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
    # The report names the run; standard output holds nothing else.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Seconds to connect and to answer.
TIMEOUT = (3.0, 5.0)


def connect(uri: str | None = None) -> str:
    """Choose and check the store: `uri`, else MLFLOW_TRACKING_URI, else an SQLite database under ./mlruns.

    Returns the URI that MLflow now uses.
    Raises RecommenderError when a server does not answer within seconds or belongs to another account, and
    InputError for an invalid address.
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
            f"{uri}: not a tracking server. Give http://host:port, sqlite:///path/mlflow.db, or leave it out."
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
            has = "rejects the login of this account" if has_login(uri) else "this account has none"
            raise RecommenderError(
                f"{uris.redacted(uri)}: MLflow asks for a login, and {has}. MLflow's client reads it from "
                "~/.mlflow/credentials, "
                "or from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. On a server an operator gives"
                " your account one: recommender_members or mlflow_users in zz-mine.yml, then site.yml --tags "
                "tracking,recommender."
            ) from error
        raise RecommenderError(f"{uris.redacted(uri)}: MLflow: {error.message}") from error


def has_login(uri: str) -> bool:
    """Whether requests to `uri` carry a login: its own, the environment's or ~/.mlflow/credentials'."""
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    return (
        urlsplit(uri).username is not None
        or any(os.environ.get(name) for name in names)
        or os.path.exists(os.path.expanduser("~/.mlflow/credentials"))
    )


def _check_database(uri: str) -> None:
    """Create the tables of a local database.

    Raises RecommenderError when the store cannot be opened.
    """
    import mlflow
    import sqlalchemy as sa

    database = uris.local_database(uri)
    try:
        if database is None:
            # MLflow itself would try again for minutes
            sa.create_engine(uri, poolclass=sa.NullPool).connect().close()
        else:
            database.parent.mkdir(parents=True, exist_ok=True)
            # SQLite creates a file that the group cannot write, whatever the umask.
            with open(database.parent / ".lock", "ab") as lock, open(database, "ab"):
                # Two concurrent first runs would both create the tables.
                fcntl.flock(lock, fcntl.LOCK_EX)
                mlflow.MlflowClient().search_experiments(max_results=1)
    except OSError as error:
        raise RecommenderError(
            f"{uris.redacted(uri)}: {error.strerror}. The local store needs a folder that you can write; "
            "see --tracking-uri."
        ) from error
    except (sa.exc.SQLAlchemyError, mlflow.exceptions.MlflowException, ModuleNotFoundError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise RecommenderError(
            f"{uris.redacted(uri)}: cannot open this MLflow store: {cause}. See --tracking-uri."
        ) from error


# Schemes of stores that a server may name; a client's folder is not among them.
_STORES = ("mlflow-artifacts", "s3", "gs", "wasbs", "abfss")


class Untrusted(RecommenderError):
    """A tracking server names an artifact store that the client cannot trust."""


def require_server_store(place: str) -> str:
    """Return `place`, the URI of artifacts, if the tracking server may keep them there.

    An experiment's author chooses its folder. This process, perhaps root's, would read, write and delete
    there. MLflow's client would send its login to a server named there.
    Raises Untrusted when a tracking server names a folder or another server.
    """
    import mlflow

    by_server = mlflow.get_tracking_uri().startswith(("http://", "https://"))
    found = urlsplit(place)
    if by_server and found.scheme == "mlflow-artifacts" and found.netloc:
        raise Untrusted(
            f"{place}: the tracking server names another server, {found.netloc}, as its artifact store. "
            "The login would be sent there, so it was not contacted. Find out who made that experiment. "
            "Artifacts of the tracking server itself are at mlflow-artifacts:/, without a host."
        )
    if by_server and found.scheme not in _STORES:
        raise Untrusted(
            f"{place}: the tracking server names this as its artifact store, but a server cannot keep "
            "artifacts there. Nothing there was touched. Find out who made that experiment with its own "
            f"artifact location, and rename it. {typed.mlflow('experiments', 'search')} lists them."
        )
    return place


def _check_health(uri: str) -> None:
    mend = "Start it (or the tunnel to it), mend MLFLOW_TRACKING_URI, or unset that for a local store."
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
    verify: bool | str = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        reply = requests.get(uri.rstrip("/") + "/health", timeout=TIMEOUT, verify=verify)
    except requests.Timeout as error:
        raise RecommenderError(
            f"{uris.redacted(uri)}: the tracking server does not answer within seconds. {mend}"
        ) from error
    except requests.RequestException as error:
        # The innermost cause is the useful one; requests wraps it three times.
        raise RecommenderError(
            f"{uris.redacted(uri)}: the tracking server cannot be reached ({_innermost(error)}). {mend}"
        ) from error
    if reply.status_code != 200 or reply.text.strip() != "OK":
        raise RecommenderError(
            f"{uris.redacted(uri)}: GET /health answers {reply.status_code}, not the OK of an MLflow "
            f"server. {mend}"
        )


def _innermost(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error)


_RIGHT = (
    " Your login may read this but not change it. An operator gives more in mlflow_users (zz-mine.yml), then "
    "site.yml --tags tracking."
)
_LOOK = (
    "\nLook at the disk there (df -h) and the server's journal (journalctl -u mlflow), then type the same "
    "again."
)


@contextlib.contextmanager
def explained(what: str, then: str = "", storing: bool = False) -> Iterator[None]:
    """Wrap MLflow's errors in a RecommenderError, with `what` first and `then` last.

    The message names the remedy for a missing permission. With `storing`, lost connections and disk errors
    are wrapped too, and the message says where to look.
    Raises RecommenderError.
    """
    from mlflow.exceptions import MlflowException

    kinds = (MlflowException, requests.RequestException, OSError) if storing else (MlflowException,)
    try:
        yield
    except kinds as error:
        denied = getattr(error, "error_code", "") == "PERMISSION_DENIED"
        mend = _RIGHT if denied else _LOOK if storing else ""
        raise RecommenderError(f"{what}: {getattr(error, 'message', error)}{then}{mend}") from error


@contextlib.contextmanager
def own_code() -> Iterator[None]:
    """Restore sys.path after MLflow has put a model's copy of this package first.

    Otherwise processes started later would import that copy.
    """
    before = [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = before
