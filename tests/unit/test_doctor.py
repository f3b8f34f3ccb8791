"""What `make doctor` says of recorded facts, and that one server that is down keeps it from none of the others."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))
import doctor  # noqa: E402

# of the server of `make up`, an hour after it was made
FACTS = """\
Welcome, disk of all trades
what the doctor sees:
disk / 52% 6%
disk /boot 10% -
memory 19668 24105
unit ssh.service loaded active
unit ssh.socket loaded inactive
unit apt-daily-upgrade.timer loaded active
unit firewall.service loaded active
unit jupyter-screen@analyst.service loaded active
unit mlflow.service loaded active
listens tcp 127.0.0.1:8888
listens tcp 0.0.0.0:22
listens udp 127.0.0.53%lo:53
listens tcp [::]:22
firewall on
stamp 1795859000
security 0
time 1795860000
"""
SERVER: dict[str, Any] = {
    "name": "recommender-dev", "host": "198.51.100.7", "port": 22, "user": "deploy", "key": "",
    "options": "-o UserKnownHostsFile=.known_hosts", "local": False, "faults": [], "clock": 300, "own_keys": True,
    "ports": [{"port": 22, "comment": "SSH"}], "upgrades": True, "jupyters": ["analyst"], "mlflow": True, "served": [],
}  # fmt: skip
HERE = "inventory/vultr"
AGAIN = "ansible-playbook site.yml -i inventory/vultr --limit recommender-dev"
SSH = "ssh -o UserKnownHostsFile=.known_hosts -p 22 deploy@198.51.100.7"


def wrong(checks: list[Any]) -> dict[str, str]:
    return {check.text: check.remedy for check in checks if check.remedy}


def test_nothing_is_wrong_with_a_sound_server() -> None:
    checks = doctor.judge_server(doctor.parse(FACTS), SERVER, 0.4, HERE)
    assert wrong(checks) == {}
    texts = [check.text for check in checks]
    assert "ports: 22/tcp listen, the firewall lets in 22/tcp" in texts
    assert "services: firewall, jupyter-screen@analyst, mlflow run" in texts
    assert "disk /boot: 10 % used, inodes 0 %" in texts


@pytest.mark.parametrize(
    ("old", "new", "text", "remedy"),
    [
        ("disk / 52% 6%", "disk / 52% 97%", "disk /: 52 % used, inodes 97 %", "sudo du -xhd1 / | sort -h"),
        ("memory 19668", "memory 60", "memory: 60 of 24105 MB available", "make status"),
        ("mlflow.service loaded active", "mlflow.service loaded failed", "mlflow.service: failed",
         "sudo journalctl -u mlflow.service"),
        ("unit mlflow.service loaded active", "", "mlflow.service: not set up", AGAIN),
        ("ssh.service loaded active", "ssh.service loaded inactive", "ssh: takes no new login", "systemctl start ssh"),
        ("firewall on", "failed certbot.service\nfirewall on", "certbot.service: failed",
         "journalctl -u certbot.service"),
        ("firewall on", "", "firewall: not in force, so that all of these are open: 22/tcp", f"{AGAIN} --tags secure"),
        ("security 0", "reboot 2026-11-20T04:00:00+00:00", "reboot: waits since 2026-11-20T04:00:00+00:00",
         "sudo reboot"),
        ("firewall on", "firewall on\ndpkg broken", "packages: an installation was interrupted", "dpkg --configure -a"),
        ("upgrade.timer loaded active", "upgrade.timer loaded inactive", "updates: no automatic ones", "--tags secure"),
        ("stamp 1795859000", "stamp 1795000000", "updates: the last were 9 days ago", "journalctl -u apt-daily"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_remedy(old: str, new: str, text: str, remedy: str) -> None:
    assert old in FACTS
    found = wrong(doctor.judge_server(doctor.parse(FACTS.replace(old, new)), SERVER, 0, HERE))
    assert list(found) == [text] and remedy in found[text], found


def test_a_clock_that_is_off_and_a_port_that_nothing_holds() -> None:
    found = wrong(doctor.judge_server(doctor.parse(FACTS), SERVER, -400, HERE))
    assert found == {"clock: 400 s behind this machine's": f"if this machine is right: {SSH} sudo date -s @$(date +%s)"}
    server = SERVER | {"ports": [{"port": 22}, {"port": 443}, {"port": "8000-8010"}, {"port": 53, "protocol": "udp"}]}
    found = wrong(doctor.judge_server(doctor.parse(FACTS), server, 0, HERE))
    assert list(found) == [f"port {port}: let in, and nothing listens" for port in ("443/tcp", "53/udp")]


@pytest.mark.parametrize(
    ("said", "changes", "text", "remedy"),
    [
        ("ssh: connect to host 198.51.100.7 port 22: Connection timed out", {}, "not reachable: ssh: connect", SSH),
        ("ssh: connect to host 127.0.0.1 port 2222: Connection refused", {"local": True}, "not reachable: ", "make up"),
        ("deploy@198.51.100.7: Permission denied (publickey).", {}, "login as deploy: deploy@198.51", AGAIN),
        ("sudo: a password is required", {}, "sudo of deploy: sudo: a password is required", f"{AGAIN} -K"),
        ("Offending ED25519 key in .known_hosts:3\nHost key for 198.51.100.7 has changed and you have requested strict "
         "checking.\nHost key verification failed.", {}, "host key: another one than before",
         "ssh-keygen -f .known_hosts -R 198.51.100.7"),
        ("Host key verification failed.", {}, "host key: not known", "StrictHostKeyChecking=ask"),
        ("", {"host": "203.0.113.10"}, "203.0.113.10 is the address of an example", "make add-host"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_let_in(said: str, changes: dict[str, Any], text: str, remedy: str) -> None:
    ((found, mended),) = wrong(doctor.judge_login(said, SERVER | changes, HERE)).items()
    assert found.startswith(text) and remedy in mended


def test_this_machines_versions_and_keys() -> None:
    assert wrong(doctor.judge_versions((3, 11, 2), {"ansible": "12.3.0"}, {"ansible": "12.3.0"})) == {}
    found = wrong(doctor.judge_versions((3, 9, 1), {"ansible": "12.2.0"}, {"ansible": "12.3.0"}))
    assert list(found) == ["Python 3.9.1", "ansible 12.2.0, locked is 12.3.0"]
    for mode, locked, in_agent, remedy in (
        (0o100644, False, False, "chmod 600 '/my keys/id'"),
        (0o100600, True, False, "ssh-add '/my keys/id'"),
        (0o100600, True, True, ""),
        (0o100400, False, False, ""),
    ):
        assert doctor.judge_key("/my keys/id", mode, locked, in_agent).remedy == remedy


def test_of_the_keys_of_ssh_one_that_can_be_used_is_enough(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    rsa, ed25519 = tmp_path / ".ssh/id_rsa", tmp_path / ".ssh/id_ed25519"
    assert list(wrong(doctor.look_at_keys([SERVER | {"own_keys": False}]))) == [
        "keys: none in ~/.ssh, none in the agent"
    ]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", rsa], check=True)
    assert wrong(doctor.look_at_keys([SERVER])) == {
        f"key {rsa}: has a passphrase and is not in the agent": f"ssh-add {rsa}"
    }
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ed25519], check=True)
    assert wrong(doctor.look_at_keys([SERVER])) == {}
    ed25519.rename(tmp_path / ".ssh/id_ecdsa")
    rsa.rename(ed25519)
    assert wrong(doctor.look_at_keys([SERVER])) == {}
    # the one that the inventory names has to be usable
    assert len(wrong(doctor.look_at_keys([SERVER | {"key": str(ed25519)}]))) == 1


# Says of two hosts what is asked, and is ssh to them, of which one is down.
STUB = """#!{python}
import json, pathlib, sys
if pathlib.Path(sys.argv[0]).name == "ansible":
    print(json.dumps({{"plays": [{{"tasks": [{{"hosts": {hosts!r}}}]}}]}}))
