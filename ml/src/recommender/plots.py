"""One figure that shows a cross-validation at a glance."""

from typing import TYPE_CHECKING

import matplotlib
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recommender.evaluate import Evaluation


def evaluation(result: "Evaluation", scale: tuple[float, float]) -> "Figure":
    """Errors by fold, spread of ratings and estimates, and mean estimate by true rating (its calibration)."""
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    by_fold, spread, calibration = figure.subplots(1, 3)

    at = np.arange(1, len(result.folds) + 1)
    by_fold.bar(at - 0.2, [fold.rmse for fold in result.folds], 0.4, label="RMSE")
    by_fold.bar(at + 0.2, [fold.mae for fold in result.folds], 0.4, label="MAE")
    by_fold.set(title="Error by fold", xlabel="fold", ylabel="rating units", xticks=at)
    by_fold.legend()

    bins = np.linspace(*scale, 19)
    spread.hist(result.true, bins=bins, alpha=0.6, label="ratings")
    spread.hist(result.estimate, bins=bins, alpha=0.6, label="estimates")
    spread.set(title="Held-out ratings and estimates", xlabel="rating", ylabel="pairs")
    spread.legend()

    levels, group = np.unique(result.true, return_inverse=True)
    size = np.bincount(group)
    mean = np.bincount(group, weights=result.estimate) / size
    deviation = np.sqrt(np.bincount(group, weights=(result.estimate - mean[group]) ** 2) / size)
    calibration.errorbar(levels, mean, yerr=deviation, fmt="o-", capsize=3)
    calibration.plot(scale, scale, linestyle=":", color="grey")
    calibration.set(title="Mean estimate by true rating", xlabel="true rating", ylabel="estimate (± 1 sd)")
    return figure
