"""The vendors' inventories: clean without credentials, shared settings once, dynamic files that sort rightly.

No test reaches a vendor: what a vendor's API would answer is given to the vendor's own plugin as a record.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.plugins.loader import init_plugin_loader, inventory_loader
from ansible.utils.collection_loader import AnsibleCollectionConfig

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "inventory"
ENVIRONMENTS = ("dev", "staging", "prod")
# Folder -> its dynamic file and one complete set of credentials.
DYNAMIC: dict[str, tuple[str, dict[str, str]]] = {
    "vultr": ("vultr.yml", {"VULTR_API_KEY": "x"}),
    "digitalocean": ("digitalocean.yml", {"DO_API_TOKEN": "x"}),
    "hetzner": ("hcloud.yml", {"HCLOUD_TOKEN": "x"}),
    "aws_ec2": ("aws_ec2.yml", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}),
    "gcp": ("gcp.yml", {"GCP_AUTH_KIND": "serviceaccount", "GCP_SERVICE_ACCOUNT_FILE": "x"}),
    "azure": (
        "azure_rm.yml",
        dict.fromkeys(("AZURE_SUBSCRIPTION_ID", "AZURE_CLIENT_ID", "AZURE_SECRET", "AZURE_TENANT"), "x"),
    ),
}
VENDORS = [*DYNAMIC, "onprem"]


def load_gate() -> Any:
    spec = importlib.util.spec_from_file_location("credentials_gate", INVENTORY / "plugins" / "credentials_gate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gate = load_gate()


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(), re.M))


def settings(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text())
    assert isinstance(content, dict), file
    return content


def ansible_inventory(home: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ansible-inventory with the project's settings in an environment that holds no credentials."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    }
    command = [str(Path(sys.executable).with_name("ansible-inventory")), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module", params=["local", *VENDORS])
def listed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """A folder, what ansible-inventory lists of it, with two lines more in the common settings, and what it says."""
    folder, home = request.param, tmp_path_factory.mktemp("listed")
    copy = home / "inventory" / folder
    shutil.copytree(INVENTORY / folder, copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(INVENTORY / name, copy.parent)
    common = copy.parent / "settings.yml"
    text, count = re.subn(
        "(?m)^first_login_user:.*$", "first_login_user: common\nonly_common: true", common.read_text()
    )
    assert count == 1
    common.write_text(text)
    run = ansible_inventory(home, "-i", f"inventory/{folder}", "--list", cwd=home)
    assert run.returncode == 0, run.stderr
    return folder, yaml.safe_load(run.stdout), run.stderr


def test_inventory_is_clean_without_credentials(listed: tuple[str, dict[str, Any], str]) -> None:
    folder, found, said = listed
    assert not re.search(r"\[(WARNING|ERROR|DEPRECATION WARNING)\]", said), said
    static = yaml.safe_load((INVENTORY / folder / "hosts.yml").read_text())
    expected = {name: list((static.get(name) or {}).get("hosts") or {}) for name in ENVIRONMENTS}
    assert any(expected.values())
    assert {name: found.get(name, {}).get("hosts", []) for name in ENVIRONMENTS} == expected
    if folder in DYNAMIC:
        file, variables = DYNAMIC[folder]
        (line,) = said.splitlines()
        assert line.startswith(f"inventory/{folder}/{file} is not read, hosts.yml alone is.")
        assert all(name in line for name in variables)
    else:
        assert said == ""


def test_vendor_wins_over_what_is_common(listed: tuple[str, dict[str, Any], str]) -> None:
    folder, found, _ = listed
    own = settings(INVENTORY / folder / "group_vars/all/10-vendor.yml")
    for variables in found["_meta"]["hostvars"].values():
        assert variables["only_common"] is True
        assert variables["first_login_user"] == own["first_login_user"]


def test_keys_of_people_stand_beside_the_settings(tmp_path: Path) -> None:
    copy = tmp_path / "inventory" / "onprem"
    shutil.copytree(INVENTORY / "onprem", copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(INVENTORY / name, copy.parent)
    keys = copy / "group_vars/all/keys"
    keys.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "ana"], check=True)
    (keys / "ana").unlink()
    run = ansible_inventory(tmp_path, "-i", str(copy), "--host", "recommender-dev")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    template = yaml.safe_load(run.stdout)["access_keys_folder"]
    assert Path(template.replace("{{ inventory_dir }}", str(copy)), "keys/ana.pub").is_file()


def test_what_a_person_sets_wins_over_the_vendor(tmp_path: Path) -> None:
    copy = tmp_path / "inventory" / "onprem"
    shutil.copytree(INVENTORY / "onprem", copy, symlinks=True)
    for name in ("settings.yml", "wiring.yml", "groups.yml"):
        shutil.copy(INVENTORY / name, copy.parent)
    # from the weakest to the strongest; each sets one name less than the one before
    files = ("10-vendor.yml", "people.yml", "team.yml", "zz-mine.yml")
    names = ("first_login_user", "operator", "analyst", "ssh_port")
    for number, file in enumerate(files):
        lines = [f"{name}: {number}\n" for name in names[number:]]
        (copy / "group_vars/all" / file).write_text("".join(lines))
    run = ansible_inventory(tmp_path, "-i", str(copy), "--host", "recommender-dev")
    assert run.returncode == 0, run.stderr
    found = yaml.safe_load(run.stdout)
    assert [found[name] for name in names] == [0, 1, 2, 3]


def test_gate_leaves_standard_output_to_the_inventory(tmp_path: Path) -> None:
    run = ansible_inventory(tmp_path, "-i", "inventory/vultr", "--host", "recommender-dev")
    assert yaml.safe_load(run.stdout)["ansible_host"] == "203.0.113.10"
    assert "VULTR_API_KEY" in run.stderr


@pytest.mark.parametrize("folder", VENDORS)
def test_shared_settings_are_links(folder: str) -> None:
    here = INVENTORY / folder
    links = {
        "groups.yml": INVENTORY / "groups.yml",
        **{f"group_vars/all/00-{name}": INVENTORY / name for name in ("settings.yml", "wiring.yml")},
    }
    for name, target in links.items():
        assert (here / name).is_symlink() and (here / name).resolve(strict=True) == target
        assert not (here / name).readlink().is_absolute()
    assert settings(here / "group_vars/all/10-vendor.yml").keys() <= {
        "first_login_user",
        "ansible_port",
        "ssh_port",
        "cloud_server_vendor",
    }


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control environment with every package and without any credentials."""
    monkeypatch.setattr(gate, "_is_installed", lambda package: True)
    for ways in gate.CREDENTIALS.values():
        for variable in " ".join(ways).split():
            monkeypatch.delenv(variable.partition("=")[0], raising=False)


