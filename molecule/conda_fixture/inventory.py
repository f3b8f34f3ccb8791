#!/usr/bin/env python3
"""Inventory of scenarios that need conda, beside molecule/hosts.py: role variables and the fixture's mount.

Nothing when the real conda hosts answer. The answer is kept for the scenario's phases.
"""

import json
import os
import pathlib
import subprocess
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parents[1]


def variables() -> dict[str, object]:
    """Variables of the group molecule."""
    path = subprocess.check_output([HERE / "select.sh", PROJECT / ".cache"], text=True).strip()
    if not path:
        return {}
    vars_file = pathlib.Path(path)
    mount = f"{vars_file.parent}:/srv/conda-fixture:ro"
    return {"cloud_server_local_volumes": [mount], **yaml.safe_load(vars_file.read_text())}


def main() -> None:
    kept = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "conda.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"molecule": {"vars": variables()}, "_meta": {"hostvars": {}}}))
        partial.rename(kept)
    print(kept.read_text())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed, see above")
