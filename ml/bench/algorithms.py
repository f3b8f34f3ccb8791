"""Our algorithms beside plain Surprise and implicit, in one process and thread: CPU seconds and accuracy.

python -m bench.algorithms
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import implicit
import numpy as np
import surprise
from scipy import sparse
from surprise.model_selection import KFold
from threadpoolctl import threadpool_limits

from recommender.algorithms import bayesian, catalogue, sgd
from recommender.config import Config, DataConfig
from recommender.data import reading, synthetic
from recommender.data.ratings import Ratings
from recommender.evaluation import metrics, validation

EMBEDDED = Path(__file__).parents[1] / "data" / "ml-latest-small"
K = 10


def cpu(call: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """Return the minimum of processor seconds over the calls, and the last result."""
    least, result = np.inf, None
    for _ in range(times):
        began = time.process_time()
        result = call()
        least = min(least, time.process_time() - began)
    return least, result


def compiled(ratings: Ratings) -> str:
    """SVD and SVD++ beside Surprise's own, on the same trainset, which is Surprise's."""
    lines = [
        "| algorithm | trained on | Surprise, s | compiled, s | ratio | same bits |",
        "|---|---|---|---|---|---|",
    ]
    whole = catalogue.dataset(ratings).build_full_trainset()
    fold, _ = next(KFold(5, random_state=0).split(catalogue.dataset(ratings)))
    million = catalogue.dataset(synthetic.generate(1_000_000)).build_full_trainset()
    cases: list[tuple[Any, str, Any, dict[str, Any], int]] = [
        (sgd.SVD, "a fold of ml-latest-small", fold, {}, 3),
        (sgd.SVD, "all of ml-latest-small", whole, {}, 3),
        (sgd.SVD, "a fold, 20 factors", fold, {"n_factors": 20}, 3),
        (sgd.SVD, "a million synthetic", million, {}, 1),
        (sgd.SVDpp, "a fold, 2 epochs", fold, {"n_epochs": 2, "cache_ratings": True}, 1),
    ]
    first = {kind: cpu(lambda kind=kind: kind(n_epochs=1).fit(fold))[0] for kind in (sgd.SVD, sgd.SVDpp)}
    for kind, name, trainset, params, times in cases:
        theirs, a = cpu(lambda: kind.surprises(random_state=0, **params).fit(trainset), times)  # noqa: B023
        ours, b = cpu(lambda: kind(random_state=0, **params).fit(trainset), times)  # noqa: B023
        same = all(
            np.asarray(getattr(a, key)).tobytes() == getattr(b, key).tobytes()
            for key in ("pu", "qi", "bu", "bi")
        )
        numbers = f"{theirs:.2f} | {ours:.2f} | {theirs / ours:.1f}"
        lines.append(f"| {kind.__name__} | {name} | {numbers} | {'yes' if same else 'no'} |")
    seconds = ", ".join(f"{kind.__name__} {value:.1f} s" for kind, value in first.items())
    return "\n".join(
        [*lines, "", f"First epoch of a process, with compiling or reading the compiled code: {seconds}."]
    )


def rating_models(ratings: Ratings) -> str:
    """RMSE over Surprise's five folds, and seconds to fit one."""
    lines = ["| rating model, 5 folds | RMSE | fit a fold, s |", "|---|---|---|"]
    models: dict[str, Callable[[], Any]] = {
        "Surprise SVD, defaults": lambda: surprise.SVD(random_state=0),
        "Surprise BaselineOnly": lambda: surprise.BaselineOnly(verbose=False),
        "Surprise KNNBaseline": lambda: surprise.KNNBaseline(verbose=False),
        "SVD, conf/tuned.yaml": lambda: sgd.SVD(
            n_factors=64, n_epochs=60, lr_all=0.01, reg_all=0.1, random_state=0
        ),
        "BMF without the rated pairs": lambda: bayesian.BMF(
            n_factors=20, n_epochs=60, n_burn_in=10, implicit=False, random_state=0
        ),
        "BMF, defaults": lambda: bayesian.BMF(random_state=0),
    }
    folds = list(KFold(5, random_state=0).split(catalogue.dataset(ratings)))
    bayesian.BMF(n_epochs=1).fit(folds[0][0])
    for name, make in models.items():
        seconds, errors = [], []
        for trainset, testset in folds:
            spent, algo = cpu(lambda: make().fit(trainset))  # noqa: B023
            seconds.append(spent)
            errors.append(surprise.accuracy.rmse(algo.test(testset), verbose=False))
        lines.append(f"| {name} | {np.mean(errors):.4f} | {np.mean(seconds):.2f} |")
    return "\n".join(lines)


