"""For the tests of AWS and Google: a checkout, the packages of both vendors, and a playbook run with them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCK = pathlib.Path(__file__).with_name("sdk.txt")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDcTm4zZGMMtyO9sBDPzmaPWX8sVSSMIxkPdUFGmtQZi test"


def environment(lock: pathlib.Path = LOCK) -> pathlib.Path:
    """The Python that has what the lock pins; made again when the lock is another."""
    folder = ROOT / f".cache/cloud-{lock.stem}"
    python, made_from = folder / "bin/python", folder / "lock.txt"
    if not made_from.exists() or made_from.read_bytes() != lock.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["uv", "--quiet", "venv", "--python", sys.executable, folder], check=True)
        sync = ["uv", "--quiet", "pip", "sync", "--compile-bytecode", "--require-hashes"]
        subprocess.run([*sync, "--python", str(python), str(lock)], check=True)
        shutil.copy(lock, made_from)
    return python


class Checkout:
    """A copy of what git would clone, for the verbs write into the inventory."""

    def __init__(self, folder: pathlib.Path, vendor: str, variables: dict[str, str], python: pathlib.Path) -> None:
        self.said = ""
        self.folder, self.vendor, self.python = folder / "checkout", vendor, python
        files = subprocess.check_output(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, text=True)
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name, follow_symlinks=False)
        # these servers do not answer SSH: programs that always succeed take the place of it
        programs = folder / "programs"
        programs.mkdir()
        for name, does in (("ssh-keyscan", f'for last; do :; done; echo "$last {KEY}"'), ("ssh", "cat >/dev/null")):
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)
        ours = ("ANSIBLE_", "MAKE", "MOLECULE_", "AWS_", "GCP_", "GOOGLE_", "AZURE_", "VULTR_", "DO_", "HCLOUD_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PATH": f"{programs}:{ROOT / '.venv/bin'}:{os.environ['PATH']}", "NO_COLOR": "1",
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "TZ": "<+0545>-05:45",
            "ANSIBLE_STDOUT_CALLBACK": "default",
            # one Python process a run: the vendors' packages are imported once, not for each task
            "ANSIBLE_STRATEGY": "fast",
            **variables,
        }  # fmt: skip

    def run(self, verb: str, name: str = "shop-dev", code: int = 0, **settings: Any) -> str:
        """Words of the output of playbooks/VERB.yml for this server, which must end with the code."""
        given = {
            "cloud_server_environment": "dev", "cloud_server_yes": True, "ansible_python_interpreter": str(self.python),
            "operator_keys": [KEY], **settings,
        }  # fmt: skip
        hosts = ["-i", f"inventory/{self.vendor}/hosts.yml", "-i", f"{name},", "--limit", name]
        where = ["-i", "localhost,"] if verb == "cost" else hosts
        command = ["ansible-playbook", f"playbooks/{verb}.yml", *where, "-e", json.dumps(given)]
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(f"$ {' '.join(command)}\n{result.stdout}")
        self.said += result.stdout
        assert result.returncode == code, result.stdout[-3000:]
        # YAML breaks long lines
        return " ".join(result.stdout.split())

    def holds(self, secret: str) -> bool:
        """Whether it was printed, or is in a file that git would not bring."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and "tests" not in path.parts]
        return secret in self.said or any(secret.encode() in path.read_bytes() for path in files)
