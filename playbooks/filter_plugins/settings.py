"""Checks what a person set, before its first use: a message says what that person wrote, and what to write instead."""

import re
from typing import Any


def port_fault(asked: Any, wanted: Any, before: list[Any], said: str) -> str:
    """What is wrong with ansible_port (asked) beside ssh_port (wanted); empty where a later run finds sshd again.

    `said` holds "way in PORT end", the server's own port that this run came in by, among whatever a login shell prints.
    """
    match = re.search(r"way in (\d+) end", said)
    if not match or int(asked) == int(wanted):
        return ""
    way_in = int(match[1])
    if way_in == int(asked):
        return (
            f"ansible_port is {asked} and ssh_port is {wanted}: sshd, which listens on {asked}, would move to port "
            f"{wanted}, and no later run would find it. To leave it where it is, set ssh_port: {asked}. "
            f"To move it to {wanted}, take ansible_port out and set ssh_ports_before: [{asked}]."
        )
    if way_in not in map(int, [wanted, *before]):
        return (
            f"ansible_port {asked} is forwarded to the server's port {way_in}, and ssh_port is {wanted}: sshd would "
            f"move away from where the forwarding leads. Set ssh_port: {way_in}."
        )
    return ""


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"port_fault": port_fault}
