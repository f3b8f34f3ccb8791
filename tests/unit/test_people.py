"""Mistakes in the list of people stop site.yml before any connection, and name the entry."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"
DEPLOY = {"name": "deploy", "role": "operator", "keys": KEY}
ANALYST = {"name": "analyst", "role": "analyst", "keys": KEY}


SLIPS: list[tuple[list[dict[str, Any]], list[str]]] = [
    (
        [DEPLOY, ANALYST, {"name": "tina", "role": "tunnel", "keys": KEY, "ports": 5000}, {"name": "ana"}],
        ["tina: ports is 5000; it must be a list: ports: [5000]", "ana: role is ''"],
    ),
    (
        [DEPLOY, ANALYST, {"name": "nas", "role": "command", "keys": KEY, "command": "true\nMatch all"}],
        ["nas: command is", "it must be one line without control characters"],
    ),
    # whose keys run one command is no way in
    ([{**DEPLOY, "role": "command", "command": "true"}, ANALYST], ["its operators are: none."]),
    ([ANALYST], ["does not have deploy with role operator"]),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one run says of four servers, each with one of SLIPS."""
    copy = tmp_path_factory.mktemp("people") / "inventory/onprem"
    shutil.copytree(ROOT / "inventory/onprem", copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(ROOT / "inventory" / name, copy.parent)
    hosts = {f"server-{number}": {"people": people} for number, (people, _) in enumerate(SLIPS)}
    (copy / "hosts.yml").write_text(yaml.safe_dump({"dev": {"hosts": hosts}}))
    command = ["ansible-playbook", "playbooks/bootstrap.yml", "-i", str(copy), "-e"]
    command.append(json.dumps({"ansible_host": "127.0.0.1", "ansible_port": 1}))
    result = subprocess.run(
        [pathlib.Path(sys.executable).with_name(command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "default"},
    )  # fmt: skip
    output = " ".join(result.stdout.split())
    assert result.returncode == 2, output
    assert "Find the account" not in output
    return output


@pytest.mark.parametrize("number", range(len(SLIPS)))
def test_a_slip_in_the_list_ends_the_run_before_any_server_is_asked(refused: str, number: int) -> None:
    own = refused.split(f"fatal: [server-{number}]: FAILED!")[1].split("fatal: [")[0]
    for words in SLIPS[number][1]:
        assert words in own


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"ansible_private_key_file": "/nowhere/key"},
            "- ansible_private_key_file is '/nowhere/key', and there is ",
        ),
        ({"operator_keys": "/nowhere/key.pub"}, "- deploy and analyst: /nowhere/key.pub cannot be read as a file of "),
    ],
)
def test_a_wrong_path_of_a_key_is_told_once_and_last(variables: dict[str, str], said: str) -> None:
    command = [str(pathlib.Path(sys.executable).with_name("ansible-playbook")), "site.yml", "-i", "inventory/onprem"]
    given = json.dumps(variables | {"ansible_host": "127.0.0.1", "ansible_port": 1})
    result = subprocess.run([*command, "-e", given], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    screen = result.stdout + result.stderr
    assert result.returncode == 2
    text = screen.split("FAILED on ")[1].rstrip().splitlines()
    assert [line for line in text if line.startswith("- ")] == [line for line in text if line.startswith(said)]
    assert screen.count("/nowhere/key") <= 2 and len(text) <= 5 and len(screen.splitlines()) < 20, screen


@pytest.mark.parametrize(
    ("there", "ecdsa", "taken"),
    [
        # left for the role to refuse by name, where nothing else is there
        (["ecdsa"], False, ["ecdsa"]),
        (["ecdsa", "ed25519"], False, ["ed25519"]),
        (["ecdsa", "ed25519"], True, ["ed25519", "ecdsa"]),
        (["ecdsa"], True, ["ecdsa"]),
    ],
)
def test_keys_of_a_home(tmp_path: pathlib.Path, there: list[str], ecdsa: bool, taken: list[str]) -> None:
    (tmp_path / ".ssh").mkdir()
    for kind in there:
        (tmp_path / f".ssh/id_{kind}.pub").write_text(f"{kind}\n")
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    ansible = pathlib.Path(sys.executable).with_name("ansible")
    command = [str(ansible), "recommender-dev", "-i", "inventory/onprem", "-m", "debug", "-a"]
    command += ["msg={{ operator_keys | to_json }}"]
    output = subprocess.check_output(
        [*command, "-e", json.dumps({"access_ecdsa": ecdsa})], cwd=ROOT, text=True,
        env={**environment, "HOME": str(tmp_path), "NO_COLOR": "1"},
    )  # fmt: skip
    assert f"msg: '{json.dumps(taken)}'" in output
