"""Makes a saved model and its golden sample of random numbers, with the service's own environment.

usage: make_model.py FOLDER SEED [ITEMS [FACTORS]]
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
from recommender.serving.recommender import ARRAYS, Recommender
from recommender.serving.scorers.factors import Factors

folder, (seed, items, factors) = pathlib.Path(sys.argv[1]), map(int, [*sys.argv[2:], "500", "8"][:3])
users = 100
draw = np.random.default_rng(seed)
rated = np.sort(draw.permuted(np.tile(np.arange(min(items, 200), dtype=np.int32), (users, 1)), axis=1)[:, :20], axis=1)
model = Recommender(
    scorer=Factors(
        base=3.5, fallback=3.5,
        # the last of each is that of unknown users and items
        user_bias=draw.normal(0, 0.3, users + 1), item_bias=draw.normal(0, 0.3, items + 1),
        user_factors=draw.normal(0, 0.3, (users + 1, factors)), item_factors=draw.normal(0, 0.3, (items + 1, factors)),
    ),
    users=tuple(map(str, range(users))),
    items=tuple(map(str, range(items))),
    titles=tuple(f"Film {at} ({1900 + at % 120})" for at in range(items)),
    start=np.arange(users + 1, dtype=np.int64) * 20,
    rated=rated.ravel(),
    rating=draw.integers(1, 6, rated.size).astype(np.float32),
    count=np.bincount(rated.ravel(), minlength=items).astype(np.int64) + 1,
    popularity=draw.uniform(2, 4.5, items),
    settings={
        "k": 10, "min_item_ratings": 0, "damping": 5.0, "scale": [1.0, 5.0],
        "scorer": "Factors", "fold_in": {"noise": 0.7},
    },
)  # fmt: skip
folder.mkdir(parents=True)
np.savez(folder / ARRAYS, **model.arrays())
content = (folder / ARRAYS).read_bytes()
files = {ARRAYS: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
(folder / "manifest.json").write_text(json.dumps({"format": 3, "recommender": "test", "files": files}))
pairs = {"user": [str(at % users) for at in range(50)], "item": [str(7 * at % items) for at in range(50)]}
lists = [(user, pick.item) for user in ("0", "1", "nobody") for pick in model.top_n(user)]
golden = {
    "pairs": {**pairs, "estimate": model.estimate(pairs["user"], pairs["item"]).tolist()},
    "lists": {"user": [user for user, _ in lists], "item": [item for _, item in lists]},
}
(folder / "golden.json").write_text(json.dumps(golden))
