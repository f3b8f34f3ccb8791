"""Copies are made, tried and removed."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pathlib
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from . import state
from .repository import OURS, Repository, Snapshot
from .settings import ETC, NOW, VAR, Part, Refused, Settings, shell

FORMAT = 1
MANIFEST = NOW / "manifest.json"


class Foreign(Refused):
    """The copies of this name are an earlier server's."""


def below(root: pathlib.Path, path: pathlib.Path | str) -> pathlib.Path:
    """Where a path of the server was restored to."""
    return root / str(path).lstrip("/")


@contextlib.contextmanager
def scratch(name: str) -> Iterator[pathlib.Path]:
    """A folder below /var/lib/server-backup, for root alone, that goes at the end."""
    folder = VAR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prove(settings: Settings, again: bool = False) -> bool:
    """Makes the repository where it is missing, and brings a sample back from it; False if that was done before."""
    proven = {"repository": settings.repository, "key": hashlib.sha256((ETC / "key").read_bytes()).hexdigest()[:12]}
    if not again and {name: state.read().get("proven", {}).get(name) for name in proven} == proven:
        return False
    repository = Repository(settings)
    with state.locked(), scratch("sample") as folder:
        if not repository.is_there():
            repository.call("init")
        content, back = secrets.token_bytes(65536), folder / "back"
        (folder / "sample").write_bytes(content)
        made = repository.backup([str(folder / "sample")], [], "sample")["snapshot_id"]
        repository.restore(made, back, [])
        if below(back, folder / "sample").read_bytes() != content:
            raise Refused(f"{settings.place} gives back something else than was copied there.")
        if not settings.append_only:
            repository.call("forget", made)
        state.update(proven={**proven, "time": time.time()})
    return True


def guard(snapshots: list[Snapshot], name: str) -> None:
    """Whether the newest copy is of this server, or was taken over.

    Raises:
        Foreign: it is of a server that is lost, and whose copies an empty one would push out.
    """
    now = state.read()
    if snapshots and snapshots[-1].server != now["id"] and snapshots[-1].id != now.get("adopted"):
        raise Foreign(
            f"The copies of {name} were made by an earlier server of that name, the last one at"
            f" {state.moment(snapshots[-1].time)}. Bring it back: make restore HOST={name}."
            " To begin without it, and let its copies expire: sudo server-backup adopt"
        )


def run(settings: Settings) -> None:
    """Makes a copy."""
    with state.locked(), state.recorded("run") as outcome:
        repository = Repository(settings)
        # only those of dead processes, and of this host
        repository.call("unlock")
        guard(repository.snapshots(), settings.name)
        with state.held(settings.hold):
            shutil.rmtree(NOW, ignore_errors=True)
            NOW.mkdir()
            NOW.chmod(0o711)
            for part in settings.parts:
                save(part)
            MANIFEST.write_text(json.dumps(manifest(settings), indent=1))
            paths = [path for part in settings.parts for path in part.all() if os.path.lexists(path)]
            exclude = [
                f"{path}/{pattern}" for part in settings.parts for path in part.all() for pattern in part.exclude
            ]
            now, disk = (
                state.read(),
                max(shutil.disk_usage(path).total for path in (str(NOW), *paths) if os.path.exists(path)),
            )
            outcome["left_out"] = larger(paths, exclude, disk)
            summary = repository.backup([str(NOW), *paths], exclude, OURS, f"id={now['id']}", largest=disk)
            # a second database on the disk
            shutil.rmtree(NOW)
        outcome |= {
            "snapshot": summary["snapshot_id"][:8], "files": summary["total_files_processed"],
            "bytes": summary["total_bytes_processed"], "added": summary["data_added"], "vanished": summary["vanished"],
        }  # fmt: skip
        state.update(last=summary["snapshot_id"][:8])
    print(
        f"Copy {outcome['snapshot']} of {outcome['files']} files, {state.size(outcome['bytes'])}, of which"
        f" {state.size(outcome['added'])} are new."
    )


