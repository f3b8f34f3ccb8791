"""Filters of the role: how restic is told where copies go, and what is wrong with its variables."""

import re
import shlex
from typing import Any

ETC = "/etc/server-backup"
SFTP = re.compile(r"sftp:(?P<user>[\w.-]+)@(?P<host>[\w.-]+|\[[\da-fA-F:]+\])(?::(?P<port>\d+))?:(?P<path>/.*)")
PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def ssh(user: str, host: str, port: int, key: bool, pinned: bool) -> str:
    """A command line that logs in with the role's own key and known_hosts; restic splits it as a shell does."""
    return shlex.join(
        [
            "ssh", "-F", "none", "-p", str(port), "-o", "BatchMode=yes", "-o", "ConnectTimeout=20",
            "-o", "ServerAliveInterval=15", "-o", f"UserKnownHostsFile={ETC}/known_hosts",
            "-o", f"StrictHostKeyChecking={'yes' if pinned else 'accept-new'}",
            *(["-i", f"{ETC}/id", "-o", "IdentitiesOnly=yes"] if key else []), f"{user}@{host.strip('[]')}",
        ]
    )  # fmt: skip


def place(to: str, name: str, append: dict[str, Any], key: bool, known_hosts: list[str]) -> dict[str, Any]:
    """The repository and the options of restic for a value of backup_to."""
    if to.split(":")[0] == "append":
        login = ssh(append["user"], append["host"], append.get("port") or 22, key, bool(known_hosts))
        return {"repository": f"rclone:{name}", "options": [f"rclone.program={login} rclone"]}
    match = SFTP.fullmatch(to)
    if match:
        login = ssh(match["user"], match["host"], int(match["port"] or 22), key, bool(known_hosts))
        repository = f"sftp:{match['user']}@{match['host']}:{match['path'].rstrip('/')}/{name}"
        return {"repository": repository, "options": [f"sftp.command={login} -s sftp"]}
    return {"repository": f"{to.rstrip('/')}/{name}", "options": []}


def faults(
    to: str, name: str, key: str, append: dict[str, Any], parts: list[dict[str, Any]], keep: dict[str, Any],
    keeps: list[dict[str, Any]],
) -> list[str]:  # fmt: skip
    """Sentences that say what is wrong and what would be right."""
    found = []
    if to and not (
        to.split(":")[0] == "append"
        or to.startswith("/")
        or SFTP.fullmatch(to)
        or re.match(r"(s3|b2|azure|gs|rest|swift):", to)
    ):
        found.append(
            f"backup_to is {to!r}: give a folder such as /mnt/copies, sftp:USER@HOST:/FOLDER, append, or"
            " s3:https://HOST/BUCKET."
        )
    if to.split(":")[0] == "append" and not (append.get("host") and append.get("user")):
        found.append("backup_to is append: backup_append needs host and user.")
    if to and len(key) < 20:
        found.append(
            "backup_key has fewer than 20 characters: make one with openssl rand -hex 20, and keep it elsewhere too."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        found.append(f"backup_name is {name!r}: use letters, digits and ._-")
    names = [part["name"] for part in parts]
    for part in parts:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", part["name"]) or names.count(part["name"]) > 1:
            found.append(
                f"part {part['name']!r} of backup_parts: give each a name of its own, of small letters, digits and _."
            )
        for path in [*part.get("paths", []), *part.get("items", {}).values()]:
            if not str(path).startswith("/") or str(path) == "/":
                found.append(
                    f"part {part['name']} of backup_parts has the path {path!r}: give an absolute one, not / itself."
                )
    for period, count in keep.items():
        if period not in PERIODS or not str(count).isdigit() or int(count) < 1:
            found.append(f"backup_keep has {period}: {count!r}: give {', '.join(PERIODS)}, each with a number from 1.")
    if to and not keep:
        found.append("backup_keep is empty: all copies older than two days would be removed. Give {daily: 7} or more.")
    for each in keeps:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", each["name"]):
            found.append(f"backup_keeps has {each['name']!r}: use letters, digits and ._-")
    return found


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Any]:
        return {"backup_place": place, "backup_faults": faults}
