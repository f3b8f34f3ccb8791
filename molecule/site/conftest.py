"""What the tests of the whole site share: a checkout of their own, and ways to look at a server from outside."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Checkout:
    """A copy of what git would clone; only .venv and .cache are shared with the checkout that is tested."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("ANSIBLE_", "MAKE", "MOLECULE_"))
            },
            "NO_COLOR": "1",
        }
        files = subprocess.check_output(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, text=True)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
        (ROOT / ".cache").mkdir(exist_ok=True)
        for shared in (".venv", ".cache"):
            (folder / shared).symlink_to(ROOT / shared)

    def run(self, *command: str, code: int = 0) -> str:
        """Output of a command in the checkout, which must end with the code named."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(f"$ {' '.join(command)}\n{result.stdout}")
        # named here as well: a report of a failure may leave out the middle of what was printed
        failed = re.findall(r"^(?:fatal|failed|\[ERROR\]): .*(?:\n +.*)*", result.stdout, re.M)
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


def open_ports(address: str, image: str) -> set[int]:
    """TCP ports of the address that a second container finds open: all below 1024, and those of our services."""
    script = """
import concurrent.futures, socket, sys
def probe(port):
    try:
        socket.create_connection((sys.argv[1], port), 1.5).close()
        return port
    except OSError:
        return None
with concurrent.futures.ThreadPoolExecutor(300) as pool:
    print(*filter(None, pool.map(probe, [*range(1, 1024), 2222, 3000, 5000, 5432, 8000, 8080, 8888, 9000])))
"""
    command = ["docker", "run", "--rm", "--entrypoint", "python3", image, "-c", script, address]
    return {int(port) for port in subprocess.check_output(command, text=True).split()}


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
    names = ("container_name", "ansible_port", "ansible_private_key_file")
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
    """`make tunnel` and what it has printed; its end, where words are waited for, is an AssertionError."""

    def __init__(self, checkout: Checkout, *arguments: str) -> None:
        self.process = subprocess.Popen(
            ["make", "tunnel", *arguments], cwd=checkout.folder, env=checkout.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.output = ""

    def wait_for(self, words: str) -> None:
        assert self.process.stdout
        while words not in self.output:
            line = self.process.stdout.readline()
            self.output += line
            assert line, self.output

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
