"""Reads the role's variables as they stand in the inventory: which of them the server could not start with, and why."""

import json
import re
from collections.abc import Iterator
from typing import Any

# the role gives these folders to the server's account: a slip must not give it /var/lib
OWN_FOLDER = r"(?!.*/\.\.(/|$))(?!/home/|/root/|/run/|/tmp/|/var/tmp/)(/[\w.-]+)*/[\w.-]*mlflow[\w.-]*(/[\w.-]+)*"
OWN_FOLDER_WANTED = (
    "lies in a folder of its own with mlflow in its name, with no other signs than letters, digits and ._- in its path,"
    " and outside /home, /root, /run, /tmp and /var/tmp, which the unit cannot see"
)
ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}$"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*$"
DATABASE = r"(postgres|postgresql|mysql|mssql)(\+\w+)?://\S+$"
STORE = ["bucket", "endpoint", "access_key", "secret_key", "region"]
# of other hosts than the server's own, to which clients would send their login
ARTIFACTS = r"mlflow-artifacts://[^/]"
SETTINGS = (
    r"(MLFLOW_(BACKEND_STORE_URI|ARTIFACTS_DESTINATION|AUTH_.*|TRACKING_.*)|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY))$"
)
OPTIONS = (
    r"--(host|port|workers|dev|(uvicorn|gunicorn|waitress)-opts|app-name|backend-store-uri"
    r"|serve-artifacts|no-serve-artifacts|artifacts-destination|allowed-hosts|static-prefix)(=|$)"
)
WANTED = {
    "mlflow_server_user": "give the name of a system account in lower case, other than root",
    "mlflow_server_port": "give a port from 1024 to 65535, since the account may not open a lower one",
    "mlflow_server_workers": "give 1 or more",
    "mlflow_server_backend": "give sqlite, postgresql, or the URL of a database that exists, as in"
    " postgresql://user:password@host:5432/mlflow (signs such as @ and / in the password as %40 and %2F). A SQLite file"
    f" takes four slashes, as in sqlite:////data/mlflow/mlflow.db, and {OWN_FOLDER_WANTED}",
    "mlflow_server_s3": "give bucket (or bucket/folder), endpoint (https://host or http://host:port), access_key and"
    " secret_key together, and region, none of them empty, and nothing else",
    "mlflow_server_artifacts_destination": f"give a folder such as /data/mlflow/artifacts, which {OWN_FOLDER_WANTED};"
    " for S3 there is mlflow_server_s3",
    "mlflow_server_memory_max": "give bytes, with K, M, G or T, or a percentage, or infinity",
    "mlflow_server_groups": "give names of groups in lower case, other than root",
    "mlflow_server_ip_allow": "give addresses, networks such as 10.0.0.0/8, or any, localhost, link-local and"
    " multicast; host names are not known there",
    "mlflow_server_gc_older_than": "give days, hours and minutes such as 30d or 1d12h, or nothing for never",
    "mlflow_server_allowed_hosts": "give host names or IPv4 addresses without scheme and port",
    "mlflow_server_settings": "give names of environment variables with values of one line; database, artifacts, their"
    " keys and the logins have variables of their own (mlflow_server_backend, mlflow_server_s3, mlflow_server_auth);"
    " the server's own artifacts are mlflow-artifacts:/, without a host, since clients would send their login to the"
    " host named",
    "mlflow_server_extra_options": "give none of the options that the role sets itself by its variables, no"
    " --static-prefix, which would move the address of the health check, none of the web server, which gets the port"
    " from systemd, and no line breaks; the server's own artifacts are mlflow-artifacts:/, without a host, since"
    " clients would send their login to the host named",
    "mlflow_server_environment": "give names of environment variables, such as HTTPS_PROXY",
    "mlflow_server_requirements": "give a lock made by uv pip compile --universal --python-version 3.11"
    " --generate-hashes that pins mlflow and uv",
}


def matches(pattern: str, value: Any) -> bool:
    return bool(re.match(pattern, str(value)))


