"""Shared by the site's tests: a checkout, and views of a server from outside."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Checkout:
    """A copy of what git would clone; only .venv and .cache are shared with the checkout that is tested."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                # make test FAST=1 tries all of it through mitogen
                if name == "ANSIBLE_STRATEGY" or not name.startswith(("ANSIBLE_", "MAKE", "MOLECULE_"))
            },
            "NO_COLOR": "1",
            # Nepal's time without zone files: neither UTC nor a whole hour
            "TZ": "<+0545>-05:45",
        }
        files = subprocess.check_output(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, text=True)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
        (ROOT / ".cache").mkdir(exist_ok=True)
        for shared in (".venv", ".cache"):
            (folder / shared).symlink_to(ROOT / shared)

    def run(self, *command: str, code: int = 0, fast: bool = False) -> str:
        """Output of a command in the checkout, which must end with the code named; fast: through mitogen."""
        environment = self.environment | ({"ANSIBLE_STRATEGY": "fast"} if fast else {})
        result = subprocess.run(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(f"$ {' '.join(command)}\n{result.stdout}")
        # repeated here: a report may omit the middle of long output
        failed = re.findall(r"^(?:fatal|failed|\[ERROR\]): .*(?:\n +.*)*|^FAILED on [\s\S]+", result.stdout, re.M)
        ended = result.returncode
        assert ended == code, "\n".join(
            [f"{command} ended with {ended}, wanted {code}", *(failed or result.stdout.splitlines()[-5:])]
        )
        return result.stdout


def recap(output: str) -> dict[str, int]:
    """Counts of the last PLAY RECAP, summed over its hosts."""
    lines = re.findall(r"^\S+ +: (ok=.*)$", output.rsplit("PLAY RECAP", 1)[1], re.M)
    assert lines
    counts: dict[str, int] = {}
    for line in lines:
        for name, value in re.findall(r"(\w+)=(\d+)", line):
            counts[name] = counts.get(name, 0) + int(value)
    return counts


# Ten processes with 2,000 ports each at a time, because a process may not have many more files open. Each port has
# 1.5 s, within which the kernel asks twice: where everything is dropped, two addresses take 10 to 15 s.
SCAN = """
import errno, os, select, socket, sys, time
part = next((part for part in range(9) if os.fork() == 0), 9)
left = [(address, port) for port in range(part, 65536, 10) if port for address in sys.argv[1:]]
waiting, poll, found = {}, select.poll(), ""
while left or waiting:
    while left and len(waiting) < 2000:
        s = socket.socket(socket.AF_INET6 if ":" in left[-1][0] else socket.AF_INET)
        s.setblocking(False)
        error = s.connect_ex(left[-1])
        assert error in (0, errno.EINPROGRESS, errno.ECONNREFUSED), (left[-1], errno.errorcode[error])
        poll.register(s, select.POLLOUT)
        waiting[s.fileno()] = (s, *left.pop(), time.monotonic() + 1.5)
    for number, _ in poll.poll(200):
        s, address, port, _ = waiting.pop(number)
        poll.unregister(number)
        if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            found += f"{address} {port}\\n"
        s.close()
    while waiting and next(iter(waiting.values()))[3] < time.monotonic():
        number, (s, *_) = next(iter(waiting.items()))
        del waiting[number]
        poll.unregister(number)
        s.close()
os.write(1, found.encode())
if part < 9:
    sys.exit()
assert not any(os.wait()[1] for _ in range(9))
"""


def addresses(container: str) -> list[str]:
    """The container's addresses on its network: IPv4, and IPv6 where the Docker host's kernel has it."""
    command = "ip -oneline address show dev eth0 scope global; ls -d /proc/sys/net/ipv6 2>/dev/null || true"
    output = subprocess.check_output(["docker", "exec", container, "sh", "-c", command], text=True)
    found = re.findall(r"inet6? ([\da-f.:]+)/", output)
    assert any(":" in address for address in found) == ("/proc/sys/net/ipv6" in output), output
    return found


def open_ports(container: str) -> dict[str, set[int]]:
    """TCP ports that a second container finds open, of all 65535, by address of the first."""
    image = subprocess.check_output(["docker", "inspect", "--format", "{{.Config.Image}}", container], text=True)
    command = ["docker", "run", "--rm", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN",
               "--security-opt", "apparmor=unconfined", "--entrypoint", "sh", image.strip(),
               "-c", 'container-network && exec python3 -c "$0" "$@"', SCAN, *addresses(container)]  # fmt: skip
    found: dict[str, set[int]] = {address: set() for address in addresses(container)}
    for line in subprocess.check_output(command, text=True).splitlines():
        address, port = line.split()
        found[address].add(int(port))
    return found


def only_open(container: str, *ports: int) -> bool:
    """Whether another machine finds these TCP ports open and no others, at each of the server's addresses."""
    found = open_ports(container)
    print(found)
    return all(found_there == set(ports) for found_there in found.values())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def shared_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The checkout whose `make up` server several modules use; what is left of it goes at the end."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    yield checkout
    subprocess.run(["make", "down"], cwd=checkout.folder, env=checkout.environment, check=False)


@pytest.fixture(scope="module")
def settings(checkout: Checkout) -> dict[str, Any]:
    """What the inventory says of the server of `make up`, templates resolved."""
    names = ("cloud_server_name", "ansible_port", "ansible_private_key_file")
    variables = {name: "{{ " + name + " }}" for name in names}
    output = checkout.run(".venv/bin/ansible", "local-server", "-m", "debug", "-a", json.dumps({"msg": variables}))
    return {name: re.search(rf"{name}: ['\"]?(.*?)['\"]?$", output, re.M)[1] for name in names}  # type: ignore[index]


@pytest.fixture
def ssh(checkout: Checkout, settings: dict[str, Any]) -> Any:
    def run(
        user: str, *command: str, options: tuple[str, ...] = (), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        connection = ["-p", settings["ansible_port"], "-i", settings["ansible_private_key_file"]]
        policy = ["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.local/known_hosts"]
        return subprocess.run(
            ["ssh", *connection, *policy, *options, f"{user}@127.0.0.1", *command],
            cwd=checkout.folder, capture_output=True, text=True, input=stdin, timeout=600,
        )  # fmt: skip

    return run


class Tunnel:
    """`make tunnel` and its output. Raises AssertionError if it ends before the awaited words."""

    def __init__(self, checkout: Checkout, *arguments: str) -> None:
        self.process = subprocess.Popen(
            ["make", "tunnel", *arguments], cwd=checkout.folder, env=checkout.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.output = ""

    def wait_for(self, words: str) -> None:
        assert self.process.stdout
        # ends the output, and so the loop
        deadline = threading.Timer(180, os.killpg, [self.process.pid, signal.SIGKILL])
        deadline.start()
        try:
            while words not in self.output:
                line = self.process.stdout.readline()
                self.output += line
                assert line, f"no {words} before the deadline or the end: {self.output}"
        finally:
            deadline.cancel()

    def links(self) -> dict[str, str]:
        """What stands beside each service, by its name."""
        self.wait_for("Ctrl-C")
        return dict(re.findall(r"^  (\S.*?) +(http\S+)", self.output, re.M))

    def children(self) -> list[int]:
        """Ids of the ssh processes that it started."""
        found = subprocess.run(["pgrep", "-g", str(self.process.pid), "-x", "ssh"], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def close(self) -> None:
        """Ctrl-C, as a terminal sends it: to everything in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.output += self.process.communicate(timeout=20)[0]


@contextmanager
def tunnel(checkout: Checkout, *arguments: str) -> Iterator[dict[str, str]]:
    """Links that `make tunnel` prints, while it is open: of the analyst's Jupyter, MLflow …"""
    opened = Tunnel(checkout, *arguments)
    try:
        links = opened.links()
        yield links | {"jupyter": links["jupyter of analyst"]}
    finally:
        opened.close()


def get(url: str) -> Any:
    """Content of a page. Names of the loopback are resolved as browsers do it; not every system does."""
    address = re.sub(r"^(http://)[\w-]+\.localhost(?=[:/])", r"\g<1>127.0.0.1", url)
    request = urllib.request.Request(address, headers={"Host": urllib.parse.urlsplit(url).netloc})
    with urllib.request.urlopen(request, timeout=20) as answer:
        body = answer.read()
    return json.loads(body) if answer.headers["Content-Type"].startswith("application/json") else body.decode()


class Vultr:
    """A checkout whose inventory/vultr has a fresh server in its one line.

    The server trusts the user's key for root. An agent holds the key; nothing names it to Ansible.
    """

    def __init__(self, checkout: Checkout, home: pathlib.Path, state: pathlib.Path, name: str = "vultr") -> None:
        self.checkout, self.state, self.key = checkout, state, home / ".ssh/id_ed25519"
        self.container = f"{name}-{os.getpid()}"
        self.mine = checkout.folder / "inventory/vultr/group_vars/all/zz-mine.yml"
        self.hosts = checkout.folder / "inventory/vultr/hosts.yml"
        self.key.parent.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.agent = subprocess.Popen(["ssh-agent", "-D", "-a", home / "agent"], stdout=subprocess.DEVNULL)
        checkout.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": str(home / "agent")}
        add = "timeout 10 sh -c 'until ssh-add -q .ssh/id_ed25519; do sleep 0.2; done'"
        subprocess.run(add, shell=True, cwd=home, env=checkout.environment, check=True)

    def create(self, name: str, suite: str, port: int, **settings: object) -> str:
        """Makes a container; returns its address."""
        container = {
            "cloud_server_vendor": "local", "cloud_server_name": name, "cloud_server_image": suite,
            "cloud_server_local_key": str(self.key), "cloud_server_local_known_hosts": str(self.state / "known_hosts"),
            "ansible_host": "127.0.0.1", "ansible_port": port, **settings,
        }  # fmt: skip
        (self.state / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"bare": container}}}))
        self.checkout.run(".venv/bin/ansible-playbook", "playbooks/create.yml", "-i", str(self.state / "hosts.yml"))
        inspect = json.loads(subprocess.check_output(["docker", "inspect", name]))[0]
        return str(inspect["NetworkSettings"]["IPAddress"])

    def start(self, suite: str) -> None:
        select = [ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"]
        # variables for a host that cannot reach conda's own hosts; empty where they answer
        fixture = subprocess.check_output(select, env=self.checkout.environment, text=True).strip()
        volumes = [f"{pathlib.Path(fixture).parent}:/srv/conda-fixture:ro"] if fixture else []
        if fixture:
            self.mine.write_text(pathlib.Path(fixture).read_text())
        port = 20000 + os.getpid() % 12000
        self.address = self.create(self.container, suite, port, cloud_server_local_volumes=volumes)
        text = self.hosts.read_text()
        assert text.count("ansible_host: 203.0.113.10") == 1
        self.hosts.write_text(text.replace("203.0.113.10", self.address))

    def speak_german(self) -> None:
        """German for every login on the server, and for the checkout's own commands."""
        make = """
        apt-get install -qy --no-install-recommends locales
        localedef -i de_DE -f UTF-8 de_DE.UTF-8
        printf 'LANG=de_DE.UTF-8\nLANGUAGE=de\n' > /etc/default/locale
        """
        inside = ["docker", "exec", self.container, "sh", "-ec", make]
        subprocess.run(inside, check=True, stdout=subprocess.DEVNULL)
        # not --quiet, which Debian 12's client does not know
        copy = ["docker", "cp", f"{self.container}:/usr/share/i18n", str(self.state)]
        subprocess.run(copy, check=True, stdout=subprocess.DEVNULL)
        (self.state / "locale").mkdir()
        target = str(self.state / "locale/de_DE.UTF-8")
        compile_here = ["localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", target]
        subprocess.run(compile_here, env={**os.environ, "I18NPATH": str(self.state / "i18n")}, check=True)
        german = {
            "LC_ALL": "de_DE.UTF-8",
            "LANG": "de_DE.UTF-8",
            "LANGUAGE": "de",
            "LOCPATH": str(self.state / "locale"),
        }
        self.checkout.environment |= german

    def end(self) -> None:
        # first: where no container was made, its removal may fail
        self.agent.terminate()
        subprocess.run(["docker", "rm", "-f", self.container], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def vultr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vultr]:
    """The server that two modules use, one after the other: Debian 12, and both ends speak German."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    vultr = Vultr(checkout, tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("state"))
    try:
        vultr.start("bookworm")
        vultr.speak_german()
        yield vultr
    finally:
        vultr.end()
