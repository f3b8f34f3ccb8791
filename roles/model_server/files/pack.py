"""Packs the package `recommender` into a tar archive that depends on its files alone.

Prints as JSON: digest of the archive, and archive (its path).

usage: pack.py SOURCE FOLDER
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile
import time

SENT = (".py", ".html", ".css", ".js")


def pack(source: pathlib.Path) -> bytes:
    """The archive of what the service needs, with nothing in it that differs between two checkouts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(source.rglob("*")):
            if path.suffix not in SENT:
                continue
            content = path.read_bytes()
            entry = tarfile.TarInfo(f"src/recommender/{path.relative_to(source)}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def main(source: str, folder: str) -> None:
    if not os.path.isfile(os.path.join(source, "serving/app/server.py")):
        sys.exit(f"model_server_source is {source}: the package recommender with serving/app is not there")
    archive = pack(pathlib.Path(source))
    digest = hashlib.sha256(archive).hexdigest()[:12]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for earlier in pathlib.Path(folder).glob("model-server-*"):
        # a younger one may be about to be read by another run
        with contextlib.suppress(FileNotFoundError):
            if earlier.stat().st_mtime < time.time() - 86400:
                earlier.unlink()
    path = os.path.join(folder, f"model-server-{digest}.tar")
    with tempfile.NamedTemporaryFile(dir=folder, prefix="model-server-", delete=False) as file:
        file.write(archive)
    os.replace(file.name, path)
    print(json.dumps({"digest": digest, "archive": path}))


if __name__ == "__main__":
    main(*sys.argv[1:])
