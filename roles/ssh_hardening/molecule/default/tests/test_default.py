"""What sshd does now, asked of sshd itself and of new connections to it."""

import re
import subprocess
import time

import pytest

POLICIES = {"debian12": "Hardened Debian 12 (version 3)", "debian13": "Hardened Debian 13 (version 1)"}
# Wrong keys for an account that exists, until the server says something else than that they are wrong.
KNOCK = """
[ -f wrong ] || ssh-keygen -q -t ed25519 -N "" -f wrong
for _ in $(seq "$1"); do
  said=$(%s -i wrong -b "$2" "deploy@$3" true 2>&1)
  case $said in *"Permission denied"*) ;; *) break ;; esac
done
echo "$said"
"""
# What fail2ban would do on a host that had settings and a jail of its own.
THEIRS = """
rm -rf /run/theirs && cp -a /etc/fail2ban /run/theirs
printf '%s\\n' '[DEFAULT]' 'ignoreip = 198.51.100.9' 'banaction = iptables-multiport' \\
    '[selinux-ssh]' 'enabled = true' 'backend = systemd' > /run/theirs/jail.local
fail2ban-client -c /run/theirs -d
"""
QUIET = [
    "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
]  # fmt: skip


def knock(server, other, times, source=None):
    """What other is told in the end."""
    command = KNOCK % " ".join(QUIET)
    return other.host.check_output("sh -c %s - %s %s %s", command, str(times), source or other.address, server.address)


@pytest.fixture
def forgiving(server):
    yield
    server.forgive()


@pytest.fixture
def exempt(server, other):
    """A second address of other's, which is exempt; it is on no network, so that no other container can have it."""
    address = f"203.0.113.{other.name[-2:]}"
    other.host.check_output(f"ip address replace {address}/32 dev lo")
    server.host.check_output(f"ip route replace {address} via {other.address}")
    return address


def test_effective_configuration_is_ours_and_not_the_vendors(server):
    vendor = server.host.file("/etc/ssh/sshd_config.d/50-cloud-init.conf").content_string
    assert "PasswordAuthentication yes" in vendor
    assert "PermitRootLogin yes" in vendor
    effective = server.effective()
    for line in (
        "port 22",
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authenticationmethods publickey",
        "allowusers deploy",
        "maxauthtries 20",
        "x11forwarding no",
        "allowtcpforwarding local",
        "permitopen 127.0.0.1:8888 127.0.0.1:8889",
        "hostkey /etc/ssh/ssh_host_ed25519_key",
        "hostkey /etc/ssh/ssh_host_rsa_key",
    ):
        assert line in effective
    assert len([line for line in effective if line.startswith("hostkey ")]) == 2


def test_operator_logs_in_and_has_sudo(server):
    assert server.login("deploy", "sudo", "-n", "id", "-un").stdout.strip() == "root"


def test_root_is_refused_with_the_key_it_had(server):
    assert server.host.file("/root/.ssh/authorized_keys").content_string.startswith("ssh-ed25519 ")
    assert "Permission denied (publickey)" in server.login("root", "true").stderr


def test_no_password_is_ever_asked(server):
    for method in ("password", "keyboard-interactive"):
        options = ("-o", "PubkeyAuthentication=no", "-o", f"PreferredAuthentications={method}")
        assert "Permission denied (publickey)" in server.login("deploy", "true", options=options).stderr


def test_tunnel_reaches_the_listed_port_only(server):
    # nothing listens on 8888 here: let through by sshd, refused by the kernel
    assert "Connection refused" in server.login("deploy", options=("-W", "127.0.0.1:8888")).stderr
    # a name is not its address: anybody may listen on ::1
    assert "administratively prohibited" in server.login("deploy", options=("-W", "localhost:8888")).stderr
    assert "administratively prohibited" in server.login("deploy", options=("-W", "127.0.0.1:22")).stderr
    remote = server.login("deploy", options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22"))
    assert "remote port forwarding failed" in remote.stderr


def test_host_keys_are_strong(server):
    keys = server.host.check_output("for key in /etc/ssh/ssh_host_*_key; do ssh-keygen -lf $key; done").splitlines()
    assert sorted((line.split()[-1], line.split()[0]) for line in keys) == [("(ED25519)", "256"), ("(RSA)", "4096")]


def test_every_modulus_offered_is_large(server):
    sizes = server.host.check_output("grep -v '^#' /etc/ssh/moduli.filtered | cut -d' ' -f5").split()
    assert sizes
    assert all(int(size) >= 3071 for size in sizes)


def test_ssh_audit_finds_no_failure_and_the_policy_of_the_system_passes(server, forgiving):
    standard = server.audit()
    assert "(kex)" in standard.stdout
    assert "[fail]" not in standard.stdout
    assert standard.returncode in (0, 2), standard.stdout
    policy = server.audit("--policy", POLICIES[server.name])
    assert policy.returncode == 0, policy.stdout


def test_lynis_finds_little_to_say_of_ssh(server):
    server.host.check_output("apt-get install -qy --no-install-recommends lynis")
    server.host.check_output("lynis audit system --no-plugins --tests-from-group ssh --quick --no-colors")
    report = server.host.file("/var/log/lynis-report.dat").content_string
    assert int(re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)[1]) >= 80


