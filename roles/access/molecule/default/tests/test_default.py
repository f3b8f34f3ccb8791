"""Logins and their rights, tried over SSH."""

import contextlib
import json
import os
import pathlib
import shlex
import socket
import subprocess
import time

import pytest

INVENTORY = pathlib.Path(__file__).resolve().parents[5] / "molecule/hosts.py"
# Says who serves, on a free port of either loopback and on a socket, as the server of an editor listens.
SERVER = """
import os, selectors, socket
path = os.path.expanduser("~/forward.sock")
if os.path.exists(path): os.unlink(path)
one = socket.create_server(("127.0.0.1", 0))
two = socket.create_server(("::1", 0), family=socket.AF_INET6)
three = socket.socket(socket.AF_UNIX)
three.bind(path)
three.listen()
poll = selectors.DefaultSelector()
for listener in (one, two, three): poll.register(listener, selectors.EVENT_READ)
print(one.getsockname()[1], two.getsockname()[1], path, flush=True)
while True:
    for key, _ in poll.select():
        with key.fileobj.accept()[0] as client: client.sendall(f"served by {os.getuid()}\\n".encode())
"""


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


def test_an_account_runs_its_one_command_whatever_is_asked_for(login, connection):
    for asked in ((), ("id",), ("sudo", "-n", "true"), ("/bin/sh", "-c", "id")):
        ran = login("copies", *asked)
        expected = ["it's  #1", "/home/copies", "/bin/sh", " ".join(asked), "no agent", "no X", "not a tty", ""]
        assert (ran.returncode, ran.stdout.split("|")) == (0, expected), ran.stderr
    for terminal in login("copies", options=("-tt",)), login("nas", options=("-tt",)):
        assert "PTY allocation request failed" in terminal.stderr
    # asked for as a subsystem, it is the command all the same
    assert login("copies", "sftp", options=("-s",)).stdout.startswith("it's  #1|/home/copies|/bin/sh|")


