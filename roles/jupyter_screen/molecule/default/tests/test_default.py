"""What a data scientist relies on: the server is theirs alone, runs their kernels and comes back by itself."""

import json
import pathlib
import time
from collections.abc import Callable

import pytest
from testinfra.host import Host

TOKEN = "/etc/jupyter-screen/token"
PYTHON = "/opt/jupyter-screen/current/bin/python"


def wait(condition: Callable[[], object], what: str, host: Host, seconds: float = 60) -> None:
    """Waits until the condition holds. Raises AssertionError with the unit's journal after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}:\n" + host.check_output(
            "journalctl -u jupyter-screen -n 60 --no-pager -o cat"
        )
        time.sleep(0.3)


def status(host: Host, token: str) -> int:
    """Returns the HTTP status of the API, 0 where nothing answers."""
    code = (
        "import http.client as h\n"
        "c = h.HTTPConnection('127.0.0.1', 8888, timeout=10)\n"
        f"c.request('GET', '/api/status', headers={{'Authorization': 'token {token}'}} if '{token}' else {{}})\n"
        "print(c.getresponse().status)"
    )
    result = host.run("/usr/bin/python3 -c %s", code)
    return int(result.stdout) if result.rc == 0 else 0


def show(host: Host, name: str) -> str:
    """Returns a property of the unit."""
    return str(host.check_output("systemctl show -P %s jupyter-screen.service", name))


def jupyter_pid(host: Host) -> int:
    """Returns the id of JupyterLab's process, 0 where there is none."""
    return int(host.run("pgrep -x jupyter-lab").stdout or 0)


def running(host: Host) -> bool:
    """Returns whether the unit has finished its start and the API answers."""
    return show(host, "ActiveState") == "active" and status(host, host.file(TOKEN).content_string) == 200


def as_analyst(host: Host, command: str) -> str:
    """Returns the output of a command of the account. Raises AssertionError where the command fails."""
    return str(host.check_output("runuser -l analyst -c %s", command))


def test_runs_now_and_after_a_reboot(host: Host) -> None:
    unit = host.service("jupyter-screen")
    assert unit.is_running
    assert unit.is_enabled


def test_only_the_token_opens(host: Host) -> None:
    assert status(host, host.file(TOKEN).content_string) == 200
    assert status(host, "") == 403
    assert status(host, "0" * 48) == 403


def test_listens_on_the_loopback_address_only(host: Host) -> None:
    assert host.check_output("ss -Hltn 'sport = :8888' | awk '{ print $4 }'") == "127.0.0.1:8888"


def test_runs_as_the_account_without_power(host: Host) -> None:
    assert host.check_output("stat -c %%U /proc/%s", str(jupyter_pid(host))) == "analyst"
    assert host.user("analyst").groups == ["analyst"]
    assert host.user("analyst").password == "*"
    assert host.file("/home/analyst").mode == 0o700
    assert host.run("runuser -u analyst -- sudo -n true").rc != 0


def test_nobody_else_reads_the_token_or_the_log(host: Host) -> None:
    secret = host.file(TOKEN)
    assert (secret.user, secret.mode) == ("analyst", 0o600)
    assert len(as_analyst(host, f"cat {TOKEN}")) == 48
    for path in (TOKEN, "/var/log/jupyter-screen/jupyter.log", "/etc/jupyter-screen/environment"):
        assert host.run("runuser -u nobody -- cat %s", path).rc != 0
    everywhere = host.check_output(
        "cat /var/log/jupyter-screen/jupyter.log; journalctl -b --no-pager; cat /proc/*/cmdline"
    )
    assert secret.content_string not in everywhere


def test_settings_and_variables_arrive(host: Host) -> None:
    environment = as_analyst(host, f"cat /proc/{jupyter_pid(host)}/environ").split("\0")
    assert 'NOTE=a "quoted" $value with \\ and `ticks`' in environment
    assert show(host, "MemoryMax").isdigit()
    assert show(host, "OOMPolicy") == "continue"
    shown = as_analyst(
        host,
        "/opt/jupyter-screen/current/bin/jupyter-lab --config=/etc/jupyter-screen/config.json --show-config-json",
    )
    settings = json.loads(shown)
    assert settings["MappingKernelManager"]["cull_idle_timeout"] == 7200
    assert settings["LabApp"]["extension_manager"] == "readonly"
    assert settings["ServerApp"]["root_dir"] == "/home/analyst/notebooks"


