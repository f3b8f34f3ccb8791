"""Two servers on networks of their own, each probed from the other; what the scenarios' tests share."""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import subprocess
import time

import pytest
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "molecule/hosts.py"
OTHER = {"debian12": "debian13", "debian13": "debian12"}
# Whoever is asked at an address of one of these networks sees the asker's address on the same network. Addresses end
# like the one that Docker gave: the containers of other tests are on the same bridge.
NETWORKS = {
    "home": {"IPv4": "198.18.{}.{}", "IPv6": "2001:db8:1::{}:{}"},
    "away": {"IPv4": "198.19.{}.{}", "IPv6": "2001:db8:2::{}:{}"},
}
# Echoes on every TCP and UDP port named.
LISTEN = """
import socket, socketserver, sys, threading
class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(99): self.request.sendall(data)
class Udp(socketserver.BaseRequestHandler):
    def handle(self): self.request[1].sendto(self.request[0], self.client_address)
socketserver.TCPServer.request_queue_size = 500
for base, handler in ((socketserver.ThreadingTCPServer, Tcp), (socketserver.ThreadingUDPServer, Udp)):
    base.address_family = socket.AF_INET6
    for port in map(int, sys.argv[1:]):
        threading.Thread(target=base(("::", port), handler).serve_forever).start()
"""
PROBE = """
import concurrent.futures, json, socket, sys
def tcp(port):
    try:
        socket.create_connection((sys.argv[1], int(port)), 3).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "dropped"
def udp(port):
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(b"echo", (sys.argv[1], int(port)))
        try:
            return "open" if s.recv(99) == b"echo" else "garbled"
        except TimeoutError:
            return "dropped"
def echo():
    family, protocol, request, answer = (10, 58, 128, 129) if ":" in sys.argv[1] else (2, 1, 8, 0)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as s:
        s.settimeout(3)
        s.sendto(bytes([request]) + bytes(7), (sys.argv[1], 0))
        try:
            return "open" if s.recv(99)[0] == answer else "garbled"
        except TimeoutError:
            return "dropped"
def probe(name):
    return echo() if name == "echo" else udp(name[4:]) if name.startswith("udp-") else tcp(name)
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(json.dumps(dict(zip(sys.argv[2:], pool.map(probe, sys.argv[2:])))))
"""
# 300 connections at once, from one source or from several in turn; a word through the first; they stay for a minute.
FLOOD = """
import json, os, select, socket, sys, time
address, port, *sources = sys.argv[1:]
connected, poll, sockets = 0, select.poll(), {}
for number in range(300):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setblocking(False)
    if sources: s.bind((sources[number % len(sources)], 0))
    s.connect_ex((address, int(port)))
    sockets[s.fileno()] = s
    poll.register(s, select.POLLOUT)
first = None
while ready := poll.poll(3000):
    for fd, _ in ready:
        poll.unregister(fd)
        if sockets[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            connected += 1
            first = first or sockets[fd]
first.setblocking(True)
first.settimeout(30)
first.sendall(b"echo\\n")
print(json.dumps({"connected": connected, "said": first.recv(4).decode()}), flush=True)
if os.fork() == 0:
    for fd in range(3): os.close(fd)
    time.sleep(60)
"""
# What Docker does, without Docker: containers on bridges, ports of the first one published by destination NAT in a
# table that is not ours, and masquerading for what they begin.
CONTAINERS = """
set -eu
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for n in 1 2; do
  ip link add docker$n type bridge
  ip link set docker$n up
  ip address add 10.$2.$n.1/24 dev docker$n
  ip address add fd99:$2:$n::1/64 dev docker$n nodad
  ip netns add c$n
  ip link add veth$n type veth peer name eth0 netns c$n
  ip link set veth$n master docker$n up
  ip -n c$n link set eth0 up
  ip -n c$n address add 10.$2.$n.2/24 dev eth0
  ip -n c$n address add fd99:$2:$n::2/64 dev eth0 nodad
  ip -n c$n route add default via 10.$2.$n.1
  ip -n c$n route add default via fd99:$2:$n::1
  systemd-run --quiet --collect --unit=container$n ip netns exec c$n python3 -c "$1" 80
done
nft -f - <<END
table inet docker {
    chain prerouting {
        type nat hook prerouting priority dstnat
        fib daddr type local tcp dport { 8080, 8081 } dnat ip to 10.$2.1.2:80
        fib daddr type local tcp dport { 8080, 8081 } dnat ip6 to [fd99:$2:1::2]:80
    }
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 10.$2.0.0/16 oifname eth0 masquerade
        ip6 saddr fd99:$2::/32 oifname eth0 masquerade
    }
}
END
"""


