#!/usr/bin/env python3
"""Write a server into the hosts.yml of an inventory, and change nothing that stands there.

The example that each hosts.yml comes with makes room for the first server.

usage: add_host.py -i inventory/vultr --name recommender-dev --address 198.51.100.7 --environment dev
--update and --remove are for make create and make destroy: they touch only a line that create wrote.
"""

import argparse
import fcntl
import ipaddress
import os
import pathlib
import re
import sys
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENTS = ("dev", "staging", "prod")
EXAMPLE = "203.0.113.10"
LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, or a name of DNS."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        # only digits and dots: a mistyped address
        return bool(re.search(r"[A-Za-z]", text)) and all(LABEL.fullmatch(part) for part in text.split("."))


MARK = "cloud_server_made"


def made(groups: CommentedMap, name: str) -> list[str]:
    """The groups that have a line of this name which make create wrote. Raises ValueError for one written by hand."""
    found = []
    for group, content in groups.items():
        hosts = (content or {}).get("hosts") or {}
        if name in hosts and (hosts[name] or {}).get("ansible_host") != EXAMPLE:
            if not (hosts[name] or {}).get(MARK):
                raise ValueError(f"{name} is in the group {group}, and make create did not write it")
            found.append(group)
    return found


def update(groups: CommentedMap, name: str, address: str, environment: str) -> bool:
    """Write the line of a server that make create made. Returns whether it was another one before."""
    there = made(groups, name)
    if there == [environment]:
        line = groups[environment]["hosts"][name]
        before, line["ansible_host"] = line["ansible_host"], address
        return bool(before != address)
    for group in there:
        del groups[group]["hosts"][name]
    add(groups, name, address, environment)
    groups[environment]["hosts"][name][MARK] = True
    return True


def remove(groups: CommentedMap, name: str) -> bool:
    """Take out the line that make create wrote. Returns whether there was one."""
    try:
        there = made(groups, name)
    except ValueError:
        return False
    for group in there:
        del groups[group]["hosts"][name]
    return bool(there)


def add(groups: CommentedMap, name: str, address: str, environment: str) -> None:
    """Put a server into the group of its environment. Raises ValueError where name or address is taken already."""
    for group, content in groups.items():
        hosts = (content or {}).get("hosts") or {}
        for host in [host for host, settings in hosts.items() if (settings or {}).get("ansible_host") == EXAMPLE]:
            del hosts[host]
        for host, settings in hosts.items():
            taken = {"ansible_host": host} | (settings or {})
            if host == name:
                raise ValueError(f"{name} is in the group {group} already, with the address {taken['ansible_host']}")
            if taken["ansible_host"] == address:
                raise ValueError(f"{address} is that of {host} already, in the group {group}")
    group = groups.get(environment) or CommentedMap()
    hosts = group.get("hosts") or CommentedMap()
    hosts[name] = CommentedMap({"ansible_host": address})
    for part in (group, hosts, hosts[name]):
        part.fa.set_block_style()
    group["hosts"] = hosts
    groups[environment] = group


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-i", "--inventory", required=True, type=pathlib.Path)
    parser.add_argument("--name", required=True)
    for option in ("--address", "--environment"):
        parser.add_argument(option, default="")
    for option in ("--update", "--remove"):
        parser.add_argument(option, action="store_true")
    arguments = parser.parse_args()
    vendors = sorted(path.parent.name for path in ROOT.glob("inventory/*/hosts.yml") if path.parent.name != "local")
    vendor = arguments.inventory.name if arguments.inventory.name in vendors else "vultr"
    typed = f"make add-host VENDOR={vendor} NAME=recommender-dev ADDRESS=198.51.100.7 ENV=dev"
    faults = {
        "VENDOR": "" if arguments.inventory.name in vendors else f"must be one of {', '.join(vendors)}",
        "NAME": "" if LABEL.fullmatch(arguments.name) else "must be letters, digits and hyphens, 63 at most",
        "ADDRESS": ""
        if arguments.remove or is_address(arguments.address)
        else "must be an IP address or a name of DNS",
        "ENV": ""
        if arguments.remove or arguments.environment in ENVIRONMENTS
        else f"must be one of {', '.join(ENVIRONMENTS)}",
    }
    if any(faults.values()):
        lines = [f"{name} {fault}" for name, fault in faults.items() if fault]
        sys.exit("\n".join([*lines, f"Nothing was written. Type for example: {typed}"]))
    path = arguments.inventory / "hosts.yml"
    # held until the end, so that no line of another run is lost
    fcntl.flock(os.open(path.parent, os.O_RDONLY), fcntl.LOCK_EX)
    yaml = YAML()
    yaml.indent(mapping=2)
    yaml.width = 1000
    yaml.explicit_start = True
    changed = True
    try:
        groups: Any = yaml.load(path)
        if arguments.remove:
            changed = remove(groups, arguments.name)
        elif arguments.update:
            changed = update(groups, arguments.name, arguments.address, arguments.environment)
        else:
            add(groups, arguments.name, arguments.address, arguments.environment)
    except (ValueError, AttributeError, YAMLError, OSError) as error:
        sys.exit(f"{path} is as it was: {error}")
    if changed:
        # a link stays one
        real = path.resolve()
        new = real.with_name(".hosts.yml.new")
        with new.open("w", encoding="utf-8") as file:
            yaml.dump(groups, file)
        os.replace(new, real)
    place = "no longer in" if arguments.remove else f"in the group {arguments.environment} of"
    print(f"{arguments.name} is {place} {path}." if changed else f"{path} is as it was.")
    if arguments.remove:
        return
    print(f"Next: ansible-playbook site.yml -i {path.parent}")


if __name__ == "__main__":
    main()
