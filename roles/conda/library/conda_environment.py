#!/usr/bin/python
"""Ansible module: an environment of a conda installation, exactly as its inputs say."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: conda_environment
short_description: An environment of a conda installation, made from an environment.yml of the control machine
description:
  - conda solves the packages; uv installs the pip section where a lock in it pins uv by hash, else pip does.
  - A digest of all inputs is stored in the environment last, so an unchanged one costs no conda call.
  - A new environment that fails is removed. One that was interrupted is made anew by the next run.
options:
  name: {description: Name of the environment., type: str, required: true}
  file: {description: Path of its environment.yml on the control machine., type: str}
  state: {description: Whether it shall be there., type: str, choices: [present, absent], default: present}
  prefix: {description: Folder of the conda installation., type: path, required: true}
  free_space: {description: Free space that making it needs at prefix, in MiB., type: int, default: 0}
  ca_bundle: {description: File of trusted certificate authorities., type: path}
"""

# Raised when the module makes something else of the same inputs, so that environments are brought up to date.
RECIPE = 1
MARKER = ".ansible-environment"
# where the words that matter begin in the output of conda, pip and uv
TELLING = re.compile(r"error|not ?found|unsatisfiable|no solution|could not|failed|nothing provides|hashes", re.I)
UNREACHABLE = re.compile(
    r"CondaHTTPError|HTTP 000|ConnectionError|NewConnectionError|error sending request|Failed to fetch|"
    r"dns error|resolution|timed out|CERTIFICATE_VERIFY|invalid peer certificate|from versions: none",
    re.I,
)
LOCKED_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", re.M)


def normalized(name: str) -> str:
    """Name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(*parts: Any) -> str:
    """sha256 of any JSON values."""
    return hashlib.sha256(json.dumps([RECIPE, *parts], sort_keys=True).encode()).hexdigest()


def telling_lines(output: str, count: int = 15) -> str:
    """Lines of a tool's output that name the culprit: from the first that tells of one, else the last."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if TELLING.search(line)), max(0, len(lines) - count))
    return "\n".join(lines[start : start + count])


def uv_lines(files: dict[str, str]) -> str:
    """The line of a lock that pins uv by hash, continuation lines included; empty when there is none."""
    for text in files.values():
        found = re.search(r"^uv==(?:.*\\\n)*.*$", text, re.M)
        if found and "--hash" in found[0]:
            return found[0] + "\n"
    return ""


def foreign_distributions(environment: str, locked: set[str]) -> list[str]:
    """Distributions in the environment that neither conda installed nor the lock names."""
    conda_files: set[str] = set()
    for record in glob.glob(f"{environment}/conda-meta/*.json"):
        with open(record, encoding="utf-8") as file:
            conda_files.update(json.load(file).get("files", ()))
    foreign = []
    for metadata in glob.glob(f"{environment}/lib/python3*/site-packages/*.dist-info/METADATA"):
        name = os.path.basename(os.path.dirname(metadata)).split("-")[0]
        if os.path.relpath(metadata, environment) not in conda_files and normalized(name) not in locked:
            foreign.append(name)
    return sorted(foreign)


