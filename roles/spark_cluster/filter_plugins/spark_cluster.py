"""What is wrong with a cluster, before anything changes."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any


def faults(
    members: Sequence[Mapping[str, str]],
    host: str,
    master: str,
    played: Sequence[str],
    addresses: Sequence[str],
    pythons: Mapping[str, str],
    javas: Mapping[str, Any],
) -> list[str]:
    """Every fault that this host sees.

    `played` are the hosts of this run, `addresses` those of this host, `pythons` and `javas` each member's versions.
    """
    found = []
    named = {member["name"]: member["address"] for member in members}
    there = ", ".join(named) or "there are none"
    if master not in named:
        found.append(f"spark_cluster_master is '{master}', which is not a member: {there}.")
    if host not in named:
        found.append(f"{host} is not among spark_cluster_members: {there}.")
    elif named[host] not in addresses:
        found.append(
            f"{host} has no address '{named[host]}'; it has {', '.join(addresses)}. Set spark_address in host_vars of"
            f" {host} to the one at which the other members reach it."
        )
    for name in named.keys() - {host}:
        try:
            ipaddress.ip_address(named[name])
        except ValueError:
            found.append(
                f"The address of {name} is '{named[name]}', a name. Set spark_address in host_vars of {name} to its IP"
                " address."
            )
    if left_out := sorted(named.keys() - set(played)):
        found.append(
            f"This run leaves out {', '.join(left_out)}, and each member must know all others. Run it without --limit,"
            " or with --limit spark_master:spark_workers."
        )
    for what, versions in (("Python", pythons), ("Java", javas)):
        if len(set(map(str, versions.values()))) > 1:
            said = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
            found.append(
                f"The members have different versions of {what}: {said}. Spark needs one. Install the same release of"
                " Debian on all of them, or take the odd ones out of the cluster."
            )
    if without := sorted(name for name, version in pythons.items() if version == "none"):
        found.append(f"spark_cluster_python does not run on {', '.join(without)}.")
    return found


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"spark_cluster_faults": faults}
