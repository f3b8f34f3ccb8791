"""A served model on disk: its arrays apart, so that they are mapped into memory and not copied.

A bundle is a folder: arrays/NAME.npy, golden.json with requests and answers of the training, and about.json
with the version's labels, the manifest's format, and the SHA-256 and the bytes of each file. It is named by
the first 16 digits of the SHA-256 of labels and files.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recommender.errors import InputError
from recommender.serving import manifest
from recommender.serving.app import system
from recommender.serving.recommender import ARRAYS, Recommender

ABOUT, GOLDEN = "about.json", "golden.json"


@dataclass(frozen=True)
class About:
    """What a bundle is of: the registered name and version, its run, its training, and its own digest."""

    name: str
    version: str
    run_id: str
    algorithm: str
    trained_at: str
    model_digest: str
    dataset_digest: str
    artifact_digest: str
    bundle: str

    @property
    def label(self) -> str:
        """The name and version, as dev.movie-recommender/3."""
        return f"{self.name}/{self.version}"


def lay_out(model: Path, golden: Path, labels: Mapping[str, str], place: Path) -> Path:
    """Write a bundle below `place` from a saved Recommender and a golden sample; return its folder.

    `labels` has the fields of About but bundle. A bundle that exists is left as it is. Whole or not at all:
    the folder gets its name last, when all is on disk.
    Raises InputError as manifest.check does, OSError when the disk is full.
    """
    manifest.check(model, ARRAYS)
    place.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=place))
    try:
        (part / "arrays").mkdir()
        with np.load(model / ARRAYS, allow_pickle=False) as stored:
            for key in stored.files:
                np.save(part / "arrays" / f"{key}.npy", stored[key], allow_pickle=False)
        shutil.copyfile(golden, part / GOLDEN)
        files = {
            path.relative_to(part).as_posix(): {"sha256": manifest.sha256(path), "bytes": path.stat().st_size}
            for path in sorted(part.rglob("*"))
            if path.is_file()
        }
        about = {"format": manifest.FORMAT, "labels": dict(labels), "files": files}
        (part / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in [*part.rglob("*"), part]:
            system.to_disk(path)
        made = place / _name(labels, files)
        part.chmod(0o755)
        try:
            part.rename(made)
        except OSError:
            if not made.is_dir():
                raise
        system.to_disk(place)
        return made
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read(folder: Path, whole: bool = True) -> tuple[Recommender, About]:
    """Map a bundle into memory.

    `whole` compares each file's SHA-256; else its size alone.
    Raises InputError for a missing, truncated or changed file, and for another format.
    """
    files, labels = _check(folder, whole)
    try:
        arrays = {
            Path(name).stem: np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in files
            if name.endswith(".npy")
        }
        return Recommender.of_arrays(arrays), About(**labels, bundle=folder.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a whole bundle ({error!r}). Fetch the version again.") from error


def _check(folder: Path, whole: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return files and labels of a bundle; raises as `read` does."""
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files, labels = content["files"], content["labels"]
        if content["format"] not in manifest.READS:
            raise InputError(f"{folder}: format {content['format']}, which this code cannot read. Update it.")
        if folder.name != _name(labels, files):
            raise InputError(f"{folder / ABOUT}: it was changed. Fetch the version again.")
        for name, expected in files.items():
            path = folder / name
            same = path.stat().st_size == expected["bytes"]
            if not same or (whole and manifest.sha256(path) != expected["sha256"]):
                raise InputError(f"{path}: it is damaged or was changed. Fetch the version again.")
        return files, labels
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: not a whole bundle ({error!r}). Fetch the version again.") from error


def adopt(made: Path, place: Path) -> Path:
    """Move a bundle that another account laid out to `place`, for root's use; return its folder.

    One that is there already stays if it is whole.
    Raises InputError if it is not a bundle, or has anything but files and folders in it.
    """
    for path in [made, *made.rglob("*")]:
        mode = path.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise InputError(f"{path}: it is neither a file nor a folder.")
        os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
        path.chmod(0o755 if stat.S_ISDIR(mode) else 0o644)
    _check(made, whole=True)
    target = place / made.name
    if target.is_dir():
        try:
            _check(target, whole=True)
            return target
        except InputError:
            # Damaged. The processes that serve it have it in memory.
            target.rename(target.with_name(f".part-{target.name}-{time.time_ns()}"))
    made.rename(target)
    system.to_disk(place)
    return target


def _name(labels: Mapping[str, str], files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([{**labels}, files], sort_keys=True).encode()).hexdigest()[:16]
