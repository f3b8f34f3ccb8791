"""A server's life at Azure: the modules of azure.azcollection against answers of the shapes that Azure documents.

Their packages are 0.6 GB: make test leaves this out. To run it: CLOUD_AZURE=1 pytest tests/cloud/test_azure.py
"""

import os
import pathlib
import stat
from typing import Any

import pytest
import sdk
import tls

pytestmark = pytest.mark.skipif("CLOUD_AZURE" not in os.environ, reason="needs 0.6 GB of packages: set CLOUD_AZURE=1")
TOKEN = "eyJ0.this-is-no-token-of-anybody"
US = "/subscriptions/00000000-0000-0000-0000-000000000001"
AZ = f"""#!/bin/sh
case "$*" in
  "account show"*) echo '"{US.rpartition("/")[2]}"' ;;
  "cloud show"*) echo '"AzureCloud"' ;;
  *get-access-token*) echo '{{"accessToken": "{TOKEN}", "expiresOn": "2099-01-01 00:00:00.000000"}}' ;;
esac
"""


def sku(name: str, cores: int, memory: int, restrictions: list[Any] | None = None) -> dict[str, Any]:
    can = {"vCPUs": str(cores), "MemoryGB": str(memory), "HyperVGenerations": "V1,V2", "CpuArchitectureType": "x64"}
    return {
        "resourceType": "virtualMachines", "name": name, "restrictions": restrictions or [],
        "capabilities": [{"name": key, "value": value} for key, value in can.items()],
    }  # fmt: skip