def ranking_models(ratings: Ratings) -> str:
    """Lists of ten over the whole catalogue, a quarter of everybody's ratings held out; mean of 2 splits."""
    lines = [
        f"| lists of 10, {ratings.name} | NDCG | precision | recall | coverage | mean ratings | fit, s |",
        "|---|---|---|---|---|---|---|",
    ]
    models = {
        "popularity": ("EASE", {"min_ratings": 10**9}),
        "Surprise SVD, by estimate": ("SVD", {}),
        "BMF, by estimate": ("BMF", {}),
        "EASE, defaults": ("EASE", {}),
        "UserEASE, defaults": ("UserEASE", {}),
        "AutoEASE": ("AutoEASE", {}),
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in [*models, "implicit ALS, 64 factors"]}
    for seed in range(2):
        for name, (kind, params) in models.items():
            content = {
                "algorithm": kind, "params": params, "data": {"source": "x"}, "evaluation": {"k": K},
                "recommendation": {"min_item_ratings": 0},
            }  # fmt: skip
            found = validation.lists(ratings, Config.model_validate(content), seed)
            rows[name].append([*_shown(found.metrics), found.fit_seconds])
        rows["implicit ALS, 64 factors"].append(_als(ratings, seed))
    for name, values in sorted(rows.items(), key=lambda row: row[1][0][0]):
        *shares, known, seconds = np.mean(values, axis=0)
        shown = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {name} | {shown} | {known:.0f} | {seconds:.2f} |")
    return "\n".join(lines)


def _shown(found: dict[str, float]) -> list[float]:
    return [found[key] for key in ("list_ndcg", "list_precision", "list_recall", "coverage", "list_ratings")]


def _als(ratings: Ratings, seed: int) -> list[float]:
    rest, out = validation.split(ratings, seed)
    shape = len(ratings.users), len(ratings.items)
    seen = sparse.csr_matrix((np.ones(len(rest), np.float32), (rest.user, rest.item)), shape=shape)
    model = implicit.als.AlternatingLeastSquares(
        factors=64, regularization=0.05, alpha=2.0, iterations=15, num_threads=1, random_state=0
    )
    seconds, _ = cpu(lambda: model.fit(seen, show_progress=False))
    picks, _ = model.recommend(np.arange(shape[0]), seen, N=K, filter_already_liked_items=True)
    found, _ = metrics.lists(picks.astype(np.int64), ratings.user[out], ratings.item[out], shape[1])
    found["list_ratings"] = float(np.bincount(rest.item, minlength=shape[1])[picks].mean())
    return [*_shown(found), seconds]


def text(progress: Callable[[str], None] = lambda line: None) -> str:
    """Return all tables as Markdown."""
    ratings = reading.read(DataConfig(source=str(EMBEDDED)))
    parts = []
    tail = synthetic.generate(200_000, users=5_000, items=8_000)
    for part, of in (
        (compiled, ratings), (rating_models, ratings), (ranking_models, ratings), (ranking_models, tail),
    ):  # fmt: skip
        progress(f"{part.__name__.replace('_', ' ')} of {of.name} …")
        # Two threads of BLAS would double the processor seconds.
        with threadpool_limits(1):
            parts.append(part(of))
    versions = f"scikit-surprise {surprise.__version__}, implicit {implicit.__version__}"
    return "\n\n".join([f"Processor seconds of one thread; {versions}.", *parts])


if __name__ == "__main__":
    print(text(lambda line: print(line, file=sys.stderr, flush=True)))
