"""Compare experiments on the same folds and splits: one table of accuracy and cost, with plots."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recommender.algorithms import catalogue, convert, trainset
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.evaluation import processes, validation
from recommender.evaluation.results import Entry
from recommender.tracking import run_log, runs

# Shares of the first fold's training set, one per point of the learning curve.
SHARES = (0.25, 0.5, 0.75, 1.0)
# Values of recommendation.spread, one per point of that plot.
SPREADS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
_HEADS = (
    ("rmse", "RMSE", ".4f"),
    ("mae", "MAE", ".4f"),
    ("list_precision", "precision", ".4f"),
    ("list_recall", "recall", ".4f"),
    ("list_ndcg", "NDCG", ".4f"),
    ("coverage", "coverage", ".4f"),
    ("list_ratings", "popularity", ".0f"),
    ("fit_seconds", "fit s", ".2f"),
    ("predict_seconds", "predict s", ".2f"),
    ("memory_mb", "memory MB", ".0f"),
    ("size_mb", "size MB", ".1f"),
)


def run(
    configs: dict[str, Config],
    ratings: Ratings,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Entry]:
    """Measure the experiments in order, each in a separate process.

    An experiment's own seed makes its folds and splits of `ratings`. Raises the errors of `measure`.
    """
    entries = []
    for at, (name, config) in enumerate(configs.items(), start=1):
        began = time.perf_counter()
        progress(f"{at}/{len(configs)} {name}: {config.named}")
        with processes.pool(1) as pool:
            entry = pool.submit(measure, name, config, ratings).result()
        numbers = entry.numbers
        progress(
            f"    RMSE {numbers['rmse']:.4f}, NDCG {numbers['list_ndcg']:.4f} "
            f"({time.perf_counter() - began:.0f} s)"
        )
        entries.append(entry)
    return entries


def measure(name: str, config: Config, ratings: Ratings) -> Entry:
    """Measure one experiment."""
    known, held_out = next(trainset.folds(ratings, config.evaluation.folds, config.seed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = validation.cross_validate(ratings, config)
    began = time.process_time()
    fitted = catalogue.fit(catalogue.of(config, served=False), known)
    fit_seconds = time.process_time() - began
    arrays = convert.recommender(fitted, ratings, convert.settings_of(config)).arrays()
    lists = validation.lists(ratings, config, config.seed, SPREADS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    curve = [
        validation.measure(ratings, config, _share(ratings, held_out, share, config.seed), held_out, 1)[
            0
        ].rmse
        for share in SHARES
    ]
    numbers = {
        **{key: result.mean()[key] for key in ("rmse", "mae")},
        **lists.metrics,
        "fit_seconds": fit_seconds,
        "predict_seconds": lists.list_seconds,
        "memory_mb": (peak - before) * 1024 / 1e6,
        "size_mb": sum(array.nbytes for array in arrays.values()) / 1e6,
    }
    return Entry(
        name, config.named, numbers, tuple(curve),
        result.true, result.estimate, result.item_ratings, lists.popularity, lists.curve,
    )  # fmt: skip


def _share(ratings: Ratings, held_out: Any, share: float, seed: int) -> trainset.ArrayTrainset:
    """Draw a share of the training ratings by the seed; a larger share contains the smaller."""
    rest = np.delete(np.arange(len(ratings)), held_out)
    at = np.sort(np.random.RandomState(seed).permutation(rest)[: max(1, round(share * len(rest)))])
    return trainset.full(
        replace(ratings, user=ratings.user[at], item=ratings.item[at], rating=ratings.rating[at])
    )


def log(
    entries: Sequence[Entry], configs: dict[str, Config], ratings: Ratings, uri: str, board: Config
) -> str:
    """Log a run with table and plots and, nested in it, one for each entry; return its id.

    Raises RecommenderError for errors of MLflow.
    """
    import mlflow

    from recommender.evaluation import plots

    tags = {"dataset_digest": ratings.digest(), "kind": "leaderboard"}
    with runs.run(board, uri, tags, name="leaderboard") as parent:
        text = table(entries, board.evaluation.k)
        mlflow.log_text(text + "\n", "leaderboard.txt")
        mlflow.log_dict({entry.name: entry.numbers for entry in entries}, "leaderboard.json")
        for name, figure in plots.leaderboard(entries, SHARES).items():
            mlflow.log_figure(figure, f"plots/{name}.png")
        for entry in entries:
            tags = {"dataset_digest": ratings.digest(), "algorithm": entry.algorithm}
            with runs.run(configs[entry.name], uri, tags, name=entry.name, nested=True) as child:
                run_log.log_setup(child.info.run_id, configs[entry.name], ratings)
                mlflow.log_metrics(entry.numbers)
        return str(parent.info.run_id)


def table(entries: Sequence[Entry], k: int) -> str:
    """Return the entries as text, the lowest RMSE first."""
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'experiment':<{width}}" + "".join(f"{head:>11}" for _, head, _ in _HEADS)]
    for entry in sorted(entries, key=lambda entry: entry.numbers["rmse"]):
        cells = "".join(f"{entry.numbers[key]:>11{form}}" for key, _, form in _HEADS)
        lines.append(f"{entry.name:<{width}}{cells}")
    lines.append(
        "precision, recall, NDCG, coverage and popularity (mean ratings of an item) are those of lists of "
        f"{k} over the whole catalogue"
    )
    return "\n".join(lines)