def number(value: Any) -> int:
    """As Jinja's int reads it: 0 for what holds none."""
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def is_store(store: dict[str, Any]) -> bool:
    return (
        matches(r"[a-z0-9][a-z0-9.-]{2,62}(/[\w.-]+)*$", store.get("bucket", ""))
        and matches(r"https?://[^\s/]+/?$", store.get("endpoint", "https://any"))
        and ("access_key" in store) == ("secret_key" in store)
        and set(store) <= set(STORE)
        and not any(re.search(r"\s|^$", str(value)) for value in store.values())
    )


def are_settings(settings: dict[str, Any]) -> bool:
    return all(
        matches(VARIABLE, name) and not matches(SETTINGS, name) and "\n" not in str(value)
        and not matches(ARTIFACTS, value)
        for name, value in settings.items()
    )  # fmt: skip


def checked(given: dict[str, Any], sqlite: str, lock: str) -> Iterator[tuple[str, Any, bool]]:
    """Each variable, what may be shown of its value, and whether the server could start with it."""

    def of(name: str) -> Any:
        return given[f"mlflow_server_{name}"]

    def each(name: str, pattern: str) -> tuple[str, Any, bool]:
        return name, of(name), all(matches(pattern, entry) for entry in of(name))

    yield "user", of("user"), matches(ACCOUNT, of("user")) and of("user") != "root"
    yield "port", of("port"), 1024 <= number(of("port")) <= 65535
    yield "workers", of("workers"), number(of("workers")) >= 1
    backend = of("backend")
    own_file = matches("sqlite:", backend) and matches(OWN_FOLDER + r"/[\w.-]+$", sqlite)
    known = backend in ("sqlite", "postgresql") or matches(DATABASE, backend) or own_file
    yield "backend", re.sub("://.*@", "://...@", str(backend)), known
    yield "s3", list(of("s3")), not of("s3") or is_store(of("s3"))
    place = of("artifacts_destination")
    yield "artifacts_destination", place, matches(rf"[a-z0-9+]+://[\w./:@-]+$|{OWN_FOLDER}$", place)
    memory = of("memory_max")
    yield "memory_max", memory, matches(r"(\d+[KMGT]?|\d+(\.\d+)?%|infinity)$", memory)
    yield each("groups", f"(?!root$){ACCOUNT}")
    yield each("ip_allow", r"(any|localhost|link-local|multicast|[0-9a-fA-F.:]+(/\d+)?)$")
    age = of("gc_older_than")
    yield "gc_older_than", age, matches(r"$|(?=.)(\d+d)?(\d+h)?(\d+m)?$", age)
    yield each("allowed_hosts", r"[A-Za-z0-9.*-]+$")
    # of these the values may be secret
    yield "settings", list(of("settings")), are_settings(of("settings"))
    options = of("extra_options")
    unfit = [word for word in options if matches(OPTIONS, word) or re.search(rf"\n|{ARTIFACTS}", str(word))]
    yield "extra_options", options, not unfit
    variables = list(of("environment"))
    yield "environment", variables, all(matches(VARIABLE, name) for name in variables)
    pins = [rf"(?m)^{name}==\S" for name in (r"mlflow(?:\[[a-z,-]+\])?", "uv")]
    locked = all(re.search(pin, lock) for pin in pins) and "--hash=" in lock
    yield "requirements", of("requirements"), locked


def mlflow_server_faults(given: dict[str, Any], sqlite: str, lock: str) -> list[str]:
    """What is wrong with the role's variables, each with its name, its value and what to give instead.

    Args:
        given: the variables by their names.
        sqlite: path of the database's file, empty for other databases.
        lock: text of the file that mlflow_server_requirements names.
    """
    return [
        f"mlflow_server_{name} is {json.dumps(value)}: {WANTED[f'mlflow_server_{name}']}"
        for name, value, good in checked(given, sqlite, lock)
        if not good
    ]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"mlflow_server_faults": mlflow_server_faults}
