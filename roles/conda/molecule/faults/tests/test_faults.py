"""What breaks installations and environments, done to a host for real; what the role makes of it, as its users see it.

prepare.yml left a host where programs do not run in /tmp, root's umask is 077, and the prefix exists, empty. The tests
go on from each other's state, in their order.
"""

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from testinfra.host import Host

PROJECT = pathlib.Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = pathlib.Path(__file__).parents[1]
INVENTORIES = [PROJECT / "../../molecule" / name for name in ("hosts.py", "conda_fixture/inventory.py")]
PREFIX = "/opt/conda"
MIRROR = "http://127.0.0.1:8080"


@dataclass
class Run:
    """What came of a run of the role."""

    ok: bool
    changed: int
    output: str


Role = Callable[..., Run]
Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def conda(host: Host) -> dict[str, Any]:
    """Release and checksum of the conda under test, and its settings beside the mirror."""
    variables = yaml.safe_load((PROJECT / "defaults/main.yml").read_text())
    architecture = host.check_output("uname -m")
    variables["conda_installer_checksum"] = f"sha256:{variables['conda_installer_checksums'][architecture]}"
    variables |= json.loads(subprocess.check_output([INVENTORIES[1]]))["molecule"].get("vars", {})
    name = f"{variables['conda_version']}/Miniforge3-{variables['conda_version']}-Linux-{architecture}.sh"
    return variables | {"installer": name}


@pytest.fixture(scope="module")
def role(host: Host, conda: dict[str, Any]) -> Role:
    """Runs the role: by the mirror, other than for the variables that are given."""
    mirrored = {
        "conda_installer_url": f"{MIRROR}/installer/{conda['installer']}",
        "conda_condarc_extra": conda["conda_condarc_extra"] | {"channel_alias": f"{MIRROR}/channel"},
        "conda_environment_variables": {"PIP_INDEX_URL": f"{MIRROR}/simple"},
    }

    def run(**variables: Any) -> Run:
        command = ["ansible-playbook", str(SCENARIO / "role.yml"), "--limit", host.backend.get_hostname()]
        for inventory in INVENTORIES:
            command += ["--inventory", str(inventory)]
        command += ["--extra-vars", json.dumps(mirrored | variables)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout)
        found = re.search(r"changed=(\d+)", done.stdout)
        return Run(done.returncode == 0, int(found[1]) if found else -1, " ".join(done.stdout.split()))

    return run


@pytest.fixture(scope="module")
def shell(host: Host) -> Iterator[Shell]:
    """Runs a command in a login shell of an account without any rights."""
    host.check_output("useradd --create-home --shell /bin/bash somebody")
    yield lambda command: host.check_output("su --login somebody --command %s", command)
    host.check_output("userdel --remove somebody")


@pytest.fixture
def offline(host: Host) -> Iterator[None]:
    """Takes the host's way to the internet."""
    route = host.check_output("ip route show default")
    host.check_output("ip route del default")
    yield
    host.check_output(f"ip route add {route}")


def environment(folder: pathlib.Path, packages: list[str], pip: list[str], proof: str = "") -> dict[str, Any]:
    """The role's variable for one environment, e, of an environment.yml."""
    file = folder / "environment.yml"
    file.write_text(json.dumps({"dependencies": ["python=3.11", "pip", *packages, *([{"pip": pip}] if pip else [])]}))
    return {"conda_environments": [{"name": "e", "file": str(file), "proof": proof}]}


def packages_of(host: Host, name: str) -> dict[str, str]:
    listed = json.loads(host.check_output(f"{PREFIX}/bin/conda list --name {name} --json"))
    return {package["name"]: package["version"] for package in listed}


# what a power cut leaves of a package that was unpacked in the half minute before it, while the environment e was made
POWER_CUT = f"""
import json, os, pathlib
prefix = pathlib.Path("{PREFIX}")
names = os.listdir(prefix / "pkgs")
lost = [name for name in names if name.startswith("distro-")]
assert lost
for name in lost:
    path = prefix / "pkgs" / name
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.unlink()  # base has it too, by a hard link
            file.touch()
(prefix / ".making").mkdir()
(prefix / ".making/kept").write_text(json.dumps(sorted(set(names) - set(lost))))
(prefix / "envs/.before-e").mkdir()
"""


