"""Whose program listens on a port of the loopback: while a server is down, anybody can take its place.

Linux tells everybody, in /proc/net; elsewhere nothing is known, and nothing is refused.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from recommender.errors import RecommenderError

# The account that the tracking server of this host runs as, where there is one.
ACCOUNT = "RECOMMENDER_TRACKING_ACCOUNT"
_PROC = Path("/proc/net")
_LISTENS = "0A"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Foreign(RecommenderError):
    """Somebody else's program listens where a tracking server should."""


def check(uri: str, credentials: bool) -> None:
    """Raise Foreign when another than the tracking server listens on the loopback address in `uri`.

    The server is root's (systemd holds the socket) or of the account RECOMMENDER_TRACKING_ACCOUNT. Where that
    is not set, an own program is one's own affair, and only what would get `credentials` is looked at.
    """
    expected = os.environ.get(ACCOUNT, "")
    if not (expected or credentials):
        return
    parts = urlsplit(uri)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    addresses = [each for each in _resolve(parts.hostname or "") if each.is_loopback]
    allowed = {0} | ({_uid(expected)} if expected else {os.getuid(), _uid("mlflow")})
    found = {uid for address in addresses for uid in owners(address, port)}
    if strangers := [_name(uid) for uid in sorted(found - allowed)]:
        raise Foreign(
            f"{parts.hostname}:{port}: a program of {', '.join(strangers)} listens there, and the tracking "
            f"server would be {expected or 'mlflow'}'s. Nothing was sent to it. End that program and start "
            "the server (systemctl restart mlflow); if it is the right one, tell make, as in: "
            f"make train {ACCOUNT}={strangers[0]}"
        )


def owners(address: Address, port: int) -> set[int]:
    """Accounts whose sockets accept a connection to the address; empty where none does or nothing is known.

    One that listens on the very address goes before those that listen on all.
    """
    found: dict[Address, set[int]] = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, uid, *_ = line.split()
            place, _, number = local.partition(":")
            if state == _LISTENS and int(number, 16) == port:
                found.setdefault(_address(place), set()).add(int(uid))
    everywhere: list[Address] = [ipaddress.IPv6Address("::")]
    if address.version == 4:
        everywhere.append(ipaddress.IPv4Address("0.0.0.0"))
    return found.get(address) or {uid for each in everywhere for uid in found.get(each, set())}


def _address(digits: str) -> Address:
    """An address as /proc/net writes it: words of 32 bits, each in the processor's order of bytes."""
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address


def _resolve(host: str) -> set[Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found}


def _uid(account: str) -> int:
    import pwd

    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return -1


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"account {uid}"
