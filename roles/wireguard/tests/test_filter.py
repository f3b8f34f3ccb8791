"""Tunnels that cannot work are refused, each with what to do."""

import importlib.util
import pathlib
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/wireguard.py"
spec = importlib.util.spec_from_file_location("wireguard", PATH)
assert spec and spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)

ONE = {"address": "10.77.1.2", "endpoint": "2001:db8::1", "port": 51820, "keepalive": 0}
TWO = {"address": "10.77.3.4", "endpoint": "2001:db8::2", "port": 51820, "keepalive": 25}
GOOD: dict[str, Any] = {
    "members": ["one", "two"],
    "host": "one",
    "network": "10.77.0.0/16",
    "played": ["one", "two", "three"],
    "there": {"one": ONE, "two": TWO},
    "networks": ["lo=127.0.0.1/8", "eth0=10.76.0.5/16"],
    "possible": True,
}


def test_good_tunnels_pass_and_a_member_that_failed_before_is_left_out() -> None:
    assert plugin.faults(**GOOD) == []
    assert plugin.faults(**GOOD | {"there": {"one": ONE}}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": "10.77.0.1/16"}, "wireguard_network is '10.77.0.1/16': give a network"),
        ({"network": "2001:db8::/64"}, "wireguard_network is '2001:db8::/64': give a network"),
        ({"network": "10.78.0.0/16", "there": {"one": ONE}},
         "wireguard_address of one is '10.77.1.2': write a free address of 10.78.0.0/16"),
        ({"there": {"one": ONE | {"address": ""}}}, "wireguard_address of one is '': write a free address"),
        ({"there": {"one": ONE, "two": TWO | {"address": "10.77.1.2"}}},
         "one and two have the same address, 10.77.1.2. Set wireguard_address in host_vars of two to a free address"),
        ({"there": {"one": ONE, "two": TWO | {"endpoint": "two.example.org"}}},
         "wireguard_endpoint of two is 'two.example.org': write its public IP address into its host_vars"),
        ({"there": {"one": ONE, "two": TWO | {"endpoint": "203.0.113.2"}}},
         "The members' public addresses are of both kinds: one 2001:db8::1, two 203.0.113.2. Set wireguard_endpoint"),
        ({"there": {"one": ONE | {"keepalive": 25}, "two": TWO}}, "one and two are behind NAT"),
        ({"networks": ["eth1=10.77.9.9/24"]}, "eth1 of one has 10.77.9.9/24, which wireguard_network 10.77.0.0/16 ov"),
        ({"played": ["one"]}, "This run leaves out two, and each member must know all others. Run it without --limit"),
        ({"possible": False}, "The kernel of one has neither WireGuard nor /dev/net/tun. Install Debian's own kernel"),
    ],
)  # fmt: skip
def test_each_fault_is_named(change: dict[str, Any], says: str) -> None:
    (fault,) = plugin.faults(**GOOD | change)
    assert says in fault
