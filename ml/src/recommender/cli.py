"""The command line: recommender train, evaluate, recommend; export, promote, rollback, models."""

import argparse
import contextlib
import errno
import io
import json
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from recommender import __version__, names, typed
from recommender.errors import InputError, RecommenderError

# Flag, key in the parameter file, what it is.
_DATA_FLAGS = (
    ("data", "data.source", "MovieLens folder, ratings file, or SQLAlchemy URL"),
    ("format", "data.format", "auto, latest, 100k, 1m, csv, jsonl, parquet or sql"),
    ("table", "data.table", "SQL table or view, also schema.table"),
    ("titles", "data.titles", "file (or, for SQL, table) with the items' titles"),
    ("titles-separator", "data.titles_separator", "character between the fields of the titles file"),
    ("titles-encoding", "data.titles_encoding", "encoding of the titles file"),
    ("separator", "data.separator", "character between the fields of a CSV file; \\t is a tab"),
    ("decimal", "data.decimal", "mark before the decimals of ratings, . or ,"),
    ("encoding", "data.encoding", "encoding of the ratings file"),
    ("duplicates", "data.duplicates", "of a pair: error, latest, last, first or mean"),
    ("time-format", "data.time_format", "how times are written, as %%d/%%m/%%Y"),
    *((f"{column}-column", f"data.columns.{column}", f"name or number of the {column} column")
      for column in ("user", "item", "rating", "timestamp")),
    ("title-column", "data.columns.title", "name of the column of titles"),
    ("title-item-column", "data.columns.title_item", "name of the item column in the titles"),
)  # fmt: skip


