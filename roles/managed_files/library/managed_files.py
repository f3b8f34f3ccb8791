#!/usr/bin/python
"""Ansible module: a list of files, folders, links and absences, compared and written in one call."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import zlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: managed_files
short_description: Write a list of files, folders and links in one call
description:
  - The entries are taken in order. What is as it should be is left alone.
  - A file is written whole or not at all.
  - If its check fails, the old file stays. What stood before it in the list is written.
  - A link in place of a file is replaced, not followed.
options:
  files:
    description: The entries.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path on the server., type: str, required: true}
      template: {description: A template of the role., type: str}
      vars: {description: Further variables of the template., type: dict}
      src: {description: A file of the role or a folder with all that is in it., type: str}
      content: {description: The text itself., type: str}
      state:
        description: Kind of the entry.
        type: str
        choices: [file, directory, link, absent]
        default: file
      target: {description: Where a link leads., type: str}
      owner: {description: Owner of this entry., type: str}
      group: {description: Group of this entry., type: str}
      mode: {description: Octal permissions of this entry., type: str}
      validate:
        description: Command that checks the new file, by its own name in another folder. Its path replaces C(%s).
        type: str
  owner: {description: Owner of entries without one., type: str}
  group: {description: Group of entries without one., type: str}
  mode:
    description: Octal permissions of entries without any. A folder gets the right to enter besides.
    type: str
    default: "0644"
  packed: {description: Contents of the files. The action plugin fills it., type: str}
"""

RETURN = r"""
paths: {description: Paths of the entries that changed., returned: always, type: list, elements: str}
"""

# longer texts are not compared line by line, as with Ansible's own modules
LONGEST_DIFF = 104448


class Failed(Exception):
    """What went wrong with an entry."""


def unpack(packed: str) -> dict[int, bytes]:
    """The files' bytes by their entry's place in the list."""
    texts = json.loads(zlib.decompress(base64.b64decode(packed)))
    return {int(place): base64.b64decode(text) for place, text in texts.items()}


def kind(path: str) -> str:
    """What lies at a path, a link not followed."""
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        # below a file there is nothing
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "absent"
        raise
    known = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return known.get(stat.S_IFMT(mode), "something else")


def readable(content: bytes) -> str:
    """Text for a diff, or why there is none."""
    if len(content) > LONGEST_DIFF:
        return f"({len(content)} bytes, too long to compare)\n"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"({len(content)} bytes that are not text)\n"


