"""The last requests, kept on disk, with which a new version is tried before it is served."""

import json
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recommender.serving.app import shared

_HEAD = struct.Struct("<Q")
_LENGTH = struct.Struct("<H")
# Bytes of a place; a request that is larger is not kept.
_WIDTH = 1024


class Ring:
    """So many last requests in a file of a fixed size.

    Written through shared memory: a kill loses nothing, a power cut what was not on disk.
    """

    def __init__(self, path: Path, places: int = 1000) -> None:
        self.places = places
        size = _HEAD.size + places * _WIDTH
        file = shared.allocated(path, size)
        self._memory = mmap.mmap(file, size)
        os.close(file)

    def add(self, request: dict[str, Any]) -> None:
        """Keep a request in the place of the oldest."""
        text = json.dumps(request, separators=(",", ":")).encode()
        if len(text) + _LENGTH.size > _WIDTH:
            return
        (count,) = _HEAD.unpack_from(self._memory)
        at = _HEAD.size + count % self.places * _WIDTH
        self._memory[at : at + _LENGTH.size + len(text)] = _LENGTH.pack(len(text)) + text
        _HEAD.pack_into(self._memory, 0, count + 1)


def kept(path: Path, places: int = 1000) -> Iterator[dict[str, Any]]:
    """Yield the requests in a ring's file; a request that was cut off is left out.

    Root reads what the service's account wrote: a link or a pipe in its place is left out too.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return
        content = file.read(_HEAD.size + places * _WIDTH)
    for at in range(_HEAD.size, len(content) - _WIDTH + 1, _WIDTH):
        (length,) = _LENGTH.unpack_from(content, at)
        try:
            found = json.loads(content[at + _LENGTH.size : at + _LENGTH.size + length]) if length else None
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