def filled_in(folder: str, into: Path) -> str:
    """Path of a copy of the folder's dynamic file, its YOUR-... values filled in."""
    file = INVENTORY / folder / DYNAMIC[folder][0]
    copy = into / file.name
    copy.write_text(re.sub(r"YOUR-[A-Z-]+", "my-project", file.read_text()))
    return str(copy)


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("folder", DYNAMIC)
def test_gate_opens_on_complete_credentials_only(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, credentials = filled_in(folder, tmp_path), DYNAMIC[folder][1]
    claims = gate.InventoryModule().verify_file
    assert claims(path)
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    assert not claims(path)
    for name, value in credentials.items():
        monkeypatch.setenv(name, "")
        assert claims(path), f"{name} is empty"
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("folder", DYNAMIC)
def test_gate_opens_on_each_documented_way(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled_in(folder, tmp_path)
    for way in gate.CREDENTIALS[yaml.safe_load(Path(path).read_text())["plugin"]]:
        with monkeypatch.context() as environment:
            for variable in way.split():
                name, _, value = variable.partition("=")
                environment.setenv(name, value or "x")
            assert gate.obstacles(path) == [], way


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("folder", ["hetzner", "aws_ec2", "gcp", "azure"])
def test_gate_names_the_command_that_installs_what_is_missing(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled_in(folder, tmp_path)
    for name, value in DYNAMIC[folder][1].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gate, "_is_installed", lambda package: package in {"requests", "packaging"})
    (obstacle,) = gate.obstacles(path)
    command = obstacle.removeprefix("run ").split()
    assert command[:-1] == [sys.executable, "-m", "pip", "install", "-r"]
    assert pins(Path(command[-1]))


@pytest.mark.usefixtures("ready")
def test_gate_asks_for_the_project_that_gcp_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DYNAMIC["gcp"][1].items():
        monkeypatch.setenv(name, value)
    (obstacle,) = gate.obstacles(str(INVENTORY / "gcp" / "gcp.yml"))
    assert "YOUR-PROJECT-ID" in obstacle


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hosts.yml", "dev:\n  hosts:\n    a:\n"),
        ("list.yml", "- plugin: vultr.cloud.vultr\n"),
        ("other.yml", "plugin: ansible.builtin.constructed\n"),
        ("vultr.yml", "plugin: vultr.cloud.vultr\napi_key: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3030\n"),
        ("vultr.yml", "$ANSIBLE_VAULT;1.1;AES256\n3030\n"),
        ("broken.yml", "a: [\n"),
        ("binary.yml", "\udcff"),
        ("hosts", "plugin: vultr.cloud.vultr\n"),
    ],
)
def test_gate_declines_what_is_not_its_own(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text, errors="surrogateescape")
    assert not gate.InventoryModule().verify_file(str(file))
    assert not gate.InventoryModule().verify_file(str(tmp_path / "absent.yml"))


