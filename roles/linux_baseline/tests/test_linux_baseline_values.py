"""What the role says of its variables' values, on this machine."""

import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml

TASKS = pathlib.Path(__file__).parents[1] / "tasks/preflight.yml"
DEFAULTS = pathlib.Path(__file__).parents[1] / "defaults/main.yml"


@pytest.mark.parametrize("given", [{}, {"linux_baseline_reboot": "4:30", "linux_baseline_session_tasks_max": 10}])
def test_every_invalid_value_is_named_at_once(tmp_path: pathlib.Path, given: dict[str, Any]) -> None:
    [task] = [task for task in yaml.safe_load(TASKS.read_text()) if task["name"] == "Refuse invalid values"]
    values = yaml.safe_load(DEFAULTS.read_text()) | given
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": values, "tasks": [task]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "play.yml"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "default"}, check=False,
    )  # fmt: skip
    said = " ".join(done.stdout.split())
    assert ("failed=0" in said) == (not given), done.stdout
    for words in (
        'linux_baseline_reboot is "4:30": give never',
        "linux_baseline_session_tasks_max is 10: give a number",
    ):
        assert (words in said) == bool(given), done.stdout
