"""What the role refuses; the settings of people are in tests/unit/test_settings.py."""

import importlib.util
import pathlib
from typing import Any

import pytest
import yaml

ROLE = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("notify_filters", ROLE / "filter_plugins/notify.py")
assert spec and spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)
HOST = {"host": "smtp.example.org"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("webhook", "ftp://example.org", "is not a URL"),
        ("webhook", "https://user:pa55@example.org/x", "without a login before the host"),
        ("webhook", "https://example.org/a b", "without blanks"),
        ("webhook_body", ["{text}"], "is not a mapping"),
        ("webhook_body", {"text": "help"}, "messages would be empty"),
        ("webhook_headers", {"A": "b\nC: d"}, "A in notify_webhook_headers is not a text of one line"),
        ("mail", "a@b, c@d", "give one address"),
        ("smtp", [], "is not a mapping"),
        ("smtp", {"user": "a", "password": "pa55"}, "host in notify_smtp is ''"),
        ("smtp", HOST | {"port": "smtp"}, "port in notify_smtp is smtp"),
        ("smtp", HOST | {"port": True}, "port in notify_smtp is True"),
        ("smtp", HOST | {"tls": True}, "tls in notify_smtp is True: give starttls, tls or none"),
        ("smtp", HOST | {"password": "pa55"}, "only one of user and password"),
        ("smtp", HOST | {"user": "a", "password": "pa55", "tls": "none"}, "would send it readable"),
        ("smtp", HOST | {"from": "a@b\nBcc: c@d"}, "from in notify_smtp"),
        ("minutes", 0, "give a number from 1 to 59"),
        ("lines", [{"name": "a", "command": "b", "every": 5}], "has every, which nothing reads"),
        ("lines", [{"name": "a", "command": "b", "timeout": 0}], "timeout in entry 1"),
        ("lines", [{"name": "a", "command": "b"}] * 2, "entry 2 of notify_lines has the name a again"),
        ("mounts", ["var"], "var in notify_mounts is not an absolute path"),
        ("environment", {"no_proxy": ["a"]}, "no_proxy in notify_environment"),
    ],
)
def test_a_fault_is_told_without_secrets(name: str, value: Any, says: str) -> None:
    [fault] = plugin.faults({f"notify_{name}": value})
    assert says in fault and "pa55" not in fault


@pytest.mark.parametrize(
    "values",
    [
        {"notify_webhook": "https://ntfy.sh"},
        {"notify_webhook": "http://[::1]:8080/a?b=c#d"},
        {"notify_mail": "ana.b+c@example.org", "notify_smtp": HOST},
        {"notify_smtp": HOST | {"port": "2525", "user": "u", "password": 123, "from": "Me <s@e.org>", "tls": "tls"}},
        yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
    ],
)  # fmt: skip
def test_what_is_right_passes(values: dict[str, Any]) -> None:
    assert plugin.faults({name: value for name, value in values.items() if name != "notify_host"}) == []
