"""Runs at the start of each kernel that everybody shares: %pip install says where packages of one's own go.

The environment is root's, and its packages are those that a model was trained with. pip itself would advise --user,
which such a kernel does not read.
"""

import os
import sysconfig
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython

INSTALLERS = ("pip", "uv", "conda", "mamba", "micromamba")
CHANGES = {"install", "uninstall", "remove", "update", "upgrade", "create", "sync", "add"}


def wanted(installer: str, words: list[str]) -> str:
    """The packages of such a command as pip's arguments; PACKAGE where they cannot be told."""
    if "install" not in words[:2]:
        return "PACKAGE"
    named = [word for word in words[words.index("install") + 1 :] if word != "--user"]
    known = installer == "pip" or not any(word.startswith("-") for word in named)
    return (" ".join(named) if known else "") or "PACKAGE"


def guarded(installer: str, magic: Callable[[str], Any]) -> Callable[[str], Any]:
    """The magic, which refuses to change packages. Raises UsageError with what to type instead."""

    def run(line: str) -> Any:
        words = line.split()
        if not CHANGES & set(words[:2]):
            return magic(line)
        raise UsageError(
            "the packages of this kernel are locked and the same for everybody. For packages of your own, type in a"
            f" terminal:\n    own-kernel mine {wanted(installer, words)}\nthen reload the page, and choose the kernel"
            " mine (menu Kernel, Change Kernel)."
        )

    return run


if __name__ == "__main__":
    shell = get_ipython()
    if shell and not os.access(sysconfig.get_path("purelib"), os.W_OK):
        for name in INSTALLERS:
            # not every version of IPython has each of them
            if found := shell.find_line_magic(name):
                shell.register_magic_function(guarded(name, found), "line", name)
