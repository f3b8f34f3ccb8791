"""A server's life at Google: the role's requests against answers of the shapes that Compute Engine documents.

The endpoint is fixed in Google's packages, so a proxy answers in its place. Nothing boots there, so SSH is left out.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import sdk
import tls

TOKEN = "ya29.this-is-no-token-of-anybody"
V1 = "https://www.googleapis.com/compute/v1/"
PROJECT = "projects/a-project"
ZONE = f"{PROJECT}/zones/europe-west1-b"
FIXED = "198.51.100.9"
KINDS = [
    {"name": "e2-micro", "guestCpus": 2, "memoryMb": 1024, "isSharedCpu": True},
    {"name": "e2-small", "guestCpus": 2, "memoryMb": 2048, "isSharedCpu": True},
    {"name": "e2-medium", "guestCpus": 2, "memoryMb": 4096, "isSharedCpu": True},
    {"name": "t2a-standard-1", "guestCpus": 1, "memoryMb": 4096, "architecture": "ARM64"},
    {"name": "n2-standard-2", "guestCpus": 2, "memoryMb": 8192},
]


class Vendor:
    """Instances, their disks, and firewalls, by name; every change is an operation that is waited for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.things: dict[str, dict[str, dict[str, Any]]] = {
            "instances": {},
            "disks": {},
            "firewalls": {},
            "snapshots": {},
        }
        self.addresses: dict[str, dict[str, Any]] = {}
        # faults: paths whose next answer is lost, and plans that are sold out
        self.lost: set[str] = set()
        self.sold_out: set[str] = set()
        self.errors: dict[str, Any] = {}
        self.proxy = tls.Proxy(folder, ["compute.googleapis.com", "www.googleapis.com"], self.answer)

    def operation(self, where: str, error: str = "") -> tuple[int, Any]:
        name = f"operation-{len(self.errors)}"
        self.errors[name] = {"error": {"errors": [{"code": error, "message": "the zone has none"}]}} if error else {}
        link = f"{V1}{where}/operations/{name}"
        return 200, {"kind": "compute#operation", "name": name, "status": "RUNNING", "selfLink": link}

    def insert(self, where: str, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["name"] in self.things[kind]:
            return 409, {"error": {"code": 409, "message": "already exists"}}
        link = {"id": str(len(self.errors) + 1), "selfLink": f"{V1}{where}/{kind}/{body['name']}"}
        if kind == "instances":
            if body["machineType"].rpartition("/")[2] in self.sold_out:
                return self.operation(where, "ZONE_RESOURCE_POOL_EXHAUSTED")
            labels = body["disks"][0]["initializeParams"]["labels"]
            disk = {"id": "9" + link["id"], "name": body["name"], "labels": labels}
            self.things["disks"][body["name"]] = {**disk, "selfLink": f"{V1}{where}/disks/{body['name']}"}
            body["networkInterfaces"][0]["accessConfigs"][0].setdefault("natIP", "198.51.100.7")
            times = {"creationTimestamp": "2026-11-29T10:00:00.000-08:00", "status": "RUNNING"}
            link |= times | {
                "zone": V1 + where,
                "machineType": V1 + where + "/" + body["machineType"].partition("/")[2],
            }
        self.things[kind][body["name"]] = {**body, **link}
        return self.operation(where)

    def answer(self, host: str, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any] | None:
        path = path.removeprefix("/compute/v1/")
        where, _, last = path.rpartition("/")
        found: tuple[int, Any] = (404, {"error": {"code": 404, "message": f"{path} was not found"}})
        if re.search(r"/operations/[^/]+/wait$", path):
            name = path.split("/")[-2]
            found = 200, {"kind": "compute#operation", "status": "DONE", "selfLink": V1 + where, **self.errors[name]}
        elif path == f"{PROJECT}/zones/europe-west1-b":
            found = 200, {"kind": "compute#zone", "name": "europe-west1-b", "status": "UP"}
        elif path == f"{PROJECT}/regions/europe-west1/addresses/short-dev":
            found = 200, {"name": "short-dev", "address": FIXED, "status": "RESERVED"}
        elif path == f"{ZONE}/machineTypes":
            # in two pages
            first = "pageToken" not in query
            found = 200, {"items": KINDS[:2] if first else KINDS[2:], **({"nextPageToken": "more"} if first else {})}
        elif path == "projects/debian-cloud/global/images/family/debian-12":
            found = (
                200,
                {
                    "name": "debian-12-bookworm-v20260101",
                    "selfLink": f"{V1}projects/debian-cloud/global/images/debian-12-bookworm-v20260101",
                },
            )
        elif where == f"{PROJECT}/aggregated":
            things = list(self.things.get(last, self.addresses).values())
            found = (
                200,
                {
                    "items": {
                        "zones/europe-west1-b": {last: things},
                        "zones/us-east1-b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
                    }
                },
            )
        elif method == "GET" and path in (f"{PROJECT}/global/firewalls", f"{PROJECT}/global/snapshots"):
            found = 200, {"items": list(self.things[last].values())}
        elif method == "POST" and last in self.things:
            found = self.insert(where, last, body)
        elif method == "POST" and last in ("start", "stop"):
            self.things["instances"][path.split("/")[-2]]["status"] = {"start": "RUNNING", "stop": "TERMINATED"}[last]
            found = self.operation(ZONE)
        else:
            kind = where.rpartition("/")[2]
            if last in self.things.get(kind, {}):
                found = 200, self.things[kind][last]
                if method == "DELETE":
                    del self.things[kind][last]
                    if kind == "instances":
                        del self.things["disks"][last]
                    found = self.operation(where.rpartition("/")[0])
        if path in self.lost:
            self.lost.remove(path)
            return None
        return found


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    found = Vendor(tmp_path_factory.mktemp("google"))
    yield found
    found.proxy.server.shutdown()


@pytest.fixture(scope="module")
def checkout(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> sdk.Checkout:
    variables = {"GCP_AUTH_KIND": "accesstoken", "GCP_ACCESS_TOKEN": TOKEN, "GCP_PROJECT": "a-project"}
    return sdk.Checkout(tmp_path_factory.mktemp("gcp"), "gcp", vendor.proxy.variables | variables, sdk.environment())


def test_a_servers_life(vendor: Vendor, checkout: sdk.Checkout) -> None:
    """create, with answers lost and the cheapest plan sold out; again; stop, cost, start, destroy: nothing is left."""
    theirs = {
        "name": "their-rule",
        "id": "1",
        "selfLink": f"{V1}{PROJECT}/global/firewalls/their-rule",
        "description": "",
    }
    vendor.things["firewalls"]["their-rule"] = theirs
    vendor.lost |= {f"{PROJECT}/global/firewalls", f"{ZONE}/instances"}
    vendor.sold_out.add("e2-small")
    hourly = 0.5 * 0.023993 + 2 * 0.003216 + 20 * 0.1 / 730 + 0.005
    assert f"{hourly:.4f} USD an hour" in checkout.run("create")
    (server,) = vendor.things["instances"].values()
    assert server["machineType"].endswith("/e2-medium")
    assert server["disks"][0]["initializeParams"]["sourceImage"].endswith("debian-12-bookworm-v20260101")
    assert server["labels"]["environment"] == "dev" and "recommender" in server["labels"] and server["scheduling"] == {}
    assert {"key": "ssh-keys", "value": f"debian:{sdk.KEY}"} in server["metadata"]["items"]
    ours = {name: rule for name, rule in vendor.things["firewalls"].items() if name != "their-rule"}
    assert {name: rule.get("allowed", rule.get("denied")) for name, rule in ours.items()} == {
        "recommender-shop-dev": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "recommender-shop-dev-else": [{"IPProtocol": "all"}],
    }  # fmt: skip
    assert all(rule["targetTags"] == server["tags"]["items"] for rule in ours.values())
    assert ours["recommender-shop-dev"]["priority"] < ours["recommender-shop-dev-else"]["priority"]
    assert "198.51.100.7" in (checkout.folder / "inventory/gcp/hosts.yml").read_text()

    checkout.run("power", cloud_server_state="stopped")
    assert server["status"] == "TERMINATED" or vendor.things["instances"]["shop-dev"]["status"] == "TERMINATED"
    output = checkout.run("cost")
    agreed = 0.023993 + 4 * 0.003216 + 20 * 0.1 / 730 + 0.005
    assert f"{agreed:.4f} USD an hour agreed, {agreed:.4f} USD by the table of January 2025" in output
    assert f"stopped: {20 * 0.1 / 730:.4f} USD an hour" in output
    checkout.run("power", cloud_server_state="started")
    assert vendor.things["instances"]["shop-dev"]["status"] == "RUNNING"

    checkout.run("destroy")
    assert {kind: list(found) for kind, found in vendor.things.items()} == {
        "instances": [], "disks": [], "firewalls": ["their-rule"], "snapshots": [],
    }  # fmt: skip
    assert "shop-dev" in checkout.said and not checkout.holds(TOKEN)


def test_google_destroys_a_server_with_a_ttl(vendor: Vendor, checkout: sdk.Checkout) -> None:
    """It has the address that is reserved for its name."""
    checkout.run("create", name="short-dev", cloud_server_ttl="8h", cloud_server_size="n2-standard-2")
    scheduling = vendor.things["instances"]["short-dev"]["scheduling"]
    assert (
        scheduling["instanceTerminationAction"] == "DELETE"
        and 0 < int(scheduling["maxRunDuration"]["seconds"]) <= 8 * 3600
    )
    assert FIXED in (checkout.folder / "inventory/gcp/hosts.yml").read_text()
    # as Google does it: the firewalls stay
    del vendor.things["instances"]["short-dev"], vendor.things["disks"]["short-dev"]
    checkout.run("destroy", name="short-dev")
    assert [name for name in vendor.things["firewalls"] if "short-dev" in name] == []
