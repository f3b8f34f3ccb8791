"""What AWS, Google and Azure answer, in the form that the tasks of every vendor read."""

import importlib.util
import json
import pathlib
from typing import Any

import ansible_collections
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.plugins.loader import fragment_loader, init_plugin_loader
from ansible.utils.plugin_docs import get_docstring

init_plugin_loader()

ROLE = pathlib.Path(__file__).parents[1]
LABELS = {"recommender": "", "environment": "dev", "price": "usd-29208"}
TAGS = ["recommender", "environment-dev", "price-usd-29208"]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROLE / f"filter_plugins/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aws, gcp, azure = map(load, ("aws_answers", "gcp_answers", "azure_answers"))

AWS = {
    "prices_of": "May 2020", "disk_gb": 20, "address_price": 0.005, "disk_prices": {"eu-central-1": 0.0952},
    "prices": {"eu-central-1": {"t3.small": 0.024}},
}  # fmt: skip
GCP = {
    "prices_of": "May 2020",
    "disk_gb": 20,
    "address_price": 0.005,
    "disk_price": 0.1,
    "prices": {"europe-west1": {"core": 0.024, "gb": 0.003}},
}
AZURE = {"disk_gb": 32, "address_price": 0.005, "disk_price": 2.4}


def aws_listed(region: str, *names: str) -> dict[str, Any]:
    types = [
        {"InstanceType": name, "VCpuInfo": {"DefaultVCpus": 2}, "MemoryInfo": {"SizeInMiB": 2048}} for name in names
    ]
    return {"region": region, "describe_instance_types": {"InstanceTypes": types}}


def product(key: str, value: str, *prices: str) -> str:
    """An entry of the price list of AWS, as recorded."""
    rates = {
        f"SKU.JRTCKXETXF.{number}": {"unit": "Hrs", "pricePerUnit": {"USD": price}}
        for number, price in enumerate(prices)
    }
    terms = {"OnDemand": {"SKU.JRTCKXETXF": {"priceDimensions": rates}}, "Reserved": {"SKU.38NPMPTW36": {}}}
    return json.dumps({"product": {"productFamily": "Compute Instance", "attributes": {key: value}}, "terms": terms})


def test_plans_of_aws() -> None:
    """The price list comes before the table; of a region in neither the price is unknown."""
    listed = [aws_listed("eu-central-1", "t3.small", "t3a.small", "m7i.large"), aws_listed("eu-south-9", "t3.small")]
    asked = aws.questions(listed)
    assert [(each["region"], each["key"]) for each in asked][:2] == [
        ("eu-central-1", "instanceType"),
        ("eu-central-1", "volumeApiName"),
    ]
    assert {"Type": "ANY_OF", "Field": "instanceType", "Value": "t3.small,t3a.small,m7i.large"} in asked[0]["filters"]
    lists = [
        [product("instanceType", "t3a.small", "0.0000000000", "0.0216")],
        [product("volumeApiName", "gp3", "0.1")],
        [],
        [],
    ]
    answers = [
        {"item": item, "results": [{"get_products": {"PriceList": found}}]}
        for item, found in zip(asked, lists, strict=True)
    ]
    found = {plan["name"]: plan for plan in aws.plans(listed, answers, AWS)}
    assert found["t3a.small"]["hourly"] == pytest.approx(0.0216 + 20 * 0.1 / 730 + 0.005)
    assert found["t3a.small"]["monthly"] == pytest.approx(730 * 0.0216 + 2 + 3.65)
    assert found["t3.small"]["prices"]["eu-central-1"]["hourly"] == pytest.approx(0.024 + 20 * 0.1 / 730 + 0.005)
    assert found["t3.small"]["prices"]["eu-south-9"]["hourly"] is None
    assert (found["t3a.small"]["of"], found["t3.small"]["of"]) == ("", "May 2020")
    assert found["t3.small"]["regions"] == ["eu-central-1", "eu-south-9"] and found["m7i.large"]["hourly"] is None


