"""Sizes, tags, times and costs of servers, in the form that tasks/ of each vendor fills and reads (README.md)."""

import difflib
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ansible.errors import AnsibleFilterError

UNITS = {"m": 60, "h": 3600, "d": 86400}
MILLIONTHS = 1_000_000


def seconds(text: str, word: str = "TTL") -> int:
    """Seconds of 90m, 8h or 2d; 0 of an empty text. word: what it is called in an error."""
    match = re.fullmatch(r"([1-9]\d{0,4})([mhd])", text or "0m")
    if not match and text:
        raise AnsibleFilterError(f"{word}={text} must be a number with m, h or d, for example 90m, 8h or 2d")
    return int(match[1]) * UNITS[match[2]] if match else 0


def configured(vendors: dict[str, dict[str, Any]]) -> list[str]:
    """The vendors with a way to log in whose variables are all in the environment; NAME=value asks for this value."""

    def is_set(variable: str) -> bool:
        name, _, wanted = variable.partition("=")
        return os.environ.get(name) == wanted if wanted else bool(os.environ.get(name))

    return [
        name
        for name, vendor in vendors.items()
        if any(all(map(is_set, way.split())) for way in vendor.get("credentials", []))
    ]


def priced(plan: dict[str, Any], region: str) -> dict[str, Any]:
    """A plan with its prices in a region, where they differ."""
    prices = (plan.get("prices") or {}).get(region) or {}
    return {key: value for key, value in {**plan, **prices}.items() if key not in ("prices", "regions")}


def by_price(plan: dict[str, Any]) -> tuple[Any, ...]:
    """Unknown prices come last, by memory."""
    unknown = plan["hourly"] is None
    return unknown, 0 if unknown else Decimal(str(plan["hourly"])), plan["memory_mb"], plan["cores"], plan["name"]


def candidates(plans: list[dict[str, Any]], size: str, region: str, sizes: dict[str, dict[str, int]]) -> list[Any]:
    """The plans of a size, or the one of this name, that can be ordered in the region, the cheapest first."""
    there = [priced(plan, region) for plan in plans if region in plan["regions"]]
    if not there:
        regions = sorted({region for plan in plans for region in plan["regions"]})
        raise AnsibleFilterError(f"region {region} has no plan to order now. REGION may be one of {', '.join(regions)}")
    if size in sizes:
        least = sizes[size]
        fit = [plan for plan in there if plan["memory_mb"] >= least["memory_mb"] and plan["cores"] >= least["cores"]]
        if not fit:
            raise AnsibleFilterError(f"region {region} has no plan of size {size} now. Try another REGION or SIZE")
        return sorted(fit, key=by_price)
    if size in [plan["name"] for plan in there]:
        return [plan for plan in there if plan["name"] == size]
    if size in [plan["name"] for plan in plans]:
        raise AnsibleFilterError(f"plan {size} cannot be ordered in region {region} now. Try another REGION or SIZE")
    near = difflib.get_close_matches(size, [plan["name"] for plan in plans], n=3)
    raise AnsibleFilterError(f"SIZE={size} must be one of {', '.join([*sizes, *near])}, or another plan of the vendor")


def millionths(price: Any) -> int | None:
    """None where a price is unknown."""
    return None if price is None else round(Decimal(str(price)) * MILLIONTHS)


def tags(environment: str, plan: dict[str, Any], until: int = 0, idle: int = 0) -> list[str]:
    """The tags of a new server: ours, its environment, the price agreed, its end, and the seconds without use."""
    price = millionths(plan["hourly"])
    agreed = [] if price is None else [f"price-{plan['currency'].lower()}-{price}"]
    ends = [f"{key}-{number}" for key, number in (("until", until), ("idle", idle)) if number]
    return ["recommender", f"environment-{environment}", *agreed, *ends]


def labels(found: Iterable[str]) -> dict[str, str]:
    """Tags as keys with values: environment-dev is environment: dev."""
    return {key: value for key, _, value in (tag.partition("-") for tag in found)}


def from_labels(found: dict[str, str]) -> list[str]:
    """The tags that became these labels."""
    return [f"{key}-{value}" if value and key != "recommender" else key for key, value in found.items()]


def value(found: Iterable[str], key: str) -> str:
    """What follows the key in the first tag that has it: of environment-dev it is dev."""
    return next((tag.removeprefix(f"{key}-") for tag in found if tag.startswith(f"{key}-")), "")


def agreed(found: Iterable[str]) -> int | None:
    """Millionths an hour by the tag of the price; None without one."""
    number = value(found, "price").rpartition("-")[2]
    return int(number) if number.isdigit() else None


def end(server: dict[str, Any]) -> int:
    """The second when it ends; 0 without one, and where make create cannot have written it."""
    until = value(server["tags"], "until")
    written = re.fullmatch(r"[1-9]\d{9}", until) and when(server["created"]).timestamp() < int(until)
    return int(until) if written else 0


