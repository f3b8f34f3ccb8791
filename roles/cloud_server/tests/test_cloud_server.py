"""Unit tests of sizes, tags, times and costs, and of the vendors' entries."""

import importlib.util
import pathlib
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

ROLE = pathlib.Path(__file__).parents[1]
ROOT = ROLE.parents[1]


def load(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


servers = load(ROLE / "filter_plugins/cloud_server.py")
gate = load(ROOT / "inventory/plugins/credentials_gate.py")
VARS = yaml.safe_load((ROLE / "vars/main.yml").read_text())
VENDORS, SIZES = VARS["__cloud_server_vendors"], VARS["__cloud_server_sizes"]
STEPS = {f"{step}.yml" for step in ("check", "plans", "find", "create", "destroy", "stop", "start", "left")}


def plan(name: str, cores: int, memory_mb: int, hourly: float, *regions: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "cores": cores, "memory_mb": memory_mb, "disk_gb": 50, "hourly": hourly,
        "monthly": hourly * 672, "currency": "USD", "regions": list(regions), **more,
    }  # fmt: skip


PLANS = [
    plan("big", 4, 8192, 0.06, "fra", "ewr"),
    plan("tiny", 1, 1024, 0.005, "fra"),
    plan("dear", 2, 4096, 0.05, "fra", prices={"fra": {"hourly": 0.03, "monthly": 20}}),
    plan("one", 1, 2048, 0.0149, "fra", "ewr"),
    plan("gone", 1, 2048, 0.001),
    plan("two", 2, 4096, 0.03, "ewr"),
]


def names(size: str, region: str = "fra") -> list[str]:
    return [plan["name"] for plan in servers.candidates(PLANS, size, region, SIZES)]


def test_each_vendor_has_all_steps() -> None:
    found = {path.name: {file.name for file in path.iterdir()} for path in ROLE.glob("tasks/*") if path.is_dir()}
    wanted = {vendor: {"create.yml", "destroy.yml"} if vendor == "local" else STEPS for vendor in VENDORS}
    # a vendor may split a step
    assert {vendor: files & (wanted.get(vendor) or set()) for vendor, files in found.items()} == wanted


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "local"])
def test_a_vendor_asks_for_the_credentials_of_its_inventory(vendor: str) -> None:
    files = (ROOT / "inventory" / vendor).glob("*.yml")
    plugins = [yaml.safe_load(path.read_text()).get("plugin") for path in files]
    (plugin,) = (name for name in plugins if name)
    assert VENDORS[vendor]["credentials"] == gate.CREDENTIALS[plugin]
    assert {"title", "page", "region", "stopped"} <= set(VENDORS[vendor])


def test_the_cheapest_plan_of_a_size_comes_first() -> None:
    assert names("small") == ["one", "dear", "big"]
    assert names("medium") == ["dear", "big"]
    assert names("medium", "ewr") == ["two", "big"]
    assert names("tiny") == ["tiny"]
    assert servers.candidates(PLANS, "dear", "fra", SIZES)[0]["hourly"] == 0.03


