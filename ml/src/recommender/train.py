"""Train a model: read, cross-validate, fit on everything, log, register, report."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from recommender import engines, names, uris
from recommender.algorithms import catalogue, convert, dump, trainset
from recommender.config import Config
from recommender.data import reading
from recommender.data.ratings import Ratings
from recommender.evaluation import validation
from recommender.evaluation.results import Evaluation, Lists, lists_line
from recommender.files import write_whole
from recommender.promotion import evidence
from recommender.serving.answer import because
from recommender.serving.recommender import Recommender, supported
from recommender.tracking import data_reports, registry, run_log, runs, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# A run's own report, without the version registered afterwards.
REPORT = "report.json"
# Ratings named in favour of each item of the report's list.
REASONS = 2


class Dataset(TypedDict):
    """The training data; `lists` is the result of `support`."""

    name: str
    ratings: int
    users: int
    items: int
    digest: str
    lists: "Support"


class Support(TypedDict):
    """Number and share (0 to 1) of the items with `least` ratings or more, which come first in lists.

    says: a line for people. remark: a problem to look at, or "".
    """

    items: int
    share: float
    least: int
    says: str
    remark: str


class Model(TypedDict):
    """The stored model; name, version and alias are None if it is not registered."""

    name: str | None
    version: str | None
    alias: str | None
    uri: str
    run_id: str
    digest: str


class Listed(TypedDict):
    """The first user's list; an item has the fields of a Pick, and because: the ratings in its favour."""

    user: str
    items: list[dict[str, Any]]


class Report(TypedDict):
    """The content of report.json: metrics in rating units or 0 to 1, wall seconds by part.

    ranking: algorithm and params of what orders lists, and chosen, the algorithm that AutoEASE took; None if
    there is one head for both.
    """

    dataset: Dataset
    algorithm: str
    params: dict[str, Any]
    ranking: dict[str, Any]
    metrics: dict[str, float]
    model: Model
    tracking_uri: str
    seconds: dict[str, float]
    recommendations: Listed
    source_digest: str | None


