"""sshd's own command line, as systemd has it: what of it changes who gets in."""

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