# Names the parameter file where no --config does: make sets it to CONF.
CONFIG = "RECOMMENDER_CONFIG"
_DEFAULT = "conf/default.yaml"
# As --output: standard output, as CSV.
STDOUT = Path("-")
# Users that are asked for at a time.
_USERS = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 1 any other failure."""
    # A terminated run has to end as FAILED in MLflow, which an exception does and a signal does not.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # What the terminal's encoding does not have is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    line = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(line)
    arguments.line = line
    with typed.repeating(_given(arguments)):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except RecommenderError as error:
        print(f"recommender: {typed.runnable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("recommender: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone.
        _close()
    except MemoryError as error:
        print(f"recommender: there is not the memory for this: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"recommender: {error}", file=sys.stderr)
        _close()
        return 1
    return 0


def _print_data() -> None:
    """From here on standard output is for a program: UTF-8, whatever the terminal's encoding."""
    # what stands in for it, as in a notebook, may not be able to
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def _close() -> None:
    # Python would complain once more of what it cannot write while it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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

    deploy = commands.add_parser("deploy", help="train, unless the champion is of what is deployed")
    deploy.add_argument("--config", type=Path, default=Path(_DEFAULT), metavar="PATH", help="parameter file")
    _add_tracking(deploy)
    deploy.add_argument("--report", type=Path, metavar="PATH", help="write the report there as JSON")
    deploy.add_argument("--check", action="store_true", help="say what would be done, and do nothing")
    deploy.set_defaults(command=_deploy)

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

    recommend = commands.add_parser(
        "recommend", help="print the best items of a user, of several or of all, or the items like one"
    )
    recommend.add_argument(
        "--model",
        metavar="NAME|URI",
        help="default: tracking.model of the parameter file, its champion; a URI as models:/dev.NAME/3",
    )
    _add_named(recommend)
    who = recommend.add_mutually_exclusive_group()
    who.add_argument("--user", nargs="+", metavar="ID", help="a user nobody knows gets the popular items")
    who.add_argument("--all", action="store_true", help="every known user; prints CSV")
    who.add_argument("--similar", metavar="ITEM", help="the items most like this one")
    recommend.add_argument(
        "--history",
        nargs="+",
        metavar="ITEM=RATING",
        help="what the user has rated since the training; without --user, all that somebody new has rated",
    )
    recommend.add_argument(
        "--reasons",
        nargs="?",
        type=int,
        const=3,
        metavar="N",
        help="name the N ratings behind each (default: 3)",
    )
    recommend.add_argument("-k", type=int, default=10, help="how many (default: 10)")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.add_argument("--output", type=Path, metavar="PATH", help="write CSV there (-: standard output)")
    _add_tracking(recommend)
    recommend.set_defaults(command=_recommend)

    export = commands.add_parser("export", help="write a registered version into one file")
    _add_model(export, "--environment")
    export.add_argument("--version", metavar="NUMBER", help="default: the champion")
    export.add_argument("--output", type=Path, required=True, metavar="PATH", help="the archive to write")
    export.set_defaults(command=_export)

    promote = commands.add_parser(
        "promote", help="let an exported version pass the gate and make it champion"
    )
    promote.add_argument("--archive", type=Path, required=True, metavar="PATH", help="what export wrote")
    promote.add_argument("--to", required=True, metavar="ENVIRONMENT", help="as in staging, prod")
    promote.add_argument("--gate", default="{}", metavar="JSON", help="limits: margins, latency_ms, size_mb")
    promote.add_argument(
        "--override", default="", metavar="CHECK,…", help="checks whose failure is accepted, and recorded"
    )
    promote.add_argument("--by", default="", metavar="WHO", help="who promotes; recorded")
    promote.add_argument(
        "--sandbox", action="store_true", help="try the model in a systemd unit without network; as root"
    )
    _add_tracking(promote)
    promote.set_defaults(command=_promote)

    rollback = commands.add_parser("rollback", help="make previous, or the version named, champion again")
    _add_model(rollback, "--environment")
    rollback.add_argument("--version", metavar="NUMBER", help="default: previous")
    rollback.set_defaults(command=_rollback)

    models = commands.add_parser("models", help="print versions, aliases, metrics, and where they came from")
    models.add_argument("environments", nargs="+", metavar="ENVIRONMENT")
    _add_tracking(models)
    models.set_defaults(command=_models)

    download = commands.add_parser("download", help="fetch one of MovieLens' public sets")
    download.add_argument("name", help="100k, 1m, 25m or 32m")
    download.add_argument("--folder", type=Path, default=Path("data"), metavar="PATH", help="default: data")
    download.add_argument("--mirror", metavar="URL", help="default: GroupLens' own server")
    download.set_defaults(command=_download)

    generate = commands.add_parser("generate", help="write MovieLens-like ratings with a planted structure")
    generate.add_argument("--ratings", type=_count, required=True, metavar="N", help="how many, also as 1e6")
    generate.add_argument("--users", type=_count, metavar="N", help="default: a 145th of the ratings")
    generate.add_argument("--items", type=_count, metavar="N", help="default: six times their square root")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    generate.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="CSV, or a .parquet file"
    )
    generate.set_defaults(command=_generate)

    check = commands.add_parser(
        "check", help="look at the data: what is in it, what is new since the champion"
    )
    _add_config(check)
    _add_tracking(check)
    check.add_argument("--champion", action="store_true", help="compare with the data of the champion")
    check.add_argument("--output", type=Path, metavar="PATH", help="folder for the reports as HTML and JSON")
    check.set_defaults(command=_check)
    return parser


def _add_model(parser: argparse.ArgumentParser, environment: str) -> None:
    parser.add_argument(environment, required=True, metavar="NAME", help="as in dev, staging, prod")
    parser.add_argument("--model", metavar="NAME", help="default: tracking.model of the parameter file")
    _add_named(parser)
    _add_tracking(parser)


def _add_named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"parameter file that names the model (default: ${CONFIG}, else {_DEFAULT}, where it is there)",
    )


def _model(arguments: argparse.Namespace) -> str:
    """The model's name: --model, else tracking.model of the parameter file."""
    from recommender import config

    if arguments.model:
        return str(arguments.model)
    path = arguments.config or Path(os.environ.get(CONFIG) or _DEFAULT)
    if not arguments.config and not os.environ.get(CONFIG) and not path.exists():
        return names.MODEL
    return config.load(path).tracking.model


