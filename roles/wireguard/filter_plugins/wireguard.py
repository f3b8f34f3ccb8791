"""What is wrong with tunnels, before anything changes."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any


def ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def faults(
    members: Sequence[str],
    host: str,
    network: str,
    played: Sequence[str],
    there: Mapping[str, Mapping[str, Any]],
    networks: Sequence[str],
    possible: bool,
) -> list[str]:
    """Every fault that this host sees.

    `played` are the hosts of this run, `there` what each member said of itself, `networks` those of this host as
    DEVICE=ADDRESS/LENGTH. `possible` says whether the kernel has WireGuard, or lets a program have tunnels.
    """
    try:
        whole = ipaddress.IPv4Network(network)
    except ValueError:
        return [f"wireguard_network is '{network}': give a network of IPv4 such as 10.77.0.0/16."]
    found = []
    owners: dict[str, list[str]] = {}
    for name, said in there.items():
        inside = ip(said["address"])
        owners.setdefault(said["address"], []).append(name)
        if not isinstance(inside, ipaddress.IPv4Address) or inside not in whole:
            found.append(
                f"wireguard_address of {name} is '{said['address']}': write a free address of {network} into its"
                " host_vars."
            )
        if not ip(said["endpoint"]):
            found.append(
                f"wireguard_endpoint of {name} is '{said['endpoint']}': write its public IP address into its host_vars."
            )
    for address, names in owners.items():
        if len(names) > 1:
            found.append(
                f"{' and '.join(names)} have the same address, {address}. Set wireguard_address in host_vars of"
                f" {names[-1]} to a free address of {network}."
            )
    endpoints = {name: ip(said["endpoint"]) for name, said in there.items()}
    if len({endpoint.version for endpoint in endpoints.values() if endpoint}) > 1:
        # each comes from an address that the other's firewall does not know
        both = ", ".join(f"{name} {endpoint}" for name, endpoint in endpoints.items())
        found.append(
            f"The members' public addresses are of both kinds: {both}. Set wireguard_endpoint in host_vars so that all"
            " are of IPv4, or all of IPv6."
        )
    behind = [name for name, said in there.items() if said["keepalive"]]
    if len(behind) > 1:
        found.append(
            f"{' and '.join(behind)} are behind NAT (wireguard_keepalive), where nobody can call them. Let the NAT"
            " forward a UDP port to all but one, as wireguard_port, and set wireguard_keepalive: 0 there."
        )
    for entry in networks:
        device, _, address = entry.partition("=")
        if ipaddress.IPv4Interface(address).network.overlaps(whole):
            found.append(
                f"{device} of {host} has {address}, which wireguard_network {network} overlaps. Set wireguard_network"
                " to a network that no member uses."
            )
    if left_out := sorted(set(members) - set(played)):
        found.append(
            f"This run leaves out {', '.join(left_out)}, and each member must know all others. Run it without --limit."
        )
    if not possible:
        found.append(
            f"The kernel of {host} has neither WireGuard nor /dev/net/tun. Install Debian's own kernel (apt-get install"
            " linux-image-$(dpkg --print-architecture), then reboot). In a container, let its host load the module"
            " wireguard, or give it /dev/net/tun; some vendors have a switch TUN/TAP."
        )
    return found


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"wireguard_faults": faults}
