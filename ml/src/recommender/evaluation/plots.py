"""Plot a cross-validation, and experiments side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recommender.evaluation.results import Entry, Evaluation


def evaluation(result: "Evaluation", scale: tuple[float, float]) -> "Figure":
    """Plot errors by fold, the spread of ratings and estimates, and the mean estimate by true rating."""
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


def leaderboard(entries: "Sequence[Entry]", shares: Sequence[float]) -> "dict[str, Figure]":
    """Return figures by name: learning curve, error by ratings, accuracy by cost, popularity, spread."""
    # The scores of ranking models are not ratings, so their errors are meaningless.
    rating = [entry for entry in entries if not entry.algorithm.partition(" + ")[0].endswith("EASE")]
    return {
        "learning_curve": _learning_curve(rating, shares),
        "error_by_ratings": _error_by_ratings(rating),
        "accuracy_against_cost": _accuracy_against_cost(entries, rating),
        "popularity": _popularity(entries),
        "spread": _spread(entries),
    }


def _axes(width: float, count: int = 1, **labels: str) -> "tuple[Figure, Any]":
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots(1, count)
    if count == 1:
        axes.set(**labels)
    return figure, axes


def _learning_curve(entries: "Sequence[Entry]", shares: Sequence[float]) -> "Figure":
    figure, axes = _axes(7, title="Learning curve", xlabel="share of the training ratings", ylabel="RMSE")
    for entry in entries:
        axes.plot(shares, entry.curve, "o-", label=entry.name)
    if entries:
        axes.legend()
    return figure


def _error_by_ratings(entries: "Sequence[Entry]") -> "Figure":
    figure, axes = _axes(7, title="Error by number of ratings", xlabel="ratings of the item", ylabel="RMSE")
    edges = [0, 1, 2, 5, 10, 20, 50, 100, np.inf]
    names = ["0", "1", "2-4", "5-9", "10-19", "20-49", "50-99", "100+"]
    for entry in entries:
        group = np.digitize(entry.item_ratings, edges[1:])
        squares = np.bincount(group, (entry.true - entry.estimate) ** 2, minlength=len(names))
        size = np.bincount(group, minlength=len(names))
        there = size > 0
        axes.plot(np.flatnonzero(there), np.sqrt(squares[there] / size[there]), "o-", label=entry.name)
    axes.set_xticks(range(len(names)), names)
    if entries:
        axes.legend()
    return figure


def _accuracy_against_cost(entries: "Sequence[Entry]", rating: "Sequence[Entry]") -> "Figure":
    from matplotlib.ticker import NullFormatter

    figure, (left, right) = _axes(11, 2)
    for axes, shown, key, title in (
        (left, rating, "rmse", "RMSE (lower is better)"),
        (right, entries, "list_ndcg", "NDCG of the lists (higher is better)"),
    ):
        for entry in shown:
            # A coarse clock may give 0, which has no logarithm.
            place = max(entry.numbers["fit_seconds"], 1e-3), entry.numbers[key]
            axes.scatter(*place)
            axes.annotate(entry.name, place, xytext=(4, 4), textcoords="offset points")
        axes.set(title=title, xlabel="processor seconds to fit", ylabel=key, xscale="log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.15)
    return figure


def _popularity(entries: "Sequence[Entry]") -> "Figure":
    title = "Popularity of what is recommended"
    figure, axes = _axes(
        7, title=title, xlabel="ratings of the item", ylabel="share of the lists' places", xscale="log"
    )
    for entry in entries:
        counts = np.sort(entry.popularity)
        axes.plot(
            np.maximum(counts, 1), np.arange(1, len(counts) + 1) / max(len(counts), 1), label=entry.name
        )
    if entries:
        axes.legend()
    return figure


def _spread(entries: "Sequence[Entry]") -> "Figure":
    title = "Accuracy and coverage of the lists by recommendation.spread"
    figure, axes = _axes(7, title=title, xlabel="coverage", ylabel="NDCG of the lists")
    for entry in entries:
        points = [(found["coverage"], found["list_ndcg"]) for _, found in entry.spread]
        [line] = axes.plot(*zip(*points, strict=True), "o-", label=entry.name)
        for (spread, _), point in zip(entry.spread, points, strict=True):
            axes.annotate(
                f"{spread:g}",
                point,
                xytext=(3, 3),
                textcoords="offset points",
                color=line.get_color(),
                fontsize=7,
            )
    if entries:
        axes.legend()
    return figure
