#!/usr/bin/env python3
"""Write a server into the hosts.yml of an inventory, and change nothing that stands there.

The example that each hosts.yml comes with makes room for the first server.

usage: add_host.py -i inventory/vultr --name recommender-dev --address 198.51.100.7 --environment dev
"""

import argparse
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
    for option in ("--name", "--address", "--environment"):
        parser.add_argument(option, required=True)
    arguments = parser.parse_args()
    vendors = sorted(path.parent.name for path in ROOT.glob("inventory/*/hosts.yml") if path.parent.name != "local")
    vendor = arguments.inventory.name if arguments.inventory.name in vendors else "vultr"
    typed = f"make add-host VENDOR={vendor} NAME=recommender-dev ADDRESS=198.51.100.7 ENV=dev"
    faults = {
        "VENDOR": "" if arguments.inventory.name in vendors else f"must be one of {', '.join(vendors)}",
        "NAME": "" if LABEL.fullmatch(arguments.name) else "must be letters, digits and hyphens, 63 at most",
        "ADDRESS": "" if is_address(arguments.address) else "must be an IP address or a name of DNS",
        "ENV": "" if arguments.environment in ENVIRONMENTS else f"must be one of {', '.join(ENVIRONMENTS)}",
    }
    if any(faults.values()):
        lines = [f"{name} {fault}" for name, fault in faults.items() if fault]
        sys.exit("\n".join([*lines, f"Nothing was written. Type for example: {typed}"]))
    path = arguments.inventory / "hosts.yml"
    yaml = YAML()
    yaml.indent(mapping=2)
    yaml.width = 1000
    yaml.explicit_start = True
    try:
        groups: Any = yaml.load(path)
        add(groups, arguments.name, arguments.address, arguments.environment)
    except (ValueError, AttributeError, YAMLError, OSError) as error:
        sys.exit(f"{path} is as it was: {error}")
    new = path.with_name(".hosts.yml.new")
    with new.open("w", encoding="utf-8") as file:
        yaml.dump(groups, file)
    os.replace(new, path)
    print(f"{arguments.name} is in the group {arguments.environment} of {path}.")
    print(f"Next: ansible-playbook site.yml -i {path.parent}")


if __name__ == "__main__":
    main()
