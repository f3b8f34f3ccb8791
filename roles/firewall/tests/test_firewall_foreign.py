"""Unit tests of the probe's reader, for servers with another packet filter or forwarding."""

import importlib.util
import json
import pathlib
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/firewall_foreign.py"
spec = importlib.util.spec_from_file_location("firewall_foreign", PATH)
assert spec and spec.loader
foreign = importlib.util.module_from_spec(spec)
spec.loader.exec_module(foreign)

OURS = {"chain": {"family": "inet", "table": "firewall", "name": "input", "hook": "input", "policy": "drop"}}
# as the image of Oracle has it, printed by iptables-save
ORACLE = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""
# as Docker has it, and fail2ban with its action iptables
DOCKER = """
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.3:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A FORWARD -j DOCKER-USER
-A f2b-sshd -s 192.0.2.7/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
"""


def l4(right: Any, op: str = "==") -> dict[str, Any]:
    """A match of the protocol, as nft --json prints it."""
    return {"match": {"op": op, "left": {"meta": {"key": "l4proto"}}, "right": right}}


L4 = l4("tcp")
SOURCE = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@banned"}}
LINK = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth1"}}
INVALID = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
RECENT = {"xt": {"type": "match", "name": "recent"}}
FLOOD = {"limit": {"rate": 100, "per": "second", "inv": True}}
COUNT = {"counter": {"packets": 0, "bytes": 0}}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


def probe(*nft: dict[str, Any], **parts: str) -> str:
    """What files/probe.sh prints."""
    sections = {
        "nft": json.dumps({"nftables": [OURS, *nft]}),
        **{name.replace("_", "-"): text for name, text in parts.items()},
    }
    return "".join(f"\n== {name}\n{text}" for name, text in sections.items())


def chain(table: str, name: str, hook: str = "", policy: str = "accept", family: str = "inet") -> dict[str, Any]:
    about = {"family": family, "table": table, "name": name}
    return {"chain": about | ({"hook": hook, "policy": policy} if hook else {})}


def rule(table: str, name: str, *expr: dict[str, Any], family: str = "inet") -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": name, "expr": list(expr)}}


def names(*arguments: Any, **parts: str) -> list[str]:
    return [found["name"] for found in foreign.firewall_foreign(probe(*arguments, **parts))["filters"]]


def test_a_bare_server_has_none() -> None:
    assert foreign.firewall_foreign("") == {"filters": [], "live": [], "cut": [], "loaded": False}
    assert names() == []


@pytest.mark.parametrize("manager", ["ufw", "firewalld"])
def test_an_enabled_manager_is_found_though_it_has_not_started_yet(manager: str) -> None:
    (found,) = foreign.firewall_foreign(probe(managers=manager))["filters"]
    assert (found["name"], found["known"]) == (manager, True)


def test_the_tables_of_a_manager_are_its_own() -> None:
    ufw = chain("filter", "INPUT", "input", "drop", "ip")
    assert names(ufw, managers="ufw") == ["ufw"]
    firewalld = [chain("firewalld", "filter_INPUT", "input"), rule("firewalld", "filter_INPUT", REJECT)]
    assert names(*firewalld, managers="firewalld\nfirewalld") == ["firewalld"]
    found = foreign.firewall_foreign(probe(ufw, *firewalld, managers="firewalld"))
    assert [(each["name"], each["known"]) for each in found["filters"]] == [
        ("firewalld", True),
        ("table ip filter", False),
    ]
    assert found["live"] == ["table ip filter", "table inet firewalld"]


def test_iptables_persistent_is_found_in_force_and_at_the_next_boot() -> None:
    assert names(ip_save=ORACLE, kept_ip=ORACLE) == ["iptables-persistent"]
    assert names(kept_ip6=ORACLE) == ["iptables-persistent"]
    accepting = ORACLE.replace("-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", "")
    assert names(ip_save=accepting, kept_ip=accepting) == []


@pytest.mark.parametrize("end", ["-i eth1 -j DROP", "-p icmp -j DROP", "-i eth1 -m comment --comment x -j REJECT"])
def test_an_iptables_rule_for_a_link_or_another_protocol_is_left_alone(end: str) -> None:
    assert names(ip_save=ORACLE.replace("-j REJECT --reject-with icmp-host-prohibited", end)) == []


def test_rules_of_nobody_known_are_not_taken_over() -> None:
    for parts, name in (
        ({"ip_save": ORACLE}, "table ip filter"),
        ({"ip6_save": ORACLE.replace("INPUT ACCEPT", "INPUT DROP")}, "table ip6 filter"),
        ({"legacy_save": ORACLE}, "iptables-legacy"),
    ):
        (found,) = foreign.firewall_foreign(probe(**parts))["filters"]
        assert (found["name"], found["known"]) == (name, False)


