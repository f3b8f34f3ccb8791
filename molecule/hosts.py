#!/usr/bin/env python3
"""Inventory of a Molecule scenario: one container server per Debian release, reached over SSH on a loopback port.

MOLECULE_SERVERS names others than debian12 and debian13, MOLECULE_VOLUMES what Docker mounts in each, and
MOLECULE_DEVICES what each gets of this machine's devices.
Names and ports follow from the checkout and the role, so that scenarios, and checkouts, run side by side.
"""

import hashlib
import json
import os
import pathlib

project = pathlib.Path(os.environ.get("MOLECULE_PROJECT_DIRECTORY", os.getcwd()))
scenario = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
state = pathlib.Path(__file__).resolve().parents[1] / ".cache" / "molecule" / f"{project.name}-{scenario}"

# Ansible's own ssh makes the folder; mitogen, which may come first on a new machine, does not.
sockets = pathlib.Path.home() / ".ansible/cp"
sockets.mkdir(mode=0o700, parents=True, exist_ok=True)

hosts: dict[str, dict[str, object]] = {}
for server in os.environ.get("MOLECULE_SERVERS", "debian12=bookworm debian13=trixie").split():
    host, _, suite = server.partition("=")
    digest = hashlib.sha256(f"{project}/{scenario}/{host}".encode()).hexdigest()
    hosts[host] = {
        "cloud_server_vendor": "local",
        "cloud_server_name": f"{project.name}-{scenario}-{host}-{digest[:6]}".replace("_", "-"),
        "cloud_server_image": suite,
        "cloud_server_local_key": str(state / "id_ed25519"),
        "cloud_server_local_known_hosts": str(state / "known_hosts"),
        "ansible_host": "127.0.0.1",
        "ansible_port": 20000 + int(digest, 16) % 12000,
        "ansible_user": os.environ.get("MOLECULE_LOGIN_USER", "root"),
        "ansible_private_key_file": str(state / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={state / 'known_hosts'} -o StrictHostKeyChecking=accept-new",
        # only for testinfra, which otherwise connects for each command
        "ansible_ssh_extra_args": f"-o ControlPath={sockets}/%C",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    if volumes := os.environ.get("MOLECULE_VOLUMES"):
        hosts[host]["cloud_server_local_volumes"] = volumes.split()
    if devices := os.environ.get("MOLECULE_DEVICES"):
        hosts[host]["cloud_server_local_devices"] = devices.split()
print(json.dumps({"molecule": {"hosts": list(hosts)}, "_meta": {"hostvars": hosts}}))
