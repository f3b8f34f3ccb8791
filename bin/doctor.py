#!/usr/bin/env python3
"""Look at this machine and at each server of an inventory, say what is wrong and what mends it, and change nothing.

usage: doctor.py -i INVENTORY [HOST]     exit code 1 when something is wrong
"""

import argparse
import importlib.metadata
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import servers

ROOT = servers.ROOT
# the address that each vendor's hosts.yml comes with
EXAMPLE = "203.0.113.10"
PYTHON = (3, 11)
# per cent of a file system, MB, days
FULL, MEMORY, STALE = 90, 200, 4
# of an answer, in blocks of 512 or 1024 bytes
MOST = 2000
# programs of this machine answer in words that can be compared
ENGLISH = {"LC_ALL": "C.UTF-8"}
VARIABLES = {
    "name": "{{ inventory_hostname }}",
    "user": "{{ ansible_user }}",
    "local": "{{ cloud_server_vendor | default('') == 'local' }}",
    "faults": "{{ hostvars[inventory_hostname] | settings_faults }}",
    "clock": "{{ maximum_clock_offset }}",
    "ports": "{{ firewall_allow | default([]) }}",
    "upgrades": "{{ linux_baseline_upgrades | default(true) | bool }}",
    "own_keys": "{{ operator_keys | length > 0 }}",
    "jupyters": "{{ ([analyst] + jupyter_people | map(attribute='name')) if 'workbench' in group_names else [] }}",
    "mlflow": "{{ 'tracking' in group_names }}",
    "served": "{{ served_environments }}",
}
# Prints a name and its values a line, the time last, so that it is compared as it arrives. Arguments: units of systemd.
BEGIN = "what the doctor sees:"
LOOK = (
    f"echo '{BEGIN}'"
    + r"""
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
df --output=target,pcent,ipcent / /boot /home /opt /srv /tmp /var 2>/dev/null | sed 1d | sort -u | sed 's/^/disk /'
awk '/^MemTotal/ { total = $2 } /^MemAvailable/ { print "memory", int($2 / 1024), int(total / 1024) }' /proc/meminfo
for unit in ssh.service ssh.socket apt-daily-upgrade.timer "$@"; do
  echo "unit $unit $(systemctl show -P LoadState "$unit") $(systemctl is-active "$unit")"
done
systemctl list-units --failed --plain --no-legend | awk '{ print "failed", $1 }'
[ ! -e /run/reboot-required ] || echo "reboot $(date -Is -r /run/reboot-required)"
ss -Hltun | awk '{ print "listens", $1, $5 }'
nft list table inet firewall >/dev/null 2>&1 && echo "firewall on"
dpkg --audit | grep -q . && echo "dpkg broken"
for stamp in /var/lib/apt/periodic/update-success-stamp /var/lib/apt/periodic/unattended-upgrades-stamp; do
  [ ! -e $stamp ] || echo "stamp $(stat -c %Y $stamp)"
done
echo "security $(apt-get -s -o Debug::NoLocking=1 upgrade 2>/dev/null | grep -c '^Inst .*[Ss]ecurity')"
echo "time $(date +%s)"
"""
)


# what LOOK prints: the values of each name, as words
Facts = dict[str, list[list[str]]]


class Check(NamedTuple):
    """One line of the report; what is wrong has a remedy."""

    text: str
    remedy: str = ""


def judge_versions(python: tuple[int, ...], installed: dict[str, str], locked: dict[str, str]) -> list[Check]:
    """Python, and what .venv holds against requirements.txt."""
    text = f"Python {'.'.join(map(str, python))}"
    wanted = ".".join(map(str, PYTHON))
    found = [
        Check(
            text,
            "" if python >= PYTHON else f"install {wanted} or newer, then: make clean ready PYTHON3=python{wanted}",
        )
    ]
    for name, version in locked.items():
        if (has := installed.get(name)) == version:
            found.append(Check(f"{name} {version}, as locked"))
        else:
            found.append(
                Check(f"{name} {has or 'is missing'}, locked is {version}", "rm -f .venv/.complete && make ready")
            )
    return found


