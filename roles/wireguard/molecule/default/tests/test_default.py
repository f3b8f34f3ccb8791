"""Three members on a network that anybody may read: what the tunnels carry, what outsiders get, who comes and goes."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[5]
SCENARIO = pathlib.Path(__file__).parents[1]
INVENTORY = ROOT / "molecule/hosts.py"
INSIDE = {"wg1": "10.77.0.1", "wg2": "10.77.3.2", "wg3": "10.77.255.4"}
DEVICE, UNIT = "wg-members", "wg-quick@wg-members"
KEY = f"/etc/wireguard/{DEVICE}.key"
# All members are one thing: no test is repeated for each server.
testinfra_hosts = ["local://"]

# Answers every connection with what it says.
ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer((sys.argv[1], 7077), Echo).serve_forever()
"""
# Whether each address answers to ICMP and to TCP within ten seconds.
REACH = """
import socket, struct, sys
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
for address in sys.argv[1:]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(10)
        head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
        raw.sendto(struct.pack("!BBHHH", 8, 0, checksum(head), 7, 1), (address, 0))
        while raw.recvfrom(2048)[1][0] != address:
            pass
    with socket.create_connection((address, 7077), 10) as line:
        line.sendall(b"hello\\n")
        assert line.recv(9) == b"hello\\n"
    print(address)
"""
# Frames of eth0, until it is ended.
SNIFF = """
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
raw.bind(("eth0", 0))
with open("/root/frames", "wb", buffering=0) as file:
    print("sniffing", flush=True)
    while True:
        file.write(raw.recv(65535))
"""
# A text once by UDP to the first address, and another one a thousand times by TCP to the second.
SAY = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
    plain.sendto(b"beside the tunnel", (sys.argv[1], 7077))
line = socket.create_connection((sys.argv[2], 7077), 10).makefile("rw")
for _ in range(1000):
    line.write("through the tunnel " * 50 + "\\n"); line.flush()
    assert line.readline()
"""
# A line of its input is sent, and the answer printed, through one connection.
TALK = """
import socket, sys
line = socket.create_connection((sys.argv[1], 7077), 60).makefile("rw")
for text in sys.stdin:
    line.write(text); line.flush()
    print(line.readline(), end="", flush=True)
