"""Define the commands about ratings: download, generate, check."""

import argparse
import json
from pathlib import Path
from typing import Any

from recommender import typed
from recommender.cli import options
from recommender.errors import InputError, RecommenderError


def add(commands: options.Commands) -> None:
    """Add this family's commands to the parser."""
    verb = commands.add_parser("download", help="fetch one of MovieLens' public sets")
    verb.add_argument("name", help="100k, 1m, 25m or 32m")
    verb.add_argument("--folder", type=Path, default=Path("data"), metavar="PATH", help="default: data")
    verb.add_argument("--mirror", metavar="URL", help="default: GroupLens' own server")
    verb.set_defaults(command=_download)

    verb = commands.add_parser("generate", help="write MovieLens-like ratings with a planted structure")
    verb.add_argument(
        "--ratings", type=options.count, required=True, metavar="N", help="how many, also as 1e6"
    )
    verb.add_argument("--users", type=options.count, metavar="N", help="default: a 145th of the ratings")
    verb.add_argument("--items", type=options.count, metavar="N", help="default: six times their square root")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    verb.add_argument("--output", type=Path, required=True, metavar="PATH", help="CSV, or a .parquet file")
    verb.set_defaults(command=_generate)

    verb = commands.add_parser("check", help="report on the data and its changes since the champion")
    options.add_config(verb)
    options.add_tracking(verb)
    verb.add_argument("--champion", action="store_true", help="compare with the data of the champion")
    verb.add_argument("--output", type=Path, metavar="PATH", help="folder for the reports as HTML and JSON")
    verb.set_defaults(command=_check)


def _download(arguments: argparse.Namespace) -> None:
    from recommender.data import downloads

    folder = downloads.download(
        arguments.name, arguments.folder, arguments.mirror or downloads.MIRROR, options.say
    )
    then = f"recommender train --data {typed.quoted(folder.absolute())}"
    print(f"{folder}\n  {typed.runnable(then)}")


def _generate(arguments: argparse.Namespace) -> None:
    from recommender.data import synthetic

    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: a seed is 0 or more.")
    options.check_writable(arguments.output)
    ratings = synthetic.generate(arguments.ratings, arguments.seed, arguments.users, arguments.items)
    synthetic.write(ratings, arguments.output, arguments.seed)
    print(
        f"{arguments.output}: {len(ratings):,} ratings of {len(ratings.users):,} users for "
        f"{len(ratings.items):,} items"
    )


def _check(arguments: argparse.Namespace) -> None:
    settings = options.settings(arguments)
    from recommender import names, train
    from recommender.data import reading, reports
    from recommender.evaluation import validation
    from recommender.tracking import data_reports, stores

    ratings = reading.read(settings.data)
    now, lists = reports.profile(ratings), train.support(ratings, settings)
    now["numbers"]["items_recommended_first"] = lists["share"]
    now["remarks"] += [lists["remark"]] if lists["remark"] else []
    try:
        validation.on_scale(settings, ratings)
    except InputError as error:
        now["remarks"].append(str(error))
    pages: dict[str, Any] = {"validation": now}
    print(f"{reports.text(now)}\n{lists['says']}")
    if arguments.champion:
        stores.connect(arguments.tracking_uri)
        name = names.registered_name(names.environment(), settings.tracking.model)
        before = data_reports.of_champion(name)
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
