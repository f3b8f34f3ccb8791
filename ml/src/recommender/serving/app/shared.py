"""Files that processes share through memory."""

import logging
import os
from pathlib import Path

log = logging.getLogger("model-server")


def allocated(path: Path, size: int) -> int:
    """Open a file of `size` bytes, or one in memory, with a warning, if the disk cannot hold it.

    All bytes are allocated now: writing to a mapped page for which the disk has no place kills a process.
    """
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
        handle = os.memfd_create(path.name)
        os.ftruncate(handle, size)
    return handle
