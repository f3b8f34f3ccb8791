#!/usr/bin/env python3
"""Times the whole site on new throw-away servers and prints three tables.

The first run, beside a shell script that only downloads, installs and trains. The run that changes nothing, through
mitogen too and by Ansible's own defaults, beside one command over an open SSH connection for each of its tasks. One
change, from the command to the login that proves it. Wheels come from the cache of the local servers: where it is
empty, the first table tells of the network. Needs Linux, since the port moves at the container's own address.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = f"bench-site-{os.getpid()}"
# what plain Ansible lacks to run this site at all
DEFAULTS = """
[defaults]
roles_path = {root}/roles
vars_plugins = {root}/inventory/plugins/vars
"""
# as small as it can be: one transaction of apt, one uv for three environments, no MLflow server
FLOOR = """
export DEBIAN_FRONTEND=noninteractive UV_CACHE_DIR=/var/cache/uv UV_COMPILE_BYTECODE=1 CONDARC=/root/condarc
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
apt-get update -q
apt-get install -qy $PACKAGES
curl -fsSL -o /root/conda.sh "$INSTALLER"
bash /root/conda.sh -b -u -p /opt/conda
env=/opt/conda/envs/recommender
/opt/conda/bin/conda create -qy -p $env --override-channels -c conda-forge 'python>=3.11,<3.14' pip
cd /root/ml
awk '/^[^ #]/ { uv = /^uv==/ } uv' requirements.txt > /root/uv.txt
$env/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes -r /root/uv.txt
$env/bin/uv pip install -q --python $env/bin/python --require-hashes -r requirements.txt
for role in jupyter_screen mlflow_server; do
  python3 -m venv --without-pip /opt/$role
  $env/bin/uv pip sync -q --python /opt/$role/bin/python --require-hashes /root/$role.txt
