"""What Azure answers, and what it is sent, in the form that the tasks of every vendor fill."""

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

HOURS_A_MONTH = 730
# one that switched itself off is not released: it costs as before, until make stop or make start
STATES = {"running": "running", "deallocated": "stopped"}
KINDS = {
    "microsoft.compute/virtualmachines": "server", "microsoft.compute/disks": "disk",
    "microsoft.compute/snapshots": "snapshot", "microsoft.network/publicipaddresses": "address",
    "microsoft.network/networksecuritygroups": "firewall",
}  # fmt: skip


def beside(vendor: dict[str, Any]) -> Decimal:
    """What disk and address cost an hour, also while the server is off."""
    return Decimal(str(vendor["disk_price"])) / HOURS_A_MONTH + Decimal(str(vendor["address_price"]))


def usable(answers: Iterable[dict[str, Any]], wanted: Iterable[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Capabilities by region and plan: burstable plans for x86 that may be ordered, and the plans named."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for answer in answers:
        here = found.setdefault(answer["item"], {})
        for kind in answer["response"]:
            can = {each["name"]: each["value"] for each in kind.get("capabilities") or []}
            barred = any(each["type"] == "Location" for each in kind.get("restrictions") or [])
            if (
                kind.get("resourceType") == "virtualMachines" and not barred
                and (kind["name"].startswith("Standard_B") or kind["name"] in wanted)
                and can.get("CpuArchitectureType", "x64") == "x64" and "V2" in can.get("HyperVGenerations", "V1,V2")
            ):  # fmt: skip
                here[kind["name"]] = can
    return found


def questions(answers: Iterable[dict[str, Any]], wanted: list[str]) -> list[dict[str, str]]:
    """Filters for the list of retail prices, one a region."""
    asked = []
    for region, there in usable(answers, wanted).items():
        names = " or ".join(f"armSkuName eq '{name}'" for name in sorted(there))
        usual = f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{region}'"
        asked += [{"region": region, "filter": f"{usual} and ({names})"}] if names else []
    return asked


def prices(items: Iterable[dict[str, Any]]) -> dict[str, Decimal]:
    """USD an hour by plan, of Linux at the usual price."""
    return {
        item["armSkuName"]: Decimal(str(item["retailPrice"]))
        for item in items
        if item["currencyCode"] == "USD" and item["unitOfMeasure"] == "1 Hour" and "Windows" not in item["productName"]
        and not any(word in item["meterName"] for word in ("Spot", "Low Priority"))
    }  # fmt: skip


def plans(
    answers: Iterable[dict[str, Any]], wanted: list[str], priced: Iterable[dict[str, Any]], vendor: dict[str, Any]
) -> list[dict[str, Any]]:
    """Plans with their prices by region, disk and address included; None is unknown."""
    known = {answer["item"]["region"]: prices((answer.get("json") or {}).get("Items") or []) for answer in priced}
    merged: dict[str, dict[str, Any]] = {}
    for region, there in usable(answers, wanted).items():
        for name, can in there.items():
            hourly = known.get(region, {}).get(name)
            total = None if hourly is None else hourly + beside(vendor)
            price = {
                "hourly": None if total is None else float(total),
                "monthly": None if total is None else float(total * HOURS_A_MONTH),
            }
            plan = merged.setdefault(
                name,
                {
                    "name": name, "cores": int(can["vCPUs"]), "memory_mb": int(float(can["MemoryGB"]) * 1024),
                    "disk_gb": vendor["disk_gb"], "currency": "USD", "regions": [], "prices": {}, **price,
                },
            )  # fmt: skip
            plan["regions"].append(region)
            plan["prices"][region] = price
    return list(merged.values())


def servers(
    machines: Iterable[dict[str, Any]], addresses: Iterable[dict[str, Any]], vendor: dict[str, Any]
) -> list[dict[str, Any]]:
    """Our servers; each has a resource group of its own, and its address the group's name."""
    by_name = {address["name"].lower(): address["ip_address"] for address in addresses}
    found = []
    for machine in machines:
        labels = dict(machine.get("tags") or {})
        if "recommender" not in labels:
            continue
        created = labels.pop("created", "")
        tags = common.from_labels(labels)
        found.append(
            {
                "id": machine["id"], "name": machine["name"],
                "address": by_name.get(machine["resource_group"].lower()) or "", "address6": "",
                "state": STATES.get(machine["power_state"], "starting"), "plan": machine["vm_size"],
                "region": machine["location"], "tags": tags, "created": created, "price": common.agreed(tags),
                "stopped": common.millionths(beside(vendor)),
            }
        )  # fmt: skip
    return found


def foreign(found: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the servers, or of those whose resource groups they would be, that are not ours."""
    return [
        each["name"].removeprefix("recommender-") for each in found if "recommender" not in (each.get("tags") or {})
    ]


def left(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What stands in our resource groups, and the groups themselves."""
    found = []
    for group in groups:
        found.append({"kind": "resource group", "id": group["id"], "name": group["name"]})
        for entry in group.get("resources") or []:
            kind = KINDS.get(entry["type"].lower())
            if kind:
                found.append({"kind": kind, "id": entry["id"], "name": group["name"].removeprefix("recommender-")})
    return found


def template(
    name: str, own_name: str, region: str, plan: str, image: str, login: str, key: str, ports: Iterable[int],
    labels: dict[str, str], disk_gb: int,
) -> dict[str, Any]:  # fmt: skip
    """Azure's template of a server with what belongs to it, which may be sent again."""

    def resource(
        kind: str, version: str, properties: dict[str, Any], *after: str, name: str = own_name, **more: Any
    ) -> dict[str, Any]:
        needs = [f"[resourceId('{other}', '{own_name}')]" for other in after]
        return {
            "type": kind, "apiVersion": version, "name": name, "location": region, "tags": labels, "dependsOn": needs,
            "properties": properties, **more,
        }  # fmt: skip

    def reference(kind: str) -> dict[str, str]:
        return {"id": f"[resourceId('{kind}', '{own_name}')]"}

    network, compute = "2023-09-01", "2024-03-01"
    firewall, net = "Microsoft.Network/networkSecurityGroups", "Microsoft.Network/virtualNetworks"
    address, card = "Microsoft.Network/publicIPAddresses", "Microsoft.Network/networkInterfaces"
    rule = {
        "priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*",
        "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRanges": [str(port) for port in ports],
    }  # fmt: skip
    subnet = {"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": reference(firewall)}
    way = {
        "subnet": {"id": f"[resourceId('{net}/subnets', '{own_name}', 'default')]"},
        "publicIPAddress": reference(address),
    }  # fmt: skip
    keys = [{"path": f"/home/{login}/.ssh/authorized_keys", "keyData": key}]
    sku = f"{image.removeprefix('debian-')}-gen2"
    machine = {
        "hardwareProfile": {"vmSize": plan},
        "storageProfile": {
            "imageReference": {"publisher": "Debian", "offer": image, "sku": sku, "version": "latest"},
            "osDisk": {
                "createOption": "FromImage", "diskSizeGB": disk_gb, "deleteOption": "Delete",
                "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
            },
        },
        "osProfile": {
            "computerName": name, "adminUsername": login,
            "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": keys}},
        },
        "networkProfile": {"networkInterfaces": [{**reference(card), "properties": {"deleteOption": "Delete"}}]},
    }  # fmt: skip
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [
            resource(firewall, network, {"securityRules": [{"name": "ssh", "properties": rule}]}),
            resource(
                net, network,
                {
                    "addressSpace": {"addressPrefixes": ["10.0.0.0/24"]},
                    "subnets": [{"name": "default", "properties": subnet}],
                },
                firewall,
            ),
            resource(address, network, {"publicIPAllocationMethod": "Static"}, sku={"name": "Standard"}),
            resource(card, network, {"ipConfigurations": [{"name": "ssh", "properties": way}]}, net, address),
            resource("Microsoft.Compute/virtualMachines", compute, machine, card, name=name),
        ],
    }  # fmt: skip


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "azure_questions": questions,
            "azure_plans": plans,
            "azure_servers": servers,
            "azure_foreign": foreign,
            "azure_left": left,
            "azure_template": template,
        }
