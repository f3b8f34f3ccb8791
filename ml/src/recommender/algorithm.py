"""Surprise's algorithms and ours by name, and the arrays inside a trained one."""

import contextlib
import copy
import inspect
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import surprise
from surprise import dump, prediction_algorithms
from surprise.prediction_algorithms.knns import SymmetricAlgo

from recommender import algorithms, manifest
from recommender.algorithms import bayesian, ranking, sgd
from recommender.algorithms.compiled import check_number
from recommender.data import Ratings
from recommender.errors import InputError
from recommender.scoring import Factors, Floats, Index, Neighbours, Scorer, Slopes, Weights

# The one file beside the manifest of a dumped algorithm.
DUMP = "surprise.dump"

# Surprise's, with our compiled classes in the place of those that they equal bit by bit, and our own.
ALGORITHMS: dict[str, type[surprise.AlgoBase]] = {
    name: value
    for name, value in vars(prediction_algorithms).items()
    if inspect.isclass(value) and issubclass(value, surprise.AlgoBase) and value is not surprise.AlgoBase
} | {kind.__name__: kind for kind in (sgd.SVD, sgd.SVDpp, bayesian.BMF, ranking.EASE)}

# It answers every request with another random number: there is nothing to keep.
UNSERVED = "NormalPredictor"


def make(name: str, params: dict[str, Any], seed: int, served: bool = True) -> surprise.AlgoBase:
    """An untrained Surprise algorithm; `seed` becomes its random_state where it has one.

    Raises InputError for a name that is none of ALGORITHMS, for parameters that the algorithm does not
    take (Surprise's neighbourhood models silently ignore misspelt ones), and when `served`, for the one
    algorithm that no model can be made of.
    """
    if name not in ALGORITHMS:
        raise InputError(f"algorithm: there is no {name!r}; there are: {', '.join(sorted(ALGORITHMS))}.")
    if served and name == UNSERVED:
        raise InputError(
            f"algorithm: {name} draws each answer anew, so it can be measured (recommender evaluate) but not "
            "kept or served. Train another, BaselineOnly for instance."
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
    _check(params)
    # Surprise writes into option dictionaries, its own defaults among them: each instance gets its own.
    given: dict[str, Any] = {key: {} for key in ("bsl_options", "sim_options") if key in accepted}
    given |= copy.deepcopy(params)
    given |= {key: value for key, value in (("random_state", seed), ("verbose", False)) if key in accepted}
    return kind(**given)


# The least that a count may be. Surprise itself trains with less, and answers as if nothing were wrong.
_LEAST = {"k": 1, "min_k": 0, "n_epochs": 1, "n_factors": 0, "min_support": 1}
_OPTIONS = {
    "sim_options": {"name", "user_based", "min_support", "shrinkage"},
    "bsl_options": {"method", "n_epochs", "reg_i", "reg_u", "reg", "learning_rate"},
}


def _check(params: dict[str, Any], where: str = "params") -> None:
    """Raise InputError for numbers that make no sense, and for options that Surprise would ignore."""
    for key, value in params.items():
        if isinstance(value, dict) and key in _OPTIONS:
            if unknown := sorted(map(str, value.keys() - _OPTIONS[key])):
                known = ", ".join(sorted(_OPTIONS[key]))
                raise InputError(f"{where}.{key}: there is no {', '.join(unknown)}; there are: {known}.")
            _check(value, f"{where}.{key}")
        elif key in _LEAST:
            try:
                check_number(f"{where}.{key}", value, _LEAST[key], 1e9, whole=True)
            except ValueError as error:
                raise InputError(f"{error}.") from error
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}.{key} is {value}, and has to be a number.")


def dataset(ratings: Ratings) -> surprise.Dataset:
    """The ratings as a Surprise dataset, in their canonical order."""
    return surprise.Dataset.load_from_df(ratings.frame(), surprise.Reader(rating_scale=ratings.scale))


def fit(algo: surprise.AlgoBase, trainset: surprise.Trainset) -> surprise.AlgoBase:
    """Train `algo`; raises InputError when its parameters cannot be used or make the training diverge."""
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
    # SlopeOne has no deviation, but NaN, for two items that nobody rated both.
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
    """Have the code of an algorithm compiled, or read from numba's cache; returns the seconds it took.

    It is trained on two ratings: what is wrong with its parameters is for the training proper to say.
    """
    if name not in ALGORITHMS or not ALGORITHMS[name].__module__.startswith(f"{algorithms.__name__}."):
        return 0.0
    began = time.perf_counter()
    reader = surprise.Reader(rating_scale=(1, 5))
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["a", "b"], "rating": [1.0, 2.0]})
    tiny = surprise.Dataset.load_from_df(frame, reader).build_full_trainset()
    with contextlib.suppress(InputError):
        fit(make(name, params, seed), tiny)
    return time.perf_counter() - began


