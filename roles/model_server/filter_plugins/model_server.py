"""Filters of the role: what is wrong with its variables, and a client's limits."""

import re
from typing import Any

MEGABYTE = 1 << 20
NAME_IN_DNS = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def limits(client: dict[str, Any]) -> dict[str, float]:
    """What a client may ask: per_second, and burst, by default twice as many."""
    per_second = float(client["per_second"])
    return {"per_second": per_second, "burst": float(client.get("burst") or max(1.0, 2 * per_second))}


def faults(
    services: list[dict[str, Any]], clients: list[dict[str, Any]], workers: int, memory: str, public: dict[str, Any]
) -> list[str]:
    """Sentences that say what is wrong and what would be right."""
    found = []
    name = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
    for key, of in (("environment", services), ("port", services), ("name", clients)):
        values = [each[key] for each in of]
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            found.append(f"{', '.join(twice)} stands twice as {key}: give each entry its own.")
    for service in services:
        if not name.fullmatch(service["environment"]):
            found.append(f"environment {service['environment']!r} is not a name: use small letters, digits, - and _.")
        if not 1024 <= int(service["port"]) <= 65535:
            found.append(f"port {service['port']} of {service['environment']}: take one from 1024 to 65535.")
        if not re.fullmatch(r"[\w.-]+", service.get("model") or "movie-recommender"):
            found.append(
                f"model {service['model']!r} of {service['environment']} is not the name of a registered model."
            )
    for client in clients:
        if not name.fullmatch(client["name"]):
            found.append(f"client {client['name']!r} is not a name: use small letters, digits, - and _.")
        if float(client["per_second"]) <= 0 or float(client.get("burst") or 1) < 1:
            found.append(f"client {client['name']}: per_second has to be more than 0, and burst at least 1.")
    if not 1 <= workers <= 16:
        found.append(f"model_server_workers is {workers}: take a number from 1 to 16.")
    size = re.fullmatch(r"([1-9][0-9]*)([KMG]?)", str(memory))
    if not size or int(size[1]) * UNITS[size[2]] < 200 * MEGABYTE:
        found.append(f"model_server_memory_max is {memory}: write at least 200M, in bytes, with K, M or G.")
    if public:
        there = [service["environment"] for service in services]
        if public.get("environment") not in there:
            served = ", ".join(there) or "nothing"
            found.append(
                f"model_server_public: environment is {public.get('environment')}, and {served} is served here."
            )
        if not NAME_IN_DNS.fullmatch(str(public.get("name"))):
            found.append(f"model_server_public: {public.get('name')!r} is not a name in DNS, as api.example.org.")
    return found


class FilterModule:
    """Ansible's face of this file."""

    def filters(self) -> dict[str, Any]:
        return {"model_server_faults": faults, "model_server_limits": limits}
