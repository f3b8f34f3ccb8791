"""The tool as one file: no container, and no MLflow."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROLE = pathlib.Path(__file__).parents[1]
TOOL = ROLE / "files/mlflow_admin"
spec = importlib.util.spec_from_file_location("program", ROLE / "filter_plugins/mlflow_server_program.py")
assert spec and spec.loader
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


@pytest.fixture
def package(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "sources/sample"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "store.py").write_text('"""Text with a \\n, "quotes" and ä."""\n\nPATTERN = r"\\d{2}"\n')
    (folder / "__main__.py").write_text(
        "import sys\n\nfrom .store import PATTERN, __doc__\n\n"
        'if __name__ == "__main__":\n    print(sys.argv[1:], PATTERN, ascii(__doc__), sys.stdin.read())\n'
    )
    return folder


def test_it_runs_from_a_file_and_from_standard_input(package: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = program.mlflow_server_program(str(package))
    file = tmp_path / "sample.py"
    file.write_text(text, encoding="utf-8")
    wanted = r"""['verb', '{"a": 1}'] \d{2} 'Text with a \n, "quotes" and \xe4.'"""
    for words, given, read in (([str(file)], "given", "given"), (["-"], text, "")):
        command = [sys.executable, *words, "verb", '{"a": 1}']
        run = subprocess.run(command, input=given, capture_output=True, text=True, cwd="/", encoding="utf-8")
        assert (run.stderr, run.stdout) == ("", f"{wanted} {read}\n")
    assert not list(tmp_path.glob("__pycache__"))


def test_the_same_sources_give_the_same_text(package: pathlib.Path) -> None:
    before = program.mlflow_server_program(str(package))
    # what tests and editors leave behind
    (package / "__pycache__").mkdir()
    (package / "__pycache__/store.cpython-311.pyc").write_bytes(b"\x00")
    (package / "store.py~").write_text("old")
    assert program.mlflow_server_program(str(package)) == before
    (package / "store.py").write_text("PATTERN = 1\n")
    assert program.mlflow_server_program(str(package)) != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("__main__.py", None, "sample holds no __main__.py"), ("store.py", "A = '''a'''\n", 'store.py: write """')],
)
def test_what_cannot_be_one_file_is_refused(
    package: pathlib.Path, name: str, content: str | None, message: str
) -> None:
    (package / name).unlink() if content is None else (package / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        program.mlflow_server_program(str(package))


def test_the_tool_can_be_one_file() -> None:
    text = program.mlflow_server_program(str(TOOL))
    compile(text, "mlflow_admin.py", "exec")


def test_no_module_of_the_tool_imports_in_a_circle() -> None:
    imports = {
        path.stem: {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.level and node.module
        }
        for path in TOOL.glob("*.py")
    }
    assert imports.pop("__main__") >= {"checks", "copies", "logins", "move", "store"}
    while ready := [name for name, needed in imports.items() if not needed & imports.keys()]:
        for name in ready:
            del imports[name]
    assert not imports, f"these import each other: {imports}"
