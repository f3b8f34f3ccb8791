"""A proxy that answers in the place of vendors whose modules allow no other endpoint."""

import http.server
import json
import pathlib
import ssl
import subprocess
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# of host, method, path, parameters and body: status, answer; None closes the connection without an answer
Answer = Callable[[str, str, str, dict[str, str], Any], tuple[int, Any] | None]


class Proxy:
    def __init__(self, folder: pathlib.Path, hosts: list[str], answer: Answer) -> None:
        self.certificate, key = folder / "vendor.pem", folder / "vendor.key"
        names = ",".join(f"DNS:{host}" for host in hosts)
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=vendor"]
        files = ["-keyout", key, "-out", self.certificate]
        subprocess.run([*make, "-addext", f"subjectAltName={names}", *map(str, files)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        # method and path of each request
        self.asked: list[tuple[str, str]] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, *_: Any) -> None:
                pass

            def do_CONNECT(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.connection = context.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                self.close_connection = False

            def reply(self) -> None:
                url = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                asked.append((self.command, url.path))
                host = self.headers["Host"].partition(":")[0]
                found = answer(host, self.command, url.path, dict(parse_qsl(url.query)), body)
                if found is None:
                    self.close_connection = True
                    return
                text = json.dumps(found[1]).encode()
                self.send_response(found[0])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = reply

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def variables(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.server.server_port}"
        bundle = str(self.certificate)
        return {
            "HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": "", "no_proxy": "",
            "REQUESTS_CA_BUNDLE": bundle, "SSL_CERT_FILE": bundle, "CURL_CA_BUNDLE": bundle,
        }  # fmt: skip
