"""Everything that `make test` runs, one test a part; each is a command that a person can type as well."""

import os
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTEST = "pytest -x -v --durations=0 --durations-min=5"
PARTS = {
    "lint-ansible-lint": "ansible-lint",
    "lint-yamllint": "yamllint --strict $(git ls-files -co --exclude-standard '*.yml' '*.yaml')",
    "lint-ruff": "ruff check . bin/models bin/tunnel && ruff format --check . bin/models bin/tunnel",
    # not every role has each of these folders; elsewhere a pattern that finds nothing is an error
    "lint-mypy": "shopt -s nullglob; mypy --scripts-are-modules bin/*.py bin/models bin/tunnel bench molecule tests"
    " {inventory,playbooks}/plugins playbooks/{files,filter_plugins,strategy_plugins}"
    " roles/*/{library,{action,filter}_plugins} roles/*/files/{,*/}*.py",
    "lint-shellcheck": "shellcheck .ci/run {bench,bin,tests}/*.sh"
    " {molecule/conda_fixture,roles/cloud_server/files/local}/*.sh",
    "unit": "pytest -q --import-mode=importlib --ignore-glob='*/with_mlflow' tests/unit roles/*/tests",
    # One process: a second would import, compile and prepare the same again. Compiling the environment's modules when
    # they are imported takes a quarter of compiling all; they must be kept.
    "unit-training": "unset PYTHONDONTWRITEBYTECODE; make -C ml test COMPILE= ARGS='-n 0'"
    # its types are checked against its own environment, which has numpy and pydantic
    " && (cd ml && mypy --python-executable .venv/bin/python src)"
    # the other tests that need MLflow
    " && ml/.venv/bin/python -m pytest -q --import-mode=importlib roles/*/tests/with_mlflow",
    # the models and the client are those of the tests of ml
    "image": f"unset PYTHONDONTWRITEBYTECODE; make -C ml .venv/.complete COMPILE= && {PYTEST} tests/image",
    # those of one entry share a server
    "site-up": f"{PYTEST} tests/site/test_{{up,workbench,down}}.py",
    "site-lockout": f"{PYTEST} tests/site/test_lockout.py",
    "site-portability": f"{PYTEST} tests/site/test_portability.py",
    "site-upgrade": f"{PYTEST} tests/site/test_upgrade.py",
    "site-vultr": f"{PYTEST} tests/site/test_{{vultr,promotion}}.py",
    "cloud": f"{PYTEST} tests/cloud",
    **{
        # molecule keys this folder on the role's name alone: two checkouts would share it
        f"molecule-{role}": f"cd roles/{role} && "
        f"MOLECULE_EPHEMERAL_DIRECTORY='{ROOT}/.cache/molecule/{role}' molecule test --all"
        # a role that is one module has unit tests alone
        for role in sorted(path.parent.name for path in ROOT.glob("roles/*/molecule"))
    },
}
# The longest first, so that the workers end at about the same time; a quick one behind each of the first four, because
# each worker is handed two to begin with.
FIRST = [
    "site-vultr", "lint-yamllint", "site-lockout", "lint-ruff", "molecule-mlflow_server", "lint-shellcheck",
    "site-up", "lint-mypy", "molecule-ssh_hardening", "molecule-spark_cluster", "molecule-firewall", "molecule-conda",
    "molecule-jupyter_screen", "site-upgrade", "cloud", "image", "unit-training", "molecule-backup",
    "molecule-model_server", "molecule-recommender",
]  # fmt: skip
# What the names of a part's containers begin with, where it is not the part's own name.
CONTAINERS = {
    "cloud": ("cloud-",), "image": ("image-",), "site-up": ("bare-server-", "chromium-"),
    "site-vultr": ("vultr-", "promotion-"),
}  # fmt: skip
# Docker's folders of control groups: version 1, version 2 under systemd, version 2 without. Elsewhere there are none.
GROUPS = (
    ("cpuacct/docker/*/cpuacct.usage", r"(\d+)", 1e9),
    ("system.slice/docker-*.scope/cpu.stat", r"usage_usec (\d+)", 1e6),
    ("docker/*/cpu.stat", r"usage_usec (\d+)", 1e6),
)


class Servers(threading.Thread):
    """Processor seconds of the containers that a part starts, read every second until it ends."""

    def __init__(self, part: str, root: str = "/sys/fs/cgroup") -> None:
        super().__init__(daemon=True)
        self.names = CONTAINERS.get(part, (part.partition("-")[2].replace("_", "-") + "-",))
        self.root = pathlib.Path(root)
        self.ended = threading.Event()
        self.ours: dict[str, bool] = dict.fromkeys(self.read(), False)
        # of each container: the seconds of its lives before the last, and of that one
        self.used: dict[str, tuple[float, float]] = {}

    def read(self) -> dict[str, float]:
        """Processor seconds of each container that runs, by its id."""
        found: dict[str, float] = {}
        for pattern, number, unit in GROUPS:
            for path in self.root.glob(pattern):
                # one that ends at this moment has no number any more
                try:
                    value = re.search(number, path.read_text())
                except OSError:
                    continue
                if value:
                    container = path.parent.name.removeprefix("docker-").removesuffix(".scope")
                    found[container] = int(value[1]) / unit
        return found

    def is_ours(self, container: str) -> bool:
        command = ["docker", "inspect", "--format", "{{.Name}}", container]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip().removeprefix("/")
        return name.startswith(self.names)

    def sample(self) -> None:
        for container, seconds in self.read().items():
            if container not in self.ours:
                self.ours[container] = self.is_ours(container)
            if self.ours[container]:
                before, last = self.used.get(container, (0.0, 0.0))
                # a restart begins at zero
                self.used[container] = (before + last if seconds < last else before, seconds)

    def run(self) -> None:
        while not self.ended.wait(1):
            self.sample()

    def seconds(self) -> float:
        return sum(map(sum, self.used.values()))


@pytest.mark.parametrize("part", [*FIRST, *(part for part in PARTS if part not in FIRST)])
def test_part(part: str) -> None:
    """Its output goes to .cache/logs while it runs, and is shown by pytest when it fails."""
    # MAKEFLAGS would hand this make's own ARGS to the makes below it
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"NO_COLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    log = ROOT / ".cache" / "logs" / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["bash", "-e", "-c", PARTS[part]]
    with log.open("w") as file:
        before, began, servers = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), Servers(part)
        servers.start()
        result = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        servers.ended.set()
        servers.join()
        file.write(
            f"\n{used:.0f} processor seconds of this machine's own programs, {servers.seconds():.0f} of the servers,"
            f" {time.monotonic() - began:.0f} s from start to end: {part}\n"
        )
    if result.returncode != 0:
        output = log.read_text()
        sys.stdout.write(output)
        # repeated in the summary: a report may omit the middle of long output
        telling = "\n".join(re.findall(r"^.*?\b(?:E   |FAILED |(?:fatal|failed): (?:.*\n){0,6}).*", output, re.M))
        pytest.fail(f"{PARTS[part]}\nended with {result.returncode}\n{telling[-3000:]}", pytrace=False)
