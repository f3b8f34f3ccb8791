"""What sshd does now, asked of sshd itself and of new connections to it; nothing is read from a file's text."""

import shlex
import subprocess

import pytest


@pytest.fixture
def login(host):
    """Runs ssh from here to the server as a named user, over a connection of its own."""
    variables = host.ansible.get_variables()

    def run(user, *arguments, options=()):
        command = [
            "ssh", *shlex.split(variables["ansible_ssh_common_args"]), "-o", "BatchMode=yes", "-o", "ControlPath=none",
            "-o", "IdentitiesOnly=yes", "-i", variables["ansible_private_key_file"], *options,
            "-p", str(variables["ansible_port"]), f"{user}@{variables['ansible_host']}", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)

    return run


def test_effective_configuration(host):
    with host.sudo():
        effective = host.check_output("sshd -T -C user=deploy,host=localhost,addr=127.0.0.1").splitlines()
    for line in (
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authenticationmethods publickey",
        "allowusers deploy",
        "x11forwarding no",
        "allowtcpforwarding local",
        "permitopen 127.0.0.1:8888 localhost:8888",
    ):
        assert line in effective
    exchanges = next(line for line in effective if line.startswith("kexalgorithms "))
    assert exchanges.split()[1].startswith(("mlkem768x25519-sha256", "sntrup761x25519-sha512"))


def test_operator_logs_in_and_has_sudo(login):
    assert login("deploy", "sudo", "-n", "id", "-un").stdout.strip() == "root"


def test_root_is_refused_with_the_key_it_had(login):
    refused = login("root", "true")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_no_password_is_ever_asked(login):
    refused = login(
        "deploy", "true", options=("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password")
    )
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_tunnel_reaches_the_listed_port_only(login):
    # nothing listens on 8888 here: allowed, then refused by the kernel, which is not what sshd says when it forbids
    assert "administratively prohibited" not in login("deploy", options=("-W", "127.0.0.1:8888")).stderr
    assert "administratively prohibited" in login("deploy", options=("-W", "127.0.0.1:22")).stderr


def test_no_change_is_left_unconfirmed(host):
    with host.sudo():
        assert not host.file("/etc/ssh/sshd_config.d/00-hardening.conf.before").exists
    assert host.run("systemctl list-units --no-legend ssh-hardening-revert.timer").stdout == ""
