"""Servers of a company, on the host's loopback: a mirror (8080), and a proxy (3128) that reads TLS by a CA of its own.

Mirror: /channel/… of conda, /simple/… of pip with packages made here, /installer/… whole, /cut/… whose first answer
breaks off, /short/… of which half is missing. What the conda fixture has is answered from it, the rest by its own host.
"""

import hashlib
import http.server
import io
import os
import ssl
import tarfile
import threading
import urllib.request
import zipfile
from typing import ClassVar

FIXTURE = "/srv/conda-fixture"
BACKEND = """
import os, subprocess, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    subprocess.check_call(["./configure"])
    with open("made.whl", "rb") as made, open(os.path.join(folder, "{wheel}"), "wb") as wheel:
        wheel.write(made.read())
    return "{wheel}"
"""


def wheel(name: str, version: str) -> bytes:
    """A package of one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: company\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return data.getvalue()


def sdist(name: str, version: str, configure: str) -> bytes:
    """A source package that runs a program of its own while it is built."""
    files = {
        "PKG-INFO": (f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(), 0o644),
        "pyproject.toml": (b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n', 0o644),
        "backend.py": (BACKEND.format(wheel=f"{name}-{version}-py3-none-any.whl").encode(), 0o644),
        "made.whl": (wheel(name, version), 0o644),
        "configure": (f"#!/bin/sh\n{configure}\n".encode(), 0o755),
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, (content, mode) in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


PACKAGES = {
    "alpha-1.0-py3-none-any.whl": wheel("alpha", "1.0"),
    "alpha-2.0-py3-none-any.whl": wheel("alpha", "2.0"),
    "beta-1.0-py3-none-any.whl": wheel("beta", "1.0"),
    "built-1.0.tar.gz": sdist("built", "1.0", "echo configured"),
    "broken-1.0.tar.gz": sdist("broken", "1.0", "echo no compiler here >&2; exit 1"),
}


def fetch(host: str, path: str) -> bytes:
    """What a host of the internet has at a path."""
    local = {
        "conda.anaconda.org": f"{FIXTURE}/channel{path}",
        "github.com": f"{FIXTURE}/{os.path.basename(path)}",
    }.get(host)
    if local and os.path.exists(FIXTURE):
        with open(local, "rb") as file:
            return file.read()
    request = urllib.request.Request(f"https://{host}{path}", headers={"User-Agent": "pip/26"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cut: ClassVar[set[str]] = set()
    host = ""

    def do_CONNECT(self) -> None:
        """Answer in the name of the host: from here on this connection speaks TLS."""
        self.send_response(200)
        self.end_headers()
        self.host = self.path.split(":")[0]
        self.connection = TLS.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def content(self) -> bytes:
        if self.host:
            return fetch(self.host, self.path)
        kind, _, rest = self.path[1:].partition("/")
        if kind == "channel":
            return fetch("conda.anaconda.org", f"/{rest}")
        if kind == "simple":
            files = {name: data for name, data in PACKAGES.items() if name.startswith(rest.strip("/") + "-")}
            links = (f'<a href="/files/{n}#sha256={hashlib.sha256(d).hexdigest()}">{n}</a>' for n, d in files.items())
            return "\n".join(links).encode()
        if kind == "files":
            return PACKAGES[rest]
        return fetch("github.com", f"/conda-forge/miniforge/releases/download/{rest}")

    def do_GET(self) -> None:
        try:
            data = self.content()
        except (OSError, KeyError) as error:
            self.send_error(404, str(error))
            return
        if self.path.startswith("/short/"):
            data = data[: len(data) // 2]
        begin = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.path.startswith("/cut/") and self.path not in self.cut:
            self.cut.add(self.path)
            data = data[: len(data) // 2]
            self.close_connection = True
        if self.command == "GET":
            self.wfile.write(data[begin:])

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        print(self.host or "mirror", self.requestline, self.headers.get("Range", ""), flush=True)


if __name__ == "__main__":
    TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TLS.load_cert_chain("/srv/proxy.pem")
    mirror = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
    threading.Thread(target=mirror.serve_forever).start()
    http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Handler).serve_forever()
