"""What this server remembers of its copies, and the locks."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from .settings import VAR, Refused, Settings

FILE = VAR / "state.json"
LOCK = pathlib.Path(os.environ.get("SERVER_BACKUP_LOCK", "/run/server-backup.lock"))


def read() -> dict[str, Any]:
    """The state; `id` tells this server from a later one of the same name."""
    try:
        state: dict[str, Any] = json.loads(FILE.read_text())
    except FileNotFoundError:
        state = {}
    if "id" not in state:
        state["id"] = uuid.uuid4().hex[:12]
        write(state)
    return state


def write(state: dict[str, Any]) -> None:
    new = FILE.with_suffix(".new")
    with new.open("w") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(FILE)


def update(**changes: Any) -> dict[str, Any]:
    state = read() | changes
    write(state)
    return state


@contextlib.contextmanager
def recorded(verb: str) -> Iterator[dict[str, Any]]:
    """Writes down how a verb ended: what is put into the dict, when it began and ended, and its error."""
    outcome: dict[str, Any] = {"began": time.time(), "error": ""}
    try:
        yield outcome
    except BaseException as error:
        outcome["error"] = str(error) or type(error).__name__
        raise
    finally:
        outcome["ended"] = time.time()
        before = read().get(verb, {})
        good = outcome["began"] if not outcome["error"] else before.get("good")
        with contextlib.suppress(OSError):
            update(**{verb: outcome | {"good": good}})


@contextlib.contextmanager
def locked(path: pathlib.Path = LOCK, seconds: float = 7200, shared: bool = False, what: str = "") -> Iterator[None]:
    """Holds a lock file.

    Raises:
        Refused: another process held it for so many seconds.
    """
    end = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise Refused(
                        f"{what or 'Another verb of server-backup'} holds {path} for {seconds:.0f} s. Wait, or look"
                        f" at it: fuser -v {path}"
                    ) from None
            time.sleep(0.2)
        yield


@contextlib.contextmanager
def held(paths: list[str]) -> Iterator[None]:
    """Holds the lock files of the settings together with others, so that nothing is deleted while it is copied."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            if pathlib.Path(path).parent.is_dir():
                stack.enter_context(locked(pathlib.Path(path), 600, shared=True, what="A program that deletes"))
        yield


def moment(seconds: float | None) -> str:
    if not seconds:
        return "never"
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC ({age(time.time() - seconds)})"


def age(seconds: float) -> str:
    if seconds < -60:
        return f"in {-seconds / 3600:.1f} h"
    for unit, size in (("days", 172800), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit} ago"
    return "just now"


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"


def faults(settings: Settings, now: float) -> list[str]:
    """What an operator has to hear, a line each, the same words for as long as the cause lasts."""
    state = read()
    run, drill = state.get("run", {}), state.get("drill", {})
    found = []
    if "proven" not in state:
        found.append("backup: no copy was proven yet, so no timer runs: run site.yml again")
    elif run.get("error"):
        found.append(f"backup: the last copy failed: {run['error'].splitlines()[0]}")
    elif now - (run.get("good") or state["proven"]["time"]) > settings.late_after_hours * 3600:
        found.append(
            f"backup: no copy for more than {settings.late_after_hours:g} hours: journalctl -u server-backup-run"
        )
    if left_out := run.get("left_out"):
        found.append(
            f"backup: {left_out[0]} is larger than its disk, and no copy holds it"
            + (f", nor {len(left_out) - 1} others" if left_out[1:] else "")
            + ": delete it, or cut it with truncate"
        )
    if drill.get("error"):
        found.append(f"drill: {drill['error'].splitlines()[0]}")
    elif (
        "proven" in state
        and now - (drill.get("good") or state["proven"]["time"]) > settings.drill_late_after_days * 86400
    ):
        found.append(
            f"drill: no copy was tried for more than {settings.drill_late_after_days:g} days:"
            " journalctl -u server-backup-drill"
        )
    if state.get("prune", {}).get("error"):
        found.append(f"prune: {state['prune']['error'].splitlines()[0]}")
    return found
