"""Options that several commands share, and what they say."""

import argparse
import contextlib
import errno
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from recommender import config, names, typed, uris
from recommender.errors import InputError

# What argparse gives for adding commands.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

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
DEFAULT = "conf/default.yaml"


def add_model(parser: argparse.ArgumentParser, environment: str) -> None:
    """Options of a command about a registered model; `environment` is the flag that says where."""
    parser.add_argument(environment, required=True, metavar="NAME", help="as in dev, staging, prod")
    parser.add_argument("--model", metavar="NAME", help="default: tracking.model of the parameter file")
    add_named(parser)
    add_tracking(parser)


def add_named(parser: argparse.ArgumentParser) -> None:
    """The parameter file, of a command that needs the model's name alone."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"parameter file that names the model (default: ${CONFIG}, else {DEFAULT}, where it is there)",
    )


def model(arguments: argparse.Namespace) -> str:
    """The model's name: --model, else tracking.model of the parameter file."""
    if arguments.model:
        return str(arguments.model)
    path = arguments.config or Path(os.environ.get(CONFIG) or DEFAULT)
    if not arguments.config and not os.environ.get(CONFIG) and not path.exists():
        return names.MODEL
    return config.load(path).tracking.model


def count(text: str) -> int:
    """A type for argparse: a whole number above 0, also as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, as 100000 or 1e5")
    return int(number)


def add_config(parser: argparse.ArgumentParser, default: str = "") -> None:
    """The parameter file, and flags for what is in it."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default or os.environ.get(CONFIG) or DEFAULT),
        metavar="PATH",
        help=f"parameter file (default: {default or f'${CONFIG}, else {DEFAULT}'})",
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


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """MLflow's address."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else SQLite under ./mlruns"
    )


def settings(arguments: argparse.Namespace) -> config.Config:
    """The parameter file with what the flags change in it; raises InputError for what is wrong in either."""
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
    return config.load(arguments.config, {**overrides, **flags(arguments)})


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of the data, by its key in the parameter file."""
    return {
        key: value for key, value in vars(arguments).items() if key.startswith("data.") and value is not None
    }


def given(arguments: argparse.Namespace) -> typed.Given:
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
    measured = not getattr(arguments, "many", False)
    return typed.Given(
        getattr(arguments, "config", None) if measured else None,
        getattr(arguments, "tracking_uri", None),
        [*data, *sets] if measured else (),
    )


def _anywhere(key: str, value: str) -> str:
    """A key's value as it is typed: a path that is right in any folder, an address without its password."""
    if "://" in value:
        return uris.redacted(value)
    is_path = key in ("data.source", "data.titles") and os.path.exists(value)
    return str(Path(value).absolute()) if is_path else value


def say(line: str) -> None:
    """A line for people, on standard error."""
    # Whoever reads may have gone, as when a connection is lost; what is at work goes on.
    with contextlib.suppress(BrokenPipeError):
        print(typed.runnable(line), file=sys.stderr, flush=True)


def check_writable(path: Path) -> None:
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
