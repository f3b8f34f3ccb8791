"""Controller side of conda_environment: reads an environment's files, and those that its pip section names."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Callable
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


def read_conda_file(path: str) -> dict[str, Any]:
    """Arguments of the module from an environment.yml or an explicit lock.

    Like its fellows it raises ValueError, which says what is wrong with the file and how to mend it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    if "@EXPLICIT" not in text.splitlines():
        return read_environment(text, os.path.dirname(os.path.abspath(path)))
    if re.search(r"^# pip ", text, re.M):
        raise ValueError("it names packages of pip in comments, which conda does not read: put them into a pip_file")
    return {"conda_file": text}


def read_pip_file(path: str) -> dict[str, Any]:
    """Arguments of the module from a hash-locked requirements file."""
    folder, name = os.path.split(os.path.abspath(path))
    files = read_pip_files(folder, [name])
    if "--hash=" not in "".join(files.values()):
        raise ValueError("it has no hashes; make it with: uv pip compile --universal --generate-hashes")
    return {"pip_options": ["--require-hashes", "-r", name], "pip_files": files}


def read_environment(text: str, folder: str) -> dict[str, Any]:
    """Arguments of the module from an environment.yml: what conda solves apart from what pip installs."""
    try:
        spec = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    dependencies = spec.get("dependencies") if isinstance(spec, dict) else None
    if not isinstance(dependencies, list) or not dependencies:
        raise ValueError("it has no list `dependencies`; write at least: dependencies: [python, pip]")

    channels = spec.get("channels") or []
    if not isinstance(channels, list) or not all(isinstance(channel, str) for channel in channels):
        raise ValueError(f"`channels` is {channels!r}, and must be a list of names, e.g. channels: [conda-forge]")
    if channels and set(channels) == {"nodefaults"}:
        raise ValueError(
            "`channels` names no channel beside nodefaults: add one, e.g. channels: [conda-forge, nodefaults]"
        )

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
    conda_spec = {key: spec[key] for key in ("channels", "variables") if key in spec} | {"dependencies": packages}
    return {
        # JSON is YAML; the order of keys does not make another environment
        "conda_file": json.dumps(conda_spec, sort_keys=True),
        "pip_options": options,
        "pip_requirements": requirements,
        "pip_files": read_pip_files(folder, names),
    }


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is untyped
    """Replaces the names of files by what is in them and runs the module of the same name."""

    _supports_async = True

    def read(self, reader: Callable[[str], dict[str, Any]], path: str) -> dict[str, Any]:
        path = self._loader.path_dwim(path)
        try:
            return reader(path)
        except ValueError as error:
            raise AnsibleActionFail(f"environment {self._task.args.get('name')}, file {path}: {error}") from None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        file, pip_file, python = (arguments.pop(name, None) for name in ("file", "pip_file", "python"))
        if arguments.get("state", "present") == "present":
            if bool(file) == bool(python):
                raise AnsibleActionFail(
                    f"environment {arguments.get('name')}: give either `file`, the path of an environment.yml or an"
                    " explicit lock on the control machine, or `python`, a version such as 3.12"
                )
            if file:
                arguments |= self.read(read_conda_file, file)
            else:
                arguments["conda_file"] = json.dumps({"dependencies": [f"python={python}", "pip"]})
            if pip_file and (arguments.get("pip_options") or arguments.get("pip_requirements")):
                raise AnsibleActionFail(
                    f"environment {arguments.get('name')}: {file} has a pip section and pip_file is {pip_file};"
                    " keep one of them"
                )
            if pip_file:
                arguments |= self.read(read_pip_file, pip_file)
        background = self._task.async_val
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=background))
        return dict(result)
