"""What the APIs of Vultr, DigitalOcean and Hetzner answer, in the form that cloud_server.py and the tasks read."""

import importlib.util
import pathlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

_path = pathlib.Path(__file__).with_name("cloud_server.py")
_spec = importlib.util.spec_from_file_location("cloud_server_filters", _path)
assert _spec and _spec.loader
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)

# machines with graphics cards, and kinds that are not ordered by the hour
NOT_VULTR = ("vcg", "vdc")


def vultr_plans(plans: Iterable[dict[str, Any]], region: str, available: Iterable[str]) -> list[dict[str, Any]]:
    """Plans of Vultr; those that are available now, in this region alone."""
    there = set(available)
    return [
        {
            "name": plan["id"], "cores": plan["vcpu_count"], "memory_mb": plan["ram"], "disk_gb": plan["disk"],
            "hourly": plan["hourly_cost"], "monthly": plan["monthly_cost"], "currency": "USD",
            "prices": {
                place: {"hourly": cost["hourly_cost"], "monthly": cost["monthly_cost"]}
                for place, cost in (plan.get("location_cost") or {}).items()
            },
            "regions": [region] if plan["id"] in there and plan.get("deploy_ondemand", True) else [],
        }
        for plan in plans
        if not plan["type"].startswith(NOT_VULTR)
    ]  # fmt: skip


def vultr_servers(instances: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": instance["id"], "name": instance["label"],
            "address": "" if instance["main_ip"] == "0.0.0.0" else instance["main_ip"],
            "address6": instance.get("v6_main_ip") or "",
            "state": "starting" if instance["status"] != "active"
            else "stopped" if instance["power_status"] == "stopped" else "running",
            "plan": instance["plan"], "region": instance["region"], "tags": instance["tags"],
            "created": instance["date_created"], "price": common.agreed(instance["tags"]),
        }
        for instance in instances
    ]  # fmt: skip


def digitalocean_plans(sizes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": size["slug"], "cores": size["vcpus"], "memory_mb": size["memory"], "disk_gb": size["disk"],
            "hourly": size["price_hourly"], "monthly": size["price_monthly"], "currency": "USD",
            "regions": size["regions"] if size["available"] else [],
        }
        for size in sizes
        if not size.get("gpu_info")
    ]  # fmt: skip


def digitalocean_servers(droplets: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    def public(droplet: dict[str, Any], version: str) -> str:
        found = droplet["networks"].get(version) or []
        return next((str(entry["ip_address"]) for entry in found if entry["type"] == "public"), "")

    return [
        {
            "id": droplet["id"], "name": droplet["name"],
            "address": public(droplet, "v4"), "address6": public(droplet, "v6"),
            "state": {"active": "running", "off": "stopped"}.get(droplet["status"], "starting"),
            "plan": droplet["size_slug"], "region": droplet["region"]["slug"], "tags": droplet["tags"],
            "created": droplet["created_at"], "price": common.agreed(droplet["tags"]),
        }
        for droplet in droplets
    ]  # fmt: skip


def hetzner_plans(types: Iterable[dict[str, Any]], pricing: dict[str, Any]) -> list[dict[str, Any]]:
    """Server types for x86; prices without VAT, with that of the IPv4 address."""
    addresses = {
        price["location"]: price
        for kind in pricing["primary_ips"]
        if kind["type"] == "ipv4"
        for price in kind["prices"]
    }

    def whole(price: dict[str, Any], period: str) -> str:
        key = f"price_{period}"
        return str(
            Decimal(price[key]["net"]) + Decimal(addresses.get(price["location"], {}).get(key, {}).get("net", 0))
        )

    found = []
    for kind in types:
        prices = {
            price["location"]: {"hourly": whole(price, "hourly"), "monthly": whole(price, "monthly")}
            for price in kind["prices"]
        }
        if kind["architecture"] == "x86" and prices:
            regions = [
                place["name"]
                for place in kind["locations"]
                if place.get("available", True) and not place.get("deprecation") and place["name"] in prices
            ]
            found.append(
                {
                    "name": kind["name"], "cores": kind["cores"], "memory_mb": int(float(kind["memory"]) * 1024),
                    "disk_gb": kind["disk"], **next(iter(prices.values())), "currency": pricing["currency"],
                    "prices": prices, "regions": regions,
                }
            )  # fmt: skip
    return found


def hetzner_servers(servers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": server["id"], "name": server["name"],
            "address": ((server["public_net"] or {}).get("ipv4") or {}).get("ip", ""),
            # a network of addresses, whose first is the server's
            "address6": ((server["public_net"] or {}).get("ipv6") or {}).get("ip", "").replace("::/64", "::1"),
            "state": {"running": "running", "off": "stopped"}.get(server["status"], "starting"),
            "plan": server["server_type"]["name"], "region": server["location"]["name"],
            "tags": common.from_labels(server["labels"]), "created": server["created"],
            "price": common.agreed(common.from_labels(server["labels"])),
        }
        for server in servers
    ]  # fmt: skip


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "vultr_plans": vultr_plans,
            "vultr_servers": vultr_servers,
            "digitalocean_plans": digitalocean_plans,
            "digitalocean_servers": digitalocean_servers,
            "hetzner_plans": hetzner_plans,
            "hetzner_servers": hetzner_servers,
        }
