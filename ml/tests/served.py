"""Two versions of a small model, for the tests of the service, and for a service that runs elsewhere.

usage: python -m tests.served FOLDER [RATING LISTS]     writes both, and the first one's bundle below bundles/

RATING and LISTS are the algorithms of the heads, instead of those of SVD and AutoEASE.
"""

import json
import os
import sys
from pathlib import Path

from recommender import train
from recommender.config import Config
from recommender.data.ratings import Ratings
from recommender.promotion import evidence
from recommender.serving.app import bundle

HERE = "http://127.0.0.1:8000"
LABELS = {
    "name": "dev.movie-recommender", "version": "1", "run_id": "f" * 32, "algorithm": "SVD + EASE",
    "trained_at": "2026-11-29T00:00:00+00:00",
    "model_digest": "a", "dataset_digest": "b", "artifact_digest": "c",
}  # fmt: skip


def make(ratings: Ratings, place: Path, rating: str = "SVD", lists: str = "AutoEASE") -> None:
    """Write the models and their golden samples; the second version estimates otherwise."""
    for number, epochs in ((1, 3), (2, 20)):
        content = {
            "algorithm": rating, "params": {"n_factors": 4, "n_epochs": epochs}, "data": {"source": "x"},
            "ranking": {"algorithm": lists}, "recommendation": {"k": 4, "min_item_ratings": 0},
        }  # fmt: skip
        model, _ = train.fit(ratings, Config.model_validate(content))
        model.save(place / f"model{number}", {})
        golden, _ = evidence.sample(model, 0)
        (place / f"golden{number}.json").write_text(json.dumps(golden))


def lay_out(models: Path, number: int, bundles: Path) -> Path:
    """Write the bundle of a version; return its folder."""
    labels = {**LABELS, "version": str(number)}
    return bundle.lay_out(models / f"model{number}", models / f"golden{number}.json", labels, bundles)


if __name__ == "__main__":
    # the tests' own settings take away where Spark is
    there = dict(os.environ)
    from tests.conftest import tiny

    os.environ.update(there)
    folder = Path(sys.argv[1])
    make(tiny(), folder, *sys.argv[2:])
    print(lay_out(folder, 1, folder / "bundles"))