def test_locks_hold_the_pins_and_agree_with_the_control_environment() -> None:
    control = pins(ROOT / "requirements.txt")
    wanted = sorted((INVENTORY / "requirements").glob("*.in"))
    assert [file.stem for file in wanted] == ["aws_ec2", "azure_rm", "gcp_compute", "hcloud"]
    for file in wanted:
        lock = pins(file.with_suffix(".txt"))
        assert pins(file) and pins(file).items() <= lock.items()
        differing = {name for name, version in lock.items() if control.get(name, version) != version}
        assert not differing, f"{file.stem}: {differing} would change the control environment; lock it again"


def test_readme_names_every_file_and_variable() -> None:
    text = (INVENTORY / "README.md").read_text()
    for folder, (file, variables) in DYNAMIC.items():
        row = next(line for line in text.splitlines() if f"| `{folder}/" in line)
        assert all(name in row for name in (file, *variables)), row


# What each API answers, cut down to what the files use: one server for dev with a public address; one for
# prod, without a public IPv4 address where the vendor offers that; one of ours without an environment; and,
# where the file and not the API filters, a stranger's.


def vultr(plugin: Any) -> None:
    def server(name: str, address: str, *tags: str) -> dict[str, Any]:
        return {"label": name, "main_ip": address, "v6_main_ip": "2001:db8::2", "tags": list(tags)}

    plugin._populate(
        [
            server("one", "198.51.100.1", "recommender", "environment-dev"),
            server("two", "0.0.0.0", "recommender", "environment-prod"),
            server("lost", "198.51.100.3", "recommender"),
            server("alien", "198.51.100.4", "environment-dev"),
        ]
    )


def digitalocean(plugin: Any) -> None:
    assert plugin._template_option("oauth_token") == "x"

    def droplet(name: str, address: str, *tags: str) -> dict[str, Any]:
        addresses = [{"ip_address": "10.0.0.1", "type": "private"}, {"ip_address": address, "type": "public"}]
        return {"name": name, "networks": {"v4": addresses}, "tags": list(tags)}

    plugin._populate(
        [
            droplet("one", "198.51.100.1", "recommender", "environment-dev"),
            droplet("two", "198.51.100.2", "recommender", "environment-prod"),
            droplet("lost", "198.51.100.3", "recommender"),
            droplet("alien", "198.51.100.4", "environment-dev"),
        ]
    )


def hetzner(plugin: Any) -> None:
    assert plugin.get_option("label_selector") == "recommender"
    servers = [
        {"name": "one", "ipv4": "198.51.100.1", "labels": {"environment": "dev"}},
        {"name": "two", "ipv6": "2001:db8::2", "labels": {"environment": "prod"}},
        {"name": "lost", "ipv4": "198.51.100.3", "labels": {}},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin, "_get_cached_result", lambda path, cache: (servers, True))
        patch.setattr(plugin, "_configure_hcloud_client", lambda: None)
        patch.setattr(sys.modules[type(plugin).__module__], "client_check_required_lib", lambda: None)
        plugin.parse(plugin.inventory, plugin.loader, str(INVENTORY / "hetzner" / "hcloud.yml"))


