"""What another machine reaches: each server is probed from the other, on both address families."""

import json
import os

import pytest
import testinfra

INVENTORY = os.path.join(os.path.dirname(__file__), "../../../../../molecule/hosts.py")
OTHER = {"debian12": "debian13", "debian13": "debian12"}
# one listener a rule of converge.yml, one that nobody may reach; a range of UDP ports is asked of the kernel below
PORTS = (8443, 9443, 8888)
LISTEN = """
import socket, threading, time
for port in %s:
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=lambda s=s: [s.accept() for _ in iter(int, 1)], daemon=True).start()
print("ready", flush=True)
time.sleep(120)
"""
CONNECT = """
import json, socket, sys
address, ports = sys.argv[1], [int(p) for p in sys.argv[2:]]
seen = {}
for port in ports:
    try:
        socket.create_connection((address, port), 2).close()
        seen[port] = "open"
    except ConnectionRefusedError:
        seen[port] = "refused"
    except OSError:
        seen[port] = "dropped"
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def listeners(host):
    """Listens on every probed port of the server, with IPv6 on; yields its addresses by family."""
    host.check_output("mount -o remount,rw /proc/sys")
    host.check_output("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
    host.check_output(f"systemd-run --collect --unit=listeners python3 -c '{LISTEN % (PORTS,)}'")
    host.run("for i in $(seq 50); do ss -Hltn sport = :8888 | grep -q . && break; sleep 0.1; done")
    addresses = json.loads(host.check_output("ip -json address show dev eth0"))[0]["addr_info"]
    yield {
        "IPv4": next(a["local"] for a in addresses if a["family"] == "inet"),
        "IPv6": next(a["local"] + "%eth0" for a in addresses if a["family"] == "inet6"),
    }
    host.run("systemctl stop listeners")


@pytest.fixture(scope="module")
def other(host):
    name = OTHER[host.ansible.get_variables()["inventory_hostname"]]
    other = testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}")
    other.check_output("mount -o remount,rw /proc/sys && sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
    return other


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_only_the_listed_ports_answer(host, other, listeners, family):
    # the server itself reaches all three: what the other machine does not see is the firewall's doing
    assert set(json.loads(host.check_output("python3 -c %s 127.0.0.1 8443 9443 8888", CONNECT)).values()) == {"open"}
    seen = json.loads(other.check_output("python3 -c %s %s 22 8443 9443 8888 5000", CONNECT, listeners[family]))
    assert seen == {"22": "open", "8443": "open", "9443": "dropped", "8888": "dropped", "5000": "dropped"}


def test_rules_in_the_kernel(host):
    ruleset = json.loads(host.check_output("nft -j list table inet firewall"))["nftables"]
    chain = next(item["chain"] for item in ruleset if "chain" in item)
    assert (chain["hook"], chain["policy"]) == ("input", "drop")
    assert "udp dport 60000-60010" in host.check_output("nft list table inet firewall")


def test_a_table_of_somebody_else_stays(host):
    host.check_output("nft add table inet somebody_else")
    host.check_output("systemctl reload firewall")
    assert host.run("nft list table inet somebody_else").rc == 0
    host.check_output("systemctl restart firewall")
    assert host.run("nft list table inet somebody_else").rc == 0
    assert host.run("nft list table inet firewall").rc == 0
    host.check_output("nft delete table inet somebody_else")


def test_loaded_at_boot_and_nothing_unconfirmed(host):
    assert host.service("firewall").is_enabled
    assert host.service("firewall").is_running
    assert not host.file("/etc/nftables.d/firewall.nft.before").exists
    assert host.run("systemctl list-units --no-legend firewall-revert.timer").stdout == ""
