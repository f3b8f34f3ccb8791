#!/usr/bin/python
"""Ansible module: an installation of conda by a Miniforge installer (or one with its command line)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: conda_installation
short_description: An installation of conda at a prefix
description:
  - A working installation of the wanted or a newer release at prefix is adopted; an older one is upgraded.
  - An interrupted installation is recognised and done again; its download is resumed.
options:
  prefix: {description: Folder of the installation., type: path, required: true}
  version: {description: Release of the installer., type: str, required: true}
  url: {description: Where the installer comes from., type: str, required: true}
  checksum: {description: "What it must be, as sha256:<hexadecimal>.", type: str, required: true}
  free_space: {description: Free space needed at prefix, in MiB., type: int, default: 0}
  ca_bundle: {description: File of trusted certificate authorities., type: path}
"""

MARKER = ".ansible-conda"
# Inside the prefix: programs may run there, unlike in a hardened /tmp, and an interruption leaves a trace.
WORK = ".installing"


def release(version: str) -> tuple[int, ...]:
    """Numbers of a conda version without the installer's build number: '26.3.2-3' -> (26, 3, 2)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("-")[0]))


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Installation:
    """The installation at `prefix`."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.p = module.params
        self.prefix: str = self.p["prefix"]
        self.marker = os.path.join(self.prefix, MARKER)
        self.work = os.path.join(self.prefix, WORK)
        # says that the prefix held nothing before
        self.new = os.path.join(self.work, "new")
        self.wanted = {"version": self.p["version"], "checksum": self.p["checksum"]}

    def fail(self, message: str, **details: str) -> NoReturn:
        self.module.fail_json(msg=message, **details)
        raise AssertionError  # fail_json does not return

    def installed_by_us(self) -> dict[str, str]:
        """What the marker says; empty when this module never finished an installation here."""
        try:
            with open(self.marker, encoding="utf-8") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def working_version(self) -> str:
        """Version of a conda that runs; empty when there is none."""
        conda = os.path.join(self.prefix, "bin", "conda")
        if not os.path.exists(conda):
            return ""
        rc, out, _ = self.module.run_command([conda, "--version"])
        found = re.fullmatch(r"conda (\S+)", out.strip())
        return found[1] if rc == 0 and found else ""

    def write_marker(self) -> None:
        with open(self.marker + ".new", "w", encoding="utf-8") as file:
            json.dump(self.wanted, file)
        os.chmod(self.marker + ".new", 0o644)
        os.replace(self.marker + ".new", self.marker)

    def download(self) -> str:
        """Path of the verified installer; a partial download is continued where the server can."""
        url, want = self.p["url"], self.p["checksum"].removeprefix("sha256:")
        path = os.path.join(self.work, url.rsplit("/", 1)[-1])
        bundle = self.p["ca_bundle"] if self.p["ca_bundle"] and os.path.exists(self.p["ca_bundle"]) else None
        error: Exception | None = None
        for attempt in range(4):
            have = os.path.getsize(path) if os.path.exists(path) else 0
            if have and sha256_of(path) == want:
                return path
            try:
                if attempt:
                    time.sleep(2**attempt)
                headers = {"Range": f"bytes={have}-"} if have else {}
                answer = open_url(url, headers=headers, timeout=30, ca_path=bundle)
                mode = "ab" if getattr(answer, "status", None) == 206 else "wb"
                with answer, open(path, mode) as file:
                    shutil.copyfileobj(answer, file, 1 << 20)
                error = None
            except Exception as caught:  # urllib, ssl, socket and http.client each have their own
                error = caught
                if getattr(caught, "code", None) == 416:
                    os.unlink(path)  # longer than the server's: not the same file
                continue
            got = sha256_of(path)
            if got == want:
                return path
            os.unlink(path)
            if not have:
                self.fail(
                    f"{url} has sha256 {got}, and {want} is wanted. Nothing was installed. If"
                    " conda_version or the URL was changed on purpose, set conda_installer_checksums to"
                    " the sums that the release publishes as <installer>.sha256."
                )
        self.fail(
            f"{url} could not be downloaded: {error}. The host needs to reach it; behind a proxy set"
            " https_proxy in conda_environment_variables, for a mirror or a file on the host set"
            f" conda_installer_url. A private CA belongs into {self.p['ca_bundle']} (conda_ca_bundle)."
        )

    def check(self) -> None:
        """Fail, before anything changes, where an installation cannot succeed."""
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.p["checksum"]):
            self.fail(f"conda_installer_checksum must be sha256: and 64 hexadecimal digits, not {self.p['checksum']!r}")
        entries = set(os.listdir(self.prefix)) if os.path.isdir(self.prefix) else set()
        if os.path.lexists(self.prefix) and not os.path.isdir(self.prefix):
            self.fail(f"{self.prefix} is no folder; remove it or set conda_prefix to another path")
        if entries and not entries & {WORK, MARKER, "conda-meta", "pkgs"}:
            self.fail(
                f"{self.prefix} holds something else than conda ({', '.join(sorted(entries)[:5])});"
                " move it away or set conda_prefix to another path"
            )
        parent = self.prefix
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        free = shutil.disk_usage(parent).free >> 20
        if free < self.p["free_space"]:
            self.fail(
                f"{parent} has {free} MiB free and {self.p['free_space']} are wanted (conda_free_space);"
                " make room or set conda_prefix to a folder of a larger filesystem"
            )

    def install(self) -> None:
        """Install, or upgrade in place."""
        if not os.path.isdir(self.prefix) or not os.listdir(self.prefix):
            os.makedirs(self.work)
            with open(self.new, "w", encoding="utf-8"):
                pass
        elif os.path.exists(self.new):
            # interrupted while nothing but the installer had been here
            for entry in set(os.listdir(self.prefix)) - {WORK}:
                path = os.path.join(self.prefix, entry)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.makedirs(self.work, exist_ok=True)
        installer = self.download()
        # -u also for a new one: the prefix is there already
        command = ["/bin/bash", installer, "-b", "-u", "-p", self.prefix]
        with tempfile.TemporaryDirectory(dir=self.work) as temporary:
            rc, out, err = self.module.run_command(
                command, cwd=self.work, environ_update={"TMPDIR": temporary}, umask=0o022
            )
        if rc != 0 or not self.working_version():
            last = "\n".join((out + "\n" + err).strip().splitlines()[-15:])
            self.fail(f"the installer {self.p['url']} failed with status {rc}; the next run starts afresh\n{last}")
        # an installer may have set the mode of its own temporary folder
        os.chmod(self.prefix, 0o755)
        self.write_marker()
        shutil.rmtree(self.work)

    def open_to_everyone(self) -> None:
        """Undo a strict umask of whoever installed the conda that is adopted."""
        everyone = stat.S_IRGRP | stat.S_IROTH
        for folder, _, files in os.walk(self.prefix):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                mode = os.lstat(path).st_mode
                wanted = mode | everyone | (0o011 if mode & stat.S_IXUSR else 0)
                if not stat.S_ISLNK(mode) and wanted != mode:
                    os.chmod(path, stat.S_IMODE(wanted))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "checksum": {"type": "str", "required": True},
            "free_space": {"type": "int", "default": 0},
            "ca_bundle": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    installation = Installation(module)
    before = installation.installed_by_us()
    if before == installation.wanted:
        module.exit_json(changed=False, action="none")
    installation.check()
    interrupted = os.path.exists(installation.work)
    there = "" if interrupted else installation.working_version()
    adopt = bool(there) and not before and release(there) >= release(module.params["version"])
    if not module.check_mode:
        if adopt:
            installation.open_to_everyone()
            installation.write_marker()
        else:
            installation.install()
    after = there if adopt else module.params["version"]
    module.exit_json(
        changed=True,
        action="adopted" if adopt else "upgraded" if there else "installed",
        diff={
            "before_header": installation.prefix,
            "after_header": installation.prefix,
            "before": f"conda {before.get('version', there)}\n" if before or there else "",
            "after": f"conda {after}\n",
        },
    )


if __name__ == "__main__":
    main()