def test_an_agent_with_many_keys_gets_in_again_and_again(server, tmp_path):
    agent = f"{tmp_path}/agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "agent").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        keys = [tmp_path / f"key{number}" for number in range(11)]
        for key in keys:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        # the right one comes last
        keys.append(server.variables["cloud_server_local_key"])
        subprocess.run(["ssh-add", "-q", *keys], env={"SSH_AUTH_SOCK": agent}, check=True)
        options = ("-o", f"IdentityAgent={agent}", "-o", "IdentitiesOnly=no")
        for _ in range(4):
            assert server.login("deploy", "true", options=options, key="/dev/null").returncode == 0
    finally:
        process.terminate()
        process.wait()


def test_brute_force_is_refused_and_nobody_else(server, other, exempt, forgiving):
    attacker = other.variables["cloud_server_name"]
    subprocess.run(["docker", "cp", server.variables["cloud_server_local_key"], f"{attacker}:/root/key"], check=True)
    # somebody who is in already, from the address that is then held off
    ssh = ["docker", "exec", "-i", attacker, *QUIET, "-i", "/root/key", f"deploy@{server.address}"]
    with server.session(ssh) as alive:
        refused = knock(server, other, 60)
        if server.bans_by_itself:
            assert re.search("Not allowed at this time|Connection (closed|reset)", refused), refused
        else:
            assert "Connection refused" in refused
            assert other.address in server.host.check_output("nft list set inet f2b-table addr-set-sshd")
        alive("while others are refused")
    assert server.login("deploy", "true").returncode == 0
    assert "Permission denied" in knock(server, other, 20, source=exempt)
    assert "Permission denied" not in knock(server, other, 1)


def test_other_jails_of_the_host_keep_their_own_settings(server):
    if server.bans_by_itself:
        pytest.skip("no fail2ban")
    said = server.host.check_output("sh -c %s", THEIRS)
    assert "['set', 'selinux-ssh', 'addignoreip', '198.51.100.9']" in said
    assert "['set', 'selinux-ssh', 'addaction', 'iptables-multiport']" in said
    assert "['set', 'sshd', 'addignoreip', '127.0.0.0/8', '::1', '203.0.113.0/24']" in said
    assert "['set', 'sshd', 'addaction', 'nftables']" in said


def test_probes_of_the_port_are_no_brute_force(server, other, forgiving):
    if server.bans_by_itself:
        pytest.skip("sshd weighs them itself")

    def count(what):
        return int(re.search(rf"{what}:\s+(\d+)", server.host.check_output("fail2ban-client status sshd"))[1])

    failed = count("Total failed")
    probe = f"for _ in $(seq 30); do exec 3<>/dev/tcp/{server.address}/22; read -r _ <&3; exec 3>&-; done"
    other.host.check_output("bash -c %s", probe)
    # once the wrong key that comes after them is counted, they have all been read
    assert "Permission denied" in knock(server, other, 1)
    deadline = time.monotonic() + 30
    while count("Total failed") == failed and time.monotonic() < deadline:
        time.sleep(0.5)
    assert count("Total failed") == failed + 1
    assert count("Currently banned") == 0


def test_open_sessions_stay_open_over_a_change(server):
    with server.session() as alive:
        server.converge(ssh_hardening_options={"ClientAliveInterval": 200})
        assert "clientaliveinterval 200" in server.effective()
        alive("after the change")
        server.converge()
    assert "clientaliveinterval 300" in server.effective()


def test_sshd_comes_back_after_a_signal_that_ends_it_well(server):
    before = server.host.check_output("systemctl show -P MainPID ssh.service")
    server.host.check_output(f"kill {before}")
    deadline = time.monotonic() + 30
    while server.login("deploy", "true").returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.host.check_output("systemctl show -P MainPID ssh.service") not in ("0", before)
