"""A server is private to its owner, runs their kernels and restarts automatically."""

import hashlib
import json
import os
import pathlib
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

SCENARIO = pathlib.Path(__file__).parents[1]
PYTHON = "/opt/jupyter-screen/current/bin/python"
PORTS = {"analyst": 8888, "ana": 8889}
# What ana had before she was taken out.
taken: dict[str, str] = {}
# The loopback of every real server; Docker's containers lack it.
LOOPBACK6 = """
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
sysctl -qw net.ipv6.conf.lo.disable_ipv6=0
umount /proc/sys/net
"""
# More messages than ZeroMQ keeps for a reader that is behind, several times.
LINES = 5000
BURSTS = [
    f"for i in range({LINES}): print(i, flush=True)",
    "import logging\nlogging.basicConfig(level='INFO', format='%(message)s')\n"
    f"for i in range({LINES}):\n    logging.info('%d', i)\n    if i % 2: print(i, flush=True)",
    f"bar = display('', display_id=True)\nfor i in range({LINES}):\n    bar.update(i)\n"
    "    print(f'\\r{i} █', end='', flush=True)",
    "print(('x' * 99 + '\\n') * 20_000)\n1 / 0",
]
# Takes a person's state away, and hangs or fails.
BROKEN = """#!/bin/sh
rm -rf ~/.jupyter/lab /var/lib/jupyter-screen/$(id -un)/mine
touch /var/lib/jupyter-screen/$(id -un)/migrated
[ ! -e "${0%/bin/*}/hang" ] || exec sleep 600
exit 3
"""
# Answers 404 and writes down who was let in with what.
SQUATTER = """
import http.server as h, socket
# what localhost means as well
other = socket.create_server(("::1", 8888), family=socket.AF_INET6)
class Squatter(h.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.headers.get("Authorization"), file=open("/run/asked", "a"))
        self.send_error(404)
h.HTTPServer(("127.0.0.1", 8889), Squatter).serve_forever()
"""


def unit(name: str) -> str:
    return f"jupyter-screen@{name}.service"


def token(host: Host, name: str) -> str:
    return str(host.file(f"/etc/jupyter-screen/tokens/{name}").content_string)


def log(name: str) -> str:
    return f"/var/log/jupyter-screen/{name}/jupyter.log"


def wait(condition: Callable[[], object], what: str, host: Host, seconds: float = 60) -> None:
    """Waits until the condition holds. Raises AssertionError with the units' journal after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}:\n" + journal(host)
        time.sleep(0.3)


def journal(host: Host) -> str:
    return str(host.check_output("journalctl -u 'jupyter-screen@*' -n 60 --no-pager -o cat"))


def get(host: Host, port: int, secret: str, path: str = "/api/status") -> tuple[int, str]:
    """Returns the HTTP status and the body; 0 where nothing answers."""
    code = (
        "import http.client as h\n"
        f"c = h.HTTPConnection('127.0.0.1', {port}, timeout=10)\n"
        f"c.request('GET', '{path}', headers={{'Authorization': 'token {secret}'}} if '{secret}' else {{}})\n"
        "a = c.getresponse(); print(a.status, a.read().decode())"
    )
    result = host.run("/usr/bin/python3 -c %s", code)
    status, _, body = result.stdout.partition(" ") if result.rc == 0 else ("0", "", "")
    return int(status), body


def show(host: Host, name: str, of: str) -> str:
    """Returns a property of a unit."""
    return str(host.check_output("systemctl show -P %s %s", name, of))


def jupyter_pid(host: Host, name: str = "analyst") -> int:
    """Returns the id of a person's JupyterLab, 0 where there is none. A child that it has just forked has its name."""
    return int(host.run("pgrep -o -u %s -x jupyter-lab", name).stdout or 0)


def running(host: Host, name: str = "analyst") -> bool:
    """Returns whether the unit has finished its start and the API answers."""
    return show(host, "ActiveState", unit(name)) == "active" and get(host, PORTS[name], token(host, name))[0] == 200