done
sync
PYTHONPATH=src $env/bin/python -m recommender train --tracking-uri sqlite:////root/mlflow.db --report /root/report.json
"""


def run(*command: str, **variables: str) -> tuple[float, str]:
    """Wall seconds and output of a command. Raises SystemExit with its output when it fails."""
    began = time.perf_counter()
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-4000:]}")
    return time.perf_counter() - began, result.stdout


class Server:
    """A new container, and an inventory that reaches it at its own address like a vendor's server."""

    def __init__(self, folder: pathlib.Path, conda: dict[str, object]) -> None:
        self.folder, self.name, self.key = folder, f"{NAME}-{folder.name}", str(folder / "id_ed25519")
        self.inventory, self.finished = folder / "inventory", False
        self.settings = self.inventory / "group_vars/all"
        self.settings.mkdir(parents=True)
        container = {
            "cloud_server_vendor": "local", "cloud_server_name": self.name, "cloud_server_image": "trixie",
            "cloud_server_local_key": self.key, "cloud_server_local_known_hosts": str(folder / "created"),
            "cloud_server_local_volumes": conda.get("cloud_server_local_volumes", []),
            "ansible_host": "127.0.0.1", "ansible_port": 20000 + (os.getpid() + len(folder.name)) % 12000,
        }  # fmt: skip
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"desk": container}}}))
        run("ansible-playbook", "playbooks/create.yml", "-i", str(folder / "hosts.yml"))
        inspect = json.loads(run("docker", "inspect", self.name)[1])[0]
        self.address = str(inspect["NetworkSettings"]["IPAddress"])
        hosts = {"dev": {"hosts": {"desk": {"ansible_host": self.address}}}, "staging": {}, "prod": {}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
        (self.inventory / "groups.yml").symlink_to(ROOT / "inventory/groups.yml")
        for name in ("settings", "wiring"):
            (self.settings / f"00-{name}.yml").symlink_to(ROOT / f"inventory/{name}.yml")
        options = {name: value for name, value in conda.items() if name.startswith("conda_")} | {
            "first_login_user": "root", "ansible_private_key_file": self.key,
            "trusted_addresses": [inspect["NetworkSettings"]["Gateway"]],
            "ansible_ssh_common_args": f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={folder}/known",
        }  # fmt: skip
        (self.settings / "10-vendor.yml").write_text(yaml.safe_dump(options))

    def site(self, *options: str, **variables: str) -> tuple[float, int]:
        """Seconds of a run of site.yml, and how many tasks it ran.

        Raises:
            SystemExit: it fails, or changes something though it has no options and its server was finished.
        """
        seconds, output = run("ansible-playbook", "site.yml", "-i", str(self.inventory), *options, **variables)
        ok, changed = map(int, re.findall(r"^desk .*ok=(\d+) +changed=(\d+)", output, re.M)[-1])
        if changed and self.finished and not options:
            raise SystemExit(f"{changed} tasks changed something:\n{output[-4000:]}")
        self.finished = True
        return seconds, ok

    def ssh(self, *command: str, user: str = "deploy", port: int = 22) -> float:
        options = ["BatchMode=yes", "ControlMaster=auto", "ControlPersist=20", f"ControlPath={self.folder}/%C",
                   "StrictHostKeyChecking=accept-new", f"UserKnownHostsFile={self.folder}/known"]  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        return run("ssh", "-i", self.key, "-p", str(port), *flags, f"{user}@{self.address}", *command)[0]

    def inside(self, script: str, **variables: str) -> tuple[float, str]:
        given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        return run("docker", "exec", *given, self.name, "bash", "-euo", "pipefail", "-c", script)


def floor(server: Server, packages: set[str], conda: dict[str, object]) -> float:
    """Seconds of the shell script on a new server."""
    defaults = yaml.safe_load((ROOT / "roles/conda/defaults/main.yml").read_text())
    release = str(defaults["conda_version"])
    url = f"https://github.com/conda-forge/miniforge/releases/download/{release}/Miniforge3-{release}-Linux-"
    condarc = json.dumps(conda.get("conda_condarc_extra", {}))
    server.inside("mkdir /root/ml")
    for part in ("src", "conf", "data", "requirements.txt"):
        run("docker", "cp", str(ROOT / "ml" / part), f"{server.name}:/root/ml")
    for role in ("jupyter_screen", "mlflow_server"):
        run("docker", "cp", str(ROOT / f"roles/{role}/files/requirements.txt"), f"{server.name}:/root/{role}.txt")
    installer = str(conda.get("conda_installer_url", f"{url}{os.uname().machine}.sh"))
    server.inside("printf '%s' \"$TEXT\" > /root/condarc", TEXT=condarc)
    return server.inside(FLOOR, PACKAGES=" ".join(sorted(packages)), INSTALLER=installer)[0]


def unchanged(server: Server, rounds: int) -> list[tuple[str, float]]:
    """The shortest of some runs that change nothing, taken in turn, by label."""
    default = server.folder / "default.cfg"
    default.write_text(DEFAULTS.format(root=ROOT))
    tasks = server.site()[1]
    # the smallest of commands, by the account that the site uses, over one connection
    ways: dict[str, Callable[[], float]] = {
        f"floor: `ssh … sudo true`, {tasks} times": lambda: sum(server.ssh("sudo", "-n", "true") for _ in range(tasks)),
        "site.yml": lambda: server.site()[0],
    }
    ways["the same with FAST=1"] = lambda: server.site(ANSIBLE_STRATEGY="fast")[0]
    ways["the same with Ansible's own defaults"] = lambda: server.site(ANSIBLE_CONFIG=str(default))[0]
    times: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(rounds):
        for label, way in ways.items():
            times[label].append(way())
    return [(label, min(seconds)) for label, seconds in times.items()]


def one_change(server: Server) -> list[tuple[str, float]]:
    """A person is added, then sshd's port moves: each to the login that proves it, by label."""
    key = pathlib.Path(f"{server.key}.pub").read_text().strip()
    person = {"name": "ana", "role": "analyst", "keys": [key]}
    people = [
        {"name": "deploy", "role": "operator", "keys": [key]},
        {"name": "analyst", "role": "analyst", "keys": [key]},
    ]
    rows = []
    more: dict[str, object] = {"people": [*people, person]}
    for label, tag, user, port, change in (
        ("a person added: `--tags access`", "access", "ana", 22, more),
        ("ssh_port moved: `--tags ssh_port`", "ssh_port", "deploy", 2222, {**more, "ssh_port": 2222}),
    ):
        (server.settings / "zz-mine.yml").write_text(yaml.safe_dump(change))
        seconds, _ = server.site("--tags", tag)
        rows.append((label, seconds + server.ssh("true", user=user, port=port)))
    return rows


def show(title: str, source: str, rows: list[tuple[str, float]]) -> None:
    """Print a table; ratios are to its first row."""
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.0f}"
    print(f"| {title} ({source}, {load}) | seconds | ratio |\n|---|---|---|")
    for label, seconds in rows:
        print(f"| {label} | {seconds:.1f} | {seconds / rows[0][1]:.2f} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=2, help="runs that change nothing, of each way; 0: none (default: 2)"
    )
    rounds = parser.parse_args().rounds
    select = [ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"]
    fixture = subprocess.run(select, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    conda: dict[str, object] = {}
    if fixture:
        conda = yaml.safe_load(pathlib.Path(fixture).read_text())
        conda["cloud_server_local_volumes"] = [f"{pathlib.Path(fixture).parent}:/srv/conda-fixture:ro"]
    source, manual = "conda's stand-in" if fixture else "Miniforge", "apt-mark showmanual"
    with tempfile.TemporaryDirectory(prefix="bench-site-") as name:
        folders = [pathlib.Path(name, part) for part in ("site", "floor")]
        try:
            ours, bare = (Server(folder, conda) for folder in folders)
            before = set(bare.inside(manual)[1].split())
            first = ours.site()[0]
            least = floor(bare, set(ours.inside(manual)[1].split()) - before, conda)
            run("docker", "rm", "-f", bare.name)
            label = "floor: a shell script that downloads, installs, trains"
            show("the first run", source, [(label, least), ("site.yml", first)])
            if rounds:
                show("the run that changes nothing", source, unchanged(ours, rounds))
            show("one change", source, one_change(ours))
        finally:
            for folder in folders:
                subprocess.run(["docker", "rm", "-f", f"{NAME}-{folder.name}"], capture_output=True, check=False)


if __name__ == "__main__":
    main()
