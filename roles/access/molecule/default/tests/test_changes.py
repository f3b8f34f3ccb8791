"""The list of people changes as its owner changes it. One server is enough; the tests run in the order written."""

import json
import os
import pathlib
import subprocess
import time

import pytest
import testinfra
import yaml

ROLE = pathlib.Path(__file__).resolve().parents[3]
INVENTORY = ROLE.parents[1] / "molecule/hosts.py"
DROPINS = "/etc/systemd/system/ssh.service.d"
EC2 = f"""mkdir -p {DROPINS} && printf '[Service]\nExecStart=\nExecStart=%s\n' \\
  '/usr/sbin/sshd -D -o "AuthorizedKeysCommand /bin/true %%u" $SSHD_OPTS' \\
  > {DROPINS}/ec2.conf && systemctl daemon-reload"""
NO_EC2 = f"rm -r {DROPINS} && systemctl daemon-reload"
KEY = {"keys": "id_ed25519.pub"}
(CONVERGE,) = yaml.safe_load((ROLE / "molecule/default/converge.yml").read_text())
# deploy, ana, tina, and two accounts with one command
FIRST = CONVERGE["vars"]["first_people"]
GUESTS = [{"name": "carl", "role": "analyst", **KEY}, {"name": "bob", "role": "operator", **KEY}]


