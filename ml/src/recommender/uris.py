"""Parse and redact addresses of MLflow's stores and of databases."""

import contextlib
import re
from pathlib import Path


def redacted(uri: str) -> str:
    """Return the URI without its password, and a database's without its query, which may contain one."""
    import sqlalchemy as sa

    if not uri.startswith(("http://", "https://")):
        with contextlib.suppress(sa.exc.ArgumentError, ValueError):
            return sa.make_url(uri).set(query={}).render_as_string(hide_password=True)
    return re.sub(r"//.*@", "//***@", uri)


def local_database(uri: str) -> Path | None:
    """Return the absolute path of a local SQLite store; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def local_folder(uri: str) -> Path:
    """Return the folder of a local store; for a server, mlruns/ in the working directory."""
    database = local_database(uri)
    return database.parent if database else Path.cwd() / "mlruns"