def test_a_refused_price_list_leaves_the_table() -> None:
    listed = [aws_listed("eu-central-1", "t3.small")]
    answers = [{"item": item, "results": []} for item in aws.questions(listed)]
    assert aws.plans(listed, answers, AWS)[0]["hourly"] == pytest.approx(0.024 + 20 * 0.0952 / 730 + 0.005)


def test_servers_of_aws() -> None:
    instance = {
        "InstanceId": "i-1", "InstanceType": "t3.small", "LaunchTime": "2026-11-28T10:00:00+00:00",
        "State": {"Name": "stopped"}, "Tags": aws.boto_tags(LABELS, "shop-dev"),
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"AttachTime": "2026-11-02T10:00:00+00:00"}}],
    }  # fmt: skip
    theirs = {**instance, "InstanceId": "i-2", "Tags": [{"Key": "Name", "Value": "theirs"}]}
    gone = {**instance, "InstanceId": "i-3", "State": {"Name": "shutting-down"}}
    results = [
        {"region": "eu-central-1", "describe_instances": {"Reservations": [{"Instances": [instance, theirs, gone]}]}}
    ]
    assert aws.servers(results, AWS) == [
        {
            "id": "i-1", "name": "shop-dev", "address": "", "address6": "", "state": "stopped", "plan": "t3.small",
            "region": "eu-central-1", "tags": TAGS, "price": 29208, "created": "2026-11-02T10:00:00+00:00",
            "stopped": round(20 * 0.0952 / 730 * 1e6),
        }
    ]  # fmt: skip
    assert aws.foreign(results) == ["theirs"]
    assert aws.servers(results, {**AWS, "disk_prices": {}})[0]["stopped"] is None