def judge_key(path: str, mode: int, locked: bool, in_agent: bool) -> Check:
    """A private key with the mode of its file; locked where it has a passphrase."""
    named = shlex.quote(path)
    if mode & 0o077:
        return Check(f"key {path}: others can read it, and ssh refuses it", f"chmod 600 {named}")
    if locked and not in_agent:
        return Check(f"key {path}: has a passphrase and is not in the agent", f"ssh-add {named}")
    return Check(f"key {path}" + (": in the agent" if in_agent else ""))


def judge_login(said: str, server: dict[str, Any], inventory: str) -> list[Check]:
    """What ssh or sudo said, in place of an answer."""
    last = (said.strip().splitlines() or ["no answer"])[-1]
    again, host, user = set_up(server, inventory), server["host"], server["user"]
    if host == EXAMPLE:
        return [
            Check(f"{host} is the address of an example", "give the server's own: make add-host, or edit hosts.yml")
        ]
    if changed := re.search(r"Offending \S+ key in (\S+?):\d+", said):
        name = re.search(r"Host key for (\S+) has changed", said)
        forget = shlex.join(["ssh-keygen", "-f", changed[1], "-R", name[1] if name else host])
        remedy = f"if you made the server again: {forget}. If you did not, somebody may be in between: do not log in"
        return [Check("reachable"), Check("host key: another one than before", remedy)]
    if "verification failed" in said:
        remedy = (
            f"compare it with the vendor's console, then say yes once: {log_in(server)} -o StrictHostKeyChecking=ask"
        )
        return [Check("reachable"), Check("host key: not known, and your ssh learns none", remedy)]
    there = [Check("reachable"), Check("host key")]
    if "Permission denied" in said or "Too many authentication" in said:
        remedy = f"where it is not set up yet: {again}. Else see the lines on keys above, and docs/access.md"
        return [*there, Check(f"login as {user}: {last}", remedy)]
    if "sudo" in said:
        return [*there, Check(f"login as {user}"), Check(f"sudo of {user}: {last}", f"{again} -K")]
    if server["local"]:
        return [Check(f"not reachable: {last}", "make up")]
    remedy = "see that it is on, its address right (hosts.yml), and its port open in the vendor's own firewall; then: "
    return [Check(f"not reachable: {last}", f"{remedy}{log_in(server)}")]


def units_of(server: dict[str, Any]) -> list[str]:
    """What must be active on a server."""
    jupyters = [f"jupyter-screen@{name}.service" for name in server["jupyters"]]
    models = [f"model-server-{name}@1.service" for name in server["served"]]
    return ["firewall.service", *jupyters, *(["mlflow.service"] if server["mlflow"] else []), *models]


def set_up(server: dict[str, Any], inventory: str) -> str:
    return "make up" if server["local"] else f"ansible-playbook site.yml -i {inventory} --limit {server['name']}"


def log_in(server: dict[str, Any]) -> str:
    return shlex.join([*servers.ssh(server), f"{server['user']}@{server['host']}"])


def parse(text: str) -> Facts:
    """What LOOK printed: the values of each name, as words."""
    found: Facts = {}
    # what a .bashrc prints stands before it
    for line in text.rpartition(BEGIN)[2].splitlines():
        name, *words = line.split() or [""]
        found.setdefault(name, []).append(words)
    return found


