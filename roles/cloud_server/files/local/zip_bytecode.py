"""Keep what Python compiles of modules inside zips, where it looks for no bytecode. A .pth file imports this.

Ansible sends its modules as zips: for each task, the server would compile the same hundred files again.
"""

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType

FOLDER = "/var/cache/zip-bytecode"
_compile_source = zipimport._compile_source  # type: ignore[attr-defined]


def compile_source(pathname: str, source: bytes) -> CodeType:
    """Return the module's code: the one kept for these bytes, else one compiled now and kept if that is allowed."""
    digest = _imp.source_hash(0, source).hex()
    name = f"{FOLDER}/{sys.implementation.cache_tag}-{digest}-{len(source)}"
    try:
        with open(name, "rb") as file:
            code: CodeType = marshal.loads(file.read())
            return code
    # none yet, another account's, or cut off by a full disk
    except (OSError, EOFError, ValueError, TypeError):
        code = _compile_source(pathname, source)
    try:
        beside = f"{name}.{os.getpid()}"
        with open(beside, "wb") as file:
            file.write(marshal.dumps(code))
        os.replace(beside, name)
    except OSError:
        pass
    return code


zipimport._compile_source = compile_source  # type: ignore[attr-defined]
