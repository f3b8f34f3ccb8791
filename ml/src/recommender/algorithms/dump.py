"""A trained algorithm as Surprise's own dump, for notebooks and comparisons; serving never reads it."""

import copy
from pathlib import Path
from typing import Any

import surprise
from surprise import dump

from recommender.algorithms.heads import TwoHeads
from recommender.errors import InputError
from recommender.serving import manifest

# The one file beside the manifest of a dumped algorithm.
DUMP = "surprise.dump"


def save(algo: surprise.AlgoBase, folder: Path, about: dict[str, Any]) -> None:
    """Write Surprise's own dump and its manifest, with `about`, into a new folder.

    Of TwoHeads it is the head that rates: Surprise has no use for the other.
    """
    folder.mkdir(parents=True)
    if isinstance(algo, TwoHeads):
        algo = algo.rating
    if hasattr(algo, "surprises"):
        # As Surprise's class, the dump loads without our code.
        algo = copy.copy(algo)
        algo.__class__ = algo.surprises
    dump.dump(str(folder / DUMP), algo=algo)
    manifest.write(folder, about)


def load(folder: Path) -> surprise.AlgoBase:
    """Load the dumped algorithm with its training set, to inspect it or to continue in Surprise.

    The dump is a pickle, which can run any code: load only your own. Serving never does.
    Raises InputError when a file is missing, was changed or is of another format, and when the versions here
    cannot read the dump.
    """
    made_with = manifest.check(folder, DUMP)["made_with"]
    try:
        return dump.load(str(folder / DUMP))[1]
    except Exception as error:
        raise InputError(
            f"{folder / DUMP}: cannot be unpickled here ({error!r}). It was made with Python "
            f"{made_with['python']}, scikit-surprise {made_with['scikit-surprise']} and numpy "
            f"{made_with['numpy']}: install these."
        ) from error
