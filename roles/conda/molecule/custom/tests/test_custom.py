"""What becomes of a conda that was there before."""

import json
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

Shell = Callable[[str], str]
PREFIX = "/srv/tools/conda"


@pytest.fixture(scope="module")
def shell(host: Host) -> Iterator[Shell]:
    """Runs a command in a login shell of an account without any rights."""
    host.check_output("useradd --create-home --shell /bin/bash somebody")
    yield lambda command: host.check_output("su --login somebody --command %s", command)
    host.check_output("userdel --remove somebody")


def test_it_is_adopted_for_everyone(host: Host, shell: Shell) -> None:
    info = json.loads(shell("conda info --json"))
    assert info["root_prefix"] == PREFIX
    unreadable = host.check_output(f"find {PREFIX} ! -type l ! -perm -o=r ! -name thesis.txt | head")
    assert unreadable == ""


def test_the_settings_are_those_of_the_inventory(shell: Shell) -> None:
    settings = json.loads(shell("conda config --show --json"))
    assert settings["channel_priority"] == "flexible"


def test_an_environment_made_by_hand_is_brought_up_to_date_and_keeps_its_files(host: Host) -> None:
    assert host.file(f"{PREFIX}/envs/own/thesis.txt").content_string == "precious"
    host.check_output(f"{PREFIX}/envs/own/bin/python -c 'import tabulate'")


def test_an_interrupted_one_is_made_anew(host: Host, shell: Shell) -> None:
    assert not host.file(f"{PREFIX}/envs/interrupted/half-made").exists
    assert not host.file(f"{PREFIX}/envs/.before-interrupted").exists
    shell("conda activate interrupted && python -c 'import humanize'")
