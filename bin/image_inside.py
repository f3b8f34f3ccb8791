"""Sent by bin/image.py to the Python of an image that has no bytecode yet: prints a tar of what to add.

The bundle is tried first, as a server tries it: an image that answers otherwise than the training is never made.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.request

COMPILE = """
import importlib.util, io, json, pathlib, py_compile, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for source in json.load(sys.stdin):
        # not by time and size: an image's builder may set the times of files
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(source, "/tmp/one", doraise=True, invalidation_mode=mode)
        content = pathlib.Path("/tmp/one").read_bytes()
        entry = tarfile.TarInfo(importlib.util.cache_from_source(source).removeprefix("/"))
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
"""


ASKED = ("/health/ready", "/v1/recommend?user=1", "/v1/recommend", "/metrics", "/docs", "/openapi.json")
# for a machine that does much else
SECONDS = 300


def ask() -> None:
    """Have it load what it needs to answer, then end it as a target does."""
    end, asked = time.monotonic() + SECONDS, [*ASKED]
    while asked and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}{asked[0]}", timeout=SECONDS).read()
        except urllib.error.HTTPError:
            # a refusal is an answer too
            pass
        except OSError:
            time.sleep(0.05)
            continue
        asked.pop(0)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    from recommender.serving.app import contained, trial

    if refused := trial.tried((contained.BUNDLES / "current").resolve(), None, [])["refused"]:
        sys.exit(f"The image was not made: {refused}.")
    os.environ["RECOMMENDER_OPEN"] = "yes"
    threading.Thread(target=ask).start()
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        contained.main()
    files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
    # those that have one are in another layer
    sources = sorted({
        file for file in files
        if file.endswith(".py") and not pathlib.Path(importlib.util.cache_from_source(file)).exists()
    })  # fmt: skip
    # a process that has imported nothing else: what bytecode holds depends on what is shared
    subprocess.run([sys.executable, "-sPc", COMPILE], input=json.dumps(sources).encode(), check=True)


if __name__ == "__main__":
    main()
