"""bin/engine.sh names what is missing and does nothing if it may not install or start Docker."""

import pathlib
import shutil
import subprocess

import pytest

ENGINE = pathlib.Path(__file__).resolve().parents[2] / "bin/engine.sh"


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> pathlib.Path:
    """A PATH of stand-ins: a Docker client without an engine, and no root."""
    for name, text in {
        "id": '[ "$1" = -u ] && echo 1000 || echo ana',
        "uname": "echo Linux",
        "docker": "exit 1",
        "dockerd": "",
        "ssh": "",
        "ssh-keygen": "",
        "apt-get": "echo apt-get was called; exit 1",
    }.items():
        command(tmp_path, name, text)
    (tmp_path / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    return tmp_path


def command(folder: pathlib.Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def refused(machine: pathlib.Path, **environment: str) -> str:
    result = subprocess.run(
        [shutil.which("sh") or "/bin/sh", ENGINE, "docker", "version"], env={"PATH": str(machine), **environment},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert result.returncode == 1
    assert "apt-get was called" not in result.stdout + result.stderr
    return " ".join(result.stderr.split())


def test_without_sudo_it_says_what_somebody_with_root_types(machine: pathlib.Path) -> None:
    said = refused(machine)
    assert "starting a Docker engine, or joining the group that may use it needs root" in said
    assert "type: usermod -aG docker ana then log in again" in said


def test_a_sudo_that_refuses_is_said_too(machine: pathlib.Path) -> None:
    command(machine, "sudo", "echo ana is not in the sudoers file >&2; exit 1")
    said = refused(machine)
    assert "ana is not in the sudoers file" in said
    assert "sudo does not give it to ana" in said


def test_without_an_engine_it_names_the_packages(machine: pathlib.Path) -> None:
    (machine / "dockerd").unlink()
    (machine / "docker").unlink()
    assert "type: apt install docker.io iptables && usermod -aG docker ana" in refused(machine)


def test_elsewhere_than_on_linux_nothing_is_installed(machine: pathlib.Path) -> None:
    (machine / "dockerd").unlink()
    command(machine, "uname", "echo Darwin")
    assert "no Docker engine answers: start Docker Desktop" in refused(machine)


def test_an_engine_elsewhere_is_not_replaced_by_one_here(machine: pathlib.Path) -> None:
    assert "no Docker engine answers at DOCKER_HOST=ssh://big" in refused(machine, DOCKER_HOST="ssh://big")