@pytest.mark.parametrize(
    "ruleset",
    [
        [chain("mine", "in", "input", "drop")],
        [chain("mine", "in", "prerouting", "drop")],
        [chain("mine", "in", "input"), rule("mine", "in", COUNT, {"drop": None})],
        [chain("mine", "in", "input"), rule("mine", "in", L4, REJECT)],
        [chain("mine", "in", "input"), rule("mine", "in", l4({"set": ["tcp", "udp"]}), REJECT)],
        [chain("mine", "in", "input"), rule("mine", "in", l4("icmp", "!="), {"drop": None})],
        [chain("mine", "in", "input"), rule("mine", "in", L4, {"jump": {"target": "last"}}), chain("mine", "last"),
         rule("mine", "last", {"drop": None})],
        [chain("mine", "in", "input"), rule("mine", "in", COUNT, {"xt": {"type": "target", "name": "REJECT"}})],
        [chain("mine", "in", "input"), rule("mine", "in", {"goto": {"target": "last"}}), chain("mine", "last"),
         rule("mine", "last", {"drop": None})],
    ],
)  # fmt: skip
def test_a_table_that_drops_what_it_does_not_list_is_found(ruleset: list[dict[str, Any]]) -> None:
    assert names(*ruleset) == ["table inet mine"]


@pytest.mark.parametrize(
    "ruleset",
    [
        # fail2ban's and CrowdSec's
        [chain("f2b-table", "f2b-chain", "input"), rule("f2b-table", "f2b-chain", L4, SOURCE, REJECT)],
        [chain("f2b-table", "in", "input"), rule("f2b-table", "in", SOURCE, {"jump": {"target": "ban"}}),
         chain("f2b-table", "ban"), rule("f2b-table", "ban", {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", INVALID, {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", RECENT, {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", FLOOD, {"drop": None})],
        # other protocols than SSH's and the services'
        [chain("theirs", "in", "input"), rule("theirs", "in", l4("icmp"), {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", l4({"set": ["icmp", "ipv6-icmp"]}), {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", l4("tcp", "!="), {"drop": None})],
        [chain("theirs", "in", "input"), rule("theirs", "in", l4("udp"), {"jump": {"target": "last"}}),
         chain("theirs", "last"), rule("theirs", "last", {"drop": None})],
        # one link
        [chain("theirs", "in", "input"), rule("theirs", "in", LINK, {"drop": None})],
        # not on the way in
        [chain("docker", "forward", "forward", "drop"), chain("docker", "out", "output", "drop")],
        [chain("filter", "unused"), rule("filter", "unused", {"drop": None})],
        # a loop
        [chain("t", "a", "input"), rule("t", "a", {"goto": {"target": "b"}}),
         rule("t", "b", {"goto": {"target": "a"}})],
    ],
)  # fmt: skip
def test_what_drops_some_packets_is_left_alone(ruleset: list[dict[str, Any]]) -> None:
    assert names(*ruleset) == []


def test_docker_and_fail2ban_are_no_filters_of_their_own() -> None:
    assert names(ip_save=DOCKER) == []


def test_published_ports_that_would_close_are_named() -> None:
    cut = foreign.firewall_foreign(probe(ip_save=DOCKER), [{"protocol": "tcp", "port": "22"}])["cut"]
    assert cut == ["tcp port 8080 (published by a container)"]
    assert not foreign.firewall_foreign(probe(ip_save=DOCKER), [{"protocol": "tcp", "port": "8000-8100"}])["cut"]
    assert foreign.firewall_foreign(probe(ip_save=DOCKER), [{"protocol": "udp", "port": "8080"}])["cut"] == cut


def test_networks_that_would_be_cut_are_named() -> None:
    links: list[dict[str, Any]] = [
        {"ifname": "lo", "flags": ["UP"]},
        {"ifname": "docker0", "flags": ["UP"], "linkinfo": {"info_kind": "bridge"}},
        {"ifname": "tap0", "flags": ["UP"], "linkinfo": {"info_kind": "tun"}, "master": "br0"},
        {"ifname": "tunl0", "flags": ["NOARP"], "linkinfo": {"info_kind": "ipip"}},
        {"ifname": "tailscale0", "flags": ["UP"], "linkinfo": {"info_kind": "tun"}},
        {"ifname": "wg0", "flags": ["UP"], "linkinfo": {"info_kind": "wireguard"}},
        {"ifname": "flannel.1", "flags": ["UP"], "linkinfo": {"info_kind": "vxlan"}},
    ]
    found = foreign.firewall_foreign(probe(links=json.dumps(links), forwarding="0\n1"))["cut"]
    assert found == ["tailscale0 (tun)", "wg0 (wireguard)", "flannel.1 (vxlan)"]
    # a client of a VPN forwards nothing
    assert foreign.firewall_foreign(probe(links=json.dumps(links), forwarding="0\n0"))["cut"] == []


def test_our_forward_chain_in_force_is_seen() -> None:
    counter = {"counter": {"family": "inet", "name": "not_forwarded", "table": "firewall", "packets": 0}}
    assert foreign.firewall_foreign(probe(counter))["loaded"]


def test_the_commands_that_remove_a_filter_name_it() -> None:
    tasks = yaml.safe_load(PATH.parents[1].joinpath("tasks/foreign.yml").read_text())
    (removals,) = [
        task["vars"]["__firewall_removals"] for task in tasks if "__firewall_removals" in task.get("vars", {})
    ]
    templar = Templar(DataLoader(), {"__firewall_strange": [{"name": "table ip filter"}, {"name": "iptables-legacy"}]})
    first, second = templar.template(trust_as_template(removals))
    assert first == "sudo nft delete table ip filter"
    assert second.startswith("sudo iptables-legacy -P INPUT ACCEPT")
