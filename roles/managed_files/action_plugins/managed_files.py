"""Controller side of managed_files: renders and reads what is to be written, and sends it in one call."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

SOURCES = ("template", "src", "content")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is untyped
    """Replaces the names of templates and files by what is to be written, and runs the module of the same name."""

    _supports_check_mode = True
    _supports_async = False

    def needle(self, folder: str, name: str) -> str:
        try:
            return str(self._find_needle(folder, name))
        except AnsibleError as error:
            raise AnsibleActionFail(str(error)) from None

    def render(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> bytes:
        """Bytes of a template, made as ansible.builtin.template makes them."""
        source = self.needle("templates", entry["template"])
        folders = [*task_vars.get("ansible_search_path", []), self._loader.get_basedir(), os.path.dirname(source)]
        known = task_vars | generate_ansible_template_vars(entry["template"], fullpath=source, dest_path=entry["path"])
        if "ansible_managed" in task_vars:
            known["ansible_managed"] = task_vars["ansible_managed"]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for folder in folders for path in (os.path.join(folder, "templates"), folder)],
            available_variables=known | (entry.get("vars") or {}),
        )
        text = trust_as_template(self._loader.get_text_file_contents(source))
        try:
            rendered = templar.template(text, escape_backslashes=False)
        except AnsibleError as error:
            raise AnsibleActionFail(f"{entry['path']}, template {entry['template']}: {error}") from error
        return ("" if rendered is None else str(rendered)).encode()

    def read(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> bytes:
        """Bytes of a file: its template, its file or its text."""
        if entry.get("template") is not None:
            return self.render(entry, task_vars)
        if entry.get("content") is not None:
            return str(entry["content"]).encode()
        with open(self._loader.get_real_file(self.needle("files", entry["src"])), "rb") as file:
            return file.read()

    def expand(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """The entry itself, or entries of all that is in the folder that it names as its source."""
        if (
            entry.get("state") == "absent"
            or entry.get("src") is None
            or not os.path.isdir(top := self.needle("files", entry["src"]))
        ):
            return [entry]
        found = []
        # folders have the task's mode, with the right to enter
        bare = {name: value for name, value in entry.items() if name not in ("src", "validate", "mode")}
        for folder, below, names in os.walk(top, followlinks=True):
            below.sort()
            path = os.path.normpath(os.path.join(entry["path"], os.path.relpath(folder, top)))
            found.append(bare | {"path": path, "state": "directory"})
            found += [entry | {"path": f"{path}/{name}", "src": os.path.join(folder, name)} for name in sorted(names)]
        return found

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        entries = arguments.get("files")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "path" in entry for entry in entries):
            raise AnsibleActionFail("files must be a list of entries that each have a path")
        for entry in entries:
            # so that a condition is one word in a list
            if entry.get("state") == "absent":
                continue
            given = [name for name in SOURCES if entry.get(name) is not None]
            if len(given) != (entry.get("state", "file") == "file"):
                raise AnsibleActionFail(
                    f"{entry['path']} has {' and '.join(given) or 'neither'}: a file has one of template, src and"
                    " content, all else none"
                )
        entries = [one for entry in entries for one in self.expand(entry)]
        texts = {
            place: base64.b64encode(self.read(entry, task_vars)).decode()
            for place, entry in enumerate(entries)
            if entry.get("state", "file") == "file"
        }
        plain = [{name: entry[name] for name in entry if name not in (*SOURCES, "vars")} for entry in entries]
        packed = base64.b64encode(zlib.compress(json.dumps(texts).encode())).decode()
        arguments |= {"files": plain, "packed": packed}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return dict(result)