def test_an_account_with_one_command_forwards_nothing(login, connection, tmp_path, monkeypatch):
    agent = os.path.relpath(tmp_path / "agent")
    for user in ("copies", "nas"):
        for there in ("127.0.0.1:22", "[::1]:22", "localhost:8888"):
            assert "administratively prohibited" in login(user, options=("-W", there)).stderr
        for there in ("5678:127.0.0.1:22", "/tmp/there:127.0.0.1:22"):
            remote = login(user, options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", there))
            assert "remote port forwarding failed" in remote.stderr
        local = os.path.relpath(tmp_path / user)
        with running([*connection(user, "-N", "-L", f"{local}:/run/dbus/system_bus_socket")]):
            assert reached(local) == ""
    # ssh asks for its forwarding only where it has an agent itself
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    with running(["ssh-agent", "-D", "-a", agent]):
        deadline = time.monotonic() + 20
        while not os.path.exists(agent):
            assert time.monotonic() < deadline, "ssh-agent does not listen"
            time.sleep(0.1)
        # the analyst's shows that it would be forwarded
        agents = [login(user, "echo $SSH_AUTH_SOCK", options=("-A",)) for user in ("ana", "copies")]
    assert "/agent." in agents[0].stdout
    assert "|no agent|" in agents[1].stdout


def test_internal_sftp_is_a_command_too_and_the_only_one_that_answers_sftp(login, connection, tmp_path):
    (tmp_path / "sent").write_text("a copy")

    def sftp(user, batch):
        through = shlex.join([*connection(user, "-s"), "sftp"])
        return subprocess.run(
            ["sftp", "-b", "-", "-D", through], input=batch, capture_output=True, text=True, timeout=30
        )

    done = sftp("nas", f"put {tmp_path}/sent kept\nget kept {tmp_path}/back\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_text() == "a copy"
    for asked in ((), ("id",)):
        refused = login("nas", *asked)
        assert (refused.returncode, "uid=" in refused.stdout) == (1, False)
        assert "This service allows sftp connections only" in refused.stdout + refused.stderr
    assert sftp("copies", f"put {tmp_path}/sent kept\n").returncode != 0


def test_an_account_with_one_command_has_no_password_and_no_sudo(host):
    with host.sudo():
        for name, command in (("nas", "internal-sftp"), ("copies", None)):
            asked = host.check_output("sshd -T -C user=%s,host=localhost,addr=127.0.0.1", name).splitlines()
            assert {"authenticationmethods publickey", "disableforwarding yes", "permittty no", "permittunnel no",
                    "permituserrc no", "allowagentforwarding no", "x11forwarding no"} <= set(asked)  # fmt: skip
            (forced,) = [line for line in asked if line.startswith("forcecommand ")]
            assert forced == f"forcecommand {command}" if command else forced.startswith("forcecommand printf '%s|' ")
            assert host.check_output("getent shadow %s", name).split(":")[1] == "*"
            assert host.check_output("getent passwd %s", name).endswith(":/bin/sh")
            assert "not allowed to run sudo" in host.run("LC_ALL=C sudo -n -l -U %s", name).stdout
            assert host.check_output("id -nG %s", name) == f"{name} access-command"


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
        # ssh of Debian 12 misses a SIGTERM that comes as it begins to wait
        proxy.kill()
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
    assert "nas              command, runs only: internal-sftp\n" in output
    assert "copies           command, runs only: printf '%s|' \"it's" in output
    assert output.count(fingerprint) == 5


@contextlib.contextmanager
def running(command):
    """A process that is ended afterwards, whatever happens."""
    # ssh makes a standard error that it shares with others non-blocking
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def editor(connection):
    """The server of an editor that ana runs: its two ports and its socket."""
    with running([*connection("ana"), "python3 -"]) as process:
        process.stdin.write(SERVER)
        process.stdin.close()
        process.stdin = None
        first, second, path = process.stdout.readline().split()
        yield int(first), int(second), path


def reached(address):
    """What the server says behind a local socket; empty where ssh was refused."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
            client.settimeout(10)
            try:
                client.connect(address)
            except (ConnectionRefusedError, FileNotFoundError):
                assert time.monotonic() < deadline, "ssh does not listen"
                time.sleep(0.1)
                continue
            with contextlib.suppress(ConnectionResetError):
                return client.recv(100).decode()
            return ""


def test_people_with_a_shell_forward_to_the_loopback_alone(login, editor):
    first, second, _ = editor
    for user in ("ana", "deploy"):
        for there in (f"127.0.0.1:{first}", f"[::1]:{second}", f"localhost:{first}"):
            assert login(user, options=("-W", there)).stdout.startswith("served by "), (user, there)
    for user, elsewhere in [("deploy", "192.0.2.1:22"), ("ana", "192.0.2.1:22"), ("ana", "0.0.0.0:22"),
                            ("ana", "[::]:22"), ("ana", "debian.org:80")]:  # fmt: skip
        assert "administratively prohibited" in login(user, options=("-W", elsewhere)).stderr, (user, elsewhere)
    for there in (f"127.0.0.1:{first}", f"[::1]:{second}", f"localhost:{first}"):
        assert "administratively prohibited" in login("tina", options=("-W", there)).stderr


@pytest.mark.parametrize(("kind", "name"), [(1, b"127.0.0.1"), (3, b"127.0.0.1"), (3, b"localhost")])
def test_an_editor_goes_through_a_proxy_to_the_port_it_found(connection, editor, free_port, kind, name):
    """As VS Code does it: ssh -D, then SOCKS 5 (RFC 1928) to the address or by its name."""
    address = socket.inet_aton(name.decode()) if kind == 1 else bytes([len(name)]) + name
    with running([*connection("ana", "-N", "-D", f"127.0.0.1:{free_port}")]):
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                proxied = socket.create_connection(("127.0.0.1", free_port), 10)
                break
            assert time.monotonic() < deadline, "ssh does not listen"
            time.sleep(0.1)
        with proxied:
            proxied.sendall(b"\x05\x01\x00")
            assert proxied.recv(2) == b"\x05\x00"
            proxied.sendall(b"\x05\x01\x00" + bytes([kind]) + address + editor[0].to_bytes(2))
            assert proxied.recv(10)[:2] == b"\x05\x00"
            assert proxied.recv(100).startswith(b"served by ")


def test_a_socket_is_reached_by_its_owner_alone(connection, login, editor, tmp_path):
    # the name is free, and may lead to a socket that a program named itself
    assert login("ana", "mv forward.sock editor.sock && ln -s editor.sock forward.sock").returncode == 0
    assert login("deploy", "ln -sf /home/ana/editor.sock forward.sock").returncode == 0
    reads = {}
    for user, path in [
        ("ana", "/home/ana/forward.sock"), ("ana", "/home/ana/editor.sock"), ("deploy", "/home/ana/forward.sock"),
        ("deploy", "/home/deploy/forward.sock"), ("tina", "/home/ana/forward.sock"), ("ana", "/run/docker.sock"),
    ]:  # fmt: skip
        # an address of Unix has 107 bytes at most
        local = os.path.relpath(tmp_path / f"{len(reads)}")
        with running([*connection(user, "-N", "-L", f"{local}:{path}")]):
            reads[user, path] = reached(local)
    assert reads.pop(("ana", "/home/ana/forward.sock")) == f"served by {login('ana', 'id', '-u').stdout}"
    assert set(reads.values()) == {""}


def test_a_debugger_listens_on_the_port_that_was_granted(connection, login, tmp_path):
    for user, port in (("ana", 5679), ("ana", 0), ("tina", 5678)):
        refused = login(user, options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", f"{port}:127.0.0.1:9"))
        assert "remote port forwarding failed" in refused.stderr, (user, port)
    local = os.path.relpath(tmp_path / "debugger")
    with socket.socket(socket.AF_UNIX) as debugger:
        debugger.bind(local)
        debugger.listen()
        # asked for all addresses, it listens on the loopback
        with running([*connection("ana", "-R", f"*:5678:{local}"), "ss -Hltn sport = :5678; exec sleep 60"]) as remote:
            assert remote.stdout.readline().split()[3] == "127.0.0.1:5678"
            said = "import socket; socket.create_connection(('127.0.0.1', 5678)).sendall(b'breakpoint')"
            assert login("ana", f'python3 -c "{said}"').returncode == 0
            debugger.settimeout(10)
            with debugger.accept()[0] as called:
                assert called.recv(100) == b"breakpoint"
    assert "remote port forwarding failed" in login(
        "ana", options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/ana.sock:127.0.0.1:9")
    ).stderr  # fmt: skip
