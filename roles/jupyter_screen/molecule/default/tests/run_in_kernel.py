"""Runs code in a kernel through JupyterLab's API and prints its output; arguments PORT KERNEL CODE, as the account."""

import getpass
import json
import pathlib
import sys
import time
import uuid

import requests
import websocket

port, kernel, code = sys.argv[1:]
headers = {"Authorization": f"token {pathlib.Path('/etc/jupyter-screen/tokens', getpass.getuser()).read_text()}"}
api = f"127.0.0.1:{port}/api/kernels"
started = requests.post(f"http://{api}", json={"name": kernel}, headers=headers, timeout=60)
started.raise_for_status()
address = f"{api}/{started.json()['id']}"
asked = uuid.uuid4().hex
request = {
    "header": {"msg_id": asked, "msg_type": "execute_request", "version": "5.3", "username": "", "session": "test"},
    "parent_header": {},
    "metadata": {},
    "content": {"code": code, "silent": False},
    "channel": "shell",
}
try:
    channels = websocket.create_connection(f"ws://{address}/channels", header=headers, timeout=60)
    channels.send(json.dumps(request))
    idle = False
    deadline = time.monotonic() + 600
    while not idle:
        if time.monotonic() > deadline:
            sys.exit("the kernel is busy still after 600 s")
        reply = json.loads(channels.recv())
        if reply["parent_header"].get("msg_id") != asked:
            continue
        content = reply["content"]
        idle = content.get("execution_state") == "idle"
        if reply["msg_type"] == "stream":
            print(content["text"], end="")
        if reply["msg_type"] == "error":
            sys.exit("\n".join(content["traceback"]))
finally:
    requests.delete(f"http://{address}", headers=headers, timeout=60)