@dataclasses.dataclass
class Server:
    """One of the two; name is that of the inventory."""

    name: str
    end: tuple[str, ...] = ()

    @functools.cached_property
    def host(self):
        return testinfra.get_host(f"ansible://{self.name}?ansible_inventory={INVENTORY}")

    @property
    def number(self):
        return self.name.removeprefix("debian")

    def address(self, network, family):
        return NETWORKS[network][family].format(*self.end)

    def container(self, number, family):
        return {"IPv4": f"10.{self.number}.{number}.2", "IPv6": f"fd99:{self.number}:{number}::2"}[family]

    def configure_network(self):
        self.host.check_output("mount -o remount,rw /proc/sys")
        self.host.check_output("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0")
        docker = json.loads(self.host.check_output("ip -4 -json address show dev eth0"))[0]["addr_info"][0]
        self.end = tuple(docker["local"].split(".")[2:])
        for network in NETWORKS:
            self.host.check_output("ip address replace %s/16 dev eth0", self.address(network, "IPv4"))
            self.host.check_output("ip address replace %s/64 dev eth0 nodad", self.address(network, "IPv6"))

    def listen(self, *ports):
        self.host.check_output(
            "systemd-run --collect --unit=listeners python3 -c %s " + " ".join(map(str, ports)), LISTEN
        )
        self.host.check_output(
            f"timeout 30 sh -c 'until ss -Hltn sport = :{ports[-1]} | grep -q .; do sleep 0.1; done'"
        )

    def probe(self, address, *ports, inside=""):
        """Ports of another server as seen from here or from a container; udp-53 is UDP, echo is ICMP."""
        command = f"{inside} python3 -c %s %s {' '.join(map(str, ports))}"
        return list(json.loads(self.host.check_output(command, PROBE, address)).values())

    def flood(self, address, port, *sources):
        return json.loads(self.host.check_output(f"python3 -c %s %s {port} {' '.join(sources)}", FLOOD, address))

    def counters(self):
        """Packets by the comment of the counter."""
        listed = json.loads(self.host.check_output("nft -j list counters table inet firewall"))["nftables"]
        return {item["counter"]["comment"]: item["counter"]["packets"] for item in listed if "counter" in item}

    def rules(self, *options):
        """The table without counters and timeouts; with --handle, a reload shows."""
        return self.host.check_output(f"nft --stateless --terse {' '.join(options)} list table inet firewall")

    def ansible(self, *arguments, playbook="converge.yml", **variables):
        """Runs a playbook of the scenario against this server alone; other variables than its own are given by name."""
        return subprocess.run(
            ["ansible-playbook", "-i", INVENTORY, "--limit", self.name, "-e", json.dumps(variables), *arguments,
             pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], playbook)],
            env=os.environ | {"ANSIBLE_CONFIG": f"{ROOT}/ansible.cfg", "ANSIBLE_ROLES_PATH": f"{ROOT}/roles",
                              "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True, text=True,
        )  # fmt: skip

    def reboot(self):
        subprocess.run(["docker", "restart", self.variables["cloud_server_name"]], check=True, capture_output=True)
        for _ in range(60):
            if subprocess.run([*self.login, "true"], capture_output=True).returncode == 0:
                break
            time.sleep(1)
        self.configure_network()

    @functools.cached_property
    def variables(self):
        return self.host.ansible.get_variables()

    @functools.cached_property
    def login(self):
        """A new connection from here, as the beginning of a command."""
        known_hosts = shlex.split(self.variables["ansible_ssh_common_args"])
        return [
            "ssh", *known_hosts, "-i", self.variables["ansible_private_key_file"],
            "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=30",
            "-p", str(self.variables["ansible_port"]), f"root@{self.variables['ansible_host']}",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def servers(host):
    """The server under test, with containers inside it, and the other; both listen and are in both networks."""
    name = host.ansible.get_variables()["inventory_hostname"]
    servers = (Server(name), Server(OTHER[name]))
    for each in servers:
        each.configure_network()
        each.listen(5000, 8443, 9443, 60000, 60011)
    servers[0].host.check_output("sh -c %s - %s %s", CONTAINERS, LISTEN, servers[0].number)
    yield servers
    for each in servers:
        each.host.run("systemctl stop listeners")


@pytest.fixture(scope="module")
def server(servers):
    return servers[0]


@pytest.fixture(scope="module")
def other(servers):
    return servers[1]