def test_the_host_is_as_hard_as_it_should_be(host: Host) -> None:
    assert host.check_output("bash -c '. /root/.bashrc; umask'") == "0077"
    assert host.run("cp /bin/true /tmp && /tmp/true").rc == 126


@pytest.mark.parametrize(("what", "checksum"), [("short", None), ("installer", "0" * 64)], ids=["truncated", "wrong"])
def test_a_bad_download_leaves_nothing(
    host: Host, role: Role, conda: dict[str, Any], what: str, checksum: str | None
) -> None:
    url = f"{MIRROR}/{what}/{conda['installer']}"
    wanted = checksum or conda["conda_installer_checksum"].removeprefix("sha256:")
    run = role(conda_prefix="/opt/bad", conda_installer_url=url, conda_installer_checksum=f"sha256:{wanted}")
    script = f"import hashlib, urllib.request as u; print(hashlib.sha256(u.urlopen({url!r}).read()).hexdigest())"
    served = host.check_output("python3 -c %s", script)
    assert not run.ok
    assert f"sha256 {served} arrived from {url}, and {wanted} is wanted" in run.output
    assert not host.file("/opt/bad").exists


def test_a_host_that_cannot_reach_the_installer_is_told_what_to_do(host: Host, role: Role, offline: None) -> None:
    run = role(conda_prefix="/opt/bad", conda_installer_url="https://github.com/installer.sh")
    assert not run.ok
    assert "set https_proxy in conda_environment_variables, for a mirror" in run.output
    assert not host.file("/opt/bad").exists


def test_it_installs_offline_from_a_mirror_whose_answer_breaks_off(
    host: Host, role: Role, shell: Shell, conda: dict[str, Any], offline: None
) -> None:
    assert role(conda_installer_url=f"{MIRROR}/cut/{conda['installer']}").ok
    assert re.search(r" /cut/.* bytes=\d+-", host.check_output("journalctl --unit company --output cat"))
    assert json.loads(shell("conda info --json"))["root_prefix"] == PREFIX


def test_a_failing_pip_section_leaves_no_environment(
    host: Host, role: Role, tmp_path: pathlib.Path, offline: None
) -> None:
    run = role(**environment(tmp_path, [], ["alpha==1.0", "broken==1.0"]))
    assert not run.ok
    assert "environment e: pip could not install" in run.output
    assert "no compiler here" in run.output
    assert json.loads(host.check_output(f"{PREFIX}/bin/conda env list --json"))["envs"] == [PREFIX]
    assert host.file(f"{PREFIX}/envs").listdir() == []


def test_the_next_run_starts_clean(host: Host, role: Role, shell: Shell, tmp_path: pathlib.Path, offline: None) -> None:
    """Also where the power went. And built runs a program while it is built, which must not be in /tmp."""
    host.check_output("python3 -c %s", POWER_CUT)
    assert role(**environment(tmp_path, ["distro"], ["alpha==1.0", "beta==1.0", "built==1.0"])).ok
    assert shell("conda activate e && python -c 'import alpha, beta, built, distro; print(alpha.version)'") == "1.0"
    assert shell("conda activate e && python -c 'import distro; print(distro.__file__ and distro.id())'") == "debian"


