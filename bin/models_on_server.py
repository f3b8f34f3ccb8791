"""Sent to a server by bin/models and run there by root: takes code and archive from standard input, runs one verb.

argv: JSON with size and sha256 of the input, command (arguments of `python -m recommender`), python, environment,
environment_file (credentials, if it is there), lock (the environment that is changed, or null), by, output (a file
that the command writes and that goes to standard output, or null).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from typing import Any, NoReturn

ROOT = pathlib.Path("/var/lib/recommender-registry")
# Seconds without a byte after which the connection counts as lost.
SILENCE = 60
# Who holds a lock for moments: recommender.promotion.service while it follows a moved champion, and mlflow-admin save.
# And seconds to wait for them.
BRIEF, PATIENCE = ("the follower of the model server", "a copy of MLflow's database"), 120
# Exit codes: of sysexits.h, temporary failures.
BUSY = UNFINISHED = 75


def stop(message: str, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def locked(environment: str, by: str) -> int:
    """A descriptor that holds an environment's lock; the command inherits it until its end."""
    path = ROOT / f"{environment}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    # an earlier release left it readable, and an account that can read a file can lock it
    os.fchmod(lock, 0o600)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8", errors="replace") or "somebody"
            if not holder.startswith(BRIEF) or time.monotonic() > end:
                stop(
                    f"{environment} is being changed by {holder}. Nothing was done; try again when that has ended.",
                    BUSY,
                )
            time.sleep(0.2)
    os.ftruncate(lock, 0)
    os.write(lock, f"{by}, process {os.getpid()}".encode())
    return lock


def receive(path: pathlib.Path, size: int, digest: str) -> None:
    """Standard input into a file; ends the process when the other side falls silent or goes away before the end."""
    seal, got = hashlib.sha256(), 0
    with path.open("wb") as file:
        while got < size:
            ready, _, _ = select.select([0], [], [], SILENCE)
            part = os.read(0, min(1 << 20, size - got)) if ready else b""
            if not part:
                stop(f"The connection was lost after {got} of {size} bytes; nothing was changed.", UNFINISHED)
            file.write(part)
            seal.update(part)
            got += len(part)
    if seal.hexdigest() != digest:
        stop("What arrived is not what was sent; nothing was changed.", UNFINISHED)


def credentials(path: str) -> dict[str, str]:
    """NAME=value lines of a file; none where there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {}


def main(request: dict[str, Any]) -> int:
    os.umask(0o022)
    ROOT.mkdir(exist_ok=True)
    if not os.path.exists(request["python"]):
        stop(f"{request['python']} is not there: run site.yml --tags tracking first.")
    if request["lock"]:
        lock = [locked(request["lock"], request["by"])]
        work = ROOT / request["lock"]
        # what a killed run left
        shutil.rmtree(work, ignore_errors=True)
        # other accounts must not see a version that may be refused
        work.mkdir(mode=0o700)
    else:
        for stale in ROOT.glob("read.*"):
            if stale.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(stale, ignore_errors=True)
        lock, work = [], pathlib.Path(tempfile.mkdtemp(dir=ROOT, prefix="read."))
    try:
        receive(work / "request.zip", request["size"], request["sha256"])
        with zipfile.ZipFile(work / "request.zip") as archive:
            archive.extractall(work)
        (work / "request.zip").unlink()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "TMPDIR": str(work),
            "PYTHONPATH": str(work / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **credentials(request["environment_file"]),
            **request["environment"],
        }
        command = [request["python"], "-m", "recommender", *request["command"]]
        # standard output is the file's alone
        out = sys.stderr if request["output"] else None
        code = subprocess.run(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=out, pass_fds=lock
        ).returncode
        if code == 0 and request["output"]:
            with (work / request["output"]).open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
        return code
    except OSError as error:
        stop(f"{error}; the champion is as it was.")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
