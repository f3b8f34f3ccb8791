"""A server's life at EC2: moto answers in AWS' place. Nothing boots there, so SSH is left out."""

import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import sdk

SECRET = "this-is-no-secret-of-anybody"
IMAGES = [
    {
        "ami_id": f"ami-00000000{number}", "name": f"debian-{number}-amd64-20260101-2345", "owner_id": "136693071363",
        "creation_date": "2026-01-01T00:00:00.000Z", "architecture": "x86_64", "root_device_name": "/dev/xvda",
        "root_device_type": "ebs", "state": "available", "public": True, "image_location": "", "sriov": "simple",
        "description": "", "image_type": "machine", "platform": None, "virtualization_type": "hvm", "hypervisor": "xen",
    }
    for number in (12, 13)
]  # fmt: skip


class Vendor:
    def __init__(self, folder: pathlib.Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        (folder / "images.json").write_text(json.dumps(IMAGES))
        self.process = subprocess.Popen(
            [sdk.environment(), pathlib.Path(__file__).with_name("aws_server.py"), str(self.port)],
            env={"MOTO_AMIS_PATH": str(folder / "images.json")}, cwd=folder,
            stdout=(folder / "moto.log").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        ends = time.monotonic() + 300
        while True:
            try:
                self.switch()
                break
            except urllib.error.URLError:
                assert self.process.poll() is None and time.monotonic() < ends, (folder / "moto.log").read_text()
                time.sleep(0.2)

    def switch(self, **faults: Any) -> list[str]:
        """Turn these faults on, all others off; what was called since the last time."""
        body = json.dumps(faults).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/switch", body, timeout=10) as answer:
            calls: list[str] = json.load(answer)
            return calls

    def ask(self, call: str) -> Any:
        """The value of an expression with boto's client `ec2`."""
        client = 'import boto3, json; ec2 = boto3.client("ec2", region_name="eu-central-1")'
        script = f"{client}; print(json.dumps({call}, default=str))"
        return json.loads(subprocess.check_output([sdk.environment(), "-c", script], env=self.variables, text=True))

    def inventory(self) -> dict[str, list[dict[str, Any]]]:
        """What the account has in the region, by kind."""
        found: dict[str, list[dict[str, Any]]] = self.ask("""{
            "servers": [each for found in ec2.describe_instances()["Reservations"] for each in found["Instances"]],
            "keys": ec2.describe_key_pairs()["KeyPairs"], "addresses": ec2.describe_addresses()["Addresses"],
            "disks": ec2.describe_volumes()["Volumes"],
            "snapshots": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
            "firewalls": ec2.describe_security_groups()["SecurityGroups"],
        }""")
        found["servers"] = [each for each in found["servers"] if each["State"]["Name"] != "terminated"]
        found["firewalls"] = [each for each in found["firewalls"] if each["GroupName"] != "default"]
        return found

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_MAX_ATTEMPTS": "2",
        }  # fmt: skip


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    found = Vendor(tmp_path_factory.mktemp("moto"))
    yield found
    found.process.terminate()
    found.process.wait(10)


@pytest.fixture(scope="module")
def checkout(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> sdk.Checkout:
    return sdk.Checkout(tmp_path_factory.mktemp("aws"), "aws_ec2", vendor.variables, sdk.environment())


def test_a_servers_life(vendor: Vendor, checkout: sdk.Checkout) -> None:
    """create, with the answer lost; create, again; stop, cost, start, destroy: no twin, and nothing is left."""
    # t3a.small of the price list, 20 GB of gp3 and an address
    hourly, disk = 0.0216 + 20 * 0.0952 / 730 + 0.005, 20 * 0.0952 / 730
    before = vendor.inventory()
    vendor.switch(lost=True)
    output = checkout.run("create", code=2)
    assert f"{hourly:.4f} USD an hour" in output and f"{hourly * 730:.2f} USD a month" in output
    # the server is in no list yet when the next run looks for it
    vendor.switch(hidden=True)
    checkout.run("create")
    assert vendor.switch().count("RunInstances") == 1
    made = vendor.inventory()
    (server,), (firewall,), (key,) = made["servers"], made["firewalls"], made["keys"]
    assert (server["InstanceType"], server["ImageId"]) == ("t3a.small", "ami-0000000013")
    assert {tag["Key"]: tag["Value"] for tag in server["Tags"]} == {
        "Name": "shop-dev", "recommender": "", "environment": "dev", "price": f"usd-{round(hourly * 1e6)}",
    }  # fmt: skip
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in firewall["IpPermissions"]] == [
        (22, 22, "tcp")
    ]
    assert [each["GroupId"] for each in server["NetworkInterfaces"][0]["Groups"]] == [firewall["GroupId"]]
    assert server["KeyName"] == key["KeyName"] == "recommender-shop-dev"
    hosts = checkout.folder / "inventory/aws_ec2/hosts.yml"
    assert server["PublicIpAddress"] in hosts.read_text()

    assert "changed=0" in checkout.run("create").rpartition("PLAY RECAP")[2]
    assert vendor.inventory() == made

    checkout.run("power", cloud_server_state="stopped")
    assert vendor.inventory()["servers"][0]["State"]["Name"] == "stopped"
    output = checkout.run("cost")
    assert f"{hourly:.4f} USD an hour agreed, {hourly:.4f} USD today" in output
    assert f"stopped: {disk:.4f} USD an hour" in output
    checkout.run("power", cloud_server_state="started")
    assert vendor.inventory()["servers"][0]["State"]["Name"] == "running"

    checkout.run("destroy")
    assert vendor.inventory() == before
    assert server["PublicIpAddress"] not in hosts.read_text()


def test_the_cheapest_is_sold_out_and_time_is_limited(vendor: Vendor, checkout: sdk.Checkout) -> None:
    """The next plan is taken, by the table of prices; a power-off destroys the server; its own address stays."""
    vendor.switch(sold_out=["t3a.small"], no_prices=True)
    marks = '[{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "short-dev"}]}]'
    before = vendor.inventory()
    fixed = vendor.ask(f'ec2.allocate_address(Domain="vpc", TagSpecifications={marks})["PublicIp"]')
    checkout.run("create", name="short-dev", cloud_server_ttl="8h")
    (server,) = vendor.inventory()["servers"]
    tags = {tag["Key"]: tag["Value"] for tag in server["Tags"]}
    assert server["InstanceType"] == "t3.small" and 0 < int(tags["until"]) - time.time() < 8 * 3600
    key = "nstanceInitiatedShutdownBehavior"
    asked = (
        f'ec2.describe_instance_attribute(InstanceId="{server["InstanceId"]}", Attribute="i{key}")["I{key}"]["Value"]'
    )
    assert vendor.ask(asked) == "terminate"
    assert server["PublicIpAddress"] == fixed and fixed in (checkout.folder / "inventory/aws_ec2/hosts.yml").read_text()
    checkout.run("destroy", name="short-dev")
    left = vendor.inventory()
    assert [address["PublicIp"] for address in left["addresses"]] == [fixed]
    assert {**left, "addresses": []} == before
    assert "short-dev" in checkout.said and not checkout.holds(SECRET)
