"""Numba, with a place for the compiled code wherever the package is installed."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _cache_folder() -> None:
    """Numba compiles once and keeps the code in NUMBA_CACHE_DIR, beside the source, or in the user's cache.

    Where none of these can be written (a shared installation, an account without a home) it refuses to work
    at all, so the code goes to a folder of this process then. A fixed one under /tmp would be another user's
    to fill, and what it holds is executed.
    """
    here = Path(__file__).parent / "__pycache__"
    writable = os.access(here if here.exists() else here.parent, os.W_OK)
    # expanduser leaves the ~ where the account has no home
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not writable and home.is_absolute():
        # os.path, as pathlib raises where it may not look
        nearest = next(path for path in (home, *home.parents) if os.path.exists(path))
        writable = os.access(nearest, os.W_OK)
    if "NUMBA_CACHE_DIR" not in os.environ and not writable:
        os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="recommender-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_cache_folder()

import numba  # noqa: E402


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with its cache; the first call on a machine compiles, which takes seconds."""
    decorate: Callable[[Callable[..., Any]], Any] = numba.njit(
        cache=True, error_model="numpy", nogil=True, **options
    )
    return decorate
