"""The owner of a tracking server's port, by /proc/net; no other account's program gets a login."""

import os
import re
import socket
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from recommender import listener
from recommender.tracking import stores

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
STRANGER = 54321


def place(address: str, port: int) -> str:
    packed = ip_address(address).packed
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tables with these sockets: address, port, account and, if it does not listen, state."""
    monkeypatch.setattr(listener, "_PROC", tmp_path)

    def write(*sockets: tuple) -> None:
        tables = {"tcp": HEAD, "tcp6": HEAD}
        for address, port, uid, *state in sockets:
            line = f"0: {place(address, port)} 0:0 {(state or ['0A'])[0]} 0:0 00:0 0 {uid} 0 99 1 0 0 0\n"
            tables["tcp6" if ":" in address else "tcp"] += line
        for name, text in tables.items():
            (tmp_path / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("sockets", "found"),
    [
        ([("127.0.0.1", 5000, 7)], {7}),
        ([("127.0.0.1", 5001, 7), ("127.0.0.2", 5000, 7), ("::1", 5000, 7)], set()),
        ([("127.0.0.1", 5000, 7, "01")], set()),
        ([("0.0.0.0", 5000, 7)], {7}),
        ([("::", 5000, 7)], {7}),
        ([("::ffff:127.0.0.1", 5000, 7)], {7}),
        # the very address goes before all
        ([("127.0.0.1", 5000, 7), ("::", 5000, 8), ("0.0.0.0", 5000, 9)], {7}),
    ],
)
def test_owners(listening, sockets: list, found: set[int]) -> None:
    listening(*sockets)
    assert listener.owners(ip_address("127.0.0.1"), 5000) == found


def test_owners_of_the_other_loopback(listening) -> None:
    listening(("127.0.0.1", 5000, 7), ("0.0.0.0", 5000, 7), ("::1", 5000, 8))
    assert listener.owners(ip_address("::1"), 5000) == {8}


def test_a_strangers_program_is_sent_nothing(listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    heard = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=lambda: heard.append(server.accept()), daemon=True).start()
        port = server.getsockname()[1]
        listening(("127.0.0.1", port, STRANGER))
        says = (
            f"127.0.0.1:{port}: a program of account {STRANGER} listens there, but the tracking server "
            "runs as mlflow. Nothing was sent to it."
        )
        with pytest.raises(listener.Foreign, match=re.escape(says)):
            stores.connect(f"http://127.0.0.1:{port}")
    assert heard == []


def test_who_may_listen(listening, monkeypatch: pytest.MonkeyPatch) -> None:
    here = "http://localhost:5000"

    def allowed(uid: int, credentials: bool = True, uri: str = here) -> bool:
        listening(("127.0.0.1", 5000, uid), ("::1", 5000, uid))
        try:
            listener.check(uri, credentials)
        except listener.Foreign:
            return False
        return True

    # a tunnel of one's own, or a server that nothing secret goes to
    assert allowed(os.getuid()) and allowed(0) and allowed(STRANGER, False)
    assert not allowed(STRANGER)
    assert allowed(STRANGER, uri="http://192.0.2.1:5000")
    # told as an argument of make: over the environment, a server's local.mk has its own
    with pytest.raises(listener.Foreign, match=f": make train {listener.ACCOUNT}=nobody$"):
        listening(("127.0.0.1", 5000, listener._uid("nobody")))
        listener.check("http://127.0.0.1:5000", True)
    # on a server: that account's and root's alone, with a login and without
    monkeypatch.setenv(listener.ACCOUNT, "nobody")
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    nobody = listener._uid("nobody")
    assert allowed(nobody) and allowed(0) and not allowed(STRANGER) and not allowed(STRANGER, False)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells who listens")
def test_the_systems_own_tables() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert listener.owners(ip_address("127.0.0.1"), server.getsockname()[1]) == {os.getuid()}