def write_through(folder: str) -> None:
    """Write a folder's names to disk, which a power cut would lose."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer:
    """Makes the entries one after the other and keeps what changed."""

    def __init__(self, module: AnsibleModule, contents: dict[int, bytes]) -> None:
        self.module = module
        self.contents = contents
        self.changed: list[str] = []
        self.diffs: list[dict[str, Any]] = []

    def attributes(self, entry: dict[str, Any]) -> dict[str, Any]:
        given = {
            name: self.module.params[name] if entry.get(name) is None else entry[name]
            for name in ("owner", "group", "mode")
        }
        if entry["state"] == "directory" and entry.get("mode") is None:
            # whoever may read a folder may enter it
            mode = int(given["mode"], 8)
            given["mode"] = f"{mode | (mode & 0o444) >> 2:04o}"
        if entry["state"] == "link":
            del given["mode"]
        return dict(self.module.load_file_common_arguments(given, path=entry["path"]))

    def set_attributes(self, entry: dict[str, Any]) -> bool:
        """Correct owner, group and mode. Returns whether anything had to be corrected."""
        diff: dict[str, Any] = {}
        wrong = bool(self.module.set_fs_attributes_if_different(self.attributes(entry), False, diff))
        if wrong:
            header = f"{entry['path']} (attributes)"
            self.diffs.append({"before_header": header, "after_header": header} | diff)
        return wrong

    def note(self, path: str, before: str, after: str) -> None:
        self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def directory(self, entry: dict[str, Any], place: int) -> bool:
        path, found = entry["path"], kind(entry["path"])
        if os.path.isdir(path):
            return self.set_attributes(entry | {"path": os.path.realpath(path)})
        if found != "absent":
            raise Failed(f"it is not a folder but a {found}: move it away (sudo mv {path} {path}.old)")
        self.note(path, "state: absent\n", "state: directory\n")
        if self.module.check_mode:
            return True
        missing = [path]
        while kind(parent := os.path.dirname(missing[-1])) == "absent":
            missing.append(parent)
        for folder in reversed(missing):
            # nobody else gets in before owner and mode are right
            os.mkdir(folder, 0o700)
            self.module.set_fs_attributes_if_different(self.attributes(entry | {"path": folder}), True)
        return True

    def link(self, entry: dict[str, Any], place: int) -> bool:
        path, target, found = entry["path"], entry["target"], kind(entry["path"])
        if found not in ("link", "absent"):
            raise Failed(f"it is not a link but a {found}: move it away (sudo mv {path} {path}.old)")
        before = os.readlink(path) if found == "link" else ""
        if before == target:
            return self.set_attributes(entry)
        self.note(path, f"link to: {before}\n" if before else "state: absent\n", f"link to: {target}\n")
        if self.module.check_mode:
            return True
        if not os.path.exists(os.path.join(os.path.dirname(path), target)):
            raise Failed(f"it would lead to {target}, which is not there")
        beside = tempfile.mkdtemp(prefix=".ansible-", dir=os.path.dirname(path))
        try:
            os.symlink(target, f"{beside}/link")
            os.rename(f"{beside}/link", path)
        finally:
            shutil.rmtree(beside)
        self.module.set_fs_attributes_if_different(self.attributes(entry), True)
        return True

    def absent(self, entry: dict[str, Any], place: int) -> bool:
        path, found = entry["path"], kind(entry["path"])
        if found == "absent":
            return False
        self.note(path, f"state: {found}\n", "state: absent\n")
        if not self.module.check_mode:
            if found == "directory":
                shutil.rmtree(path)
            else:
                os.unlink(path)
        return True

    def file(self, entry: dict[str, Any], place: int) -> bool:
        path, found, content = entry["path"], kind(entry["path"]), self.contents[place]
        if found == "directory":
            raise Failed(f"it is a folder, not a file: move it away (sudo mv {path} {path}.old)")
        if found == "something else":
            raise Failed(f"it is not a file: remove it (sudo rm {path})")
        before = b""
        if found == "file":
            with open(path, "rb") as file:
                before = file.read()
            if before == content:
                return self.set_attributes(entry)
        if self.module._diff:
            self.note(path, readable(before), readable(content))
        folder = os.path.dirname(path)
        # its folder may be what an earlier task would have made
        if self.module.check_mode:
            return True
        if not os.path.isdir(folder):
            raise Failed(f"its folder {folder} is not there")
        # by its own name, which systemd-analyze reads
        new = os.path.join(tempfile.mkdtemp(dir=self.module.tmpdir), os.path.basename(path))
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if entry.get("validate"):
            code, output, errors = self.module.run_command(entry["validate"] % new)
            if code != 0:
                said = (errors.strip() or output.strip()).replace(new, path)
                raise Failed(f"its check failed and the old file stays: {said or f'exit code {code}'}")
        # never with the old file's, which might let more people read it
        self.module.set_fs_attributes_if_different(self.attributes(entry | {"path": new}), True)
        self.module.atomic_move(new, path, unsafe_writes=False, keep_dest_attrs=False)
        # what atomic_move changes of a file that was not there
        self.module.set_fs_attributes_if_different(self.attributes(entry), True)
        write_through(folder)
        return True

    def make(self, entry: dict[str, Any], place: int) -> None:
        """Make one entry.

        Raises:
            Failed: it cannot be made; the message says why.
            OSError: the system refused.
        """
        if getattr(self, entry["state"])(entry, place):
            self.changed.append(entry["path"])


def faults(files: list[dict[str, Any]], contents: dict[int, bytes], default: str) -> list[str]:
    """What is wrong with the list itself, found before anything is written."""
    found = []
    for place, entry in enumerate(files):
        mode = default if entry.get("mode") is None else entry["mode"]
        if not os.path.isabs(entry["path"]):
            found.append(f"{entry['path']} is not an absolute path")
        if (entry["state"] == "link") != (entry.get("target") is not None):
            found.append(f"{entry['path']}: a link, and nothing else, has a target")
        if (entry["state"] == "file") != (place in contents):
            found.append(f"{entry['path']}: a file, and nothing else, has one of template, src and content")
        if not re.fullmatch(r"[0-7]{4}", mode):
            found.append(f'{entry["path"]}: mode {mode} is not octal; quote it, as "0644"')
        if "%s" not in (entry.get("validate") or "%s"):
            found.append(f"{entry['path']}: validate has no %s for the file's path")
    return found


def run(module: AnsibleModule, files: list[dict[str, Any]], contents: dict[int, bytes]) -> None:
    """Make the entries and end the module."""
    writer = Writer(module, contents)
    for place, entry in enumerate(files):
        try:
            writer.make(entry, place)
        except (Failed, OSError) as error:
            done = f" Written before it: {', '.join(writer.changed)}." if writer.changed else ""
            module.fail_json(msg=f"{entry['path']}: {error}.{done}", path=entry["path"], paths=writer.changed)
    module.exit_json(changed=bool(writer.changed), paths=writer.changed, diff=writer.diffs)


def main() -> None:
    attributes = {"owner": {"type": "str"}, "group": {"type": "str"}}
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "template": {"type": "str"},
                    "vars": {"type": "dict"},
                    "src": {"type": "str"},
                    "content": {"type": "str"},
                    "state": {"type": "str", "default": "file", "choices": ["file", "directory", "link", "absent"]},
                    "target": {"type": "str"},
                    "mode": {"type": "str"},
                    "validate": {"type": "str"},
                    **attributes,
                },
            },
            "mode": {"type": "str", "default": "0644"},
            # neither the journal nor -vvv shows what may be secret
            "packed": {"type": "str", "no_log": True},
            **attributes,
        },
        supports_check_mode=True,
    )
    files = module.params["files"]
    contents = unpack(module.params["packed"]) if module.params["packed"] else {}
    if wrong := faults(files, contents, module.params["mode"]):
        module.fail_json(msg="; ".join(wrong) + ". Nothing was changed.")
    # a new file is nobody else's to read before its mode is set; put back, since a process may run several modules
    mask = os.umask(0o077)
    try:
        run(module, files, contents)
    finally:
        os.umask(mask)


if __name__ == "__main__":
    main()
