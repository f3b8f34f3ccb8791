"""What the options do, and that no list of rules locks out; in the end the firewall is taken away."""

import subprocess

import pytest

FAMILIES = pytest.mark.parametrize("family", ["IPv4", "IPv6"])
LIMITED = "tcp 8443, it's $limited; \\6 #"
UNIT, RULES, UNCONFIRMED = "/etc/systemd/system/firewall.service", "/etc/firewall.nft", "/etc/commit-confirmed/firewall"
DROP_INS = "/etc/systemd/system/nftables.service.d"


@FAMILIES
def test_only_the_listed_ports_answer(server, other, family):
    assert other.probe(server.address("home", family), 22, 8443, 9443, 5000) == [
        "dropped",
        "open",
        "dropped",
        "dropped",
    ]


@FAMILIES
def test_flood_is_held_back(server, other, family):
    """An attacker's whole /64 is one source; open connections continue."""
    sources = [other.address("home", family)]
    if family == "IPv6":
        sources = [f"{sources[0]}:{number}" for number in range(30)]
        other.host.check_output(f"for a in {' '.join(sources)}; do ip address replace $a/64 dev eth0 nodad; done")
    before = server.counters()[f"dropped, over the limit: {LIMITED}"]
    flood = other.flood(server.address("home", family), 8443, *sources)
    assert 0 < flood["connected"] <= 26
    assert flood["said"] == "echo"
    assert server.counters()[f"dropped, over the limit: {LIMITED}"] >= before + 270


@FAMILIES
def test_exempt_sources_are_not_held_back(server, other, family):
    assert other.flood(server.address("away", family), 8443) == {"connected": 300, "said": "echo"}


@FAMILIES
def test_limit_of_udp(server, other, family):
    seen = [other.probe(server.address("home", family), "udp-60000") for _ in range(5)]
    assert seen[0] == ["open"]
    assert ["dropped"] in seen


@FAMILIES
def test_everything_is_forwarded(server, other, family):
    assert other.probe(server.address("home", family), 8080, 8081) == ["open", "open"]
    other.host.check_output("ip route replace %s via %s", server.container(1, family), server.address("home", family))
    assert other.probe(server.container(1, family), 80) == ["open"]


def test_nothing_is_logged(server):
    assert "log prefix" not in server.rules()


def test_status_prints_the_counters(server):
    name = f"dropped, over the limit: {LIMITED}"
    before = server.counters()[name]
    shown = server.ansible(playbook="status.yml")
    assert shown.returncode == 0, shown.stdout
    row = next(line for line in shown.stdout.splitlines() if name in line)
    # what a flood began is still sent again, and dropped again
    assert 0 < before <= int(row.split()[0]) <= server.counters()[name]


def test_sessions_stay_open_while_the_rules_change(server):
    with subprocess.Popen(
        [*server.login, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as session:
        before = server.rules()
        changed = server.ansible(firewall_log_per_minute=1)
        assert changed.returncode == 0, changed.stdout
        assert server.rules() != before
        session.stdin.write("still here\n")
        assert session.stdout.readline() == "still here\n"
        session.stdin.close()


def test_faults_are_named_before_anything_changes(server):
    before = server.rules()
    refused = server.ansible(firewall_allow=[{"port": 22}, {"port": 70000}], firewall_exempt=["192.0.2.1/24"])
    assert "entry 2 of firewall_allow (port 70000): port 70000 is neither" in refused.stdout
    assert "192.0.2.1/24 in firewall_exempt is not an address or network" in refused.stdout
    locked = server.ansible(firewall_allow=[{"port": 22, "sources": ["203.0.113.0/24"]}])
    assert "in at tcp port 22, by which this connection came: it would lock you out" in " ".join(locked.stdout.split())
    assert server.rules() == before


def test_rules_that_no_login_confirms_are_taken_back(server):
    before = server.rules()
    refused = server.ansible(firewall_log_per_minute=5, commit_confirmed_port=1)
    assert "is as it was before" in refused.stdout, refused.stdout
    assert server.rules() == before
    assert not server.host.file(UNCONFIRMED).exists


def test_absent_takes_all_of_it_away(server, other):
    theirs = server.host.check_output("nft --handle list table inet docker")
    assert "changed=1 " in server.ansible("--check", firewall_state="absent").stdout
    assert server.host.service("firewall").is_running
    assert server.ansible(firewall_state="absent").returncode == 0
    assert other.probe(server.address("home", "IPv4"), 5000) == ["open"]
    assert server.host.run("nft list table inet firewall").rc != 0
    assert server.host.check_output("nft --handle list table inet docker") == theirs
    assert not any(server.host.file(path).exists for path in (UNIT, DROP_INS, RULES, UNCONFIRMED))
    assert server.host.run("systemctl cat firewall").rc != 0
    assert "changed=0 " in server.ansible(firewall_state="absent").stdout
    assert "no firewall is in force" in server.ansible(playbook="status.yml").stdout


def test_rules_that_shut_out_leave_a_server_without_rules_as_it_was(server, other):
    # the way in is not asked for, so that the rules get as far as the kernel
    shut_out = {"firewall_allow": [{"port": 9999}], "__firewall_connection": {"stdout": ""}}
    refused = server.ansible(**shut_out)
    assert "the login that would have confirmed the change failed" in refused.stdout
    assert "is as it was before" in refused.stdout, refused.stdout
    assert other.probe(server.address("home", "IPv4"), 5000) == ["open"]
    assert server.host.run("nft list table inet firewall").rc != 0
    assert not any(server.host.file(path).exists for path in (RULES, UNCONFIRMED))


def test_another_packet_filter_is_refused_before_anything_changes(server):
    server.host.check_output(
        "apt-get install -qy --no-install-recommends ufw && ufw allow 22/tcp && ufw --force enable"
    )
    refused = server.ansible()
    assert "- ufw (it is enabled)" in refused.stdout, refused.stdout
    assert "put firewall_foreign: replace" in refused.stdout
    assert "changed=0 " in refused.stdout


def test_its_place_is_taken_only_when_a_login_confirms(server, other):
    refused = server.ansible(firewall_foreign="replace", commit_confirmed_port=1)
    assert "is as it was before" in refused.stdout, refused.stdout
    assert "Status: active" in server.host.check_output("ufw status")
    # where this firewall would let it in
    assert other.probe(server.address("away", "IPv4"), 8443) == ["dropped"]
    assert server.host.run("nft list table inet firewall").rc != 0


def test_its_place_is_taken(server, other):
    changed = server.ansible(firewall_foreign="replace")
    assert changed.returncode == 0, changed.stdout
    assert "ufw enable" in changed.stdout
    assert "Status: inactive" in server.host.check_output("ufw status")
    assert other.probe(server.address("away", "IPv4"), 8443, 5000) == ["open", "dropped"]
