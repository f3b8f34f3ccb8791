"""Write files atomically."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from recommender.errors import RecommenderError


@contextlib.contextmanager
def replacing(path: Path, at_least: int = 0) -> Iterator[Path]:
    """Yield a temporary file beside `path` to write; it replaces `path` after the block.

    Readers never see a partial file. If the block raises or removes the file, `path` is unchanged. The umask
    sets the mode, plus the bits of `at_least`.
    """
    path = path.resolve()
    # a device or a pipe must stay what it is
    if path.exists() and not path.is_file():
        yield path
        return
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


@contextlib.contextmanager
def alone(path: Path, problem: str) -> Iterator[BinaryIO]:
    """Open `path` to append to it, as the only process.

    Raises RecommenderError, with `problem`, while another process has it.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecommenderError(f"{path}: {problem}") from error
        yield file


def write_whole(path: Path, text: str, at_least: int = 0) -> None:
    """Write `text` atomically into `path` as UTF-8; `at_least` as for `replacing`."""
    with replacing(path, at_least) as part:
        part.write_text(text, encoding="utf-8")
