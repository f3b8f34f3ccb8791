#!/usr/bin/python
"""Ansible module: an environment of a conda installation, exactly as its inputs say."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: conda_environment
short_description: An environment of a conda installation, made from files of the control machine
description:
  - conda installs the packages; uv installs the pip part where a lock in it pins uv by hash, else pip does.
  - A digest of all inputs is stored in the environment last, so an unchanged one costs no conda call.
  - What a power cut may have left half-written in the caches of conda and uv is removed first.
  - A changed one is rebuilt while the old one is set aside. If that or its proof fails, the old one, or none, stays.
options:
  name: {description: Name of the environment., type: str, required: true}
  file: {description: Path of its environment.yml or explicit lock on the control machine., type: str}
  pip_file: {description: Path of a hash-locked requirements file for pip on the control machine., type: str}
  python: {description: "Python of an environment without `file`, as conda writes versions.", type: str}
  proof: {description: Python code that must run in a new environment before the old one is removed., type: str}
  state: {description: Whether it shall be there., type: str, choices: [present, absent], default: present}
  prefix: {description: Folder of the conda installation., type: path, required: true}
  free_space: {description: Free space that making it needs at prefix, in MiB., type: int, default: 0}
  ca_bundle: {description: File of trusted certificate authorities., type: path}
  environment: {description: "Environment variables of all that is run. No others see them.", type: dict, default: {}}
  lock: {description: File that one build at a time holds., type: path}
"""

# Raised if the module makes something else of the same inputs, to rebuild environments.
RECIPE = 2
MARKER = ".ansible-environment"
# where in a new environment the one before it waits for its removal
OLD = ".before"
PROOF_SECONDS = "600"
# where the words that matter begin in the output of conda, pip and uv
TELLING = re.compile(r"error|not ?found|unsatisfiable|no solution|could not|failed|nothing provides|hashes", re.I)
# what conda says of packages in its cache that are not whole
DAMAGED = re.compile(r"appears to be corrupted|CorruptedPackage|JSONDecodeError|Expecting value: line 1")
# each host and file is tried again several times: lines that crowd out what failed in the end
RETRYING = re.compile(r"Retrying \(Retry\(|conda\.notices\.")
UNREACHABLE = re.compile(
    r"CondaHTTPError|HTTP 000|ProxyError|ConnectionError|NewConnectionError|error sending request|Failed to fetch|"
    r"dns error|resolution|timed out|CERTIFICATE_VERIFY|invalid peer certificate|from versions: none",
    re.I,
)