def test_a_changed_one_is_exactly_as_specified_and_keeps_a_foreign_file(
    host: Host, role: Role, tmp_path: pathlib.Path, offline: None
) -> None:
    before = packages_of(host, "e")
    site = f"{PREFIX}/envs/e/lib/python3.11/site-packages"
    host.check_output(f"mkdir {PREFIX}/envs/e/notes && echo precious > {PREFIX}/envs/e/notes/thesis.txt")
    # in the way of what is to come, and of what is to go
    host.check_output(f"mkdir {site}/boltons && touch {site}/boltons/__init__.py {site}/alpha-2.0.dist-info")
    assert role(**environment(tmp_path, ["boltons"], ["alpha==2.0"], "import alpha, boltons")).ok
    after = packages_of(host, "e")
    gone = {"alpha", "beta", "built", "distro"}
    assert {name: version for name, version in before.items() if name not in gone} == {
        name: version for name, version in after.items() if name not in {"alpha", "boltons"}
    }
    assert after["alpha"] == "2.0"
    assert "boltons" in after
    assert host.file(f"{PREFIX}/envs/e/notes/thesis.txt").content_string == "precious\n"
    assert host.file(f"{PREFIX}/envs").listdir() == ["e"]


@pytest.mark.parametrize(
    ("pip", "proof", "message"),
    [("broken==1.0", "", "pip could not install"), ("alpha==1.0", "import boltons", "the one before is back. Correct")],
    ids=["build", "proof"],
)
def test_a_change_that_fails_leaves_the_one_before(
    host: Host, role: Role, shell: Shell, tmp_path: pathlib.Path, pip: str, proof: str, message: str, offline: None
) -> None:
    before = packages_of(host, "e")
    run = role(**environment(tmp_path, [], [pip], proof))
    assert not run.ok
    assert message in run.output
    assert packages_of(host, "e") == before
    assert shell("conda activate e && python -c 'import alpha; print(alpha.version)'") == "2.0"


def test_an_unchanged_one_costs_no_conda_call(host: Host, role: Role, tmp_path: pathlib.Path, offline: None) -> None:
    host.check_output(f"mv {PREFIX}/bin/conda {PREFIX}/bin/python /root")
    run = role(**environment(tmp_path, ["boltons"], ["alpha==2.0"]))
    host.check_output(f"mv /root/conda /root/python {PREFIX}/bin")
    assert run.ok
    assert run.changed == 0


def test_what_cannot_be_reached_is_told_what_to_do(
    host: Host, role: Role, conda: dict[str, Any], tmp_path: pathlib.Path, offline: None
) -> None:
    extra = {key: value for key, value in conda["conda_condarc_extra"].items() if key != "channel_alias"}
    run = role(conda_condarc_extra=extra, **environment(tmp_path, ["tqdm"], []))
    assert not run.ok
    assert "name mirrors: for conda in conda_condarc_extra.channel_alias" in run.output
    assert "boltons" in packages_of(host, "e")


@pytest.mark.parametrize("source", ["explicit", "python"])
def test_an_environment_from_locks(
    host: Host, role: Role, shell: Shell, tmp_path: pathlib.Path, source: str, offline: None
) -> None:
    script = f"import urllib.request as u; print(u.urlopen('{MIRROR}/simple/alpha/').read().decode())"
    found = re.search(r"alpha-1.0-py3-none-any.whl#sha256=(\w+)", host.check_output("python3 -c %s", script))
    assert found
    pip_file = tmp_path / "requirements.txt"
    pip_file.write_text(f"alpha==1.0 --hash=sha256:{found[1]}\n")
    lock = tmp_path / "conda-linux-64.lock"
    lock.write_text(host.check_output(f"{PREFIX}/bin/conda list --name e --explicit --md5") + "\n")
    made_of = {"explicit": {"file": str(lock)}, "python": {"python": "3.11"}}[source]
    assert role(conda_environments=[{"name": source, "pip_file": str(pip_file)} | made_of]).ok
    assert shell(f"conda activate {source} && python -c 'import alpha, sys; print(sys.prefix, alpha.version)'") == (
        f"{PREFIX}/envs/{source} 1.0"
    )
    if source == "explicit":
        made = host.check_output(f"{PREFIX}/bin/conda list --name explicit --explicit --md5")
        assert made == lock.read_text().rstrip()


