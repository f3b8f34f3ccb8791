"""Reads what files/probe.sh prints: other packet filters, and traffic that ours would no longer pass on."""

import json
import re
from collections import defaultdict
from typing import Any

OURS = ("inet", "firewall")
# where a packet to the server can be dropped
HOOKS = ("ingress", "prerouting", "input")
# a rule with these parts alone concerns every packet
HARMLESS = ("counter", "log")
# links that carry other networks; containers and virtual machines are on bridges, which pass
CARRIERS = ("wireguard", "tun", "vxlan", "geneve", "gre", "gretap", "ip6gre", "ipip", "sit", "vti", "xfrm")


def sections(probe: str) -> dict[str, str]:
    """The probe's output by section; one that is not there is empty."""
    parts = re.split(r"^== (\S+)$", probe, flags=re.M)
    return defaultdict(str, zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def concerns_tcp(match: dict[str, Any]) -> bool:
    """Whether a match leaves all of TCP in: it asks for address family or protocol alone, and not for another one."""
    key = match["left"].get("meta", {}).get("key")
    if key != "l4proto":
        return bool(key == "nfproto")
    right = match["right"]
    protocols = right.get("set", []) if isinstance(right, dict) else right
    asked = [str(protocol) for protocol in (protocols if isinstance(protocols, list) else [protocols])]
    return ("tcp" in asked or "6" in asked) != (match.get("op") == "!=")


def ends(rule: list[dict[str, Any]]) -> bool:
    """Whether the rule drops or rejects every packet that comes to it, or all of TCP or of an address family."""
    verdict = False
    for part in rule:
        ((kind, about),) = part.items()
        if kind in ("drop", "reject") or (kind == "xt" and about and about.get("name") in ("DROP", "REJECT")):
            verdict = True
        elif kind == "match":
            if not concerns_tcp(about):
                return False
        elif kind not in HARMLESS:
            return False
    return verdict


def leads_to(rule: list[dict[str, Any]]) -> str:
    """The chain that the rule jumps to for every address and port; empty for none."""
    target = ""
    for part in rule:
        ((kind, about),) = part.items()
        if kind in ("jump", "goto"):
            target = about["target"]
        elif kind == "match":
            if about["left"].get("meta", {}).get("key") not in ("iif", "iifname") and not concerns_tcp(about):
                return ""
        elif kind not in HARMLESS:
            return ""
    return target


def nftables(ruleset: str) -> dict[tuple[str, str], str]:
    """What drops all that it does not list, by family and table: the chain, and why."""
    if not ruleset:
        return {}
    chains: dict[tuple[str, str, str], dict[str, Any]] = {}
    rules: dict[tuple[str, str, str], list[list[dict[str, Any]]]] = {}
    for item in json.loads(ruleset)["nftables"]:
        if "chain" in item:
            chain = item["chain"]
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    found: dict[tuple[str, str], str] = {}
    for (family, table, name), chain in chains.items():
        if (family, table) == OURS or chain.get("hook") not in HOOKS or (family, table) in found:
            continue
        if chain.get("policy") == "drop":
            found[family, table] = f"chain {name}: policy drop"
            continue
        seen, left = {name}, [name]
        while left:
            for rule in rules.get((family, table, left.pop()), []):
                if ends(rule):
                    found[family, table] = f"chain {name}: drops or rejects what it does not list"
                target = leads_to(rule)
                if target and target not in seen:
                    seen.add(target)
                    left.append(target)
    return found


def iptables(saved: str) -> str:
    """Why what iptables-save printed drops what it does not list; empty where it does not."""
    in_filter = False
    for line in saved.splitlines():
        if line.startswith("*"):
            in_filter = line == "*filter"
        elif in_filter and line.startswith(":INPUT DROP"):
            return "chain INPUT: policy DROP"
        elif in_filter and re.match(r"-A INPUT (-m comment --comment (\"[^\"]*\"|\S+) )?-j (DROP|REJECT)\b", line):
            return "chain INPUT: drops or rejects what it does not list"
    return ""


def published(saved: str) -> list[tuple[str, str]]:
    """Protocols and ports that Docker and its like hand to containers, as iptables-save prints it."""
    ports = []
    for line in saved.splitlines():
        match = re.match(r"-A \S+ .*-p (tcp|udp) .*--dport (\d+) .*-j DNAT", line)
        # of one address of the server's loopback: nothing from outside
        if match and not re.search(r" -d 127\.", line):
            ports.append((match[1], match[2]))
    return sorted(set(ports), key=lambda port: (port[0], int(port[1])))


def carriers(links: str) -> list[str]:
    """Links that are up and carry another network, with their kind."""
    found = []
    for link in json.loads(links or "[]"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        # a member of a bridge passes with it
        if kind in CARRIERS and "UP" in link.get("flags", []) and "master" not in link:
            found.append(f"{link['ifname']} ({kind})")
    return found


def firewall_foreign(probe: str, rules: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What else filters on the server, and what our forward chain would cut.

    Returns filters, each with name, why and known (whether the role can take its place); live, the tables that drop
    at this moment; cut, names of links and ports; and loaded, whether our forward chain is in force. rules are those
    of firewall_rules: the ports that stay open.
    """
    part = sections(probe)
    managers = set(part["managers"].split())
    kept = iptables(part["kept-ip"]) or iptables(part["kept-ip6"])
    filters = [{"name": name, "why": "it is enabled", "known": True} for name in sorted(managers)]
    if kept:
        filters.append({"name": "iptables-persistent", "why": f"rules in /etc/iptables, {kept}", "known": True})
    tables = {f"table {family} {table}": why for (family, table), why in nftables(part["nft"]).items()}
    saved = {
        "table ip filter": part["ip-save"],
        "table ip6 filter": part["ip6-save"],
        "iptables-legacy": part["legacy-save"],
    }
    for name, text in saved.items():
        if why := iptables(text):
            tables.setdefault(name, why)
    for name, why in tables.items():
        theirs = "firewalld" in managers if name == "table inet firewalld" else kept or "ufw" in managers
        if not theirs or name not in ("table inet firewalld", *saved):
            filters.append({"name": name, "why": why, "known": False})
    cut = carriers(part["links"]) if "1" in part["forwarding"].split() else []
    for protocol, port in published("".join(saved.values())):
        if not any(protocol == rule["protocol"] and within(port, rule["port"]) for rule in rules or []):
            cut.append(f"{protocol} port {port} (published by a container)")
    loaded = '"name": "not_forwarded"' in part["nft"]
    return {"filters": filters, "live": list(tables), "cut": cut, "loaded": loaded}


def within(port: str, ports: str) -> bool:
    low, _, high = ports.partition("-")
    return int(low) <= int(port) <= int(high or low)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"firewall_foreign": firewall_foreign}
