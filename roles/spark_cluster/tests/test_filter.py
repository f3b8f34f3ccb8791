"""Clusters that cannot work are refused, each with what to do."""

import importlib.util
import pathlib
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/spark_cluster.py"
spec = importlib.util.spec_from_file_location("spark_cluster", PATH)
assert spec and spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)

GOOD: dict[str, Any] = {
    "members": [{"name": "one", "address": "10.0.0.4"}, {"name": "two", "address": "10.0.0.5"}],
    "host": "one",
    "master": "one",
    "played": ["one", "two", "three"],
    "addresses": ["10.0.0.4", "2001:db8::4"],
    "pythons": {"one": "3.13", "two": "3.13"},
    "javas": {"one": 21, "two": 21},
}


def test_a_good_cluster_passes() -> None:
    assert plugin.faults(**GOOD) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"master": "three"}, "spark_cluster_master is 'three', which is not a member: one, two."),
        ({"master": "", "members": []}, "spark_cluster_master is '', which is not a member: there are none."),
        ({"host": "three"}, "three is not among spark_cluster_members: one, two."),
        ({"addresses": ["192.0.2.1"]}, "one has no address '10.0.0.4'; it has 192.0.2.1. Set spark_address"),
        (
            {"members": [GOOD["members"][0], {"name": "two", "address": "two.example.org"}]},
            "The address of two is 'two.example.org', a name. Set spark_address in host_vars of two",
        ),
        ({"played": ["one"]}, "This run leaves out two, and each member must know all others. Run it without --limit"),
        ({"pythons": {"one": "3.13", "two": "3.11"}}, "different versions of Python: one 3.13, two 3.11."),
        ({"javas": {"one": 21, "two": 17}}, "different versions of Java: one 21, two 17."),
        ({"pythons": {"one": "none", "two": "none"}}, "spark_cluster_python does not run on one, two."),
    ],
)
def test_each_fault_is_named(change: dict[str, Any], says: str) -> None:
    assert says in "\n".join(plugin.faults(**GOOD | change))
