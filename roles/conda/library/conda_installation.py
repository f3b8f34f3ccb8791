#!/usr/bin/python
"""Ansible module: an installation of conda by a Miniforge installer (or one with its command line)."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import grp
import hashlib
import itertools
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: conda_installation
short_description: An installation of conda at a prefix
description:
  - A working installation of the wanted or a newer release at prefix is adopted; an older one is upgraded.
  - A new one that fails is removed whole. One that was interrupted is done again, its download continued.
  - One that others than root can write is refused, since root runs what is in it.
  - It is uninstalled only where this module made it.
options:
  prefix: {description: Folder of the installation., type: path, required: true}
  state:
    description: Whether it shall be there. checked only refuses a prefix that others than root can write.
    type: str
    choices: [present, absent, checked]
    default: present
  version: {description: Release of the installer. Required where state is present., type: str}
  url: {description: Where the installer comes from. Required where state is present., type: str}
  checksum: {description: "What it must be, as sha256:<hexadecimal>. Required where state is present.", type: str}
  free_space: {description: Free space needed at prefix, in MiB., type: int, default: 0}
  ca_bundle: {description: File of trusted certificate authorities., type: path}
  environment: {description: "Environment variables of all that is run. No others see them.", type: dict, default: {}}
  lock: {description: File that one build at a time holds., type: path}
"""

MARKER = ".ansible-conda"
# Inside the prefix: programs may run there, unlike in a hardened /tmp, and an interruption leaves a trace.
WORK = ".installing"
CONFIGURATION_ERROR = re.compile(r"^conda\.common\.configuration\.\w+", re.M)


def release(version: str) -> tuple[int, ...]:
    """Numbers of a conda version without the installer's build number: '26.3.2-3' -> (26, 3, 2)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("-")[0]))


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_through(path: str) -> None:
    """Write to disk what memory holds of the file system at a path: a power cut would lose the last half minute."""
    if subprocess.run(["sync", "-f", path], capture_output=True).returncode != 0:  # not coreutils
        os.sync()


def write_durably(path: str, content: object) -> None:
    """Write a JSON file that is there whole, or not at all, after a power cut."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.chmod(path + ".new", 0o644)
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


@contextlib.contextmanager
def taking_turns(lock: str | None) -> Iterator[None]:
    """Wait until no other build holds the lock, and hold it. Raises TimeoutError after an hour."""
    if not lock:
        yield
        return
    # root's alone: an account that can read a file can lock it
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for second in range(3601):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if second == 3600:
                    raise TimeoutError(
                        f"another build has held {lock} for an hour; see: sudo fuser -v {lock}"
                    ) from None
                time.sleep(1)
        yield
    finally:
        os.close(descriptor)


def routed(family: int, address: str) -> bool:
    """Whether this host has a way to an address; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return True
    return False


def without_way(url: str) -> str:
    """Host of a URL that has IPv4 addresses only where this host has IPv6 only; empty where that is not so."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    if not host or ((parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host)):
        return ""
    try:
        found = {(entry[0], str(entry[4][0])) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)}
    except OSError:
        return ""  # the download tells more of it
    # DNS64 gives addresses that NAT64 translates
    if any(routed(family, address) for family, address in found):
        return ""
    return host if {family for family, _ in found} == {socket.AF_INET} else ""


def last_lines(*outputs: str, count: int = 15) -> str:
    return "\n".join("\n".join(outputs).strip().splitlines()[-count:])


# what root runs or reads at each run, where others than root must not write
ROOTS_OWN = (
    *("", "bin", "bin/conda", "bin/python", "condabin", "condabin/conda", "etc", "etc/profile.d"),
    *("etc/profile.d/conda.sh", "lib", "lib/python3*", "lib/python3*/site-packages"),
    *("lib/python3*/site-packages/conda", "conda-meta", "pkgs", "envs", ".condarc", MARKER, WORK, ".making"),
)