@pytest.mark.parametrize(
    ("size", "region", "said"),
    [
        ("small", "nrt", "REGION may be one of ewr, fra"),
        ("gone", "fra", "plan gone cannot be ordered in region fra now"),
        ("smal", "fra", "SIZE=smal must be one of small, medium, large"),
        ("twoo", "fra", "medium, large, two"),
    ],
)
def test_what_cannot_be_had_is_said(size: str, region: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        servers.candidates(PLANS, size, region, SIZES)


def test_a_size_that_no_plan_has() -> None:
    with pytest.raises(AnsibleFilterError, match="fra has no plan of size large"):
        servers.candidates([PLANS[1]], "large", "fra", SIZES)


def test_times() -> None:
    assert [servers.seconds(text) for text in ("90m", "8h", "2d", "")] == [5400, 28800, 172800, 0]
    for text in ("8", "0h", "h", "8 h", "-1h"):
        with pytest.raises(AnsibleFilterError, match="for example 90m, 8h or 2d"):
            servers.seconds(text)
    with pytest.raises(AnsibleFilterError, match="IDLE=4 must be"):
        servers.seconds("4", "IDLE")


def test_tags_say_environment_price_and_end_and_become_labels() -> None:
    tags = servers.tags("prod", {"currency": "EUR", "hourly": "0.0074400000"}, 1764500000)
    assert tags == ["recommender", "environment-prod", "price-eur-7440", "until-1764500000"]
    labels = servers.labels(tags)
    assert labels == {"recommender": "", "environment": "prod", "price": "eur-7440", "until": "1764500000"}
    assert servers.from_labels(labels) == tags
    assert servers.from_labels({"recommender": "yes"}) == ["recommender"]
    assert servers.agreed(tags) == 7440
    assert servers.agreed(["recommender", "price-usd-?"]) is None
    assert servers.tags("dev", {"currency": "USD", "hourly": 0.015}, idle=14400) == [
        "recommender",
        "environment-dev",
        "price-usd-15000",
        "idle-14400",
    ]


def test_what_is_past_its_time() -> None:
    ends = {
        "over": "1800000100", "not-yet": "1800000101", "never": "", "before-it-was-made": "1700000000",
        "of another program": "20261231", "a date": "2027-01-31",
    }  # fmt: skip
    found = [
        {"name": name, "created": "2026-11-29T20:00:00+00:00", "tags": [f"until-{end}"] if end else []}
        for name, end in ends.items()
    ]
    assert [server["name"] for server in servers.expired(found, 1800000100.5)] == ["over"]
    # two of one name, of which one lives on
    assert servers.expired([found[0], {**found[2], "name": "over"}], 1800000100.5) == []


def test_only_what_is_ours_is_left() -> None:
    results = [
        {
            "item": {"kind": "server", "name": "label", "tags": "tags"},
            "entries": [
                {"id": 1, "label": "dev", "tags": ["recommender"]},
                {"id": 2, "label": "recommender-dev", "tags": []},
            ],
        },
        {
            "item": {"kind": "key", "name": "name"},
            "entries": [{"id": 3, "name": "recommender-dev"}, {"id": 4, "name": "dev"}, {"id": 5, "name": None}],
        },
        # it is shown, and stays
        {"item": {"kind": "address", "name": "name"}, "entries": [{"id": 6, "name": "recommender-dev"}]},
    ]
    found = servers.left(results)
    assert [(item["kind"], item["id"]) for item in found] == [("server", 1), ("key", 3), ("address", 6)]
    assert [item["id"] for item in servers.of_name(found, "dev")] == [1, 3]
    # a key that somebody called as a server is called
    assert servers.of_name(found, "recommender-dev") == []


NOW = 1_764_504_000.0  # 2025-11-30 12:00 UTC


def server(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "state": "running", "plan": "one", "region": "fra", "tags": ["recommender", "price-usd-20000"],
        "created": "2025-11-30T02:00:00+00:00", "price": 20000, **changes,
    }  # fmt: skip


def test_the_fixed_address_is_the_one_that_is_wanted_or_has_the_name() -> None:
    keys = {"address": "ip", "region": "location.name", "server": "droplet.id"}

    def entry(name: str, address: str, **more: Any) -> dict[str, Any]:
        return {"id": name, "name": name, "ip": address, "location": {"name": "fsn1"}, "droplet": None, **more}

    entries = [
        entry("dev", "2001:db8::7"),
        entry("other", "198.51.100.1"),
        entry("recommender-dev", "198.51.100.2", droplet={"id": 7}, auto_delete=True),
    ]
    assert servers.fixed(entries, keys, "dev") == {
        "id": "recommender-dev", "name": "recommender-dev", "address": "198.51.100.2", "region": "fsn1", "server": "7",
        "goes": True,
    }  # fmt: skip
    assert servers.fixed(entries, keys, "dev", "198.51.100.1")["server"] == ""
    assert servers.fixed(entries, keys, "de") == {}
    assert servers.fixed(entries, keys, "dev", "198.51.100.3") == {}


def test_costs() -> None:
    found = [
        server("new"),
        # the vendor bills at most the price of the month
        server("old", created="2025-09-01T00:00:00Z"),
        server("off", state="stopped", stopped=5000),
        server("untagged", tags=["recommender"], price=None),
        server("unknown", tags=["recommender"], price=None, plan="retired"),
    ]
    rows = servers.costs(found, PLANS, NOW)
    assert [row["agreed"] for row in rows] == [20000, 20000, 20000, None, None]
    assert [row["today"] for row in rows] == [14900, 14900, 14900, 14900, None]
    assert [row["month"] for row in rows] == [200000, round(0.0149 * 672 * 1e6), 200000, 149000, None]
    assert [row["stopped"] for row in rows] == [20000, 20000, 5000, 14900, None]
    lines = servers.cost_lines([{**row, "vendor": "Vultr"} for row in rows[:4]])
    assert lines[0] == "new (Vultr, one, fra): 0.0200 USD an hour agreed, 0.0149 USD today, 0.20 USD this month"
    assert lines[2].endswith(", stopped: 0.0050 USD an hour")
    assert lines[-1] == "total: 0.0599 USD an hour, 10.56 USD this month"
    unknown = servers.cost_lines([{**row, "vendor": "Vultr"} for row in rows[4:]])
    assert "unknown an hour agreed, unknown today, unknown this month" in unknown[0]
    assert "without 1 of unknown price" in unknown[-1]
    table = {"date": "2025-10", "currency": "USD", "hourly": {"retired": 0.03}}
    (row,) = servers.costs(found[4:], PLANS, NOW, table)
    (line, total) = servers.cost_lines([{**row, "vendor": "Vultr"}])
    assert "unknown an hour agreed, 0.0300 USD by the table of 2025-10, 0.30 USD this month" in line
    assert total == "total: 0.0300 USD an hour, 0.30 USD this month"
    assert servers.cost_lines([]) == ["no server of ours"]


@pytest.mark.parametrize(
    ("found", "suite", "expected"),
    [
        (["Debian 12 x64 (bookworm)", "Debian 13 x64 (trixie)"], "trixie", 1),
        (["Debian 12 x64 (bookworm)", "Debian 13 x64 (trixie)"], "bookworm", 0),
        (["debian-12", "ubuntu-24.04"], "trixie", 0),
        (["debian-13-arm64", "debian-13-x64"], "trixie", 1),
    ],
)
def test_the_image_is_debian(found: list[str], suite: str, expected: int) -> None:
    assert servers.image([{"name": name} for name in found], "name", suite)["name"] == found[expected]


def test_no_image_is_said() -> None:
    with pytest.raises(AnsibleFilterError, match="no image of Debian"):
        servers.image([{"name": "ubuntu-24.04"}], "name", "trixie")


def test_credentials_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    vendors: dict[str, Any] = {"a": {"credentials": ["A", "B C=x"]}, "b": {"credentials": ["D"]}, "local": {}}
    for name in ("A", "B", "C", "D"):
        monkeypatch.delenv(name, raising=False)
    assert servers.configured(vendors) == []
    monkeypatch.setenv("B", "1")
    monkeypatch.setenv("C", "y")
    assert servers.configured(vendors) == []
    monkeypatch.setenv("C", "x")
    assert servers.configured(vendors) == ["a"]


def test_an_unknown_price_comes_last_and_has_no_tag() -> None:
    unknown = {"cores": 2, "memory_mb": 4096, "currency": "USD", "regions": ["here"], "name": "unknown", "hourly": None}
    found = servers.candidates([unknown, {**unknown, "name": "known", "hourly": 0.05}], "small", "here", SIZES)
    assert [each["name"] for each in found] == ["known", "unknown"]
    assert servers.tags("dev", unknown) == ["recommender", "environment-dev"]
    assert servers.money(servers.millionths(None), "USD") == "unknown"