def test_left_at_aws_is_ours_alone() -> None:
    ours = [{"Key": "recommender", "Value": ""}, {"Key": "Name", "Value": "shop-dev"}]
    result = {
        "region": "eu-central-1", "describe_instances": {"Reservations": []},
        "describe_key_pairs": {
            "KeyPairs": [{"KeyPairId": "key-1", "KeyName": "recommender-shop-dev", "Tags": ours[:1]}],
        },
        "describe_security_groups": {"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "recommender-by-hand"}]},
        "describe_addresses": {"Addresses": [{"AllocationId": "eipalloc-1", "Tags": ours}]},
        "describe_volumes": {"Volumes": [{"VolumeId": "vol-1", "Tags": ours}, {"VolumeId": "vol-2"}]},
        "describe_snapshots": {"Snapshots": []},
    }  # fmt: skip
    found = [(each["kind"], each["id"], each["name"]) for each in aws.left([result])]
    assert found == [
        ("key", "key-1", "recommender-shop-dev"),
        ("address", "eipalloc-1", "shop-dev"),
        ("disk", "vol-1", "shop-dev"),
    ]


@pytest.mark.parametrize(
    ("names", "release", "expected"),
    [
        (
            ["debian-12-amd64-20260101-1", "debian-13-amd64-20260101-1", "debian-13-amd64-20260201-2"],
            "trixie",
            "debian-13-amd64-20260201-2",
        ),
        (["debian-12-amd64-20260101-1"], "trixie", "debian-12-amd64-20260101-1"),
        (["debian-12-amd64-20260101-1", "debian-13-amd64-20260101-1"], "bookworm", "debian-12-amd64-20260101-1"),
    ],
)
def test_image_of_aws(names: list[str], release: str, expected: str) -> None:
    assert aws.image([{"name": name, "creation_date": name[-10:]} for name in names], release)["name"] == expected


def test_no_image_of_aws() -> None:
    with pytest.raises(AnsibleFilterError, match="no image of Debian 13 in this region"):
        aws.image([], "trixie")


@pytest.mark.parametrize(
    ("kind", "zone", "hourly"),
    [
        ({"name": "e2-small", "guestCpus": 2, "memoryMb": 2048}, "europe-west1-b", 0.5 * 0.024 + 2 * 0.003),
        ({"name": "e2-standard-4", "guestCpus": 4, "memoryMb": 16384}, "europe-west1-c", 4 * 0.024 + 16 * 0.003),
        ({"name": "n2-standard-2", "guestCpus": 2, "memoryMb": 8192}, "europe-west1-b", None),
        ({"name": "e2-small", "guestCpus": 2, "memoryMb": 2048}, "asia-east1-a", None),
    ],
)
def test_prices_of_google(kind: dict[str, Any], zone: str, hourly: float | None) -> None:
    (plan,) = gcp.plans([{"item": zone, "items": [kind]}], GCP)
    assert hourly is None or plan["of"] == "May 2020"
    assert plan["hourly"] == (None if hourly is None else pytest.approx(hourly + 20 * 0.1 / 730 + 0.005))


def test_servers_of_google() -> None:
    project = "https://www.googleapis.com/compute/v1/projects/p"
    instance = {
        "id": "1", "name": "shop-dev", "status": "RUNNING", "labels": LABELS, "zone": f"{project}/zones/europe-west1-b",
        "machineType": f"{project}/zones/europe-west1-b/machineTypes/e2-small",
        "creationTimestamp": "2026-11-02T02:00:00.000-08:00",
        "networkInterfaces": [{"accessConfigs": [{"natIP": "198.51.100.7"}]}],
    }  # fmt: skip
    assert gcp.servers([instance, {"id": "2", "name": "theirs"}], GCP) == [
        {
            "id": "1", "name": "shop-dev", "address": "198.51.100.7", "address6": "", "state": "running",
            "plan": "e2-small",
            "region": "europe-west1-b", "tags": TAGS, "created": "2026-11-02T02:00:00.000-08:00", "price": 29208,
            "stopped": round(20 * 0.1 / 730 * 1e6),
        }
    ]  # fmt: skip
    assert gcp.foreign([instance, {"id": "2", "name": "theirs"}]) == ["theirs"]


def sku(name: str, **more: Any) -> dict[str, Any]:
    """A plan of Azure as Microsoft.Compute/skus lists it."""
    can = {
        "vCPUs": "2",
        "MemoryGB": "4",
        "HyperVGenerations": "V1,V2",
        "CpuArchitectureType": "x64",
        **more.pop("can", {}),
    }
    return {
        "resourceType": "virtualMachines", "name": name, "locations": ["westeurope"], "restrictions": [],
        "capabilities": [{"name": key, "value": value} for key, value in can.items()], **more,
    }  # fmt: skip


def price(name: str, amount: float, **more: Any) -> dict[str, Any]:
    """An item of Azure's list of retail prices."""
    return {
        "currencyCode": "USD", "retailPrice": amount, "armRegionName": "westeurope", "armSkuName": name,
        "productName": "Virtual Machines BS Series", "meterName": "B2s", "unitOfMeasure": "1 Hour", **more,
    }  # fmt: skip


def test_plans_of_azure() -> None:
    barred = [{"type": "Location", "values": ["westeurope"], "reasonCode": "NotAvailableForSubscription"}]
    answers = [
        {
            "item": "westeurope",
            "response": [
                sku("Standard_B2s"), sku("Standard_B2ms", restrictions=barred), sku("Standard_D2s_v5"),
                sku("Standard_E2s_v5"), sku("Standard_B2ps_v2", can={"CpuArchitectureType": "Arm64"}),
                {**sku("Standard_B"), "resourceType": "disks"},
            ],
        }
    ]  # fmt: skip
    (asked,) = azure.questions(answers, ["small", "Standard_D2s_v5"])
    assert asked["region"] == "westeurope"
    assert "(armSkuName eq 'Standard_B2s' or armSkuName eq 'Standard_D2s_v5')" in asked["filter"]
    items = [
        price("Standard_B2s", 0.06, productName="Virtual Machines BS Series Windows"), price("Standard_B2s", 0.048),
        price("Standard_B2s", 0.01, meterName="B2s Spot"), price("Standard_B2s", 0.02, meterName="B2s Low Priority"),
    ]  # fmt: skip
    found = azure.plans(answers, ["Standard_D2s_v5"], [{"item": asked, "json": {"Items": items}}], AZURE)
    assert {plan["name"]: plan["hourly"] for plan in found} == {
        "Standard_B2s": pytest.approx(0.048 + 2.4 / 730 + 0.005), "Standard_D2s_v5": None,
    }  # fmt: skip
    assert [(plan["cores"], plan["memory_mb"], plan["regions"]) for plan in found] == [(2, 4096, ["westeurope"])] * 2


def test_servers_of_azure() -> None:
    machine = {
        "id": "/subscriptions/s/resourceGroups/recommender-shop-dev/providers/…/virtualMachines/shop-dev",
        "name": "shop-dev", "resource_group": "RECOMMENDER-SHOP-DEV", "location": "westeurope",
        "vm_size": "Standard_B2s", "power_state": "deallocated", "tags": {**LABELS, "created": "2026-11-02T10:00:00Z"},
    }  # fmt: skip
    address = {"name": "recommender-shop-dev", "ip_address": "198.51.100.7"}
    found = azure.servers([machine, {**machine, "name": "theirs", "tags": None}], [address], AZURE)
    assert found == [
        {
            "id": machine["id"], "name": "shop-dev", "address": "198.51.100.7", "address6": "", "state": "stopped",
            "plan": "Standard_B2s", "region": "westeurope", "tags": TAGS, "created": "2026-11-02T10:00:00Z",
            "price": 29208,
            "stopped": round((2.4 / 730 + 0.005) * 1e6),
        }
    ]  # fmt: skip
    # off, and not released: it costs as before
    (unreleased,) = azure.servers([{**machine, "power_state": "stopped"}], [address], AZURE)
    assert unreleased["state"] == "starting"


def test_template_of_azure() -> None:
    """Everything has our tags, and only the named ports are open."""
    found = azure.template(
        "shop-dev",
        "recommender-shop-dev",
        "westeurope",
        "Standard_B2s",
        "debian-13",
        "azureuser",
        "ssh-ed25519 A",
        [22],
        LABELS,
        32,
    )
    resources = {each["type"].rpartition("/")[2]: each for each in found["resources"]}
    assert list(resources) == [
        "networkSecurityGroups",
        "virtualNetworks",
        "publicIPAddresses",
        "networkInterfaces",
        "virtualMachines",
    ]
    assert all(each["tags"] == LABELS for each in resources.values())
    rules = resources["networkSecurityGroups"]["properties"]["securityRules"]
    assert [(rule["properties"]["access"], rule["properties"]["destinationPortRanges"]) for rule in rules] == [
        ("Allow", ["22"])
    ]
    machine = resources["virtualMachines"]
    assert (
        machine["name"] == "shop-dev" and machine["properties"]["storageProfile"]["imageReference"]["sku"] == "13-gen2"
    )
    assert machine["properties"]["osProfile"]["linuxConfiguration"]["disablePasswordAuthentication"] is True


@pytest.mark.parametrize("vendor", ["aws_ec2", "gcp", "azure"])
def test_the_modules_know_every_option(vendor: str) -> None:
    """Azure's own need 0.6 GB of packages to be run: at least their documented options are compared."""
    collections = pathlib.Path(str(ansible_collections.__path__[0]))
    seen = 0
    for path in sorted((ROLE / "tasks" / vendor).glob("*.yml")):
        for task in yaml.safe_load(path.read_text()):
            name = next(key for key in task if key.endswith("_api") or key.count(".") == 2)
            namespace, _, rest = name.rpartition(".")[0].partition(".")
            file = ROLE / f"library/{name}.py"
            if namespace == "ansible":
                continue
            if namespace:
                file = collections / namespace / rest / f"plugins/modules/{name.rpartition('.')[2]}.py"
            options = get_docstring(str(file), fragment_loader, collection_name=name.rpartition(".")[0])[0]["options"]
            known = set(options) | {alias for option in options.values() for alias in option.get("aliases", [])}
            assert set(task[name] or {}) <= known, f"{path.name}: {task['name']}"
            assert {key for key, option in options.items() if option.get("required")} <= set(task[name] or {}), task[
                "name"
            ]
            seen += 1
    assert seen > 8