def converge(people, *arguments, code=0):
    """Runs the role with another list of people, asserts how it ends, and returns what it said on one line."""
    command = ["ansible-playbook", ROLE / "molecule/default/converge.yml", "-i", INVENTORY,
               "--limit", "debian13", "-e", json.dumps({"people": people}), *arguments]  # fmt: skip
    environment = {**os.environ, "MOLECULE_LOGIN_USER": "root"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == code, result.stdout + result.stderr
    return " ".join((result.stdout + result.stderr).split())


def named(people):
    """Arguments of a run that may remove these people."""
    return "-e", json.dumps({"access_remove": [person["name"] for person in people]})


@pytest.fixture(scope="module")
def host():
    # molecule names all hosts, and what it names wins over testinfra_hosts
    return testinfra.get_host(f"ansible://debian13?ansible_inventory={INVENTORY}")


@pytest.fixture
def nothing_armed(host):
    yield
    with host.sudo():
        assert host.check_output("ls /etc/commit-confirmed") == ""
    assert host.check_output("systemctl list-timers --all --no-legend 'commit-confirmed-*'") == ""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Twenty people, each with a folder of three keys."""
    people = []
    for number in range(20):
        folder = tmp_path_factory.mktemp(f"p{number}-")
        for name in "abc":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        people.append({"name": f"p{number}", "role": "analyst", "keys": str(folder)})
    return people


def test_twenty_people_with_three_keys_in_one_run(login, variables, crowd, nothing_armed):
    people = [*FIRST, *GUESTS, *crowd]
    # what it prints would be read as the first port, where nothing listens
    login("deploy", "sed -i '1i echo Welcome; echo 0' .bashrc")
    converge(people)
    for person in (crowd[0], crowd[19]):
        for name in "abc":
            assert login(person["name"], "id", "-un", key=f"{person['keys']}/{name}").stdout.strip() == person["name"]
    assert login("bob", "sudo", "-n", "id", "-u").stdout.strip() == "0"
    assert "changed=0" in converge(people, "-e", json.dumps({"access_ports": [1, variables["ansible_port"]]}))
    login("deploy", "sed -i 1d .bashrc")


def test_check_mode_tells_and_changes_nothing(login, crowd, nothing_armed):
    output = converge([*FIRST, {"name": "eve", "role": "analyst", **KEY}], *named(crowd), "--check", "--diff")
    assert "useradd" in output
    assert "changed=0" not in output
    assert "Permission denied" in login("eve", "true").stderr
    assert login("p7", "true", key=f"{crowd[7]['keys']}/a").returncode == 0


def test_who_is_taken_out_is_out_at_once(connection, login, host, crowd, nothing_armed):
    assert login("ana", "touch kept").returncode == 0
    with host.sudo():
        # as another role would grant it
        host.check_output("groupadd --force project && usermod --append --groups project ana")
    sessions = [
        subprocess.Popen(
            [*connection(user), "echo in; exec sleep 300"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        for user in ("ana", "carl", "bob", "deploy")
    ]
    for session in sessions:
        assert session.stdout.readline() == b"in\n"
    # ana and twenty more are removed, carl is absent, bob is no longer an operator
    people = [FIRST[0], FIRST[2], {"name": "carl", "state": "absent"}, {"name": "bob", "role": "analyst", **KEY}]
    output = converge(people, code=2)
    assert "take access to debian13 away from p0 (analyst), p1 (analyst)" in output
    assert "{name: p19, state: absent}" in output
    assert login("p7", "true", key=f"{crowd[7]['keys']}/a").returncode == 0
    output = converge(people, *named(crowd))
    assert "debian13: access is taken away from ana (analyst), carl (analyst), p0 (analyst)" in output
    *ended, kept = sessions
    assert [session.wait(timeout=10) for session in ended] == [255] * 3
    assert kept.poll() is None
    kept.terminate()
    assert "Permission denied" in login("p7", "true", key=f"{crowd[7]['keys']}/a").stderr
    with host.sudo():
        for name in ("ana", "carl", "p0", "p19"):
            assert "Permission denied" in login(name, "true").stderr
            assert host.check_output("passwd --status %s", name).split()[1] == "L"
            assert not host.file(f"/etc/ssh/authorized_keys.d/{name}").exists
        assert host.file("/home/ana/kept").exists
        assert host.check_output("id --name --groups ana") == "ana"
    assert login("bob", "id", "-un").stdout.strip() == "bob"
    assert login("bob", "sudo", "-n", "true").returncode == 1


def test_the_operator_is_renamed_in_one_run(login):
    olga = {"name": "olga", "role": "operator", **KEY}
    output = converge([olga, {**FIRST[0], "role": "tunnel", "ports": [8888]}, FIRST[2]], "-e", "access_operator=olga")
    assert "failed=0" in output
    assert login("olga", "sudo", "-n", "id", "-u").stdout.strip() == "0"
    # the old login is a tunnel now
    assert login("deploy", "id").returncode == 1


def test_who_comes_back_finds_everything(login, nothing_armed):
    converge(FIRST)
    assert login("ana", "ls kept").returncode == 0


def test_an_account_with_one_command_comes_changes_and_goes(connection, login, host, nothing_armed):
    spare = {"name": "spare", "role": "command", **KEY, "command": "echo in; exec cat"}
    with host.sudo():
        # somebody's old account, with a password and a way to run more at login
        host.check_output("useradd --create-home --shell /bin/bash --password '$6$salt$hash' old")
        host.check_output(
            "echo 'echo out' > /home/old/.bashrc && mkdir /home/old/.ssh && cp /home/old/.bashrc /home/old/.ssh/rc"
        )
    converge([*FIRST, spare, {**spare, "name": "old"}])
    assert login("old", "id").stdout == "in\n"
    with host.sudo():
        assert host.check_output("getent shadow old").split(":")[1] == "*"
        assert host.check_output("getent passwd old").endswith(":/bin/sh")
    sessions = [
        subprocess.Popen([*connection(name), "id"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("spare", "old")
    ]
    for session in sessions:
        assert session.stdout.readline() == b"in\n"
    tunnel = {"name": "spare", "role": "tunnel", **KEY, "ports": [8888]}
    converge([*FIRST, tunnel, {"name": "old", "state": "absent"}])
    assert [session.wait(timeout=10) for session in sessions] == [255] * 2
    assert "Permission denied" in login("old").stderr
    assert login("spare").returncode == 1
    with host.sudo():
        assert host.check_output("passwd --status old").split()[1] == "L"
        assert host.check_output("id -nG spare") == "spare access-tunnel"
    # a command that always ends well does not pass for the operator's way in
    converge([*FIRST, {**spare, "command": "true"}])
    assert login("spare", "sudo -n true").returncode == 0
    assert "failed=0" in converge([*FIRST, {"name": "spare", "role": "operator", **KEY}], "-e", "access_operator=spare")
    assert login("spare", "sudo", "-n", "id", "-u").stdout.strip() == "0"
    converge([*FIRST, {"name": "spare", "state": "absent"}])
    assert "Permission denied" in login("spare", "true").stderr


@pytest.mark.parametrize(
    ("people", "said"),
    [
        (FIRST[1:], "does not have deploy with role operator"),
        ([{**FIRST[0], "role": "analyst"}], "does not have deploy with role operator"),
        ([{**FIRST[0], "state": "absent"}, {"name": "bob", "role": "operator", **KEY}], "its operators are: bob."),
        ([*FIRST, {"name": "www-data", "role": "analyst", **KEY}], "www-data is an account that the system uses"),
        ([*FIRST, {"name": "sudo", "role": "analyst", **KEY}], "sudo is the name of a group that the system uses"),
    ],
)
def test_a_list_that_cannot_be_is_refused(people, said, login):
    assert said in converge(people, code=2)
    assert login("deploy", "sudo", "-n", "true").returncode == 0


@pytest.mark.parametrize(
    ("lay", "undo", "said"),
    [
        (
            EC2,
            NO_EC2,
            "ssh -p {port} deploy@127.0.0.1 'sudo apt-get purge -y ec2-instance-connect && sudo systemctl restart ssh'",
        ),
        (
            "echo '#### Google OS Login control. Do not edit this section. ####' >> /etc/ssh/sshd_config",
            "sed -i '$d' /etc/ssh/sshd_config",
            "--metadata enable-oslogin=FALSE",
        ),
    ],
)
def test_a_vendors_own_way_in_is_refused(host, variables, lay, undo, said, nothing_armed):
    with host.sudo():
        host.check_output(lay)
        try:
            assert said.format(port=variables["ansible_port"]) in converge(FIRST, code=2)
        finally:
            host.check_output(undo)


def test_a_key_that_lets_nobody_in_is_taken_back(login, host, make_key, tmp_path, nothing_armed):
    state = "cat /etc/ssh/authorized_keys.d/* /etc/ssh/sshd_config.d/00-access.conf"
    before = host.check_output(state)
    output = converge([{**FIRST[0], "keys": f"{make_key(tmp_path)}.pub"}, FIRST[1], *FIRST[3:]], code=2)
    assert "access of debian13 is as it was before" in output
    assert "Permission denied (publickey" in output
    assert host.check_output(state) == before
    # sshd blocks an address for a while after many failures
    deadline = time.monotonic() + 90
    while login("deploy", "sudo", "-n", "true").returncode and time.monotonic() < deadline:
        time.sleep(3)
    assert login("deploy", "sudo", "-n", "true").returncode == 0
    assert login("tina", options=("-W", "127.0.0.1:22")).returncode == 255
