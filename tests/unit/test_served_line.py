"""What make status says of a service."""

import importlib.util
import json
import pathlib
from typing import Any

PATH = pathlib.Path(__file__).parents[2] / "playbooks/filter_plugins/serving.py"
spec = importlib.util.spec_from_file_location("serving_filter", PATH)
assert spec and spec.loader
serving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serving)

ABOUT = {"name": "prod.films", "version": "3", "bundle": "b3"}
PROCESS = {"served": "b3", "previous": None, "requests": 40.0, "errors": 1.0, "p99_ms": 2.0}


def line(**changes: Any) -> str:
    status = {
        "served": ABOUT,
        "damaged": None,
        "refused": None,
        "wanted": 2,
        "processes": {"1": PROCESS, "2": PROCESS},
    } | changes
    return str(serving.served_line({"rc": 0, "stdout": json.dumps(status)}, "prod"))


def test_what_is_served() -> None:
    assert line() == "prod: prod.films version 3, 80 requests, 2 errors, 99 of 100 within 2 ms"
    slow = line(processes={"1": PROCESS, "2": {**PROCESS, "p99_ms": None}})
    assert slow.endswith("99 of 100 in more than a second")
    assert line(served=None).startswith("prod: no version yet; make promote")


def test_what_is_wrong() -> None:
    assert "ONLY 1 of 2 processes answer: sudo journalctl" in line(processes={"1": PROCESS, "2": {"error": "gone"}})
    assert "DAMAGED bundle b3" in line(served=None, damaged="b3")
    assert "not all with this version" in line(processes={"1": PROCESS, "2": {**PROCESS, "served": "b2"}})
    assert line(refused={"version": "4", "refused": "NaN"}).endswith("; version 4 was REFUSED: NaN")
    failed = {"rc": 1, "stdout": "", "stderr": "prod is not served on this host."}
    assert serving.served_line(failed, "prod") == "prod: NOT SERVED: prod is not served on this host."
