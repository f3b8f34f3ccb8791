"""Download MovieLens' public sets by name: pinned, resumable, with their licence."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender import files
from recommender.errors import InputError, RecommenderError

MIRROR = "https://files.grouplens.org/datasets/movielens"
# Seconds to connect and between two pieces; attempts after broken connections.
TIMEOUT = (10, 60)
TRIES = 3
# Bytes per write: the most that a broken connection loses.
PIECE = 2**16

_TERMS = (
    "For research; no commercial use without permission from GroupLens; publications acknowledge the set "
    "(Harper and Konstan 2015, doi:10.1145/2827872); no endorsement may be implied. "
)
_KEEP = _TERMS + "Not to be passed on without separate permission. The whole licence: README in the folder."
_SHARE = _TERMS + "May be passed on under the same conditions. The whole licence: README.txt in the folder."


@dataclass(frozen=True)
class Set:
    """A zip file on the mirror; it contains a folder of the same name."""

    file: str
    bytes: int
    sha256: str
    ratings: int
    licence: str


# GroupLens publishes MD5 sums only. TensorFlow Datasets pins the SHA-256 of 100k, 1m and 25m
# (url_checksums/movielens.txt). Other projects computed that of 32m, which is weaker evidence.
SETS = {
    "100k": Set(
        "ml-100k.zip",
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        100_000,
        _KEEP,
    ),
    "1m": Set(
        "ml-1m.zip",
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        1_000_209,
        _KEEP,
    ),
    "25m": Set(
        "ml-25m.zip",
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        25_000_095,
        _SHARE,
    ),
    "32m": Set(
        "ml-32m.zip",
        238_950_008,
        "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
        32_000_204,
        _SHARE,
    ),
}


def download(
    name: str, folder: Path, mirror: str = MIRROR, progress: Callable[[str], None] = lambda line: None
) -> Path:
    """Download and unpack the set `name` below `folder` unless it exists; return its folder.

    `progress` gets size and licence before the download. The next call resumes an interrupted download.
    Raises InputError for a name not in SETS, RecommenderError when the mirror cannot be reached or has
    another file, or when the disk is full.
    """
    import pooch
    import requests

    if name not in SETS:
        raise InputError(f"there is no set {name!r}; there are: {', '.join(SETS)}.")
    chosen = SETS[name]
    target = folder / chosen.file.removesuffix(".zip")
    progress(f"MovieLens {name}: {chosen.ratings:,} ratings, {chosen.bytes / 1e6:.0f} MB. {chosen.licence}")
    if target.is_dir():
        return target
    url = f"{mirror.rstrip('/')}/{chosen.file}"
    part = folder / f".{chosen.file}.part"
    embedded = "Without a network there is the embedded set: --data data/ml-latest-small"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pooch.get_logger().setLevel("ERROR")
        archive = Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{chosen.sha256}",
                fname=chosen.file,
                path=folder,
                downloader=lambda address, output, _: _resume(address, part, Path(output)),
            )
        )
        _unpack(archive, target)
    except requests.HTTPError as error:
        raise RecommenderError(f"{url}: {error}. {embedded}") from error
    except requests.RequestException as error:
        raise RecommenderError(
            f"{url}: the connection failed ({_cause(error)}). The downloaded part is kept: the same command "
            f"resumes from there. {embedded}"
        ) from error
    except ValueError as error:
        raise RecommenderError(
            f"{url}: the file is not the pinned one ({error}). It was deleted. Try again, or look whether "
            "GroupLens has published another."
        ) from error
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecommenderError(f"{folder}: {reason}. Name a folder with space that you can write.") from error
    archive.unlink()
    return target


def _resume(url: str, part: Path, output: Path) -> None:
    """Append the rest of `url` to `part`, then move it to `output`; pooch itself cannot resume."""
    import requests
    from tqdm import tqdm

    with files.alone(part, "another download of this file is running. Wait for it.") as file:
        for left in reversed(range(TRIES)):
            try:
                have = file.tell()
                headers = {"Range": f"bytes={have}-"} if have else {}
                with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
                    if reply.status_code == 416:
                        # Nothing is left: the file is complete, or another one.
                        break
                    reply.raise_for_status()
                    if reply.status_code != 206:
                        # This server does not support ranges.
                        file.truncate(0)
                        have = 0
                    total = have + int(reply.headers.get("Content-Length", 0))
                    with tqdm(
                        total=total or None,
                        initial=have,
                        unit="B",
                        unit_scale=True,
                        desc=part.name,
                        disable=None,
                    ) as bar:
                        for piece in reply.iter_content(PIECE):
                            file.write(piece)
                            bar.update(len(piece))
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                file.flush()
                if not left:
                    raise
    os.replace(part, output)


def _unpack(archive: Path, target: Path) -> None:
    # Moved into place when complete: an interruption leaves no partial folder.
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)
        (scratch / target.name).replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cause(error: BaseException) -> Any:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or error
