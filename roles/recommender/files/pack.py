"""Packs the training job into a tar archive that depends on its files alone, and prints its digest and path.

usage: pack.py SOURCE FOLDER
"""

import hashlib
import io
import os
import sys
import tarfile

PARTS = ("Makefile", "README.md", "pyproject.toml", "requirements.txt", "requirements-dev.txt", "environment.yml",
         "conf", "data", "notebooks", "src", "tests")  # fmt: skip
LEFT_OUT = ("__pycache__", ".egg-info", ".pytest_cache", ".ipynb_checkpoints")


def reset(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Drops what differs between two checkouts of the same files: owner, times, umask."""
    if entry.name.endswith(LEFT_OUT):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


source, folder = sys.argv[1:]
if not os.path.isfile(os.path.join(source, "Makefile")):
    sys.exit(f"recommender_source is {source}: there is no training job (no Makefile) in it")
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
    for part in PARTS:
        if os.path.exists(os.path.join(source, part)):
            archive.add(os.path.join(source, part), part, filter=reset)
digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:12]
path = os.path.join(folder, f"recommender-{digest}.tar")
with open(path, "wb") as file:
    file.write(buffer.getvalue())
print(digest, path)
