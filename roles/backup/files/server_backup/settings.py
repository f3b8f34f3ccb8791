"""What the role wrote for this program, and how its programs are called."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
from typing import Any

ETC = pathlib.Path(os.environ.get("SERVER_BACKUP_ETC", "/etc/server-backup"))
VAR = pathlib.Path(os.environ.get("SERVER_BACKUP_VAR", "/var/lib/server-backup"))
# what each copy holds beside the parts' own paths: what their commands saved, and the manifest
NOW = VAR / "now"


class Refused(Exception):
    """What is wrong and what mends it, in sentences for the operator."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that is copied, and restored by its name.

    Attributes:
        paths: what is copied as it is.
        items: further paths by name, restored one by one as PART:NAME.
        exclude: restic's patterns, below each path.
        account: who may write to the folder of `save`.
        save: a shell command that puts a consistent state into $FOLDER before the files are copied.
        verify: one that checks a copy: its $FOLDER, and $ROOT, below which the paths were restored.
        units: systemd's units (or patterns) that may not run while the part is put into place.
        fits: one that refuses a copy before anything of the part is changed.
        load: one that takes $FOLDER into use after the paths are in place.
        named: whether it is only restored by its name.
    """

    name: str
    paths: list[str] = dataclasses.field(default_factory=list)
    items: dict[str, str] = dataclasses.field(default_factory=dict)
    exclude: list[str] = dataclasses.field(default_factory=list)
    account: str = "root"
    save: str = ""
    verify: str = ""
    units: list[str] = dataclasses.field(default_factory=list)
    fits: str = ""
    load: str = ""
    named: bool = False

    def all(self, item: str = "") -> list[str]:
        return [self.items[item]] if item else [*self.paths, *self.items.values()]

    def folder(self, root: pathlib.Path = pathlib.Path("/")) -> pathlib.Path:
        """Where `save` writes; of a copy that was restored below a root, what it wrote."""
        return root / (NOW / self.name).relative_to("/")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The file settings.json."""

    name: str
    repository: str
    options: list[str]
    environment: dict[str, str]
    append_only: bool
    keep: dict[str, int]
    hold: list[str]
    late_after_hours: float
    drill_late_after_days: float
    parts: list[Part]

    @property
    def place(self) -> str:
        """The repository as it is printed, without a login that its address may hold."""
        return re.sub(r"//[^/@]*@", "//", self.repository)

    def part(self, name: str) -> Part:
        for part in self.parts:
            if part.name == name:
                return part
        known = ", ".join(part.name for part in self.parts)
        raise Refused(f"{name} is not a part of the copies. Name one of: {known}.")


def read() -> Settings:
    content: dict[str, Any] = json.loads((ETC / "settings.json").read_text())
    return Settings(**{**content, "parts": [Part(**part) for part in content["parts"]]})


def shell(command: str, what: str, **variables: str) -> str:
    """What a part's command prints.

    Raises:
        Refused: with its last lines, if it fails or takes longer than an hour.
    """
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", command], env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=3600,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused(f"{what}: no answer for an hour: {command}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise Refused(f"{what}: {said or f'{command} ended with {done.returncode}'}")
    return done.stdout.strip()
