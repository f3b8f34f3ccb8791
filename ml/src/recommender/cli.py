"""The command line: recommender train, evaluate, recommend."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from recommender import __version__
from recommender.errors import InputError, RecommenderError

# Flag, key in the parameter file, what it is.
_DATA_FLAGS = (
    ("data", "data.source", "MovieLens folder, ratings file, or SQLAlchemy URL"),
    ("format", "data.format", "auto, latest, 100k, 1m, csv, parquet or sql"),
    ("table", "data.table", "SQL table or view, also schema.table"),
    ("titles", "data.titles", "file (or, for SQL, table) with the items' titles"),
    ("separator", "data.separator", "character between the fields of a CSV file"),
    ("encoding", "data.encoding", "encoding of the ratings file"),
    ("duplicates", "data.duplicates", "error, or latest to keep the newest of a pair"),
    *((f"{column}-column", f"data.columns.{column}", f"name of the {column} column in CSV, Parquet or SQL")
      for column in ("user", "item", "rating", "timestamp", "title")),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 1 any other failure."""
    # A terminated run has to end as FAILED in MLflow, which an exception does and a signal does not.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except RecommenderError as error:
        print(f"recommender: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("recommender: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recommender", description="Train, evaluate and query a movie recommender.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="cross-validate, train, log to MLflow, register as champion")
    _add_config(train)
    _add_tracking(train)
    train.add_argument("--report", type=Path, metavar="PATH", help="write the report there as JSON")
    train.add_argument("--no-register", action="store_true", help="log the model, but register no version")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="cross-validate and print the table; registers nothing")
    _add_config(evaluate)
    _add_tracking(evaluate)
    evaluate.add_argument("--log", action="store_true", help="log the result to MLflow as a run")
    evaluate.set_defaults(command=_evaluate)

    tune = commands.add_parser(
        "tune", help="search for parameters; an interrupted search goes on where it was"
    )
    _add_config(tune)
    _add_tracking(tune)
    tune.add_argument(
        "--state",
        type=Path,
        metavar="FOLDER",
        help="what was tried (default: beside the store, or mlruns/tuning)",
    )
    tune.set_defaults(command=_tune)

    leaderboard = commands.add_parser("leaderboard", help="measure all experiments and print one table")
    _add_config(leaderboard, "conf/leaderboard.yaml")
    _add_tracking(leaderboard)
    leaderboard.set_defaults(command=_leaderboard)

    recommend = commands.add_parser("recommend", help="print the best items of a user")
    recommend.add_argument(
        "--model", metavar="URI", help="default: models:/<environment>.movie-recommender@champion"
    )
    recommend.add_argument(
        "--user", required=True, metavar="ID", help="a user nobody knows gets the popular items"
    )
    recommend.add_argument("-k", type=int, default=10, help="how many (default: 10)")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    _add_tracking(recommend)
    recommend.set_defaults(command=_recommend)
    return parser


def _add_config(parser: argparse.ArgumentParser, default: str = "conf/default.yaml") -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default),
        metavar="PATH",
        help=f"parameter file (default: {default})",
    )
    for flag, key, what in _DATA_FLAGS:
        parser.add_argument(
            f"--{flag}", dest=key, metavar=flag.rpartition("-")[2].upper(), help=f"{what} ({key})"
        )
    parser.add_argument(
        "--scale",
        dest="data.scale",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="lowest and highest rating (data.scale)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key, as params.n_factors=50; may be repeated",
    )


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else SQLite under ./mlruns"
    )


def _config(arguments: argparse.Namespace) -> Any:
    from recommender import config

    overrides: dict[str, Any] = {}
    for pair in arguments.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: write KEY=VALUE, as params.n_factors=50.")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {pair}: the value is not YAML: {getattr(error, 'problem', error)}."
            ) from error
    flags = {
        key: value for key, value in vars(arguments).items() if key.startswith("data.") and value is not None
    }
    return config.load(arguments.config, {**overrides, **flags})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _train(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    from recommender import train

    report = train.train(settings, arguments.tracking_uri, not arguments.no_register, _say)
    if arguments.report:
        train.write_atomically(arguments.report, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(train.summary(report))


def _evaluate(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    from recommender import algorithm, data, evaluate, tracking

    algorithm.make(settings.algorithm, settings.params, settings.seed, served=False)
    ratings = data.read(settings.data)
    if arguments.log:
        uri = tracking.connect(arguments.tracking_uri)
        with tracking.run(
            settings, uri, {"dataset_digest": ratings.digest(), "algorithm": settings.algorithm}
        ) as run:
            result = evaluate.cross_validate(ratings, settings, _say)
            tracking.log_evaluation(run.info.run_id, settings, ratings, result)
    else:
        result = evaluate.cross_validate(ratings, settings, _say)
    print(f"{settings.algorithm} on {ratings.name}: {len(ratings)} ratings")
    print(result.table(settings.evaluation.k))


def _tune(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    from recommender import algorithm, data, tracking, tune

    algorithm.make(settings.algorithm, settings.params, settings.seed)
    ratings = data.read(settings.data)
    uri = tracking.connect(arguments.tracking_uri)
    folder = arguments.state or tracking.place(uri) / "tuning"
    outcome = tune.tune(settings, ratings, uri, folder, _say)
    print(
        f"best {settings.tuning.metric} {outcome.value:.4f} of {outcome.trials} trials, {outcome.pruned} pruned"
    )
    print(
        yaml.safe_dump({"algorithm": settings.algorithm, "params": outcome.params}, sort_keys=False), end=""
    )


def _leaderboard(arguments: argparse.Namespace) -> None:
    board = _config(arguments)
    from recommender import algorithm, config, data, leaderboard, tracking

    if not board.experiments:
        raise InputError(
            f"{arguments.config}: no experiments. List parameter files, as conf/leaderboard.yaml does."
        )
    configs = {}
    for path in map(Path, board.experiments):
        # What is compared has data, folds and seed in common.
        shared = {
            "seed": board.seed,
            "data": board.data.model_dump(),
            "evaluation": board.evaluation.model_dump(),
        }
        shared["tracking"] = board.tracking.model_dump()
        configs[path.stem] = experiment = config.load(path, shared)
        algorithm.make(experiment.algorithm, experiment.params, experiment.seed)
    ratings = data.read(board.data)
    uri = tracking.connect(arguments.tracking_uri)
    entries = leaderboard.run(configs, ratings, _say)
    run_id = leaderboard.log(entries, configs, ratings, uri, board)
    print(leaderboard.table(entries, board.evaluation.k))
    print(f"MLflow    {tracking.shown(uri)}, run {run_id}: plots and leaderboard.json")


def _recommend(arguments: argparse.Namespace) -> None:
    if arguments.k < 1:
        raise InputError(f"-k {arguments.k}: ask for at least one item.")
    from recommender import registry, tracking

    name = f"models:/{registry.environment()}.movie-recommender@{registry.CHAMPION}"
    tracking.connect(arguments.tracking_uri)
    import pandas as pd

    model = registry.load(arguments.model or name)
    items = model.predict(pd.DataFrame({"user": [arguments.user], "k": [arguments.k]})).to_dict("records")
    if arguments.json:
        print(json.dumps(items, indent=2, ensure_ascii=False))
        return
    from recommender import train

    if items and not items[0]["known_user"]:
        _say(f"user {arguments.user} is unknown: these are the popular items")
    print("\n".join(train.pick_lines(items)))
