"""Keep what Python compiles: the test servers would compile the same files again and again. Python's sitecustomize.

- Ansible sends its modules as zips, inside which Python looks for no bytecode: a hundred files for each task.
- An environment is compiled when it is built: ten thousand files for the recommender's.
"""

import _frozen_importlib_external as external
import _imp
import marshal
import os
import sys
import zipimport
from collections.abc import Callable
from types import CodeType
from typing import Any

# on the volume that the test servers share; only root writes to it
FOLDER = "/var/cache/uv/bytecode"
_compile_source = zipimport._compile_source  # type: ignore[attr-defined]
_source_to_code = external.SourceLoader.source_to_code


def keep(path: str, source: bytes, compiles: Callable[[], CodeType]) -> CodeType:
    """Return the code that is kept for this path and these bytes, else compile it, and keep it if that is allowed."""
    digest = _imp.source_hash(0, os.fsencode(path) + b"\0" + source).hex()
    name = f"{FOLDER}/{sys.implementation.cache_tag}-{digest}-{len(source)}"
    try:
        with open(name, "rb") as file:
            code: CodeType = marshal.loads(file.read())
            return code
    # none yet, another account's, or cut off by a full disk
    except (OSError, EOFError, ValueError, TypeError):
        code = compiles()
    try:
        os.makedirs(FOLDER, exist_ok=True)
        beside = f"{name}.{os.getpid()}"
        with open(beside, "wb") as file:
            file.write(marshal.dumps(code))
        os.replace(beside, name)
    except OSError:
        pass
    return code


def compile_source(pathname: str, source: bytes) -> CodeType:
    """Code of a module in a zip. The name of Ansible's changes with each task."""
    return keep("", source, lambda: _compile_source(pathname, source))


def source_to_code(self: Any, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
    """Code of a module's file, for an import or for compileall."""

    def compiles() -> CodeType:
        code: CodeType = _source_to_code(self, data, path, _optimize=_optimize)
        return code

    return keep(os.fsdecode(path), data, compiles) if isinstance(data, bytes) and _optimize == -1 else compiles()


zipimport._compile_source = compile_source  # type: ignore[attr-defined]
external.SourceLoader.source_to_code = source_to_code  # type: ignore[method-assign]
