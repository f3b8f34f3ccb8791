"""What users of the server get: root's installation, used by somebody who is not root."""

import json
import pathlib
import re
from collections.abc import Iterator

import pytest
from testinfra.host import Host

PREFIX = "/opt/conda"
LOCK = pathlib.Path(__file__).parents[1] / "environments/locked/requirements.txt"


@pytest.fixture(scope="module")
def user(host: Host) -> Iterator[str]:
    """Name of an account without any rights; removed with its home afterwards."""
    host.check_output("useradd --create-home --shell /bin/bash somebody")
    yield "somebody"
    host.check_output("userdel --remove somebody")


def login_shell(host: Host, user: str, command: str) -> str:
    return host.check_output("su --login %s --command %s", user, command)


def test_conda_describes_the_installation(host: Host, user: str) -> None:
    info = json.loads(login_shell(host, user, "conda info --json"))
    assert info["root_prefix"] == PREFIX
    assert info["channels"]
    assert all("conda-forge" in channel for channel in info["channels"])
    assert f"{PREFIX}/.condarc" in info["config_files"]
    assert not info["root_writable"]


def test_environments_are_those_that_were_asked_for(host: Host, user: str) -> None:
    listed = json.loads(login_shell(host, user, "conda env list --json"))["envs"]
    assert sorted(listed) == [PREFIX, f"{PREFIX}/envs/locked", f"{PREFIX}/envs/plain"]


@pytest.mark.parametrize(("environment", "module"), [("locked", "humanize"), ("plain", "tabulate")])
def test_an_activated_environment_imports_its_packages(host: Host, user: str, environment: str, module: str) -> None:
    script = f"import sys, {module}; print(sys.prefix, sys.version_info[:2], {module}.__file__)"
    out = login_shell(host, user, f'conda activate {environment} && python -c "{script}"')
    assert out.startswith(f"{PREFIX}/envs/{environment} (3, 11) {PREFIX}/envs/{environment}/")


def test_a_lock_is_installed_as_it_is(host: Host) -> None:
    wanted = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.M))
    assert "uv" in wanted
    frozen = host.check_output(f"{PREFIX}/envs/locked/bin/python -m pip list --format json")
    installed = {package["name"]: package["version"] for package in json.loads(frozen)}
    assert {name: installed.get(name) for name in wanted} == wanted


def test_modules_come_compiled(host: Host) -> None:
    """A user cannot write __pycache__ there, so every import would compile again."""
    assert host.file(f"{PREFIX}/envs/locked/lib/python3.11/site-packages/humanize/__pycache__").listdir()


def test_a_login_shell_stays_out_of_base(host: Host, user: str) -> None:
    assert login_shell(host, user, "echo ${CONDA_PREFIX:-none}") == "none"


def test_a_user_makes_an_environment_at_home(host: Host, user: str) -> None:
    login_shell(host, user, "conda create --quiet --yes --name mine python=3.11")
    assert login_shell(host, user, "conda run --name mine python -c 'import sys; print(sys.prefix)'") == (
        f"/home/{user}/.conda/envs/mine"
    )


def test_everyone_can_read_everything_and_only_root_writes(host: Host) -> None:
    unreadable = host.check_output(f"find {PREFIX} ! -type l ! -perm -o=r -o -type d ! -perm -o=x | head")
    assert unreadable == ""
    assert host.check_output(f"find {PREFIX} ! -type l -perm /o=w -o ! -user root | head") == ""


def test_nothing_is_left_of_the_installer(host: Host) -> None:
    assert not host.file(f"{PREFIX}/.installing").exists
    assert host.check_output("find /root /tmp /var/tmp /opt -name 'Miniforge*' | head") == ""
    assert host.check_output(f"find {PREFIX}/envs -maxdepth 1 -name '.*' ! -name .conda_envs_dir_test | head") == ""