"""


class Members:
    def __init__(self) -> None:
        said = json.loads(subprocess.check_output([sys.executable, INVENTORY]))
        self.containers = {name: host["cloud_server_name"] for name, host in said["_meta"]["hostvars"].items()}

    def command(self, name: str, *words: str, account: str = "root", options: tuple[str, ...] = ()) -> list[str]:
        return ["docker", "exec", *options, "-u", account, self.containers[name], *words]

    def on(self, name: str, command: str, *words: str, account: str = "root", code: int | None = 0) -> str:
        line = self.command(name, "bash", "-c", command, "bash", *words, account=account)
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def outside(self, name: str) -> str:
        return self.on(name, "ip -o -4 address show dev eth0 | awk '{ print $4 }'").split("/")[0]

    def reach(self, name: str, *others: str) -> None:
        addresses = [INSIDE[other] for other in others]
        assert self.on(name, 'python3 -c "$@"', REACH, *addresses).split() == addresses

    def echo(self, name: str) -> None:
        """Begin to answer, as soon as the address is there."""
        self.on(name, 'systemd-run --quiet --unit=echo python3 -c "$1" "$2"', ECHO, INSIDE[name])
        self.on(name, "timeout 30 sh -c 'until ss -Hltn sport = 7077 | grep -q .; do sleep 0.2; done'")

    @contextlib.contextmanager
    def connection(self, name: str, other: str) -> Iterator[Callable[[str], str]]:
        """What says a word to another member through one connection, and returns what comes back."""
        line = self.command(name, "python3", "-c", TALK, INSIDE[other], options=("-i",))
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            said, heard = process.stdin, process.stdout
            assert said and heard

            def talk(word: str) -> str:
                said.write(word + "\n")
                said.flush()
                return heard.readline().strip()

            yield talk
            said.close()

    def peers(self, name: str) -> set[str]:
        """Names of the peers that are in the tunnel."""
        found = self.on(name, f"wg show {DEVICE} allowed-ips").split()[1::2]
        return {other for other in INSIDE if f"{INSIDE[other]}/32" in found}

    def since(self, name: str) -> str:
        return self.on(name, f"systemctl show --timestamp=us --value -p ActiveEnterTimestamp {UNIT}")

    def accepted(self, name: str) -> int:
        """Packets that the firewall's rule of WireGuard let in, as first ones of a connection."""
        match = re.search(r"packets (\d+)", self.on(name, "nft list counter inet firewall accepted_2"))
        assert match
        return int(match[1])

    def converge(self, code: int = 0, **variables: Any) -> str:
        command: list[str | pathlib.Path] = ["ansible-playbook", SCENARIO / "converge.yml", "-i", INVENTORY]
        environment = os.environ | {"ANSIBLE_STRATEGY": "fast", "ANSIBLE_STDOUT_CALLBACK": "default"}
        command += ["--tags", "wireguard_configure", "-vvv", "--diff", "-e", json.dumps(variables)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        said: str = done.stdout + done.stderr
        assert done.returncode == code, said
        return said


@pytest.fixture(scope="module")
def members() -> Members:
    found = Members()
    for name in INSIDE:
        found.echo(name)
    return found


def test_each_reaches_each_through_the_tunnels(members: Members) -> None:
    for name in INSIDE:
        members.reach(name, *(other for other in INSIDE if other != name))


def test_what_is_sent_is_not_readable_on_the_wire(members: Members) -> None:
    line = members.command("wg1", "python3", "-c", SNIFF)
    with subprocess.Popen(line, stdout=subprocess.PIPE) as sniffer:
        try:
            assert sniffer.stdout and sniffer.stdout.readline()
            members.on("wg1", 'python3 -c "$@"', SAY, members.outside("wg3"), INSIDE["wg3"])
        finally:
            members.on("wg1", "pkill -f 'SOCK_RA[W]'")
    assert int(members.on("wg1", "stat -c %s /root/frames")) > 1_000_000
    # what goes beside the tunnel shows that there was something to read
    assert members.on("wg1", "grep -a -c 'beside the tunnel' /root/frames").strip() == "1"
    assert members.on("wg1", "grep -a -c 'through the tunnel' /root/frames", code=1).strip() == "0"


def test_outsiders_find_port_22_alone(members: Members) -> None:
    spec = importlib.util.spec_from_file_location("scan", ROOT / "tests/site/conftest.py")
    assert spec and spec.loader
    scan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scan)
    assert scan.only_open(members.containers["wg1"], 22)


def test_only_members_send_to_the_port(members: Members) -> None:
    knock = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 51820))"
    address, before = members.outside("wg1"), members.accepted("wg1")
    image = ["docker", "inspect", "--format", "{{.Config.Image}}", members.containers["wg1"]]
    stranger = ["docker", "run", "--rm", "--entrypoint", "python3", subprocess.check_output(image, text=True).strip()]
    subprocess.run([*stranger, "-c", knock, address], check=True)
    assert members.accepted("wg1") == before
    # the same from a member
    members.on("wg2", 'python3 -c "$@"', knock, address)
    assert members.accepted("wg1") == before + 1


def test_a_wrong_key_gets_nothing(members: Members) -> None:
    """From a member's address, which the firewall lets in, until that very key is told to wg1."""
    begin = """
        ip link add wg-wrong type wireguard 2>/dev/null || wireguard-go wg-wrong 2>/dev/null
        (umask 077; wg genkey > /root/wrong)
        wg set wg-wrong private-key /root/wrong peer $1 endpoint $2:51820 allowed-ips 10.77.0.1/32
        ip link set wg-wrong up; ip address add 10.78.0.2/32 dev wg-wrong; wg pubkey < /root/wrong
    """
    # Packets that begin a handshake, until some were sent, or one was answered.
    knock = """
        for n in $(seq 100); do
            echo >/dev/udp/10.77.0.1/9
            read -r _ received sent < <(wg show wg-wrong transfer)
            test $received -eq 0 && test $sent -lt $1 || break
            sleep 0.2
        done
        echo $received $sent
    """
    key = members.on("wg1", f"wg show {DEVICE} public-key").strip()
    wrong = members.on("wg2", begin, key, members.outside("wg1")).split()[-1]
    try:
        members.on("wg2", "ip route replace 10.77.0.1/32 dev wg-wrong src 10.78.0.2")
        # two attempts of 148 bytes
        received, sent = members.on("wg2", knock, "296").split()
        assert (received, int(sent) >= 296) == ("0", True)
        members.on("wg1", f"wg set {DEVICE} peer {wrong} allowed-ips 10.78.0.2/32")
        assert int(members.on("wg2", knock, "9999").split()[0]) > 0
    finally:
        members.on("wg1", f"wg set {DEVICE} peer {wrong} remove")
        members.on("wg2", "ip link delete wg-wrong")


