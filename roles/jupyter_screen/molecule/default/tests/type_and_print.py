"""Opens a notebook as a browser does, runs a cell that prints without a pause, types another.

Arguments: OWNER PORT WORD. Prints "stored" when the server's store has all of that, and stays until the server ends.
"""

import pathlib
import sqlite3
import sys
import time
import uuid

import requests
import websocket
from jupyter_ydoc import YNotebook
from pycrdt import Doc, create_sync_message, create_update_message, handle_sync_message

owner, port, word = sys.argv[1:]
# longer than any test waits for it
deadline = time.monotonic() + 600
headers = {"Authorization": f"token {pathlib.Path('/etc/jupyter-screen/tokens', owner).read_text()}"}
api, name = f"127.0.0.1:{port}/api", "printing.ipynb"


def ask(method: str, path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
    answer = requests.request(method, f"http://{api}/{path}", json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    return dict(answer.json())


if not requests.get(f"http://{api}/contents/{name}", headers=headers, timeout=60).ok:
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    ask("PUT", f"contents/{name}", {"type": "notebook", "format": "json", "content": empty})
session = ask("PUT", f"collaboration/session/{name}", {"format": "json", "type": "notebook"})
room = f"json:notebook:{session['fileId']}"
address = f"ws://{api}/collaboration/room/{room}?sessionId={session['sessionId']}"
browser = websocket.create_connection(address, header=headers, timeout=600)
document: Doc = Doc()
notebook = YNotebook(document)
browser.send_binary(create_sync_message(document))


def listen() -> bool:
    """Takes one message. Returns whether it held the document as the server has it."""
    message = browser.recv()
    if not isinstance(message, bytes) or message[:1] != b"\0":
        return False
    answer = handle_sync_message(message[1:], document)
    if answer:
        browser.send_binary(answer)
    return message[1] == 1


def type_cell(source: str) -> str:
    state, cell = document.get_state(), uuid.uuid4().hex
    empty = {"metadata": {}, "outputs": [], "execution_count": None}
    notebook.append_cell({"cell_type": "code", "id": cell, "source": source, **empty})
    browser.send_binary(create_update_message(document.get_update(state)))
    return cell


def stored(text: str) -> None:
    """Returns once the server's store has the text."""
    while not database.execute("SELECT 1 FROM yupdates WHERE instr(yupdate, ?)", (text.encode(),)).fetchone():
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


while not listen():
    assert time.monotonic() < deadline
database = sqlite3.connect(f"file:/var/lib/jupyter-screen/{owner}/documents.db?mode=ro", uri=True, timeout=60)
kernel = ask("POST", "sessions", {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}})
code = f"import time\nwhile True:\n    print('printed-{word}', flush=True); time.sleep(0.05)"
cell = type_cell(code)
# a request would overtake it
stored(code)
metadata = {"document_id": room, "document_path": name, "cell_id": cell}
ask("POST", f"kernels/{kernel['kernel']['id']}/execute", {"code": code, "metadata": metadata})
stored(f"printed-{word}\n")
type_cell(f"typed-{word}")
stored(f"typed-{word}")
print("stored", flush=True)
while time.monotonic() < deadline:
    listen()
