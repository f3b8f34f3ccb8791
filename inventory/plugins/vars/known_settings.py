"""Refuse, before anything runs, settings that Ansible cannot read or that nothing would ever use."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ansible import constants
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.loader import become_loader, connection_loader
from ansible.plugins.vars import BaseVarsPlugin
from ansible.utils.vars import load_extra_vars

DOCUMENTATION = """
name: known_settings
short_description: Refuse settings that Ansible cannot read or that nothing would ever use
description:
  - Reads what a person wrote into an inventory's folder (C(group_vars), C(host_vars), C(hosts.yml)) and after C(-e);
    adds no variable.
  - A file that is not YAML is an error that names file and line, which Ansible's own reader leaves out.
  - In a folder with C(group_vars/all/00-settings.yml), a name that neither the files linked there nor a role
    knows is an error that names the new or the nearest one. Names that begin with C(my_), or that a template of
    these files uses, are the person's own. C(vendor.yml) is an error there, since C(10-vendor.yml) has taken its place.
options:
  stage:
    description: When the plugin runs. With the inventory, it comes before the first task.
    type: str
    choices: [all, inventory, task]
    default: inventory
author: [The maintainers of this repository]
"""

ROOT = Path(__file__).resolve().parents[3]
COMMON = ("00-settings.yml", "00-wiring.yml")
# Ansible reads files by name, and the last one wins: the first is what it was called before.
VENDOR = ("vendor.yml", "10-vendor.yml")
# of earlier releases
RENAMED = {
    "container_key": "cloud_server_local_key",
    "container_known_hosts": "cloud_server_local_known_hosts",
    "container_name": "cloud_server_name",
    "container_restart_policy": "cloud_server_local_restart_policy",
    "container_suite": "cloud_server_image",
    "container_volumes": "cloud_server_local_volumes",
    "mlflow_server_backend_store_uri": "mlflow_server_backend",
}
HELP = (
    "What there is to set stands in inventory/settings.yml and in defaults/main.yml of each role. "
    "A name of your own begins with my_."
)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Name(NamedTuple):
    """A variable that a file sets, and the line where it does."""

    name: str
    line: int


def compose(text: str, file: str) -> yaml.Node | None:
    """The nodes of a YAML file, no tag resolved. Raises AnsibleParserError that names file and line."""
    try:
        node: yaml.Node | None = yaml.compose(text.encode(), Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        begun = error.context_mark.line + 1 if error.context_mark else line
        since = f", {error.context} that begins in line {begun}" if error.context and begun < line else ""
        raise AnsibleParserError(f"{file}, line {line}: this is not YAML: {error.problem}{since}") from None
    except yaml.YAMLError as error:
        raise AnsibleParserError(f"{file}: this is not YAML: {error}") from None
    unquoted(node, file)
    return node


def unquoted(node: yaml.Node | None, file: str) -> None:
    """Raises AnsibleParserError for a template without quotes, which YAML takes for a mapping in a mapping."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                raise AnsibleParserError(f'{file}, line {line}: quotes are missing around a template: "{{{{ … }}}}"')
            unquoted(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            unquoted(item, file)


def entries(node: yaml.Node | None) -> Iterator[tuple[Name, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield Name(str(key.value), key.start_mark.line + 1), value


def of_variables(node: yaml.Node | None, file: str) -> Iterator[Name]:
    """The names that a file of group_vars or host_vars sets. Raises AnsibleParserError where it sets none."""
    if node is not None and not isinstance(node, yaml.MappingNode) and getattr(node, "value", None):
        raise AnsibleParserError(f"{file}, line {node.start_mark.line + 1}: it must hold lines of the form NAME: value")
    for name, _ in entries(node):
        yield name


def of_groups(node: yaml.Node | None) -> Iterator[Name]:
    """The names that a static inventory's groups and hosts set."""
    for _, group in entries(node):
        for part, content in entries(group):
            if part.name == "vars":
                yield from (name for name, _ in entries(content))
            elif part.name == "hosts":
                for _, host in entries(content):
                    yield from (name for name, _ in entries(host))
            elif part.name == "children":
                yield from of_groups(content)


@cache
def of_roles() -> set[str]:
    names: set[str] = set()
    for file in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry_point in yaml.load(file.read_text(encoding="utf-8"), LOADER)["argument_specs"].values():
            names |= set(entry_point.get("options", {}))
    return names


@cache
def of_ansible() -> set[str]:
    """Names of Ansible's own by which it reaches a server."""
    names = {name for group in constants.MAGIC_VARIABLE_MAPPING.values() for name in group}
    plugins = (
        ("connection", connection_loader, "ssh"),
        ("become", become_loader, "sudo"),
        ("become", become_loader, "su"),
    )
    for kind, loader, plugin in plugins:
        loader.get(plugin, class_only=True)
        names |= set(constants.config.get_plugin_vars(kind, plugin))
    definitions = constants.config.get_configuration_definitions().values()
    return names | {variable["name"] for definition in definitions for variable in definition.get("vars", [])}


def unknown(names: list[Name], known: set[str], own: set[str]) -> Iterator[tuple[Name, str]]:
    """The names that nothing uses, each with its new or the nearest known one, or with an empty text."""
    for name in names:
        if name.name in known | own or name.name.startswith(("my_", "_")):
            continue
        if name.name in RENAMED:
            yield name, RENAMED[name.name]
            continue
        ansible = name.name.startswith("ansible_")
        near = difflib.get_close_matches(name.name, known, n=1, cutoff=0.85 if ansible else 0.6)
        # Ansible's other plugins have names of their own
        if near or not ansible:
            yield name, near[0] if near else ""


def used(text: str) -> set[str]:
    """Words that stand inside the templates of a file."""
    return {word for part in re.findall(r"\{[{%].*?[%}]\}", text, re.S) for word in re.findall(r"[A-Za-z_]\w*", part)}


@cache
def check(folder: str, loader: Any) -> None:
    """Read the files of an inventory's folder. Raises AnsibleParserError that says what is wrong with them."""
    here = Path(folder)
    found: list[tuple[str, list[Name]]] = []
    known, own = of_roles() | of_ansible(), set[str]()
    variables = sorted(path for part in ("group_vars", "host_vars") for path in here.glob(f"{part}/**/*"))
    # of another folder, where anything may lie, Ansible's own readers tell the inventory from the rest
    ours = (here / "group_vars/all" / COMMON[0]).exists()
    for path in variables:
        # Ansible passes over it, and the settings that it stood for are missing
        if path.is_symlink() and not path.exists():
            raise AnsibleParserError(
                f"{os.path.relpath(path)} is a link to {path.readlink()}, which is not there. What all folders share"
                " are links as in inventory/onprem, 00-settings.yml and 00-wiring.yml. Type: rm "
                f"{shlex.quote(str(path))}; cp -P {shlex.quote(str(ROOT))}/inventory/onprem/group_vars/all/00-*.yml "
                f"{shlex.quote(str(path.parent))}"
            )
    if ours and (old := here / "group_vars/all" / VENDOR[0]).exists():
        new = old.with_name(VENDOR[1])
        mend = (
            f"Put lines of your own into team.yml beside it, then type: rm {shlex.quote(str(old))}"
            if new.exists()
            else f"Type: mv {shlex.quote(str(old))} {shlex.quote(str(new))}"
        )
        raise AnsibleParserError(
            f"{os.path.relpath(old)} is called {new.name} now: under its old name it would win over team.yml. {mend}"
        )
    for path in [*variables, *(sorted(here.glob("*")) if ours else [])]:
        # as Ansible chooses them; a static inventory of another kind is left to its own reader
        kinds = (".yml", ".yaml") if path.parent == here else (".yml", ".yaml", ".json", "")
        if path.suffix not in kinds or path.name.startswith(".") or path.name.endswith("~") or not path.is_file():
            continue
        try:
            text = loader.get_text_file_contents(str(path))
        except AnsibleError:
            # a vault without its password: Ansible's own reader says so
            continue
        file = os.path.relpath(path)
        node = compose(text, file)
        names = list(of_groups(node) if path.parent == here else of_variables(node, file))
        if path.name in COMMON:
            known |= {name.name for name in names}
        else:
            own |= used(text)
            found.append((file, names))
    found.append(("-e", [Name(name, 0) for name in load_extra_vars(loader)]))
    faults = [
        file
        + (f", line {name.line}" if name.line else "")
        + (
            f": {name.name} is called {near} now."
            if name.name in RENAMED
            else f": there is no setting {name.name}." + (f" Is {near} meant?" if near else "")
        )
        for file, names in found
        for name, near in unknown(names, known, own)
    ]
    if ours and faults:
        raise AnsibleParserError("\n".join([*faults, HELP]))


class VarsModule(BaseVarsPlugin):  # type: ignore[misc]  # ansible-core is untyped
    """The check itself; see DOCUMENTATION."""

    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        """No variable; raises AnsibleParserError for the first folder with a fault."""
        super().get_vars(loader, path, entities)
        check(os.path.abspath(path), loader)
        return {}