class Clock:
    """Wall seconds by part, in the order of the parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block; the same name adds up."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def total(self) -> dict[str, float]:
        """Return the parts and `total` in seconds, rounded to milliseconds."""
        everything = {**self.seconds, "total": time.perf_counter() - self._began}
        return {name: round(value, 3) for name, value in everything.items()}


def train(
    config: Config,
    tracking_uri: str | None = None,
    register: bool = True,
    progress: Callable[[str], None] = lambda line: None,
    altered: bool = False,
) -> Report:
    """Run the whole training and return its report.

    `altered`: the command line overrides the parameter file, so the source_digest gets a + at its end.
    First the run is logged and FINISHED, then the version is registered, then the aliases move. A run that
    fails or is killed registers nothing.
    Raises InputError for data and parameters, RecommenderError for errors of MLflow.
    """
    clock = Clock()
    name = names.registered_name(names.environment(), config.tracking.model)
    catalogue.of(config)
    with clock.part("read"):
        ratings = reading.read(config.data)
        config = validation.on_scale(config, ratings)
        dataset_digest = ratings.digest()
    progress(
        f"{ratings.name}: {len(ratings)} ratings, {len(ratings.users)} users, {len(ratings.items)} items"
    )
    progress(engines.advice(len(ratings)))
    with clock.part("connect"):
        uri = stores.connect(tracking_uri)
    source_digest = os.environ.get("RECOMMENDER_SOURCE_DIGEST") or None
    if source_digest and altered:
        source_digest += "+"
    tags = {
        "dataset_digest": dataset_digest,
        "environment": names.environment(),
        "algorithm": config.named,
    }
    if source_digest:
        tags["source_digest"] = source_digest
    if source_commit := os.environ.get("RECOMMENDER_SOURCE_COMMIT"):
        tags["source_commit"] = source_commit
    with runs.run(config, uri, tags) as run:
        run_id = run.info.run_id
        with clock.part("cross_validate"):
            evaluation = validation.cross_validate(ratings, config, progress)
        with clock.part("lists"):
            lists = validation.lists(ratings, config, config.seed)
        progress(f"lists: {lists_line(lists.metrics, config.evaluation.k)}")
        with clock.part("fit"):
            recommender, algo = fit(ratings, config)
            model_digest = recommender.digest()
        chosen = recommender.settings.get("ranking", {}).get("algorithm")
        progress(
            f"trained {config.algorithm}{f' + {chosen}' if chosen else ''} on all ratings "
            f"({clock.seconds['fit']:.1f} s); logging to MLflow"
        )
        with clock.part("log"):
            log_evaluation(run_id, config, ratings, evaluation, lists)
            for remark in data_reports.log(run_id, ratings, name):
                progress(f"data: {remark}")
            digests = {"dataset_digest": dataset_digest, "model_digest": model_digest}
            about = {**digests, "parameters": runs.parameters(config)}
            with tempfile.TemporaryDirectory() as scratch:
                native, arrays = Path(scratch, "native"), Path(scratch, "recommender")
                dump.save(algo, native, about)
                recommender.save(arrays, about)
                model_uri = run_log.log_model(
                    native,
                    arrays,
                    {"algorithm": config.named, **digests},
                    {ratings.items[0]: ratings.scale[1]},
                ).model_uri
                recorded = evidence.log(native, model_uri, recommender, config, dataset_digest, lists)
            recorded["model_digest"] = model_digest
            runs.tag(run_id, recorded)
            run_log.log_seconds(run_id, clock.seconds)
            first, shelf = ratings.users[0], support(ratings, config)
            if shelf["remark"]:
                progress(f"data: {shelf['remark']}")
            report: Report = {
                "dataset": {
                    "name": ratings.name,
                    "ratings": len(ratings),
                    "users": len(ratings.users),
                    "items": len(ratings.items),
                    "digest": dataset_digest,
                    "lists": shelf,
                },
                "algorithm": config.algorithm,
                "params": config.params,
                "ranking": {**config.ranking.model_dump(), "chosen": chosen},
                "metrics": {
                    **{key: round(value, 6) for key, value in {**evaluation.mean(), **lists.metrics}.items()},
                    "k": config.evaluation.k,
                },
                "model": {
                    "name": None,
                    "version": None,
                    "alias": None,
                    "uri": model_uri,
                    "run_id": run_id,
                    "digest": model_digest,
                },
                "tracking_uri": uris.redacted(uri),
                "seconds": clock.total(),
                "recommendations": {
                    "user": first,
                    "items": [
                        {**vars(pick), "because": because(recommender, first, pick.item, REASONS)}
                        for pick in recommender.top_n(first)
                    ],
                },
                "source_digest": source_digest,
            }
            run_log.log_report(report, REPORT)
    if register:
        with clock.part("register"):
            version = registry.register(model_uri, name, {**tags, **recorded})
        _register_in(report["model"], name, version)
    report["seconds"] = clock.total()
    return report


def log_evaluation(
    run_id: str, config: Config, ratings: Ratings, evaluation: Evaluation, lists: Lists | None
) -> None:
    """Log parameters, data, and metrics with their plot to the active run."""
    from recommender.evaluation import plots

    run_log.log_setup(run_id, config, ratings)
    figure = plots.evaluation(evaluation, ratings.scale)
    mean = {**evaluation.mean(), **(lists.metrics if lists else {})}
    run_log.log_folds(run_id, mean, [vars(fold) for fold in evaluation.folds], figure)


def _register_in(model: Model, name: str, version: str) -> None:
    """Record in a report that its model is registered and champion."""
    model["name"], model["version"], model["alias"] = name, version, registry.CHAMPION
    model["uri"] = f"models:/{name}/{version}"


def kept_report(version: "ModelVersion") -> Report | None:
    """Return the training report of a version, or None if its run has not kept it.

    Raises Untrusted if the tracking server does not keep it itself.
    """
    import mlflow

    run_id = str(version.run_id)
    stores.require_server_store(mlflow.MlflowClient().get_run(run_id).info.artifact_uri)
    if REPORT not in {each.path for each in mlflow.MlflowClient().list_artifacts(run_id)}:
        return None
    report = cast(Report, mlflow.artifacts.load_dict(f"runs:/{run_id}/{REPORT}"))
    _register_in(report["model"], version.name, str(version.version))
    return report


def support(ratings: Ratings, config: Config) -> Support:
    """Count the items that may come first in lists, by recommendation.min_item_ratings."""
    rules = config.recommendation
    count = np.bincount(ratings.item, minlength=len(ratings.items))
    items, wanted = len(count), rules.min_item_ratings
    found = int(supported(count, wanted).sum())
    least = min(wanted, int(count.max()))
    share = f"{found:,} of {items:,} items ({100 * found / items:.3g}%)"
    rest = "all items" if found == items else "the others fill up lists that are too short"
    short = f"no item has {wanted} ratings; " if least < wanted else ""
    says = f"{short}{share} may be recommended first, with {least} ratings or more; {rest}"
    if not wanted:
        says = f"all {items:,} items may be recommended"
    remark = ""
    if found < items and (found < 10 * rules.k or found < items / 20):
        enough = min(10 * rules.k, items // 2) or 1
        lower = int(np.sort(count)[-enough])
        remark = f"Only {share} have {least} ratings or more, and come first in everybody's list."
        if lower < least:
            remark += (
                f" To let more come first: --set recommendation.min_item_ratings={lower}, or that key in the "
                "parameter file."
            )
    return {"items": found, "share": found / items, "least": least, "says": says, "remark": remark}


def write_report(path: Path, report: Report) -> None:
    """Write a report atomically as JSON, readable by every account."""
    write_whole(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n", 0o644)


def fit(ratings: Ratings, config: Config) -> tuple[Recommender, Any]:
    """Train on all ratings; return the recommender and its Surprise algorithm."""
    algo = catalogue.of(config)
    catalogue.fit(algo, trainset.full(ratings))
    return convert.recommender(algo, ratings, convert.settings_of(config)), algo
