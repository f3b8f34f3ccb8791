"""Unit tests of what the vendors' APIs answer, and of the module that asks them."""

import importlib.util
import pathlib
from typing import Any

import pytest

ROLE = pathlib.Path(__file__).parents[1]


def load(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


answers = load(ROLE / "filter_plugins/vendor_answers.py")
api = load(ROLE / "library/vendor_api.py")


def test_plans_of_vultr_have_the_prices_of_the_region_and_no_graphics_cards() -> None:
    plan = {
        "vcpu_count": 1, "ram": 2048, "disk": 55, "hourly_cost": 0.015, "monthly_cost": 10, "type": "vc2",
        "location_cost": {"sao": {"hourly_cost": 0.018, "monthly_cost": 12}}, "deploy_ondemand": True,
    }  # fmt: skip
    plans = [{"id": "a", **plan}, {"id": "b", **plan}, {"id": "c", **plan, "type": "vcg"}]
    found = answers.vultr_plans([*plans, {"id": "d", **plan, "deploy_ondemand": False}], "sao", ["a", "d"])
    assert [(plan["name"], plan["regions"]) for plan in found] == [("a", ["sao"]), ("b", []), ("d", [])]
    assert answers.common.priced(found[0], "sao")["hourly"] == 0.018
    assert answers.common.priced(found[0], "fra")["hourly"] == 0.015


@pytest.mark.parametrize(
    ("status", "power", "state"),
    [("pending", "running", "starting"), ("active", "running", "running"), ("active", "stopped", "stopped")],
)
def test_servers_of_vultr(status: str, power: str, state: str) -> None:
    instance = {
        "id": "x", "label": "dev", "main_ip": "0.0.0.0", "v6_main_ip": "2001:db8::7", "status": status,
        "power_status": power, "plan": "a", "region": "fra", "tags": ["recommender", "price-usd-15000"],
        "date_created": "2026-11-01T00:00:00+00:00",
    }  # fmt: skip
    (server,) = answers.vultr_servers([instance])
    assert (server["address"], server["address6"], server["state"]) == ("", "2001:db8::7", state)
    assert server["price"] == 15000


def test_droplets_have_a_public_address_and_a_private_one() -> None:
    networks = {"v4": [{"ip_address": "10.0.0.2", "type": "private"}, {"ip_address": "198.51.100.7", "type": "public"}]}
    droplet = {
        "id": 1, "name": "dev", "networks": networks, "status": "new", "size_slug": "s", "region": {"slug": "fra1"},
        "tags": [], "created_at": "2026-11-01T00:00:00Z",
    }  # fmt: skip
    (server,) = answers.digitalocean_servers([droplet])
    assert (server["address"], server["address6"], server["state"]) == ("198.51.100.7", "", "starting")


def test_server_types_of_hetzner_cost_their_address_too_and_stand_where_they_can_be_ordered() -> None:
    def price(location: str, net: str) -> dict[str, Any]:
        return {
            "location": location,
            "price_hourly": {"net": net, "gross": "9"},
            "price_monthly": {"net": "3.4900000000", "gross": "9"},
        }

    address = {"location": "fsn1", "price_hourly": {"net": "0.0008"}, "price_monthly": {"net": "0.5"}}
    pricing = {"currency": "EUR", "primary_ips": [{"type": "ipv4", "prices": [address]}]}
    kind = {
        "name": "cx23", "cores": 2, "memory": 4.0, "disk": 40, "architecture": "x86",
        "prices": [price("fsn1", "0.0056000000"), price("hil", "0.0070000000")],
        "locations": [
            {"name": "fsn1", "available": True, "deprecation": None},
            {"name": "hil", "available": False, "deprecation": None},
            {"name": "nbg1", "available": True, "deprecation": {"unavailable_after": "2026-12-01"}},
        ],
    }  # fmt: skip
    (plan,) = answers.hetzner_plans([kind, {**kind, "architecture": "arm"}], pricing)
    assert plan["regions"] == ["fsn1"]
    assert plan["memory_mb"] == 4096
    assert float(answers.common.priced(plan, "fsn1")["hourly"]) == pytest.approx(0.0064)
    assert float(answers.common.priced(plan, "hil")["hourly"]) == pytest.approx(0.007)


def test_servers_of_hetzner_without_an_ipv4_address() -> None:
    server = {
        "id": 1, "name": "dev", "public_net": {"ipv4": None, "ipv6": {"ip": "2001:db8:1::/64"}}, "status": "off",
        "server_type": {"name": "cx23"}, "location": {"name": "fsn1"}, "created": "2026-11-01T00:00:00+00:00",
        "labels": {"recommender": "", "environment": "dev", "price": "eur-6400"},
    }  # fmt: skip
    (found,) = answers.hetzner_servers([server])
    assert (found["address"], found["address6"], found["state"]) == ("", "2001:db8:1::1", "stopped")
    assert found["tags"] == ["recommender", "environment-dev", "price-eur-6400"]
    assert found["price"] == 6400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": "Invalid region.", "status": 404}', "Invalid region."),
        ('{"id": "not_found", "message": "no such droplet"}', "not_found: no such droplet"),
        ('{"error": {"code": "resource_unavailable", "message": "sold"}}', "resource_unavailable: sold"),
        ("<html>", "<html>"),
    ],
)
def test_what_an_error_means(body: str, said: str) -> None:
    assert api.meaning(body) == said


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ({"meta": {"links": {"next": "bmV4dA=="}}}, {"cursor": "bmV4dA=="}),
        ({"meta": {"pagination": {"next_page": 4}}}, {"page": 4}),
        ({"links": {"pages": {"next": "https://x/?page=4"}}, "meta": {"total": 9}}, {"page": 4}),
        ({"meta": {"links": {"next": ""}}}, {}),
        ({"meta": {"pagination": {"next_page": None}}}, {}),
        ({"links": {}}, {}),
    ],
)
def test_the_next_page(answer: dict[str, Any], follows: dict[str, Any]) -> None:
    assert api.next_page(answer, 3) == follows


def test_a_public_key_is_the_same_with_another_comment() -> None:
    assert api.same("ssh-ed25519 AAAA me@laptop", "ssh-ed25519 AAAA me@desk")
    assert not api.same("ssh-ed25519 AAAB me@laptop", "ssh-ed25519 AAAA me@laptop")
    assert api.same(22, "22")
    assert not api.same("recommender-a b", "recommender-a")
