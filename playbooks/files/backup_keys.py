"""Keeps a server's keys of copies on this machine: NAME.key encrypts them, NAME.ssh logs in where they go.

Standard input has them in base64, a line each: those of a vault, then those of the server; an empty line where there is
none. `make` makes new ones where there are none, `take` refuses. What is here already stays.
"""

import base64
import os
import pathlib
import secrets
import subprocess
import sys


def keep(path: pathlib.Path, content: bytes) -> None:
    if not path.exists():
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.rename(path)


def ssh_key(folder: pathlib.Path, name: str) -> bytes:
    path = folder / f".{name}.new"
    for old in folder.glob(f".{name}.new*"):
        old.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"copies of {name}", "-f", path], check=True)
    content = path.read_bytes()
    for new in folder.glob(f".{name}.new*"):
        new.unlink()
    return content


def main(folder: pathlib.Path, name: str, make: bool, there: str) -> None:
    lines = [base64.b64decode(line) for line in [*there.split("\n"), "", "", "", ""][:4]]
    key, ssh = lines[0] or lines[2], lines[1] or lines[3]
    if not make and not key and not (folder / f"{name}.key").exists():
        sys.exit(
            f"The copies of {name} cannot be read without their key, and neither {folder} nor the server has it. Copy"
            f" {name}.key and {name}.ssh from the machine that set the server up, or set backup_key and backup_ssh_key,"
            " which make backup-key printed there."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep(folder / f"{name}.key", (key and key.strip() + b"\n") or f"{secrets.token_urlsafe(30)}\n".encode())
    if not (folder / f"{name}.ssh").exists():
        keep(folder / f"{name}.ssh", (ssh and ssh.strip() + b"\n") or ssh_key(folder, name))
    public = subprocess.run(["ssh-keygen", "-y", "-f", folder / f"{name}.ssh"], check=True, capture_output=True)
    keep(folder / f"{name}.ssh.pub", public.stdout)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "make", sys.stdin.read())
