"""Switched-off items leave the system as it was before the role."""

import os

import pytest
import testinfra

INVENTORY = os.path.join(os.path.dirname(__file__), "../../../../../molecule/hosts.py")


@pytest.fixture(scope="module")
def server():
    return testinfra.get_host("ansible://debian12?ansible_inventory=" + INVENTORY)


def test_apt_has_the_distribution_s_origins(server):
    origins = server.check_output("apt-config dump Unattended-Upgrade::Origins-Pattern")
    assert 'label=Debian"' in origins
    assert server.check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot") == ""


def test_no_reboot_is_armed(server):
    assert server.check_output("systemctl list-units --all --no-legend 'linux-baseline*'") == ""
    assert server.run("systemctl list-unit-files --no-legend 'linux-baseline*'").stdout == ""


def test_time_daemon_is_left_alone(server):
    assert server.package("chrony").is_installed
    assert not server.package("systemd-timesyncd").is_installed


def test_kernel_settings_are_not_applied_at_boot(server):
    server.check_output("sysctl -qw net.ipv4.conf.eth0.accept_redirects=1")
    server.run("/usr/lib/systemd/systemd-sysctl")
    assert server.check_output("sysctl -n net.ipv4.conf.eth0.accept_redirects") == "1"


def test_sessions_have_the_distribution_s_limits(server):
    assert server.check_output("systemctl show user-4711.slice --property=MemoryMax --value") == "infinity"
    assert server.check_output("find /etc/systemd/system -path '*/user*.slice.d/*'") == ""


def test_the_disk_s_reserve_is_root_s_alone(server):
    assert not server.file("/usr/local/sbin/linux-baseline-reserve").exists
    assert server.run("test -e /etc/systemd/system/sysinit.target.wants/linux-baseline-reserve.service").rc == 1


def test_journal_has_its_own_limit(server):
    said = server.check_output("journalctl --unit=systemd-journald --output=cat").splitlines()
    limits = [line for line in said if line.startswith("System Journal (/var/log/journal/")]
    assert "max 500" in limits[-2]
    assert "max 500" not in limits[-1]
