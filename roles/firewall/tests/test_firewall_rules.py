"""Unit tests of how the list of rules is read: no server, no container."""

import importlib.util
import pathlib
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/firewall_rules.py"
spec = importlib.util.spec_from_file_location("firewall_rules", PATH)
assert spec and spec.loader
firewall = importlib.util.module_from_spec(spec)
spec.loader.exec_module(firewall)


def test_a_rule_in_full() -> None:
    entry = {
        "port": "60000-60010",
        "protocol": "udp",
        "sources": ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32"],
        "rate_limit": {"per_minute": 30, "burst": 70},
        "comment": "mosh",
    }
    assert firewall.firewall_rules([{"port": "22"}, entry], ["192.0.2.1"]) == {
        "rules": [
            {
                "number": 1,
                "protocol": "tcp",
                "port": "22",
                "label": "tcp 22",
                "sources": {"ip": ["0.0.0.0/0"], "ip6": ["::/0"]},
                "rate_limit": None,
            },
            {
                "number": 2,
                "protocol": "udp",
                "port": "60000-60010",
                "label": "udp 60000-60010, mosh",
                # nft refuses a set whose members overlap
                "sources": {"ip": ["10.0.0.0/8"], "ip6": ["2001:db8::/32"]},
                "rate_limit": {"per_minute": 30, "burst": 70, "forget_minutes": 3},
            },
        ],
        "exempt": {"ip": ["192.0.2.1/32"]},
        "errors": [],
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("22", "entry 2 of firewall_allow: it must be of the form"),
        ({"comment": "no port"}, "entry 2 of firewall_allow: it must be of the form"),
        ({"port": 443, "prot": "tcp"}, "entry 2 of firewall_allow (port 443): there is no prot; known are port, "),
        ({"port": 0}, "port 0 is neither a number from 1 to 65535"),
        ({"port": 65536}, "port 65536 is neither"),
        ({"port": "https"}, "port https is neither"),
        ({"port": "80-70"}, "port 80-70 is neither"),
        ({"port": 443, "protocol": "sctp"}, "protocol is sctp; it can be tcp or udp"),
        ({"port": 443, "sources": "192.0.2.1"}, "sources must be a list"),
        ({"port": 443, "sources": []}, "sources is empty"),
        ({"port": 443, "sources": ["192.0.2.1", "office"]}, "office in sources is not an address or network"),
        ({"port": 443, "sources": ["192.0.2.1/24"]}, "192.0.2.1/24 in sources is not an address or network"),
        ({"port": 443, "comment": 'the "web"'}, "without double quotes"),
        ({"port": 443, "comment": "the\nweb"}, "one line"),
        ({"port": 443, "comment": "ä" * 41}, "80 bytes at most"),
        ({"port": 443, "rate_limit": 30}, "of the form {per_minute: 30, burst: 60}"),
        ({"port": 443, "rate_limit": {"per_minute": 30}}, "of the form {per_minute: 30, burst: 60}"),
        ({"port": 443, "rate_limit": {"per_minute": 0, "burst": 60}}, "per_minute of rate_limit is 0"),
        ({"port": 22}, "entry 1 (tcp 22-25) decides first"),
        ({"port": 23, "sources": ["192.0.2.1"]}, "entry 1 (tcp 22-25) decides first"),
    ],
)
def test_a_fault_is_named(entry: Any, said: str) -> None:
    (error,) = firewall.firewall_rules([{"port": "22-25"}, entry], [])["errors"]
    assert error.startswith("entry 2 of firewall_allow")
    assert said in error


@pytest.mark.parametrize(
    "entry", [{"port": "22-26"}, {"port": 22, "protocol": "udp"}, {"port": 23, "sources": ["192.0.2.0/24", "::1"]}]
)
def test_what_another_rule_decides_only_in_part_stays(entry: Any) -> None:
    assert firewall.firewall_rules([{"port": "22-25", "sources": ["192.0.2.0/24"]}, entry], [])["errors"] == []


def test_lists_that_are_none() -> None:
    errors = firewall.firewall_rules({"port": 22}, "192.0.2.1")["errors"]
    assert errors == [
        "firewall_allow must be a list of rules such as {port: 22, comment: SSH}",
        "firewall_exempt must be a list of addresses and networks",
    ]


@pytest.mark.parametrize(
    ("address", "port", "let_in"),
    [
        ("192.0.2.7", "2222", True),
        ("192.0.2.7", "2226", False),
        ("198.51.100.1", "2222", False),
        ("fe80::1%eth0", "2222", True),
        ("2001:db8::1", "2222", False),
        ("2001:db8::1", "443", True),
        ("2001:db8::1", "53", False),
    ],
)
def test_who_is_let_in(address: str, port: str, let_in: bool) -> None:
    allow = [{"port": "2220-2225", "sources": ["192.0.2.0/24", "fe80::/10"]}, {"port": 443}]
    rules = firewall.firewall_rules([*allow, {"port": 53, "protocol": "udp"}], [])["rules"]
    assert firewall.firewall_lets_in(rules, address, port) is let_in
