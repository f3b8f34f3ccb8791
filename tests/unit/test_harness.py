"""Rules for the tests: each wait ends, and a test skipped everywhere fails."""

import ast
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for folder in (ROOT / "tests/site", ROOT / "roles", ROOT / "bench")
    for path in folder.rglob("*.py")
    if folder != ROOT / "roles" or "molecule" in path.relative_to(folder).parts
)
SKIPPING = """
import pytest
@pytest.mark.parametrize("server", ["debian12", "debian13"])
def test_one(server):
    if server in {skipped}:
        pytest.skip("not here")
"""


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_loop_that_waits_has_a_deadline(path: pathlib.Path) -> None:
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.While):
            loop = ast.get_source_segment(text, node) or ""
            assert re.search(r"deadline|monotonic|perf_counter", loop), f"line {node.lineno}: {loop}"
    # the shells of this file end after 180 s
    for line in text.splitlines() if path.name != "test_promotion.py" else []:
        if re.search(r"\b(until|while) .*; do\b", line):
            assert re.search(r"\btimeout\b", line), f"no end: {line}"


@pytest.mark.parametrize(("skipped", "code"), [(["debian12"], 0), (["debian12", "debian13"], 1)])
def test_a_test_that_is_skipped_on_every_server_fails(tmp_path: pathlib.Path, skipped: list[str], code: int) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPING.format(skipped=skipped))
    environment = os.environ | {"PYTEST_PLUGINS": "skips", "PYTHONPATH": str(ROOT / "molecule/plugins")}
    result = subprocess.run(
        ["pytest", "-q", "test_it.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert ("test_it.py::test_one[*]: skipped on every server" in result.stdout) == bool(code)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_server_compiles_the_same_bytes_once_and_never_takes_stale_code(tmp_path: pathlib.Path, zipped: bool) -> None:
    kept = tmp_path / "kept"
    run = f"""
import sys; sys.path[:0] = ["{ROOT}/roles/cloud_server/files/local", "{tmp_path}/{"one.zip" if zipped else ""}"]
import keep_bytecode; keep_bytecode.FOLDER = "{kept}"
compiled = []
inner = keep_bytecode.{"_compile_source" if zipped else "_source_to_code"}
def count(*arguments, **named):
    compiled.append(1)
    return inner(*arguments, **named)
keep_bytecode.{"_compile_source" if zipped else "_source_to_code"} = count
import one; print(one.VALUE, len(compiled) > 0, one.__file__ == one.path.__code__.co_filename)
"""

    def value(source: str) -> str:
        source += "\ndef path(): pass\n"
        if zipped:
            with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
                archive.writestr("one.py", source)
        else:
            (tmp_path / "one.py").write_text(source)
        return subprocess.check_output([sys.executable, "-B", "-c", run], text=True).strip()

    kept.write_text("in the way")
    assert value("VALUE = 1") == "1 True True", "where nothing can be kept it is compiled each time"
    kept.unlink()
    assert [value("VALUE = 1"), value("VALUE = 1"), value("VALUE = 2")] == [
        "1 True True",
        "1 False True",
        "2 True True",
    ]
    for file in kept.iterdir():
        file.write_bytes(file.read_bytes()[:5])
    assert [value("VALUE = 1"), value("VALUE = 1")] == ["1 True True", "1 False True"], "a full disk cut it off"


def test_processor_seconds_of_a_part_are_those_of_its_own_containers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = importlib.util.spec_from_file_location("suite", ROOT / "tests/suite.py")
    assert specification and specification.loader
    suite = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(suite)
    monkeypatch.setattr(suite.Servers, "is_ours", lambda self, container: container.startswith("mine"))

    def set_used(container: str, seconds: int) -> None:
        group = tmp_path / f"system.slice/docker-{container}.scope"
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.stat").write_text(f"usage_usec {seconds}000000\nuser_usec 1\n")

    set_used("mine-from-before", 100)
    servers = suite.Servers("molecule-mlflow_server", str(tmp_path))
    assert servers.names == ("mlflow-server-",)
    for mine, other in ((5, 7), (9, 8), (2, 9)):
        set_used("mine", mine)
        set_used("other", other)
        servers.sample()
    assert servers.seconds() == 11, "a restart begins at zero"


def test_a_container_cannot_move_its_port_and_the_run_says_so_first() -> None:
    command = ["ansible-playbook", "playbooks/create.yml", "-i", "inventory/local", "-e", "ssh_port=2222"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "default"}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 2
    assert "Take ssh_port out of the inventory of this server" in " ".join(result.stdout.split()), result.stdout
    assert "Make or find the server image" not in result.stdout
