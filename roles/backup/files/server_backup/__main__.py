"""Copies of this server: made, tried and brought back. For root."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time

from . import back, copies, settings, state
from .repository import Repository
from .settings import Refused, Settings


def said(given: Settings) -> None:
    """The state in a few lines, without asking the repository."""
    now = state.read()
    run, drill = now.get("run", {}), now.get("drill", {})
    size = f", {run['files']} files, {state.size(run['bytes'])}" if run.get("files") and not run.get("error") else ""
    print(f"copies in {given.place}: the last one {state.moment(run.get('good'))}{size}")
    print(f"drill: the last one that found nothing {state.moment(drill.get('good'))}")
    for fault in state.faults(given, time.time()):
        print(f"WRONG: {fault}")


def listed(given: Settings) -> None:
    """Each copy, the newest last."""
    repository = Repository(given)
    snapshots = repository.snapshots()
    for snapshot in snapshots[-30:]:
        print(f"{snapshot.short}  {state.moment(snapshot.time)}")
    if snapshots:
        print(f"{len(snapshots)} copies; the newest holds {state.size(repository.size(snapshots[-1], []))}.")
    said(given)


def main() -> int:
    parser = argparse.ArgumentParser(prog="server-backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, words in {
        "run": "make a copy",
        "list": "list the copies",
        "said": "how the last ones went, from memory",
        "late": "what is wrong, a line each; nothing when all is well",
        "drill": "bring the newest copy back into a folder of its own and look at it",
        "prune": "remove copies that retention does not keep",
        "in-use": "whether this server continues its copies (0), or an earlier one made them (3)",
        "adopt": "continue the copies of an earlier server of this name without bringing them back",
    }.items():
        verbs.add_parser(name, help=words)
    prove = verbs.add_parser("prove", help="make the repository and bring a sample back")
    prove.add_argument("--again", action="store_true", help="also where that was done before")
    restore = verbs.add_parser("restore", help="bring a copy back")
    restore.add_argument("part", nargs="*", help="mlflow, notebooks:ana, …; all of them without")
    restore.add_argument(
        "--at", default="latest", help="the beginning of an id, or a time (UTC): the last copy before it"
    )
    restore.add_argument("--damaged", action="store_true", help="with --replace: also parts that are not whole")
    where = restore.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", default="", help="an empty folder beside")
    where.add_argument("--replace", action="store_true", help="into the place of what is there")
    arguments = parser.parse_args()
    try:
        if not shutil.which("restic"):
            raise Refused("restic is not installed: run site.yml --tags backup")
        given = settings.read()
        if arguments.verb == "late":
            for fault in state.faults(given, time.time()):
                print(fault)
        elif arguments.verb == "in-use":
            try:
                copies.guard(Repository(given).snapshots(), given.name)
            except copies.Foreign as error:
                print(error)
                return 3
        elif arguments.verb == "prove":
            print(json.dumps({"changed": copies.prove(given, arguments.again)}))
        elif arguments.verb == "restore":
            back.restore(given, arguments.part, arguments.at, arguments.to, arguments.replace, arguments.damaged)
        else:
            {
                "run": copies.run, "list": listed, "said": said, "drill": copies.drill, "prune": copies.prune,
                "adopt": back.adopt,
            }[arguments.verb](given)  # fmt: skip
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"{error.filename} is not there: run site.yml --tags backup", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{error.filename or 'this server'}: {error.strerror}. Make room or mend it, then type this again.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
