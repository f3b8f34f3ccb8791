"""What the role does with MLflow's database, artifacts and users. The interpreter is that of MLflow's environment.

The settings in force come by the environment, as the server gets them; what is new comes as JSON on standard input,
since an argument would show in the list of processes. Each verb ends with 0, or with 1 and one message for the operator
on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from .checks import check, check_switch, probe
from .copies import backup, compare, migrate, restore, undo
from .logins import credentials, users
from .move import move
from .snapshot import fits, load, save, verify
from .store import Refused, gc


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlflow_admin.py")
    verbs: dict[str, Callable[[str], None]] = {
        "check": lambda _: check(json.load(sys.stdin)),
        "switch": lambda wanted: check_switch(json.loads(wanted), dict(os.environ)),
        "backup": backup,
        "restore": restore,
        "migrate": lambda _: migrate(),
        "compare": lambda made: compare(json.loads(made)["counts"]),
        "undo": lambda made: undo(json.loads(made)),
        "probe": probe,
        "move": lambda _: move(json.load(sys.stdin)),
        "credentials": lambda _: credentials(json.load(sys.stdin)),
        "users": lambda address: users(json.loads(sys.stdin.read() or "{}"), address),
        "gc": gc,
        "save": save,
        "verify": lambda folder: verify(folder, arguments.artifacts),
        "fits": lambda folder: print(fits(folder)["mlflow"]),
        "load": load,
    }
    parser.add_argument("verb", choices=list(verbs))
    parser.add_argument("argument", nargs="?", default="")
    parser.add_argument("artifacts", nargs="?", default="", help="of verify: the folder that they were restored to")
    arguments = parser.parse_args()
    try:
        verbs[arguments.verb](arguments.argument)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
