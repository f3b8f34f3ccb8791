"""Hand a version to the model server of its environment, which runs on this host."""

import contextlib
import datetime
import fcntl
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender.errors import InputError, RecommenderError, Refusal
from recommender.promotion import bundle, evidence, trial, watch
from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# Where a stored model has its arrays, below its MLflow folder.
_SAVED = Path("artifacts") / "recommender"
# Said in an environment's lock while its service follows a champion that was moved otherwise.
FOLLOWER = "the follower of the model server"


class Service:
    """The service of `environment`, through its command `tool` (see recommender.serving.app.admin)."""

    def __init__(self, tool: str, environment: str) -> None:
        self.tool, self.environment = tool, environment

    @contextlib.contextmanager
    def serving(
        self, version: "ModelVersion", folder: Path, say: Callable[[str], None] = lambda line: None
    ) -> Iterator[None]:
        """Serve a version whose files are in `folder` (run/ and model/, see bundle.download) during a change.

        It is tried, and every process answers with it, before the block begins. If the block fails, the
        version before is served again.
        Raises Refusal for a version that must not be served, RecommenderError when a process cannot serve it.
        """
        status = self.status()
        # Processes serve a bundle that is damaged on the disk from memory.
        before = (status["served"] or {}).get("bundle") or status["damaged"]
        back = ("switch", before) if before else ("drop",)
        say(f"the service of {self.environment} tries it")
        found = self._ask(
            "accept", "--model", str(folder / bundle.MODEL / _SAVED),
            "--golden", str(folder / bundle.RUN / evidence.GOLDEN), "--labels", json.dumps(_labels(version)),
        )  # fmt: skip
        if found["refused"]:
            raise Refusal(
                f"{version.name} {version.version} cannot be served: {found['refused']}. "
                "The service keeps the version that it had, and no alias was moved."
            )
        replayed = f", {found['replayed']} requests replayed" if found.get("replayed") else ""
        try:
            self._ask("switch", found["bundle"])
            say(f"every process of {self.environment} answers with it{replayed}")
            yield
        except BaseException:
            # If this fails, the watch does it, see `watch`.
            with contextlib.suppress(RecommenderError):
                self._ask(*back)
            raise

    def status(self) -> dict[str, Any]:
        """Return the served version and its processes."""
        return self._ask("status")

    def follow(self, name: str, uri: str, lock: Path | None = None) -> str:
        """Serve the champion of `name`; return a sentence, "" if nothing was to do.

        Does nothing while somebody else holds `lock`, whose change ends with the served version.
        Raises as `serving` does, and RecommenderError when the registry does not answer.
        """
        if self._is_settled(name, uri):
            return ""
        with _held(lock) as free:
            # The version may have been served meanwhile.
            if not free or self._is_settled(name, uri):
                return ""
            stores.connect(uri)
            with (
                stores.explained(f"{self.environment}: MLflow cannot give the version"),
                tempfile.TemporaryDirectory() as scratch,
            ):
                version = registry.version(name, None)
                trial.fetch_whole(version, Path(scratch))
                with self.serving(version, Path(scratch)):
                    pass
        return f"{name} {version.version} is served"

    def _is_settled(self, name: str, uri: str) -> bool:
        """Whether there is nothing to do: the champion is served or was refused, or there is none."""
        wanted, status = watch.champion(name, uri), self.status()
        refused = status["refused"] or {}
        known = (refused.get("version"), refused.get("run_id"))
        return wanted is None or wanted == known or serves(status, *wanted)

    def ensure(self, version: "ModelVersion", say: Callable[[str], None] = lambda line: None) -> bool:
        """Serve the champion `version` if a process does not; return whether that was needed.

        Raises as `serving` does.
        """
        if serves(self.status(), str(version.version), str(version.run_id)):
            return False
        with tempfile.TemporaryDirectory() as scratch:
            trial.fetch_whole(version, Path(scratch))
            with self.serving(version, Path(scratch), say):
                return True

    def _ask(self, verb: str, *words: str) -> dict[str, Any]:
        command = [self.tool, verb, self.environment, *words]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{self.environment} has no model server here ({self.tool} is missing). "
                "Run site.yml --tags serving, or take it out of serving_environments."
            ) from error
        if not done.stdout.strip() and done.returncode:
            raise RecommenderError(done.stderr.strip() or f"{' '.join(command)} ended with {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found


def serves(status: dict[str, Any], version: str, run_id: str) -> bool:
    """Whether a service serves a version, in each process that runs, and no switch was cut off."""
    served, processes = status["served"] or {}, status["processes"].values()
    same = (served.get("version"), served.get("run_id")) == (version, run_id)
    if not same or status["switching"] or not processes:
        return False
    return all(each.get("served") == served["bundle"] for each in processes)


def _labels(version: "ModelVersion") -> dict[str, str]:
    """Return the labels of a version; see recommender.serving.app.bundle.About."""
    tags, run = registry.tags(version), registry.run_of(version)
    ended = (run.info.end_time if run else None) or version.creation_timestamp
    moment = datetime.datetime.fromtimestamp(ended / 1000, datetime.UTC)
    return {
        "name": version.name,
        "version": str(version.version),
        "run_id": str(version.run_id),
        "trained_at": moment.isoformat(timespec="seconds"),
        **{
            key: tags.get(key, "")
            for key in ("algorithm", "model_digest", "dataset_digest", "artifact_digest")
        },
    }


@contextlib.contextmanager
def _held(lock: Path | None) -> Iterator[bool]:
    """Hold a lock as bin/models does; gives whether it was free."""
    if lock is None:
        yield True
        return
    lock.parent.mkdir(exist_ok=True)
    # Root's alone: an account that can read a file can lock it.
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(handle, "r+", encoding="utf-8") as file:
        os.fchmod(handle, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(f"{FOLLOWER}, process {os.getpid()}")
        file.flush()
        yield True
