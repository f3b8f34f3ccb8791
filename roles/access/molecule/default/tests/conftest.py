"""Logins as a person makes them, beside Ansible's own connection."""

import shlex
import socket
import subprocess
import time

import pytest


@pytest.fixture
def variables(host):
    return host.ansible.get_variables()


@pytest.fixture
def connection(variables):
    """ssh's arguments for a connection of its own, as a named user, with the scenario's key or another."""

    def arguments(user, *options, key=None):
        return [
            "ssh", *shlex.split(variables["ansible_ssh_common_args"]), "-o", "BatchMode=yes", "-o", "ControlPath=none",
            "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10", "-i", key or variables["ansible_private_key_file"],
            *options, "-p", str(variables["ansible_port"]), f"{user}@{variables['ansible_host']}",
        ]  # fmt: skip

    return arguments


@pytest.fixture
def login(connection):
    def run(user, *command, options=(), key=None):
        return subprocess.run(
            [*connection(user, *options, key=key), *command],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@pytest.fixture
def make_key():
    """Makes a key pair and returns the private one's path."""

    def make(folder, kind="ed25519", bits="256"):
        file = folder / f"{kind}-{bits}-{time.monotonic_ns()}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", file], check=True)
        return file

    return make


@pytest.fixture
def free_port():
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
