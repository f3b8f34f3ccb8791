"""Define options shared by several commands, and print their messages."""

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

# argparse's object for adding commands.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Flag, key in the parameter file, description.
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


# The default of --config; make sets it to CONF.
CONFIG = "RECOMMENDER_CONFIG"
DEFAULT = "conf/default.yaml"


def add_model(parser: argparse.ArgumentParser, environment: str) -> None:
    """Add the options of a registered model; `environment` is the flag for its environment."""
    parser.add_argument(environment, required=True, metavar="NAME", help="as in dev, staging, prod")
    parser.add_argument("--model", metavar="NAME", help="default: tracking.model of the parameter file")
    add_named(parser)
    add_tracking(parser)


def add_named(parser: argparse.ArgumentParser) -> None:
    """Add --config for a command that needs only the model's name."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"parameter file that names the model (default: ${CONFIG}, else {DEFAULT} if it exists)",
    )


def model(arguments: argparse.Namespace) -> str:
    """Return the model's name: --model, else tracking.model of the parameter file."""
    if arguments.model:
        return str(arguments.model)
    path = arguments.config or Path(os.environ.get(CONFIG) or DEFAULT)
    if not arguments.config and not os.environ.get(CONFIG) and not path.exists():
        return names.MODEL
    return config.load(path).tracking.model


def count(text: str) -> int:
    """Parse a whole number above 0, also written as 1e6; a type for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, as 100000 or 1e5")
    return int(number)


def add_config(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add --config and the flags for its keys."""
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
    """Add --tracking-uri, MLflow's address."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else SQLite under ./mlruns"
    )


def settings(arguments: argparse.Namespace) -> config.Config:
    """Return the parameter file's settings with the flags' changes.

    Raises InputError for errors in either.
    """
    overrides: dict[str, Any] = {}
    for pair in arguments.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: write KEY=VALUE, as params.n_factors=50.")
        try:
            overrides[key] = yaml.safe_load(value)
        # ValueError: an invalid date
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(
                f"--set {pair}: the value is not YAML: {getattr(error, 'problem', error)}."
            ) from error
    return config.load(arguments.config, {**overrides, **flags(arguments)})


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the data's flags by key in the parameter file."""
    return {
        key: value for key, value in vars(arguments).items() if key.startswith("data.") and value is not None
    }


def given(arguments: argparse.Namespace) -> typed.Given:
    """Return the flags that a command in a message must repeat."""
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
    # A leaderboard names its parameter files itself.
    measured = not getattr(arguments, "many", False)
    return typed.Given(
        getattr(arguments, "config", None) if measured else None,
        getattr(arguments, "tracking_uri", None),
        [*data, *sets] if measured else (),
    )


def _anywhere(key: str, value: str) -> str:
    """Return a key's value to type in any folder: paths absolute, addresses without password."""
    if "://" in value:
        return uris.redacted(value)
    is_path = key in ("data.source", "data.titles") and os.path.exists(value)
    return str(Path(value).absolute()) if is_path else value


def say(line: str) -> None:
    """Print a line for people on standard error."""
    # Work continues if the reader is gone, as after a lost connection.
    with contextlib.suppress(BrokenPipeError):
        print(typed.runnable(line), file=sys.stderr, flush=True)


def check_writable(path: Path) -> None:
    """Raise InputError unless a file can be created there; called before long work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.name or path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. {_may_write(path)}") from error


def _may_write(path: Path) -> str:
    """Return the remedy for a read-only folder: its group, if that may write."""
    import grp
    import stat

    name = "Name a file that you can write."
    with contextlib.suppress(OSError, KeyError):
        about = path.parent.stat()
        group = grp.getgrgid(about.st_gid).gr_name
        if about.st_mode & stat.S_IWGRP and about.st_gid not in {os.getegid(), *os.getgroups()}:
            return (
                f"Training here needs group {group}. On a server an operator puts your account into it: "
                "recommender_members in zz-mine.yml (people with a Jupyter are in it anyway), then site.yml "
                f"--tags recommender. Then log in again. Otherwise: {name}"
            )
    return name
