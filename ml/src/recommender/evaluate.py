"""k-fold cross-validation: each fold is trained once and every metric comes out of one pass."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from recommender import algorithm, metrics, trainset
from recommender.config import Config
from recommender.data import Ratings
from recommender.errors import InputError

METRICS = ("rmse", "mae", "precision_at_k", "recall_at_k", "ndcg_at_k")


@dataclass(frozen=True)
class Fold:
    """One fold's metrics (rmse and mae in rating units, the others in 0..1) and its wall seconds."""

    rmse: float
    mae: float
    precision_at_k: float
    recall_at_k: float
    ndcg_at_k: float
    fit_seconds: float
    test_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """All folds, and true and estimated rating of each pair when it was held out, shapes (n,)."""

    folds: tuple[Fold, ...]
    true: metrics.Floats
    estimate: metrics.Floats

    def mean(self) -> dict[str, float]:
        """Each metric's mean over the folds."""
        return {name: float(np.mean([getattr(fold, name) for fold in self.folds])) for name in METRICS}

    def table(self, k: int) -> str:
        """The folds and their mean as text."""
        heads = ["fold", "RMSE", "MAE", f"prec@{k}", f"recall@{k}", f"NDCG@{k}", "fit s", "test s"]
        rows = [[str(at), *asdict(fold).values()] for at, fold in enumerate(self.folds, start=1)]
        columns = list(zip(*(list(asdict(fold).values()) for fold in self.folds), strict=True))
        rows.append(["mean", *(float(np.mean(column)) for column in columns)])
        lines = ["".join(f"{head:>10}" for head in heads)]
        for row in rows:
            cells = [
                f"{row[0]:>10}",
                *(f"{value:10.4f}" for value in row[1:6]),
                *(f"{value:10.2f}" for value in row[6:]),
            ]
            lines.append("".join(cells))
        return "\n".join(lines)


def cross_validate(
    ratings: Ratings, config: Config, progress: Callable[[str], None] = lambda line: None
) -> Evaluation:
    """Cross-validate with Surprise's KFold, shuffled by the seed.

    Raises InputError when there are fewer ratings than folds, or the parameters do not fit the algorithm.
    """
    settings = config.evaluation
    if len(ratings) < settings.folds:
        raise InputError(
            f"{ratings.name}: {len(ratings)} ratings cannot make {settings.folds} folds. "
            "Give more ratings or a smaller evaluation.folds."
        )
    folds, trues, estimates = [], [], []
    splits = trainset.folds(ratings, settings.folds, config.seed)
    for number, (known, held_out) in enumerate(splits, start=1):
        began = time.perf_counter()
        algo = algorithm.make(config.algorithm, config.params, config.seed, served=False)
        algorithm.fit(algo, known)
        fitted = time.perf_counter()
        user, item, true = ratings.user[held_out], ratings.item[held_out], ratings.rating[held_out]
        if config.algorithm == algorithm.UNSERVED:
            np.random.seed((config.seed + number) % 2**32)
            pairs = zip(user.tolist(), item.tolist(), strict=True)
            estimate = np.array([algo.predict(ratings.users[u], ratings.items[i]).est for u, i in pairs])
        else:
            estimate = np.clip(algorithm.scorer(algo, ratings).pairs(user, item), *ratings.scale)
        fold = Fold(
            rmse=metrics.rmse(true, estimate),
            mae=metrics.mae(true, estimate),
            **metrics.ranking(user, true, estimate, settings.k, settings.threshold, ratings.scale[0]),
            fit_seconds=fitted - began,
            test_seconds=time.perf_counter() - fitted,
        )
        folds.append(fold)
        trues.append(true)
        estimates.append(estimate)
        progress(
            f"fold {number}/{settings.folds}: RMSE {fold.rmse:.4f}, MAE {fold.mae:.4f}, "
            f"NDCG@{settings.k} {fold.ndcg_at_k:.4f} ({fold.fit_seconds + fold.test_seconds:.1f} s)"
        )
    return Evaluation(tuple(folds), np.concatenate(trues), np.concatenate(estimates))
