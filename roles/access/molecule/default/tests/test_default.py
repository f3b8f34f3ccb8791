"""Who gets in and what they may do, tried over SSH."""

import json
import pathlib
import socket
import subprocess
import time

INVENTORY = pathlib.Path(__file__).resolve().parents[5] / "molecule/hosts.py"


def test_an_operator_has_sudo(login):
    assert login("deploy", "sudo", "-n", "id", "-un").stdout.strip() == "root"


def test_an_analyst_has_a_shell_and_no_sudo(login):
    assert login("ana", "id", "-un").stdout.strip() == "ana"
    assert login("ana", "sudo", "-n", "true").returncode == 1


def test_an_analyst_cannot_let_others_in(login, make_key, tmp_path):
    other = make_key(tmp_path)
    public = other.with_suffix(".pub").read_text().strip()
    for file in ("authorized_keys", "authorized_keys2"):
        added = login("ana", f"mkdir -p -m 700 .ssh && echo '{public}' > .ssh/{file} && chmod 600 .ssh/{file}")
        assert added.returncode == 0
    assert "Permission denied" in login("ana", "true", key=other).stderr


def test_root_and_whoever_is_not_listed_are_refused(login):
    for user in ("root", "nobody", "somebody"):
        assert "Permission denied" in login(user, "true").stderr


def test_a_tunnel_has_its_port_and_nothing_else(login):
    # nothing listens there: let through by sshd, refused by the kernel
    assert "Connection refused" in login("tina", options=("-W", "127.0.0.1:8888")).stderr
    # localhost is ::1 as well, where any account may listen
    for elsewhere in ("127.0.0.1:5000", "127.0.0.1:22", "localhost:8888", "[::1]:8888", "localhost:5000"):
        assert "administratively prohibited" in login("tina", options=("-W", elsewhere)).stderr
    for command in ((), ("id",), ("/bin/sh", "-c", "id")):
        refused = login("tina", *command)
        assert refused.returncode == 1
        assert "uid=" not in refused.stdout
    assert login("tina", options=("-t", "-t")).returncode != 0
    remote = login("tina", options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22"))
    assert "remote port forwarding failed" in remote.stderr
    # the subsystem sftp is asked for as sftp(1) does it, and answered by the forced command
    assert login("tina", "sftp", options=("-s",)).returncode == 1


def test_socks_reaches_nothing_but_the_port(connection):
    proxy = subprocess.Popen([*connection("tina", "-N", "-D", "127.0.0.1:28080")], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(100):
            try:
                proxied = socket.create_connection(("127.0.0.1", 28080), 5)
                break
            except OSError:
                time.sleep(0.1)
        proxied.sendall(b"\x04\x01\x00\x16\x7f\x00\x00\x01x\x00")
        assert proxied.recv(8)[:2] in (b"", b"\x00\x5b")
        proxied.close()
    finally:
        proxy.terminate()
        _, said = proxy.communicate(timeout=10)
    assert "administratively prohibited" in said


def test_the_report_names_everybody_and_every_key(host, variables):
    report = pathlib.Path(variables["cloud_server_local_key"]).with_name("report.json")
    task = {"ansible.builtin.include_role": {"name": "access", "tasks_from": "report"}}
    play = {"hosts": variables["inventory_hostname"], "become": True, "gather_facts": False, "tasks": [task]}
    report.write_text(json.dumps([play]))
    dropin = "/run/systemd/system/ssh.service.d"
    line = "ExecStart=/usr/sbin/sshd -D -o AuthorizedKeysCommand=/bin/true -o AuthorizedKeysCommandUser=nobody"
    with host.sudo():
        # as EC2 Instance Connect starts it
        host.check_output(f"mkdir {dropin} && printf '[Service]\\nExecStart=\\n{line}\\n' > {dropin}/ec2.conf")
        host.check_output("systemctl daemon-reload")
    output = subprocess.check_output(["ansible-playbook", report, "-i", INVENTORY], text=True)
    with host.sudo():
        host.check_output(f"rm -r {dropin} && systemctl daemon-reload")
    assert "any key that /bin/true prints (AuthorizedKeysCommand)" in output
    fingerprint = subprocess.check_output(
        ["ssh-keygen", "-lf", variables["cloud_server_local_key"]], text=True
    ).split()[1]
    for name, role in (("deploy", "operator"), ("ana", "analyst"), ("tina", "tunnel")):
        assert [name, role] in [line.split() for line in output.splitlines()]
    assert output.count(fingerprint) == 3
