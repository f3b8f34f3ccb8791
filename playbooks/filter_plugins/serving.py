"""Filter: a line about each environment's service, of what `model-server status` says."""

import json
from typing import Any


def served_line(result: dict[str, Any], environment: str) -> str:
    """Return the served version, its processes, and their counts since they started."""
    if result.get("rc", 1):
        why = (result.get("stderr") or result.get("msg") or "no answer").strip()
        return f"{environment}: NOT SERVED: {why}"
    status = json.loads(result["stdout"])
    processes = [each for each in status["processes"].values() if "error" not in each]
    about, refused = status["served"], status["refused"]
    if damaged := status.get("damaged"):
        line = f"{environment}: DAMAGED bundle {damaged}: make promote or make rollback serves a version again"
    elif about is None:
        line = f"{environment}: no version yet; make promote, or make train in dev, brings one"
    else:
        requests, errors = (sum(int(each[key]) for each in processes) for key in ("requests", "errors"))
        bounds = [each["p99_ms"] for each in processes if each["requests"]]
        slowest = "in more than a second" if None in bounds else f"within {max(bounds, default=0):g} ms"
        line = f"{environment}: {about['name']} version {about['version']}, {requests} requests, {errors} errors" + (
            f", 99 of 100 {slowest}" if requests else ""
        )
    agree = about is None or all(each["served"] == about["bundle"] for each in processes)
    if len(processes) < status["wanted"] or not agree:
        line += (
            f"; ONLY {len(processes)} of {status['wanted']} processes answer"
            + ("" if agree else " and not all with this version")
            + f": sudo journalctl -u 'model-server-{environment}@*'"
        )
    if refused:
        line += f"; version {refused['version']} was REFUSED: {refused['refused']}"
    return line


def served_lines(results: list[dict[str, Any]]) -> list[str]:
    """A line for each result of a loop over environments."""
    return [served_line(result, result["item"]) for result in results]


class FilterModule:
    """Ansible's face of this file."""

    def filters(self) -> dict[str, Any]:
        return {"served_lines": served_lines}
