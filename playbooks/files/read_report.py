"""Prints the training's report as JSON, once it is one; run on the server by the account that trains.

Whoever may train can lay anything in the report's place: a link, a FIFO, gigabytes, signs that a terminal obeys.

usage: read_report.py PATH
"""

import json
import os
import stat
import sys
from typing import Any, NoReturn

LARGEST = 2**20
# What the report of site.yml shows.
NEEDED = {
    "model": {"name", "version", "alias"},
    "dataset": {"name", "ratings", "users", "items"},
    "metrics": {"rmse", "mae"},
    "recommendations": {"user", "items"},
}


def stop(path: str, message: str) -> NoReturn:
    sys.exit(f"{path}: {message}. Remove it and train again: rm {path}, then make -C /srv/recommender/current train.")


def printable(value: Any) -> Any:
    """The same with a ? for each sign that does not print."""
    if isinstance(value, str):
        return "".join(sign if sign.isprintable() else "?" for sign in value)
    if isinstance(value, list):
        return [printable(each) for each in value]
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    return value


def read(path: str) -> Any:
    try:
        # without NONBLOCK, opening a FIFO waits for who writes
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            stop(path, "not a regular file")
        with open(file, encoding="utf-8") as text:
            report = json.loads(text.read(LARGEST))
        float(report["metrics"]["rmse"]), float(report["metrics"]["mae"])
        missing = [key for key, inner in NEEDED.items() if inner - set(report[key])]
        if missing or not isinstance(report["algorithm"], str):
            stop(path, f"not the report of a training ({', '.join(missing) or 'algorithm'})")
        for pick in report["recommendations"]["items"]:
            int(pick["rank"]), float(pick["estimate"]), pick["item"]
    except OSError as error:
        stop(path, str(error.strerror))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        stop(path, f"not the report of a training ({error!r})")
    return printable(report)


if __name__ == "__main__":
    json.dump(read(sys.argv[1]), sys.stdout)