def judge_server(facts: Facts, server: dict[str, Any], offset: float, inventory: str) -> list[Check]:
    """A server that answered: facts as parse() gives them, offset of its clock in seconds."""
    found = [Check("reachable"), Check("host key"), Check(f"login as {server['user']}, with sudo")]
    text = f"clock: {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} this machine's"
    right = abs(offset) <= float(server["clock"])
    found.append(Check(text, "" if right else f"if this machine is right: {log_in(server)} sudo date -s @$(date +%s)"))
    for folder, *parts in facts.get("disk", []):
        space, inodes = (int(part.rstrip("%")) if part[:-1].isdigit() else 0 for part in parts)
        remedy = f"make status tells what fills it; on the server: sudo du -xhd1 {shlex.quote(folder)} | sort -h"
        full = max(space, inodes) >= FULL
        found.append(Check(f"disk {folder}: {space} % used, inodes {inodes} %", remedy if full else ""))
    for available, total in facts.get("memory", []):
        remedy = "" if int(available) >= MEMORY else "make status tells who uses it; on the server: systemd-cgtop -m"
        found.append(Check(f"memory: {available} of {total} MB available", remedy))
    found += judge_services(facts, server, inventory)
    found += judge_ports(facts, server, inventory)
    if "reboot" in facts:
        remedy = "on the server: sudo journalctl -u linux-baseline-reboot tells what puts it off; now: sudo reboot"
        found.append(Check(f"reboot: waits since {facts['reboot'][0][0]}", remedy))
    else:
        found.append(Check("reboot: none waits"))
    return found + judge_packages(facts, server, inventory)


def judge_services(facts: Facts, server: dict[str, Any], inventory: str) -> list[Check]:
    """Units that must be active, and those that failed."""
    units = {unit: (load, state) for unit, load, state in facts.get("unit", [])}
    found = []
    for unit in units_of(server):
        load, state = units.get(unit, ("not-found", "inactive"))
        if load != "loaded":
            found.append(Check(f"{unit}: not set up", set_up(server, inventory)))
        elif state != "active":
            remedy = f"on the server: sudo journalctl -u {unit} tells why; then: sudo systemctl restart {unit}"
            found.append(Check(f"{unit}: {state}", remedy))
    if all(units.get(unit, ("", ""))[1] != "active" for unit in ("ssh.service", "ssh.socket")):
        found.append(Check("ssh: takes no new login", "on the server: sudo systemctl start ssh"))
    for unit, *_ in facts.get("failed", []):
        if unit not in units_of(server):
            named = shlex.quote(unit)
            remedy = f"on the server: sudo journalctl -u {named} tells why; once mended: sudo systemctl restart {named}"
            found.append(Check(f"{unit}: failed", remedy))
    return found or [Check(f"services: {', '.join(unit.removesuffix('.service') for unit in units_of(server))} run")]


def judge_ports(facts: Facts, server: dict[str, Any], inventory: str) -> list[Check]:
    """What listens beyond the loopback, against what the firewall lets in."""
    secure = f"ansible-playbook site.yml -i {inventory} --limit {server['name']} --tags secure"
    listening = {
        f"{place.rpartition(':')[2]}/{protocol}"
        for protocol, place in facts.get("listens", [])
        if not re.match(r"127\.|\[::1\]|\[::ffff:127\.", place)
    }
    # a range has no single port that must listen
    allowed = {
        f"{rule['port']}/{rule.get('protocol', 'tcp')}" for rule in server["ports"] if str(rule["port"]).isdigit()
    }
    if "firewall" not in facts:
        return [Check(f"firewall: not in force, so that all of these are open: {join(listening)}", secure)]
    found = [Check(f"ports: {join(listening)} listen, the firewall lets in {join(allowed)}")]
    for port in sorted(allowed - listening):
        remedy = f"start its service, or take it out of open_ports and type: {secure}"
        found.append(Check(f"port {port}: let in, and nothing listens", remedy))
    return found


