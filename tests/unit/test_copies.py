"""Keys of copies on the control machine, and accounts of servers that send copies to another."""

import base64
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("copies", ROOT / "playbooks/filter_plugins/copies.py")
assert spec and spec.loader
copies = importlib.util.module_from_spec(spec)
spec.loader.exec_module(copies)


def keep(folder: pathlib.Path, there: str = "\n\n\n\n", verb: str = "make") -> dict[str, str]:
    command = [sys.executable, str(ROOT / "playbooks/files/backup_keys.py"), str(folder), "one", verb]
    # a key is secret whatever the person's umask
    subprocess.run(["sh", "-c", 'umask 0; exec "$@"', "sh", *command], input=there, text=True, check=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_keys_are_made_once_and_are_secret(tmp_path: pathlib.Path) -> None:
    first = keep(tmp_path / "keys")
    assert set(first) == {"one.key", "one.ssh", "one.ssh.pub"}
    assert first["one.ssh.pub"].startswith("ssh-ed25519 ")
    assert len(first["one.key"].strip()) >= 20
    assert keep(tmp_path / "keys") == first
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes["one.key"] == modes["one.ssh"] == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_second_machine_takes_those_of_the_server(tmp_path: pathlib.Path) -> None:
    first = keep(tmp_path / "first")
    there = "".join(f"{base64.b64encode(first[name].encode()).decode()}\n" for name in ("one.key", "one.ssh"))
    assert keep(tmp_path / "second", f"\n\n{there}", "take") == first
    # those of a vault win
    assert keep(tmp_path / "third", there + "\n\n") == first


def test_a_restore_does_not_make_keys(tmp_path: pathlib.Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        keep(tmp_path / "keys", verb="take")
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("name", ["prod", "Recommender.Prod-2", "a-name-that-is-longer-than-an-account-may-be-1"])
def test_accounts_are_names_that_linux_takes(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA copies\n")
    [entry] = copies.people([name], [str(tmp_path / "key.pub")])
    assert entry["name"] == copies.account(name) and len(entry["name"]) <= 32
    assert entry["role"] == "command" and entry["keys"] == ["ssh-ed25519 AAAA copies"]
    assert entry["command"] == f"rclone serve restic --stdio --append-only /srv/copies/{name}"
    assert os.path.basename(entry["command"]) == name
