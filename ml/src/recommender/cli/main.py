"""The program recommender: its families of commands, and how a command ends."""

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
    """Run one command; return its exit code: 0, 2 for bad input, 3 for a refused promotion, else 1."""
    # Only an exception, not a signal, ends MLflow's run as FAILED.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # A limited terminal encoding must not end the command.
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
        print(f"recommender: out of memory: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"recommender: {error}", file=sys.stderr)
        _close()
        return 1
    return 0


def _close() -> None:
    # Otherwise Python reports the write error again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _once_more(lost: "sys.UnraisableHookArgs") -> None:
    """Repeat a stop that was lost: Python drops exceptions raised in a finalizer."""
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
