"""Reads firewall_allow as it stands in the inventory: what its rules are, what is wrong with them, whom they let in."""

import ipaddress
import math
import re
from typing import Any

KNOWN = ("port", "protocol", "sources", "rate_limit", "comment")
EVERYONE = ["0.0.0.0/0", "::/0"]


class Refused(ValueError):
    """A part of the list that cannot become a rule; the message says why."""


def ports(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(value))
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise Refused(f"port {value} is neither a number from 1 to 65535 nor a range such as 60000-60010")
    return low, high


def networks(addresses: Any, name: str) -> dict[str, list[str]]:
    """Networks by the name that nft gives their family; a family without any is not there."""
    if not isinstance(addresses, list):
        raise Refused(f"{name} must be a list of addresses and networks")
    found: dict[str, list[Any]] = {"ip": [], "ip6": []}
    for address in addresses:
        try:
            network = ipaddress.ip_network(str(address))
        except ValueError as error:
            raise Refused(f"{address} in {name} is not an address or network of IPv4 or IPv6: {error}") from error
        found["ip" if network.version == 4 else "ip6"].append(network)
    # nft takes no set whose members overlap
    return {
        family: [str(network) for network in ipaddress.collapse_addresses(members)]
        for family, members in found.items()
        if members
    }


def rate_limit(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or set(value) != {"per_minute", "burst"}:
        raise Refused("rate_limit must be of the form {per_minute: 30, burst: 60}")
    for name, number in value.items():
        if not re.fullmatch(r"[1-9]\d{0,5}", str(number)):
            raise Refused(f"{name} of rate_limit is {number}, not a number from 1 to 999999")
    limit = {name: int(number) for name, number in value.items()}
    # after so long the whole burst is free again, and there is nothing left to remember
    return limit | {"forget_minutes": math.ceil(limit["burst"] / limit["per_minute"])}


def rule(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or "port" not in entry:
        raise Refused("it must be of the form {port: 22, comment: SSH}")
    if unknown := set(entry) - set(KNOWN):
        raise Refused(f"there is no {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}")
    low, high = ports(entry["port"])
    protocol, comment = entry.get("protocol", "tcp"), str(entry.get("comment") or "")
    if protocol not in ("tcp", "udp"):
        raise Refused(f"protocol is {protocol}; it can be tcp or udp")
    if "sources" in entry and not entry["sources"]:
        raise Refused("sources is empty, so nobody could come: list addresses, or leave sources out to let everyone")
    if '"' in comment or not comment.isprintable() or len(comment.encode()) > 80:
        raise Refused("the comment must be one line of 80 bytes at most, without double quotes")
    return {
        "protocol": protocol,
        "port": f"{low}-{high}" if high > low else f"{low}",
        "label": f"{protocol} {entry['port']}" + (f", {comment}" if comment else ""),
        "sources": networks(entry.get("sources", EVERYONE), "sources"),
        "rate_limit": rate_limit(entry["rate_limit"]) if "rate_limit" in entry else None,
    }


def fits(rule: dict[str, Any], protocol: str, port: str, source: str) -> bool:
    """Whether the rule decides about all that comes from source, a network, to port, a number or a range."""
    (low, high), (lowest, highest) = ports(port), ports(rule["port"])
    network = ipaddress.ip_network(source)
    return (
        rule["protocol"] == protocol
        and lowest <= low
        and high <= highest
        and any(
            network.subnet_of(ipaddress.ip_network(allowed))  # type: ignore[arg-type]
            for allowed in rule["sources"].get("ip" if network.version == 4 else "ip6", [])
        )
    )


def firewall_rules(allow: Any, exempt: Any) -> dict[str, Any]:
    """The rules in full, and every fault of the two lists in words.

    Returns rules, each with number, protocol, port (str), label, sources (lists of networks by family) and rate_limit,
    exempt (lists of networks by family) and errors (str); rules and exempt are not to be used while there are errors.
    """
    errors = []
    rules: dict[int, dict[str, Any]] = {}
    if not isinstance(allow, list):
        allow = []
        errors.append("firewall_allow must be a list of rules such as {port: 22, comment: SSH}")
    for position, entry in enumerate(allow, 1):
        where = f"entry {position} of firewall_allow"
        if isinstance(entry, dict) and "port" in entry:
            where += f" (port {entry['port']})"
        try:
            new = rule(entry)
        except Refused as error:
            errors.append(f"{where}: {error}")
            continue
        sources = [source for family in new["sources"].values() for source in family]
        for earlier, other in rules.items():
            if all(fits(other, new["protocol"], new["port"], source) for source in sources):
                errors.append(
                    f"{where}: entry {earlier} ({other['label']}) decides first: remove one, or put this one first"
                )
        rules[position] = {"number": position} | new
    try:
        exempted = networks(exempt, "firewall_exempt")
    except Refused as error:
        exempted = {}
        errors.append(str(error))
    return {"rules": list(rules.values()), "exempt": exempted, "errors": errors}


def firewall_lets_in(rules: list[dict[str, Any]], address: str, port: str) -> bool:
    """Whether a TCP connection from address, as sshd prints it, to port gets through."""
    return any(fits(rule, "tcp", port, address.partition("%")[0]) for rule in rules)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"firewall_rules": firewall_rules, "firewall_lets_in": firewall_lets_in}
