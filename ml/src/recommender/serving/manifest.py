"""What stands beside a saved model: its format, what made it, and the SHA-256 of each file."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from recommender import __version__
from recommender.errors import InputError

# What `write` writes. One more whenever files or arrays change so that older code would misread them.
# 2: the users' ratings and what folding in needs.
FORMAT = 2
READS = (1, 2)
NAME = "manifest.json"
_PACKAGES = ("mlflow", "numpy", "pandas", "scikit-surprise")
_MEND = "Copy the whole folder anew from where it was logged, or train anew: recommender train"


def write(folder: Path, about: dict[str, Any]) -> None:
    """Write `folder`/manifest.json over the files in it; `about` is what else it shall say of them.

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
            path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        },
    }
    (folder / NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check(folder: Path, needed: str) -> dict[str, Any]:
    """The manifest of a folder, once its format is one of READS and every file is as it was written.

    Raises InputError when the manifest is missing, is none, is of another format or does not list the file
    `needed`, and when a file is missing or has another digest.
    """
    path = folder / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_by = content["recommender"]
        if content["format"] not in READS:
            raise InputError(
                f"{path}: format {content['format']}, written by recommender {made_by}; this is recommender "
                f"{__version__}, which reads format {' and '.join(map(str, READS))}. Load the model with "
                f"recommender {made_by}, or train it anew with this one."
            )
        expected = {name: content["files"][name]["sha256"] for name in {*content["files"], needed}}
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing, and without it nothing is loaded. {_MEND}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no manifest of a {needed} ({error!r}). {_MEND}") from error
    for name, digest in sorted(expected.items()):
        try:
            found = _sha256(folder / name)
        except FileNotFoundError as error:
            raise InputError(f"{folder / name}: missing, and the manifest lists it. {_MEND}") from error
        if found != digest:
            raise InputError(
                f"{folder / name}: its sha256 is {found}, the manifest says {digest}: "
                f"it is damaged or was changed. {_MEND}"
            )
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
