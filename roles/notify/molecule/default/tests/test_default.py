"""What arrives at the other server. The timer is stopped: each test looks when it wants to."""

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest
from testinfra.host import Host

ROOT = pathlib.Path(__file__).resolve().parents[5]
UNIT = "server-notify.service"


def ask(host: Host, path: str = "/") -> list[dict[str, Any]]:
    """What the receiver got since it was asked last."""
    code = f"import urllib.request as r; print(r.urlopen('http://receiver.test:8080{path}').read().decode())"
    said: list[dict[str, Any]] = json.loads(host.check_output("python3 -c %s", code))
    return said


def look(host: Host, succeeds: bool = True) -> list[tuple[str, str]]:
    """Look once, and return title and lines of what arrived, which must be the same by both ways."""
    # more than five starts in ten seconds would be refused
    result = host.run(f"systemctl reset-failed {UNIT}; systemctl start {UNIT}")
    assert (result.rc == 0) == succeeds, host.run(f"journalctl -u {UNIT} --output=cat -n 20").stdout
    got = ask(host)
    webhook = [(each["body"]["title"], each["body"]["lines"]) for each in got if each["way"] == "webhook"]
    assert [(each["title"], each["message"]) for each in got if each["way"] == "mail"] == webhook
    return webhook


@pytest.fixture
def quiet(host: Host) -> None:
    """Nothing is wrong, and nothing was told."""
    host.check_output("systemctl reset-failed; rm -rf /srv/small/* /var/lib/server-notify/*; : > /srv/says")
    ask(host, "/up")
    ask(host)


def name(host: Host) -> str:
    return f"debian{str(host.system_info.release)[:2]}"


def test_it_looks_regularly(host: Host) -> None:
    """The first test, which also stops the timer."""
    for state in ("is-active", "is-enabled"):
        assert host.check_output(f"systemctl {state} server-notify.timer") in ("active", "enabled")
    host.check_output(f"systemctl stop server-notify.timer {UNIT}")


@pytest.mark.usefixtures("quiet")
def test_a_failed_unit_is_told_once_and_so_is_its_end(host: Host) -> None:
    assert look(host) == []
    host.run("systemd-run --unit=broken --wait false")
    assert look(host) == [(f"{name(host)}: 1 problem", "broken.service failed. Why: sudo journalctl -u broken.service")]
    assert look(host) == []
    host.check_output("systemctl reset-failed broken.service")
    [(title, message)] = look(host)
    assert title == f"{name(host)}: all is well again" and message.startswith("Well again: broken.service failed")
    assert look(host) == []


@pytest.mark.usefixtures("quiet")
def test_what_comes_back_at_once_is_not_told_at_once(host: Host) -> None:
    for says, arrives in (("red", 1), ("", 1), ("red", 0), ("", 0), ("red", 0)):
        host.check_output("echo %s > /srv/says", says)
        assert len(look(host)) == arrives, says


@pytest.mark.usefixtures("quiet")
def test_a_receiver_that_was_down_gets_it_later(host: Host) -> None:
    ask(host, "/down")
    host.check_output("echo 'late: 30 hours old' > /srv/says")
    assert look(host, succeeds=False) == []
    host.check_output("echo 'late: 31 hours old' > /srv/says")
    ask(host, "/up")
    assert look(host) == [(f"{name(host)}: 1 problem", "backup: late: 31 hours old")]
    assert look(host) == []


@pytest.mark.usefixtures("quiet")
def test_a_full_disk_and_a_failing_command_come_in_one_message(host: Host) -> None:
    host.run("head -c 2M /dev/zero > /srv/small/file; rm /srv/says")
    [(title, message)] = look(host)
    assert title == f"{name(host)}: 2 problems"
    command, disk = message.splitlines()
    assert command.startswith("backup: ended with 1: cat: /srv/says: No such file")
    assert disk.startswith("The disk at /srv/small is 100 % full")
    assert look(host) == []


def test_each_way_uses_its_settings(host: Host) -> None:
    ask(host)
    said = host.check_output("server-notify test")
    webhook, mail = ask(host)
    assert said.splitlines() == [
        "webhook: delivered: 200 OK",
        "mail: delivered: receiver.test took the mail for ana@example.org",
    ]
    assert (webhook["path"], webhook["token"]) == ("/hooks/very-secret", "also-secret")
    secure = name(host) == "debian12"
    assert (mail["to"], mail["tls"], mail["login"]) == (["ana@example.org"], secure, secure)


def test_secrets_are_root_s_and_nowhere_else(host: Host) -> None:
    settings = host.file("/etc/server-notify/settings.json")
    assert (settings.mode, settings.user) == (0o600, "root") and "very-secret" in settings.content_string
    host.run("runuser -u nobody -- server-notify show").stderr.index("is root's: sudo server-notify")
    said = host.check_output(
        f"journalctl -u {UNIT} --output=cat; systemctl show {UNIT}; cat /var/lib/server-notify/state.json"
    )
    assert "told: " in said
    assert not [secret for secret in ("very-secret", "also-secret", "pa55word") if secret in said]


def test_the_unit_is_confined(host: Host) -> None:
    said = host.check_output(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    exposure = float(said.split(": ")[1].split()[0])
    assert exposure <= 4, said


def play(host: Host, *arguments: str) -> str:
    """What a playbook says that fails here."""
    command = ["ansible-playbook", "-i", str(ROOT / "molecule/hosts.py"), "--limit", name(host), *arguments]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "fast"}
    environment |= {"ANSIBLE_STDOUT_CALLBACK": "default", "COLUMNS": "500"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stdout
    return " ".join(result.stdout.split())


def test_the_playbook_says_what_the_receivers_answered_and_what_mends_it(host: Host) -> None:
    if name(host) != "debian12":
        pytest.skip("debian12 logs in")
    host.check_output("sed -i s/pa55word/wrong/ /etc/server-notify/settings.json")
    said = play(host, "playbooks/notify_test.yml")
    host.check_output("sed -i s/wrong/pa55word/ /etc/server-notify/settings.json")
    assert "webhook: delivered: 200 OK" in said, said
    assert "mail: NOT DELIVERED: SMTPAuthenticationError" in said, said
    assert (
        "mend user and password in notify_smtp. Then bring the settings to debian12: ansible-playbook site.yml" in said
    )


def test_nothing_is_left_when_it_is_switched_off(host: Host) -> None:
    """The last test."""
    if name(host) != "debian13":
        pytest.skip("one server is enough")
    off = ("-e", "notify_webhook=", "-e", "notify_mail=")
    said = play(host, *off, "roles/notify/molecule/default/converge.yml", "playbooks/notify_test.yml")
    assert "tells nobody: set notify_webhook or notify_mail in" in said
    left = "ls -d /usr/local/sbin/server-n* /etc/server-n* /var/lib/server-n* /etc/systemd/system/server-n*"
    assert host.run(left).stdout == ""
    assert "server-notify" not in host.check_output("systemctl list-units --all --plain --no-legend")