def aws_ec2(plugin: Any) -> None:
    assert plugin.get_option("filters")["tag-key"] == "recommender"

    def instance(number: int, **record: Any) -> dict[str, Any]:
        tags = [{"Key": key, "Value": value} for key, value in record.pop("tags").items()]
        placement = {"AvailabilityZone": "eu-central-1a"}
        return {"InstanceId": f"i-{number}", "Placement": placement, "Tags": tags, **record}

    servers = [
        instance(1, PublicIpAddress="198.51.100.1", tags={"Name": "one", "environment": "dev"}),
        instance(2, PrivateIpAddress="10.0.0.2", tags={"Name": "two", "environment": "prod"}),
        instance(3, PublicIpAddress="198.51.100.3", tags={"Name": "lost"}),
    ]
    prefix = plugin.get_option("hostvars_prefix")
    plugin._populate({"aws_ec2": servers}, plugin.get_option("hostnames"), hostvars_prefix=prefix)


def gcp(plugin: Any) -> None:
    assert "labels.recommender:*" in plugin.get_option("filters")

    def instance(name: str, address: str | None, **labels: str) -> dict[str, Any]:
        interface: dict[str, Any] = {"networkIP": "10.0.0.2"}
        if address:
            interface["accessConfigs"] = [{"natIP": address}]
        link = f"https://www.googleapis.com/compute/v1/projects/my-project/zones/z/instances/{name}"
        return {"name": name, "networkInterfaces": [interface], "labels": labels, "selfLink": link}

    servers = [
        instance("one", "198.51.100.1", environment="dev"),
        instance("two", None, environment="prod"),
        instance("lost", "198.51.100.3"),
    ]
    plugin._add_hosts(servers, {})


def azure(plugin: Any) -> None:
    def machine(name: str, address: str | None, **tags: str) -> dict[str, Any]:
        facts = {
            "tags": tags,
            "powerstate": "running",
            "provisioning_state": "succeeded",
            "public_ipv4_address": [address] if address else [],
            "private_ipv4_addresses": ["10.0.0.2"],
        }
        return {"default_inventory_hostname": name, "hostvars": facts}

    plugin._filters = plugin.get_option("exclude_host_filters") + plugin.get_option("default_host_filters")
    plugin._include_filters = plugin.get_option("include_host_filters")
    plugin._populate(
        [
            machine("one", "198.51.100.1", recommender="", environment="dev"),
            machine("two", None, recommender="", environment="prod"),
            machine("lost", "198.51.100.3", recommender=""),
            machine("alien", "198.51.100.4", environment="dev"),
        ]
    )


@pytest.mark.parametrize(
    ("answer", "second_address"),
    [
        (vultr, "2001:db8::2"),
        (digitalocean, "198.51.100.2"),
        (hetzner, "2001:db8::2"),
        (aws_ec2, "10.0.0.2"),
        (gcp, "10.0.0.2"),
        (azure, "10.0.0.2"),
    ],
)
def test_dynamic_file_sorts_servers_by_environment(
    answer: Callable[[Any], None], second_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if AnsibleCollectionConfig.collection_finder is None:
        init_plugin_loader()
    folder = answer.__name__
    file, credentials = DYNAMIC[folder]
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    path = str(INVENTORY / folder / file)
    plugin = inventory_loader.get(yaml.safe_load(Path(path).read_text())["plugin"])
    assert plugin.verify_file(path), "the plugin refuses the file's name"
    inventory = InventoryData()
    for group in ENVIRONMENTS:
        inventory.add_group(group)
    BaseInventoryPlugin.parse(plugin, inventory, DataLoader(), path)
    plugin._read_config_data(path)
    answer(plugin)
    assert set(inventory.hosts) == {"one", "two", "lost"}
    found = {group: [host.name for host in inventory.groups[group].hosts] for group in ENVIRONMENTS}
    assert found == {"dev": ["one"], "staging": [], "prod": ["two"]}
    assert inventory.hosts["one"].vars["ansible_host"] == "198.51.100.1"
    assert inventory.hosts["two"].vars["ansible_host"] == second_address