def writer(path: str) -> str:
    """Say by whom other than root a file or folder can be written; empty when by nobody."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return ""  # cannot be written; what it names is looked at instead
    if found.st_uid not in (0, os.geteuid()):
        try:
            return f"belongs to {pwd.getpwuid(found.st_uid).pw_name}"
        except KeyError:
            return f"belongs to an account of number {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    if found.st_mode & stat.S_IWGRP:
        if found.st_gid not in (0, os.getegid()):
            try:
                return f"can be written by the group {grp.getgrgid(found.st_gid).gr_name}"
            except KeyError:
                return f"can be written by a group of number {found.st_gid}"
        with contextlib.suppress(OSError):
            if "system.posix_acl_access" in getattr(os, "listxattr", lambda _: ())(path):
                return "can be written by those whom its ACL names"
    return ""


def way_to(path: str, links: int = 40) -> Iterator[str]:
    """Everything that is passed on the way to a path, the targets of links included, and itself."""
    place = "/"
    for part in path.strip("/").split("/"):
        place = os.path.join(place, part)
        yield place
        if os.path.islink(place) and links:
            target = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
            yield from way_to(target, links - 1)
            place = os.path.realpath(place)


def weak_places_to(path: str) -> Iterator[tuple[str, str]]:
    """Places on the way to a path that others than root can write, and by whom."""
    way = [place for place in way_to(path) if os.path.lexists(place)]
    for place, following in zip(way, [*way[1:], ""], strict=True):
        reason = writer(place)
        # where a folder is sticky, as /tmp is, others cannot replace what is in it already
        sticky = os.lstat(place).st_mode & stat.S_ISVTX and os.path.dirname(following) == place
        if reason and not (sticky and reason.startswith("can be")):
            yield place, reason


def weak_inside(prefix: str) -> Iterator[tuple[str, str]]:
    """Files and folders of an installation that others than root can write; the environments are their owners'."""
    for folder, subfolders, files in os.walk(prefix):
        if folder == os.path.join(prefix, "envs"):
            subfolders.clear()
            continue
        for path in (os.path.join(folder, name) for name in subfolders + files):
            if os.path.islink(path):
                if not os.path.realpath(path).startswith(prefix + "/"):
                    yield from weak_places_to(path)
            elif reason := writer(path):
                yield path, reason


# in a URL, what stands before the @; or all of a variable by whose name it is one
CREDENTIALS = re.compile(r"://(?:[^/@:\s]*:)?([^/@\s]+)@")
CREDENTIAL_NAME = re.compile(r"PASS|TOKEN|SECRET|_KEY$", re.I)


def credentials(variables: dict[str, str]) -> set[str]:
    """Parts of variables that must not be printed."""
    found = {value for name, value in variables.items() if value and CREDENTIAL_NAME.search(name)}
    for value in variables.values():
        found.update(CREDENTIALS.findall(value))
    return found


