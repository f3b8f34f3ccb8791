"""What EC2 and the price list of AWS answer, in the form that the tasks of every vendor fill."""

import importlib.util
import json
import pathlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ansible.errors import AnsibleFilterError

_path = pathlib.Path(__file__).with_name("cloud_server.py")
_spec = importlib.util.spec_from_file_location("cloud_server_filters", _path)
assert _spec and _spec.loader
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)

HOURS_A_MONTH = 730
# every attribute of an offer that would cost something else
USUAL = {
    "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used",
    "marketoption": "OnDemand",
}  # fmt: skip
STATES = {"running": "running", "stopped": "stopped"}


def questions(listed: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Questions to GetProducts about the plans of each region and its disks."""

    def ask(kind: str, **filters: str) -> list[dict[str, str]]:
        return [{"Type": kind, "Field": field, "Value": value} for field, value in filters.items()]

    asked = []
    for result in listed:
        here = ask("TERM_MATCH", regionCode=result["region"])
        names = ",".join(kind["InstanceType"] for kind in result["describe_instance_types"]["InstanceTypes"])
        plans_here = here + ask("TERM_MATCH", **USUAL) + ask("ANY_OF", instanceType=names)
        disks_here = here + ask("TERM_MATCH", productFamily="Storage", volumeApiName="gp3")
        asked.append({"region": result["region"], "key": "instanceType", "filters": plans_here})
        asked.append({"region": result["region"], "key": "volumeApiName", "filters": disks_here})
    return asked


def prices(products: Iterable[str], key: str) -> dict[str, Decimal]:
    """Price of a unit by an attribute's value, for example by instanceType. Prices of zero are other offers."""
    found: dict[str, Decimal] = {}
    for text in products:
        product = json.loads(text)
        for term in product["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                price = Decimal(dimension["pricePerUnit"].get("USD", "0"))
                if price:
                    found[product["product"]["attributes"][key]] = price
    return found


def plans(
    listed: Iterable[dict[str, Any]], answers: Iterable[dict[str, Any]], vendor: dict[str, Any]
) -> list[dict[str, Any]]:
    """Plans with their prices by region, disk and address included; None is unknown, also to the vendor's table."""
    known: dict[str, dict[str, Any]] = {region: dict(found) for region, found in vendor["prices"].items()}
    for region, price in vendor["disk_prices"].items():
        known.setdefault(region, {})["gp3"] = price
    fresh: dict[str, dict[str, Decimal]] = {}
    for answer in answers:
        for result in answer["results"]:
            found = prices(result["get_products"]["PriceList"], answer["item"]["key"])
            known.setdefault(answer["item"]["region"], {}).update(found)
            fresh.setdefault(answer["item"]["region"], {}).update(found)
    merged: dict[str, dict[str, Any]] = {}
    for result in listed:
        here = known.get(result["region"], {})
        for kind in result["describe_instance_types"]["InstanceTypes"]:
            name, hourly = kind["InstanceType"], None
            if name in here and "gp3" in here:
                hourly = Decimal(str(here[name])) + beside(vendor, here["gp3"]) + Decimal(str(vendor["address_price"]))
            price = {
                "hourly": None if hourly is None else float(hourly),
                "monthly": None if hourly is None else float(hourly * HOURS_A_MONTH),
                "of": "" if name in fresh.get(result["region"], {}) else vendor["prices_of"],
            }
            plan = merged.setdefault(
                name,
                {
                    "name": name, "cores": kind["VCpuInfo"]["DefaultVCpus"],
                    "memory_mb": kind["MemoryInfo"]["SizeInMiB"], "disk_gb": vendor["disk_gb"], "currency": "USD",
                    "regions": [], "prices": {}, **price,
                },
            )  # fmt: skip
            plan["regions"].append(result["region"])
            plan["prices"][result["region"]] = price
    return list(merged.values())


def beside(vendor: dict[str, Any], disk: Any) -> Decimal:
    """What the disk costs an hour, also while the server is off; disk: a GB a month."""
    return Decimal(str(disk)) * int(vendor["disk_gb"]) / HOURS_A_MONTH


def image(images: Iterable[dict[str, Any]], release: str) -> dict[str, Any]:
    """The newest image of a release of Debian, or of the one before where the region has none."""
    wanted = {"trixie": ["13", "12"], "bookworm": ["12"]}[release]
    for number in wanted:
        found = [each for each in images if each["name"].startswith(f"debian-{number}-amd64-")]
        if found:
            return max(found, key=lambda each: str(each["creation_date"]))
    raise AnsibleFilterError(f"AWS has no image of Debian {wanted[0]} in this region. Choose another REGION")


def tags(pairs: Iterable[dict[str, str]] | None) -> dict[str, str]:
    return {pair["Key"]: pair["Value"] for pair in pairs or []}


def boto_tags(labels: dict[str, str], name: str) -> list[dict[str, str]]:
    """Tags as boto wants them, with the name that the console shows."""
    return [{"Key": key, "Value": value} for key, value in {"Name": name, **labels}.items()]


def instances(results: Iterable[dict[str, Any]]) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    """Region, tags and answer of each instance. One that shuts down to be gone costs nothing any more."""
    return [
        (result["region"], tags(instance.get("Tags")), instance)
        for result in results
        for reservation in result["describe_instances"]["Reservations"]
        for instance in reservation["Instances"]
        if instance["State"]["Name"] not in ("shutting-down", "terminated")
    ]


def servers(results: Iterable[dict[str, Any]], vendor: dict[str, Any]) -> list[dict[str, Any]]:
    """Our servers. One that is off costs its disk alone, by the table of the vendor's entry."""
    found = []
    disks = vendor["disk_prices"]
    for region, labels, instance in instances(results):
        if "recommender" not in labels:
            continue
        name = labels.pop("Name", instance["InstanceId"])
        ours = common.from_labels(labels)
        cards = instance.get("NetworkInterfaces", [])
        found.append(
            {
                "id": instance["InstanceId"], "name": name, "address": instance.get("PublicIpAddress") or "",
                "address6": next((each["Ipv6Address"] for card in cards for each in card.get("Ipv6Addresses", [])), ""),
                "state": STATES.get(instance["State"]["Name"], "starting"),
                "plan": instance["InstanceType"], "region": region, "tags": ours, "price": common.agreed(ours),
                # LaunchTime is that of the last start
                "created": min(
                    [each["Ebs"]["AttachTime"] for each in instance.get("BlockDeviceMappings", []) if "Ebs" in each]
                    or [instance["LaunchTime"]]
                ),
                "stopped": common.millionths(beside(vendor, disks[region])) if region in disks else None,
            }
        )  # fmt: skip
    return found


def foreign(results: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the servers that are not ours."""
    return [labels.get("Name", "") for _, labels, _ in instances(results) if "recommender" not in labels]


def left(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is ours in every region, by tag, or by name where it has none."""
    found = []
    for result in results:
        for kind, operation, key, identity, named in (
            ("key", "describe_key_pairs", "KeyPairs", "KeyPairId", "KeyName"),
            ("firewall", "describe_security_groups", "SecurityGroups", "GroupId", "GroupName"),
            ("address", "describe_addresses", "Addresses", "AllocationId", ""),
            ("disk", "describe_volumes", "Volumes", "VolumeId", ""),
            ("snapshot", "describe_snapshots", "Snapshots", "SnapshotId", ""),
        ):
            for entry in result[operation][key]:
                labels = tags(entry.get("Tags"))
                name = entry.get(named) or labels.get("Name", "")
                if "recommender" in labels:
                    found.append({"kind": kind, "id": entry[identity], "name": name, "region": result["region"]})
    return [
        {"kind": "server", **{key: server[key] for key in ("id", "name", "region")}}
        for server in servers(results, {"disk_prices": {}})
    ] + found


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "aws_questions": questions,
            "aws_plans": plans,
            "aws_image": image,
            "aws_tags": boto_tags,
            "aws_servers": servers,
            "aws_foreign": foreign,
            "aws_left": left,
        }
