"""The command line: recommender train, evaluate, recommend; export, promote, rollback, models."""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from recommender import __version__, typed
from recommender.cli import data, options, promotion, recommend, training
from recommender.errors import RecommenderError


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
    before, sys.unraisablehook = sys.unraisablehook, _once_more
    try:
        with typed.repeating(options.given(arguments)):
            return _run(arguments)
    finally:
        sys.unraisablehook = before


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


def _close() -> None:
    # Python would complain once more of what it cannot write while it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _once_more(lost: "sys.UnraisableHookArgs") -> None:
    """Stop again: what is raised while an object is finalized is lost, and Git's of MLflow take long."""
    code = lost.exc_value.code if isinstance(lost.exc_value, SystemExit) else None
    if isinstance(code, int):
        stop = threading.Timer(0.1, os.kill, (os.getpid(), code - 128))
        stop.daemon = True
        stop.start()
    else:
        sys.__unraisablehook__(lost)


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recommender", description="Train, evaluate and query a movie recommender.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    for family in (training, recommend, promotion, data):
        family.add(commands)
    return parser
