"""Check the owner of a listening loopback port: any account can take the port of a stopped server.

Linux shows the owner in /proc/net. Other systems do not, so nothing is refused there.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from recommender.errors import RecommenderError

# The account of this host's tracking server, if there is one.
ACCOUNT = "RECOMMENDER_TRACKING_ACCOUNT"
_PROC = Path("/proc/net")
_LISTENS = "0A"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Foreign(RecommenderError):
    """Another account's program listens on the port of a server of this machine."""


def check(uri: str, credentials: bool) -> None:
    """Check that the tracking server itself listens on the loopback address in `uri`.

    The server belongs to root (systemd holds the socket) or to RECOMMENDER_TRACKING_ACCOUNT. If that is not
    set, this account's own programs are allowed, and the check runs only if `credentials` would be sent.
    Raises Foreign for another account's program.
    """
    expected = os.environ.get(ACCOUNT, "")
    if not (expected or credentials):
        return
    parts = urlsplit(uri)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    addresses = [each for each in _resolve(parts.hostname or "") if each.is_loopback]
    allowed = {0} | ({_uid(expected)} if expected else {os.getuid(), _uid("mlflow")})
    if strangers := _strangers(addresses, port, allowed):
        raise Foreign(
            f"{parts.hostname}:{port}: a program of {', '.join(strangers)} listens there, but the tracking "
            f"server runs as {expected or 'mlflow'}. Nothing was sent to it. End that program and start "
            "the server (systemctl restart mlflow); if it is the right one, name its account: "
            f"make train {ACCOUNT}={strangers[0]}"
        )


def check_service(address: str, account: str, what: str) -> None:
    """Check who listens at `address`, host:port: root, `account`, which runs `what`, or one's own tunnel.

    Raises Foreign for another account's program.
    """
    host, _, port = address.rpartition(":")
    addresses = [each for each in _resolve(host) if each.is_loopback]
    if strangers := _strangers(addresses, int(port), {0, os.getuid(), _uid(account)}):
        raise Foreign(
            f"{address}: a program of {', '.join(strangers)} listens there, but {what} runs as {account}. "
            "Nothing was sent to it. End that program first."
        )


def _strangers(addresses: list[Address], port: int, allowed: set[int]) -> list[str]:
    """Name the other accounts whose sockets accept connections there."""
    found = {uid for address in addresses for uid in owners(address, port)}
    return [_name(uid) for uid in sorted(found - allowed)]


def owners(address: Address, port: int) -> set[int]:
    """Return the accounts whose sockets accept connections to the address; empty if none or unknown.

    A socket on this address takes precedence over sockets on all addresses.
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
    """Parse an address of /proc/net: words of 32 bits, each in native byte order."""
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
