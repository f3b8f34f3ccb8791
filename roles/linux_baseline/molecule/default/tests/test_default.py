"""What apt, the kernel, journald and systemd do now."""

import subprocess
import time

# Packages of version 1 are installed; version 2 of each is offered, by repositories that are named like Debian's
# security updates, its other updates, and those of Ubuntu Pro.
REPOSITORIES = r"""
set -eu
. /etc/os-release
rm -f /etc/apt/sources.list.d/test.list
repository() {  # folder, label, codename, origin, suite
    cd "$(mktemp -d)"
    mkdir -p package/DEBIAN /srv/$1
    for version in 1 2; do
        printf '%s\n' "Package: from-$1" "Version: $version" "Architecture: all" \
            "Maintainer: nobody <nobody@localhost>" "Description: test" > package/DEBIAN/control
        dpkg-deb --build package /srv/$1/$version.deb >/dev/null
    done
    dpkg --install /srv/$1/1.deb >/dev/null
    cd /srv/$1
    { cat "$OLDPWD/package/DEBIAN/control"; echo "Filename: ./2.deb"; echo "Size: $(stat -c %s 2.deb)"
      echo "SHA256: $(sha256sum 2.deb | cut -d' ' -f1)"; } > Packages
    { printf '%s\n' "Origin: ${4:-Debian}" "Label: $2" "Suite: ${5:-test}" "Codename: $3" \
          "Date: $(LC_ALL=C date -Ru)" "SHA256:"
      echo " $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) Packages"; } > Release
    echo "deb [trusted=yes] file:/srv/$1 ./" >> /etc/apt/sources.list.d/test.list
}
repository security Debian-Security $VERSION_CODENAME-security
repository elsewhere Debian $VERSION_CODENAME
repository apps UbuntuESMApps $VERSION_CODENAME UbuntuESMApps $VERSION_CODENAME-apps-security
repository infra UbuntuESM $VERSION_CODENAME UbuntuESM $VERSION_CODENAME-infra-security
repository updates UbuntuESMApps $VERSION_CODENAME UbuntuESMApps $VERSION_CODENAME-apps-updates
apt-get update -qq -o APT::Get::List-Cleanup=0 -o Dir::Etc::SourceParts=- \
    -o Dir::Etc::SourceList=/etc/apt/sources.list.d/test.list
"""

# Two units whose program was replaced while they run.
OUTDATED = r"""
set -eu
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends needrestart >/dev/null
cp /bin/sleep /usr/local/bin/program
for unit in kernels@ana other; do
    printf '[Service]\nType=exec\nExecStart=/usr/local/bin/program 1000\n' > /run/systemd/system/$unit.service
done
systemctl daemon-reload
systemctl start kernels@ana other
rm /usr/local/bin/program
cp /bin/sleep /usr/local/bin/program
"""