def telling_lines(output: str, count: int = 15) -> str:
    """Lines of a tool's output that name the culprit: from the first that tells of one, else the last."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and not RETRYING.search(line)]
    start = next((i for i, line in enumerate(lines) if TELLING.search(line)), max(0, len(lines) - count))
    return "\n".join(lines[start : start + count])


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


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def uv_lines(files: dict[str, str]) -> str:
    """The line of a lock that pins uv by hash, continuation lines included; empty when there is none."""
    for text in files.values():
        found = re.search(r"^uv==(?:.*\\\n)*.*$", text, re.M)
        if found and "--hash" in found[0]:
            return found[0] + "\n"
    return ""


def foreign_files(environment: str) -> list[str]:
    """Files in the environment that no package brought and Python does not import, relative to it."""
    known: set[str] = {MARKER}
    for record in glob.glob(f"{environment}/conda-meta/*.json"):
        # the record of a package that was interrupted may be half-written
        with open(record, encoding="utf-8") as file, contextlib.suppress(ValueError):
            known.update(json.load(file).get("files", ()))
    for record in glob.glob(f"{environment}/lib/python3*/site-packages/*.dist-info/RECORD"):
        site = os.path.dirname(os.path.dirname(record))
        with open(record, encoding="utf-8", newline="") as file:
            known.update(os.path.relpath(os.path.join(site, row[0]), environment) for row in csv.reader(file) if row)
    found = []
    for folder, subfolders, files in os.walk(environment):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.relpath(os.path.join(folder, name), environment) for name in files + links]
    brought = ("conda-meta/", "lib/python3", OLD + "/")
    return sorted(path for path in found if not (path in known or path.startswith(brought) or path.endswith(".pyc")))


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
    module.no_log_values = credentials(variables)


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


class Environment:
    """One environment of the installation at `prefix`."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.p = module.params
        self.prefix: str = self.p["prefix"]
        self.path = os.path.join(self.prefix, "envs", self.p["name"])
        self.marker = os.path.join(self.path, MARKER)
        # What was here before, or an empty folder; while it is there, what stands at the path is unfinished.
        self.aside = os.path.join(self.prefix, "envs", f".before-{self.p['name']}")
        # beside the environments, since programs may not be allowed to run in /tmp
        self.work = os.path.join(self.prefix, ".making")
        # packages that conda's cache held before; what came since may be in memory only
        self.kept = os.path.join(self.work, "kept")
        self.writes_cache = False
        inputs = [RECIPE] + [self.p[key] for key in ("conda_file", "pip_options", "pip_requirements", "pip_files")]
        self.wanted = {"inputs": hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}

    def made_from(self) -> dict[str, str]:
        """What the marker says; empty when it is not there or not of this module's making."""
        # a pipe that somebody laid there would never be read to its end
        if os.path.isfile(self.marker):
            with contextlib.suppress(OSError, ValueError), open(self.marker, encoding="utf-8") as file:
                return dict(json.load(file))
        return {}

    def fail(self, what: str, output: str = "") -> NoReturn:
        message = f"environment {self.p['name']}: {what}"
        if output:
            message += "\n" + telling_lines(output)
        if UNREACHABLE.search(output):
            message += (
                "\nIf the host cannot reach the package servers, name mirrors: for conda in"
                " conda_condarc_extra.channel_alias; for pip and uv as PIP_INDEX_URL and UV_DEFAULT_INDEX in"
                " conda_environment_variables, where https_proxy goes as well."
            )
        self.module.fail_json(msg=message, output=output[-20000:])
        raise AssertionError  # fail_json does not return

    def uv_cache(self) -> str:
        # by default on the same filesystem, so that uv links instead of copying
        return os.environ.get("UV_CACHE_DIR") or os.path.join(self.prefix, ".uv-cache")

    def in_use(self) -> str:
        """There while a build of any role writes into uv's cache; beside it, since servers may share the cache."""
        return self.uv_cache().rstrip("/") + ".in-use"

    def empty_caches(self, kept: Iterable[str] = ()) -> None:
        """Remove the packages that conda and uv keep, but for those of conda's that are named."""
        cache = os.path.join(self.prefix, "pkgs")
        for name in set(os.listdir(cache)) - set(kept) if os.path.isdir(cache) else ():
            remove(os.path.join(cache, name))
        # answers of servers
        remove(os.path.join(cache, "cache"))
        self.empty_uv_cache()

    def empty_uv_cache(self) -> None:
        cache = self.uv_cache()
        if os.path.exists(os.path.join(cache, "CACHEDIR.TAG")):
            for name in os.listdir(cache):
                if re.fullmatch(r"[a-z-]+-v\d+", name):
                    remove(os.path.join(cache, name))

    def recover(self) -> bool:
        """Throw away what was being written when a run was cut off; whether there is such a thing."""
        if not os.path.lexists(self.work):
            return False
        if not self.module.check_mode:
            kept: list[str] = []
            with contextlib.suppress(OSError, ValueError), open(self.kept, encoding="utf-8") as file:
                kept = list(json.load(file))
            self.empty_caches(kept)
            remove(self.work)
        return True

    def run(self, *command: str) -> tuple[int, str]:
        """Status and output of a command that makes the environment."""
        defaults = {
            "CONDA_ALWAYS_YES": "true",
            "CONDA_QUIET": "true",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "TMPDIR": self.work,
            "UV_CACHE_DIR": self.uv_cache(),
            # users of the environment cannot write its __pycache__
            "UV_COMPILE_BYTECODE": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        bundle = self.p["ca_bundle"]
        if bundle and os.path.exists(bundle):
            defaults |= {"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "PIP_CERT": bundle}
        environment = {key: value for key, value in defaults.items() if key not in os.environ}
        rc, out, err = self.module.run_command(list(command), cwd=self.work, environ_update=environment, umask=0o022)
        return rc, f"{out}\n{err}"

    def write(self, name: str, text: str) -> str:
        """Write a file of the work folder; returns its name."""
        path = os.path.join(self.work, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return name

    def create(self, conda: str) -> None:
        """Let conda make it; once more without its cache, where a power cut has left empty files there."""
        command = [conda, *self.create_arguments(conda), "--prefix", self.path]
        rc, output = self.run(*command)
        if DAMAGED.search(output) or (rc == 0 and self.cannot_run()):
            remove(self.path)
            self.empty_caches()
            rc, output = self.run(*command)
        if rc != 0:
            self.fail("conda could not create it", output)

    def cannot_run(self) -> bool:
        """Whether it has a Python, and this does not start."""
        if not glob.glob(f"{self.path}/conda-meta/python-[0-9]*.json"):
            return False
        with contextlib.suppress(OSError):
            python = os.path.join(self.path, "bin", "python")
            return bool(self.module.run_command([python, "-c", "import encodings, site"], umask=0o022)[0] != 0)
        return True

    def create_arguments(self, conda: str) -> list[str]:
        """Arguments by which conda makes what its file says, which is written here."""
        text: str = self.p["conda_file"]
        if "@EXPLICIT" in text.splitlines():
            return ["create", "--file", self.write("lock.txt", text)]
        spec = json.loads(text)
        channels = spec.get("channels") or []
        if "nodefaults" in channels and self.conda_release(conda) >= (26, 7):
            # since 26.7 conda takes it for the name of a channel, but here it can be told on the command line
            spec["channels"] = [channel for channel in channels if channel != "nodefaults"]
            options = [option for channel in spec["channels"] for option in ("--channel", channel)]
            file = self.write("environment.yml", json.dumps(spec, sort_keys=True))
            return ["create", "--override-channels", *options, "--file", file]
        return ["env", "create", "--file", self.write("environment.yml", text)]

    def conda_release(self, conda: str) -> tuple[int, ...]:
        """Numbers of conda's release; none when it does not say one."""
        _, out, _ = self.module.run_command([conda, "--version"])
        return tuple(int(number) for number in re.findall(r"\d+", out))

    def install_with_pip(self) -> None:
        options, files = self.p["pip_options"], self.p["pip_files"]
        python = os.path.join(self.path, "bin", "python")
        rc, out, err = self.module.run_command([python, "-m", "pip", "--version"])
        if rc != 0 and glob.glob(f"{self.path}/conda-meta/pip-*.json"):
            self.fail("its pip does not run", f"{out}\n{err}")
        if rc != 0:
            self.fail("it has packages for pip but no pip; add `python` and `pip` to what conda installs")
        for name, text in files.items():
            self.write(name, text)
        targets: list[str] = []
        if self.p["pip_requirements"]:
            lines = "".join(line + "\n" for line in self.p["pip_requirements"])
            targets = ["-r", self.write("requirements.of.environment.yml", lines)]
        install, tool = [python, "-m", "pip", "install"], "pip"
        if lines := uv_lines(files):
            # uv would accept files that a power cut left half-written, in this build or in another
            if os.path.exists(self.in_use()):
                self.empty_uv_cache()
            os.makedirs(self.uv_cache(), mode=0o755, exist_ok=True)
            write_durably(self.in_use(), {})
            self.writes_cache = True
            lock = self.write("uv.lock.txt", lines)
            rc, output = self.run(*install, "--quiet", "--no-deps", "--require-hashes", "-r", lock)
            if rc != 0:
                self.fail("pip could not install uv", output)
            install, tool = [os.path.join(self.path, "bin", "uv"), "pip", "install", "--python", python], "uv"
        rc, output = self.run(*install, *options, *targets)
        if rc != 0:
            self.fail(f"{tool} could not install", output)

    def prove(self) -> None:
        """Fail where the code that proves it does not run."""
        # -I: nothing of root's home, of the variables or of the work folder counts. A proof may hang
        python = os.path.join(self.path, "bin", "python")
        rc, output = self.run("timeout", "-k", "5", PROOF_SECONDS, python, "-I", "-c", self.p["proof"])
        if rc != 0:
            before = "the one before is back" if os.listdir(self.aside) else "it was removed"
            ended = f"did not end within {PROOF_SECONDS} s" if rc == 124 else f"ended with status {rc}"
            self.fail(
                f"it was made, but its proof {self.p['proof']!r} {ended}; {before}. Correct its files, or `proof` in"
                " conda_environments, and run this again",
                output,
            )

    def check(self) -> None:
        """Fail, before anything changes, where it cannot be made."""
        conda = os.path.join(self.prefix, "bin", "conda")
        if not os.path.exists(conda):
            self.fail(f"no conda at {self.prefix}; install it first, or correct `prefix`")
        if os.path.lexists(self.path) and (os.path.islink(self.path) or not os.path.isdir(self.path)):
            self.fail(f"{self.path} is a link or a file; move it away")
        cache = self.uv_cache()
        if os.path.isdir(cache):
            found = os.stat(cache)
            shared = found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if found.st_gid not in (0, os.getegid()) else 0))
            if found.st_uid not in (0, os.geteuid()) or shared:
                self.fail(
                    f"{cache} (UV_CACHE_DIR) can be written by others than root, and what is in it is installed as it"
                    f" is; type on the host, as root: rm -rf {cache}; or set UV_CACHE_DIR in"
                    " conda_environment_variables to another folder, e.g. /var/cache/uv"
                )
        free = shutil.disk_usage(self.prefix).free >> 20
        if free < self.p["free_space"]:
            self.fail(
                f"{self.prefix} has {free} MiB free and {self.p['free_space']} are wanted (conda_free_space);"
                f" make room, e.g. with: {conda} clean --all --yes"
            )

    def make(self) -> None:
        """Make or rebuild it. An unfinished one never stays."""
        self.check()
        os.makedirs(self.work)
        cache = os.path.join(self.prefix, "pkgs")
        write_durably(self.kept, sorted(os.listdir(cache)) if os.path.isdir(cache) else [])
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        if os.path.exists(self.aside):
            remove(self.path)
        elif os.path.exists(self.path):
            os.rename(self.path, self.aside)
        else:
            os.mkdir(self.aside)
        write_through(self.prefix)
        made = False
        try:
            conda = os.path.join(self.prefix, "bin", "conda")
            self.create(conda)
            if self.p["pip_options"] or self.p["pip_requirements"]:
                self.install_with_pip()
            for path in foreign_files(self.aside):
                target = os.path.join(self.path, path)
                if not os.path.lexists(target):
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    os.link(os.path.join(self.aside, path), target, follow_symlinks=False)
            if self.p["proof"]:
                self.prove()
            made = True
        finally:
            # fail_json leaves by SystemExit, so this also runs for a build that failed
            if not made:
                remove(self.path)
                os.rename(self.aside, self.path) if os.listdir(self.aside) else os.rmdir(self.aside)
            # what a failed build left in the caches is used by the next one too
            for path in (self.prefix, self.uv_cache()):
                if os.path.isdir(path):
                    write_through(path)
            if self.writes_cache:
                remove(self.in_use())
            if not made:
                remove(self.work)
        os.rename(self.aside, os.path.join(self.path, OLD))
        remove(os.path.join(self.path, OLD))
        # last, so that a run that is interrupted before is repeated
        write_durably(self.marker, self.wanted)
        remove(self.work)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "prefix": {"type": "path", "required": True},
            "conda_file": {"type": "str", "default": ""},
            "pip_options": {"type": "list", "elements": "str", "default": []},
            "pip_requirements": {"type": "list", "elements": "str", "default": []},
            "pip_files": {"type": "dict", "default": {}},
            "proof": {"type": "str", "default": ""},
            "free_space": {"type": "int", "default": 0},
            "ca_bundle": {"type": "path"},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "lock": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    take_variables(module)
    name = module.params["name"]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name in ("base", "root"):
        module.fail_json(
            msg=f"environment {name!r}: a name is of letters, digits, '_', '-' and '.', begins with none of"
            " the last two, and is neither base nor root (the installation itself)"
        )
    environment = Environment(module)
    done = {} if module.params["state"] == "absent" else environment.wanted
    idle = module.check_mode or (environment.made_from() == done and not os.path.lexists(environment.work))
    # another build may be at this one: look again once it has ended
    with taking_turns(None if idle else module.params["lock"]):
        before = environment.made_from()
        # one that is idle holds no lock, and another build may have begun by now
        recovered = not (idle and not module.check_mode) and environment.recover()
        if module.params["state"] == "absent":
            changed, after = any(map(os.path.lexists, (environment.path, environment.aside))), {}
        else:
            changed, after = before != environment.wanted, environment.wanted
        if changed and not module.check_mode:
            if module.params["state"] == "absent":
                remove(environment.path)
                remove(environment.aside)
            else:
                environment.make()
    module.exit_json(
        changed=changed or recovered,
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
