"""Packs the training job into a tar archive that depends on its files alone.

Prints the digest of the archive, the digest of the parts that a model is made from, the commit they are of, and the
archive's path. The commit is the last one that touched the job, with a + where files differ from it; - without git.

usage: pack.py SOURCE FOLDER
"""

import contextlib
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

TRAINED_FROM = ("Makefile", "requirements.txt", "conf", "data", "src")
BESIDE = ("README.md", "pyproject.toml", "requirements-dev.txt", "environment.yml", "notebooks", "tests")
LEFT_OUT = ("__pycache__", ".egg-info", ".pytest_cache", ".ipynb_checkpoints")


def reset(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Drops what differs between two checkouts of the same files: owner, times, umask."""
    if entry.name.endswith(LEFT_OUT):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def pack(source: str, parts: tuple[str, ...]) -> bytes:
    """Returns the archive of those parts that are there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for part in parts:
            if os.path.exists(os.path.join(source, part)):
                archive.add(os.path.join(source, part), part, filter=reset)
    return buffer.getvalue()


def commit(source: str) -> str:
    """Returns what git says of the folder."""

    def git(*question: str) -> str:
        command = ["git", "-C", source, *question, "--", "."]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    last = git("log", "-1", "--format=%H") if shutil.which("git") else ""
    return last + ("+" if git("status", "--porcelain") else "") if last else "-"


source, folder = sys.argv[1:]
if not os.path.isfile(os.path.join(source, "Makefile")):
    sys.exit(f"recommender_source is {source}: there is no training job (no Makefile) in it")
archive = pack(source, TRAINED_FROM + BESIDE)
digest, inputs = (hashlib.sha256(data).hexdigest()[:12] for data in (archive, pack(source, TRAINED_FROM)))
os.makedirs(folder, mode=0o700, exist_ok=True)
for earlier in pathlib.Path(folder).glob("recommender-*"):
    # a younger one may be about to be read by another run, and an older one be removed by it
    with contextlib.suppress(FileNotFoundError):
        if earlier.stat().st_mtime < time.time() - 86400:
            earlier.unlink()
path = os.path.join(folder, f"recommender-{digest}.tar")
with tempfile.NamedTemporaryFile(dir=folder, prefix="recommender-", delete=False) as file:
    file.write(archive)
os.replace(file.name, path)
print(digest, inputs, commit(source), path)
