"""What the tests of the whole site share: a checkout of their own, and ways to look at a server from outside."""

import os
import pathlib
import re
import shutil
import subprocess

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
        assert result.returncode == code, f"{command} ended with {result.returncode}, wanted {code}"
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
