"""Accounts for copies that come from other servers, which may only add to them."""

import hashlib
import pathlib
import re
from typing import Any


def account(name: str) -> str:
    """The account's name for a server's: of 32 characters at most."""
    short = f"copies-{re.sub('[^a-z0-9-]', '-', name.lower())}"
    return short if len(short) <= 32 else f"{short[:25]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def people(names: list[str], keys: list[str]) -> list[dict[str, Any]]:
    """Entries for people, each with the public key in the file at its place."""
    return [
        {
            "name": account(name),
            "role": "command",
            "keys": [pathlib.Path(key).read_text().strip()],
            "command": f"rclone serve restic --stdio --append-only /srv/copies/{name}",
        }
        for name, key in zip(names, keys, strict=True)
    ]


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Any]:
        return {"copies_account": account, "copies_people": people}
