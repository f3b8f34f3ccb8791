"""Cache checked ratings in a compact form; the cache may be deleted at any time."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recommender import files
from recommender.errors import InputError

if TYPE_CHECKING:
    from recommender.data.ratings import Ratings

# Increase with each change of the content or the checks.
FORMAT = 3
# Files kept; the least recently used is deleted first.
KEPT = 8
VARIABLE = "RECOMMENDER_CACHE"

_log = logging.getLogger(__name__)


def folder() -> Path | None:
    """Return the cache's folder: RECOMMENDER_CACHE, else the account's own.

    None if RECOMMENDER_CACHE is off, or if it is not set and the home cannot be written.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named)
    import platformdirs

    home = os.path.expanduser("~")
    return Path(platformdirs.user_cache_dir("recommender")) if os.access(home, os.W_OK) else None


def cached(paths: Sequence[Path], shown: str, settings: Any, check: Callable[[], "Ratings"]) -> "Ratings":
    """Return the ratings in the files `paths`, from the cache if bytes and `settings` are unchanged.

    Otherwise `check` reads them and they are cached. `settings` are their other inputs, as JSON values.
    `shown` is their name in messages. An unreadable or read-only cache is only a warning.
    Raises the errors of `check`, and InputError if a file cannot be read.
    """
    place = folder()
    if place is None:
        return check()
    content = []
    for path in paths:
        try:
            with path.open("rb") as file:
                content.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}. Give --data a file that you can read.") from error
    key = hashlib.sha256(json.dumps([FORMAT, content, settings], sort_keys=True).encode()).hexdigest()
    kept = place / f"ratings-{key[:32]}.npz"
    with contextlib.suppress(FileNotFoundError):
        try:
            ratings = _load(kept)
            os.utime(kept)
            return ratings
        except FileNotFoundError:
            raise
        except Exception as error:  # any damage: the source has everything
            _log.warning("%s: damaged, read again from %s (%s)", kept, shown, error)
    ratings = check()
    try:
        place.mkdir(parents=True, exist_ok=True)
        _save(ratings, kept)
        for old in sorted(place.glob("ratings-*.npz"), key=lambda file: -file.stat().st_mtime)[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning(
            "%s: %s; nothing is cached, and the next run reads %s again. Name another folder with %s, or off",
            place, error.strerror or error, shown, VARIABLE,
        )  # fmt: skip
    return ratings


def _save(ratings: "Ratings", path: Path) -> None:
    about = {
        "users": ratings.users,
        "items": ratings.items,
        "scale": ratings.scale,
        "period": ratings.period,
        "replaced": ratings.replaced,
        "unrated": ratings.unrated,
        "remarks": ratings.remarks,
        "digest": ratings.digest(),
    }
    level, levels = pd.factorize(ratings.rating)
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "start": np.concatenate(([0], np.cumsum(np.bincount(ratings.user, minlength=len(ratings.users))))),
        "item": ratings.item,
        "level": level.astype(np.min_scalar_type(max(len(levels) - 1, 0))),
        "levels": levels,
    }
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path) -> "Ratings":
    from recommender.data.ratings import Ratings

    with np.load(path, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    about = json.loads(arrays["about"].tobytes())
    users = tuple(about["users"])
    ratings = Ratings(
        users,
        tuple(about["items"]),
        np.repeat(np.arange(len(users), dtype=np.int32), np.diff(arrays["start"])),
        arrays["item"],
        arrays["levels"][arrays["level"]],
        tuple(about["scale"]),
        period=tuple(about["period"]) if about["period"] else None,
        replaced=about["replaced"],
        unrated=about["unrated"],
        remarks=tuple(about["remarks"]),
    )
    if ratings.digest() != about["digest"]:
        raise ValueError("its ratings have another digest")
    return ratings
