"""Makes one file of a Python package: one task installs it, and Python takes it from standard input too."""

import pathlib
from typing import Any

PROGRAM = '''\
"""The package {package} in one file. Made of its sources; do not edit."""

import importlib.abc
import importlib.util
import runpy
import sys

SOURCES = {{
{sources}}}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports the modules above."""

    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            return importlib.util.spec_from_loader(name, self)

    def is_package(self, name):
        return name == "{package}"

    def get_source(self, name):
        return SOURCES[name]

    def get_filename(self, name):
        return name.replace(".", "/") + ".py"


sys.meta_path.insert(0, Finder())
runpy.run_module("{package}", run_name="__main__", alter_sys=True)
'''


def mlflow_server_program(folder: str) -> str:
    """The program that runs the package in the folder: the same text for the same sources.

    Raises:
        ValueError: there is no `__main__.py`, or a source cannot stand in a raw string.
    """
    package = pathlib.Path(folder).name
    sources = ""
    files = sorted(pathlib.Path(folder).glob("*.py"))
    if "__main__.py" not in [file.name for file in files]:
        raise ValueError(f"{folder} holds no __main__.py")
    for file in files:
        source = file.read_text(encoding="utf-8")
        if "'''" in source or source.endswith("\\"):
            raise ValueError(f"{file}: write \"\"\" instead of '''")
        name = package if file.stem == "__init__" else f"{package}.{file.stem}"
        sources += f"    \"{name}\": r'''{source}''',\n"
    return PROGRAM.format(package=package, sources=sources)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"mlflow_server_program": mlflow_server_program}
