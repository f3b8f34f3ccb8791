"""Convert a trained algorithm into the arrays of serving, and the inputs of folding in."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import surprise
from surprise import prediction_algorithms
from surprise.prediction_algorithms.knns import SymmetricAlgo

from recommender.algorithms import ranking, spark
from recommender.algorithms.heads import TwoHeads
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.serving.recommender import Recommender, Settings
from recommender.serving.scorers.base import Floats, FoldIn, Index, PickScorer, Scorer
from recommender.serving.scorers.factors import Factors
from recommender.serving.scorers.neighbours import Neighbours
from recommender.serving.scorers.peers import Peers
from recommender.serving.scorers.slopes import Slopes
from recommender.serving.scorers.weights import Weights

_BLOCK = 2**20


def fold_in_parameters(algo: Any, scorer: Scorer, ratings: Ratings) -> FoldIn:
    """Return the inputs of Scorer.fold_in and Scorer.reasons.

    EASE and UserEASE: nothing. Neighbourhoods: all keys but noise. Everything else: noise.
    """
    if isinstance(scorer, PickScorer):
        return {}
    if not isinstance(algo, SymmetricAlgo):
        return {"noise": _noise(scorer, ratings)}
    level = "none"
    if isinstance(algo, prediction_algorithms.KNNBaseline):
        level = "baseline"
    elif not isinstance(algo, prediction_algorithms.KNNBasic):
        level = "mean"
    return {
        "similarity": algo.sim_options.get("name", "msd").lower(),
        "min_support": algo.sim_options.get("min_support", 1),
        "shrinkage": algo.sim_options.get("shrinkage", 100),
        "level": level,
        # Surprise's default. SGD baselines lack it and are treated as ALS.
        "reg_u": algo.bsl_options.get("reg_u", 15),
        "spread": float(getattr(algo, "overall_sigma", 0.0)),
    }


def _noise(scorer: Scorer, ratings: Ratings) -> float:
    total = 0.0
    for at in range(0, len(ratings), _BLOCK):
        part = slice(at, at + _BLOCK)
        estimate = np.clip(scorer.pairs(ratings.user[part], ratings.item[part]), *ratings.scale)
        total += float(np.sum((ratings.rating[part] - estimate) ** 2))
    return max(total / len(ratings), 1e-9)


def scorer(algo: surprise.AlgoBase, ratings: Ratings) -> Scorer:
    """Return the formula of a trained algorithm as arrays; users and items in the order of `ratings`.

    Of TwoHeads it is that of the ratings. Users and items of `ratings` that are missing from the training set
    become unknown.
    """
    if isinstance(algo, TwoHeads):
        algo = algo.rating
    if isinstance(algo, ranking.AutoEASE):
        algo = algo.chosen
    trainset = algo.trainset
    users = _inner(ratings.users, trainset.to_inner_uid)
    items = _inner(ratings.items, trainset.to_inner_iid)
    if isinstance(algo, SymmetricAlgo):
        return _neighbours(algo, users, items)
    if isinstance(algo, prediction_algorithms.SlopeOne):
        return _slopes(algo, users, items)
    if isinstance(algo, ranking.EASE):
        return _weights(algo, users, items)
    if isinstance(algo, ranking.UserEASE):
        return _peers(algo, users, items)
    if isinstance(algo, spark.SparkPicks):
        return _picks(algo, users, items)
    return _factors(algo, users, items)


def settings_of(config: Config) -> Settings:
    """The part of a model's settings that the parameter file says."""
    rules = config.recommendation
    return {
        "algorithm": config.algorithm,
        "k": rules.k,
        "min_item_ratings": rules.min_item_ratings,
        "damping": rules.damping,
        "spread": rules.spread,
    }


def recommender(algo: surprise.AlgoBase, ratings: Ratings, settings: Settings) -> Recommender:
    """A trained algorithm over all of `ratings`; `settings` as in `build`."""
    if isinstance(algo, TwoHeads):
        lister = scorer(algo.ranking, ratings)
        how = fold_in_parameters(algo.ranking, lister, ratings)
        chosen = getattr(algo.ranking, "chosen", algo.ranking)
        settings = {**settings, "ranking": {"algorithm": type(chosen).__name__, "fold_in": how}}
        algo = algo.rating
    else:
        lister = None
    formula = scorer(algo, ratings)
    settings = {**settings, "fold_in": fold_in_parameters(algo, formula, ratings)}
    return build(formula, ratings, settings, lister)


def build(scorer: Scorer, ratings: Ratings, settings: Settings, lister: Scorer | None = None) -> Recommender:
    """Join scorers over all of `ratings` to them; `settings` needs k, min_item_ratings and damping.

    `lister` orders the lists, None if `scorer` does.

    The damped mean is (sum of an item's ratings + damping x overall mean) / (its ratings + damping):
    damping is the number of average ratings that a new item starts with.
    """
    m, damping = len(ratings.items), settings["damping"]
    settings = {**settings, "scale": list(ratings.scale), "scorer": type(scorer).__name__}
    if lister is not None:
        settings["ranking"] = {**settings.get("ranking", {}), "scorer": type(lister).__name__}
    count = np.bincount(ratings.item, minlength=m)
    total = np.bincount(ratings.item, weights=ratings.rating, minlength=m)
    start = np.concatenate(([0], np.cumsum(np.bincount(ratings.user, minlength=len(ratings.users)))))
    return Recommender(
        scorer=scorer,
        users=ratings.users,
        items=ratings.items,
        titles=tuple(ratings.titles.get(item, "") for item in ratings.items),
        start=start,
        rated=ratings.item,
        count=count,
        popularity=(total + damping * ratings.rating.mean()) / (count + damping),
        settings=settings,
        rating=ratings.rating.astype(np.float32),
        lister=lister,
    )


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


def _picks(algo: Any, users: Index, items: Index) -> Factors:
    low = float(algo.trainset.rating_scale[0])
    return Factors(
        base=low,
        fallback=low,
        user_bias=_aligned(np.zeros(len(algo.pu)), users, 0.0),
        item_bias=_aligned(np.zeros(len(algo.qi)), items, 0.0),
        user_factors=_aligned(algo.pu, users, 0.0),
        item_factors=_aligned(algo.qi, items, 0.0),
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


def _peers(algo: ranking.UserEASE, users: Index, items: Index) -> Peers:
    low, high = algo.trainset.rating_scale
    return Peers(
        low=float(low),
        high=float(high),
        rating_weight=float(algo.rating_weight),
        activity=float(algo.activity),
        unit=algo.unit,
        popularity=_aligned(algo.popularity, items, 0.0),
        position=np.append(users, -1).astype(np.int32),
        first=algo.start.astype(np.int64),
        rated=_outer(items)[algo.rated].astype(np.int32),
        value=algo.value,
        inverse=algo.inverse,
        folded=np.zeros((len(algo.inverse), 0)),
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
    """Surprise's ratings by y, as the scorers' `first`, `length` and `near`, and the ratings themselves."""
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
    """The entries of a matrix over x that are `present`, as the scorers' `key` and `value`."""
    a, b = np.nonzero(np.triu(present))
    outer, n = _outer(xs), len(xs)
    # The smaller index first by our order, not Surprise's: a deviation has a sign.
    turned = outer[a] > outer[b]
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    key = outer[a] * n + outer[b]
    order = np.argsort(key)
    kind = np.int32 if n * n <= np.iinfo(np.int32).max else np.int64
    return {"key": key[order].astype(kind), "value": np.asarray(matrix)[a[order], b[order]]}
