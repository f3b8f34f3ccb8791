"""Holds a server up in every way that one client can, and asks it for lists meanwhile.

usage: abuse.py PORT

Opens at most 1,040 connections and sends at most 5 MB. Prints as JSON the statuses of the lists, and those of three
bodies: announced as a gigabyte, sent in parts without an end, and stopped half-way.
"""

import http.client
import json
import resource
import socket
import sys
import time

PORT = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))


def opened(text: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", PORT), timeout=40)
    connection.sendall(text)
    return connection


def status(connection: socket.socket) -> int:
    try:
        return int(connection.recv(65536).split()[1])
    except (OSError, IndexError):
        # closed by the server
        return 0


def listed() -> int:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    connection.request("GET", "/v1/recommend?user=1")
    return connection.getresponse().status


POST = b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
idle = [opened(b"") for _ in range(1000)]
slow_heads = [opened(b"GET /v1/recommend?user=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-") for _ in range(20)]
slow_bodies = [opened(POST + b"Content-Length: 1000\r\n\r\n{") for _ in range(10)]
lists = [listed() for _ in range(20)]
announced = status(opened(POST + b"Content-Length: 1073741824\r\n\r\n{"))
endless = opened(POST + b"Transfer-Encoding: chunked\r\n\r\n")
try:
    for _ in range(70):
        endless.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        time.sleep(0.002)
except OSError:
    pass
lists += [listed() for _ in range(20)]
print(json.dumps({
    "lists": lists, "announced": announced, "endless": status(endless), "stopped": status(slow_bodies[0]),
    "idle": len(idle), "heads": len(slow_heads),
}))  # fmt: skip
