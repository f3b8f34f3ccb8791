"""Measure a model in use: new users, lists for all users, and its size.

python -m bench.serving
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.algorithms import EMBEDDED, K, cpu
from recommender import config, train
from recommender.algorithms import dump
from recommender.config import Config, DataConfig, RecommendationConfig
from recommender.data import reading, synthetic
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from recommender.evaluation import metrics

CONF = Path(__file__).parents[1] / "conf"


def chosen(kind: str, **params: Any) -> Config:
    """Return the settings of an algorithm: these parameters, otherwise defaults."""
    return Config.model_validate({"algorithm": kind, "params": params, "data": {"source": "x"}})


def _with_strangers(ratings: Ratings) -> tuple[Any, Any, Any, Ratings, Ratings]:
    """A fifth of the users as new ones, and half of the ratings as what is shown of them.

    Returns masks of users and ratings, the ratings as a frame, those of the other users, and these with what
    is shown.
    """
    draw = np.random.default_rng(0)
    stranger = draw.permutation(len(ratings.users)) < len(ratings.users) // 5
    shown = draw.random(len(ratings)) < 0.5
    new, frame = stranger[ratings.user], ratings.frame()
    return stranger, shown, frame, from_frame(frame[~new]), from_frame(frame[~new | shown])


def new_users(ratings: Ratings) -> str:
    """Measure RMSE on half of the ratings of new users, a fifth of all; the other half is their history."""
    stranger, shown, frame, known, more = _with_strangers(ratings)
    lines = ["| RMSE for new users | as strangers | folded in | trained again |", "|---|---|---|---|"]
    for name in ("svd.yaml", "tuned.yaml", "default.yaml"):
        recommender, again = (train.fit(each, config.load(CONF / name))[0] for each in (known, more))
        errors: dict[str, list[float]] = defaultdict(list)
        for user in np.flatnonzero(stranger):
            of, asked = ratings.users[user], ratings.user == user
            part = frame[asked & ~shown]
            history = dict(zip(*(frame[asked & shown][key] for key in ("item", "rating")), strict=True))
            people = {
                "strangers": recommender.estimate([of] * len(part), part["item"]),
                "folded": recommender.estimate([of] * len(part), part["item"], history),
                "again": again.estimate([of] * len(part), part["item"]),
            }
            for way, estimates in people.items():
                errors[way] += list(part["rating"] - estimates)
        found = (f"{np.sqrt(np.mean(np.square(each))):.3f}" for each in errors.values())
        lines.append(f"| `conf/{name}` | {' | '.join(found)} |")
    return "\n".join(lines)


def new_users_lists(ratings: Ratings) -> str:
    """NDCG of lists of ten against half of the ratings of new users, as in `new_users`."""
    stranger, shown, frame, known, more = _with_strangers(ratings)
    lines = ["| NDCG@10 for new users | as strangers | folded in | trained again |", "|---|---|---|---|"]
    for name in ("bmf.yaml", "ease.yaml", "default.yaml"):
        recommender, again = (train.fit(each, config.load(CONF / name))[0] for each in (known, more))
        picks: dict[str, list[list[int]]] = defaultdict(list)
        for user in np.flatnonzero(stranger):
            of, mine = ratings.users[user], ratings.user == user
            history = dict(zip(*(frame[mine & shown][key] for key in ("item", "rating")), strict=True))
            ways = {
                "strangers": [pick for pick in recommender.top_n(of, 500) if pick.item not in history][:K],
                "folded": recommender.top_n(of, K, history),
                "again": again.top_n(of, K),
            }
            for way, listed in ways.items():
                row = [ratings.items.index(pick.item) for pick in listed]
                picks[way].append(row + [-1] * (K - len(row)))
        asked = stranger[ratings.user] & ~shown
        at = np.searchsorted(np.flatnonzero(stranger), ratings.user[asked])
        found = (
            metrics.lists(np.array(rows), at, ratings.item[asked], len(ratings.items))[0]["list_ndcg"]
            for rows in picks.values()
        )
        lines.append(f"| `conf/{name}` | {' | '.join(f'{each:.3f}' for each in found)} |")
    return "\n".join(lines)


def lists_of_all() -> str:
    """Time lists of ten for all users: our blocks against the anti-testset of Surprise's FAQ."""
    lines = [
        "| lists of 10 for all | users by items | anti-testset, s | blocks, s | ratio |",
        "|---|---|---|---|---|",
    ]
    small, large = (400, 900, 40_000), (943, 1682, 100_000)
    cases: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
        ("SVD", {}, large), ("BMF", {"n_epochs": 3}, large), ("SVDpp", {"n_epochs": 2}, small),
        ("BaselineOnly", {}, small), ("SlopeOne", {}, small), ("KNNBasic", {}, small),
        ("KNNBasic", {"sim_options": {"user_based": False}}, small),
    ]  # fmt: skip
    for name, params, (users, items, n) in cases:
        ratings = synthetic.generate(n, users=users, items=items)
        # the FAQ's lists leave no item out
        every = {"recommendation": RecommendationConfig(min_item_ratings=0)}
        recommender, algo = train.fit(ratings, chosen(name, **params).model_copy(update=every))

        def the_faqs_way(algo: Any = algo) -> None:
            top: dict[str, list[tuple[str, float]]] = defaultdict(list)
            for user, item, _, estimate, _ in algo.test(algo.trainset.build_anti_testset()):
                top[user].append((item, estimate))
            for estimates in top.values():
                estimates.sort(key=lambda pair: pair[1], reverse=True)
                del estimates[K:]

        def ours(recommender: Any = recommender) -> None:
            list(recommender.recommend(k=K))

        theirs, _ = cpu(the_faqs_way)
        blocks, _ = cpu(ours, 5)
        of = ", between items" if params.get("sim_options") else ""
        numbers = f"{theirs:.2f} | {blocks:.3f} | {theirs / blocks:.0f}"
        lines.append(f"| {name}{of} | {users} by {items} | {numbers} |")
    return "\n".join(lines)


