"""Numba, with a place for the compiled code wherever the package is installed."""

import atexit
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def arrays(trainset: Any) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Inner users, inner items and ratings of a trainset, in the order of its `all_ratings`, shapes (n,)."""
    if hasattr(trainset, "arrays"):
        columns: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]] = trainset.arrays()
        return columns
    ur = trainset.ur
    length = [len(row) for row in ur.values()]
    user = np.repeat(np.fromiter(ur.keys(), np.int32, len(length)), length)
    flat = chain.from_iterable(chain.from_iterable(ur.values()))
    pairs = np.fromiter(flat, np.float64, 2 * len(user)).reshape(-1, 2)
    return user, pairs[:, 0].astype(np.int32), np.ascontiguousarray(pairs[:, 1])


def check_number(
    name: str, value: Any, least: float, most: float = np.inf, whole: bool = False, above: bool = False
) -> None:
    """Raise ValueError unless `value` is finite and in the range; `least` itself is not, if `above`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most or (above and value == least):
        what = "a whole number" if whole else "a number"
        span = f"above {least:g}" if above else f"from {least:g} {'on' if most == np.inf else f'to {most:g}'}"
        raise ValueError(f"{name} is {value!r}, and has to be {what} {span}")
