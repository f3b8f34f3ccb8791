"""Controller side of conda_environment: reads environment.yml and the files that its pip section names."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# a requirements or constraints file inside such a file, as pip and uv read it
NESTED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)")
FILE_OPTIONS = ("-r", "-c", "--requirement", "--constraint")


def split_option(line: str) -> list[str]:
    """Words of a line of options, an option and its value apart: '-rx --no-deps' -> -r x --no-deps."""
    words: list[str] = []
    for word in shlex.split(line, comments=True):
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            words += [name, value]
        elif word[:2] in ("-r", "-c") and len(word) > 2 and not word.startswith("--"):
            words += [word[:2], word[2:]]
        else:
            words.append(word)
    return words


def read_pip_files(folder: str, names: list[str]) -> dict[str, str]:
    """Text of the named files and of those they name, by path in `folder`; ValueError on a bad one."""
    files: dict[str, str] = {}
    waiting = [os.path.normpath(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in files or "://" in name:
            continue
        if os.path.isabs(name) or name.startswith(".."):
            raise ValueError(f"it names {name}, which is not beside it: move that file into {folder}")
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                files[name] = file.read()
        except OSError as error:
            raise ValueError(f"it names {name}, and {folder}/{name} cannot be read: {error.strerror}") from None
        nested = (found[1] for found in map(NESTED.match, files[name].splitlines()) if found)
        waiting += [os.path.normpath(os.path.join(os.path.dirname(name), path)) for path in nested]
    return files


def read_environment(path: str) -> dict[str, Any]:
    """Arguments of the module from an environment.yml: what conda solves apart from what pip installs.

    Raises ValueError, which says what is wrong with the file and how to mend it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    dependencies = spec.get("dependencies") if isinstance(spec, dict) else None
    if not isinstance(dependencies, list) or not dependencies:
        raise ValueError("it has no list `dependencies`; write at least: dependencies: [python, pip]")

    packages: list[str] = []
    pip_lines: list[str] = []
    for entry in dependencies:
        if isinstance(entry, str):
            packages.append(entry)
        elif isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list):
            pip_lines += [str(line) for line in entry["pip"]]
        else:
            raise ValueError(f"in `dependencies`, {entry!r} is neither a package nor `pip:` with a list")

    options: list[str] = []
    requirements: list[str] = []
    for line in pip_lines:
        if line.startswith("-"):
            options += split_option(line)
        else:
            requirements.append(line)
        if line.startswith(("-e", "--editable", ".", "/", "file:")):
            raise ValueError(
                f"in its pip section, {line!r} is a local project: only -r and -c files travel to the host"
            )
    names = [value for name, value in itertools.pairwise(options) if name in FILE_OPTIONS]
    return {
        "conda_spec": {key: spec[key] for key in ("channels", "variables") if key in spec} | {"dependencies": packages},
        "pip_options": options,
        "pip_requirements": requirements,
        "pip_files": read_pip_files(os.path.dirname(os.path.abspath(path)), names),
    }


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is untyped
    """Replaces `file` by what is in it and runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        path = arguments.pop("file", None)
        if arguments.get("state", "present") == "present":
            if not path:
                raise AnsibleActionFail(
                    f"environment {arguments.get('name')}: give `file`, the path of an environment.yml"
                    " on the control machine"
                )
            path = self._loader.path_dwim(path)
            try:
                arguments |= read_environment(path)
            except ValueError as error:
                raise AnsibleActionFail(f"environment {arguments.get('name')}, file {path}: {error}") from None
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return dict(result)
