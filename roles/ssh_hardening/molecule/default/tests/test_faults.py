"""Changes that would lock out, or fail: each is rolled back. One server is enough."""

import json

import pytest

pytestmark = pytest.mark.parametrize("server", ["debian13"], indirect=True)
STATE = "find /etc/ssh /etc/systemd/system/ssh.socket.d -type f -exec sha256sum {} + 2>/dev/null | sort"


@pytest.fixture(autouse=True)
def as_before(server):
    before = server.host.run(STATE).stdout
    yield
    assert server.host.run(STATE).stdout == before
    assert server.login("deploy", "sudo", "-n", "true").returncode == 0


def test_an_option_that_sshd_does_not_know_is_refused_before_anything_changes(server):
    inode = server.host.check_output("stat -c %i /etc/ssh/sshd_config.d/00-hardening.conf")
    output = server.converge(ssh_hardening_options={"NoSuchOption": "yes"}, code=2)
    assert "Bad configuration option: NoSuchOption" in output
    assert "ssh_hardening_options" in output
    # a state that was put back would be another file
    assert server.host.check_output("stat -c %i /etc/ssh/sshd_config.d/00-hardening.conf") == inode


@pytest.mark.parametrize(
    "options", [{"DenyUsers": "deploy"}, {"AllowGroups": "nogroup"}], ids=lambda options: next(iter(options))
)
def test_who_would_be_locked_out_is_not(server, options):
    output = server.converge(ssh_hardening_options=options, code=2)
    assert "sshd of debian13 is as it was before" in output
    assert "the login that would have confirmed the change failed" in output
    assert "Permission denied (publickey)" in output


def test_a_port_that_another_process_holds_is_given_up(server, tmp_path):
    # by the server's own address: the port that is published leads to 22 only
    inventory = tmp_path / "address.yml"
    inventory.write_text(
        json.dumps({"all": {"hosts": {server.name: {"ansible_host": server.address, "ansible_port": 22}}}})
    )
    server.host.check_output("systemd-run --quiet --unit=holder python3 -m http.server 2222")
    try:
        output = server.converge("-i", inventory, ssh_hardening_port=2222, code=2)
    finally:
        server.host.check_output("systemctl stop holder")
    assert "sshd of debian13 is as it was before" in output
    assert "port 22" in server.effective()


def test_a_port_that_the_control_node_does_not_reach_is_given_up(server):
    output = server.converge(ssh_hardening_port=2222, code=2)
    assert "sshd of debian13 is as it was before" in output
