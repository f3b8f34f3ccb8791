"""Use Numba with a writable cache wherever the package is installed."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _cache_folder() -> None:
    """Set NUMBA_CACHE_DIR to a folder of this process if Numba's own places cannot be written.

    Numba keeps compiled code in NUMBA_CACHE_DIR, beside the source, or in the user's cache. It fails if all
    are read-only (a shared installation, an account without a home). A fixed folder under /tmp would let
    another user plant code that is executed.
    """
    here = Path(__file__).parent / "__pycache__"
    writable = os.access(here if here.exists() else here.parent, os.W_OK)
    # Without a home expanduser leaves the ~.
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not writable and home.is_absolute():
        # os.path: pathlib raises on folders without access.
        nearest = next(path for path in (home, *home.parents) if os.path.exists(path))
        writable = os.access(nearest, os.W_OK)
    if "NUMBA_CACHE_DIR" not in os.environ and not writable:
        os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="recommender-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_cache_folder()

import numba  # noqa: E402


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `numba.njit` with a cache; the first call on a machine compiles for seconds.

    Copy arrays in loops: for `a[:] = b` numba also compiles the message of a wrong shape, for seconds.
    """
    decorate: Callable[[Callable[..., Any]], Any] = numba.njit(
        cache=True, error_model="numpy", nogil=True, **options
    )
    return decorate
