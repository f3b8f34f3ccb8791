"""Write and check a saved model's manifest: format, versions, SHA-256 of each file."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from recommender import __version__
from recommender.errors import InputError

# Increase with each change that older code would misread.
# 2 added the users' ratings and the inputs of folding in, 3 the lister.
FORMAT = 3
READS = (1, 2, 3)
NAME = "manifest.json"
_PACKAGES = ("mlflow", "numpy", "pandas", "scikit-surprise")
_MEND = "Copy the whole folder again from where it was logged, or train again: recommender train"


def write(folder: Path, about: dict[str, Any]) -> None:
    """Write `folder`/manifest.json about the files in it; `about` adds further keys.

    Keys: format, recommender (this code's version), made_with (Python, system, package versions), those of
    `about`, and files, by name each with sha256 (hex) and bytes.
    """
    content = {
        "format": FORMAT,
        "recommender": __version__,
        "made_with": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        **about,
        "files": {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        },
    }
    (folder / NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check(folder: Path, needed: str) -> dict[str, Any]:
    """Check a folder against its manifest and return the manifest.

    Raises InputError when the manifest is missing, invalid, not of a format in READS or without the file
    `needed`, and when a file is missing or has another digest.
    """
    path = folder / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_by = content["recommender"]
        if content["format"] not in READS:
            raise InputError(
                f"{path}: format {content['format']}, written by recommender {made_by}; this is recommender "
                f"{__version__}, which reads formats {READS[0]} to {READS[-1]}. Load the model with "
                f"recommender {made_by}, or train it again with this one."
            )
        expected = {name: content["files"][name]["sha256"] for name in {*content["files"], needed}}
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing, and nothing is loaded without it. {_MEND}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of a {needed} ({error!r}). {_MEND}") from error
    for name, digest in sorted(expected.items()):
        try:
            found = sha256(folder / name)
        except FileNotFoundError as error:
            raise InputError(f"{folder / name}: missing, but the manifest lists it. {_MEND}") from error
        if found != digest:
            raise InputError(
                f"{folder / name}: its sha256 is {found}, the manifest says {digest}: "
                f"it is damaged or was changed. {_MEND}"
            )
    return content


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