def expired(servers: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """The servers whose time is over. One whose name another has as well is left to a person."""
    names = [server["name"] for server in servers]
    return [server for server in servers if 0 < end(server) <= now and names.count(server["name"]) == 1]


def left(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is ours in the lists of a vendor. Each result's item says kind, the key of names, and where tags are."""
    found = []
    for result in results:
        asked = result["item"]
        for entry in result["entries"]:
            name, marks = str(entry.get(asked["name"]) or ""), entry.get(asked.get("tags", ""))
            ours = "recommender" in marks if marks is not None else name.startswith("recommender-")
            if ours:
                # an address is a person's, and stays
                kept = {"kept": True} if asked["kind"] == "address" else {}
                found.append({"kind": asked["kind"], "id": entry["id"], "name": name, **kept})
    return found


# what is called as the server itself; the rest is ours by its name
PLAIN = ("server", "disk", "address", "snapshot")


def of_name(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """What of it belongs to the server of this name, and goes with it."""
    return [
        item
        for item in found
        if item["name"] == (name if item["kind"] in PLAIN else f"recommender-{name}") and not item.get("kept")
    ]


def fixed(entries: Iterable[dict[str, Any]], keys: dict[str, str], name: str, wanted: str = "") -> dict[str, Any]:
    """The reserved IPv4 address that is wanted, or has the server's name; empty without one.

    keys: where an entry of the vendor has id, name, address, region and the server's id, as in location.name.
    """

    def at(entry: Any, path: str) -> Any:
        for part in path.split("."):
            entry = (entry or {}).get(part)
        return entry

    for entry in entries:
        found = {key: at(entry, keys.get(key, key)) for key in ("id", "name", "address", "region", "server")}
        chosen = found["address"] == wanted if wanted else found["name"] in (name, f"recommender-{name}")
        if chosen and ":" not in found["address"]:
            return {**found, "server": str(found["server"] or ""), "goes": bool(entry.get("auto_delete"))}
    return {}


def image(entries: list[dict[str, Any]], key: str, suite: str) -> dict[str, Any]:
    """The vendor's Debian of this release, or the one before where it has none."""
    for release in ("13", "12") if suite == "trixie" else ("12",):
        for entry in entries:
            if re.match(rf"debian[ -]{release}\b(?!.*(arm|32))", str(entry[key]), re.I):
                return entry
    raise AnsibleFilterError("the vendor lists no image of Debian 13 or 12")


def when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def costs(
    servers: list[dict[str, Any]], plans: list[dict[str, Any]], now: float, table: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Each server with the prices agreed and of today, in millionths an hour, and the month so far; None is unknown.

    table: the prices of a date, {date, currency, hourly: {plan: price}}, for plans that the vendor does not list.
    """
    table = table or {"date": "", "currency": "", "hourly": {}}
    today = datetime.fromtimestamp(now, UTC)
    month = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = []
    for server in servers:
        plan = next((priced(plan, server["region"]) for plan in plans if plan["name"] == server["plan"]), None)
        dated = not plan and server["plan"] in table["hourly"]
        price = millionths(plan["hourly"] if plan else table["hourly"][server["plan"]]) if plan or dated else None
        rate = server["price"] if server["price"] is not None else price
        hours = (today - max(when(server["created"]), month)).total_seconds() / 3600
        most = millionths(plan["monthly"]) if plan and plan.get("monthly") else None
        spent = None if rate is None else round(rate * max(hours, 0))
        currency = value(server["tags"], "price").partition("-")[0].upper() or (plan or table)["currency"]
        rows.append(
            {
                "name": server["name"], "state": server["state"], "plan": server["plan"], "region": server["region"],
                "currency": currency, "agreed": server["price"], "today": price,
                "month": min(spent, most) if spent is not None and most else spent,
                "stopped": server.get("stopped", rate), "of": table["date"] if dated else (plan or {}).get("of", ""),
            }
        )  # fmt: skip
    return rows


def money(amount: int | None, currency: str, digits: int = 4) -> str:
    return "unknown" if amount is None else f"{Decimal(amount) / MILLIONTHS:.{digits}f} {currency}"


def cost_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A line a server and one a currency. Unknown prices are said, and left out of the total."""
    lines = []
    for row in rows:
        of = f"by the table of {row['of']}" if row["of"] else "today"
        each = f"{money(row['agreed'], row['currency'])} an hour agreed, {money(row['today'], row['currency'])} {of}"
        off = f", stopped: {money(row['stopped'], row['currency'])} an hour" if row["state"] == "stopped" else ""
        lines.append(
            f"{row['name']} ({row['vendor']}, {row['plan']}, {row['region']}): {each},"
            f" {money(row['month'], row['currency'], 2)} this month{off}"
        )
    for currency in sorted({row["currency"] for row in rows}):
        of_it = [row for row in rows if row["currency"] == currency]
        rate = sum(
            (row["stopped"] if row["state"] == "stopped" else row["agreed"] or row["today"]) or 0 for row in of_it
        )
        spent = sum(row["month"] or 0 for row in of_it)
        unknown = sum(row["month"] is None for row in of_it)
        lines.append(
            f"total: {money(rate, currency)} an hour, {money(spent, currency, 2)} this month"
            + (f", without {unknown} of unknown price" if unknown else "")
        )
    return lines or ["no server of ours"]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "cloud_server_seconds": seconds,
            "cloud_server_configured": configured,
            "cloud_server_candidates": candidates,
            "cloud_server_tags": tags,
            "cloud_server_labels": labels,
            "cloud_server_from_labels": from_labels,
            "cloud_server_value": value,
            "cloud_server_agreed": agreed,
            "cloud_server_expired": expired,
            "cloud_server_left": left,
            "cloud_server_of_name": of_name,
            "cloud_server_fixed": fixed,
            "cloud_server_image": image,
            "cloud_server_costs": costs,
            "cloud_server_cost_lines": cost_lines,
            "cloud_server_millionths": millionths,
            "cloud_server_money": money,
        }
