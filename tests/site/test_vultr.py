"""`ansible-playbook site.yml -i inventory/vultr` as a user types it, its one address a container with Debian 12.

The server and the machine that this runs on speak German.
"""

import pytest
from conftest import Checkout, Vultr, recap

COMMAND = (".venv/bin/ansible-playbook", "site.yml", "-i", "inventory/vultr")


@pytest.fixture(scope="module")
def checkout(vultr: Vultr) -> Checkout:
    return vultr.checkout


@pytest.fixture(scope="module")
def server(vultr: Vultr) -> str:
    """The server's address."""
    return vultr.address


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


def test_training_goes_on_when_logins_are_turned_on(checkout: Checkout, vultr: Vultr, server: str) -> None:
    with vultr.mine.open("a") as mine:
        mine.write("\nmlflow_logins: true\n")
    assert recap(checkout.run(*COMMAND, "--tags", "tracking,recommender", fast=True))["failed"] == 0

    def analyst(command: str) -> str:
        ssh = ("ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.known_hosts", f"analyst@{server}")
        return checkout.run(*ssh, f"cd /srv/recommender/current && {command}")

    asked = "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/api/2.0/mlflow/registered-models/search')"
    assert "HTTP Error 401" in analyst(f'python3 -c "{asked}" 2>&1 || true')
    # a worse one, which the tests of promotions need
    assert "dev.movie-recommender 2, alias champion" in analyst("make train ARGS='--set params.n_epochs=1'")
