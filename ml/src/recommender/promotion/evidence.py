"""Record evidence for the promotion gate: answers, held-out data, latency, size, digests."""

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recommender.promotion import bundle
from recommender.serving.answer import answer

if TYPE_CHECKING:
    from recommender.config import Config
    from recommender.serving.recommender import Recommender

GOLDEN = "golden.json"
_PAIRS, _LISTS = 200, 20
_STRANGER = "nobody has this id"


def log(
    native: Path, model_uri: str, recommender: "Recommender", config: "Config", dataset_digest: str
) -> dict[str, str]:
    """Log golden.json and the metrics latency_ms and model_bytes to the active run; returns tags to set.

    `native` is the folder logged as native/. The tags are holdout_digest and artifact_digest. The latter
    covers `native`, the golden sample and the model downloaded from the store, as MLflow adds files to it.
    """
    import mlflow

    golden, latency = sample(recommender, config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / GOLDEN
        path.write_text(json.dumps(golden), encoding="utf-8")
        mlflow.log_artifact(str(path))
        bundle.download_model(model_uri, folder)
        files = bundle.digests(folder) | {f"{bundle.RUN}/{GOLDEN}": bundle.digest(path)}
        files |= {f"{bundle.RUN}/native/{each.name}": bundle.digest(each) for each in native.iterdir()}
        model_bytes = bundle.size(folder)
    mlflow.log_metrics({"latency_ms": latency, "model_bytes": model_bytes})
    return {
        "artifact_digest": bundle.artifact_digest(files),
        "holdout_digest": holdout(dataset_digest, config),
    }


def holdout(dataset_digest: str, config: "Config") -> str:
    """Return the SHA-256 (hex) of data, seed and evaluation, which determine the held-out ratings.

    Metrics of two runs are comparable if their digests are equal.
    """
    about = {
        "dataset": dataset_digest,
        "seed": config.seed,
        "evaluation": config.evaluation.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def sample(recommender: "Recommender", seed: int) -> tuple[dict[str, Any], float]:
    """Return random requests with the recommender's answers, and the latency of a list in ms.

    Requests are 200 pairs, with an unknown user and an unknown item among them, and the lists of 20 users
    and an unknown one. The latency is the 95th percentile over these lists, in this process.
    """
    draw = np.random.default_rng(seed)
    users = [recommender.users[at] for at in draw.integers(len(recommender.users), size=_PAIRS)]
    items = [recommender.items[at] for at in draw.integers(len(recommender.items), size=_PAIRS)]
    users[0] = users[1] = items[1] = items[2] = _STRANGER
    pairs = answer(recommender, pd.DataFrame({"user": users, "item": items}))
    lists, seconds = [], []
    for user in dict.fromkeys([_STRANGER, *users[3 : 3 + _LISTS]]):
        began = time.perf_counter()
        lists.append(answer(recommender, pd.DataFrame({"user": [user]})))
        seconds.append(time.perf_counter() - began)
    golden = {
        "pairs": pairs[["user", "item", "estimate"]].to_dict("list"),
        "lists": pd.concat(lists)[["user", "item", "estimate"]].to_dict("list"),
    }
    return golden, 1000 * float(np.percentile(seconds, 95))
