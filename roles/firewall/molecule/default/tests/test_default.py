"""What another machine reaches, on both address families, and what the rules leave alone."""

import re
import shlex
import subprocess

import pytest

FAMILIES = pytest.mark.parametrize("family", ["IPv4", "IPv6"])
# as fail2ban's action nftables makes it
FAIL2BAN = """
table inet f2b-table {
    set addr-set-sshd { type ipv4_addr; elements = { %s }; }
    chain f2b-chain {
        type filter hook input priority filter - 1
        tcp dport 22 ip saddr @addr-set-sshd reject
    }
}
"""
# Connections one after the other, a hundredth of a second each, until there is something to read, or for a minute.
KNOCK = """
import select, socket, sys, time
print("knocking", flush=True)
end, tried, let_in = time.monotonic() + 60, 0, 0
while time.monotonic() < end and not select.select([sys.stdin], [], [], 0)[0]:
    with socket.socket() as s:
        s.settimeout(0.01)
        tried += 1
        let_in += s.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0
print(tried, let_in)
"""


@FAMILIES
def test_only_the_listed_ports_answer(server, other, family):
    # the server itself reaches them all: what the other machine does not see is the firewall's doing
    loopback = {"IPv4": "127.0.0.1", "IPv6": "::1"}[family]
    ports = (22, 8443, 9443, 5000, "udp-60000", "udp-60011")
    assert server.probe(loopback, *ports) == ["open"] * 6
    before = server.counters()
    assert other.probe(server.address("home", family), *ports) == ["open", "open", "open", "dropped", "open", "dropped"]
    after = server.counters()
    for rule in ("tcp 22, SSH", "tcp 8443, everyone", "tcp 9443, the network at home", "udp 60000-60010"):
        assert after[f"accepted: {rule}"] > before[f"accepted: {rule}"]
    assert after["dropped, not allowed"] >= before["dropped, not allowed"] + 2


def test_drops_are_logged_at_a_limited_rate(server):
    # the kernel's log is not to be seen from inside a container
    assert re.search(r'limit rate 6/minute .*log prefix "firewall drop: "\n\s+drop', server.rules())


@FAMILIES
def test_sources_of_a_rule(server, other, family):
    assert other.probe(server.address("away", family), 8443, 9443) == ["open", "dropped"]


@FAMILIES
def test_what_the_server_begins_and_echo(server, other, family):
    assert server.probe(other.address("home", family), 22, "udp-60000", "echo") == ["open"] * 3


@FAMILIES
def test_containers(server, other, family):
    # a published port is subject to the same list, with its sources
    assert other.probe(server.address("home", family), 8080, 8081) == ["open", "dropped"]
    assert other.probe(server.address("away", family), 8080) == ["dropped"]
    # a container's own address, which a neighbour may route to
    other.host.check_output("ip route replace %s via %s", server.container(1, family), server.address("home", family))
    assert other.probe(server.container(1, family), 80) == ["dropped"]
    # what containers begin: outside, and among each other
    assert server.probe(other.address("home", family), 22, inside="ip netns exec c1") == ["open"]
    assert server.probe(server.container(2, family), 80, inside="ip netns exec c1") == ["open"]


def test_tables_of_others_stay_and_work(server, other):
    server.host.check_output("echo %s | nft -f -", FAIL2BAN % other.address("away", "IPv4"))
    theirs = [server.host.check_output(f"nft --handle list table inet {table}") for table in ("docker", "f2b-table")]
    for verb in ("reload", "restart"):
        server.host.check_output(f"systemctl {verb} firewall")
        assert [
            server.host.check_output(f"nft --handle list table inet {table}") for table in ("docker", "f2b-table")
        ] == theirs
        assert other.probe(server.address("away", "IPv4"), 22) == ["refused"]
        assert other.probe(server.address("home", "IPv4"), 22, 5000) == ["open", "dropped"]


def test_check_shows_the_rules_and_changes_nothing(server):
    before = server.rules("--handle")
    shown = server.ansible("--check", "--diff", firewall_allow=[{"port": 22}, {"port": 1234}])
    assert shown.returncode == 0, shown.stdout
    assert "+        meta l4proto tcp ct original proto-dst 1234" in shown.stdout
    assert server.rules("--handle") == before
    assert not server.host.file("/etc/commit-confirmed/firewall").exists
    assert "commit-confirmed-firewall" not in server.host.check_output("systemctl list-units --all")


def test_flood_is_held_back(server, other):
    # below the limit, sshd decides: by default it refuses connections at random while ten wait;
    # restarted, because after a reload it listens only when systemctl has returned
    server.host.check_output("echo PerSourceMaxStartups 5 > /etc/ssh/sshd_config.d/flood.conf && systemctl restart ssh")
    limited = "dropped, over the limit: tcp 22, SSH"
    before = server.counters()[limited]
    flood = other.flood(server.address("home", "IPv4"), 22)
    # 60 at once and 30 a minute, of which the tests before have used some
    assert 0 < flood["connected"] <= 90
    assert server.counters()[limited] >= before + 200
    assert other.probe(server.address("home", "IPv4"), 8443) == ["open"]


def test_twenty_logins_of_the_operator_go_on_meanwhile(server):
    for _ in range(20):
        login = subprocess.run([*server.login, "true"], capture_output=True, text=True)
        assert login.returncode == 0, login.stderr


def test_nftables_own_unit_does_not_leave_the_server_open_for_a_moment(server, other):
    address = server.address("home", "IPv4")
    with subprocess.Popen(
        [*other.login, shlex.join(["python3", "-c", KNOCK, address, "5000"])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as knocking:  # fmt: skip
        assert knocking.stdout.readline() == "knocking\n"
        for verb in ("start", "reload", "restart", "restart", "stop"):
            server.host.check_output(f"echo %s | nft -f - && systemctl {verb} nftables", FAIL2BAN % "192.0.2.1")
            # the others' tables are flushed, as Debian has it
            assert server.host.run("nft list table inet f2b-table").rc != 0
        tried, let_in = map(int, knocking.communicate("enough")[0].split())
    assert tried > 20
    assert let_in == 0
    assert other.probe(address, 8443, 5000) == ["open", "dropped"]


def test_back_after_a_reboot_and_nothing_unconfirmed(server, other):
    server.reboot()
    server.listen(5000, 8443)
    for family in ("IPv4", "IPv6"):
        assert other.probe(server.address("home", family), 22, 8443, 5000) == ["open", "open", "dropped"]
    assert server.host.service("firewall").is_enabled
    assert not server.host.file("/etc/commit-confirmed/firewall").exists
