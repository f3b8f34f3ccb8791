"""Look every few seconds whether each served version is its registry's champion; needs nothing but Python.

python -m recommender.promotion.watch --uri http://127.0.0.1:5000 --place PLACE prod=prod.films

Starts the unit model-server-follow-ENVIRONMENT where it is not. A promotion does that too, and holds a
lock meanwhile; the unit then does nothing.
"""

import argparse
import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from recommender import listener
from recommender.errors import RecommenderError

# Seconds for an answer of the registry.
_TIMEOUT = 5.0
# Version and run_id of a version.
Version = tuple[str, str]


def champion(name: str, uri: str) -> Version | None:
    """Return the champion of a registered model, None without one.

    The login is that of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, if they are set.
    Raises RecommenderError if the registry does not answer, or is another account's program.
    """
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    listener.check(uri, bool(user))
    headers = {}
    if user:
        login = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    # Without a proxy: it is this host's own, or a tunnel's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def asked(path: str, **parameters: str) -> dict[str, Any]:
        address = f"{uri.rstrip('/')}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(parameters)}"
        with opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    try:
        found = asked("registered-models/search", filter=f"name='{name}'").get("registered_models", [])
        aliases = {each["alias"]: each["version"] for model in found for each in model.get("aliases", [])}
        if "champion" not in aliases:
            return None
        number = str(aliases["champion"])
        version = asked("model-versions/get", name=name, version=number)["model_version"]
        return number, str(version.get("run_id", ""))
    except (OSError, KeyError, ValueError) as error:
        raise RecommenderError(f"{name}: MLflow does not say which version is champion ({error}).") from error


def settled(folder: Path) -> set[Version]:
    """Return the versions that need no attempt: the served one, and the one that the service refused last.

    After a switch that was cut off there is none: some processes may serve another version.
    """
    found: set[Version] = set()
    if (folder / "switching").exists():
        return found
    for path in (folder / "bundles/current/about.json", folder / "refused.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(path.read_text(encoding="utf-8"))
            labels = content.get("labels", content)
            found.add((str(labels["version"]), str(labels["run_id"])))
    return found


class Attempts:
    """When to try a version again: after 1, 2, 4 … 60 minutes, since each attempt fetches it."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[Version, int, float]] = {}

    def due(self, environment: str, wanted: Version) -> bool:
        """Whether to try a version now."""
        version, _, at = self._failed.get(environment, (None, 0, 0.0))
        return version != wanted or time.monotonic() >= at

    def failed(self, environment: str, wanted: Version) -> None:
        """Record a failure."""
        version, count, _ = self._failed.get(environment, (None, 0, 0.0))
        count = count + 1 if version == wanted else 0
        self._failed[environment] = (wanted, count, time.monotonic() + min(60 * 2**count, 3600))


def watch(
    names: dict[str, str], uri: str, place: Path, said: dict[str, str], attempts: Attempts | None = None
) -> None:
    """Look once; `names` are the registered models by environment. Prints a problem when it changes."""
    attempts = attempts or Attempts()
    for environment, name in names.items():
        problem = ""
        try:
            wanted = champion(name, uri)
            if wanted is not None and wanted not in settled(place / environment):
                if not attempts.due(environment, wanted):
                    continue
                unit = f"model-server-follow-{environment}.service"
                started = subprocess.run(["systemctl", "start", unit], capture_output=True, check=False)
                if started.returncode:
                    attempts.failed(environment, wanted)
                    problem = f"{unit} failed: see journalctl -u {unit}"
        except RecommenderError as error:
            problem = str(error)
        if problem != said.get(environment, ""):
            print(problem or f"{name}: MLflow answers again", flush=True)
        said[environment] = problem


def main() -> None:
    """Read the command line, and look until the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", required=True, help="of the registry")
    parser.add_argument("--place", type=Path, required=True, help="folder of the services")
    parser.add_argument("--every", type=float, default=20, metavar="SECONDS")
    parser.add_argument("names", nargs="+", metavar="ENVIRONMENT=NAME")
    arguments = parser.parse_args()
    names = dict(each.split("=", 1) for each in arguments.names)
    said: dict[str, str] = {}
    attempts = Attempts()
    while True:
        watch(names, arguments.uri, arguments.place, said, attempts)
        time.sleep(arguments.every)


if __name__ == "__main__":
    main()
