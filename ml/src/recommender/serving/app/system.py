"""What the service's command does with systemd and with files."""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recommender.errors import RecommenderError


def run(*command: str) -> None:
    """Run a command. Raises RecommenderError with its words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RecommenderError(f"{' '.join(command)}: {done.stderr.strip()}")


def systemctl(verb: str, units: list[str], *options: str) -> None:
    """Apply a verb of systemctl to units, if there are any. Raises RecommenderError."""
    if units:
        run("systemctl", verb, *options, *units)


def output(*command: str) -> str:
    """Return the standard output of a command."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def is_on(unit: str) -> bool:
    """Whether a unit is enabled and active."""
    states = [output("systemctl", verb, unit).strip() for verb in ("is-enabled", "is-active")]
    return states == ["enabled", "active"]


def content(path: Path) -> dict[str, Any]:
    """Return the JSON in a file; nothing if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def write(path: Path, what: object, group: int = 0) -> None:
    """Write JSON into a file that root and `group` may read, whole or not at all."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".part-", encoding="utf-8", delete=False
        ) as file:
            part = file.name
            json.dump(what, file, indent=2)
            os.fchmod(file.fileno(), 0o640)
            os.fchown(file.fileno(), os.geteuid(), group if os.geteuid() == 0 else -1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        if part:
            Path(part).unlink(missing_ok=True)
        raise
    to_disk(path.parent)


def link(path: Path, target: str) -> None:
    """Make `path` a link to `target`, whole at every moment."""
    part = path.with_name(f".{path.name}")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(*parts: str | Path) -> str:
    """SHA-256 (hex) over texts and files."""
    found = [part.read_bytes() if isinstance(part, Path) else part.encode() for part in parts]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in found)).hexdigest()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it. Only root can: an account that can read a file can lock it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