def take_variables(module: AnsibleModule) -> None:
    """Give the module's environment variables to all that it runs.

    Those of a task (`environment:`) stand in a command line, which each account sees.
    """
    variables = {name: str(value) for name, value in (module.params["environment"] or {}).items()}
    os.environ.update(variables)
    # no_log keeps all of them out of the system's log; of what is printed, only what is secret
    module.no_log_values = credentials(variables | {"url": module.params.get("url") or ""})


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
        self.before = self.read_marker()
        self.interrupted = os.path.exists(self.work)
        self.broken = ""
        self.made_here = bool(self.before.get("made_here")) or os.path.exists(self.new)

    def fail(self, message: str) -> NoReturn:
        self.module.fail_json(msg=message)
        raise AssertionError  # fail_json does not return

    def read_marker(self) -> dict[str, Any]:
        """What was installed or adopted here; empty when this module never finished either."""
        # a pipe that somebody laid there would never be read to its end
        if os.path.isfile(self.marker):
            with contextlib.suppress(OSError, ValueError), open(self.marker, encoding="utf-8") as file:
                return dict(json.load(file))
        return {}

    def working_version(self) -> str:
        """Version of a conda that runs; empty when there is none, and then `self.broken` says why."""
        conda = os.path.join(self.prefix, "bin", "conda")
        if not os.path.exists(conda):
            self.broken = f"{conda} is missing"
            return ""
        # looking is not changing: no bytecode
        quiet = {"PYTHONDONTWRITEBYTECODE": "1"}
        # `conda --version` imports almost nothing since 26.5, so it also answers where conda cannot run
        rc, out, err = self.module.run_command([conda, "info", "--json"], environ_update=quiet)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if rc == 0:
                return str(json.loads(out)["conda_version"])
        if CONFIGURATION_ERROR.search(err):  # conda runs, and only refuses somebody's .condarc
            _, out, _ = self.module.run_command([conda, "--version"], environ_update=quiet)
            if found := re.fullmatch(r"conda (\S+)", out.strip()):
                return found[1]
        self.broken = f"`{conda} info --json` ended with status {rc}\n" + last_lines(out, err)
        return ""

    def write_marker(self) -> None:
        write_through(self.prefix)
        content = {key: self.p[key] for key in ("version", "checksum")}
        write_durably(self.marker, content | {"made_here": self.made_here})

    def download(self) -> str:
        """Path of the verified installer; what an interrupted run or connection left of it is continued."""
        url, want = self.p["url"], self.p["checksum"].removeprefix("sha256:")
        # the installer refuses to run under a name without .sh, and a URL may end in anything
        path = os.path.join(self.work, f"installer-{want[:12]}.sh")
        bundle = self.p["ca_bundle"] if self.p["ca_bundle"] and os.path.exists(self.p["ca_bundle"]) else None
        got = ""
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
                whole = getattr(answer, "status", None) != 206
                with answer, open(path, "wb" if whole else "ab") as file:
                    shutil.copyfileobj(answer, file, 1 << 20)
                got = sha256_of(path)
                if got == want:
                    return path
                if missing := getattr(answer, "length", 0):
                    raise EOFError(f"the connection ended {missing} bytes early")
                os.unlink(path)
                error = None
                if whole:
                    break
            except Exception as caught:  # urllib, ssl, socket and http.client each have their own
                error = caught
                if getattr(caught, "code", None) == 416:
                    os.unlink(path)  # longer than the server's: not the same file
        sums = f"sha256 {got} arrived from {url}, and {want} is wanted. " if got else ""
        if error is None:
            self.fail(
                f"{sums}Nothing was installed. If conda_version or the URL was changed on purpose, set"
                " conda_installer_checksums to the sums that the release publishes as <installer>.sha256."
            )
        self.fail(
            f"{url} could not be downloaded: {error}. {sums}The host needs to reach it; else let the machine that runs"
            " Ansible download it (conda_download_from: controller), behind a proxy set"
            " https_proxy in conda_environment_variables, for a mirror or a file on the host set"
            f" conda_installer_url. A private CA belongs into {self.p['ca_bundle']} (conda_ca_bundle)."
        )

    def weak_places(self) -> Iterator[tuple[str, str]]:
        """Those of the places that matter at each run which others than root can write, and by whom."""
        for pattern in ROOTS_OWN:
            for path in glob.glob(os.path.join(self.prefix, pattern).rstrip("/")) or [self.prefix]:
                yield from weak_places_to(path)

    def check_owner(self, everything: bool = False) -> None:
        """Fail where others than root can write what root runs; users' own environments are not looked into."""
        real = os.path.realpath(self.prefix)
        path, reason = next(itertools.chain(self.weak_places(), weak_inside(real) if everything else ()), ("", ""))
        if reason:
            inside = path == real or path.startswith(real + "/")
            mend = (
                f"chown -hR root:root {real} && chmod -R go-w {real}"
                if inside
                else (f"chown root:root {path} && chmod go-w {path}")
            )
            self.fail(
                f"{path} {reason}, and root runs what is in {self.prefix}. If nobody else needs to write there, look at"
                f" what it holds, then type on the host, as root: {mend}"
                + (" (environments in it become root's as well)." if inside else ".")
                + " Else set conda_prefix to another path, e.g. /opt/miniforge."
            )

    def check(self) -> None:
        """Fail, before anything changes, where an installation cannot succeed."""
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.p["checksum"]):
            self.fail(f"conda_installer_checksum must be sha256: and 64 hexadecimal digits, not {self.p['checksum']!r}")
        entries = set(os.listdir(self.prefix)) if os.path.isdir(self.prefix) else set()
        if os.path.lexists(self.prefix) and not os.path.isdir(self.prefix):
            self.fail(f"{self.prefix} is not a folder; remove it or set conda_prefix to another path")
        if entries and not entries & {WORK, MARKER, "_conda", "conda-meta", "pkgs"}:
            self.fail(
                f"{self.prefix} holds something else than conda ({', '.join(sorted(entries)[:5])});"
                " move it away or set conda_prefix to another path"
            )
        if host := without_way(self.p["url"]):
            self.fail(
                f"{host} has IPv4 addresses only and this host has no way to them. Let the machine that runs Ansible"
                " download conda and bring it: conda_download_from: controller. Or, behind a proxy set"
                " https_proxy in conda_environment_variables, for a mirror or a file on the host set"
                " conda_installer_url."
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
            write_durably(self.new, True)
        # with a marker it is finished, and only the removal of the folder was interrupted
        new = os.path.exists(self.new) and not self.before
        if new:
            self.wipe(but=WORK)
        os.makedirs(self.work, exist_ok=True)
        self.forget_half_packages()
        write_through(self.prefix)
        installer = ""
        try:
            installer = self.download()
            # -u also for a new one: the prefix is there already
            command = ["/bin/bash", installer, "-b", "-u", "-p", self.prefix]
            with tempfile.TemporaryDirectory(dir=self.work) as temporary:
                rc, out, err = self.module.run_command(
                    command, cwd=self.work, environ_update={"TMPDIR": temporary}, umask=0o022
                )
            if rc != 0:
                self.fail(
                    f"the installer {self.p['url']} failed with status {rc}; the next run starts afresh\n"
                    + last_lines(out, err)
                )
            if not self.working_version():
                self.fail(
                    f"the installer {self.p['url']} left a conda that does not work; the next run starts afresh:"
                    f" {self.broken}"
                )
        except SystemExit:  # fail_json
            if new:
                self.remove()
            elif not installer and not self.interrupted:
                shutil.rmtree(self.work)
            # else the folder stays, and says that what is here may be half of two versions
            raise
        if new:
            self.made_here = True
        elif not self.before:
            self.open_to_everyone()
        # an installer may have set the mode of its own temporary folder
        os.chmod(self.prefix, 0o755)
        self.write_marker()
        shutil.rmtree(self.work)

    def forget_half_packages(self) -> None:
        """Remember what the package cache holds; after an interruption, remove what has come since."""
        kept, cache = os.path.join(self.work, "kept"), os.path.join(self.prefix, "pkgs")
        names = set(os.listdir(cache)) if os.path.isdir(cache) else set()
        if self.interrupted:
            before: list[str] = []
            with contextlib.suppress(OSError, ValueError), open(kept, encoding="utf-8") as file:
                before = json.load(file)
            for name in names - set(before):
                path = os.path.join(cache, name)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            names &= set(before)
        write_durably(kept, sorted(names))

    def wipe(self, but: str = "") -> None:
        """Remove what is in the prefix."""
        for entry in set(os.listdir(self.prefix)) - {but}:
            path = os.path.join(self.prefix, entry)
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def remove(self) -> None:
        # what says that it is this module's goes last, so that an interrupted removal can be taken up again
        self.wipe(but=MARKER if self.before else WORK)
        self.wipe()
        with contextlib.suppress(OSError):  # a mount point stays
            os.rmdir(self.prefix)

    def open_to_everyone(self) -> None:
        """Undo the strict umask of an earlier installation."""
        everyone = stat.S_IRGRP | stat.S_IROTH
        for folder, subfolders, files in os.walk(self.prefix):
            # where others can write, a name may be a link by the time that it is used
            subfolders[:] = [name for name in subfolders if not writer(os.path.join(folder, name))]
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                mode = os.lstat(path).st_mode
                wanted = mode | everyone | (0o011 if mode & stat.S_IXUSR else 0)
                if not stat.S_ISLNK(mode) and wanted != mode:
                    os.chmod(path, stat.S_IMODE(wanted))

    def is_wanted(self) -> bool:
        """Whether the version that is wanted was installed or adopted here."""
        return all(self.before.get(key) == self.p[key] for key in ("version", "checksum"))

    def provide(self) -> tuple[str, str]:
        """Install, upgrade or adopt; returns which of them, and the version that is there then."""
        self.check_owner()
        if self.is_wanted():
            return "none", self.p["version"]
        self.check()
        self.check_owner(everything=not self.made_here)
        there = "" if self.interrupted else self.working_version()
        adopt = bool(there) and not self.before and release(there) >= release(self.p["version"])
        if adopt and not self.module.check_mode:
            self.open_to_everyone()
            self.write_marker()
        elif not self.module.check_mode:
            self.install()
        if adopt:
            return "adopted", there
        return "upgraded" if there else "installed", self.p["version"]

    def uninstall(self) -> tuple[str, str]:
        """Remove what this module installed; returns what was done, and that no version is there."""
        if not os.path.lexists(self.prefix) or (os.path.isdir(self.prefix) and not os.listdir(self.prefix)):
            return "none", ""
        if not self.made_here:
            self.fail(
                f"{self.prefix} was not made by this role, which leaves it alone. If nobody needs it:"
                f" rm -rf {self.prefix}"
            )
        if not self.module.check_mode:
            self.remove()
        return "removed", ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "checked"], "default": "present"},
            "version": {"type": "str"},
            "url": {"type": "str"},
            "checksum": {"type": "str"},
            "free_space": {"type": "int", "default": 0},
            "ca_bundle": {"type": "path"},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "lock": {"type": "path"},
        },
        required_if=[("state", "present", ("version", "url", "checksum"))],
        supports_check_mode=True,
    )
    os.umask(0o022)
    take_variables(module)
    installation = Installation(module)
    if module.params["state"] == "checked":
        installation.check_owner()
        module.exit_json(changed=False)
    idle = module.check_mode or installation.is_wanted()
    with taking_turns(None if idle else module.params["lock"]):
        # another build may have been at it
        installation = Installation(module)
        before = installation.before.get("version", "")
        action, after = installation.uninstall() if module.params["state"] == "absent" else installation.provide()
    module.exit_json(
        changed=action != "none",
        action=action,
        diff={
            "before_header": installation.prefix,
            "after_header": installation.prefix,
            "before": f"conda {before}\n" if before else "",
            "after": f"conda {after}\n" if after else "",
        },
    )


if __name__ == "__main__":
    main()
