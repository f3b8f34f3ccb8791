"""Hold the measurements of an evaluation and a leaderboard."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recommender.evaluation.metrics import Floats

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

    def table(self, k: int) -> str:
        """Return the folds and their mean as text."""
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


@dataclass(frozen=True)
class Lists:
    """The result of metrics.lists, CPU seconds, and each listed item's number of ratings, shape (n,)."""

    metrics: dict[str, float]
    fit_seconds: float
    list_seconds: float
    popularity: Floats


@dataclass(frozen=True)
class Entry:
    """One line: `numbers` by name, and the data of the plots.

    Seconds are of the processor: to fit a fold, and to list for all users. Memory is the process's peak
    growth, size that of the model's arrays, both in 10⁶ bytes. `curve` is the RMSE for each of SHARES;
    `true`, `estimate`, `item_ratings` are those of the cross-validation, shapes (n,); `popularity` is how
    often each listed item was rated.
    """

    name: str
    algorithm: str
    numbers: dict[str, float]
    curve: tuple[float, ...]
    true: Any
    estimate: Any
    item_ratings: Any
    popularity: Any
