"""What a person sets is checked before it is used, and told in that person's own words."""

import importlib.util
import pathlib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checks = load("playbooks/filter_plugins/settings.py")


@pytest.mark.parametrize(
    ("asked", "wanted", "before", "said", "words"),
    [
        # ansible_port alone: the server's own port, from which sshd would move away
        (2222, 22, [22], "way in 2222 end", "set ssh_port: 2222."),
        (22, "2222", [22], "way in 22 end", "take ansible_port out and set ssh_ports_before: [22]"),
        ("2222", 22, [2222], "way in 2222 end", "set ssh_port: 2222."),
        (40022, 22, [22], "way in 2222 end", "Set ssh_port: 2222."),
        # what later runs find: one port for both, and a port that is forwarded to where sshd is or was
        (2222, "2222", [22], "way in 22 end", ""),
        (40022, 22, [22], "Welcome!\r\nway in 22 end\r\n", ""),
        (40022, 2222, ["22"], "way in 22 end", ""),
        # not over SSH
        (2222, 22, [22], "way in  end", ""),
    ],
)
def test_a_port_that_no_later_run_would_find(asked: Any, wanted: Any, before: list[Any], said: str, words: str) -> None:
    fault = checks.port_fault(asked, wanted, before, said)
    assert words in fault and bool(fault) == bool(words)
