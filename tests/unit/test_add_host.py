"""make add-host writes a server's lines and never overwrites one."""

import pathlib
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENDORS = sorted(path.parent.name for path in ROOT.glob("inventory/*/hosts.yml") if path.parent.name != "local")


@pytest.fixture(params=VENDORS)
def inventory(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    copy = tmp_path / str(request.param)
    copy.mkdir()
    shutil.copy(ROOT / "inventory" / request.param / "hosts.yml", copy)
    return copy


def add(inventory: pathlib.Path, name: str, address: str, environment: str, code: int = 0) -> str:
    result = subprocess.run(
        [ROOT / "bin/add_host.py", "-i", inventory, f"--name={name}", f"--address={address}",
         f"--environment={environment}"], capture_output=True, text=True
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def hosts(inventory: pathlib.Path) -> dict[str, dict[str, str]]:
    groups = yaml.safe_load((inventory / "hosts.yml").read_text())
    return {
        group: {host: settings["ansible_host"] for host, settings in content["hosts"].items()}
        for group, content in groups.items()
    }


def test_the_example_makes_room_and_comments_stay(inventory: pathlib.Path) -> None:
    before = (inventory / "hosts.yml").read_text()
    add(inventory, "recommender-dev", "198.51.100.7", "dev")
    assert f"Next: ansible-playbook site.yml -i {inventory}" in add(inventory, "second", "2001:db8::7", "prod")
    add(inventory, "third", "third.example.com", "dev")
    assert hosts(inventory) == {
        "dev": {"recommender-dev": "198.51.100.7", "third": "third.example.com"},
        "staging": {},
        "prod": {"second": "2001:db8::7"},
    }
    text = (inventory / "hosts.yml").read_text()
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]


@pytest.mark.parametrize("inventory", ["vultr"], indirect=True)
def test_nothing_is_overwritten(inventory: pathlib.Path) -> None:
    add(inventory, "one", "198.51.100.7", "dev")
    hand = (inventory / "hosts.yml").read_text().replace("198.51.100.7", "198.51.100.7  # by hand\n      my_own: 1")
    (inventory / "hosts.yml").write_text(hand)
    assert "one is in the group dev already" in add(inventory, "one", "198.51.100.8", "prod", code=1)
    assert "198.51.100.7 is that of one already" in add(inventory, "two", "198.51.100.7", "prod", code=1)
    assert (inventory / "hosts.yml").read_text() == hand
    add(inventory, "two", "198.51.100.8", "prod")
    text = (inventory / "hosts.yml").read_text()
    assert "198.51.100.7 # by hand" in " ".join(text.split())
    assert "my_own: 1" in text


@pytest.mark.parametrize("inventory", ["vultr"], indirect=True)
@pytest.mark.parametrize(
    ("name", "address", "environment", "said"),
    [
        ("", "", "", "NAME must be"),
        ("-one", "198.51.100.7", "dev", "NAME must be"),
        ("one", "198.51.100", "dev", "ADDRESS must be"),
        ("one", "root@198.51.100.7", "dev", "ADDRESS must be"),
        ("one", "198.51.100.7", "production", "ENV must be one of dev, staging, prod"),
    ],
)
def test_what_cannot_be_is_refused(
    inventory: pathlib.Path, name: str, address: str, environment: str, said: str
) -> None:
    before = (inventory / "hosts.yml").read_text()
    output = add(inventory, name, address, environment, code=1)
    assert said in output
    assert "Type for example: make add-host VENDOR=vultr NAME=recommender-dev ADDRESS=198.51.100.7 ENV=dev" in output
    assert (inventory / "hosts.yml").read_text() == before


@pytest.mark.parametrize("vendor", ["", "local", "vulture"])
def test_a_folder_that_is_not_there(tmp_path: pathlib.Path, vendor: str) -> None:
    assert "VENDOR must be one of aws_ec2, azure" in add(tmp_path / vendor, "one", "198.51.100.7", "dev", code=1)


@pytest.mark.parametrize("inventory", ["vultr"], indirect=True)
def test_a_file_that_is_not_yaml_stays(inventory: pathlib.Path) -> None:
    (inventory / "hosts.yml").write_text("dev: [\n")
    assert "hosts.yml is as it was" in add(inventory, "one", "198.51.100.7", "dev", code=1)
    assert (inventory / "hosts.yml").read_text() == "dev: [\n"


@pytest.mark.parametrize("inventory", ["hetzner"], indirect=True)
def test_create_changes_its_own_line_and_destroy_takes_it_out(inventory: pathlib.Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        command = [str(ROOT / "bin/add_host.py"), "-i", str(inventory), "--name=one", *words]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    def create(address: str, environment: str, code: int = 0) -> str:
        return run(f"--address={address}", f"--environment={environment}", "--update", code=code)

    add(inventory, "two", "198.51.100.9", "dev")
    before = hosts(inventory)
    assert "one is in the group dev" in create("198.51.100.7", "dev")
    assert "is as it was" in create("198.51.100.7", "dev")
    create("198.51.100.8", "dev")
    assert hosts(inventory)["dev"] == {"two": "198.51.100.9", "one": "198.51.100.8"}
    create("198.51.100.8", "prod")
    assert hosts(inventory)["prod"] == {"one": "198.51.100.8"}
    assert "198.51.100.9 is that of two already" in create("198.51.100.9", "dev", code=1)
    assert "one is no longer in" in run("--remove")
    assert hosts(inventory) == before
    assert "is as it was" in run("--remove")

    add(inventory, "one", "198.51.100.7", "dev")
    assert "make create did not write it" in create("198.51.100.8", "dev", code=1)
    assert "is as it was" in run("--remove")
    assert hosts(inventory)["dev"]["one"] == "198.51.100.7"
