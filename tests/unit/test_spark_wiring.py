"""The groups of hosts.yml decide who is in the Spark cluster, and only members' addresses reach its ports."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = """
dev: {hosts: {one: {ansible_host: 203.0.113.1, spark_address: 10.0.0.1}}}
staging: {hosts: {two: {ansible_host: 203.0.113.2}, gone: {ansible_host: 203.0.113.3, spark_state: absent}}}
prod: {hosts: {other: {ansible_host: 203.0.113.4}}}
"""
CLUSTER = "spark_master: {hosts: {one: {}}}\nspark_workers: {hosts: {two: {}, gone: {}}}\n"
NAMES = (
    "spark_cluster_members", "spark_cluster_master", "spark_cluster_after", "wireguard_members", "firewall_allow",
    "tunnel_ports",
)  # fmt: skip


def wired(folder: pathlib.Path, hosts: str) -> dict[str, dict[str, Any]]:
    """The variables NAMES of every host, as Ansible works them out."""
    for name in ("settings", "wiring"):
        (folder / "group_vars/all").mkdir(parents=True, exist_ok=True)
        (folder / f"group_vars/all/00-{name}.yml").write_text((ROOT / f"inventory/{name}.yml").read_text())
    (folder / "groups.yml").write_text((ROOT / "inventory/groups.yml").read_text())
    (folder / "hosts.yml").write_text(hosts)
    message = {"msg": {name: "{{ " + name + " }}" for name in NAMES}}
    ansible = pathlib.Path(sys.executable).parent / "ansible"
    command = [str(ansible), "all", "-i", str(folder), "-m", "debug", "-a", json.dumps(message)]
    said = subprocess.run(
        [*command, "-e", "operator_keys=[] ansible_user=root"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8",
             "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
             "ANSIBLE_STDOUT_CALLBACK": "default"},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    found, decoder = {}, json.JSONDecoder()
    for part in said.stdout.split(" | SUCCESS => ")[1:]:
        before = said.stdout[: said.stdout.index(part)].removesuffix(" | SUCCESS => ")
        found[before.split()[-1]] = decoder.raw_decode(part)[0]["msg"]
    return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return wired(tmp_path_factory.mktemp("inventory"), HOSTS + CLUSTER)


def test_members_are_those_of_the_groups_without_the_absent(hosts: dict[str, dict[str, Any]]) -> None:
    members = [{"name": "one", "address": "10.0.0.1"}, {"name": "two", "address": "203.0.113.2"}]
    for host in hosts.values():
        assert host["spark_cluster_members"] == members
        assert host["spark_cluster_master"] == "one"


def test_only_members_open_the_ports_and_to_members_alone(hosts: dict[str, dict[str, Any]]) -> None:
    opened = {
        name: [rule["sources"] for rule in host["firewall_allow"] if rule["port"] == "7077-7095"]
        for name, host in hosts.items()
    }
    sources = [["10.0.0.1", "203.0.113.2"]]
    assert opened == {"one": sources, "two": sources, "gone": [], "other": []}


def test_the_tunnel_of_the_master_has_sparks_ports(hosts: dict[str, dict[str, Any]]) -> None:
    found = {name for name, host in hosts.items() if 15002 in host["tunnel_ports"].values()}
    assert found == {"one"}


def test_tunnels_have_addresses_by_name_and_a_port_for_members_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    mine = "spark_private_network: wireguard\nwireguard_network: 10.9.0.0/16\n"
    (tmp_path / "group_vars/all/zz-mine.yml").write_text(mine)
    found = wired(tmp_path, HOSTS.replace("spark_address: 10.0.0.1", "wireguard_address: 10.9.0.1") + CLUSTER)
    opened = {"port": 51820, "protocol": "udp", "sources": ["203.0.113.1", "203.0.113.2"], "comment": "WireGuard"}
    for name, host in found.items():
        is_member = name in ("one", "two")
        assert host["wireguard_members"] == ["one", "two"]
        # that of two follows from its name: whoever comes or goes, it keeps it
        assert host["spark_cluster_members"] == [
            {"name": "one", "address": "10.9.0.1"}, {"name": "two", "address": "10.9.173.16"},
        ]  # fmt: skip
        assert [rule for rule in host["firewall_allow"] if rule.get("protocol") == "udp"] == [opened] * is_member
        assert host["spark_cluster_after"] == ["wg-quick@wg-members.service"] * is_member


def test_a_cluster_of_one_and_none(tmp_path: pathlib.Path) -> None:
    found = wired(tmp_path / "single", HOSTS + "spark_single: {hosts: {one: {}}}\n")
    assert found["one"]["spark_cluster_members"] == [{"name": "one", "address": "10.0.0.1"}]
    found = wired(tmp_path / "none", HOSTS)
    assert found["one"]["spark_cluster_members"] == found["one"]["wireguard_members"] == []
    assert all(rule["port"] != "7077-7095" for host in found.values() for rule in host["firewall_allow"])
