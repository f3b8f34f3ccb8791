"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, at_least: int = 0) -> Iterator[Path]:
    """A file beside `path` to be written in the block, which then takes its place.

    No reader and no second run ever sees half a file. Where the block raises, or removes what it was given,
    `path` stays as it was. The umask sets the mode, which has the bits of `at_least` in any case.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        if part.exists():
            part.chmod(0o666 & ~mask | at_least)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str, at_least: int = 0) -> None:
    """Write `text` as UTF-8 into `path`, as `replacing` does."""
    with replacing(path, at_least) as part:
        part.write_text(text, encoding="utf-8")
