"""The two servers: as root without sshd, which a test may break, and by SSH as a person."""

import contextlib
import functools
import json
import os
import pathlib
import select
import shlex
import subprocess

import pytest
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "molecule/hosts.py"
VARIABLES = json.loads(subprocess.check_output([INVENTORY]))["_meta"]["hostvars"]


class Server:
    def __init__(self, name):
        self.name = name
        self.variables = VARIABLES[name]
        self.host = testinfra.get_host(f"docker://{self.variables['cloud_server_name']}")
        self.endpoint = (self.variables["ansible_host"], self.variables["ansible_port"])

    @functools.cached_property
    def address(self):
        return self.host.check_output("hostname -I").split()[0]

    @property
    def bans_by_itself(self):
        return self.name != "debian12"

    def effective(self):
        return self.host.check_output("sshd -T -C user=deploy,host=localhost,addr=127.0.0.1").splitlines()

    def connection(self, user, *options, key=None):
        """ssh's arguments for a connection of its own, with the scenario's key or another."""
        address, port = self.endpoint
        return [
            "ssh", *options, *shlex.split(self.variables["ansible_ssh_common_args"]), "-o", "BatchMode=yes",
            "-o", "ControlPath=none", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10",
            "-i", key or self.variables["cloud_server_local_key"], "-p", str(port), f"{user}@{address}",
        ]  # fmt: skip

    def login(self, user, *command, options=(), key=None):
        return subprocess.run(
            [*self.connection(user, *options, key=key), *command],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @contextlib.contextmanager
    def session(self, command=None):
        """A session that stays open; what it gives is called with a word, and fails unless the word comes back."""
        command = [*(command or self.connection("deploy")), "cat"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

        def alive(word):
            process.stdin.write(f"{word}\n".encode())
            ready, _, _ = select.select([process.stdout], [], [], 30)
            assert ready, f"{word} has not come back"
            assert process.stdout.read(99) == f"{word}\n".encode()

        try:
            alive("begin")
            yield alive
            alive("end")
        finally:
            process.kill()
            process.wait()

    def converge(self, *arguments, code=0, **variables):
        """Runs the scenario's play with other variables, asserts how it ends, and returns what it said on one line."""
        result = subprocess.run(
            ["ansible-playbook", pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml"),
             "-i", INVENTORY, "--limit", self.name, "--skip-tags", "access", "-e", json.dumps(variables), *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        assert result.returncode == code, result.stdout + result.stderr
        return " ".join((result.stdout + result.stderr).split())

    def audit(self, *arguments):
        address, port = self.endpoint
        return subprocess.run(
            ["ssh-audit", "--skip-rate-test", *arguments, "-p", str(port), address], capture_output=True, text=True
        )

    def forgive(self):
        """Forgets failed logins."""
        self.host.check_output("systemctl reload ssh" if self.bans_by_itself else "fail2ban-client unban --all")


@pytest.fixture(scope="module", params=sorted(VARIABLES))
def server(request):
    return Server(request.param)


@pytest.fixture(scope="module")
def other(server):
    """The server that is not under test, from which it is attacked."""
    return Server(next(name for name in VARIABLES if name != server.name))


@pytest.fixture(autouse=True)
def nothing_armed(server):
    """No test may leave a change that is not confirmed."""
    yield
    assert server.host.check_output("ls -A /etc/commit-confirmed") == ""
    assert server.host.check_output("systemctl list-units --all --no-legend 'commit-confirmed-*'") == ""