def _count(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, as 100000 or 1e5")
    return int(number)


def _add_config(parser: argparse.ArgumentParser, default: str = "") -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default or os.environ.get(CONFIG) or _DEFAULT),
        metavar="PATH",
        help=f"parameter file (default: {default or f'${CONFIG}, else {_DEFAULT}'})",
    )
    for flag, key, what in _DATA_FLAGS:
        parser.add_argument(
            f"--{flag}", dest=key, metavar=flag.rpartition("-")[2].upper(), help=f"{what} ({key})"
        )
    parser.add_argument(
        "--no-header",
        dest="data.header",
        action="store_const",
        const=False,
        help="the first line is a rating already: user, item, rating, time (data.header)",
    )
    parser.add_argument(
        "--missing",
        dest="data.missing",
        action="extend",
        nargs="+",
        metavar="VALUE",
        help="ratings that mean 'not rated', as 0 or -1: such rows are left out (data.missing)",
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
        # ValueError: a date that is none
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(
                f"--set {pair}: the value is not YAML: {getattr(error, 'problem', error)}."
            ) from error
    return config.load(arguments.config, {**overrides, **_flags(arguments)})


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of the data, by its key in the parameter file."""
    return {
        key: value for key, value in vars(arguments).items() if key.startswith("data.") and value is not None
    }


def _given(arguments: argparse.Namespace) -> typed.Given:
    """The flags that a command in a message has to repeat."""
    data = []
    for flag, key, _ in _DATA_FLAGS:
        if (value := getattr(arguments, key, None)) is not None:
            data.append(f"--{flag}={_anywhere(key, value)}")
    if getattr(arguments, "data.header", None) is False:
        data.append("--no-header")
    for flag in ("missing", "scale"):
        if values := getattr(arguments, f"data.{flag}", None):
            data += [f"--{flag}", *map(str, values)]
    sets = []
    for pair in getattr(arguments, "set", []):
        key, equals, value = pair.partition("=")
        sets.append(f"--set={key}{equals}{_anywhere(key, value)}")
    # what a leaderboard compares is in its own files
    measured = arguments.command is not _leaderboard
    return typed.Given(
        getattr(arguments, "config", None) if measured else None,
        getattr(arguments, "tracking_uri", None),
        [*data, *sets] if measured else (),
    )


def _anywhere(key: str, value: str) -> str:
    """A key's value as it is typed: a path that is right in any folder, an address without its password."""
    if "://" in value:
        from recommender import tracking

        return tracking.shown(value)
    is_path = key in ("data.source", "data.titles") and os.path.exists(value)
    return str(Path(value).absolute()) if is_path else value


def _say(line: str) -> None:
    # Whoever reads may have gone, as when a connection is lost; what is at work goes on.
    with contextlib.suppress(BrokenPipeError):
        print(typed.runnable(line), file=sys.stderr, flush=True)


def _train(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    if arguments.report:
        _check_writable(arguments.report)
    from recommender import train

    altered = bool(arguments.set or _flags(arguments))
    report = train.train(settings, arguments.tracking_uri, not arguments.no_register, _say, altered)
    print(typed.runnable(train.summary(report)))
    if arguments.report:
        train.write_report(arguments.report, report)


def _deploy(arguments: argparse.Namespace) -> None:
    from recommender import config, deploy

    wanted = os.environ.get("RECOMMENDER_SOURCE_DIGEST")
    if not wanted:
        raise InputError(
            "RECOMMENDER_SOURCE_DIGEST is not set: it says what is deployed. On a server local.mk sets it; "
            "elsewhere train: recommender train"
        )
    settings = config.load(arguments.config)
    if arguments.report and not arguments.check:
        _check_writable(arguments.report)
    done = deploy.deploy(settings, wanted, arguments.tracking_uri, arguments.report, arguments.check, _say)
    print(json.dumps(done))


def _check_writable(path: Path) -> None:
    """Raise InputError unless a file can be made there, before work is done that it should tell of."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.name or path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. {_may_write(path)}") from error


def _may_write(path: Path) -> str:
    """How somebody gets to write there: by the folder's group, where that may."""
    import grp
    import stat

    name = "Name a file that you can write."
    with contextlib.suppress(OSError, KeyError):
        about = path.parent.stat()
        group = grp.getgrgid(about.st_gid).gr_name
        if about.st_mode & stat.S_IWGRP and about.st_gid not in {os.getegid(), *os.getgroups()}:
            return (
                f"Who trains here is in group {group}. On a server an operator puts your account into it: "
                "recommender_members in zz-mine.yml (people with a Jupyter are in it anyway), then site.yml "
                f"--tags recommender; then log in anew. Else: {name}"
            )
    return name


def _evaluate(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    from recommender import algorithm, data, evaluate, tracking

    algorithm.make(settings.algorithm, settings.params, settings.seed, served=False)
    ratings = data.read(settings.data)
    settings = evaluate.on_scale(settings, ratings)
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
    from recommender import algorithm, data, evaluate, tracking, tune

    algorithm.make(settings.algorithm, settings.params, settings.seed)
    ratings = data.read(settings.data)
    settings = evaluate.on_scale(settings, ratings)
    uri = tracking.connect(arguments.tracking_uri)
    folder = arguments.state or tracking.place(uri) / "tuning"
    outcome = tune.tune(settings, ratings, uri, folder, _say)
    print(f"best of {outcome.trials} trials ({outcome.pruned} pruned): {outcome.value:.4f}")
    print(
        yaml.safe_dump({"algorithm": settings.algorithm, "params": outcome.params}, sort_keys=False), end=""
    )


def _leaderboard(arguments: argparse.Namespace) -> None:
    board = _config(arguments)
    from recommender import algorithm, config, data, evaluate, leaderboard, tracking

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
        if path.stem in configs:
            raise InputError(f"{arguments.config}: two experiments are called {path.stem}. Rename one file.")
        configs[path.stem] = experiment = config.load(path, shared)
        algorithm.make(experiment.algorithm, experiment.params, experiment.seed)
    ratings = data.read(board.data)
    board = evaluate.on_scale(board, ratings)
    configs = {name: evaluate.on_scale(experiment, ratings) for name, experiment in configs.items()}
    uri = tracking.connect(arguments.tracking_uri)
    entries = leaderboard.run(configs, ratings, _say)
    run_id = leaderboard.log(entries, configs, ratings, uri, board)
    print(leaderboard.table(entries, board.evaluation.k))
    print(f"MLflow    {tracking.shown(uri)}, run {run_id}: plots and leaderboard.json")


def _download(arguments: argparse.Namespace) -> None:
    from recommender import downloads

    folder = downloads.download(arguments.name, arguments.folder, arguments.mirror or downloads.MIRROR, _say)
    then = f"recommender train --data {typed.quoted(folder.absolute())}"
    print(f"{folder}\n  {typed.runnable(then)}")


def _generate(arguments: argparse.Namespace) -> None:
    from recommender import synthetic

    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: a seed is 0 or more.")
    _check_writable(arguments.output)
    ratings = synthetic.generate(arguments.ratings, arguments.seed, arguments.users, arguments.items)
    synthetic.write(ratings, arguments.output, arguments.seed)
    print(
        f"{arguments.output}: {len(ratings):,} ratings of {len(ratings.users):,} users for "
        f"{len(ratings.items):,} items"
    )


def _check(arguments: argparse.Namespace) -> None:
    settings = _config(arguments)
    from recommender import data, evaluate, registry, reports, tracking, train

    ratings = data.read(settings.data)
    now, lists = reports.profile(ratings), train.support(ratings, settings)
    now["numbers"]["items_recommended_first"] = lists["share"]
    now["remarks"] += [lists["remark"]] if lists["remark"] else []
    try:
        evaluate.on_scale(settings, ratings)
    except InputError as error:
        now["remarks"].append(str(error))
    pages: dict[str, Any] = {"validation": now}
    print(f"{reports.text(now)}\n{lists['says']}")
    if arguments.champion:
        tracking.connect(arguments.tracking_uri)
        name = f"{registry.environment()}.{settings.tracking.model}"
        before = reports.of_champion(name)
        if before is None:
            raise InputError(
                f"{name}: no champion with a profile of its data. Train one first: recommender train"
            )
        pages["drift"] = reports.drift(ratings, now, before)
        print(reports.text(pages["drift"]))
    if arguments.output:
        for page, content in pages.items():
            for suffix, written in (
                (".html", reports.page(content)),
                (".json", json.dumps(content, indent=2)),
            ):
                write = arguments.output / f"{page}{suffix}"
                try:
                    write.parent.mkdir(parents=True, exist_ok=True)
                    write.write_text(written, encoding="utf-8")
                except OSError as error:
                    raise RecommenderError(
                        f"{write}: {error.strerror}. Name a folder that you can write."
                    ) from error


def _recommend(arguments: argparse.Namespace) -> int:
    for flag, number in (("-k", arguments.k), ("--reasons", arguments.reasons)):
        if number is not None and number < 1:
            raise InputError(f"{flag} {number}: ask for at least one.")
    history = _history(arguments.history or [])
    users = arguments.user or (["new"] if history else [])
    if not users and not arguments.all and not arguments.similar:
        raise InputError(
            "Nobody is asked for. Say --user ID, --all, --similar ITEM or --history ITEM=RATING."
        )
    if history and (len(users) > 1 or arguments.all or arguments.similar):
        raise InputError("--history: these ratings are one user's. Ask for that user alone.")
    if arguments.output and arguments.output != STDOUT:
        _check_writable(arguments.output)
    from recommender import confined, registry, tracking

    to_file = arguments.output if arguments.output != STDOUT else None
    model_name = _model(arguments)
    # a path is somebody's own; anything else that can be a name is one
    by_name = re.fullmatch(names.MODEL_NAME, model_name) and not Path(model_name).exists()
    uri = f"models:/{registry.environment()}.{model_name}@{registry.CHAMPION}" if by_name else model_name
    line = [*arguments.line, "--output", "-"] if to_file else arguments.line
    if by_name and (arguments.config or os.environ.get(CONFIG) or model_name != names.MODEL):
        # who is handed it stands in another folder
        line = [*line, "--model", uri]
    if arguments.config and not arguments.config.is_absolute():
        # its messages name it
        line = [*line, "--config", str(arguments.config.absolute())]
    if (code := confined.hand_over(line, to_file)) is not None:
        return code
    tracking.connect(arguments.tracking_uri)
    import pandas as pd

    model = _loaded(uri, model_name if by_name else None, bool(arguments.model))
    if arguments.similar:
        asked = pd.DataFrame({"similar_to": [arguments.similar], "k": [arguments.k]})
    else:
        if arguments.all:
            users = list(model.unwrap_python_model().recommender.users)
        asked = pd.DataFrame({"user": users, "k": [arguments.k] * len(users)})
        if history:
            asked["history"] = [history]
            known = set(model.unwrap_python_model().recommender.items)
            if unknown := [item for item in history if item not in known]:
                _say(f"recommender: --history: not among the ratings, left out: {', '.join(unknown)}")
        if arguments.reasons:
            asked["reasons"] = arguments.reasons
    # Of all users at once the answer alone would be gigabytes.
    parts = (asked[at : at + _USERS] for at in range(0, len(asked), _USERS))
    empty: list[str] = []
    answers = (_answered(model, part, empty) for part in parts)
    if to_file:
        _write_csv(answers, to_file)
    elif arguments.output or (arguments.all and not arguments.json):
        _print_data()
        for number, answered in enumerate(answers):
            answered.to_csv(sys.stdout, index=False, header=number == 0)
    else:
        _print_lists(pd.concat(answers), arguments.json)
    if empty:
        recommender = model.unwrap_python_model().recommender
        _say(f"recommender: {_why_empty(recommender, empty, history, bool(arguments.similar))}")
    return 0


def _loaded(uri: str, name: str | None, chosen: bool) -> Any:
    """The model; where there is none of this name, InputError says which there are.

    `chosen` says that the name is --model's, and not the parameter file's.
    """
    from recommender import registry

    train = typed.train(name if chosen else None)
    try:
        return registry.load(uri, train)
    except InputError as error:
        there = registry.with_champion(registry.environment()) if name is not None else []
        if not there:
            raise
        ask = " or ".join(f"--model {typed.quoted(each)}" for each in there)
        raise InputError(
            f"{uri}: no such model. Train one with: {train}; or ask for another of "
            f"{registry.environment()}: {ask}"
        ) from error


def _history(pairs: Sequence[str]) -> dict[str, float]:
    history: dict[str, float] = {}
    for pair in pairs:
        item, equals, rating = pair.rpartition("=")
        try:
            history[item] = float(rating)
        except ValueError:
            equals = ""
        if not equals or not item:
            raise InputError(f"--history {pair}: write ITEM=RATING, as 318=4.5.")
    return history


def _predict(model: Any, asked: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return model.predict(asked)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise InputError(str(error.message)) from error


def _answered(model: Any, asked: Any, empty: list[str]) -> Any:
    """The answer to a part of what is asked; puts into `empty` the ids that get an empty list."""
    answered = _predict(model, asked)
    of = answered.columns[0]
    got = set(answered[of].tolist())
    empty += [each for each in asked[of].tolist() if each not in got]
    return answered


def _why_empty(recommender: Any, empty: list[str], history: dict[str, float], similar: bool) -> str:
    """Why these users, or this item, get an empty list."""
    if similar:
        return f"no item is like {empty[0]}: too few of its users have rated another item as well"
    named = f"user {empty[0]}" if len(empty) == 1 else f"{len(empty)} users ({', '.join(empty[:3])}, …)"
    items, users = set(recommender.items), {user: at for at, user in enumerate(recommender.users)}
    whole = all(
        items <= {*history, *(recommender.items[item] for item in _rated(recommender, users.get(user)))}
        for user in empty
    )
    if whole:
        return f"no list for {named}: all {len(items)} items are rated already"
    return (
        f"no list for {named}: all items with enough ratings are rated already. This model is of an earlier "
        "version; one that is trained now fills up lists: recommender train"
    )


def _rated(recommender: Any, at: int | None) -> Any:
    return () if at is None else recommender.rated[slice(*recommender.start[at : at + 2])].tolist()


def _write_csv(answers: Any, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="") as file:
            for number, answered in enumerate(answers):
                answered.to_csv(file, index=False, header=number == 0)
        part.replace(path)
    except OSError as error:
        raise RecommenderError(f"{path}: {error.strerror}. Name a file that you can write.") from error
    finally:
        part.unlink(missing_ok=True)


def _print_lists(answered: Any, as_json: bool) -> None:
    records = answered.to_dict("records")
    if as_json:
        _print_data()
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    from recommender import train

    if "similarity" in answered:
        print("\n".join(f"{pick['rank']:>4}  {pick['similarity']:.2f}  {_name(pick)}" for pick in records))
        return
    several = answered["user"].nunique() > 1
    for user, picks in answered.groupby("user", sort=False):
        items = picks.to_dict("records")
        if not items[0]["known_user"]:
            _say(f"user {user} is unknown: these are the popular items")
        if several:
            print(f"user {user}:")
        for line, pick in zip(train.pick_lines(items), items, strict=True):
            print(line + (f"  because of {pick['because']}" if pick.get("because") else ""))


def _name(pick: dict[str, Any]) -> str:
    return str(pick["title"] or pick["item"])


def _export(arguments: argparse.Namespace) -> None:
    from recommender import promotion, tracking

    tracking.connect(arguments.tracking_uri)
    _say(
        "exported "
        + promotion.export(arguments.environment, _model(arguments), arguments.version, arguments.output)
    )


def _promote(arguments: argparse.Namespace) -> None:
    from pydantic import ValidationError

    from recommender import gate, promotion, tracking

    try:
        settings = gate.Settings.model_validate_json(arguments.gate)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InputError(f"The gate's limits are {arguments.gate}. {'; '.join(lines)}.") from error
    overridden = frozenset(filter(None, (name.strip() for name in arguments.override.split(","))))
    tracking.connect(arguments.tracking_uri)
    print(
        promotion.promote(
            arguments.archive.resolve(),
            arguments.to,
            settings,
            overridden,
            arguments.by,
            arguments.sandbox,
            _say,
        )
    )


def _rollback(arguments: argparse.Namespace) -> None:
    from recommender import promotion, tracking

    tracking.connect(arguments.tracking_uri)
    print(promotion.rollback(arguments.environment, _model(arguments), arguments.version or None))


def _models(arguments: argparse.Namespace) -> None:
    from recommender import promotion, tracking

    tracking.connect(arguments.tracking_uri)
    print("\n".join(promotion.picture(environment) for environment in arguments.environments))
