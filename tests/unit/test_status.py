"""What make status says of a server that does not answer."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("vendor", "command"),
    [("onprem", "make doctor INVENTORY={folder} HOST=recommender-dev\n"), ("local", "docker restart bare-server-")],
)
def test_a_server_that_does_not_answer_names_a_command(tmp_path: pathlib.Path, vendor: str, command: str) -> None:
    copy = tmp_path / "inventory" / vendor
    shutil.copytree(ROOT / "inventory" / vendor, copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(ROOT / "inventory" / name, copy.parent)
    words = ["playbooks/status.yml", "-i", str(copy), "-e", '{"ansible_host": "127.0.0.1"}']
    # that of local is worked out
    words += [] if vendor == "local" else ["-e", '{"ansible_port": 1}']
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), *words], cwd=ROOT, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "steps"},
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    told = done.stdout.rpartition("\nFAILED on ")[2]
    assert "does not answer. Type:\n" + command.format(folder=os.path.relpath(copy, ROOT)) in told, done.stdout
    assert "Connection refused" in told
