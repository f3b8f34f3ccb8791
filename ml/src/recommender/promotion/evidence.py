"""Record evidence for the promotion gate: answers, held-out data, lists' NDCG, latency, size, digests."""

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recommender.promotion import bundle
from recommender.serving import manifest
from recommender.serving.answer import answer

if TYPE_CHECKING:
    from recommender.config import Config
    from recommender.evaluation.results import Lists
    from recommender.serving.recommender import Recommender

GOLDEN = "golden.json"
LISTS = "lists.json"
# Characters of lists.json: twice what the most users that are measured take.
_LARGEST = 2**19
_PAIRS, _LISTS = 200, 20
_STRANGER = "nobody has this id"


def log(
    native: Path,
    model_uri: str,
    recommender: "Recommender",
    config: "Config",
    dataset_digest: str,
    lists: "Lists",
) -> dict[str, str]:
    """Log golden.json, lists.json and the metrics latency_ms and model_bytes; returns tags to set.

    All go to the active run. `native` is the folder logged as native/. lists.json has two numbers a user with
    held-out ratings: the NDCG of the model's list and of the most rated items. Two runs with one
    holdout_digest have the same users.
    The tags are holdout_digest and artifact_digest. The latter covers `native`, both files and the model
    downloaded from the store, as MLflow adds files to it.
    """
    import mlflow

    golden, latency = sample(recommender, config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        by_user = {"ndcg": lists.ndcg.round(6).tolist(), "popular": lists.popular.round(6).tolist()}
        written = {GOLDEN: golden, LISTS: by_user}
        for name, content in written.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
            mlflow.log_artifact(str(folder / name))
        bundle.download_model(model_uri, folder)
        files = bundle.digests(folder)
        files |= {f"{bundle.RUN}/{name}": manifest.sha256(folder / name) for name in written}
        files |= {f"{bundle.RUN}/native/{each.name}": manifest.sha256(each) for each in native.iterdir()}
        model_bytes = bundle.size(folder)
    mlflow.log_metrics({"latency_ms": latency, "model_bytes": model_bytes})
    return {
        "artifact_digest": bundle.artifact_digest(files),
        "holdout_digest": holdout(dataset_digest, config),
    }


def read_lists(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return a run's lists.json as arrays (u,), None if it is missing or has another form.

    Whoever trains may have written it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(_LARGEST))
        ndcg, popular = (np.asarray(content[key], dtype=np.float64) for key in ("ndcg", "popular"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    sound = all(((each >= 0) & (each <= 1)).all() for each in (ndcg, popular))
    return (ndcg, popular) if sound and ndcg.ndim == 1 and ndcg.shape == popular.shape else None


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
