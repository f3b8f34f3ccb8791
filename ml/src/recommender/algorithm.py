"""Surprise's algorithms by name, and the arrays inside those that are formulas over arrays."""

import copy
import inspect
from typing import Any

import numpy as np
import surprise
from surprise import prediction_algorithms

from recommender.data import Ratings
from recommender.errors import InputError
from recommender.model import Factors

ALGORITHMS: dict[str, type[surprise.AlgoBase]] = {
    name: value
    for name, value in vars(prediction_algorithms).items()
    if inspect.isclass(value) and issubclass(value, surprise.AlgoBase) and value is not surprise.AlgoBase
}


def make(name: str, params: dict[str, Any], seed: int) -> surprise.AlgoBase:
    """An untrained Surprise algorithm; `seed` becomes its random_state where it has one.

    Raises InputError for a name that Surprise does not have and for parameters that the algorithm does not
    take (Surprise's neighbourhood models silently ignore misspelt ones).
    """
    if name not in ALGORITHMS:
        raise InputError(f"algorithm: Surprise has no {name!r}; it has: {', '.join(sorted(ALGORITHMS))}.")
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
    # Surprise writes into option dictionaries, its own defaults among them: each instance gets its own.
    given: dict[str, Any] = {key: {} for key in ("bsl_options", "sim_options") if key in accepted}
    given |= copy.deepcopy(params)
    given |= {key: value for key, value in (("random_state", seed), ("verbose", False)) if key in accepted}
    return kind(**given)


def dataset(ratings: Ratings) -> surprise.Dataset:
    """The ratings as a Surprise dataset, in their canonical order."""
    return surprise.Dataset.load_from_df(ratings.frame(), surprise.Reader(rating_scale=ratings.scale))


def fit(algo: surprise.AlgoBase, trainset: surprise.Trainset, seed: int) -> surprise.AlgoBase:
    """Train `algo`; raises InputError when its parameters cannot be used or make the training diverge."""
    # NormalPredictor draws from numpy's global generator.
    np.random.seed(seed)
    name = type(algo).__name__
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            algo.fit(trainset)
    except (ValueError, TypeError, NameError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"params: {name} cannot train with these: {error}. See Surprise's page of {name}."
        ) from error
    arrays = [
        value for value in vars(algo).values() if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    ]
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(
            f"params: the training of {name} diverged. Lower the learning rates or raise regularisation."
        )
    return algo


def factors(algo: surprise.AlgoBase, ratings: Ratings) -> Factors | None:
    """The formula of a trained SVD, SVDpp, NMF or BaselineOnly as arrays ordered as `ratings`; else None.

    Users and items that the algorithm has not seen get the row of the unknown.
    Source of the formulas: the methods `estimate` of scikit-surprise 1.1.5.
    """
    trainset = algo.trainset
    mean = float(trainset.global_mean)
    if isinstance(algo, prediction_algorithms.SVDpp):
        # The implicit term depends on the user only, so it is folded into the user's factors.
        implicit = np.zeros_like(algo.pu)
        for user, rated in trainset.ur.items():
            implicit[user] = algo.yj[[item for item, _ in rated]].sum(axis=0) / np.sqrt(len(rated))
        parts = (algo.bu, algo.bi, np.asarray(algo.pu) + implicit, algo.qi)
    elif isinstance(algo, (prediction_algorithms.SVD, prediction_algorithms.NMF)):
        parts = (algo.bu, algo.bi, algo.pu, algo.qi)
    elif isinstance(algo, prediction_algorithms.BaselineOnly):
        parts = (algo.bu, algo.bi, np.zeros((len(algo.bu), 0)), np.zeros((len(algo.bi), 0)))
    else:
        return None
    biased = getattr(algo, "biased", True)
    users = _inner(ratings.users, trainset.to_inner_uid)
    items = _inner(ratings.items, trainset.to_inner_iid)
    unknown = 0.0 if biased else np.nan

    def aligned(array: Any, index: np.ndarray[Any, Any], filler: float) -> np.ndarray[Any, Any]:
        array = np.array(array, dtype=np.float64)
        if not biased and array.ndim == 1:
            array = np.zeros_like(array)
        padded = np.concatenate((array, np.full((1, *array.shape[1:]), filler)))
        rows: np.ndarray[Any, Any] = padded[np.append(index, -1)]
        return rows

    return Factors(
        base=mean if biased else 0.0,
        fallback=mean,
        user_bias=aligned(parts[0], users, unknown),
        item_bias=aligned(parts[1], items, unknown),
        user_factors=aligned(parts[2], users, unknown),
        item_factors=aligned(parts[3], items, unknown),
    )


def _inner(ids: tuple[str, ...], convert: Any) -> np.ndarray[Any, Any]:
    def position(raw: str) -> int:
        try:
            return int(convert(raw))
        except ValueError:
            return -1

    return np.array([position(raw) for raw in ids], dtype=np.int64)
