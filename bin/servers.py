#!/usr/bin/env python3
"""Ansible's connections to the servers of an inventory, for programs that use ssh.

usage: servers.py -i INVENTORY HOST     refuses a host or group that is not there, naming those that are
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONNECTION = {
    "host": "{{ ansible_host | default(inventory_hostname) }}",
    "port": "{{ ansible_port | default('') }}",
    "key": "{{ ansible_private_key_file | default('') }}",
    "options": "{{ ansible_ssh_common_args | default("
    "lookup('ansible.builtin.config', 'ssh_common_args', plugin_type='connection', plugin_name='ssh')) }}",
}


def ansible(*arguments: str, program: str = "ansible", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ansible with this checkout's settings, wherever it is called. Raises SystemExit where there is none."""
    # ansible.cfg by name: Ansible ignores it in a world-writable folder
    ours = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{os.environ.get('PATH', '')}:{ROOT}/.venv/bin"}
    try:
        return subprocess.run(
            [program, *arguments], env=os.environ | ours | environment, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise SystemExit("there is no ansible here: make ready, in the checkout, installs it") from error


def read(inventory: str, pattern: str, variables: dict[str, str]) -> dict[str, Any]:
    """CONNECTION and `variables` of the hosts that match, by name, as Ansible itself would use them.

    What cannot be templated is a text that says why, in the place of the variables.
    Raises LookupError, with what Ansible says, when no host matches, and SystemExit when the inventory cannot be read.
    """
    wanted = {"msg": CONNECTION | variables}
    result = ansible(
        pattern, "-i", inventory, "-m", "ansible.builtin.debug", "-a", json.dumps(wanted),
        # where a playbook's are found, whatever folder this is typed in
        "--playbook-dir", str(ROOT / "playbooks"),
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json", ANSIBLE_LOAD_CALLBACK_PLUGINS="true",
        ANSIBLE_CALLBACKS_ENABLED="ansible.posix.json",
    )  # fmt: skip
    try:
        hosts = json.loads(result.stdout[result.stdout.index("{") :])["plays"][0]["tasks"][0]["hosts"]
        return {name: host["msg"] for name, host in hosts.items()}
    except (ValueError, LookupError) as error:
        said = result.stderr.strip()
        if "locale" in said:
            said += "\nType LC_ALL=C.UTF-8 (on macOS: LC_ALL=en_US.UTF-8) before the command, as make does."
        if result.returncode != 0:
            raise SystemExit(f"{inventory} cannot be read:\n{said}") from error
        hosts, groups = known(inventory)
        there = f"{', '.join(hosts)}, in the groups {', '.join(groups)}" if hosts else "none"
        raise LookupError(f"{said}\nIts hosts: {there}") from error


def known(inventory: str) -> tuple[list[str], list[str]]:
    """Names of the inventory's hosts, and of its groups that have one; empty where Ansible cannot read it."""
    try:
        groups = json.loads(ansible("-i", inventory, "--list", program="ansible-inventory").stdout)
    except ValueError:
        return [], []
    hosts = {host for group in groups.values() for host in group.get("hosts", [])}
    named = {name for name in groups if name not in ("_meta", "all", "ungrouped")}
    return sorted(hosts), sorted(named)


def ssh(server: dict[str, Any], *options: str) -> list[str]:
    """ssh with `options` and those that Ansible uses for this server; the login and a command are to follow."""
    command = ["ssh", *options, *shlex.split(server["options"])]
    if server["port"]:
        command += ["-p", str(server["port"])]
    if server["key"]:
        command += ["-o", "IdentitiesOnly=yes", "-i", server["key"]]
    return command


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-i", "--inventory", required=True)
    parser.add_argument("host")
    arguments = parser.parse_args()
    try:
        read(arguments.inventory, arguments.host, {})
    except LookupError as error:
        raise SystemExit(f"{arguments.inventory} has no host {arguments.host}.\n{error}") from error


if __name__ == "__main__":
    main()