def run_as(host: Host, name: str, command: str) -> str:
    """Returns the output of a command of the account. Raises AssertionError where the command fails."""
    return str(host.check_output("runuser -l %s -c %s", name, command))


def in_kernel(host: Host, name: str, kernel: str, code: str) -> str:
    script = (SCENARIO / "tests/run_in_kernel.py").read_text()
    command = "runuser -u %s -- %s -c %s %s %s %s"
    return str(host.check_output(command, name, PYTHON, script, str(PORTS[name]), kernel, code))


def in_notebook(host: Host, name: str, kernel: str, *codes: str) -> dict[str, Any]:
    """Returns how many cells have not ended, and the outputs of each in the shared document and in the file."""
    script = (SCENARIO / "tests/run_in_notebook.py").read_text()
    command = "runuser -u %s -- %s -c %s %s %s " + " ".join(["%s"] * len(codes))
    said = host.check_output(command, name, PYTHON, script, str(PORTS[name]), kernel, *codes)
    return dict(json.loads(said))


def type_and_print(host: Host) -> str:
    """Leaves a browser at a notebook whose cell prints without a pause. Returns the word that was typed just now."""
    word = uuid.uuid4().hex
    script = (SCENARIO / "tests/type_and_print.py").read_text()
    told = f"/run/browser-{word}"
    host.check_output(f"rm -f {told} && touch {told} && systemctl reset-failed 'browser-*'")
    command = f"systemd-run --quiet --collect --unit=browser-{word} -p StandardOutput=append:{told} %s -c %s %s %s %s"
    host.check_output(command, PYTHON, script, "analyst", str(PORTS["analyst"]), word)
    wait(lambda: "stored" in host.file(told).content_string, "nothing typed or printed", host)
    return word


def saved(host: Host, word: str) -> bool:
    """Returns whether the file has what was typed and printed."""
    notebook = json.loads(host.file("/home/analyst/notebooks/printing.ipynb").content_string)
    outputs = json.dumps([cell["outputs"] for cell in notebook["cells"]])
    return f"printed-{word}" in outputs and any(f"typed-{word}" in cell["source"] for cell in notebook["cells"])


