"""A small world: ratings with structure, as MovieLens writes them, and one local store for all tests."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

# Before anything imports MLflow.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING_", "RECOMMENDER_"))]:
    del os.environ[name]
# Tests read each file for what is in it; the cache's own tests name a folder.
os.environ["RECOMMENDER_CACHE"] = "off"

from recommender.algorithms import spark  # noqa: E402
from recommender.config import Config, DataConfig  # noqa: E402
from recommender.data import reading  # noqa: E402
from recommender.data.ratings import Ratings  # noqa: E402
from recommender.data.reading import from_frame  # noqa: E402

if TYPE_CHECKING:
    import httpx

    from recommender.serving.app.live import Live

# No test asserts on the clock's speed: a busy machine exceeds the default.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).parents[1]
N_USERS, N_ITEMS = 30, 25


def rows(seed: int = 0) -> list[tuple[str, str, float, int]]:
    """About 450 ratings of 30 users and 25 items in half stars, with tastes to be learnt."""
    draw = np.random.default_rng(seed)
    taste, trait = draw.normal(size=(N_USERS, 2)), draw.normal(size=(N_ITEMS, 2))
    score = np.clip(
        np.round(2 * (3.3 + taste @ trait.T + draw.normal(scale=0.3, size=(N_USERS, N_ITEMS)))) / 2, 0.5, 5
    )
    chosen = draw.random((N_USERS, N_ITEMS)) < 0.6
    return [
        (str(u + 1), str(10 * i + 7), float(score[u, i]), 1000 + u)
        for u, i in zip(*np.nonzero(chosen), strict=True)
    ]


@pytest.fixture(autouse=True)
def own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model puts its code before this package's, in processes that are started later too."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def solved_here(
    algo: Any, trainset: Any, user: np.ndarray, item: np.ndarray, value: np.ndarray, implicit: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find what MLlib's ALS does, by dense matrices: each row's ridge is multiplied by its ratings."""
    weight, target = (np.zeros((trainset.n_users, trainset.n_items)) for _ in range(2))
    if implicit:
        target[user, item] = 1
        weight += 1
        weight[user, item] += algo.alpha * value
    else:
        target[user, item], weight[user, item] = value, 1
    rated = np.zeros_like(weight)
    rated[user, item] = 1
    p, q = (np.random.default_rng(0).normal(size=(n, algo.n_factors)) for n in weight.shape)
    for _ in range(algo.n_epochs):
        for rows, fixed, w, t, counts in ((p, q, weight, target, rated), (q, p, weight.T, target.T, rated.T)):
            for at in range(len(rows)):
                ridge = algo.reg * max(counts[at].sum(), 1) * np.eye(algo.n_factors)
                rows[at] = np.linalg.solve(fixed.T * w[at] @ fixed + ridge, fixed.T @ (w[at] * t[at]))
    return p, q


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark's algorithms are solved here; the scenario of roles/spark_cluster has a cluster."""
    monkeypatch.setattr(spark, "_factors", solved_here)


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A small PNG."""
    from matplotlib.figure import Figure

    file = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(file)
    return file.getvalue()


@pytest.fixture
def drawing() -> None:
    """For a test of what is drawn."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    """Figures are made and stored, but not drawn: that is a third of a small training's work."""
    if "drawing" in request.fixturenames:
        return
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(picture))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ml-latest."""
    path = tmp_path_factory.mktemp("ml-tiny")
    lines = [f"{u},{i},{r},{t}" for u, i, r, t in rows()]
    (path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    titles = [f'{10 * i + 7},"Film, The {i} (1999)",Drama' for i in range(N_ITEMS)]
    (path / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    return path


def tiny() -> Ratings:
    """The small world in memory."""
    import pandas as pd

    frame = pd.DataFrame(rows(), columns=["user", "item", "rating", "timestamp"])
    return from_frame(frame, titles={str(10 * i + 7): f"Film {i}" for i in range(N_ITEMS)}, name="tiny")


@pytest.fixture(scope="session")
def ratings() -> Ratings:
    """The small world in memory."""
    return tiny()


@pytest.fixture(scope="session")
def films() -> Ratings:
    """The embedded set, without the items that fewer than 20 have rated: by item it would take minutes."""
    frame = reading.read(DataConfig(source=str(ROOT / "data" / "ml-latest-small"))).frame()
    return from_frame(frame[frame.groupby("item").item.transform("count") >= 20])


@pytest.fixture
def make_config(folder: Path) -> Callable[..., Config]:
    """Configurations that train in no time; keywords replace whole keys."""

    def make(**keys: object) -> Config:
        content = {
            "algorithm": "SVD",
            "params": {"n_factors": 4, "n_epochs": 3},
            "data": {"source": str(folder)},
            "evaluation": {"folds": 2, "k": 5},
            "recommendation": {"min_item_ratings": 3},
        }
        return Config.model_validate({**content, **keys})

    return make


@pytest.fixture
def conf(folder: Path, tmp_path: Path) -> Path:
    """The same configuration as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"---\nseed: 0\nalgorithm: SVD\nparams:\n  n_factors: 4\n  n_epochs: 3\ndata:\n  source: {folder}\n"
        "evaluation:\n  folds: 2\n  k: 5\nrecommendation:\n  min_item_ratings: 3\n"
    )
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local store; making its tables takes longer than most tests, so that there is one."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment of the test's own, so that nobody else's versions are in it."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    monkeypatch.setenv("RECOMMENDER_ENVIRONMENT", name)
    return name


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model; of a service that runs elsewhere, the folder from which its own was made."""
    if elsewhere := os.environ.get("CONTRACT_MODELS"):
        return Path(elsewhere)
    from tests import served

    place = tmp_path_factory.mktemp("models")
    served.make(tiny(), place)
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    """A server's folder of bundles, with v1 as current; the names of both are in v1 and v2."""
    from tests import served

    bundles = tmp_path / "bundles"
    for number in (1, 2):
        (tmp_path / f"v{number}").write_text(served.lay_out(models, number, bundles).name)
    (bundles / "current").symlink_to((tmp_path / "v1").read_text())
    return bundles


@pytest.fixture
def live(place: Path) -> "Live":
    from recommender.serving.app.live import Live

    live = Live(place)
    live.start()
    return live


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator["httpx.Client"]:
    """A client of the service in this process, or of the one at CONTRACT_URL, with the key CONTRACT_KEY."""
    import httpx
    from starlette.testclient import TestClient

    from recommender.serving.app import app
    from tests import served

    if url := os.environ.get("CONTRACT_URL"):
        headers = {"authorization": f"Bearer {os.environ['CONTRACT_KEY']}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as there:
            yield there
    else:
        with TestClient(app.make(request.getfixturevalue("live")), served.HERE) as here:
            yield here
