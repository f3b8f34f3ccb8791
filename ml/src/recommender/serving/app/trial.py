"""Lay out and try a version before it is served, in a process of its own, which may crash or hang."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recommender.errors import InputError
from recommender.serving.app import answers, bundle
from recommender.serving.app.live import Served, warm

# Largest distance of an estimate from the training's, in rating units.
TOLERANCE = 1e-6
# The replayed requests' 95th percentile may be so many times that of the version before, or so many ms,
# of the processor's time: other programs do not make a version slow.
SLOWER, FAST_MS = 3.0, 5.0
# Seconds of it for each replay.
LONGEST = 20.0


def golden(served: Served, recorded: dict[str, Any]) -> str:
    """Return what differs from the answers that training recorded, "" if nothing does."""
    model = served.recommender
    pairs = recorded["pairs"]
    found = model.estimate(pairs["user"], pairs["item"])
    off = np.abs(found - np.asarray(pairs["estimate"], dtype=np.float64))
    # Not >: NaN differs.
    if not (off <= TOLERANCE).all():
        at = int(np.argmax(np.where(off <= TOLERANCE, 0, np.inf)))
        return (
            f"the estimate of user {pairs['user'][at]} for item {pairs['item'][at]} is {found[at]:g}, "
            f"and was {pairs['estimate'][at]:g} at the training"
        )
    lists = recorded["lists"]
    for user in dict.fromkeys(lists["user"]):
        wanted = [item for of, item in zip(lists["user"], lists["item"], strict=True) if of == user]
        if [pick.item for pick in model.top_n(user)] != wanted:
            return f"the list of user {user} is another than at the training"
    return ""


def replay(served: Served, requests: Iterable[dict[str, Any]]) -> tuple[list[float], str]:
    """Answer requests for lists again; return milliseconds of each, and the first failure or ""."""
    times: list[float] = []
    end = time.thread_time() + LONGEST
    for request in requests:
        if time.thread_time() > end:
            break
        began = time.thread_time()
        try:
            listed = answers.listed(
                served, request.get("user", "new"), request.get("k"), request.get("history"),
                request.get("exclude", ()), request.get("reasons", 0),
            )  # fmt: skip
        except InputError:
            # Refused, as the person was.
            continue
        except Exception as error:
            return times, f"a request that was answered before fails: {error!r}"
        times.append(1000 * (time.thread_time() - began))
        if any(not np.isfinite(line["estimate"]) for line in listed["items"]):
            return times, f"an estimate for user {listed['user']} is not a number"
    return times, ""


def tried(folder: Path, before: Path | None, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the findings of a trial of a bundle; `refused` is "" where it may be served."""
    began = time.perf_counter()
    try:
        served = Served(*bundle.read(folder))
        warm(served)
        recorded = json.loads((folder / bundle.GOLDEN).read_text(encoding="utf-8"))
        refused = golden(served, recorded)
    except InputError as error:
        return {"refused": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return {"refused": f"{folder}: its golden sample has another form ({error!r})"}
    findings: dict[str, Any] = {"refused": refused, "seconds": round(time.perf_counter() - began, 3)}
    if refused or not requests:
        return findings
    times, findings["refused"] = replay(served, requests)
    findings["replayed"] = len(times)
    if findings["refused"] or not times:
        return findings
    findings["p95_ms"] = round(float(np.percentile(times, 95)), 3)
    if before is not None:
        try:
            others, _ = replay(Served(*bundle.read(before, whole=False)), requests)
        except InputError:
            # Damaged: all the more another is needed.
            return findings
        findings["p95_before_ms"] = round(float(np.percentile(others, 95)), 3) if others else None
        limit = max(SLOWER * (findings["p95_before_ms"] or 0.0), FAST_MS)
        if findings["p95_ms"] > limit:
            findings["refused"] = (
                f"the last {len(times)} requests take {findings['p95_ms']:g} ms (95th percentile), and "
                f"{findings['p95_before_ms']:g} with the version that is served"
            )
    return findings


def accepted(
    model: Path,
    sample: Path,
    labels: dict[str, str],
    place: Path,
    before: str | None,
    requests: list[dict[str, Any]],
) -> dict[str, Any]:
    """Lay out a saved model below `place` and try it; return the findings, with the bundle's name.

    A refused model leaves nothing behind.
    """
    there = {each.name for each in place.iterdir()}
    try:
        made = bundle.lay_out(model, sample, labels, place)
    except InputError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "it needs more memory than the service may take"}
    try:
        findings = tried(made, place / before if before else None, requests)
    except MemoryError:
        findings = {"refused": "it needs more memory than the service may take"}
    if findings["refused"] and made.name not in there:
        shutil.rmtree(made)
    return {"bundle": made.name, **findings}


def main() -> int:
    """Read the command line, and the last requests (JSON) from standard input; print the findings as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    accept = verbs.add_parser("accept", help="lay out a model and try it")
    accept.add_argument("model", type=Path)
    accept.add_argument("golden", type=Path)
    accept.add_argument("--labels", type=json.loads, required=True)
    accept.add_argument("--place", type=Path, required=True, help="folder of bundles")
    accept.add_argument("--before", help="the bundle that is served")
    prove = verbs.add_parser("prove", help="try a bundle")
    prove.add_argument("bundle", type=Path)
    given = parser.parse_args()
    requests = json.load(sys.stdin)
    if given.verb == "prove":
        found = {"bundle": given.bundle.name, **tried(given.bundle, None, requests)}
    else:
        found = accepted(given.model, given.golden, given.labels, given.place, given.before, requests)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