def begin(host: Host, *variables: str, tag: str = "jupyter_screen_configure") -> subprocess.Popen[str]:
    """Starts the role again on this host, with other values."""
    inventory = SCENARIO.parents[3] / "molecule/hosts.py"
    command = ["ansible-playbook", "-i", str(inventory), str(SCENARIO / "converge.yml"), "--tags", tag]
    return subprocess.Popen(
        [*command, "--limit", str(host.backend.hostname), *(part for value in variables for part in ("-e", value))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def converge(host: Host, *variables: str, tag: str = "jupyter_screen_configure") -> str:
    """Runs the role again on this host, with other values."""
    return begin(host, *variables, tag=tag).communicate()[0]


@pytest.fixture
def one_release(host: Host) -> None:
    """What the role itself decides, whatever the release: tried on one, because each try is a run of Ansible."""
    if host.backend.hostname != "debian13":
        pytest.skip("tried on debian13")


@pytest.mark.parametrize("name", PORTS)
def test_runs_now_and_after_a_reboot(host: Host, name: str) -> None:
    assert running(host, name)
    assert host.service(unit(name)).is_enabled
    assert host.check_output("stat -c %%U /proc/%s", str(jupyter_pid(host, name))) == name
    assert host.check_output(f"ss -Hltn 'sport = :{PORTS[name]}' | awk '{{ print $4 }}'") == f"127.0.0.1:{PORTS[name]}"


def test_a_slow_start_is_not_cut_off_and_holds_up_nothing(host: Host) -> None:
    assert show(host, "TimeoutStartUSec", unit("ana")) == "10min 30s"
    assert unit("ana") in show(host, "Wants", "multi-user.target")
    assert unit("ana") not in show(host, "After", "multi-user.target")


def test_only_ones_own_token_opens(host: Host) -> None:
    assert token(host, "ana") != token(host, "analyst")
    for name, port in PORTS.items():
        statuses = {key: get(host, port, key)[0] for key in ("", "0" * 48, *(token(host, who) for who in PORTS))}
        assert {key for key, status in statuses.items() if status == 200} == {token(host, name)}
        assert set(statuses.values()) == {200, 403}


def test_each_server_answers_to_its_own_name(host: Host) -> None:
    """Cookies ignore ports: under one name, a shared server would get your own session."""
    ask = (
        "import http.client as h, sys\n"
        "for name in sys.argv[2:]:\n"
        "    c = h.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=10)\n"
        "    c.request('GET', '/login', headers={'Host': f'{name}:40000'})\n"
        "    print(name, c.getresponse().status)"
    )
    names = ["localhost", "analyst.localhost", "ana.localhost", "attacker.example"]
    for name, port in PORTS.items():
        said = host.check_output("/usr/bin/python3 -c %s %s " + " ".join(["%s"] * len(names)), ask, str(port), *names)
        let_in = {line.split()[0] for line in said.splitlines() if line.endswith(" 200")}
        assert let_in == {"localhost", f"{name}.localhost"}
        assert said.count(" 403") == 2


def test_runs_as_the_account_without_power(host: Host) -> None:
    for name in PORTS:
        assert host.user(name).groups == [name]
        assert host.user(name).password == "*"
        assert host.file(f"/home/{name}").mode == 0o700
        assert host.run("runuser -u %s -- sudo -n true", name).rc != 0


def test_root_follows_no_link_that_an_account_laid(host: Host) -> None:
    folder = host.file("/usr/local/games")
    assert (folder.user, folder.mode) == ("root", 0o755)
    assert folder.listdir() == []
    keys = host.file("/home/analyst/.ssh/authorized_keys")
    assert (keys.user, keys.mode, host.file("/home/analyst/.ssh").mode) == ("analyst", 0o600, 0o700)
    assert keys.content_string.startswith("ssh-ed25519 ")


@pytest.mark.parametrize("stranger", ["ana", "nobody"])
def test_nobody_else_gets_at_files_token_log_or_kernels(host: Host, stranger: str) -> None:
    assert in_kernel(host, "analyst", "second", "print(open('/etc/jupyter-screen/tokens/analyst').read())").strip() == (
        token(host, "analyst")
    )
    pid = str(jupyter_pid(host))
    for path in (
        "/home/analyst/notebooks/examples/first.ipynb",
        "/etc/jupyter-screen/tokens/analyst",
        "/etc/jupyter-screen/environment",
        log("analyst"),
        "/var/lib/jupyter-screen/analyst/cookie_secret",
        f"/run/jupyter-screen/analyst/jpserver-{pid}.json",
        f"/proc/{pid}/environ",
    ):
        assert host.run("test -s %s", path).rc == 0 or path.startswith("/proc"), path
        assert host.run("runuser -u %s -- cat %s", stranger, path).rc != 0, path
    # not one port that another account could listen in on
    code = "import json, ipykernel.connect as c; f = c.get_connection_file(); print(json.load(open(f))['transport'], f)"
    transport, file = in_kernel(host, "analyst", "second", code).split()
    assert transport == "ipc"
    assert file.startswith("/run/jupyter-screen/analyst/")
    assert host.file("/run/jupyter-screen/analyst").mode & 0o777 == 0o700


def test_tokens_are_nowhere_else(host: Host) -> None:
    everywhere = host.check_output(
        "cat /var/log/jupyter-screen/*/jupyter.log; journalctl -b --no-pager; cat /proc/*/cmdline"
    )
    for name in PORTS:
        assert len(token(host, name)) == 48
        assert token(host, name) not in everywhere


def test_settings_and_variables_arrive(host: Host) -> None:
    environment = run_as(host, "analyst", f"cat /proc/{jupyter_pid(host)}/environ").split("\0")
    assert 'NOTE=a "quoted" $value with \\ and `ticks`' in environment
    shown = run_as(
        host,
        "analyst",
        "/opt/jupyter-screen/current/bin/jupyter-lab --config=/etc/jupyter-screen/config.json --show-config-json",
    )
    settings = json.loads(shown)
    assert settings["MappingKernelManager"] == {"cull_idle_timeout": 0, "cull_interval": 60}
    assert settings["ServerApp"]["max_body_size"] == 7 * 1024 * 1024
    assert settings["LabApp"]["extension_manager"] == "readonly"
    kernels = json.loads(get(host, 8888, token(host, "analyst"), "/api/kernelspecs")[1])
    assert kernels["default"] == "second"


def test_limits_are_each_servers_own_and_one_for_all(host: Host) -> None:
    assert show(host, "MemoryMax", unit("ana")) == str(512 * 1024**2)
    assert float(show(host, "CPUQuotaPerSecUSec", unit("ana")).rstrip("s")) == 1.5
    assert show(host, "MemoryMax", unit("analyst")) == show(host, "MemoryMax", "jupyter.slice")
    assert show(host, "MemoryMax", "jupyter.slice").isdigit()
    assert show(host, "OOMPolicy", unit("analyst")) == "continue"
    for name in PORTS:
        assert f"/jupyter.slice/{unit(name)}" in host.file(f"/proc/{jupyter_pid(host, name)}/cgroup").content_string


def test_the_page_names_the_server(host: Host) -> None:
    label = f"staging on {host.backend.hostname}"
    page = get(host, 8888, token(host, "analyst"), "/lab")[1]
    assert f'"appName": "{label}"' in page
    assert '"@jupyterlab/debugger-extension"' in page.partition('"disabledExtensions"')[2].partition("]")[0]
    assert f'content: "{label}"' in get(host, 8888, "", "/custom/custom.css")[1]


def test_everybody_has_a_copy_of_the_examples(host: Host) -> None:
    for name in PORTS:
        file = host.file(f"/home/{name}/notebooks/examples/first.ipynb")
        assert file.user == name
        assert json.loads(file.content_string)["nbformat"] == 4


@pytest.mark.parametrize("kernel, prefix", [("second", "/opt/second"), ("python3", "/opt/jupyter-screen")])
def test_a_kernel_runs_code(host: Host, kernel: str, prefix: str) -> None:
    code = "import os, sys; print(sys.prefix, os.getuid(), os.environ.get('GREETING'))"
    printed = in_kernel(host, "analyst", kernel, code).split()
    assert printed[0].startswith(prefix)
    assert printed[1:] == [str(host.user("analyst").uid), "hello" if kernel == "second" else "None"]


def test_nothing_that_is_printed_is_lost(host: Host) -> None:
    said = in_notebook(host, "analyst", "second", *BURSTS)
    assert said["pending"] == 0
    assert said["shared"] == said["disk"]
    printed, mixed, updated, cut = said["disk"]
    numbers = [*map(str, range(LINES))]
    assert [output["text"].splitlines() for output in printed] == [numbers]
    by_name = {
        name: "".join(output["text"] for output in mixed if output["name"] == name).splitlines()
        for name in ("stdout", "stderr")
    }
    assert by_name == {"stderr": numbers, "stdout": numbers[1::2]}
    assert [output.get("text") or output["data"]["text/plain"] for output in updated] == [
        str(LINES - 1),
        f"{LINES - 1} █",
    ]
    # 1 MiB of 2 MB, and the error all the same
    assert [output["output_type"] for output in cut] == ["stream", "stream", "error"]
    assert cut[0]["text"] == ("x" * 99 + "\n") * (2**20 // 100)
    assert "Output cut: the first 1 MB of this cell are kept" in cut[1]["text"]


def test_packages_of_ones_own_are_in_a_kernel_of_ones_own(host: Host) -> None:
    # one that is made here: no registry has a part in this
    wheel, files = "/tmp/extra-1-py3-none-any.whl", {
        "extra.py": "VERSION = 1",
        "extra-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: extra\nVersion: 1\n",
        "extra-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "extra-1.dist-info/RECORD": "",
    }  # fmt: skip
    code = "import json, sys, zipfile as z; a = z.ZipFile(sys.argv[1], 'w')\n"
    code += "for file, text in json.loads(sys.argv[2]).items(): a.writestr(file, text)\na.close()"
    host.check_output("python3 -c %s %s %s", code, wheel, json.dumps(files))
    said = in_kernel(host, "ana", "second", f"%pip install --user --no-index {wheel}")
    assert "UsageError: the packages of this kernel are locked" in said
    command = f"own-kernel mine --no-index {wheel}"
    assert f"    {command}\n" in said
    run_as(host, "ana", command)
    code = "import extra, ipykernel, os; print(extra.VERSION, os.environ['GREETING'], ipykernel.__file__)\n%pip list"
    printed = in_kernel(host, "ana", "mine", code)
    assert printed.startswith("1 hello /opt/second/")
    assert "UsageError" not in printed
    assert host.run("runuser -l analyst -c 'ls /home/ana/.local'").rc != 0
    in_kernel(host, "ana", "second", "import importlib.util as u; assert u.find_spec('extra') is None")
    run_as(host, "ana", "rm -r ~/.local/share/jupyter/kernels/mine")


def test_attach_and_detach(host: Host) -> None:
    assert "\t(Detached)" in run_as(host, "analyst", "screen -ls jupyter")
    before = jupyter_pid(host)
    # typed at a terminal: nothing for two seconds, then Ctrl-a d
    seen = run_as(
        host, "analyst", "(sleep 2; printf '\\001d'; sleep 1) | TERM=xterm script -qc 'screen -r jupyter' /dev/null"
    )
    assert "ServerApp" in seen
    assert "detached from" in seen
    assert "\t(Detached)" in run_as(host, "analyst", "screen -ls jupyter")
    assert jupyter_pid(host) == before


def test_one_interrupt_only_asks(host: Host) -> None:
    before = jupyter_pid(host)
    run_as(host, "analyst", "screen -S jupyter -X stuff '^C'")
    file = host.file(log("analyst"))
    wait(lambda: "Shut down this Jupyter server" in file.content_string[-2000:], "no question", host, 10)
    run_as(host, "analyst", "screen -S jupyter -X stuff 'n^M'")
    time.sleep(1)
    assert jupyter_pid(host) == before


def test_the_log_rotates_and_goes_on(host: Host) -> None:
    before = host.file(log("ana")).content_string
    assert host.check_output("systemctl is-enabled logrotate.timer") == "enabled"
    host.check_output("logrotate --force /etc/logrotate.d/jupyter-screen")
    assert host.check_output("zcat %s", f"{log('ana')}.1.gz") == before.rstrip()
    get(host, PORTS["ana"], "wrong" * 5)
    new = host.file(log("ana"))
    wait(lambda: "403 GET /api/status" in new.content_string, "nothing is logged after the rotation", host, 10)
    assert len(new.content_string) < len(before)
    assert "\0" not in new.content_string
    assert (new.user, host.file(f"{log('ana')}.1.gz").user) == ("ana", "ana")


@pytest.mark.parametrize("victim", ["jupyter beside a second window", "screen", "window"])
def test_comes_back_with_the_same_token_and_is_counted(host: Host, victim: str) -> None:
    wait(lambda: running(host), "not running to begin with", host)
    secret, before, other = token(host, "analyst"), jupyter_pid(host), jupyter_pid(host, "ana")
    # starts of earlier cases do not mean a broken server
    host.check_output("systemctl reset-failed %s", unit("analyst"))
    word = type_and_print(host)
    if victim == "screen":
        host.check_output("kill -9 %s", show(host, "MainPID", unit("analyst")))
    else:
        # screen lives for as long as it has a window
        run_as(host, "analyst", "screen -S jupyter -X screen sleep 600")
        if victim == "window":
            run_as(host, "analyst", "screen -S jupyter -p 0 -X kill")
        else:
            host.check_output("kill -9 %s", str(before))
    wait(
        lambda: jupyter_pid(host) not in (0, before) and running(host),
        f"not back after the end of {victim}",
        host,
    )
    # nobody opens it again
    wait(lambda: saved(host, word), "what was typed and printed is lost", host)
    assert show(host, "NRestarts", unit("analyst")) == "1"
    assert token(host, "analyst") == secret
    assert run_as(host, "analyst", "screen -ls").count(".jupyter\t") == 1
    assert jupyter_pid(host, "ana") == other


def test_a_taken_port_is_an_error_and_no_other_is_used(host: Host) -> None:
    host.check_output("systemctl stop %s", unit("ana"))
    host.check_output("sh -ec %s", LOOPBACK6)
    host.check_output("systemd-run --unit=squatter python3 -c %s", SQUATTER)
    try:
        wait(lambda: get(host, 8889, "")[0] == 404, "nobody holds the port", host, 20)
        assert host.run("systemctl start %s", unit("ana")).rc != 0
        assert "8889 is already in use" in journal(host)
        assert f"uid:{host.user('ana').uid} " not in host.check_output("ss -Hltne")
        said = converge(host)
        assert "is taken: [::1]:8888 " in said
        assert "; 127.0.0.1:8889 " in said
        # nobody but the account's own server is told the token
        assert set(host.file("/run/asked").content_string.splitlines()) == {"None"}
    finally:
        host.check_output("systemctl stop squatter")
    wait(lambda: running(host, "ana"), "not up once the port is free", host)


@pytest.mark.usefixtures("one_release")
def test_who_is_taken_out_loses_the_server_and_keeps_the_files(host: Host) -> None:
    taken["token"] = token(host, "ana")
    assert "failed=0" in converge(host, '{"jupyter_screen_users": []}')
    assert host.run("pgrep -u ana").rc == 1
    assert not host.service(unit("ana")).is_enabled
    assert not host.file("/etc/jupyter-screen/tokens/ana").exists
    assert host.file("/home/ana/notebooks/examples/first.ipynb").exists
    assert running(host, "analyst")


@pytest.mark.usefixtures("one_release")
def test_what_ran_before_comes_back_where_a_new_jupyterlab_does_not_start(host: Host, tmp_path: pathlib.Path) -> None:
    """Also after a run that was killed. Ana comes with the new one, and goes with it."""
    good = host.check_output("readlink /opt/jupyter-screen/current")
    version = good.rpartition("-py")[2]
    (tmp_path / "further.txt").write_text("# --hash=\n")
    lock = (SCENARIO.parents[1] / "files/requirements.txt").read_text() + "# --hash=\n"
    bad = f"/opt/jupyter-screen/{hashlib.sha256(lock.encode()).hexdigest()[:12]}-py{version}"
    host.check_output(f"mkdir -p {bad}/bin {bad}/lib/python{version}/site-packages && touch {bad}/.complete {bad}/hang")
    host.check_output("printf %%s %s | install -m 755 /dev/stdin %s", BROKEN, f"{bad}/bin/jupyter-lab")
    state, lab = "/var/lib/jupyter-screen/analyst", "/home/analyst/.jupyter/lab"
    run_as(host, "analyst", f"mkdir -p {lab}/workspaces && echo mine | tee {lab}/workspaces/mine > {state}/mine")
    units = "cat /etc/systemd/system/jupyter-screen@.service /etc/systemd/system/jupyter-screen@*.d/server.conf"
    before = token(host, "analyst"), host.check_output(units)
    variables = json.dumps(
        {"jupyter_screen_requirements": str(tmp_path / "further.txt"), "jupyter_screen_restart_delay": 1}
    )
    run = begin(host, variables, tag="jupyter_screen")
    wait(lambda: host.run("ls /var/lib/jupyter-screen/*/migrated").rc == 0, "the new one is not tried", host)
    # with what mitogen has put into sessions of their own
    subprocess.check_call(["pkill", "-KILL", "-f", str(tmp_path)])
    run.communicate()
    assert host.check_output("readlink /opt/jupyter-screen/current") == bad
    host.check_output("rm %s/hang", bad)
    output = " ".join(converge(host, variables, tag="jupyter_screen").split())
    assert "failed=1" in output
    assert "The JupyterLab that ran before runs again, with its settings and each person's state." in output
    assert running(host, "analyst")
    assert not host.service(unit("ana")).is_enabled
    assert host.check_output("readlink /opt/jupyter-screen/current") == good
    assert (token(host, "analyst"), host.check_output(units)) == before
    assert not host.file(f"{state}/migrated").exists
    assert host.check_output(f"cat {state}/mine {lab}/workspaces/mine") == "mine\nmine"
    assert host.file(f"{lab}/workspaces/mine").user == "analyst"
    assert not host.file("/var/lib/jupyter-screen-before").exists


@pytest.mark.usefixtures("one_release")
def test_who_comes_back_gets_another_token(host: Host) -> None:
    before = jupyter_pid(host)
    assert "failed=0" in converge(host)
    assert running(host, "ana")
    assert token(host, "ana") != taken["token"]
    assert jupyter_pid(host) == before


def test_an_account_that_is_locked_gets_no_server_back(host: Host) -> None:
    wait(lambda: running(host, "ana"), "not running to begin with", host)
    # earlier starts within ten minutes would forbid the next ones
    host.check_output("systemctl reset-failed %s", unit("ana"))
    host.check_output("usermod --lock --expiredate 1 ana && pkill -9 -u ana")
    try:
        wait(lambda: show(host, "ActiveState", unit("ana")) == "inactive", "tries on", host, 20)
        assert jupyter_pid(host, "ana") == 0
        assert "has expired: no server for it" in journal(host)
    finally:
        host.check_output("usermod --expiredate '' --password '*' ana")
    host.check_output("systemctl start %s", unit("ana"))
    assert running(host, "ana")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ('{"jupyter_screen_users": [{"name": "ana", "port": 8888}]}', "analyst on 8888, ana on 8888"),
        ('{"jupyter_screen_users": [{"name": "analyst", "port": 8889}]}', "analyst on 8888, analyst on 8889"),
        ('{"jupyter_screen_default_kernel": "gone"}', "default_kernel is gone: choose one of second, python3"),
    ],
)
@pytest.mark.usefixtures("one_release")
def test_what_cannot_work_is_refused_before_anything_changes(host: Host, variables: str, message: str) -> None:
    before = jupyter_pid(host), jupyter_pid(host, "ana")
    output = converge(host, variables)
    assert message in " ".join(output.split())
    assert "changed=0" in output
    assert (jupyter_pid(host), jupyter_pid(host, "ana")) == before


def test_the_unit_fails_and_says_why_when_jupyter_cannot_run(host: Host) -> None:
    wait(lambda: running(host), "not running to begin with", host)
    drop_in = "/run/systemd/system/jupyter-screen@analyst.service.d/broken.conf"
    lines = "[Service]\\nEnvironment=JUPYTER_CONFIG_PATH=/broken PYTHONHOME=/broken\\nRestartSec=0\\n"
    host.check_output(
        f"mkdir -p {drop_in.rpartition('/')[0]} && printf '{lines}' > {drop_in} && systemctl daemon-reload"
    )
    try:
        assert host.run("systemctl restart %s", unit("analyst")).rc != 0
        wait(lambda: show(host, "ActiveState", unit("analyst")) == "failed", "keeps trying", host)
        assert "No module named 'encodings'" in journal(host)
        # not for good: what was in the way may be gone
        assert show(host, "ActiveState", "jupyter-screen-again.timer") == "active"
        host.check_output(f"rm {drop_in} && systemctl daemon-reload && systemctl start jupyter-screen-again")
        wait(lambda: running(host), "not given another go", host)
    finally:
        host.check_output(f"rm -f {drop_in} && systemctl daemon-reload")
        host.check_output("systemctl reset-failed %s", unit("analyst"))
        host.check_output("systemctl start %s", unit("analyst"))
    assert running(host)


def test_a_clean_stop_is_no_failure(host: Host) -> None:
    word = type_and_print(host)
    host.check_output("systemctl stop %s", unit("analyst"))
    assert saved(host, word)
    # with a browser there, too
    assert show(host, "ActiveState", unit("analyst")) == "inactive"
    assert get(host, 8888, "")[0] == 0
    assert host.run("pgrep -u analyst").rc == 1
    host.check_output("systemctl start %s", unit("analyst"))
    assert running(host)
