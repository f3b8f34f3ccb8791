"""Define the commands that train and measure: train, deploy, evaluate, tune, leaderboard."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from recommender import config, typed, uris
from recommender.cli import options, printing
from recommender.errors import InputError

if TYPE_CHECKING:
    from recommender.config import Config
    from recommender.data.ratings import Ratings
    from recommender.evaluation.results import Evaluation, Lists
    from recommender.train import Report


# Spark's algorithms, for parameter files that name others.
ENGINE = "spark-als.yaml"


def add(commands: options.Commands) -> None:
    """Add this family's commands to the parser."""
    verb = commands.add_parser("train", help="cross-validate, train, log to MLflow, register as champion")
    options.add_config(verb)
    options.add_tracking(verb)
    verb.add_argument(
        "--engine",
        choices=("local", "spark"),
        default="local",
        help=f"spark: on a cluster, with the algorithms of {ENGINE}, beside the parameter file or in conf",
    )
    verb.add_argument("--report", type=Path, metavar="PATH", help="write the report there as JSON")
    verb.add_argument("--no-register", action="store_true", help="log the model, but register no version")
    verb.set_defaults(command=_train)

    verb = commands.add_parser("deploy", help="train, unless the champion matches the deployment")
    verb.add_argument(
        "--config", type=Path, default=Path(options.DEFAULT), metavar="PATH", help="parameter file"
    )
    options.add_tracking(verb)
    verb.add_argument("--report", type=Path, metavar="PATH", help="write the report there as JSON")
    verb.add_argument("--check", action="store_true", help="only report the plan, change nothing")
    verb.set_defaults(command=_deploy)

    verb = commands.add_parser("evaluate", help="cross-validate and print the table; registers nothing")
    options.add_config(verb)
    options.add_tracking(verb)
    verb.add_argument("--log", action="store_true", help="log the result to MLflow as a run")
    verb.set_defaults(command=_evaluate)

    verb = commands.add_parser("tune", help="search for parameters; an interrupted search resumes")
    options.add_config(verb)
    options.add_tracking(verb)
    verb.add_argument(
        "--state",
        type=Path,
        metavar="FOLDER",
        help="folder of the trials (default: beside the store, or mlruns/tuning)",
    )
    verb.set_defaults(command=_tune)

    verb = commands.add_parser("leaderboard", help="measure all experiments and print one table")
    options.add_config(verb, "conf/leaderboard.yaml")
    options.add_tracking(verb)
    verb.set_defaults(command=_leaderboard, many=True)


def _train(arguments: argparse.Namespace) -> None:
    settings = options.settings(arguments)
    if arguments.engine == "spark" and "Spark" not in settings.named:
        beside = arguments.config.parent / ENGINE
        engine = beside if beside.exists() else Path("conf", ENGINE)
        for pair in arguments.set:
            if pair.partition("=")[0].partition(".")[0] in ("algorithm", "params", "ranking"):
                raise InputError(
                    f"--set {pair}: --engine spark takes the algorithms of {engine}. Name that file: "
                    f"--config {engine}"
                )
        settings = _on_spark(settings, engine)
    if settings.experiments:
        raise InputError(
            f"{arguments.config} lists experiments, which the command leaderboard compares. Train one."
        )
    if arguments.report:
        options.check_writable(arguments.report)
    from recommender import train

    altered = bool(arguments.set or options.flags(arguments) or arguments.engine == "spark")
    report = train.train(settings, arguments.tracking_uri, not arguments.no_register, options.say, altered)
    print(typed.runnable(printing.summary(report)))
    if arguments.report:
        train.write_report(arguments.report, report)


def _on_spark(settings: "Config", path: Path) -> "Config":
    """The same data, evaluation and names with the algorithms of `path`."""
    engine = config.load(path)
    heads = {"algorithm": engine.algorithm, "params": engine.params, "ranking": engine.ranking}
    return settings.model_copy(update=heads)