class Vendor:
    """Resource groups with what a deployment made in them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.groups: dict[str, dict[str, Any]] = {"theirs": {"tags": {}, "resources": {}}}
        self.power = "running"
        self.proxy = tls.Proxy(folder, ["management.azure.com", "prices.azure.com"], self.answer)

    def group(self, name: str) -> dict[str, Any]:
        return {
            "id": f"{US}/resourceGroups/{name}", "name": name, "location": "westeurope",
            "tags": self.groups[name]["tags"], "properties": {"provisioningState": "Succeeded"},
        }  # fmt: skip

    def deploy(self, group: str, template: dict[str, Any]) -> tuple[int, Any]:
        """Keep the resources of the template, as Azure lists them."""
        for resource in template["resources"]:
            where = f"{US}/resourceGroups/{group}/providers/{resource['type']}/{resource['name']}"
            properties = {**resource["properties"], "provisioningState": "Succeeded"}
            if resource["type"].endswith("publicIPAddresses"):
                properties |= {"ipAddress": "198.51.100.7", "publicIPAddressVersion": "IPv4", "idleTimeoutInMinutes": 4}
            if resource["type"].endswith("virtualMachines"):
                disk = {"osType": "Linux", "caching": "ReadWrite", **properties["storageProfile"]["osDisk"]}
                properties["storageProfile"] = {**properties["storageProfile"], "osDisk": disk, "dataDisks": []}
                properties["networkProfile"] = {
                    "networkInterfaces": [{"id": where.replace("virtualMachines", "networkInterfaces")}]
                }
            self.groups[group]["resources"][where] = {**resource, "id": where, "properties": properties}
        return self.deployment(group)

    def deployment(self, group: str) -> tuple[int, Any]:
        where = f"{US}/resourceGroups/{group}/providers/Microsoft.Resources/deployments/server"
        return 200, {
            "id": where,
            "name": "server",
            "properties": {"provisioningState": "Succeeded", "outputs": {}, "dependencies": []},
        }

    def answer(self, host: str, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any] | None:
        low = path.lower().removeprefix(US.lower())
        everything = [each for group in self.groups.values() for each in group["resources"].values()]
        parts = low.strip("/").split("/")
        if host == "prices.azure.com":
            items = [
                {
                    "currencyCode": "USD", "retailPrice": price, "armRegionName": "westeurope", "armSkuName": name,
                    "productName": "Virtual Machines BS Series", "meterName": "B", "unitOfMeasure": "1 Hour",
                }
                for name, price in {"Standard_B1ms": 0.024, "Standard_B2s": 0.048}.items()
                if f"armSkuName eq '{name}'" in query["$filter"]
            ]  # fmt: skip
            return 200, {"Items": items, "NextPageLink": None}
        if low == "/providers/microsoft.compute/skus" and query["$filter"] == "location eq 'westeurope'":
            barred = [{"type": "Location", "values": ["westeurope"], "reasonCode": "NotAvailableForSubscription"}]
            return 200, {"value": [sku("Standard_B1ms", 1, 2, barred), sku("Standard_B2s", 2, 4)]}
        if low.endswith("/vmimage/offers"):
            return 200, [
                {"name": f"debian-{number}", "id": f"{US}/{number}", "location": "westeurope"} for number in (12, 13)
            ]
        if low.endswith("/instanceview"):
            return 200, {"statuses": [{"code": f"PowerState/{self.power}", "displayStatus": f"VM {self.power}"}]}
        if low == "/providers/microsoft.compute/virtualmachines":
            return 200, {"value": [each for each in everything if each["type"].endswith("virtualMachines")]}
        if low == "/providers/microsoft.network/publicipaddresses":
            return 200, {"value": [each for each in everything if each["type"].endswith("publicIPAddresses")]}
        if low.endswith(("/start", "/deallocate")) and method == "POST":
            self.power = "running" if low.endswith("/start") else "deallocated"
            return 200, {}
        named = [each for each in everything if each["id"].lower() == path.lower()]
        if named and method == "GET":
            return 200, named[0]
        if low == "/resourcegroups":
            return 200, {"value": [self.group(name) for name in self.groups]}
        if "/deployments/server" in low:
            return (
                self.deploy(parts[1], body["properties"]["template"]) if method == "PUT" else self.deployment(parts[1])
            )
        if parts[0] == "resourcegroups" and method == "PUT":
            self.groups.setdefault(parts[1], {"resources": {}})["tags"] = body["tags"]
            return 201, self.group(parts[1])
        if parts[0] == "resourcegroups" and parts[1] in self.groups:
            if low.endswith("/resources"):
                return 200, {"value": list(self.groups[parts[1]]["resources"].values())}
            if method == "DELETE":
                del self.groups[parts[1]]
                return 200, {}
            return 200, self.group(parts[1])
        return 404, {"error": {"code": "ResourceGroupNotFound", "message": f"{path} could not be found."}}


def test_a_servers_life(tmp_path: pathlib.Path) -> None:
    """create, again, stop, cost, start, destroy: nothing is left, and what is not ours is."""
    vendor = Vendor(tmp_path)
    python = sdk.environment(sdk.ROOT / "inventory/requirements/azure_rm.txt")
    checkout = sdk.Checkout(tmp_path, "azure", vendor.proxy.variables | {"ANSIBLE_AZURE_AUTH_SOURCE": "cli"}, python)
    program = tmp_path / "programs/az"
    program.write_text(AZ)
    program.chmod(stat.S_IRWXU)
    hourly = 0.048 + 2.4 / 730 + 0.005
    assert f"{hourly:.4f} USD an hour" in checkout.run("create")
    made = vendor.groups["recommender-shop-dev"]["resources"]
    kinds = [each["type"].rpartition("/")[2] for each in made.values()]
    assert kinds == [
        "networkSecurityGroups",
        "virtualNetworks",
        "publicIPAddresses",
        "networkInterfaces",
        "virtualMachines",
    ]
    machine = list(made.values())[-1]
    assert machine["name"] == "shop-dev" and machine["properties"]["hardwareProfile"]["vmSize"] == "Standard_B2s"
    assert machine["tags"]["environment"] == "dev" and machine["tags"]["price"] == f"usd-{round(hourly * 1e6)}"
    hosts = checkout.folder / "inventory/azure/hosts.yml"
    assert "198.51.100.7" in hosts.read_text()
    assert "changed=0" in checkout.run("create").rpartition("PLAY RECAP")[2]

    checkout.run("power", cloud_server_state="stopped")
    assert vendor.power == "deallocated"
    output = checkout.run("cost")
    assert f"{hourly:.4f} USD an hour agreed, {hourly:.4f} USD today" in output
    assert f"stopped: {2.4 / 730 + 0.005:.4f} USD an hour" in output
    checkout.run("power", cloud_server_state="started")
    assert vendor.power == "running"

    checkout.run("destroy")
    assert list(vendor.groups) == ["theirs"]
    assert "198.51.100.7" not in hosts.read_text()
    assert not checkout.holds(TOKEN)
