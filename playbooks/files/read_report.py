"""Prints the training's report as JSON; run on the server by the training account.

Anyone who trains can put anything in the report's place: a link, a FIFO, gigabytes, control characters.

usage: read_report.py PATH
"""

import json
import math
import os
import stat
import sys
from typing import Any, NoReturn

LARGEST = 2**20
# What the report of site.yml shows.
SHOWN = {
    "model": {"name", "version", "alias"},
    "dataset": {"name", "ratings", "users", "items"},
    "metrics": {"rmse", "mae"},
    "recommendations": {"user"},
}
PICK = {"item", "title", "estimate", "rank", "because"}
# Titles are not needed, and reasons and LISTS are missing in reports of earlier releases.
OPTIONAL = {"title", "because"}
LISTS = {"k", "list_ndcg", "popular_ndcg"}
NUMBERS = {"rmse", "mae", "estimate", "rank"} | LISTS


def stop(path: str, message: str) -> NoReturn:
    sys.exit(f"{path}: {message}. Remove it and train again: rm {path}, then make -C /srv/recommender/current train.")


def value(of: dict[str, Any], name: str) -> Any:
    """One value that can be printed: a number, or a text with a ? for each sign that does not print."""
    found = of[name]
    if isinstance(found, (int, float)) and math.isfinite(found):
        return found
    if name not in NUMBERS and isinstance(found, str):
        return "".join(sign if sign.isprintable() else "?" for sign in found)
    if name not in NUMBERS and found is None:
        return found
    raise TypeError(f"{name} is of type {type(found).__name__}")


def values(of: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value(of, name) for name in names if name not in OPTIONAL or name in of}


def read(path: str) -> Any:
    try:
        # without NONBLOCK, opening a FIFO waits for a writer
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            stop(path, "not a regular file")
        with open(file, encoding="utf-8") as text:
            report = json.loads(text.read(LARGEST))
        found = {key: values(report[key], names) for key, names in SHOWN.items()}
        if LISTS & report["metrics"].keys():
            found["metrics"] |= values(report["metrics"], LISTS)
        found["recommendations"]["items"] = [values(pick, PICK) for pick in report["recommendations"]["items"]]
        return found | {"algorithm": value(report, "algorithm")}
    except OSError as error:
        stop(path, str(error.strerror))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        stop(path, f"not the report of a training ({repr(error)[:200]})")


if __name__ == "__main__":
    json.dump(read(sys.argv[1]), sys.stdout)
