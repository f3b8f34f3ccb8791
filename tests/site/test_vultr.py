"""`ansible-playbook site.yml -i inventory/vultr` as a user types it, its one address a container with Debian 12.

The server and the machine that this runs on speak German.
"""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from conftest import ROOT, Checkout, recap

COMMAND = (".venv/bin/ansible-playbook", "site.yml", "-i", "inventory/vultr")


@pytest.fixture(scope="module")
def agent(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A home with a key of the user's, held by an agent; nothing names the key to Ansible."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    key = home / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", home / "agent"], stdout=subprocess.DEVNULL)
    checkout.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": str(home / "agent")}
    add = "timeout 10 sh -c 'until ssh-add -q .ssh/id_ed25519; do sleep 0.2; done'"
    subprocess.run(add, shell=True, cwd=home, env=checkout.environment, check=True)
    yield key
    process.terminate()


@pytest.fixture(scope="module", autouse=True)
def server(checkout: Checkout, agent: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh server that trusts the user's key for root, written into inventory/vultr/hosts.yml."""
    state = tmp_path_factory.mktemp("state")
    name = f"vultr-{os.getpid()}"
    fixture = conda_fixture(checkout)
    container = {
        "cloud_server_vendor": "local", "cloud_server_name": name, "cloud_server_image": "bookworm",
        "cloud_server_local_key": str(agent),
        "cloud_server_local_known_hosts": str(state / "known_hosts"), "ansible_host": "127.0.0.1",
        "ansible_port": 20000 + os.getpid() % 12000,
        "cloud_server_local_volumes": [f"{fixture.parent}:/srv/conda-fixture:ro"] if fixture else [],
    }  # fmt: skip
    (state / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"bare": container}}}))
    if fixture:
        mine = checkout.folder / "inventory/vultr/group_vars/all/zz-mine.yml"
        mine.write_text(fixture.read_text())
    checkout.run(".venv/bin/ansible-playbook", "playbooks/create.yml", "-i", str(state / "hosts.yml"))
    speak_german(checkout, name, state)
    inspect = json.loads(subprocess.check_output(["docker", "inspect", name]))[0]
    address: str = inspect["NetworkSettings"]["IPAddress"]
    hosts = checkout.folder / "inventory/vultr/hosts.yml"
    text = hosts.read_text()
    assert text.count("ansible_host: 203.0.113.10") == 1
    hosts.write_text(text.replace("203.0.113.10", address))
    yield address
    subprocess.run(["docker", "rm", "-f", name], check=True, stdout=subprocess.DEVNULL)


def speak_german(checkout: Checkout, container: str, folder: pathlib.Path) -> None:
    """German for every login on the server, and for the checkout's own commands."""
    make = """
    apt-get install -qy --no-install-recommends locales
    localedef -i de_DE -f UTF-8 de_DE.UTF-8
    printf 'LANG=de_DE.UTF-8\nLANGUAGE=de\n' > /etc/default/locale
    """
    subprocess.run(["docker", "exec", container, "sh", "-ec", make], check=True, stdout=subprocess.DEVNULL)
    # not --quiet, which Debian 12's client does not know
    subprocess.run(["docker", "cp", f"{container}:/usr/share/i18n", folder], check=True, stdout=subprocess.DEVNULL)
    (folder / "locale").mkdir()
    compile_here = ["localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(folder / "locale/de_DE.UTF-8")]
    subprocess.run(compile_here, env={**os.environ, "I18NPATH": str(folder / "i18n")}, check=True)
    german = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "LANGUAGE": "de", "LOCPATH": str(folder / "locale")}
    checkout.environment |= german


def conda_fixture(checkout: Checkout) -> pathlib.Path | None:
    """Variables for a host that cannot reach conda's own hosts; None where they answer."""
    select = [ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"]
    path = subprocess.check_output(select, env=checkout.environment, text=True).strip()
    return pathlib.Path(path) if path else None


def test_site(checkout: Checkout) -> None:
    output = checkout.run(*COMMAND)
    assert recap(output)["failed"] == recap(output)["unreachable"] == 0
    assert "dev.movie-recommender version 1 (champion)" in output
    assert "make tunnel INVENTORY=inventory/vultr HOST=recommender-dev" in output


def test_again_as_the_operator_changes_nothing(checkout: Checkout) -> None:
    assert recap(checkout.run(*COMMAND, fast=True))["changed"] == 0


def test_both_ends_speak_german(checkout: Checkout, server: str) -> None:
    ssh = ("ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.known_hosts", f"deploy@{server}")
    assert "darf sudo auf" in checkout.run(*ssh, "sudo -n -l -U nobody")
    python = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.str(0.5))"
    assert checkout.run(".venv/bin/python", "-c", python).strip() == "0,5"


def test_the_operator_gets_in_and_root_does_not(checkout: Checkout, server: str) -> None:
    ssh = ("ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.known_hosts")
    assert checkout.run(*ssh, f"deploy@{server}", "sudo", "-n", "id", "-u").strip() == "0"
    assert "Permission denied (publickey)" in checkout.run(*ssh, f"root@{server}", "true", code=255)


def test_training_goes_on_when_logins_are_turned_on(checkout: Checkout, server: str) -> None:
    with (checkout.folder / "inventory/vultr/group_vars/all/zz-mine.yml").open("a") as mine:
        mine.write("\nmlflow_logins: true\n")
    assert recap(checkout.run(*COMMAND, "--tags", "tracking,recommender", fast=True))["failed"] == 0

    def analyst(command: str) -> str:
        ssh = ("ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.known_hosts", f"analyst@{server}")
        return checkout.run(*ssh, f"cd /srv/recommender/current && {command}")

    asked = "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/api/2.0/mlflow/registered-models/search')"
    assert "HTTP Error 401" in analyst(f'python3 -c "{asked}" 2>&1 || true')
    assert "dev.movie-recommender 2, alias champion" in analyst("make train ARGS='--set evaluation.folds=2'")
