"""List Surprise's algorithms and ours by name; make and train them."""

import contextlib
import copy
import inspect
import time
from typing import Any

import numpy as np
import pandas as pd
import surprise
from surprise import prediction_algorithms

from recommender import algorithms
from recommender.algorithms import bayesian, parameters, ranking, sgd, spark
from recommender.algorithms.heads import TwoHeads
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.errors import InputError

# Surprise's, partly replaced by compiled, bitwise equal ones, and our own.
ALGORITHMS: dict[str, type[surprise.AlgoBase]] = {
    name: value
    for name, value in vars(prediction_algorithms).items()
    if inspect.isclass(value) and issubclass(value, surprise.AlgoBase) and value is not surprise.AlgoBase
} | {kind.__name__: kind for kind in (sgd.SVD, sgd.SVDpp, bayesian.BMF, *ranking.KINDS, *spark.KINDS)}

# Its answers are random numbers: nothing can be stored.
UNSERVED = "NormalPredictor"


def make(name: str, params: dict[str, Any], seed: int, served: bool = True) -> surprise.AlgoBase:
    """Make an untrained Surprise algorithm; `seed` becomes its random_state if it has one.

    Raises InputError for a name not in ALGORITHMS, for parameters that the algorithm does not take
    (Surprise's neighbourhood models silently ignore misspelt ones), and if `served`, for the one algorithm
    that cannot be stored.
    """
    if name not in ALGORITHMS:
        raise InputError(f"algorithm: there is no {name!r}; there are: {', '.join(sorted(ALGORITHMS))}.")
    if served and name == UNSERVED:
        raise InputError(
            f"algorithm: {name} draws each answer at random, so it can be measured (recommender evaluate) "
            "but not kept or served. Train another, BaselineOnly for instance."
        )
    kind = ALGORITHMS[name]
    signature = inspect.signature(kind).parameters
    accepted = {key for key, value in signature.items() if value.kind is not inspect.Parameter.VAR_KEYWORD}
    if len(accepted) < len(signature):
        accepted |= {"bsl_options", "sim_options"}
    chosen = accepted - {"verbose", "random_state"}
    for key in params:
        if key not in chosen:
            hint = (
                "the key 'seed' sets it"
                if key == "random_state"
                else f"it takes: {', '.join(sorted(chosen)) or 'none'}"
            )
            raise InputError(f"params: {name} does not take {key!r}; {hint}.")
    parameters.check(params)
    # Surprise writes into option dictionaries, its own defaults among them: each instance gets its own.
    given: dict[str, Any] = {key: {} for key in ("bsl_options", "sim_options") if key in accepted}
    given |= copy.deepcopy(params)
    given |= {key: value for key, value in (("random_state", seed), ("verbose", False)) if key in accepted}
    return kind(**given)


def of(config: Config, served: bool = True) -> surprise.AlgoBase:
    """Make the untrained algorithm of a parameter file, TwoHeads if it names a second one for lists.

    Raises InputError as `make` does, for `params` and for `ranking.params`.
    """
    rating = make(config.algorithm, config.params, config.seed, served)
    return TwoHeads(rating, lister(config)) if config.ranking.algorithm else rating


def lister(config: Config) -> surprise.AlgoBase:
    """Make the untrained algorithm that orders the lists; raises InputError as `make` does."""
    head = config.ranking
    if head.algorithm is None:
        return make(config.algorithm, config.params, config.seed)
    try:
        return make(head.algorithm, head.params, config.seed)
    except InputError as error:
        raise InputError(f"ranking.{error}") from error


def dataset(ratings: Ratings) -> surprise.Dataset:
    """The ratings as a Surprise dataset, in their canonical order."""
    return surprise.Dataset.load_from_df(ratings.frame(), surprise.Reader(rating_scale=ratings.scale))


def fit(algo: surprise.AlgoBase, trainset: surprise.Trainset) -> surprise.AlgoBase:
    """Train `algo`; raises InputError when its parameters cannot be used or make the training diverge."""
    if isinstance(algo, TwoHeads):
        for head in (algo.rating, algo.ranking):
            fit(head, trainset)
        surprise.AlgoBase.fit(algo, trainset)
        return algo
    kind = type(algo).__name__
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            algo.fit(trainset)
    except (ValueError, TypeError, NameError, KeyError, AttributeError, ZeroDivisionError) as error:
        ours = type(algo).__module__.startswith(f"{algorithms.__name__}.") and kind not in vars(surprise)
        page = f"the class in {type(algo).__module__}" if ours else f"Surprise's page of {kind}"
        raise InputError(f"params: {kind} cannot train with these: {error}. See {page}.") from error
    if isinstance(getattr(algo, "sim", None), np.ndarray):
        # Surprise's pearson takes the root of what rounding made negative. NaN is not above 0, and so no
        # neighbour; among the others it would disturb Surprise's sorting.
        np.nan_to_num(algo.sim, copy=False, nan=0.0)
    # SlopeOne's deviation of two items without common users is NaN.
    arrays = [
        value
        for name, value in vars(algo).items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "dev"
    ]
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(
            f"params: the training of {kind} diverged. Lower the learning rates or raise regularisation."
        )
    return algo


def warm_up(name: str, params: dict[str, Any], seed: int) -> float:
    """Compile an algorithm's code, or load it from numba's cache; return the seconds.

    It is trained on two ratings. Invalid parameters are reported by the real training.
    """
    # on a cluster there is nothing to compile
    if ALGORITHMS.get(name) in (None, *spark.KINDS) or not ALGORITHMS[name].__module__.startswith(
        f"{algorithms.__name__}."
    ):
        return 0.0
    began = time.perf_counter()
    reader = surprise.Reader(rating_scale=(1, 5))
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["a", "b"], "rating": [1.0, 2.0]})
    tiny = surprise.Dataset.load_from_df(frame, reader).build_full_trainset()
    with contextlib.suppress(InputError):
        fit(make(name, params, seed), tiny)
    return time.perf_counter() - began