def _deploy(arguments: argparse.Namespace) -> None:
    from recommender import deploy

    wanted = os.environ.get("RECOMMENDER_SOURCE_DIGEST")
    if not wanted:
        raise InputError(
            "RECOMMENDER_SOURCE_DIGEST, the deployment's digest, is not set. On a server local.mk sets it. "
            "Elsewhere train: recommender train"
        )
    settings = config.load(arguments.config)
    if arguments.report and not arguments.check:
        options.check_writable(arguments.report)

    def tell(report: "Report") -> None:
        options.say(printing.summary(report))

    done = deploy.deploy(
        settings, wanted, arguments.tracking_uri, arguments.report, arguments.check, options.say, tell
    )
    print(json.dumps(done))


def _evaluate(arguments: argparse.Namespace) -> None:
    settings = options.settings(arguments)
    from recommender import train
    from recommender.algorithms import catalogue
    from recommender.data import reading
    from recommender.evaluation import results, validation
    from recommender.tracking import runs, stores

    catalogue.of(settings, served=False)
    ratings = reading.read(settings.data)
    settings = validation.on_scale(settings, ratings)
    if arguments.log:
        uri = stores.connect(arguments.tracking_uri)
        with runs.run(
            settings, uri, {"dataset_digest": ratings.digest(), "algorithm": settings.named}
        ) as run:
            result, lists = _measured(settings, ratings)
            train.log_evaluation(run.info.run_id, settings, ratings, result, lists)
    else:
        result, lists = _measured(settings, ratings)
    print(f"{settings.named} on {ratings.name}: {len(ratings)} ratings")
    print(result.table())
    if lists is not None:
        print(f"lists over the whole catalogue: {results.lists_line(lists.metrics, settings.evaluation.k)}")


def _measured(settings: "Config", ratings: "Ratings") -> "tuple[Evaluation, Lists | None]":
    """Cross-validate, and measure lists unless each answer is drawn at random."""
    from recommender.algorithms import catalogue
    from recommender.evaluation import validation

    result = validation.cross_validate(ratings, settings, options.say)
    if settings.algorithm == catalogue.UNSERVED and not settings.ranking.algorithm:
        return result, None
    return result, validation.lists(ratings, settings, settings.seed)


def _tune(arguments: argparse.Namespace) -> None:
    settings = options.settings(arguments)
    from recommender.algorithms import catalogue
    from recommender.data import reading
    from recommender.evaluation import tune, validation
    from recommender.tracking import stores

    catalogue.of(settings)
    ratings = reading.read(settings.data)
    settings = validation.on_scale(settings, ratings)
    uri = stores.connect(arguments.tracking_uri)
    folder = arguments.state or uris.local_folder(uri) / "tuning"
    outcome = tune.tune(settings, ratings, uri, folder, options.say)
    print(f"best of {outcome.trials} trials ({outcome.pruned} pruned): {outcome.value:.4f}")
    print(
        yaml.safe_dump({"algorithm": settings.algorithm, "params": outcome.params}, sort_keys=False), end=""
    )


def _leaderboard(arguments: argparse.Namespace) -> None:
    board = options.settings(arguments)
    from recommender.algorithms import catalogue
    from recommender.data import reading
    from recommender.evaluation import leaderboard, validation
    from recommender.tracking import stores

    if not board.experiments:
        raise InputError(
            f"{arguments.config}: no experiments. List parameter files, as conf/leaderboard.yaml does."
        )
    configs = {}
    for path in map(Path, board.experiments):
        # Experiments share data, folds and seed.
        shared = {
            "seed": board.seed,
            "data": board.data.model_dump(),
            "evaluation": board.evaluation.model_dump(),
        }
        shared["tracking"] = board.tracking.model_dump()
        if path.stem in configs:
            raise InputError(f"{arguments.config}: two experiments are called {path.stem}. Rename one file.")
        configs[path.stem] = experiment = config.load(path, shared)
        catalogue.of(experiment)
    ratings = reading.read(board.data)
    board = validation.on_scale(board, ratings)
    configs = {name: validation.on_scale(experiment, ratings) for name, experiment in configs.items()}
    uri = stores.connect(arguments.tracking_uri)
    entries = leaderboard.run(configs, ratings, options.say)
    run_id = leaderboard.log(entries, configs, ratings, uri, board)
    print(leaderboard.table(entries, board.evaluation.k))
    print(f"MLflow    {uris.redacted(uri)}, run {run_id}: plots and leaderboard.json")