def save(algo: surprise.AlgoBase, folder: Path, about: dict[str, Any]) -> None:
    """Write Surprise's own dump and its manifest, with `about`, into a folder, which is made."""
    folder.mkdir(parents=True)
    if hasattr(algo, "surprises"):
        # Trained, it answers as Surprise's class does, and whoever loads the dump needs nothing of ours.
        algo = copy.copy(algo)
        algo.__class__ = algo.surprises
    dump.dump(str(folder / DUMP), algo=algo)
    manifest.write(folder, about)


def load(folder: Path) -> surprise.AlgoBase:
    """The algorithm that `save` dumped, with its training set: to look into, or to go on with in Surprise.

    The dump is a pickle, which runs whatever its maker wanted: load only your own. Serving never does.
    Raises InputError when a file is missing, is not the one that was saved, or is of another format, and when
    the versions here cannot read the dump.
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


def scorer(algo: surprise.AlgoBase, ratings: Ratings) -> Scorer:
    """The formula of a trained algorithm as arrays; users and items are those of `ratings`, in their order.

    What is in `ratings` but not in the algorithm's training set becomes unknown.
    """
    trainset = algo.trainset
    users = _inner(ratings.users, trainset.to_inner_uid)
    items = _inner(ratings.items, trainset.to_inner_iid)
    if isinstance(algo, SymmetricAlgo):
        return _neighbours(algo, users, items)
    if isinstance(algo, prediction_algorithms.SlopeOne):
        return _slopes(algo, users, items)
    if isinstance(algo, ranking.EASE):
        return _weights(algo, users, items)
    return _factors(algo, users, items)


def _factors(algo: Any, users: Index, items: Index) -> Factors:
    trainset = algo.trainset
    mean = float(trainset.global_mean)
    base, unknown = mean, 0.0
    user_bias, item_bias = algo.bu, algo.bi
    if isinstance(algo, prediction_algorithms.BaselineOnly):
        user_factors, item_factors = np.zeros((len(user_bias), 0)), np.zeros((len(item_bias), 0))
    elif isinstance(algo, prediction_algorithms.CoClustering):
        # The mean of the pair's co-cluster is picked by a factor that is 1 for the item's cluster and else 0.
        base, unknown = 0.0, np.nan
        user_bias = algo.user_mean - algo.avg_cltr_u[algo.cltr_u]
        item_bias = algo.item_mean - algo.avg_cltr_i[algo.cltr_i]
        user_factors, item_factors = algo.avg_cocltr[algo.cltr_u], np.eye(algo.n_cltr_i)[algo.cltr_i]
    else:
        user_factors, item_factors = np.array(algo.pu), algo.qi
        if isinstance(algo, prediction_algorithms.SVDpp):
            # The implicit term depends on the user only, so it is folded into the user's factors.
            for user, rated in trainset.ur.items():
                user_factors[user] += algo.yj[[item for item, _ in rated]].sum(axis=0) / np.sqrt(len(rated))
        elif not algo.biased:
            base, unknown = 0.0, np.nan
            user_bias, item_bias = np.zeros(trainset.n_users), np.zeros(trainset.n_items)
    return Factors(
        base=base,
        fallback=mean,
        user_bias=_aligned(user_bias, users, unknown),
        item_bias=_aligned(item_bias, items, unknown),
        user_factors=_aligned(user_factors, users, unknown),
        item_factors=_aligned(item_factors, items, unknown),
    )


def _neighbours(algo: Any, users: Index, items: Index) -> Neighbours:
    mean = float(algo.trainset.global_mean)
    xs, ys = algo.switch(users, items)
    base, unknown, x_level, y_level = mean, 0.0, np.zeros(algo.n_x), np.zeros(algo.n_y)
    if isinstance(algo, prediction_algorithms.KNNBaseline):
        x_level, y_level = np.asarray(algo.bx), np.asarray(algo.by)
    elif not isinstance(algo, prediction_algorithms.KNNBasic):
        base, unknown, x_level = 0.0, np.nan, algo.means
    sigma = getattr(algo, "sigmas", np.ones(algo.n_x))
    levels = _aligned(x_level, xs, unknown), _aligned(y_level, ys, unknown)
    user_level, item_level = algo.switch(*levels)
    rows = _rows(algo.yr, xs, ys)
    rating, near = rows.pop("rating"), rows["near"]
    scale = _aligned(sigma, xs, 1.0)
    level = base + levels[0][near] + np.repeat(levels[1], rows["length"])
    return Neighbours(
        base=base,
        fallback=mean,
        user_level=user_level,
        item_level=item_level,
        user_based=bool(algo.sim_options["user_based"]),
        **rows,
        **_values(algo.sim > 0, algo.sim, xs),
        scale=scale,
        # All scales are 0 where all ratings are equal; Surprise then divides nothing by nothing.
        deviation=np.divide(rating - level, scale[near], out=np.zeros(len(near)), where=scale[near] > 0),
        k=int(algo.k),
        min_k=int(algo.min_k),
    )


def _slopes(algo: Any, users: Index, items: Index) -> Slopes:
    rows = _rows(algo.trainset.ur, items, users)
    del rows["rating"]
    return Slopes(
        base=0.0,
        fallback=float(algo.trainset.global_mean),
        user_level=_aligned(algo.user_mean, users, np.nan),
        item_level=_aligned(np.zeros(algo.trainset.n_items), items, np.nan),
        user_based=False,
        **rows,
        **_values(algo.freq > 0, algo.dev, items),
    )


def _weights(algo: ranking.EASE, users: Index, items: Index) -> Weights:
    low, high = algo.trainset.rating_scale
    known = np.append(users, -1) >= 0
    inner = np.append(users, -1)
    return Weights(
        low=float(low),
        high=float(high),
        rating_weight=float(algo.rating_weight),
        position=np.where(np.append(items, -1) >= 0, algo.position[np.append(items, -1)], -1).astype(
            np.int32
        ),
        popularity=_aligned(algo.popularity, items, 0.0),
        first=np.where(known, algo.start[inner], 0),
        length=np.where(known, np.diff(algo.start)[inner], 0),
        rated=algo.rated.astype(np.int32),
        value=algo.value,
        weights=algo.weights,
    )


def _inner(ids: Sequence[str], convert: Callable[[str], int]) -> Index:
    """Surprise's index of each id, -1 for one that it has not seen."""

    def position(raw: str) -> int:
        try:
            return int(convert(raw))
        except ValueError:
            return -1

    return np.array([position(raw) for raw in ids], dtype=np.int64)


