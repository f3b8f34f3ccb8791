"""Files that processes share through memory."""

import logging
import os
from pathlib import Path

log = logging.getLogger("model-server")


def allocated(path: Path | None, size: int) -> int:
    """Open a file of `size` bytes, or one in memory: without a path, and with a warning if the disk is full.

    All bytes are allocated now: writing to a mapped page for which the disk has no place kills a process.
    """
    if path is None:
        return _in_memory("shared", size)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)
            os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            raise
    except OSError as error:
        log.warning("%s is kept in memory until the next start: %s", path, error.strerror)
        handle = _in_memory(path.name, size)
    return handle


def _in_memory(name: str, size: int) -> int:
    handle = os.memfd_create(name)
    os.ftruncate(handle, size)
    return handle
