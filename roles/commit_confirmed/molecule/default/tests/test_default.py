"""A change stays when it is confirmed and goes when it is not, whatever it is that keeps it from being confirmed."""

import json
import os
import pathlib
import shlex
import subprocess
import time

import pytest
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[5]
INVENTORY = ROOT / "molecule/hosts.py"
VARIABLES = json.loads(subprocess.check_output([INVENTORY]))["_meta"]["hostvars"]
STATE = (
    "stat -c '%n %U %G %a' /etc/example.conf /etc/example.d/* && cat /etc/example.conf /etc/example.d/* /run/example"
)
CHANGE = "echo changed > /etc/example.conf && touch /etc/example.d/added && rm /etc/example.d/there"


class Server:
    def __init__(self, name):
        self.name = name
        self.variables = VARIABLES[name]
        # as root and not over SSH, which a test cuts off
        self.host = testinfra.get_host(f"docker://{self.variables['cloud_server_name']}")

    def converge(self, code=0, **variables):
        """Runs the scenario's play with other variables, asserts how it ends, and returns what it said on one line."""
        result = subprocess.run(
            ["ansible-playbook", pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml"),
             "-i", INVENTORY, "--limit", self.name, "-e", json.dumps(variables)],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        assert result.returncode == code, result.stdout + result.stderr
        return " ".join((result.stdout + result.stderr).split())

    def login(self):
        return subprocess.run(
            ["ssh", *shlex.split(self.variables["ansible_ssh_common_args"]), "-o", "BatchMode=yes",
             "-o", "ControlPath=none", "-o", "ConnectTimeout=5", "-i", self.variables["cloud_server_local_key"],
             "-p", str(self.variables["ansible_port"]), f"root@{self.variables['ansible_host']}", "true"],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def arm(self, seconds, *paths):
        reload = "cat /etc/example.conf > /run/example"
        self.host.check_output(f"commit-confirmed arm example {seconds} '{reload}' {' '.join(paths)}")

    def armed(self):
        timers = self.host.check_output("systemctl list-units --all --no-legend 'commit-confirmed-*'")
        return self.host.check_output("ls /etc/commit-confirmed") + timers


def until(condition):
    for _ in range(120):
        if condition():
            return
        time.sleep(0.5)
    pytest.fail("this did not come about within a minute")


@pytest.fixture(params=sorted(VARIABLES), scope="module")
def server(request):
    server = Server(request.param)
    server.host.check_output("mkdir -p /etc/example.d")
    server.host.check_output("install -m 0600 -o nobody -g nogroup /etc/hostname /etc/example.d/there")
    return server


@pytest.fixture
def as_before(server):
    before = server.host.check_output(STATE)
    yield
    assert server.host.check_output(STATE) == before
    assert server.armed() == ""


def test_a_confirmed_change_stays(server):
    assert server.host.file("/etc/example.conf").content_string == "first"
    server.converge(example_text="second")
    assert server.host.file("/etc/example.conf").content_string == "second"
    assert server.host.file("/run/example").content_string == "second"
    assert "changed=0" in server.converge(example_text="second")
    assert server.armed() == ""


def test_a_change_that_fails_is_taken_back_and_the_failure_told(server, as_before):
    output = server.converge(example_text="third", example_fails=True, code=2)
    assert f"example of {server.name} is as it was before. What failed: Fail where a test wants it" in output
    assert "cannot access '/nowhere'" in output


def test_a_change_is_taken_back_when_the_login_fails(server, as_before):
    output = server.converge(example_text="third", commit_confirmed_user="nobody", code=2)
    assert f"example of {server.name} is as it was before" in output
    assert "the login that would have confirmed the change failed: nobody@127.0.0.1" in output
    assert "Permission denied" in output


def test_a_change_that_nobody_confirms_comes_back_by_itself(server, as_before):
    server.arm(3, "/etc/example.conf", "/etc/example.d")
    server.host.check_output(f"{CHANGE}; echo changed > /run/example")
    until(lambda: server.armed() == "")


def test_a_second_change_waits_for_the_first(server, as_before):
    server.arm(600, "/etc/example.conf", "/etc/example.d")
    refused = server.host.run("commit-confirmed arm example 600 true /etc/example.conf")
    assert refused.rc == 1
    assert (
        "another run is changing /etc/example.conf (example); "
        "wait until it has ended, or: commit-confirmed revert example" in refused.stderr
    )
    server.host.check_output(CHANGE)
    server.host.check_output("commit-confirmed revert example")


def test_what_an_interrupted_run_left_is_taken_back_by_the_next(server, as_before):
    server.arm(20, "/etc/example.conf", "/etc/example.d")
    server.host.check_output(CHANGE)
    assert "skipping" not in server.converge(example_text="second").split("Wait for another run")[1].split("TASK")[0]


def test_a_full_disk_keeps_the_change_from_beginning(server, as_before):
    server.host.check_output("mount -t tmpfs -o size=64k tmpfs /etc/commit-confirmed")
    try:
        output = server.converge(example_text="third", commit_confirmed_paths=["/etc/example.conf", "/etc/ssh"], code=2)
        assert "No space left on device" in output
        assert server.armed() == ""
    finally:
        server.host.check_output("umount /etc/commit-confirmed")


def test_a_reboot_puts_back_what_was_not_confirmed_before_sshd_starts(server, as_before):
    server.arm(
        600, "/etc/example.conf", "/etc/example.d", "/etc/ssh/sshd_config.d", "/etc/systemd/system/ssh.service.d"
    )
    server.host.check_output(CHANGE)
    # either would keep sshd from answering where the server is reached
    server.host.check_output("echo Port 2222 > /etc/ssh/sshd_config.d/00-first.conf")
    server.host.check_output("mkdir /etc/systemd/system/ssh.service.d")
    server.host.check_output("printf '[Service]\nExecStartPre=false\n' > /etc/systemd/system/ssh.service.d/broken.conf")
    subprocess.run(["docker", "restart", server.variables["cloud_server_name"]], check=True, capture_output=True)
    until(lambda: server.login().returncode == 0)
    assert not server.host.file("/etc/ssh/sshd_config.d/00-first.conf").exists
    assert not server.host.file("/etc/systemd/system/ssh.service.d").exists
    assert server.host.check_output("systemctl show --value -p Result commit-confirmed.service") == "success"
    # nothing is reloaded at boot: the services have not started yet
    assert not server.host.file("/run/example").exists
    server.host.check_output("cat /etc/example.conf > /run/example")
