"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, at_least: int = 0) -> None:
    """Replace `path` whole: no reader or second run ever sees half a file.

    The umask sets its mode, which has the bits of `at_least` in any case.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o666 & ~mask | at_least)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