def larger(paths: list[str], exclude: list[str], size: int) -> list[str]:
    """The first files of more bytes. One that is larger than its disk has holes, which would take days to read.

    Args:
        exclude: restic's patterns, where it does not look.
    """
    patterns = [word for pattern in exclude for word in ("-path", pattern.replace("**/", "*"), "-o")]
    found = subprocess.run(
        ["find", *paths, "(", *patterns, "-false", ")", "-prune", "-o", "-type", "f", "-size", f"+{size}c", "-print"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    return found.stdout.splitlines()[:100] if paths else []


def save(part: Part) -> None:
    if part.save:
        folder = part.folder()
        folder.mkdir()
        account = pwd.getpwnam(part.account)
        os.chown(folder, account.pw_uid, account.pw_gid)
        shell(part.save, f"{part.name} could not be saved", FOLDER=str(folder))


def manifest(settings: Settings) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": settings.name,
        "time": time.time(),
        # names, because another server numbers its accounts otherwise
        "users": {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()},
        "groups": {entry.gr_gid: entry.gr_name for entry in grp.getgrall()},
        "parts": {part.name: {"paths": part.paths, "items": part.items} for part in settings.parts},
    }


def read_manifest(root: pathlib.Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(below(root, MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"The copy has no manifest that can be read: {error}") from None
    if content.get("format") != FORMAT:
        raise Refused(
            f"The copy has format {content.get('format')}, and this server reads format {FORMAT}: take the release of"
            " this repository that made it, or the newest one."
        )
    return content


def assign(root: pathlib.Path, content: dict[str, Any], paths: list[str]) -> None:
    """Gives restored files to the accounts that have their owners' names here; to root where there is none.

    All in a path of an account becomes that account's. Nobody but root may reach the folder yet: a link that is put
    into the place of a folder would lead these changes elsewhere.
    """

    def numbers(names: dict[str, str], number: Any) -> dict[int, int]:
        found = {}
        for old, name in names.items():
            try:
                found[int(old)] = number(name)
            except KeyError:
                found[int(old)] = 0
        return found

    users = numbers(content["users"], lambda name: pwd.getpwnam(name).pw_uid)
    groups = numbers(content["groups"], lambda name: grp.getgrnam(name).gr_gid)
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            now = os.lstat(path)
            owner, group = users.get(now.st_uid, 0), groups.get(now.st_gid, 0)
            if (owner, group) != (now.st_uid, now.st_gid):
                os.lchown(path, owner, group)
                if not os.path.islink(path):
                    os.chmod(path, now.st_mode & (0o3777 if os.path.isdir(path) else 0o1777))
    for owned in paths:
        top = below(root, owned)
        owner = top.lstat().st_uid if os.path.lexists(top) else 0
        for folder, folders, files in os.walk(top) if owner else ():
            for name in [*folders, *files]:
                os.lchown(os.path.join(folder, name), owner, -1)


def bring(
    settings: Settings, snapshot: Snapshot, root: pathlib.Path, parts: list[tuple[Part, str]], room: float = 1.05
) -> dict[str, str]:
    """Restores parts below a folder of root's, and looks at them; what is wrong with which, in sentences.

    Args:
        room: how many times the size of the parts has to be free.

    Raises:
        Refused: nothing could be restored.
    """
    repository = Repository(settings)
    whole = {part.name for part, item in parts if not item} == {part.name for part in settings.parts}
    paths = [path for part, item in parts for path in (*part.all(item), str(part.folder()))]
    needed, free = room * repository.size(snapshot, [] if whole else paths), shutil.disk_usage(root).free
    if needed > free:
        raise Refused(
            f"{state.size(needed)} are needed to bring it back, and the disk of {root} has {state.size(free)} free."
            " Make room, or give the server a larger disk."
        )
    repository.restore(snapshot, root, [] if whole else [str(MANIFEST), *paths])
    assign(root, read_manifest(root), paths)
    # restic makes folders on the way for root alone
    for path in [str(NOW), *paths]:
        folder = below(root, path).parent
        while folder != root and folder.is_relative_to(root) and folder.is_dir():
            folder.chmod(folder.stat().st_mode | 0o111)
            folder = folder.parent
    root.chmod(0o711)
    faults = {}
    for part, item in parts:
        lacking = [path for path in part.all(item) if not os.path.lexists(below(root, path))]
        if item and lacking:
            faults[part.name] = f"The copy of {state.moment(snapshot.time)} has no {lacking[0]}."
        elif lacking:
            print(f"{part.name}: the copy has no {', '.join(lacking)}")
        if part.verify and not item:
            try:
                said = shell(part.verify, part.name, FOLDER=str(part.folder(root)), ROOT=str(root))
            except Refused as error:
                faults[part.name] = str(error)
            else:
                print(f"{part.name}: {said.splitlines()[-1][:300] if said else 'whole'}")
    return faults


def drill(settings: Settings) -> None:
    """Brings the newest copy back into a folder of its own and looks at all of it.

    Raises:
        Refused: with what is wrong with the copies.
    """
    with state.locked(), state.recorded("drill") as outcome:
        repository, faults = Repository(settings), []
        snapshots, last = repository.snapshots(), state.read().get("last")
        if not snapshots:
            raise Refused("There is no copy: sudo server-backup run")
        newest, now = snapshots[-1], time.time()
        if last and not any(snapshot.id.startswith(last) for snapshot in snapshots):
            faults.append(f"Copy {last}, the last one of this server, is not in the repository any more.")
        if newest.time > now + 600:
            faults.append(f"The newest copy is of {state.moment(newest.time)}: the clock was wrong then, or is now.")
        elif now - newest.time > settings.late_after_hours * 3600:
            faults.append(f"The newest copy is of {state.moment(newest.time)}.")
        outcome["snapshot"] = newest.short
        try:
            # first without contents: for a pack that is missing, restic would ask again for 15 minutes
            repository.call("check")
            with scratch("drill") as root:
                faults += bring(settings, newest, root, [(part, "") for part in settings.parts]).values()
                outcome["files"] = sum(len(files) for _, _, files in os.walk(root))
            repository.call("check", "--read-data-subset=2G")
        except Refused as error:
            faults.append(str(error))
        if faults:
            raise Refused("\n".join(faults))
    print(f"Copy {newest.short} was brought back whole: {outcome['files']} files.")


def prune(settings: Settings) -> None:
    """Removes what retention does not keep."""
    with state.locked(), state.recorded("prune"):
        repository = Repository(settings)
        repository.call("unlock")
        guard(repository.snapshots(), settings.name)
        kept = [word for period, count in settings.keep.items() for word in (f"--keep-{period}", str(count))]
        repository.call(
            "forget",
            "--host",
            settings.name,
            "--tag",
            OURS,
            "--group-by",
            "host",
            "--keep-within",
            "2d",
            *kept,
            "--prune",
        )