@pytest.mark.parametrize("kernel, prefix", [("second", "/opt/second"), ("python3", "/opt/jupyter-screen")])
def test_a_kernel_runs_code(host: Host, kernel: str, prefix: str) -> None:
    script = pathlib.Path(__file__).with_name("run_in_kernel.py").read_text()
    code = "import os, sys; print(sys.prefix, os.getuid(), os.environ.get('GREETING'))"
    printed = host.check_output("runuser -u analyst -- %s -c %s %s %s", PYTHON, script, kernel, code).split()
    assert printed[0].startswith(prefix)
    assert printed[1:] == [str(host.user("analyst").uid), "hello" if kernel == "second" else "None"]


def test_attach_and_detach(host: Host) -> None:
    assert "\t(Detached)" in as_analyst(host, "screen -ls jupyter")
    before = jupyter_pid(host)
    # typed at a terminal: nothing for two seconds, then Ctrl-a d
    seen = as_analyst(host, "(sleep 2; printf '\\001d'; sleep 1) | TERM=xterm script -qc 'screen -r jupyter' /dev/null")
    assert "ServerApp" in seen
    assert "detached from" in seen
    assert "\t(Detached)" in as_analyst(host, "screen -ls jupyter")
    assert jupyter_pid(host) == before


def test_one_interrupt_only_asks(host: Host) -> None:
    before = jupyter_pid(host)
    as_analyst(host, "screen -S jupyter -X stuff '^C'")
    log = host.file("/var/log/jupyter-screen/jupyter.log")
    wait(lambda: "Shut down this Jupyter server" in log.content_string[-2000:], "no question", host, 10)
    as_analyst(host, "screen -S jupyter -X stuff 'n^M'")
    time.sleep(1)
    assert jupyter_pid(host) == before


@pytest.mark.parametrize("victim", ["jupyter beside a second window", "screen", "window"])
def test_comes_back_with_the_same_token(host: Host, victim: str) -> None:
    wait(lambda: running(host), "not running to begin with", host)
    token, before = host.file(TOKEN).content_string, jupyter_pid(host)
    # the starts of the cases before are no sign of a broken server
    host.check_output("systemctl reset-failed jupyter-screen")
    if victim == "screen":
        host.check_output("kill -9 %s", show(host, "MainPID"))
    else:
        # screen lives for as long as it has a window
        as_analyst(host, "screen -S jupyter -X screen sleep 600")
        if victim == "window":
            as_analyst(host, "screen -S jupyter -p 0 -X kill")
        else:
            host.check_output("kill -9 %s", str(before))
    wait(
        lambda: jupyter_pid(host) not in (0, before) and running(host),
        f"not back after the end of {victim}",
        host,
    )
    assert host.file(TOKEN).content_string == token
    assert as_analyst(host, "screen -ls").count(".jupyter\t") == 1


def test_the_unit_fails_and_says_why_when_jupyter_cannot_run(host: Host) -> None:
    wait(lambda: running(host), "not running to begin with", host)
    drop_in = "/run/systemd/system/jupyter-screen.service.d/broken.conf"
    lines = "[Service]\\nEnvironment=JUPYTER_CONFIG_PATH=/broken PYTHONHOME=/broken\\nRestartSec=0\\n"
    host.check_output(
        f"mkdir -p {drop_in.rpartition('/')[0]} && printf '{lines}' > {drop_in} && systemctl daemon-reload"
    )
    try:
        assert host.run("systemctl restart jupyter-screen").rc != 0
        wait(lambda: show(host, "ActiveState") == "failed", "keeps trying", host)
        assert "No module named 'encodings'" in host.check_output(
            "journalctl -u jupyter-screen -n 60 --no-pager -o cat"
        )
    finally:
        host.check_output(f"rm {drop_in} && systemctl daemon-reload && systemctl reset-failed jupyter-screen")
        host.check_output("systemctl start jupyter-screen")
    assert running(host)


def test_a_clean_stop_is_no_failure(host: Host) -> None:
    host.check_output("systemctl stop jupyter-screen")
    assert show(host, "ActiveState") == "inactive"
    assert status(host, "") == 0
    assert host.run("pgrep -u analyst").rc == 1
    host.check_output("systemctl start jupyter-screen")
    assert running(host)