def _outer(inner: Index) -> Index:
    """The other way round: for each of Surprise's indices the position in `inner`."""
    known = np.flatnonzero(inner >= 0)
    return known[np.argsort(inner[known])]


def _aligned(array: Any, inner: Index, unknown: float) -> Floats:
    """Rows in our order and one for the unknown, which those have as well that Surprise has not seen."""
    array = np.asarray(array, dtype=np.float64)
    padded = np.concatenate((array, np.full((1, *array.shape[1:]), unknown)))
    rows: Floats = padded[np.append(inner, -1)]
    return rows


def _rows(ratings: dict[int, list[tuple[int, float]]], xs: Index, ys: Index) -> dict[str, Any]:
    """Surprise's ratings by y, as scoring's `first`, `length` and `near`, and the ratings themselves."""
    rows = [ratings[y] if y >= 0 else [] for y in ys.tolist()]
    length = np.array([*map(len, rows), 0], dtype=np.int64)
    inner = np.array([x for row in rows for x, _ in row], dtype=np.int64)
    return {
        "first": np.cumsum(length) - length,
        "length": length,
        "near": _outer(xs)[inner].astype(np.int32),
        "rating": np.array([rating for row in rows for _, rating in row]),
    }


def _values(present: Any, matrix: Any, xs: Index) -> dict[str, Any]:
    """The entries of a matrix over x that are `present`, as scoring's `key` and `value`."""
    a, b = np.nonzero(np.triu(present))
    outer, n = _outer(xs), len(xs)
    # The smaller index first by our order, not Surprise's: a deviation has a sign.
    turned = outer[a] > outer[b]
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    key = outer[a] * n + outer[b]
    order = np.argsort(key)
    kind = np.int32 if n * n <= np.iinfo(np.int32).max else np.int64
    return {"key": key[order].astype(kind), "value": np.asarray(matrix)[a[order], b[order]]}
