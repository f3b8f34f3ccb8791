"""Other values than the defaults, on a server that had the defaults before, and chrony."""

import os
import subprocess

import pytest
import testinfra

INVENTORY = os.path.join(os.path.dirname(__file__), "../../../../../molecule/hosts.py")


@pytest.fixture(scope="module")
def server():
    return testinfra.get_host("ansible://debian13?ansible_inventory=" + INVENTORY)


def test_origins(server):
    said = server.check_output("unattended-upgrade --dry-run --debug 2>&1").splitlines()
    assert "Allowed origins are: origin=Debian,codename=trixie" in said


def test_packages_of_the_list(server):
    assert server.package("tree").is_installed


def test_the_time_of_the_reboot_is_in_force_without_a_restart(server):
    timer = server.check_output(
        "systemctl show linux-baseline-reboot.timer --property=ActiveState,NeedDaemonReload,TimersCalendar"
    )
    assert "OnCalendar=*-*-* 22:15:00 Europe/Berlin" in timer
    assert "ActiveState=active" in timer
    assert "NeedDaemonReload=no" in timer


def test_no_reboot_while_the_server_works(server):
    """Nobody is logged in, but no load is below 0, and no number of days ends that."""
    container = server.ansible.get_variables()["cloud_server_name"]

    def execute(*command):
        return subprocess.run(
            ["docker", "exec", container, *command], capture_output=True, text=True, timeout=60
        ).stdout

    execute("touch", "/run/reboot-required")
    execute("touch", "-d", "400 days ago", "/run/linux-baseline-reboot-due")
    execute("pkill", "-f", "^sshd(-session)?: root")
    execute("systemctl", "start", "linux-baseline-reboot")
    result = execute("systemctl", "show", "linux-baseline-reboot", "--property=Result")
    said = execute("journalctl", "--unit=linux-baseline-reboot", "--output=cat")
    execute("rm", "/run/reboot-required", "/run/linux-baseline-reboot-due")
    assert result.strip() == "Result=exec-condition"
    assert "load average of 15 minutes: " in said


def test_the_time_daemon_that_was_there_is_kept_and_started_at_boot(server):
    assert server.service("chrony").is_enabled
    assert not server.package("systemd-timesyncd").is_installed


def test_kernel_settings(server):
    assert server.check_output("sysctl -n net.ipv4.ip_local_port_range").split() == ["20000", "60999"]
    assert server.check_output("sysctl -n net.ipv4.conf.eth0.accept_redirects") == "0"
    # left out by null
    server.check_output("sysctl -qw net.ipv6.conf.eth0.accept_redirects=1")
    server.run("/usr/lib/systemd/systemd-sysctl")
    assert server.check_output("sysctl -n net.ipv6.conf.eth0.accept_redirects") == "1"


def test_routing_is_left_to_others(server):
    assert server.check_output("sysctl -n net.ipv4.ip_forward") == "1"


def test_journal_limit(server):
    said = server.check_output("journalctl --unit=systemd-journald --output=cat").splitlines()
    last = [line for line in said if line.startswith("System Journal (/var/log/journal/")][-1]
    assert "max 200" in last
