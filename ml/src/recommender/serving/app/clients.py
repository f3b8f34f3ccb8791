"""Clients: their API keys, of which only the SHA-256 is kept, and their rates."""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import struct
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender.errors import InputError
from recommender.serving.app import shared

CLIENTS, KEYS = "clients.json", "keys.json"
_STATE = struct.Struct("<dd")


def digest(key: str) -> str:
    """SHA-256 (hex) of a key. Keys have 32 random bytes, so that no slower function is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


class Bucket:
    """A token bucket that all processes share: `per_second` tokens flow in, at most `burst` are held.

    State is (tokens, seconds since boot) in a file of 16 bytes, or in memory without a path. The clock of the
    day is not read.
    """

    def __init__(self, path: Path | None, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._file = shared.allocated(path, _STATE.size)
        self._memory = mmap.mmap(self._file, _STATE.size)
        # Not when clients are read again: a request may still have this one.
        weakref.finalize(self, os.close, self._file)

    def take(self, n: float = 1) -> float:
        """Take n tokens; return 0, or the seconds until they are there."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            tokens, at = _STATE.unpack(self._memory)
            # A boot sets the clock back, and a new file has 0.
            if not 0 < at <= now + 1:
                tokens, at = self.burst, now
            tokens = min(self.burst, tokens + max(0.0, now - at) * self.per_second)
            # More than the burst would never be there.
            asked = min(float(n), self.burst)
            wait = 0.0 if tokens >= asked else (asked - tokens) / self.per_second
            _STATE.pack_into(self._memory, 0, tokens if wait else tokens - asked, now)
            return wait
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


@dataclass(frozen=True)
class Client:
    """A client, and its bucket."""

    name: str
    bucket: Bucket


class Clients:
    """The clients of a server, by their keys.

    `folder` has clients.json, {"required": whether a key is needed, "clients": {name: {"per_second": …,
    "burst": …}}}, and keys.json, {name: {id: SHA-256 of a key}}; without them nobody needs a key. `state` is
    the folder of the buckets.
    """

    # Beginnings of paths that need a key.
    keyed: tuple[str, ...] = ("/v1/",)

    def __init__(self, folder: Path, state: Path | None) -> None:
        self.folder, self.state = folder, state
        self.required = False
        self._by_key: dict[str, Client] = {}
        self.load()

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the content of both files. Raises InputError."""
        return _content(self.folder / CLIENTS), _content(self.folder / KEYS)

    def load(self) -> None:
        """Read both files again; on an error all stays as it was. Raises InputError."""
        wanted, keys = self.read()
        try:
            buckets = {
                name: (float(limits["per_second"]), float(limits["burst"]))
                for name, limits in wanted.get("clients", {}).items()
            }
            digests = {name: list(keys.get(name, {}).values()) for name in buckets}
            required = bool(wanted.get("required", False))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.folder}: {CLIENTS} or {KEYS} has another form ({error!r}).") from error
        if self.state:
            self.state.mkdir(parents=True, exist_ok=True)
        by_key: dict[str, Client] = {}
        for name, limits in buckets.items():
            client = Client(name, Bucket(self.state and self.state / f"{name}.rate", *limits))
            by_key.update(dict.fromkeys(digests[name], client))
        self._by_key, self.required = by_key, required

    def of(self, key: str) -> Client | None:
        """Return the client of a key, None if it is nobody's."""
        return self._by_key.get(digest(key))


class Given(Clients):
    """The clients of a container, where a folder would need a volume: from a variable, or the file it names.

    Both hold {name: {"per_second": …, "burst": …, "sha256": [digest of a key, …]}}. Rates are in memory.
    """

    # In front of a container nothing keeps the world from the counts.
    keyed = ("/v1/", "/metrics")

    def __init__(self, variable: str, file: str, required: bool) -> None:
        self._variable, self._needed = variable, required
        super().__init__(Path(file), None)

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the two files of a server would hold. Raises InputError."""
        try:
            given = json.loads(self._variable) if self._variable else _content(self.folder)
            keys = {name: dict(enumerate(of["sha256"])) for name, of in given.items()}
            wanted = {name: {"burst": 2 * of["per_second"], **of} for name, of in given.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            form = '{"shop": {"per_second": 50, "sha256": ["…"]}}'
            raise InputError(f"Clients of the container: write {form} ({error!r}).") from error
        return {"required": self._needed, "clients": wanted}, keys


def _content(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}).") from error
    return {}
