"""Hold the measurements of an evaluation and a leaderboard."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recommender.evaluation.metrics import Floats

METRICS = ("rmse", "mae", "rated_precision", "rated_recall", "rated_ndcg")


@dataclass(frozen=True)
class Fold:
    """One fold's metrics (rmse and mae in rating units, the others in 0..1) and its wall seconds.

    rated_precision, rated_recall and rated_ndcg judge the order of held-out ratings, see `metrics.ranking`.
    """

    rmse: float
    mae: float
    rated_precision: float
    rated_recall: float
    rated_ndcg: float
    fit_seconds: float
    test_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """All folds, and for each pair when it was held out, shapes (n,): its rating, its estimate, and how many
    ratings its item had in training.
    """

    folds: tuple[Fold, ...]
    true: Floats
    estimate: Floats
    item_ratings: Floats

    def mean(self) -> dict[str, float]:
        """Return each metric's mean over the folds."""
        return {name: float(np.mean([getattr(fold, name) for fold in self.folds])) for name in METRICS}

    def table(self) -> str:
        """Return the folds and their mean as text."""
        heads = ["fold", "RMSE", "MAE", "fit s", "test s"]
        rows = [[str(at), *asdict(fold).values()] for at, fold in enumerate(self.folds, start=1)]
        columns = list(zip(*(list(asdict(fold).values()) for fold in self.folds), strict=True))
        rows.append(["mean", *(float(np.mean(column)) for column in columns)])
        lines = ["".join(f"{head:>10}" for head in heads)]
        for row in rows:
            cells = [
                f"{row[0]:>10}",
                *(f"{value:10.4f}" for value in row[1:3]),
                *(f"{value:10.2f}" for value in row[6:]),
            ]
            lines.append("".join(cells))
        return "\n".join(lines)


@dataclass(frozen=True)
class Lists:
    """The result of metrics.lists, CPU seconds, and each listed item's number of ratings, shape (n,).

    `metrics` also has list_users, the number of users with held-out ratings, list_ratings, the mean of the
    listed items' ratings, and popular_ndcg, the NDCG of the most rated items, which are the same for
    everybody but for what each has rated. `ndcg` and `popular` are the two NDCG
    by user, shapes (u,), for the users with held-out ratings. `curve` has further values of spread, each with
    its metrics.
    """

    metrics: dict[str, float]
    ndcg: Floats
    popular: Floats
    fit_seconds: float
    list_seconds: float
    popularity: Floats
    curve: tuple[tuple[float, dict[str, float]], ...] = ()


def lists_line(numbers: Mapping[str, float], k: int) -> str:
    """Return the metrics of lists of k items as a line for people."""
    if not numbers["list_users"]:
        return "not measured: nobody has four ratings, of which one could be held out"
    return (
        f"NDCG@{k} {numbers['list_ndcg']:.4f} (the most rated items: {numbers['popular_ndcg']:.4f}), "
        f"recall@{k} {numbers['list_recall']:.4f}, coverage {numbers['coverage']:.4f}"
    )


@dataclass(frozen=True)
class Entry:
    """One line: `numbers` by name, and the data of the plots.

    Seconds are of the processor: to fit a fold, and to list for all users. Memory is the process's peak
    growth, size that of the model's arrays, both in 10⁶ bytes. `curve` is the RMSE for each of SHARES;
    `true`, `estimate`, `item_ratings` are those of the cross-validation, shapes (n,); `popularity` is how
    often each listed item was rated, `spread` that of Lists.curve.
    """

    name: str
    algorithm: str
    numbers: dict[str, float]
    curve: tuple[float, ...]
    true: Any
    estimate: Any
    item_ratings: Any
    popularity: Any
    spread: tuple[tuple[float, dict[str, float]], ...]
