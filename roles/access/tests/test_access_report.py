"""sshd's own command line, as systemd and the running process have it: what of it changes who gets in."""

import importlib.util
import pathlib

import pytest

FILE = pathlib.Path(__file__).parents[1] / "library/access_report.py"
spec = importlib.util.spec_from_file_location("access_report_module", FILE)
assert spec
assert spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

COMMAND = "AuthorizedKeysCommand /usr/share/ec2-instance-connect/eic_run_authorized_keys %u %f"


@pytest.mark.parametrize(
    ("argv", "environment", "options"),
    [
        (["-D", "$SSHD_OPTS"], "", []),
        (["-i", "$SSHD_OPTS"], "SSHD_OPTS=\n# -o Port=7\n", []),
        (["-D", "-o", COMMAND, "-o", "AuthorizedKeysCommandUser x", "$SSHD_OPTS"], "SSHD_OPTS=",
         ["-o", COMMAND, "-o", "AuthorizedKeysCommandUser x"]),
        (["-D", "$SSHD_OPTS"], "SSHD_OPTS='-o AuthorizedKeysFile=/tmp/k -p 2222'",
         ["-o", "AuthorizedKeysFile=/tmp/k", "-p", "2222"]),
        (["-De", "-E", "/var/log/sshd", "-f", "/etc/ssh/other", "-oAllowUsers=eve"], "",
         ["-f", "/etc/ssh/other", "-o", "AllowUsers=eve"]),
        (["-D", "-o", "Banner ${FILE}"], 'export FILE=no\nFILE="/a b"', ["-o", "Banner /a b"]),
    ],
)  # fmt: skip
def test_options_of_the_command_line(argv: list[str], environment: str, options: list[str]) -> None:
    assert module.options_of(module.expand(argv, module.read_environment(environment))) == options


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", []),
        # a reload keeps the command line that the drop-in once gave, and shows it without quotes
        (f"sshd: /usr/sbin/sshd -D -o {COMMAND} -o AuthorizedKeysCommandUser x [listener] 0 of 10-100 startups\0\0",
         ["-o", COMMAND, "-o", "AuthorizedKeysCommandUser x"]),
        ("sshd: /usr/sbin/sshd -De -p 2222 -oAllowUsers=eve [listener] 1 of 10-100 startups",
         ["-p", "2222", "-o", "AllowUsers=eve"]),
        # before it has named itself
        (f"/usr/sbin/sshd\0-D\0-o\0{COMMAND}\0", ["-o", COMMAND]),
        ("", []),
    ],
)  # fmt: skip
def test_options_of_the_running_process(title: str, options: list[str]) -> None:
    assert module.options_of(module.argv_of(title)) == options


def test_options_of_the_process_and_of_its_next_start_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    running, starting = ["-D", "-o", COMMAND], ["-D", "-o", COMMAND.replace(" %u", "  %u"), "-o", "AllowUsers eve"]
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module, "running", lambda of: running)
    monkeypatch.setattr(module, "starting", lambda of: starting)
    assert module.command_line(None) == ["-o", COMMAND, "-o", "AllowUsers eve"]
    monkeypatch.setattr(module, "starting", lambda of: ["-D"])
    assert module.command_line(None) == ["-o", COMMAND]