elif "deploy@198.51.100.8" in sys.argv:
    sys.exit("ssh: connect to host 198.51.100.8 port 22: No route to host")
elif "deploy@198.51.100.7" in sys.argv:
    print({facts!r})
"""


def test_a_server_that_is_down_keeps_it_from_none_of_the_others(tmp_path: pathlib.Path) -> None:
    hosts = {"down": {"msg": SERVER | {"name": "down", "host": "198.51.100.8"}}, "up": {"msg": SERVER | {"name": "up"}}}
    for name in ("ansible", "ssh", "ssh-add"):
        (tmp_path / name).write_text(STUB.format(python=sys.executable, hosts=hosts, facts=FACTS), encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    tools = pathlib.Path(shutil.which("ssh-keygen") or "ssh-keygen").parent
    environment = {"PATH": f"{tmp_path}:{tools}", "HOME": str(tmp_path), "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")}
    command = [sys.executable, str(ROOT / "bin/doctor.py"), "-i", HERE]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1, result.stderr
    down, up = result.stdout.split("\ndown (198.51.100.8)\n")[1].split("\nup (198.51.100.7)\n")
    assert (
        "  WRONG not reachable: ssh: connect to host 198.51.100.8 port 22: No route to host\n        → see that" in down
    )
    assert "  ok    services: firewall, jupyter-screen@analyst, mlflow run\n" in up
    # recorded long ago or yet to come
    assert up.count("WRONG") == 1 and "WRONG clock" in up


@pytest.mark.parametrize("broken", [False, True])
def test_an_inventory_that_has_no_server_yet_or_cannot_be_read(tmp_path: pathlib.Path, broken: bool) -> None:
    shutil.copytree(ROOT / "inventory/onprem", tmp_path / "onprem")
    (tmp_path / "onprem/hosts.yml").write_text("dev: {hosts: {}}\nstaging: {}\nprod: {}\n")
    if broken:
        (tmp_path / "onprem/group_vars/all/zz-mine.yml").write_text("---\nopen_ports: [{port: 80}\nssh_port: 22\n")
    command = [sys.executable, str(ROOT / "bin/doctor.py"), "-i", str(tmp_path / "onprem")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(command, env=environment | {"PATH": path}, capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("This machine\n  ok    Python 3"), result.stderr
    if broken:
        assert result.returncode == 1 and "WRONG settings: " in result.stdout
        assert "zz-mine.yml, line 3: this is not YAML" in result.stdout
    else:
        assert "has no server yet: make add-host VENDOR=onprem NAME=" in result.stdout


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("time abc", "the server's answer cannot be read"),
        ("time 1\nmemory x y", "the server's answer cannot be read"),
        ("time 1\nreboot", "the server's answer cannot be read"),
        ("time " + "9" * 5000, "the server's answer cannot be read"),
        ("time 1\nfailed", "the server's answer cannot be read"),
        ("time 1795860000\nfailed evil\033[8m;x", "sudo journalctl -u 'evil?[8m;x' tells why"),
    ],
)
def test_an_answer_that_no_sound_server_gives(
    says: str, told: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answer").write_text(f"{doctor.BEGIN}\n{says}\n")
    (tmp_path / "ssh").write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    doctor.show("it", doctor.look_at(SERVER, "inventory/x"))
    shown = capsys.readouterr().out
    assert told in shown
    assert "\033" not in shown


def test_an_answer_without_an_end_is_cut_off() -> None:
    answer = doctor.ask(["yes"], "")
    assert 0 < len(answer.stdout) <= 2_100_000
    said = doctor.ask(["sh", "-c", "yes >&2"], "").stderr
    assert 0 < len(said) <= 2_100_000


def test_what_a_server_says_of_its_key_is_no_command() -> None:
    said = "Offending ECDSA key in /x;touch${IFS}/tmp/y;#:1\nHost key for $(id) has changed"
    [_, check] = doctor.judge_login(said, SERVER, "inventory/x")
    assert "ssh-keygen -f '/x;touch${IFS}/tmp/y;#' -R '$(id)'" in check.remedy