def properties(host, unit, *names):
    lines = host.check_output("systemctl show %s --property=%s", unit, ",".join(names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_what_people_type_is_there(host):
    host.check_output("git --version && curl --version && rsync --version && command -v less nano")


def test_only_security_updates_are_installed_by_themselves(host):
    host.check_output("sh -c %s", REPOSITORIES)
    said = host.check_output("unattended-upgrade --dry-run --debug 2>&1")
    chosen = next(line for line in said.splitlines() if line.startswith("Packages that will be upgraded:"))
    assert "from-security" in chosen
    assert "from-elsewhere" not in chosen
    assert "from-apps" in chosen and "from-infra" in chosen
    assert "from-updates" not in chosen


def test_they_are_looked_for_and_installed_every_day(host):
    periodic = host.check_output("apt-config dump APT::Periodic").splitlines()
    assert 'APT::Periodic::Update-Package-Lists "1";' in periodic
    assert 'APT::Periodic::Unattended-Upgrade "1";' in periodic
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer", "linux-baseline-reboot.timer"):
        assert properties(host, timer, "ActiveState", "UnitFileState") == {
            "ActiveState": "active",
            "UnitFileState": "enabled",
        }


def test_needrestart_leaves_out_what_loses_work(host):
    host.check_output("sh -c %s", OUTDATED)
    units = ("kernels@ana", "other")
    before = [properties(host, unit, "MainPID") for unit in units]
    said = host.check_output("needrestart -l -r a 2>&1")
    after = [properties(host, unit, "MainPID") for unit in units]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False), said


def test_one_daemon_keeps_the_time(host):
    # it is not started in a container, whose clock is its host's
    assert host.service("systemd-timesyncd").is_enabled
    assert "yes" in host.check_output("timedatectl show --property=CanNTP")


def test_kernel_refuses_redirects_on_every_interface(host):
    for family in ("ipv4", "ipv6"):
        values = host.check_output(f"sysctl -n --pattern '^net.{family}.conf.*.accept_redirects$' -a").split()
        assert len(values) >= 4  # all, default, lo, eth0
        assert set(values) == {"0"}


def test_settings_apply_to_later_interfaces_and_at_boot(host):
    host.check_output("ip link add later type veth peer name later2")
    assert host.check_output("sysctl -n net.ipv4.conf.later.accept_redirects") == "0"
    host.check_output("ip link delete later")
    host.check_output("sysctl -qw net.ipv4.conf.eth0.accept_redirects=1")
    host.run("/usr/lib/systemd/systemd-sysctl")
    assert host.check_output("sysctl -n net.ipv4.conf.eth0.accept_redirects") == "0"


def test_journal_is_kept_and_limited(host):
    said = host.check_output("journalctl --unit=systemd-journald --output=cat").splitlines()
    last = [line for line in said if line.startswith("System Journal (/var/log/journal/")][-1]
    assert "max 500" in last


def test_no_reboot_without_need(host):
    host.check_output("systemctl start linux-baseline-reboot")
    assert properties(host, "linux-baseline-reboot", "ConditionResult") == {"ConditionResult": "no"}


def test_no_reboot_while_somebody_is_logged_in(host):
    # this test itself is, over SSH and without a terminal
    host.check_output("touch /run/reboot-required")
    host.check_output("systemctl start linux-baseline-reboot")
    assert properties(host, "linux-baseline-reboot", "Result") == {"Result": "exec-condition"}
    assert "root@notty" in host.check_output("journalctl --unit=linux-baseline-reboot --output=cat")


def test_nobody_puts_a_reboot_off_for_ever(host):
    """Somebody is logged in: this test. It is stopped within the minutes that everybody is warned."""
    host.check_output("touch /run/reboot-required")
    host.check_output("touch -d '8 days ago' /run/linux-baseline-reboot-due")
    host.check_output("systemctl start --no-block linux-baseline-reboot")
    for _ in range(50):
        said = host.check_output("journalctl --unit=linux-baseline-reboot --output=cat")
        if "A reboot has been due for 7 days. It comes in 10 minutes." in said:
            break
        time.sleep(0.2)
    state = properties(host, "linux-baseline-reboot", "ActiveState")
    host.check_output("systemctl stop linux-baseline-reboot; rm /run/linux-baseline-reboot-due")
    assert "It comes in 10 minutes." in said
    assert state == {"ActiveState": "activating"}


def test_sessions_are_limited(host):
    """Limits of each person, and of all together; a container does not enforce them."""
    total = int(host.check_output("awk '/^MemTotal/ { printf \"%.0f\", $2 * 1024 }' /proc/meminfo"))
    for unit, share in (("user-4711.slice", 0.7), ("user.slice", 0.8)):
        limit = int(properties(host, unit, "MemoryMax")["MemoryMax"])
        assert abs(limit / total - share) < 0.02
    assert properties(host, "user-4711.slice", "TasksMax") == {"TasksMax": "4096"}
    # root, and daemon as the play names it
    for uid in (0, 1):
        limits = properties(host, f"user-{uid}.slice", "MemoryMax", "TasksMax")
        assert limits == {"MemoryMax": "infinity", "TasksMax": "4096"}


def test_the_disk_s_reserve_is_made_at_boot(host):
    """A container's own file system has none: the unit says so and ends well."""
    assert host.group("disk-reserve").exists
    assert properties(host, "linux-baseline-reserve", "UnitFileState") == {"UnitFileState": "enabled"}
    host.check_output("systemctl start linux-baseline-reserve")
    assert "/: overlay reserves no blocks: no reserve" in host.check_output(
        "journalctl --unit=linux-baseline-reserve --output=cat"
    )


def test_reboot_when_needed_and_idle(host):
    """The last test: in a container a reboot is its end."""
    container = host.ansible.get_variables()["cloud_server_name"]
    host.check_output("touch /run/reboot-required")

    def docker(*command):
        return subprocess.run(["docker", *command], capture_output=True, text=True, timeout=60).stdout.strip()

    docker("exec", container, "pkill", "-f", "^sshd(-session)?: root")
    docker("exec", container, "systemctl", "start", "linux-baseline-reboot")
    for _ in range(100):
        running = docker("inspect", "--format", "{{.State.Running}}", container)
        if running == "false":
            break
        time.sleep(0.2)
    assert running == "false"
