"""Cross-validate: train each fold once and compute all metrics in one pass."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.algorithms import catalogue, convert, ranking, trainset
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.errors import InputError
from recommender.evaluation import metrics
from recommender.evaluation.metrics import Floats
from recommender.evaluation.results import Evaluation, Fold, Lists
from recommender.serving.recommender import Recommender

# Users whose lists are measured: the mean over so many has a standard error of some 0.003.
MOST_LISTED = 10_000


def check_folds(ratings: Ratings, folds: int) -> None:
    """Raise InputError when there are fewer ratings than folds."""
    if len(ratings) < folds:
        raise InputError(
            f"{ratings.name}: {len(ratings)} ratings cannot make {folds} folds. "
            "Give more ratings or a smaller evaluation.folds."
        )


def relevant_from(scale: tuple[float, float]) -> float:
    """Return the default threshold of relevant ratings: four of five stars, on any scale.

    That is 4/5 of the highest rating. If that is not above the lowest rating, or the lowest is below 0, it is
    3/4 of the way up.
    """
    low, high = scale
    return high * 4 / 5 if 0 <= low < high * 4 / 5 else low + (high - low) * 3 / 4


def on_scale(config: Config, ratings: Ratings) -> Config:
    """Return the configuration with a numeric evaluation.threshold; raises InputError if off the scale."""
    (low, high), threshold = ratings.scale, config.evaluation.threshold
    usual = relevant_from(ratings.scale)
    if threshold is None:
        evaluation = config.evaluation.model_copy(update={"threshold": usual})
        return config.model_copy(update={"evaluation": evaluation})
    if not low <= threshold <= high:
        count = "no rating" if threshold > high else "every rating"
        raise InputError(
            f"evaluation.threshold is {threshold:g}, off the scale {low:g} to {high:g} of {ratings.name}: "
            f"{count} would count as relevant. Leave it out of the parameter file (it is {usual:g} then), "
            f"or type --set evaluation.threshold={usual:g}"
        )
    return config


def cross_validate(
    ratings: Ratings, config: Config, progress: Callable[[str], None] = lambda line: None
) -> Evaluation:
    """Cross-validate with Surprise's KFold, shuffled by the seed.

    Raises InputError when there are fewer ratings than folds, the threshold is off the scale, or the
    parameters do not fit the algorithm.
    """
    config = on_scale(config, ratings)
    settings = config.evaluation
    check_folds(ratings, settings.folds)
    compiling = catalogue.warm_up(config.algorithm, config.params, config.seed)
    if compiling > 1:
        progress(f"{config.algorithm} compiled in {compiling:.0f} s, cached for the next run if possible")
    folds, parts = [], []
    whole = np.bincount(ratings.item, minlength=len(ratings.items))
    for number, (known, held_out) in enumerate(trainset.folds(ratings, settings.folds, config.seed), start=1):
        fold, estimate = measure(ratings, config, known, held_out, number)
        item = ratings.item[held_out]
        left = whole - np.bincount(item, minlength=len(whole))
        folds.append(fold)
        parts.append((ratings.rating[held_out], estimate, left[item]))
        progress(
            f"fold {number}/{settings.folds}: RMSE {fold.rmse:.4f}, MAE {fold.mae:.4f} "
            f"({fold.fit_seconds + fold.test_seconds:.1f} s)"
        )
    true, estimate, seen = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Evaluation(tuple(folds), true, estimate, seen)


def measure(
    ratings: Ratings, config: Config, known: trainset.ArrayTrainset, held_out: Any, number: int
) -> tuple[Fold, Floats]:
    """Train on `known` and estimate the ratings at the positions `held_out`: metrics, and estimates (n,)."""
    settings = config.evaluation
    threshold = relevant_from(ratings.scale) if settings.threshold is None else settings.threshold
    began = time.perf_counter()
    algo = catalogue.make(config.algorithm, config.params, config.seed, served=False)
    catalogue.fit(algo, known)
    fitted = time.perf_counter()
    user, item, true = ratings.user[held_out], ratings.item[held_out], ratings.rating[held_out]
    if config.algorithm == catalogue.UNSERVED:
        np.random.seed((config.seed + number) % 2**32)
        pairs = zip(user.tolist(), item.tolist(), strict=True)
        estimate = np.array([algo.predict(ratings.users[u], ratings.items[i]).est for u, i in pairs])
    else:
        estimate = np.clip(convert.scorer(algo, ratings).pairs(user, item), *ratings.scale)
    fold = Fold(
        rmse=metrics.rmse(true, estimate),
        mae=metrics.mae(true, estimate),
        **metrics.ranking(user, true, estimate, settings.k, threshold, ratings.scale[0]),
        fit_seconds=fitted - began,
        test_seconds=time.perf_counter() - fitted,
    )
    return fold, estimate


def split(ratings: Ratings, seed: int) -> tuple[Ratings, NDArray[np.bool_]]:
    """Hold out a quarter of each user's ratings, rounded down; return the rest and the positions (n,)."""
    order = np.lexsort((np.random.RandomState(seed).random_sample(len(ratings)), ratings.user))
    count = np.bincount(ratings.user, minlength=len(ratings.users))
    rank = np.arange(len(ratings)) - (np.cumsum(count) - count)[ratings.user[order]]
    out = np.zeros(len(ratings), dtype=bool)
    out[order[rank < count[ratings.user[order]] // 4]] = True
    rest = replace(ratings, user=ratings.user[~out], item=ratings.item[~out], rating=ratings.rating[~out])
    return rest, out


def lists(ratings: Ratings, config: Config, seed: int, spreads: Sequence[float] = ()) -> Lists:
    """Train what orders lists on the rest of `split`, and list evaluation.k items for each user.

    Of more than MOST_LISTED users so many are drawn by `seed`.

    `spreads`: further values of recommendation.spread to list with.

    The lists follow the rules of serving, without rated items. Every held-out rating, high or low, is
    relevant: the user picked the item.
    """
    rest, out = split(ratings, seed)
    began = time.process_time()
    algo = catalogue.lister(config)
    if isinstance(algo, ranking.AutoEASE):
        # The one that is served: of the items some are held out entirely.
        algo = algo.choice(len(ratings.users), len(ratings.items))
    catalogue.fit(algo, trainset.full(rest))
    fitted = time.process_time()
    recommender = convert.recommender(algo, rest, convert.settings_of(config))
    built = time.process_time()
    users = np.arange(len(ratings.users))
    if len(users) > MOST_LISTED:
        users = np.sort(np.random.RandomState(seed).choice(users, MOST_LISTED, replace=False))
        out &= np.isin(ratings.user, users)
    picks = _picks(recommender, users, config.evaluation.k)
    listed = time.process_time()
    held = np.searchsorted(users, ratings.user[out]), ratings.item[out], len(ratings.items)
    found, ndcg = metrics.lists(picks, *held)
    by_count, popular = metrics.lists(_most_rated(rest, users, config.evaluation.k), *held)
    ratings_of = recommender.count[picks[picks >= 0]].astype(np.float64)
    found |= {
        "list_ratings": float(ratings_of.mean()) if len(ratings_of) else 0.0,
        "popular_ndcg": by_count["list_ndcg"],
        "list_users": float(len(ndcg)),
    }
    curve = []
    for spread in spreads:
        other = replace(recommender, settings={**recommender.settings, "spread": spread})
        curve.append((spread, metrics.lists(_picks(other, users, config.evaluation.k), *held)[0]))
    return Lists(found, ndcg, popular, fitted - began, listed - built, ratings_of, tuple(curve))


def _picks(recommender: Recommender, users: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The lists of these users, shape (users, k), -1 where one is shorter."""
    picks = np.full((len(users), k), -1)
    for block in recommender.recommend([recommender.users[at] for at in users], k):
        picks[block.user, block.rank - 1] = block.item
    return picks


def _most_rated(ratings: Ratings, users: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k items with most ratings, without those that the user has rated, for each user as `_picks`."""
    count = np.bincount(ratings.item, minlength=len(ratings.items))
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    start = np.concatenate(([0], np.cumsum(np.bincount(ratings.user, minlength=len(ratings.users)))))
    picks = np.full((len(users), k), -1)
    for row, at in zip(picks, users, strict=True):
        rated = ratings.item[start[at] : start[at + 1]]
        first = order[: k + len(rated)]
        unseen = first[~np.isin(first, rated)][:k]
        row[: len(unseen)] = unseen
    return picks