def join(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def judge_packages(facts: Facts, server: dict[str, Any], inventory: str) -> list[Check]:
    """dpkg's state, automatic updates, and what of them waits."""
    found = []
    if "dpkg" in facts:
        found.append(Check("packages: an installation was interrupted", "on the server: sudo dpkg --configure -a"))
    if server["upgrades"] and ["apt-daily-upgrade.timer", "loaded", "active"] not in facts.get("unit", []):
        secure = f"ansible-playbook site.yml -i {inventory} --limit {server['name']} --tags secure"
        found.append(Check("updates: no automatic ones", secure))
    now = int(facts["time"][0][0])
    newest = max((int(stamp) for (stamp,) in facts.get("stamp", [])), default=now)
    if (days := (now - newest) // 86400) >= STALE:
        remedy = "on the server: sudo journalctl -u apt-daily -u apt-daily-upgrade tells why"
        found.append(Check(f"updates: the last were {days} days ago", remedy))
    return found or [Check(f"packages: sound; {facts.get('security', [['?']])[0][0]} security updates wait")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A program of this machine, in its own English; one that is not there ended with 127."""
    try:
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | ENGLISH, input="", capture_output=True, text=True,
            errors="replace", timeout=120,
        )  # fmt: skip
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 255, "", "no answer within 120 s")


def ask(command: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    """What a login answers, cut off at MOST: a broken server may print without an end."""
    limited = ["sh", "-c", f'ulimit -f {MOST}; exec "$@"', "sh", *command]
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            code = subprocess.run(
                limited, cwd=ROOT, env=os.environ | ENGLISH, input=stdin, stdout=out, stderr=said,
                text=True, timeout=120,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 255, "", "no answer within 120 s")
        out.seek(0)
        said.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), said.read())


def look_here(hosts: list[dict[str, Any]]) -> list[Check]:
    """This machine: versions, ssh and its settings, keys, agent, and Docker where it carries the server."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    locked = {name: re.findall(rf"^{name}==([^ ;]+)", lock, re.M)[0] for name in ("ansible", "ansible-core")}
    places = map(str, ROOT.glob(".venv/lib/python*/site-packages"))
    installed = {package.name: package.version for package in importlib.metadata.distributions(path=list(places))}
    found = judge_versions(sys.version_info[:3], installed, locked)
    client = run("ssh", "-V")
    remedy = "" if client.returncode == 0 else "install OpenSSH's client, with apt install openssh-client"
    found.append(Check((client.stderr or client.stdout).split(",")[0].strip(), remedy))
    parsed = run("ssh", "-G", "host.invalid")
    if parsed.returncode == 0:
        found.append(Check("settings of ssh (~/.ssh/config)"))
    else:
        found.append(
            Check(f"settings of ssh: {parsed.stderr.strip()}", "mend that; this checks it: ssh -G host.invalid")
        )
    found += look_at_keys(hosts)
    if any(host["local"] for host in hosts):
        docker = run("docker", "version", "--format", "{{.Server.Version}}")
        remedy = "start it: make up does so on Linux; on macOS start Docker Desktop (or colima)"
        answers = docker.returncode == 0
        found.append(
            Check(f"Docker {docker.stdout.strip() if answers else 'does not answer'}", "" if answers else remedy)
        )
    return found


def look_at_keys(hosts: list[dict[str, Any]]) -> list[Check]:
    """The private keys that the inventory names, else those of ~/.ssh; and the agent."""
    agent = run("ssh-add", "-l")
    held = {line.split()[1] for line in agent.stdout.splitlines() if " SHA256:" in line}
    files = {
        os.path.normpath(ROOT / os.path.expanduser(host["key"])).removesuffix(".pub") for host in hosts if host["key"]
    }
    # one that is not there is a fault of the settings
    files = {path for path in files if os.path.isfile(path)}
    found, own = [], set()
    if not hosts or not all(host["key"] for host in hosts):
        own = {
            os.path.expanduser(f"~/.ssh/id_{kind}") for kind in ("ed25519", "ed25519_sk", "rsa", "ecdsa", "ecdsa_sk")
        }
        own = {path for path in own if os.path.isfile(path)}
        if not own and not held and not all(host["own_keys"] for host in hosts):
            found.append(Check("keys: none in ~/.ssh, none in the agent", "ssh-keygen -t ed25519"))
    judged = []
    for path in sorted(files | own):
        # of today's format the public half is read without the passphrase; of an older one from the .pub file
        prints = run("ssh-keygen", "-lf", path).stdout.split()[1:2]
        locked = run("ssh-keygen", "-y", "-P", "", "-f", path).returncode != 0
        judged.append((path, judge_key(path, os.stat(path).st_mode, locked, bool(held.intersection(prints)))))
    # of those of ~/.ssh one that can be used is enough
    usable = bool(held) or not all(check.remedy for _, check in judged)
    found += [Check(check.text) if usable and path not in files else check for path, check in judged]
    runs = agent.returncode in (0, 1)
    found.append(
        Check(f"agent: holds {len(held)} keys" if runs else "agent: none runs (only keys with a passphrase need one)")
    )
    return found


def look_at(server: dict[str, Any], inventory: str) -> list[Check]:
    """A server, over one login."""
    if server["local"] and not os.path.exists(ROOT / server["key"]):
        return [Check("not made yet", "make up")]
    found = [Check(f"settings: {fault}", f"mend that in {inventory}") for fault in server["faults"]] or [
        Check("settings")
    ]
    if server["host"] == EXAMPLE:
        return found + judge_login("", server, inventory)
    command = [
        *servers.ssh(server, "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
        f"{server['user']}@{server['host']}",
    ]
    look = shlex.join(["sudo", "-n", "sh", "-s", "--", *units_of(server)])
    answer = ask([*command, look], LOOK)
    now = time.time()
    facts = parse(answer.stdout)
    try:
        if "time" not in facts:
            return found + judge_login(answer.stderr, server, inventory)
        return found + judge_server(facts, server, int(facts["time"][0][0]) - now, inventory)
    except (ValueError, LookupError, OverflowError) as error:
        return [*found, Check(f"the server's answer cannot be read: {error}", f"look at it: {log_in(server)}")]


def printable(text: str) -> str:
    """Without what a terminal obeys: a server chooses some of these words."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text.replace("\r", ""))


def show(title: str, checks: list[Check]) -> int:
    """Print the checks; returns how many are wrong."""
    print(title)
    for check in checks:
        text = printable(check.text).strip().replace("\n", "\n        ")
        print(f"  {'WRONG' if check.remedy else 'ok':<6}{text}")
        if check.remedy:
            print(f"        → {printable(check.remedy)}")
    sys.stdout.flush()
    return sum(bool(check.remedy) for check in checks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-i", "--inventory", default="inventory/local")
    parser.add_argument("host", nargs="?", default="all")
    arguments = parser.parse_args()
    if sys.version_info < PYTHON:
        sys.exit(f"doctor: this is Python {sys.version.split()[0]}. Type make doctor, or take 3.11 or newer")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    inventory, unread = arguments.inventory, []
    hosts: dict[str, Any] = {}
    try:
        hosts = servers.read(inventory, arguments.host, VARIABLES)
    except SystemExit as error:
        unread = [Check(f"settings: {error}", f"mend it in {inventory}")]
    except LookupError as error:
        if arguments.host != "all":
            sys.exit(f"doctor: {inventory} has no host {arguments.host}.\n{error}")
    for name, host in hosts.items():
        if not isinstance(host, dict):
            unread.append(Check(f"settings of {name}: {host}", f"mend it in {inventory}"))
    told = [host for host in hosts.values() if isinstance(host, dict)]
    wrong = show("This machine", look_here(told) + unread)
    if not hosts and not unread:
        vendor = pathlib.Path(inventory).name
        print(f"{inventory} has no server yet: make add-host VENDOR={vendor} NAME=recommender-dev ADDRESS=… ENV=dev")
    with ThreadPoolExecutor(8) as pool:
        for host, checks in zip(told, pool.map(lambda host: look_at(host, inventory), told), strict=True):
            wrong += show(f"{host['name']} ({host['host']})", checks)
    print(f"Wrong: {wrong}, each with its remedy behind the arrow." if wrong else "Nothing is wrong.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
