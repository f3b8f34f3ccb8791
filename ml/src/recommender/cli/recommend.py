"""Define the command that asks a model: recommend."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recommender import files, typed
from recommender.cli import options, printing
from recommender.errors import InputError, RecommenderError

# As --output: standard output, as CSV.
STDOUT = Path("-")
# Users in one request.
_USERS = 4096


def add(commands: options.Commands) -> None:
    """Add this family's commands to the parser."""
    verb = commands.add_parser(
        "recommend", help="print the best items of a user, of several or of all, or the items like one"
    )
    verb.add_argument(
        "--model",
        metavar="NAME|URI",
        help="default: tracking.model of the parameter file, its champion; a URI as models:/dev.NAME/3",
    )
    options.add_named(verb)
    who = verb.add_mutually_exclusive_group()
    who.add_argument("--user", nargs="+", metavar="ID", help="unknown users get the popular items")
    who.add_argument("--all", action="store_true", help="every known user; prints CSV")
    who.add_argument("--similar", metavar="ITEM", help="the items most like this one")
    verb.add_argument(
        "--history",
        nargs="+",
        metavar="ITEM=RATING",
        help="ratings since the training; without --user, all ratings of a new user",
    )
    verb.add_argument(
        "--reasons",
        nargs="?",
        type=int,
        const=3,
        metavar="N",
        help="name the N ratings behind each (default: 3)",
    )
    verb.add_argument("-k", type=int, default=10, help="how many (default: 10)")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--output", type=Path, metavar="PATH", help="write CSV there (-: standard output)")
    options.add_tracking(verb)
    verb.set_defaults(command=_recommend)


def _recommend(arguments: argparse.Namespace) -> int:
    for flag, number in (("-k", arguments.k), ("--reasons", arguments.reasons)):
        if number is not None and number < 1:
            raise InputError(f"{flag} {number}: ask for at least one.")
    history = _history(arguments.history or [])
    users = arguments.user or (["new"] if history else [])
    if not users and not arguments.all and not arguments.similar:
        raise InputError(
            "No user or item is named. Say --user ID, --all, --similar ITEM or --history ITEM=RATING."
        )
    if history and (len(users) > 1 or arguments.all or arguments.similar):
        raise InputError("--history: these ratings are one user's. Ask for that user alone.")
    if arguments.output and arguments.output != STDOUT:
        options.check_writable(arguments.output)
    from recommender import confined, names
    from recommender.tracking import registry, stores

    to_file = arguments.output if arguments.output != STDOUT else None
    model_name = options.model(arguments)
    # An existing path is a model folder; a valid name is a model.
    by_name = re.fullmatch(names.MODEL_NAME, model_name) and not Path(model_name).exists()
    uri = f"models:/{names.environment()}.{model_name}@{registry.CHAMPION}" if by_name else model_name
    line = [*arguments.line, "--output", "-"] if to_file else arguments.line
    if by_name and (arguments.config or os.environ.get(options.CONFIG) or model_name != names.MODEL):
        # The other account runs in another folder.
        line = [*line, "--model", uri]
    if arguments.config and not arguments.config.is_absolute():
        # Its messages name the file.
        line = [*line, "--config", str(arguments.config.absolute())]
    if (code := confined.hand_over(line, to_file)) is not None:
        return code
    stores.connect(arguments.tracking_uri)
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
                options.say(f"recommender: --history: not among the ratings, left out: {', '.join(unknown)}")
        if arguments.reasons:
            asked["reasons"] = arguments.reasons
    # The answer for all users at once takes gigabytes.
    parts = (asked[at : at + _USERS] for at in range(0, len(asked), _USERS))
    empty: list[str] = []
    answers = (_answered(model, part, empty) for part in parts)
    if to_file:
        _write_csv(answers, to_file)
    elif arguments.output or (arguments.all and not arguments.json):
        printing.print_data()
        for number, answered in enumerate(answers):
            answered.to_csv(sys.stdout, index=False, header=number == 0)
    else:
        printing.print_lists(pd.concat(answers), arguments.json)
    if empty:
        recommender = model.unwrap_python_model().recommender
        options.say(f"recommender: {_why_empty(recommender, empty, history, bool(arguments.similar))}")
    return 0


def _loaded(uri: str, name: str | None, chosen: bool) -> Any:
    """Return the model. `chosen`: the name comes from --model, not from the parameter file.

    Raises InputError, with the available names, for a missing model.
    """
    from recommender import names
    from recommender.tracking import registry

    train = typed.train(name if chosen else None)
    try:
        return registry.load(uri, train)
    except InputError as error:
        there = registry.with_champion(names.environment()) if name is not None else []
        if not there:
            raise
        ask = " or ".join(f"--model {typed.quoted(each)}" for each in there)
        raise InputError(
            f"{uri}: no such model. Train one with: {train}; or ask for another of "
            f"{names.environment()}: {ask}"
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
    """Answer a part of the request; add ids with an empty list to `empty`."""
    answered = _predict(model, asked)
    of = answered.columns[0]
    got = set(answered[of].tolist())
    empty += [each for each in asked[of].tolist() if each not in got]
    return answered


def _why_empty(recommender: Any, empty: list[str], history: dict[str, float], similar: bool) -> str:
    """Return the reason for these empty lists."""
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
    try:
        with files.replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            for number, answered in enumerate(answers):
                answered.to_csv(file, index=False, header=number == 0)
    except OSError as error:
        raise RecommenderError(f"{path}: {error.strerror}. Name a file that you can write.") from error