class Environment:
    """One environment of the installation at `prefix`."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.p = module.params
        self.prefix: str = self.p["prefix"]
        self.path = os.path.join(self.prefix, "envs", self.p["name"])
        self.marker = os.path.join(self.path, MARKER)
        # present while a new environment is being made, so that an interrupted one is known
        self.unfinished = os.path.join(self.prefix, "envs", f".unfinished-{self.p['name']}")
        self.wanted = {
            "conda": digest(self.p["conda_spec"]),
            "pip": digest(self.p["pip_options"], self.p["pip_requirements"], self.p["pip_files"]),
        }

    def made_from(self) -> dict[str, str]:
        """What the marker says; empty when it is not there, unfinished or not of this module's making."""
        try:
            with open(self.marker, encoding="utf-8") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def fail(self, what: str, output: str = "") -> NoReturn:
        message = f"environment {self.p['name']}: {what}"
        if output:
            message += "\n" + telling_lines(output)
        if UNREACHABLE.search(output):
            message += (
                "\nIf the host cannot reach the package servers, name mirrors: for conda in"
                " conda_condarc_extra.channel_alias; for pip and uv as PIP_INDEX_URL and UV_INDEX_URL in"
                " conda_environment_variables, where https_proxy goes as well."
            )
        self.module.fail_json(msg=message, output=output[-20000:])
        raise AssertionError  # fail_json does not return

    def run(self, what: str, command: list[str], folder: str) -> None:
        defaults = {
            "CONDA_ALWAYS_YES": "true",
            "CONDA_QUIET": "true",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            # on the same filesystem, so that uv links instead of copying
            "UV_CACHE_DIR": os.path.join(self.prefix, ".uv-cache"),
            # users of the environment cannot write its __pycache__
            "UV_COMPILE_BYTECODE": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        bundle = self.p["ca_bundle"]
        if bundle and os.path.exists(bundle):
            defaults |= {"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "PIP_CERT": bundle}
        environment = {key: value for key, value in defaults.items() if key not in os.environ}
        rc, out, err = self.module.run_command(command, cwd=folder, environ_update=environment, umask=0o022)
        if rc != 0:
            self.fail(what, f"{out}\n{err}")

    def install_with_pip(self, folder: str) -> None:
        """Install the pip section; removes what an earlier lock brought when this one is complete."""
        options, files = self.p["pip_options"], self.p["pip_files"]
        python = os.path.join(self.path, "bin", "python")
        pip = [python, "-m", "pip"]
        rc, _, _ = self.module.run_command([*pip, "--version"])
        if rc != 0:
            self.fail("it has a pip section but no pip; add `python` and `pip` to its dependencies")
        for name, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        targets: list[str] = []
        if self.p["pip_requirements"]:
            targets = ["-r", "requirements.of.environment.yml"]
            with open(os.path.join(folder, targets[1]), "w", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in self.p["pip_requirements"]))
        install, uninstall = [*pip, "install"], [*pip, "uninstall", "--yes"]
        lines = uv_lines(files)
        if lines:
            with open(os.path.join(folder, "uv.lock.txt"), "w", encoding="utf-8") as file:
                file.write(lines)
            uv_install = [*install, "--quiet", "--no-deps", "--require-hashes", "-r", "uv.lock.txt"]
            self.run("pip could not install uv", uv_install, folder)
            uv = [os.path.join(self.path, "bin", "uv"), "pip"]
            install, uninstall = [*uv, "install", "--python", python], [*uv, "uninstall", "--python", python]
        self.run(f"{'uv' if lines else 'pip'} could not install", [*install, *options, *targets], folder)
        if "--require-hashes" in options:
            texts = [*files.values(), *self.p["pip_requirements"]]
            locked = {normalized(name) for text in texts for name in LOCKED_NAME.findall(text)}
            foreign = foreign_distributions(self.path, locked)
            if foreign:
                self.run("could not remove what the lock no longer names", [*uninstall, *foreign], folder)

    def make(self, before: dict[str, str]) -> None:
        conda = os.path.join(self.prefix, "bin", "conda")
        if not os.path.exists(conda):
            self.fail(f"no conda at {self.prefix}; install it first, or correct `prefix`")
        free = shutil.disk_usage(self.prefix).free >> 20
        if free < self.p["free_space"]:
            self.fail(
                f"{self.prefix} has {free} MiB free and {self.p['free_space']} are wanted (conda_free_space);"
                f" make room, e.g. with: {conda} clean --all --yes"
            )
        if os.path.exists(self.unfinished):
            shutil.rmtree(self.path, ignore_errors=True)
        new = not os.path.exists(self.path)
        if new:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            with open(self.unfinished, "w", encoding="utf-8"):
                pass
        elif before:
            # from here on it is neither the old nor the new one, and the next run must see to it
            os.unlink(self.marker)
        folder = tempfile.mkdtemp(dir=self.module.tmpdir)
        spec = os.path.join(folder, "environment.yml")
        with open(spec, "w", encoding="utf-8") as file:
            json.dump(self.p["conda_spec"], file)
        made = False
        try:
            if new:
                self.run("conda could not create it", [conda, "env", "create", "-p", self.path, "-f", spec], folder)
            elif before.get("conda") != self.wanted["conda"]:
                update = [conda, "env", "update", "-p", self.path, "-f", spec, "--prune"]
                self.run("conda could not update it", update, folder)
            if self.p["pip_options"] or self.p["pip_requirements"]:
                self.install_with_pip(folder)
            with open(self.marker + ".new", "w", encoding="utf-8") as file:
                json.dump(self.wanted, file)
            os.chmod(self.marker + ".new", 0o644)
            os.replace(self.marker + ".new", self.marker)
            made = True
        finally:
            # fail_json leaves by SystemExit, so this also runs for a build that failed
            if new and not made:
                shutil.rmtree(self.path, ignore_errors=True)
            if new:
                os.unlink(self.unfinished)
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.path)
        if os.path.exists(self.unfinished):
            os.unlink(self.unfinished)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "prefix": {"type": "path", "required": True},
            "conda_spec": {"type": "dict"},
            "pip_options": {"type": "list", "elements": "str", "default": []},
            "pip_requirements": {"type": "list", "elements": "str", "default": []},
            "pip_files": {"type": "dict", "default": {}},
            "free_space": {"type": "int", "default": 0},
            "ca_bundle": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    name = module.params["name"]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name in ("base", "root"):
        module.fail_json(
            msg=f"environment {name!r}: a name is of letters, digits, '_', '-' and '.', begins with none of"
            " the last two, and is neither base nor root (the installation itself)"
        )
    environment = Environment(module)
    before = environment.made_from()
    if module.params["state"] == "absent":
        changed, after = os.path.lexists(environment.path), {}
    else:
        changed, after = before != environment.wanted, environment.wanted
    if changed and not module.check_mode:
        if module.params["state"] == "absent":
            environment.remove()
        else:
            environment.make(before)
    module.exit_json(
        changed=changed,
        path=environment.path,
        diff={
            "before_header": environment.path,
            "after_header": environment.path,
            "before": json.dumps(before, indent=2) + "\n",
            "after": json.dumps(after, indent=2) + "\n",
        },
    )


if __name__ == "__main__":
    main()
