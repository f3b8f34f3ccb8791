"""Runs that go wrong on purpose, on a server reached at its own address: each ends with the operator logged in.

The tests run in the order written. What is wrong is set as its owner would: in zz-mine.yml or on the command line.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from conftest import Checkout, only_open, recap

SITE = (".venv/bin/ansible-playbook", "site.yml", "-i", "inventory/onprem")
BOOTSTRAP = (".venv/bin/ansible-playbook", "playbooks/bootstrap.yml", "-i", "inventory/onprem")
ALL = (*SITE, "--tags", "secure")
# The same without what no login depends on: the later lines of site.yml, whose checks of their settings run with every
# tag, and one role. test_secure runs it whole.
SECURE = (SITE[0], "secured.yml", *SITE[2:], "--tags", "secure", "--skip-tags", "linux_baseline")
# where the fault is sshd's alone, or the firewall's and sshd's: not the roles that find nothing to do each time
SSHD = (*SECURE[:-1], "linux_baseline,access,firewall")
PORTS = (*SECURE[:-1], "linux_baseline,access")
STATE = """
find /etc/ssh /etc/sudoers.d /etc/firewall.nft -type f | sort | xargs sha256sum
nft --stateless --terse list table inet firewall
ls /etc/commit-confirmed
ss -Hltn 'sport = :22 or sport = :2222'
"""
# All but what each server has of its own.
# The third field of shadow is the day of the password's last change: the two runs may be on either side of midnight.
END = r"""
cd /etc
own='^\./(ssh/ssh_host_|machine-id|hostname|hosts\b|resolv.conf)'
find . -printf '%p %M %u %g %l\n' | grep -Ev "$own" | sort
find . -type f | grep -Ev "$own" | grep -Ev '^\./shadow-?$' | sort | xargs sha256sum
cut -d: -f 1,2,4- shadow shadow-
dpkg-query -W
apt-mark showmanual
systemctl list-unit-files --no-legend
systemctl list-units --all --no-legend --plain --type service,timer,socket | awk '{print $1, $2, $3, $4}'
ss -Hltunp | awk '{print $1, $5, $7}' | sed 's/pid=[0-9]*,//g' | sort
nft --stateless list ruleset
"""


class Server:
    """A container as the server; its address stands in inventory/onprem."""

    def __init__(self, checkout: Checkout, folder: pathlib.Path, suite: str = "trixie", bare: bool = False) -> None:
        self.checkout, self.folder = checkout, folder
        self.name = f"lockout-{os.getpid()}-{folder.name}"
        self.key = folder / "id_ed25519"
        container = {
            "cloud_server_vendor": "local", "cloud_server_name": self.name, "cloud_server_image": suite,
            "cloud_server_local_bare": bare,
            "cloud_server_local_key": str(self.key),
            "cloud_server_local_known_hosts": str(folder / "known_hosts"), "ansible_host": "127.0.0.1",
            "ansible_port": 32000 + (os.getpid() + len(folder.name)) % 700,
        }  # fmt: skip
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"bare": container}}}))
        checkout.run(".venv/bin/ansible-playbook", "playbooks/create.yml", "-i", str(folder / "hosts.yml"))
        self.locate()
        self.set()

    def locate(self) -> None:
        """Puts the container's address into the inventory; each start may give it another one."""
        inspect = json.loads(subprocess.check_output(["docker", "inspect", self.name]))[0]
        self.address: str = inspect["NetworkSettings"]["IPAddress"]
        self.gateway: str = inspect["NetworkSettings"]["Gateway"]
        # another container may have had the address before
        (self.checkout.folder / ".known_hosts").unlink(missing_ok=True)
        hosts = {"dev": {"hosts": {"desk": {"ansible_host": self.address}}}, "staging": {}, "prod": {}}
        (self.checkout.folder / "inventory/onprem/hosts.yml").write_text(yaml.safe_dump(hosts))

    def reboot(self) -> None:
        subprocess.run(["docker", "restart", self.name], check=True, stdout=subprocess.DEVNULL)
        self.locate()

    def set(self, **settings: Any) -> None:
        """Rewrites zz-mine.yml."""
        mine = self.checkout.folder / "inventory/onprem/group_vars/all/zz-mine.yml"
        mine.write_text(
            yaml.safe_dump({"ansible_private_key_file": str(self.key), "trusted_addresses": [self.gateway], **settings})
        )

    def inside(self, command: str) -> str:
        return subprocess.check_output(
            ["docker", "exec", self.name, "sh", "-c", command], text=True, stderr=subprocess.STDOUT
        )

    def ssh(self, user: str, port: int = 22) -> list[str]:
        return [
            "ssh", "-i", str(self.key), "-p", str(port), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", f"{user}@{self.address}",
        ]  # fmt: skip

    def login(self, user: str = "deploy", command: str = "sudo -n id -u", port: int = 22) -> Any:
        return subprocess.run(
            [*self.ssh(user, port), command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )

    def gets_in(self, port: int = 22) -> bool:
        return bool(self.login(port=port).stdout.strip() == "0")

    def wait_for_login(self, seconds: int = 90) -> None:
        """Waits until the operator gets in and the change is forgotten: sshd refuses all for a moment as it reloads."""
        deadline = time.monotonic() + seconds
        while self.inside("ls /etc/commit-confirmed") or not self.gets_in():
            assert time.monotonic() < deadline
            time.sleep(1)

    def state(self) -> str:
        return self.inside(STATE)

    def interrupt(self, task: str, act: Callable[[], Any], kill: bool = False, part: tuple[str, ...] = SECURE) -> str:
        """Runs the part, stops it where the task is announced, acts, and kills it or lets it go on and fail."""
        process = subprocess.Popen(
            part, cwd=self.checkout.folder, env=self.checkout.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith(f"TASK [commit_confirmed : {task}]"):
                os.killpg(process.pid, signal.SIGSTOP)
                act()
                os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGCONT)
        assert process.wait() == (-signal.SIGKILL if kill else 2), output
        assert f"commit_confirmed : {task}" in output, output
        return " ".join(output.split())

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "-f", self.name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module", autouse=True)
def secured(checkout: Checkout) -> None:
    """Writes secured.yml: the lines of site.yml up to the last that has to do with logins, as they stand there."""
    lines = yaml.safe_load((checkout.folder / "site.yml").read_text())[:3]
    assert [line["import_playbook"] for line in lines] == [
        f"playbooks/{name}.yml" for name in ("bootstrap", "begin", "secure")
    ]
    (checkout.folder / "secured.yml").write_text(yaml.safe_dump(lines))


@pytest.fixture(scope="module")
def server(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # each task's name is read
    checkout.environment["ANSIBLE_STDOUT_CALLBACK"] = "default"
    server = Server(checkout, tmp_path_factory.mktemp("server"))
    yield server
    server.remove()


@pytest.fixture
def before(server: Server) -> Iterator[str]:
    """The server's state, which the test must not change; no timer may be armed."""
    server.set()
    state = server.state()
    yield state
    assert server.state() == state
    assert server.inside("systemctl list-timers --all --no-legend 'commit-confirmed-*'") == ""
    assert server.gets_in()


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A public key whose private one nobody here uses."""
    key = tmp_path_factory.mktemp("other") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key.with_suffix(".pub").read_text()


def test_secure(checkout: Checkout, server: Server) -> None:
    assert recap(checkout.run(*ALL))["failed"] == 0
    assert server.gets_in()
    assert "Permission denied" in server.login("root", "true").stderr
    # the output of a .bashrc is ignored
    server.inside("sed -i '1i echo Welcome; echo port=7; echo uid=7' /home/deploy/.bashrc")
    assert recap(checkout.run(*ALL))["changed"] == 0
    server.inside("sed -i 1d /home/deploy/.bashrc")


def test_mitogen_leaves_the_same(checkout: Checkout, server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("twin")
    shutil.copy(server.key, folder)
    shutil.copy(server.key.with_suffix(".pub"), folder)
    twin = Server(checkout, folder)
    try:
        assert recap(checkout.run(*ALL, fast=True))["failed"] == 0
        plain = server.inside(END)
        assert "./ssh/sshd_config.d/" in plain and "openssh-server" in plain and "dport" in plain
        assert twin.inside(END).splitlines() == plain.splitlines()
    finally:
        twin.remove()
        server.locate()


def shut_out(server: Server, other_key: str, seconds: int) -> None:
    """Kills a run that just removed the operator's key; the server rolls back after the given seconds."""
    server.set(operator_keys=[other_key], access_revert_after=seconds)
    seen = []
    server.interrupt("Log in again", lambda: seen.append(server.login().stderr), kill=True)
    # it was real: at that moment the door was closed
    assert "Permission denied" in seen[0]


def test_controller_killed_while_the_operator_is_shut_out(server: Server, before: str, other_key: str) -> None:
    # long enough for a slow machine to see it shut out
    shut_out(server, other_key, 40)
    server.wait_for_login()


def test_reboot_while_the_operator_is_shut_out(server: Server, before: str, other_key: str) -> None:
    shut_out(server, other_key, 3600)
    server.reboot()
    server.wait_for_login()


def test_network_lost_before_the_confirmation(server: Server, before: str) -> None:
    server.set(ssh_hardening_options={"LoginGraceTime": 50}, ssh_hardening_revert_after=15)
    output = server.interrupt("Prove", lambda: server.inside("ip link set eth0 down"), part=SSHD)
    assert "rolls back automatically within 15 s" in output
    # the route and the IPv6 address went with the link
    server.inside(f"ip link set eth0 up && ip route add default via {server.gateway} && container-network")
    server.wait_for_login()


def test_the_next_run_goes_on_from_what_was_before(checkout: Checkout, server: Server, before: str) -> None:
    server.set(ssh_hardening_options={"LoginGraceTime": 50}, ssh_hardening_revert_after=90)
    server.interrupt("Log in again", lambda: None, kill=True, part=SSHD)
    assert "logingracetime 50" in server.inside("sshd -T")
    server.set()
    # the unconfirmed change ends first in any case
    assert recap(checkout.run(*SSHD))["failed"] == 0
    assert "logingracetime 60" in server.inside("sshd -T")


def test_a_wrong_key_in_the_list(checkout: Checkout, server: Server, before: str, other_key: str) -> None:
    server.set(operator_keys=[other_key])
    output = " ".join(checkout.run(*SECURE, code=2).split())
    assert "access of desk is as it was before" in output
    assert f"deploy@{server.address}" in output


@pytest.mark.parametrize("option", ["DenyUsers", "AllowGroups"])
def test_sshd_accepts_the_file_and_not_the_operator(
    checkout: Checkout, server: Server, before: str, option: str
) -> None:
    server.set(ssh_hardening_options={option: {"DenyUsers": "deploy", "AllowGroups": "nogroup"}[option]})
    assert "sshd of desk is as it was before" in " ".join(checkout.run(*SSHD, code=2).split())


def test_an_option_that_sshd_does_not_know(checkout: Checkout, server: Server, before: str) -> None:
    server.set(ssh_hardening_options={"PermitRootLogins": "no"})
    output = checkout.run(*SSHD, code=2)
    assert "Bad configuration option: PermitRootLogins" in output
    assert "commit_confirmed : Keep what is in force" not in output


def test_firewall_without_the_port_of_ssh(checkout: Checkout, server: Server, before: str) -> None:
    output = checkout.run(*PORTS, "-e", json.dumps({"firewall_allow": [{"port": 80}]}), code=2)
    assert "firewall_allow" in output
    assert "port 22" in output
    assert "commit_confirmed : Keep what is in force" not in output


def test_firewall_that_lets_the_open_connection_live_and_no_new_one(server: Server, before: str) -> None:
    server.set(open_ports=[{"port": 443}])
    cut = "nft insert rule inet firewall input tcp dport 22 ct state new drop"
    assert "firewall of desk is as it was before" in server.interrupt("Prove", lambda: server.inside(cut), part=PORTS)


def test_port_moves_and_the_firewall_does_not_know(checkout: Checkout, server: Server, before: str) -> None:
    output = checkout.run(*PORTS, "-e", json.dumps({"ssh_hardening_port": 2222}), code=2)
    assert "sshd of desk is as it was before" in " ".join(output.split())


def test_port_moves_to_one_that_is_taken(checkout: Checkout, server: Server, before: str) -> None:
    server.set(ssh_port=2222)
    squat = "import socket; socket.create_server((str(), 2222), family=socket.AF_INET6, dualstack_ipv6=True).accept()"
    server.inside(f"systemd-run --collect --unit=squatter python3 -c '{squat}'")
    try:
        assert "sshd of desk is as it was before" in " ".join(checkout.run(*PORTS, code=2).split())
        # the firewall had opened the new port before sshd tried to move
        assert "2222" not in server.inside("nft list table inet firewall")
    finally:
        server.inside("systemctl stop squatter")


@pytest.mark.parametrize("served_by", ["ssh.service", "ssh.socket"])
def test_port_moves_there_and_back(checkout: Checkout, server: Server, served_by: str) -> None:
    if served_by == "ssh.socket":
        server.inside(
            "systemctl disable ssh.service; systemctl enable ssh.socket;"
            "systemctl stop ssh.service; systemctl start ssh.socket"
        )
    session = subprocess.Popen(
        [*server.ssh("deploy"), "echo in; exec sleep 600"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert session.stdout and session.stdout.readline() == "in\n"
    server.set(ssh_port=2222)
    checkout.run(*PORTS)
    assert only_open(server.name, 2222)
    assert server.gets_in(2222)
    assert session.poll() is None
    assert recap(checkout.run(*PORTS))["changed"] == 0
    # Ansible's usual way, which does not move sshd
    server.set(ansible_port=2222)
    assert "set ssh_port: 2222." in " ".join(checkout.run(*BOOTSTRAP, code=2).split())
    server.set(ssh_ports_before=[2222])
    checkout.run(*PORTS)
    assert only_open(server.name, 22)
    assert server.gets_in()
    assert session.poll() is None
    session.terminate()


def test_disk_full_while_the_change_is_written(checkout: Checkout, server: Server) -> None:
    server.inside(
        "mkdir -p /mnt/etc && mount -t tmpfs -o size=12M tmpfs /mnt/etc && cp -a /etc/. /mnt/etc/ &&"
        "mount --bind /mnt/etc /etc"
    )
    state = server.state()
    server.set(ssh_hardening_options={"LoginGraceTime": 50, "Banner": "/etc/issue.net"})
    fill = "dd if=/dev/zero of=/etc/filler bs=4k 2>/dev/null; true"
    for task in ("Save the old state and start the timer", "Write the new configuration"):
        output = server.interrupt(task, lambda: server.inside(fill), part=SSHD)
        assert "No space left on device" in output
        server.inside("rm /etc/filler")
        assert server.state() == state
        assert server.gets_in()
    assert recap(checkout.run(*SECURE))["failed"] == 0
    server.set()
    checkout.run(*SSHD)
    assert server.state() == state


def test_who(checkout: Checkout, server: Server) -> None:
    output = checkout.run("make", "who", "INVENTORY=inventory/onprem")
    fingerprint = subprocess.check_output(["ssh-keygen", "-lf", server.key], text=True).split()[1]
    assert ["deploy", "operator"] in [line.split() for line in output.splitlines()]
    assert output.count(fingerprint) == 2


def test_status_counts(checkout: Checkout, server: Server) -> None:
    status = checkout.run("make", "status", "INVENTORY=inventory/onprem")
    assert re.search(r"\d+ +\d+ +accepted: tcp 22, SSH", status)
    assert re.search(r"ssh\.(service|socket): since ", status)
    assert "firewall.service: since " in status
    assert "not set" not in status
    # what is not there yet is no fault
    assert "MLflow and the model server still missing" in " ".join(status.split())


def test_a_changed_host_key_says_what_to_type(checkout: Checkout, server: Server) -> None:
    server.inside(
        "cd /etc/ssh && rm ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key &&"
        "systemctl restart ssh"
    )
    output = checkout.run(*SECURE, code=2)
    (command,) = set(re.findall(r"ssh-keygen -f \S+ -R '[^']+'", output))
    checkout.run("sh", "-c", command)
    checkout.run(*SSHD)


def test_a_changed_host_key_of_a_jump_host_names_that_one(
    checkout: Checkout, server: Server, other_key: str, tmp_path: pathlib.Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.address} {other_key}")
    trust = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
    jump = f"ssh {trust} -i {server.key} -W %h:%p deploy@{server.address}"
    server.set(ansible_ssh_common_args=f"-o ProxyCommand='{jump}' -o UserKnownHostsFile=.known_hosts")
    assert f"ssh-keygen -f {known} -R '{server.address}'" in checkout.run(*SECURE, code=2)
    known.write_text("")
    assert "its host key is not known here" in checkout.run(*SECURE, code=2).lower()


def test_no_way_in_names_each_and_the_command(checkout: Checkout, server: Server, tmp_path: pathlib.Path) -> None:
    stranger = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    server.set(ansible_private_key_file=str(stranger))
    output = " ".join(checkout.run(*SECURE, code=2).split())
    for user in ("deploy", "root", "debian", "ubuntu", "admin", "ec2-user"):
        assert f"- {user}, port 22: {user}@{server.address}: Permission denied" in output
    assert f"ssh-copy-id -i ~/.ssh/id_ed25519.pub root@{server.address}" in output


@pytest.fixture
def bare(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without Python."""
    server = Server(checkout, tmp_path_factory.mktemp("bare"), "bookworm", bare=True)
    yield server
    server.remove()


def test_first_contact_without_python(checkout: Checkout, bare: Server) -> None:
    packages = bare.inside("dpkg --get-selections")
    output = " ".join(checkout.run(*SITE, "--check", "--diff", code=2).split())
    assert "desk has no python3 and no python3-apt, and --check installs nothing" in output
    assert f"ssh root@{bare.address} apt-get install --no-install-recommends python3 python3-apt" in output
    assert bare.inside("dpkg --get-selections") == packages
    checkout.run(*SITE, "--tags", "access")
    assert bare.gets_in()
    # from here on, a check works
    checkout.run(*SECURE, "--check", "--diff")


@pytest.fixture
def fresh(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A new server with the other Debian."""
    server = Server(checkout, tmp_path_factory.mktemp("fresh"), "bookworm")
    yield server
    server.remove()


def test_first_contact_by_the_password_of_root(checkout: Checkout, fresh: Server) -> None:
    fresh.inside("echo root:correct-horse | chpasswd; rm /root/.ssh/authorized_keys")
    (fresh.folder / "password").write_text("correct-horse\n")
    # what -k asks for
    checkout.run(*SITE, "--tags", "access", "--connection-password-file", str(fresh.folder / "password"))
    assert fresh.gets_in()
    assert "Permission denied" in fresh.login("root", "true").stderr


def test_first_contact_while_cloud_init_is_at_work(checkout: Checkout, fresh: Server) -> None:
    """The vendor's account, its sudo and drop-in are cloud-init's; a stage fails, and its status says so early."""
    fresh.inside("apt-get update && apt-get install -y --no-install-recommends cloud-init && rm -r /root/.ssh")
    seed = {
        "ssh_authorized_keys": [fresh.key.with_suffix(".pub").read_text().strip()],
        "locale": "en_XX.UTF-8",
        "runcmd": ["sleep 40", "touch /root/first-boot-ended"],
    }
    (fresh.folder / "user-data").write_text(f"#cloud-config\n{yaml.safe_dump(seed)}")
    (fresh.folder / "meta-data").write_text("instance-id: one\n")
    fresh.inside("mkdir -p /var/lib/cloud/seed/nocloud")
    for name in ("user-data", "meta-data"):
        copy = ["docker", "cp", str(fresh.folder / name), f"{fresh.name}:/var/lib/cloud/seed/nocloud/"]
        subprocess.run(copy, check=True, stdout=subprocess.DEVNULL)
    fresh.reboot()
    checkout.run(*SECURE)
    assert "status: error" in fresh.inside("cloud-init status || true")
    made = fresh.inside(
        "stat -c %Y /root/first-boot-ended /etc/ssh/sshd_config.d/50-cloud-init.conf /etc/sudoers.d/50-access"
    )
    ended, _, secured = made.split()
    assert int(ended) <= int(secured)
    assert fresh.gets_in()
    for user in ("root", "debian"):
        assert "Permission denied" in fresh.login(user, "true").stderr
    assert "permitrootlogin no\n" in fresh.inside("sshd -T")
    assert recap(checkout.run(*SECURE))["changed"] == 0