def sizes(ratings: Ratings) -> str:
    """Measure a stored model's size, and the time of one user's list."""
    lines = [
        "| on the embedded set | arrays | file | Surprise's dump | one user's list |",
        "|---|---|---|---|---|",
    ]
    by_item = {"sim_options": {"user_based": False}}
    models = {
        "BMF and AutoEASE (`conf/default.yaml`)": config.load(CONF / "default.yaml"),
        "BMF (`conf/bmf.yaml`)": config.load(CONF / "bmf.yaml"),
        "SVD (`conf/svd.yaml`)": config.load(CONF / "svd.yaml"),
        "EASE (`conf/ease.yaml`)": config.load(CONF / "ease.yaml"),
        "UserEASE (`conf/user_ease.yaml`)": config.load(CONF / "user_ease.yaml"),
        "KNNBaseline by users (`conf/knn.yaml`)": config.load(CONF / "knn.yaml"),
        "KNNBasic by items": chosen("KNNBasic", **by_item),
        "SlopeOne": chosen("SlopeOne"),
    }
    for name, settings in models.items():
        recommender, algo = train.fit(ratings, settings)
        with tempfile.TemporaryDirectory() as scratch:
            arrays, native = Path(scratch, "arrays"), Path(scratch, "native")
            recommender.save(arrays, {})
            dump.save(algo, native, {})
            kept, dumped = (sum(file.stat().st_size for file in each.iterdir()) for each in (arrays, native))
        memory = sum(array.nbytes for array in recommender.arrays().values())
        began = time.perf_counter()
        for user in ratings.users[:100]:
            recommender.top_n(user, K)
        seconds = (time.perf_counter() - began) / 100
        found = " | ".join(f"{size / 1e6:.0f} MB" for size in (memory, kept, dumped))
        lines.append(f"| {name} | {found} | {seconds * 1000:.1f} ms |")
    return "\n".join(lines)


def text(progress: Callable[[str], None] = lambda line: None) -> str:
    """Return all tables as Markdown."""
    ratings = reading.read(DataConfig(source=str(EMBEDDED)))
    tables = {
        "new users": lambda: new_users(ratings),
        "new users' lists": lambda: new_users_lists(ratings),
        "lists": lists_of_all,
        "sizes": lambda: sizes(ratings),
    }
    parts = []
    for name, table in tables.items():
        progress(f"{name} …")
        with threadpool_limits(1):
            parts.append(table())
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(text(lambda line: print(line, file=sys.stderr, flush=True)))
