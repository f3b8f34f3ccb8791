"""Does once what Ansible would do again in each worker process, and packs modules once, not once a run."""

import contextlib
import gc
import hashlib
import os
import pathlib
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader
from ansible.release import __version__

DOCUMENTATION = """
name: preload
type: notification
short_description: Save Ansible's worker processes repeated work
description:
  - Ansible forks a process for each task and host. The first filter in it would load the files of all filters and
    tests. Loaded before the fork they are there already, also those of a role that a task has included.
  - In each run Ansible packs a module with what it imports, for which it parses some thirty files. The packed modules
    are kept in C(.cache/modules) for the next run.
requirements:
  - enabled in ansible.cfg
"""
ROOT = pathlib.Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "modules"
# Another one after each start of the machine: a power cut may leave a file empty, and Ansible would not pack it again.
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")
DAY = 86400


def sources(playbook: pathlib.Path) -> Iterator[pathlib.Path]:
    """Files that change when a module does: all places where Ansible looks for one, but for its own package.

    Of an installed collection the manifest, which each release replaces; of one under development its modules.
    """
    roles = [*map(pathlib.Path, constants.DEFAULT_ROLES_PATH), ROOT / "roles", playbook / "roles"]
    for folder in "library", "module_utils":
        for place in playbook, ROOT, ROOT / "playbooks":
            yield from place.glob(f"{folder}/**/*")
        for place in roles:
            yield from place.glob(f"*/{folder}/**/*")
    for path in constants.DEFAULT_MODULE_PATH + constants.DEFAULT_MODULE_UTILS_PATH:
        yield from pathlib.Path(path).glob("**/*")
    for path in [*constants.COLLECTIONS_PATHS, playbook / "collections", pathlib.Path(constants.__file__).parents[1]]:
        for collection in pathlib.Path(path).glob("ansible_collections/*/*/"):
            manifest = collection / "MANIFEST.json"
            yield from [manifest] if manifest.exists() else collection.glob("plugins/module*/**/*")


def keep_packed_modules(playbook: pathlib.Path) -> None:
    """Lays a link where Ansible puts what it packs, which it would remove when the run ends.

    Raises:
        OSError: nothing is kept, because the system has no boot id, or the folder cannot be made or is another's.
    """
    key = [BOOT.read_text(), __version__, constants.__file__, str(os.geteuid())]
    for path in sorted({*sources(playbook)}):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and path.suffix != ".pyc":
            key.append(f"{path} {status.st_mtime_ns} {status.st_size}")
    folder = KEPT / hashlib.sha256("\n".join(key).encode()).hexdigest()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # pickles: whoever writes them decides what this account runs
    if folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(f"{folder} is another account's")
    os.utime(folder)
    link = pathlib.Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache"
    # that of an earlier playbook on the same command line
    if link.is_symlink():
        link.unlink()
    link.symlink_to(folder)
    for other in KEPT.iterdir():
        # a run that began before the change may still use it
        if time.time() - other.stat().st_mtime > DAY:
            shutil.rmtree(other, ignore_errors=True)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core is untyped
    """Acts before the first task, at each play, and at a task when a role with filters was included before it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "preload"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[int] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        with contextlib.suppress(OSError):
            keep_packed_modules(pathlib.Path(playbook._basedir))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.loaded = []
        self.v2_playbook_on_task_start(None, False)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        # a new folder of filters makes Ansible forget all that it has loaded
        loaded = [len(list(loader.all())) for loader in (filter_loader, test_loader)]
        if loaded == self.loaded:
            return
        self.loaded = loaded
        # a collection in a worker would write to all objects, and so copy what it shares with its parent
        gc.collect()
        gc.freeze()
