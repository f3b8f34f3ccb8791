"""What the role refuses, and a client's limits."""

import importlib.util
import pathlib
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/model_server.py"
spec = importlib.util.spec_from_file_location("model_server_filters", PATH)
assert spec and spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)

PROD = {"environment": "prod", "port": 8002}


@pytest.mark.parametrize(
    ("services", "clients", "workers", "memory", "says"),
    [
        ([PROD, PROD], [], 2, "1G", ["prod stands twice as environment", "8002 stands twice as port"]),
        ([{**PROD, "environment": "Prod X"}], [], 2, "1G", ["'Prod X' is not a name"]),
        ([{**PROD, "port": 80}], [], 2, "1G", ["take one from 1024 to 65535"]),
        ([{**PROD, "model": "a b"}], [], 2, "1G", ["'a b' of prod is not the name of a registered model"]),
        ([PROD], [{"name": "shop", "per_second": 0}], 2, "1G", ["per_second has to be more than 0"]),
        ([PROD], [{"name": "a/b", "per_second": 1}], 2, "1G", ["client 'a/b' is not a name"]),
        ([PROD], [], 0, "1G", ["take a number from 1 to 16"]),
        ([PROD], [], 2, "80%", ["write at least 200M"]),
        ([PROD], [], 2, "100M", ["write at least 200M"]),
        ([PROD], [{"name": "shop", "per_second": 5}], 2, "600M", []),
        ([], [], 1, "1G", []),
    ],
)
def test_faults(
    services: list[dict[str, Any]], clients: list[dict[str, Any]], workers: int, memory: str, says: list[str]
) -> None:
    found = plugin.faults(services, clients, workers, memory, {})
    assert len(found) == len(says)
    assert all(part in line for part, line in zip(says, found, strict=True))


@pytest.mark.parametrize(("per_second", "burst", "expected"), [(5, None, 10), (0.1, None, 1), (5, 7, 7)])
def test_limits(per_second: float, burst: float | None, expected: float) -> None:
    client = {"name": "shop", "per_second": per_second} | ({"burst": burst} if burst else {})
    assert plugin.limits(client) == {"per_second": per_second, "burst": expected}


@pytest.mark.parametrize(
    ("public", "says"),
    [
        ({"name": "api.example.org", "environment": "prod"}, []),
        ({"name": "api.example.org", "environment": "dev"}, ["environment is dev, and prod is served here"]),
        ({"name": "api", "environment": "prod"}, ["'api' is not a name in DNS"]),
        ({"name": "api.example.org {", "environment": "prod"}, ["is not a name in DNS"]),
    ],
)
def test_public(public: dict[str, str], says: list[str]) -> None:
    found = plugin.faults([PROD], [], 2, "1G", public)
    assert len(found) == len(says) and all(part in line for part, line in zip(says, found, strict=True))
