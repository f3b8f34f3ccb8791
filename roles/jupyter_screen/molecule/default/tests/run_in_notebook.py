"""Runs cells of a new notebook on the server and prints their outputs, of the shared document and of the file.

Arguments PORT KERNEL CODE..., as the account. The cells are queued at once, as by "Run All Cells".
"""

import getpass
import json
import pathlib
import sys
import threading
import time
import uuid
from typing import Any

import nbformat
import requests
import websocket
from pycrdt import Array, Doc, YMessageType, create_sync_message, handle_sync_message

port, kernel, *codes = sys.argv[1:]
headers = {"Authorization": f"token {pathlib.Path('/etc/jupyter-screen/tokens', getpass.getuser()).read_text()}"}
server = f"127.0.0.1:{port}"
document: Doc[Any] = Doc()
shared_cells = document.get("cells", type=Array)
lock = threading.Lock()
name = f"{uuid.uuid4().hex}.ipynb"
deadline = time.monotonic() + 90


def ask(method: str, path: str, **body: Any) -> Any:
    answer = requests.request(method, f"http://{server}{path}", json=body or None, headers=headers, timeout=60)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def shared() -> list[Any]:
    with lock:
        return [cell["outputs"] for cell in shared_cells.to_py() or []]


def disk() -> list[Any]:
    """Returns the outputs of the file, [] while it is being written."""
    try:
        notebook = nbformat.read(pathlib.Path.home() / "notebooks" / name, as_version=4)
    except ValueError:
        return []
    return [cell["outputs"] for cell in notebook["cells"]]


cells = [
    {"cell_type": "code", "id": f"cell{i}", "metadata": {}, "source": code, "outputs": [], "execution_count": None}
    for i, code in enumerate(codes)
]
notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
ask("PUT", f"/api/contents/{name}", type="notebook", content=notebook)
started = ask("POST", "/api/kernels", name=kernel)["id"]
try:
    session = ask("PUT", f"/api/collaboration/session/{name}", format="json", type="notebook")
    room = f"json:notebook:{session['fileId']}"
    address = f"ws://{server}/api/collaboration/room/{room}?sessionId={session['sessionId']}"
    channel = websocket.create_connection(address, header=headers, timeout=300)

    def follow() -> None:
        for message in iter(channel.recv, b""):
            if message[0] == YMessageType.SYNC:
                with lock:
                    answer = handle_sync_message(message[1:], document)
                if answer:
                    channel.send_binary(answer)

    channel.send_binary(create_sync_message(document))
    threading.Thread(target=follow, daemon=True).start()
    while len(shared()) < len(cells) and time.monotonic() < deadline:
        time.sleep(0.1)
    running = {
        ask(
            "POST",
            f"/api/kernels/{started}/execute",
            code=code,
            metadata={"cell_id": f"cell{i}", "document_id": room, "document_path": name},
        )["request_url"]
        for i, code in enumerate(codes)
    }
    while running and time.monotonic() < deadline:
        running = {url for url in running if ask("GET", url)["pending"]}
        time.sleep(0.3)
    while disk() != shared() and time.monotonic() < deadline:
        time.sleep(0.3)
    print(json.dumps({"pending": len(running), "shared": shared(), "disk": disk()}))
finally:
    requests.delete(f"http://{server}/api/kernels/{started}", headers=headers, timeout=60)
