"""Imports between rooms: rooms stand on floors, nothing imports upwards, and there are no circles."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from recommender.tracking import run_log
from tests.conftest import ROOT

PACKAGE = ROOT / "src/recommender"
# From the ground up: a room imports from its own floor and from those below.
FLOORS = (
    ("", "errors"),
    ("names", "files", "uris", "compiled", "listener", "engines"),
    ("typed", "config", "confined"),
    ("data", "serving"),
    ("algorithms",),
    ("tracking",),
    ("evaluation",),
    ("promotion",),
    ("train",),
    ("deploy",),
    ("cli",),
    ("__main__",),
)
# Where models that were stored earlier look; nothing else imports them.
SHIMS = {"answer", "model"}
# Rooms on one floor do not know each other.
APART = {"data", "serving"}


def sources() -> dict[str, str]:
    """The text of each module by its dotted name below the package; the package's own is ''."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


@cache
def imported(text: str) -> frozenset[str]:
    """What a module imports of the package, anywhere in it: for types and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name.partition(".")[2] for name in found if name.partition(".")[0] == PACKAGE.name)


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {
        name: {each if each in texts else each.rpartition(".")[0] for each in imported(text)} - {name}
        for name, text in texts.items()
    }


def faults(texts: dict[str, str]) -> list[str]:
    """Imports that break a rule, as 'importer imports imported: rule'."""
    floor = {room: at for at, rooms in enumerate(FLOORS) for room in rooms}
    edges, found = graph(texts), []
    for name, others in edges.items():
        room = name.partition(".")[0]
        if room in SHIMS:
            found += [f"{name} imports {other}" for other in others if not other.startswith("serving")]
            continue
        for other in others:
            target = other.partition(".")[0]
            if target in SHIMS:
                found.append(f"{name} imports {other}: stored models alone do")
            elif floor[target] > floor[room]:
                found.append(f"{name} imports {other}: {target} stands above {room}")
            elif target != room and {target, room} <= APART:
                found.append(f"{name} imports {other}: {target} and {room} stand apart")
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        found.append(f"a circle: {' imports '.join(error.args[1])}")
    return found


def test_no_import_runs_up_or_in_a_circle() -> None:
    assert faults(sources()) == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("serving.manifest", "from recommender.data import ratings", "data and serving stand apart"),
        ("data.cache", "from recommender.tracking import registry", "tracking stands above data"),
        ("serving.answer", "import recommender.algorithms.dump", "algorithms stands above serving"),
        ("train", "from recommender.cli import printing", "cli stands above train"),
        ("promotion.gate", "from recommender.model import Recommender", "stored models alone do"),
        ("data.ratings", "from recommender.data import reading", "a circle: "),
    ],
)
@pytest.mark.parametrize("form", ["\n{}\n", "\n\ndef late():\n    {}\n", "\nif TYPE_CHECKING:\n    {}\n"])
def test_a_forbidden_import_is_found(name: str, line: str, fault: str, form: str) -> None:
    texts = sources()
    texts[name] += form.format(line)
    assert any(fault in found for found in faults(texts))


def test_a_stored_model_carries_what_serving_needs_and_no_more() -> None:
    edges = graph(sources())
    needed, left = set(), {name for name in edges if name.partition(".")[0] == "serving"} | {""}
    while left:
        name = left.pop()
        needed.add(name)
        left |= edges[name] - needed
    carried = {name.removesuffix(".py").removesuffix("__init__") for name in run_log.CARRIED}
    assert {name.partition(".")[0] for name in needed} == carried


def test_nothing_else_imports_the_http_server() -> None:
    """Stored models and training go without it: its framework is in another environment."""
    app = {name for name in sources() if name.startswith("serving.app")}
    assert len(app) > 5
    others = {name: needed for name, needed in graph(sources()).items() if name not in app}
    assert [name for name, needed in others.items() if needed & app] == []


def test_the_face_alone_loads_numpy_and_nothing_larger() -> None:
    line = "import sys, recommender.serving; assert not {'pandas', 'mlflow', 'surprise'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", line], env={"PYTHONPATH": str(ROOT / "src")}, check=True)
