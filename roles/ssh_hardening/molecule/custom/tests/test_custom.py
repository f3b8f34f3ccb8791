"""Nearly every option changed from its default, with sshd started by a socket."""

import subprocess

import pytest


@pytest.fixture(scope="module")
def server(server):
    server.endpoint = (server.address, 2222)
    return server


def test_systemd_listens_on_the_new_port_alone(server):
    assert server.host.check_output("systemctl is-active ssh.socket") == "active"
    listening = server.host.check_output("ss -Hltn").splitlines()
    ports = {line.split()[3].rpartition(":")[2] for line in listening}
    assert "2222" in ports
    assert "22" not in ports


def test_operator_logs_in_by_it_and_root_does_not(server):
    assert server.login("deploy", "sudo", "-n", "id", "-un").stdout.strip() == "root"
    assert "Permission denied (publickey)" in server.login("root", "true").stderr


def test_effective_configuration(server):
    effective = server.effective()
    for line in (
        "port 2222",
        "permitrootlogin no",
        "passwordauthentication no",
        "maxsessions 7",
        "clientaliveinterval 100",
        "loglevel INFO",
        "allowtcpforwarding no",
    ):
        assert line in effective
    assert any(line.startswith("pubkeyacceptedalgorithms ") and "ecdsa-sha2-nistp256" in line for line in effective)
    exchanges = next(line for line in effective if line.startswith("kexalgorithms ")).split()[1]
    assert all(name.startswith(("mlkem768", "sntrup761")) for name in exchanges.split(","))


def test_ssh_audit_has_nothing_to_say(server):
    result = server.audit()
    assert result.returncode == 0, result.stdout


def test_a_tunnel_reaches_nothing(server):
    assert "administratively prohibited" in server.login("deploy", options=("-W", "127.0.0.1:8888")).stderr


def test_nobody_is_held_off(server, tmp_path):
    assert server.host.run("systemctl is-active fail2ban").stdout.strip() != "active"
    if server.bans_by_itself:
        assert "persourcepenalties no" in server.effective()
    wrong = tmp_path / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    for _ in range(15):
        assert "Permission denied" in server.login("deploy", "true", key=wrong).stderr


def test_sessions_outlive_a_change_and_so_does_the_socket(server):
    with server.session():
        server.converge(ssh_hardening_options={"MaxSessions": 9})
    assert "maxsessions 9" in server.effective()
    assert server.host.check_output("systemctl is-active ssh.socket") == "active"


def test_who_would_be_locked_out_is_not(server):
    output = server.converge(ssh_hardening_options={"DenyUsers": "deploy"}, code=2)
    assert f"sshd of {server.name} is as it was before" in output
    assert server.login("deploy", "sudo", "-n", "true").returncode == 0


def test_the_port_is_the_same_after_a_reboot(server):
    subprocess.run(["docker", "restart", server.variables["cloud_server_name"]], check=True, capture_output=True)
    server.host.check_output("timeout 60 sh -c 'until systemctl is-active ssh.socket; do sleep 0.5; done'")
    # the engine may have given it another address
    server.endpoint = (server.host.check_output("hostname -I").split()[0], 2222)
    assert server.login("deploy", "sudo", "-n", "true").returncode == 0
