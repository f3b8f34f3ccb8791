"""What Compute Engine answers, and what it is sent, in the form that the tasks of every vendor fill."""

import importlib.util
import pathlib
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

_path = pathlib.Path(__file__).with_name("cloud_server.py")
_spec = importlib.util.spec_from_file_location("cloud_server_filters", _path)
assert _spec and _spec.loader
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)

HOURS_A_MONTH = 730
STATES = {"RUNNING": "running", "TERMINATED": "stopped"}
# cores that a shared plan of E2 pays
SHARED = {"e2-micro": "0.25", "e2-small": "0.5", "e2-medium": "1"}


def last(url: str) -> str:
    return url.rpartition("/")[2]


def beside(vendor: dict[str, Any]) -> Decimal:
    """What the disk costs an hour, also while the server is off."""
    return Decimal(str(vendor["disk_price"])) * int(vendor["disk_gb"]) / HOURS_A_MONTH


def price(kind: dict[str, Any], zone: str, vendor: dict[str, Any]) -> dict[str, Any]:
    """By the table of cores and memory of the region; None for other families and regions."""
    rates = vendor["prices"].get(zone.rpartition("-")[0])
    if not rates or not kind["name"].startswith("e2-"):
        return {"hourly": None, "monthly": None}
    cores = Decimal(SHARED.get(kind["name"], str(kind["guestCpus"])))
    own = cores * Decimal(str(rates["core"])) + Decimal(kind["memoryMb"]) / 1024 * Decimal(str(rates["gb"]))
    hourly = own + beside(vendor) + Decimal(str(vendor["address_price"]))
    return {"hourly": float(hourly), "monthly": float(hourly * HOURS_A_MONTH), "of": vendor["prices_of"]}


def plans(results: Iterable[dict[str, Any]], vendor: dict[str, Any]) -> list[dict[str, Any]]:
    """Plans of each zone, without those for Arm, with graphics cards, or that come to an end."""
    merged: dict[str, dict[str, Any]] = {}
    for result in results:
        for kind in result["items"]:
            if kind.get("architecture") == "ARM64" or kind.get("accelerators") or kind.get("deprecated"):
                continue
            cost = price(kind, result["item"], vendor)
            plan = merged.setdefault(
                kind["name"],
                {
                    "name": kind["name"], "cores": kind["guestCpus"], "memory_mb": kind["memoryMb"],
                    "disk_gb": vendor["disk_gb"], "currency": "USD", "regions": [], "prices": {}, **cost,
                },
            )  # fmt: skip
            plan["regions"].append(result["item"])
            plan["prices"][result["item"]] = cost
    return list(merged.values())


def servers(instances: Iterable[dict[str, Any]], vendor: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for instance in instances:
        labels = instance.get("labels") or {}
        if "recommender" not in labels:
            continue
        tags = common.from_labels(labels)
        cards = instance.get("networkInterfaces") or []
        ways = [way for card in cards for way in card.get("accessConfigs") or []]
        ways6 = [way for card in cards for way in card.get("ipv6AccessConfigs") or []]
        found.append(
            {
                "id": instance["id"], "name": instance["name"],
                "address": next((way["natIP"] for way in ways if "natIP" in way), ""),
                "address6": next((way["externalIpv6"] for way in ways6 if "externalIpv6" in way), ""),
                "state": STATES.get(instance["status"], "starting"),
                "plan": last(instance["machineType"]), "region": last(instance["zone"]), "tags": tags,
                "created": instance["creationTimestamp"], "price": common.agreed(tags),
                "stopped": common.millionths(beside(vendor)),
            }
        )  # fmt: skip
    return found


def foreign(instances: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the servers that are not ours."""
    return [each["name"] for each in instances if "recommender" not in (each.get("labels") or {})]


def firewalls(name: str, ports: Iterable[int]) -> list[dict[str, Any]]:
    """Two rules: the ports are open, and nothing else is, whatever the network's own rules let in."""
    here = {
        "network": "global/networks/default", "direction": "INGRESS", "targetTags": [name],
        "sourceRanges": ["0.0.0.0/0"], "description": "recommender",
    }  # fmt: skip
    let_in = [{"IPProtocol": "tcp", "ports": [str(port) for port in ports]}]
    return [
        {**here, "name": name, "priority": 900, "allowed": let_in},
        {**here, "name": f"{name}-else", "priority": 910, "denied": [{"IPProtocol": "all"}]},
    ]


def scheduling(until: str, prod: bool = False) -> dict[str, Any]:
    """With a TTL Google itself destroys the server; one of prod it stops."""
    if not until:
        return {}
    seconds = max(120, int(until) - int(time.time()))
    return {"maxRunDuration": {"seconds": str(seconds)}, "instanceTerminationAction": "STOP" if prod else "DELETE"}


def left(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is ours, by label, or by the description that firewalls have instead."""
    found = []
    for result in results:
        for entry in result["items"]:
            firewall = result["item"]["kind"] == "firewall"
            if "recommender" in (entry.get("labels") or {}) or (firewall and entry.get("description") == "recommender"):
                path = entry["selfLink"].partition("/compute/v1/")[2]
                name = entry["name"].removesuffix("-else") if firewall else entry["name"]
                found.append({"kind": result["item"]["kind"], "id": entry["id"], "name": name, "path": path})
    return found


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "gcp_plans": plans,
            "gcp_servers": servers,
            "gcp_foreign": foreign,
            "gcp_firewalls": firewalls,
            "gcp_scheduling": scheduling,
            "gcp_left": left,
        }
