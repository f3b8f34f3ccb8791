"""What a trained algorithm has to keep for users who come later."""

from typing import Any

import numpy as np
from surprise import prediction_algorithms
from surprise.prediction_algorithms.knns import SymmetricAlgo

from recommender.data import Ratings
from recommender.scoring import Scorer, Weights

_BLOCK = 2**20


def how(algo: Any, scorer: Scorer, ratings: Ratings) -> dict[str, Any]:
    """What Scorer.fold_in and Scorer.reasons need to know, as JSON can write it.

    Neighbourhoods: similarity, min_support and shrinkage of the measure; what a user's level is (baseline,
    mean or none) and reg_u, its regularisation; spread, the deviation of all ratings where each user has
    one. EASE: nothing. Everything else: noise, the variance of ratings around the estimate, in squared rating
    units.
    """
    if isinstance(scorer, Weights):
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
        # Surprise's default. Baselines by SGD have no such number, and are taken as if they came from ALS.
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