def test_it_works_through_a_proxy_with_a_ca_of_its_own(
    host: Host, role: Role, conda: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    proxied = {
        "conda_prefix": "/opt/proxied",
        "conda_installer_url": "https://github.com/conda-forge/miniforge/releases/download/" + conda["installer"],
        "conda_condarc_extra": {k: v for k, v in conda["conda_condarc_extra"].items() if k != "channel_alias"},
        "conda_environment_variables": {"https_proxy": "http://127.0.0.1:3128"},
        **environment(tmp_path, [], ["tabulate==0.9.0"]),
    }
    run = role(**proxied)
    assert not run.ok
    assert "A private CA belongs into /etc/ssl/certs/ca-certificates.crt (conda_ca_bundle)" in run.output
    host.check_output("cp /srv/ca.pem /usr/local/share/ca-certificates/company.crt && update-ca-certificates")
    assert role(**proxied).ok
    host.check_output("/opt/proxied/envs/e/bin/python -c 'import tabulate'")
    asked = host.check_output("journalctl --unit company --output cat")
    assert {"github.com", "conda.anaconda.org", "pypi.org", "files.pythonhosted.org"} <= set(
        re.findall(r"^\S+", asked, re.M)
    )


def test_a_half_made_prefix_becomes_a_conda_but_is_not_removed(
    host: Host, role: Role, shell: Shell, conda: dict[str, Any]
) -> None:
    script = f"import urllib.request as u; u.urlretrieve('{MIRROR}/short/{conda['installer']}', '/root/short.sh')"
    host.check_output("python3 -c %s", script)
    assert host.run("umask 077; bash /root/short.sh -b -p /opt/half").rc != 0
    assert host.file("/opt/half").listdir()
    assert host.run("/opt/half/bin/conda --version").rc != 0
    # by way of this machine, as for a server that cannot reach the installer
    url = "https://github.com/conda-forge/miniforge/releases/download/" + conda["installer"]
    for volume in conda.get("cloud_server_local_volumes", ()):
        url = f"file://{volume.split(':')[0]}/{conda['installer'].split('/')[-1]}"
    assert role(conda_prefix="/opt/half", conda_download_from="controller", conda_installer_url=url).ok
    assert not host.file("/var/cache/ansible-conda").exists
    assert json.loads(shell("conda info --json"))["root_prefix"] == "/opt/half"
    host.check_output("chmod o+w /opt/half/lib")
    run = role(conda_prefix="/opt/half", conda_version="1000")
    assert (run.ok, run.changed) == (False, 0)
    assert "/opt/half/lib can be written by everybody, and root runs what is in /opt/half" in run.output
    host.check_output("chmod o-w /opt/half/lib")
    run = role(conda_prefix="/opt/half", conda_state="absent")
    assert not run.ok
    assert "/opt/half was not made by this role" in run.output
    assert host.file("/opt/half/bin/conda").exists


def test_an_upgrade_keeps_environments(host: Host, role: Role, shell: Shell, conda: dict[str, Any]) -> None:
    """Installed over itself, as another release would be; its installer writes a .condarc of its own."""
    assert role(conda_version=conda["conda_version"] + "1").ok
    assert shell("conda activate e && python -c 'import alpha; print(alpha.version)'") == "2.0"
    settings = json.loads(shell("conda config --show --json"))
    assert settings["channel_alias"]["location"] == "127.0.0.1:8080/channel"


def test_what_the_role_made_is_uninstalled(host: Host, role: Role, shell: Shell) -> None:
    assert shell("type -t conda") == "function"
    assert role(conda_state="absent").changed == 2
    assert not host.file(PREFIX).exists
    assert shell("type -t conda || echo none") == "none"
    again = role(conda_state="absent")
    assert again.ok
    assert again.changed == 0


def test_everyone_can_read_what_root_made(host: Host) -> None:
    for prefix in ("/opt/proxied", "/opt/half"):
        assert host.check_output(f"find {prefix} ! -type l ! -perm -o=r -o -type d ! -perm -o=x | head") == ""
        assert host.check_output(f"find {prefix} ! -type l -perm /o=w -o ! -user root | head") == ""
