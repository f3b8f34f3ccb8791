"""A stand-in for the APIs of Vultr v2, DigitalOcean v2 and Hetzner v1: one state with three faces.

Faults are switched on by name and happen once: see FAULTS.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = {
    "lost": "the server is made, and the connection closed without an answer",
    "haste": "429 to two requests",
    "broken": "503 to two requests",
    "late": "the server is made, and the answer comes after the client has gone",
    "quota": "the account may have no further server",
    "sold out": "the first plan that is asked for is not there any more",
    "half": "the server is made without its firewall, and the answer is 500",
    "killed": "what asks is killed while the server is being made",
    "down": "from the first DELETE on there is no answer at all",
}
# name, cores, MB, GB, an hour and a month
PLANS: dict[str, list[tuple[str, int, int, int, float, float]]] = {
    "vultr": [
        ("vc2-1c-1gb", 1, 1024, 25, 0.007, 5),
        ("vc2-1c-2gb", 1, 2048, 55, 0.015, 10),
        ("vhf-1c-2gb", 1, 2048, 64, 0.018, 12),
        ("vc2-2c-4gb", 2, 4096, 80, 0.03, 20),
        ("vc2-4c-8gb", 4, 8192, 160, 0.06, 40),
    ],
    "digitalocean": [
        ("s-1vcpu-1gb", 1, 1024, 25, 0.00893, 6),
        ("s-1vcpu-2gb", 1, 2048, 50, 0.01786, 12),
        ("s-1vcpu-2gb-amd", 1, 2048, 50, 0.02083, 14),
        ("s-2vcpu-4gb", 2, 4096, 80, 0.03571, 24),
        ("s-4vcpu-8gb", 4, 8192, 160, 0.07143, 48),
    ],
    "hetzner": [
        ("cx23", 2, 4096, 40, 0.0056, 3.49),
        ("cpx11", 2, 2048, 40, 0.007, 4.35),
        ("cx33", 4, 8192, 80, 0.0088, 5.49),
        ("cax11", 2, 4096, 40, 0.0053, 3.29),
    ],
}
REGIONS = {"vultr": "fra", "digitalocean": "fra1", "hetzner": "fsn1"}
ADDRESS_PRICE = (0.0008, 0.5)
Json = dict[str, Any]


class Refuse(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Vanish(Exception):
    """The connection ends without an answer."""


@dataclass
class Server:
    id: Any
    name: str
    plan: str
    region: str
    tags: list[str]
    keys: list[str]
    firewalls: list[Any]
    created: datetime
    # requests for it that still find it without an address
    polls: int = 1
    address: str = ""
    on: bool = True


@dataclass
class State:
    vendor: str
    token: str
    # name and keys of a server: its address
    boot: Callable[[str, list[str]], str]
    end: Callable[[str], None] = lambda name: None
    servers: dict[Any, Server] = field(default_factory=dict)
    keys: dict[Any, Json] = field(default_factory=dict)
    firewalls: dict[Any, Json] = field(default_factory=dict)
    # a person's reserved addresses
    addresses: dict[Any, Json] = field(default_factory=dict)
    # kinds that are never made by us
    others: dict[str, list[Json]] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)
    left: int = 2
    # more than one page
    page: int = 2
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    kill: Callable[[], None] = lambda: None
    number: int = 1000
    lock: threading.RLock = field(default_factory=threading.RLock)

    def id(self) -> Any:
        self.number += 1
        return f"00000000-0000-4000-8000-{self.number:012}" if self.vendor == "vultr" else self.number

    def inventory(self) -> list[str]:
        """All that the account has."""
        found = [("server", server.name) for server in self.servers.values()]
        found += [("key", key["name"]) for key in self.keys.values()]
        found += [("firewall", firewall["name"]) for firewall in self.firewalls.values()]
        found += [("address", address["name"]) for address in self.addresses.values()]
        found += [(kind, entry["name"]) for kind, entries in self.others.items() for entry in entries]
        return sorted(map(" ".join, found))

    def happens(self, fault: str) -> bool:
        if fault in self.faults:
            self.faults.remove(fault)
            return True
        return False

    def reserve(self, name: str, address: str, goes: bool) -> None:
        key = address if self.vendor == "digitalocean" else self.id()
        entry = {"id": key, "name": name, "address": address, "server": None, "goes": goes}
        self.addresses[key] = {**entry, "region": REGIONS[self.vendor]}

    def give(self, key: Any, server: Server) -> None:
        address = find(self.addresses, str(key))
        if address["server"] not in (None, server.id) or address["region"] != server.region:
            raise Refuse(422, "unprocessable_entity", "the address is assigned, or in another region")
        address["server"] = server.id
        # a request that still finds it without the server
        address["polls"] = 1

    def make(
        self,
        name: str,
        plan: str,
        region: str,
        tags: list[str],
        keys: list[Any],
        firewalls: list[Any],
        fixed: Any = None,
    ) -> Server:
        if self.happens("quota"):
            raise Refuse({"vultr": 400, "digitalocean": 422, "hetzner": 403}[self.vendor], *LIMIT[self.vendor])
        if region != REGIONS[self.vendor]:
            raise Refuse(400, "invalid_input", "Invalid region")
        if self.happens("sold out"):
            raise Refuse({"vultr": 400, "digitalocean": 422, "hetzner": 412}[self.vendor], *SOLD_OUT[self.vendor])
        if self.vendor == "hetzner" and name in [server.name for server in self.servers.values()]:
            raise Refuse(409, "uniqueness_error", "server name is already used")
        publics = [self.keys[key]["public"] for key in keys]
        half = self.happens("half")
        server = Server(self.id(), name, plan, region, tags, publics, [] if half else firewalls, datetime.now(UTC))
        self.servers[server.id] = server
        server.address = self.boot(name, publics)
        if fixed:
            self.give(fixed, server)
            server.address = find(self.addresses, str(fixed))["address"]
        if self.happens("killed"):
            self.kill()
            raise Vanish
        if self.happens("lost"):
            raise Vanish
        if self.happens("late"):
            time.sleep(4)
            raise Vanish
        if half:
            raise Refuse(500, "server_error", "internal error")
        return server

    def remove(self, server: Server) -> None:
        del self.servers[server.id]
        for key in [key for key, address in self.addresses.items() if address["server"] == server.id]:
            self.addresses[key]["server"] = None
            if self.addresses[key]["goes"]:
                del self.addresses[key]
        self.end(server.name)


LIMIT = {
    "vultr": ("", "You have reached the maximum number of active virtual machines for this account"),
    "digitalocean": ("unprocessable_entity", "creating this/these droplet(s) will exceed your droplet limit"),
    "hetzner": ("resource_limit_exceeded", "server limit reached"),
}
SOLD_OUT = {
    "vultr": ("", "Server add failed: This plan is not available in the selected region"),
    "digitalocean": ("unprocessable_entity", "Size is not available in this region."),
    "hetzner": ("resource_unavailable", "error during placement"),
}


def find(entries: dict[Any, Any], key: str) -> Any:
    for name, entry in entries.items():
        if str(name) == key:
            return entry
    raise Refuse(404, "not_found", "not found")


def tag_labels(tags: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (tag.partition("-") for tag in tags)}


class Vultr:
    lists = ("instances", "ssh-keys", "firewalls", "reserved-ips", "blocks", "snapshots", "plans", "os")

    def __init__(self, state: State) -> None:
        self.state = state

    def shown(self, server: Server) -> Json:
        ready = server.polls <= 0
        server.polls -= 1
        return {
            "id": server.id, "label": server.name, "plan": server.plan, "region": server.region, "tags": server.tags,
            "main_ip": server.address if ready else "0.0.0.0", "v6_main_ip": "",
            "status": "active" if ready else "pending", "server_status": "ok" if ready else "none",
            "power_status": "running" if server.on else "stopped",
            "firewall_group_id": server.firewalls[0] if server.firewalls else "",
            "date_created": server.created.isoformat(timespec="seconds"), "features": ["ipv6"], "internal_ip": "",
            "hostname": server.name,
        }  # fmt: skip

    def page(self, key: str, entries: list[Json], query: dict[str, str]) -> Json:
        start = int(query.get("cursor") or 0)
        size = min(self.state.page, int(query.get("per_page", 100)))
        more = str(start + size) if start + size < len(entries) else ""
        return {
            key: entries[start : start + size],
            "meta": {"total": len(entries), "links": {"next": more, "prev": ""}},
        }

    def answer(self, method: str, path: list[str], query: dict[str, str], body: Json) -> tuple[int, Json]:
        state = self.state
        match method, path:
            case "GET", ["account"]:
                return 200, {"account": {"name": "stand-in", "balance": 0}}
            case "GET", ["plans"]:
                plans = [
                    {
                        "id": name, "vcpu_count": cores, "ram": memory, "disk": disk, "hourly_cost": hourly,
                        "monthly_cost": monthly, "type": "vc2", "locations": ["fra"], "deploy_ondemand": True,
                    }
                    for name, cores, memory, disk, hourly, monthly in PLANS["vultr"]
                ]  # fmt: skip
                return 200, self.page("plans", plans, query)
            case "GET", ["regions", region, "availability"]:
                if region != "fra":
                    raise Refuse(404, "", "Invalid region.")
                return 200, {"available_plans": [plan[0] for plan in PLANS["vultr"]]}
            case "GET", ["os"]:
                names = ("Ubuntu 24.04 LTS x64", "Debian 12 x64 (bookworm)", "Debian 13 x64 (trixie)")
                return 200, self.page("os", [{"id": 2000 + n, "name": name} for n, name in enumerate(names)], query)
            case "GET", ["instances"]:
                return 200, self.page("instances", [self.shown(server) for server in state.servers.values()], query)
            case "POST", ["instances"]:
                assert body["os_id"] == 2002, body
                server = state.make(
                    body["label"],
                    body["plan"],
                    body["region"],
                    body["tags"],
                    body["sshkey_id"],
                    [body["firewall_group_id"]],
                    body.get("reserved_ipv4"),
                )
                return 202, {"instance": self.shown(server)}
            case "GET", ["instances", key]:
                return 200, {"instance": self.shown(find(state.servers, key))}
            case "PATCH", ["instances", key]:
                find(state.servers, key).firewalls = [body["firewall_group_id"]]
                return 202, {"instance": self.shown(find(state.servers, key))}
            case "DELETE", ["instances", key]:
                state.remove(find(state.servers, key))
                return 204, {}
            case "POST", ["instances", key, "halt" | "start" as action]:
                find(state.servers, key).on = action == "start"
                return 204, {}
            case "GET", ["ssh-keys"]:
                keys = [{"id": key["id"], "name": key["name"], "ssh_key": key["public"]} for key in state.keys.values()]
                return 200, self.page("ssh_keys", keys, query)
            case "POST", ["ssh-keys"]:
                new = {"id": state.id(), "name": body["name"], "public": body["ssh_key"]}
                state.keys[new["id"]] = new
                return 201, {"ssh_key": {"id": new["id"], "name": new["name"], "ssh_key": new["public"]}}
            case "PATCH", ["ssh-keys", key]:
                find(state.keys, key)["public"] = body["ssh_key"]
                return 204, {}
            case "DELETE", ["ssh-keys", key]:
                del state.keys[find(state.keys, key)["id"]]
                return 204, {}
            case "GET", ["firewalls"]:
                groups = [{"id": it["id"], "description": it["name"]} for it in state.firewalls.values()]
                return 200, self.page("firewall_groups", groups, query)
            case "POST", ["firewalls"]:
                firewall = {"id": state.id(), "name": body["description"], "rules": []}
                state.firewalls[firewall["id"]] = firewall
                return 201, {"firewall_group": {"id": firewall["id"], "description": firewall["name"]}}
            case "DELETE", ["firewalls", key]:
                del state.firewalls[find(state.firewalls, key)["id"]]
                return 204, {}
            case "GET", ["firewalls", key, "rules"]:
                return 200, self.page("firewall_rules", find(state.firewalls, key)["rules"], query)
            case "POST", ["firewalls", key, "rules"]:
                rules = find(state.firewalls, key)["rules"]
                rules.append({"id": len(rules) + 1, **body})
                return 201, {"firewall_rule": rules[-1]}
            case "GET", ["reserved-ips"]:
                found = [
                    {
                        "id": it["id"], "region": it["region"], "ip_type": "v4", "subnet": it["address"],
                        "subnet_size": 32, "label": it["name"], "instance_id": it["server"] or "",
                    }
                    for it in state.addresses.values()
                ]  # fmt: skip
                return 200, self.page("reserved_ips", found, query)
            case "GET", ["blocks" | "snapshots" as kind]:
                name = "description" if kind == "snapshots" else "label"
                entries = [{"id": entry["id"], name: entry["name"]} for entry in state.others.get(kind, [])]
                return 200, self.page(kind, entries, query)
        raise Refuse(404, "not_found", f"no {method} {'/'.join(path)}")

    def refusal(self, error: Refuse) -> Json:
        return {"error": str(error), "status": error.status}


class DigitalOcean:
    def __init__(self, state: State) -> None:
        self.state = state

    def shown(self, server: Server) -> Json:
        ready = server.polls <= 0
        server.polls -= 1
        return {
            "id": server.id, "name": server.name, "size_slug": server.plan, "region": {"slug": server.region},
            "tags": server.tags, "created_at": server.created.isoformat(timespec="seconds"),
            "status": "new" if not ready else "active" if server.on else "off",
            "networks": {"v4": [{"ip_address": server.address, "type": "public"}] if ready else [], "v6": []},
        }  # fmt: skip

    @staticmethod
    def reserved(address: Json) -> Json:
        ready = address["server"] and address.get("polls", 0) <= 0
        address["polls"] = address.get("polls", 0) - 1
        droplet = {"id": address["server"]} if ready else None
        return {"ip": address["address"], "region": {"slug": address["region"]}, "droplet": droplet, "locked": False}

    def page(self, key: str, entries: list[Json], query: dict[str, str]) -> Json:
        page, size = int(query.get("page", 1)), min(self.state.page, int(query.get("per_page", 20)))
        links = (
            {"pages": {"next": f"https://api.digitalocean.com/?page={page + 1}"}} if page * size < len(entries) else {}
        )
        return {key: entries[(page - 1) * size : page * size], "links": links, "meta": {"total": len(entries)}}

    def answer(self, method: str, path: list[str], query: dict[str, str], body: Json) -> tuple[int, Json]:
        state = self.state
        match method, path:
            case "GET", ["account"]:
                return 200, {"account": {"status": "active"}}
            case "GET", ["sizes"]:
                sizes = [
                    {
                        "slug": name, "vcpus": cores, "memory": memory, "disk": disk, "price_hourly": hourly,
                        "price_monthly": monthly, "regions": ["fra1"], "available": True,
                    }
                    for name, cores, memory, disk, hourly, monthly in PLANS["digitalocean"]
                ]  # fmt: skip
                return 200, self.page("sizes", sizes, query)
            case "GET", ["images"]:
                slugs = ("ubuntu-24-04-x64", "debian-12-x64", "debian-13-x64")
                return 200, self.page("images", [{"id": n, "slug": slug} for n, slug in enumerate(slugs)], query)
            case "GET", ["droplets"]:
                return 200, self.page("droplets", [self.shown(server) for server in state.servers.values()], query)
            case "POST", ["droplets"]:
                assert body["image"] == "debian-13-x64", body
                firewalls = [it["id"] for it in state.firewalls.values() if set(it["tags"]) & set(body["tags"])]
                server = state.make(
                    body["name"], body["size"], body["region"], body["tags"], body["ssh_keys"], firewalls
                )
                return 202, {"droplet": self.shown(server), "links": {"actions": []}}
            case "GET", ["droplets", key]:
                return 200, {"droplet": self.shown(find(state.servers, key))}
            case "DELETE", ["droplets", key]:
                state.remove(find(state.servers, key))
                return 204, {}
            case "POST", ["droplets", key, "actions"]:
                find(state.servers, key).on = body["type"] == "power_on"
                return 201, {"action": {"id": state.id(), "status": "in-progress"}}
            case "GET", ["account", "keys"]:
                keys = [{"id": it["id"], "name": it["name"], "public_key": it["public"]} for it in state.keys.values()]
                return 200, self.page("ssh_keys", keys, query)
            case "POST", ["account", "keys"]:
                if body["public_key"].split()[:2] in [key["public"].split()[:2] for key in state.keys.values()]:
                    raise Refuse(422, "unprocessable_entity", "SSH Key is already in use on your account")
                new = {"id": state.id(), "name": body["name"], "public": body["public_key"]}
                state.keys[new["id"]] = new
                return 201, {"ssh_key": {"id": new["id"], "name": new["name"], "public_key": new["public"]}}
            case "DELETE", ["account", "keys", key]:
                del state.keys[find(state.keys, key)["id"]]
                return 204, {}
            case "POST", ["tags"]:
                return 201, {"tag": {"name": body["name"]}}
            case "DELETE", ["tags", _]:
                return 204, {}
            case "GET", ["firewalls"]:
                return 200, self.page("firewalls", list(state.firewalls.values()), query)
            case "POST", ["firewalls"]:
                firewall = {"id": f"firewall-{state.id()}", **body}
                state.firewalls[firewall["id"]] = firewall
                return 202, {"firewall": firewall}
            case "DELETE", ["firewalls", key]:
                del state.firewalls[find(state.firewalls, key)["id"]]
                return 204, {}
            case "GET", ["reserved_ips"]:
                return 200, self.page("reserved_ips", list(map(self.reserved, state.addresses.values())), query)
            case "GET", ["reserved_ips", key]:
                return 200, {"reserved_ip": self.reserved(find(state.addresses, key))}
            case "POST", ["reserved_ips", key, "actions"]:
                assert body["type"] == "assign", body
                state.give(key, state.servers[body["droplet_id"]])
                return 201, {"action": {"id": state.id(), "status": "in-progress"}}
            case "GET", ["volumes" | "snapshots" as kind]:
                return 200, self.page(kind, state.others.get(kind, []), query)
        raise Refuse(404, "not_found", f"no {method} {'/'.join(path)}")

    def refusal(self, error: Refuse) -> Json:
        return {"id": error.code or "error", "message": str(error)}


class Hetzner:
    def __init__(self, state: State) -> None:
        self.state = state

    def shown(self, server: Server) -> Json:
        ready = server.polls <= 0
        server.polls -= 1
        return {
            "id": server.id, "name": server.name, "server_type": {"name": server.plan},
            "location": {"name": server.region}, "labels": tag_labels(server.tags),
            "created": server.created.isoformat(timespec="seconds"),
            "status": "initializing" if not ready else "running" if server.on else "off",
            "public_net": {
                "ipv4": {"ip": server.address}, "ipv6": {"ip": "2001:db8::/64"},
                "firewalls": [{"id": it, "status": "applied"} for it in server.firewalls],
            },
        }  # fmt: skip

    def page(self, key: str, entries: list[Json], query: dict[str, str]) -> Json:
        page, size = int(query.get("page", 1)), min(self.state.page, int(query.get("per_page", 25)))
        more = page + 1 if page * size < len(entries) else None
        return {
            key: entries[(page - 1) * size : page * size],
            "meta": {"pagination": {"page": page, "next_page": more}},
        }

    @staticmethod
    def price(hourly: float, monthly: float) -> Json:
        def of(amount: float) -> dict[str, str]:
            return {"net": f"{amount:.10f}", "gross": f"{amount * 1.19:.10f}"}

        return {"location": "fsn1", "price_hourly": of(hourly), "price_monthly": of(monthly)}

    def answer(self, method: str, path: list[str], query: dict[str, str], body: Json) -> tuple[int, Json]:
        state = self.state
        action = {"id": 1, "status": "running"}
        match method, path:
            case "GET", ["server_types"]:
                kinds = [
                    {
                        "name": name, "cores": cores, "memory": memory / 1024, "disk": disk,
                        "architecture": "arm" if name.startswith("cax") else "x86",
                        "prices": [self.price(hourly, monthly)],
                        "locations": [{"name": "fsn1", "available": True, "recommended": True, "deprecation": None}],
                    }
                    for name, cores, memory, disk, hourly, monthly in PLANS["hetzner"]
                ]  # fmt: skip
                return 200, self.page("server_types", kinds, query)
            case "GET", ["pricing"]:
                address = {"type": "ipv4", "prices": [self.price(*ADDRESS_PRICE)]}
                return 200, {"pricing": {"currency": "EUR", "primary_ips": [address], "server_types": []}}
            case "GET", ["locations"]:
                return 200, self.page("locations", [{"name": "fsn1"}], query)
            case "GET", ["images"]:
                if query.get("type") == "snapshot":
                    found = [{"description": it["name"], **it} for it in state.others.get("snapshots", [])]
                    return 200, self.page("images", found, query)
                names = ("ubuntu-24.04", "debian-12", "debian-13")
                return 200, self.page("images", [{"id": n, "name": name} for n, name in enumerate(names)], query)
            case "GET", ["servers"]:
                return 200, self.page("servers", [self.shown(server) for server in state.servers.values()], query)
            case "POST", ["servers"]:
                assert str(body["image"]) == "debian-13", body
                tags = [f"{key}-{value}" if value else key for key, value in body["labels"].items()]
                firewalls = [it["firewall"] for it in body["firewalls"]]
                server = state.make(
                    body["name"], body["server_type"], body["location"], tags, body["ssh_keys"], firewalls,
                    body.get("public_net", {}).get("ipv4"),
                )  # fmt: skip
                return 201, {"server": self.shown(server), "action": action, "root_password": None}
            case "GET", ["servers", key]:
                return 200, {"server": self.shown(find(state.servers, key))}
            case "DELETE", ["servers", key]:
                state.remove(find(state.servers, key))
                return 200, {"action": action}
            case "POST", ["servers", key, "actions", "poweroff" | "shutdown" | "poweron" as what]:
                find(state.servers, key).on = what == "poweron"
                return 201, {"action": action}
            case "GET", ["ssh_keys"]:
                keys = [{"public_key": it["public"], **it} for it in state.keys.values()]
                return 200, self.page("ssh_keys", keys, query)
            case "POST", ["ssh_keys"]:
                taken = [key["public"].split()[:2] for key in state.keys.values()]
                if body["public_key"].split()[:2] in taken or body["name"] in [
                    it["name"] for it in state.keys.values()
                ]:
                    raise Refuse(409, "uniqueness_error", "SSH key not unique")
                new = {"id": state.id(), "name": body["name"], "labels": body["labels"], "public": body["public_key"]}
                state.keys[new["id"]] = new
                return 201, {"ssh_key": {"public_key": new["public"], **new}}
            case "DELETE", ["ssh_keys", key]:
                del state.keys[find(state.keys, key)["id"]]
                return 204, {}
            case "GET", ["firewalls"]:
                return 200, self.page("firewalls", list(state.firewalls.values()), query)
            case "POST", ["firewalls"]:
                firewall = {"id": state.id(), **body}
                state.firewalls[firewall["id"]] = firewall
                return 201, {"firewall": firewall, "actions": []}
            case "POST", ["firewalls", key, "actions", "apply_to_resources"]:
                for entry in body["apply_to"]:
                    state.servers[entry["server"]["id"]].firewalls.append(find(state.firewalls, key)["id"])
                return 201, {"actions": [action]}
            case "DELETE", ["firewalls", key]:
                firewall = find(state.firewalls, key)
                if any(firewall["id"] in server.firewalls for server in state.servers.values()):
                    raise Refuse(422, "resource_in_use", "firewall is in use")
                del state.firewalls[firewall["id"]]
                return 204, {}
            case "GET", ["primary_ips"]:
                found = [
                    {
                        "id": it["id"], "name": it["name"], "ip": it["address"], "type": "ipv4",
                        "auto_delete": it["goes"], "location": {"name": it["region"]}, "assignee_id": it["server"],
                    }
                    for it in state.addresses.values()
                ]  # fmt: skip
                return 200, self.page("primary_ips", found, query)
            case "PUT", ["primary_ips", key]:
                find(state.addresses, key)["goes"] = body["auto_delete"]
                return 200, {"primary_ip": {}}
            case "GET", ["floating_ips" | "volumes" as kind]:
                return 200, self.page(kind, state.others.get(kind, []), query)
        raise Refuse(404, "not_found", f"no {method} {'/'.join(path)}")

    def refusal(self, error: Refuse) -> Json:
        return {"error": {"code": error.code or "error", "message": str(error)}}


FACES: dict[str, Any] = {"vultr": Vultr, "digitalocean": DigitalOcean, "hetzner": Hetzner}
VERSIONS = {"vultr": "v2", "digitalocean": "v2", "hetzner": "v1"}
VARIABLES = {
    "vultr": ("VULTR_API_KEY", "VULTR_API_ENDPOINT"),
    "digitalocean": ("DO_API_TOKEN", "DO_API_ENDPOINT"),
    "hetzner": ("HCLOUD_TOKEN", "HCLOUD_ENDPOINT"),
}


class StandIn:
    """One vendor's API on a port of the loopback."""

    def __init__(self, state: State) -> None:
        self.state = state
        face = FACES[state.vendor](state)
        silent = False

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def handle_one(self) -> None:
                nonlocal silent
                url = urllib.parse.urlsplit(self.path)
                path = [part for part in url.path.split("/") if part][1:]
                query = dict(urllib.parse.parse_qsl(url.query))
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                # half of a request may come from a process that is killed meanwhile
                with state.lock:
                    try:
                        if silent and "down" in state.faults:
                            raise Vanish
                        silent = False
                        if self.headers.get("Authorization") != f"Bearer {state.token}":
                            raise Refuse(401, "unauthorized", "Invalid API token")
                        for fault, status in (("haste", 429), ("broken", 503)):
                            if fault in state.faults:
                                state.left -= 1
                                if state.left == 0:
                                    state.faults.remove(fault)
                                raise Refuse(status, "rate_limit_exceeded", "slow down")
                        if "down" in state.faults and self.command == "DELETE":
                            silent = True
                            raise Vanish
                        status, answer = face.answer(self.command, path, query, body)
                    except Refuse as error:
                        status, answer = error.status, face.refusal(error)
                    except Vanish:
                        state.asked.append((self.command, "/".join(path), 0))
                        self.close_connection = True
                        return
                    state.asked.append((self.command, "/".join(path), status))
                text = json.dumps(answer).encode() if status != 204 else b""
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_one

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/{VERSIONS[state.vendor]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def boot_container(image: str, name: str, keys: list[str]) -> str:
    """Start a server as tasks/local/create.yml does; returns its address."""
    command = [
        "docker", "run", "--detach", "--name", name, "--hostname", name,
        "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined",
        "--security-opt", "apparmor=unconfined", "--cgroupns", "private",
        "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", "--stop-timeout", "10",
        "--volume", "bare-server-uv-cache:/var/cache/uv", image,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    trust = "umask 077; cat > /root/.ssh/authorized_keys"
    text = "".join(f"{key}\n" for key in keys)
    subprocess.run(["docker", "exec", "-i", name, "sh", "-c", trust], input=text, text=True, check=True)
    inspect = ["docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name]
    address = subprocess.check_output(inspect, text=True).strip()
    assert re.fullmatch(r"[\d.]+", address), address
    return address


def ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)