@pytest.mark.parametrize("name", ["wg1", "wg3"])
def test_no_other_account_reads_the_private_key(members: Members, name: str) -> None:
    assert members.on(name, f"stat -c '%a %U' {KEY}").strip() == "600 root"
    private = members.on(name, f"cat {KEY}").strip()
    everywhere = (
        "cat /etc/wireguard/* /proc/[0-9]*/environ 2>&1; ps -eo args; systemctl show 'wg-quick*';"
        f" wg show {DEVICE} private-key; wg showconf {DEVICE}"
    )
    assert private not in members.on(name, everywhere, account="nobody", code=None)
    assert private not in members.on(name, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; journalctl --no-pager")
    # the same search as root finds it: it is there to be found
    assert private in members.on(name, everywhere, code=None)


def test_members_come_and_go_and_what_is_connected_stays(members: Members) -> None:
    since = members.since("wg1")
    with members.connection("wg1", "wg2") as talk:
        assert talk("before") == "before"
        come_and_go(members, talk)
    assert members.since("wg1") == since
    members.reach("wg3", "wg1", "wg2")
    if ":" in members.on("wg1", "hostname -I"):
        assert re.search(r"\[[\da-f:]+\]:51820", members.on("wg1", f"wg show {DEVICE} endpoints"))


def come_and_go(members: Members, talk: Callable[[str], str]) -> None:
    # wg2 cannot be reached at the same time, and keeps its place
    members.on("wg2", "systemctl stop ssh.socket ssh.service; pkill sshd", code=None)
    try:
        members.converge(members=["wg1", "wg2"], code=4)
        assert members.peers("wg1") == {"wg2"} and members.peers("wg2") == {"wg1", "wg3"}
        gone = f"! ip link show {DEVICE}; ! systemctl is-enabled {UNIT}; ls /etc/wireguard | wc -l | grep -x 0"
        members.on("wg3", gone)
        assert talk("without wg3") == "without wg3"
    finally:
        members.on("wg2", "systemctl start ssh.service")
    # back again, with the addresses of IPv6
    output = members.converge(ipv6=True)
    for name in INSIDE:
        assert members.peers(name) == INSIDE.keys() - {name}
        assert members.on(name, f"cat {KEY}").strip() not in output
        assert members.on(name, f"wg pubkey < {KEY}").strip() in output
    assert talk("with wg3") == "with wg3"
    members.on("wg3", "systemctl stop echo")
    members.echo("wg3")


def test_a_reboot_brings_the_tunnel_back(members: Members) -> None:
    before = members.since("wg2")
    members.on("wg2", "systemctl soft-reboot", code=None)
    end = time.monotonic() + 90
    while (
        members.on("wg2", f"systemctl is-active {UNIT}", code=None).strip() != "active"
        or members.since("wg2") == before
    ):
        assert time.monotonic() < end, members.on("wg2", "systemctl --failed; journalctl -n 30 --no-pager", code=None)
        time.sleep(0.5)
    members.echo("wg2")
    # it begins: the others still have the keys of before, for a quarter of a minute
    members.reach("wg2", "wg1")
    members.reach("wg1", "wg2")
    # nobody can call the one behind NAT; what it sends itself begins again
    with members.connection("wg3", "wg2") as talk:
        assert talk("again") == "again"
