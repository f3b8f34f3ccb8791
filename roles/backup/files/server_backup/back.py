"""A copy is brought back: beside what is there, or into its place."""

from __future__ import annotations

import datetime
import os
import pathlib
import pwd
import re
import subprocess
import time

from . import state
from .copies import below, bring, scratch
from .repository import Repository, Snapshot
from .settings import VAR, Part, Refused, Settings, shell


def choose(snapshots: list[Snapshot], at: str) -> Snapshot:
    """The copy that `at` names: latest, the beginning of an id, or a time (UTC unless it says its zone).

    Raises:
        Refused: there is none.
    """
    if not snapshots:
        raise Refused("There is no copy of this server.")
    if at in ("", "latest"):
        return snapshots[-1]
    if re.fullmatch("[0-9a-f]{6,64}", at):
        for snapshot in snapshots:
            if snapshot.id.startswith(at):
                return snapshot
    try:
        when = datetime.datetime.fromisoformat(at)
    except ValueError:
        raise Refused(
            f"{at} is neither the beginning of a copy's id nor a time such as 2026-11-28T17:00: make backups lists them"
        ) from None
    if re.fullmatch(r"[\d-]+", at):
        when += datetime.timedelta(days=1, seconds=-1)
    seconds = (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    before = [snapshot for snapshot in snapshots if snapshot.time <= seconds]
    if not before:
        raise Refused(f"The first copy is of {state.moment(snapshots[0].time)}, which is after {at}.")
    return before[-1]


def select(settings: Settings, wanted: list[str]) -> list[tuple[Part, str]]:
    """Parts, each with the item that is wanted of it, from words such as mlflow and notebooks:ana."""
    if not wanted:
        return [(part, "") for part in settings.parts]
    found = []
    for word in wanted:
        name, _, item = word.partition(":")
        part = settings.part(name)
        if item and item not in part.items:
            known = ", ".join(f"{name}:{each}" for each in part.items) or name
            raise Refused(f"{word} is not in the copies. Name one of: {known}.")
        found.append((part, item))
    return found


def restore(settings: Settings, wanted: list[str], at: str, to: str, replace: bool, damaged: bool) -> None:
    """Brings parts back, below a folder or into their place.

    Raises:
        Refused: before anything was changed, or with what could not be put into place.
    """
    parts = select(settings, wanted)
    with state.locked():
        snapshots = Repository(settings).snapshots()
        snapshot = choose(snapshots, at)
        if to:
            folder = pathlib.Path(to)
            if not folder.is_absolute() or (folder.exists() and any(folder.iterdir())):
                raise Refused(f"{to} has to be the path of a folder that is empty or not there yet.")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = bring(settings, snapshot, folder, parts)
            folder.chmod(0o700)
            print(f"The copy of {state.moment(snapshot.time)} is in {folder}, for root.")
            if found:
                raise Refused("\n".join(found.values()))
            return
        if not replace:
            raise Refused("Say where to: --to FOLDER, or --replace to put it into the place of what is there.")
        faults: list[str] = []
        with scratch("restore") as root:
            # the files that are replaced stay
            found = bring(settings, snapshot, root, parts, room=2.1)
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            for part, item in parts:
                if part.named and not wanted:
                    continue
                if part.name in found and not damaged:
                    faults.append(
                        f"{part.name} was left as it is, because its copy is not whole: {found[part.name]}\n"
                        f"To take it as it is: make restore … ONLY={part.name} REPLACE=yes DAMAGED=yes"
                    )
                    continue
                if part.fits and not item and not damaged:
                    try:
                        where = {"FOLDER": str(part.folder(root)), "ROOT": str(root)}
                        shell(part.fits, f"{part.name} was left as it is", **where)
                    except Refused as error:
                        faults.append(str(error))
                        continue
                faults += put(part, item, root, stamp)
        if faults:
            raise Refused("\n".join(faults))
        if not wanted:
            state.update(adopted=snapshots[-1].id)
    print(
        f"The copy of {state.moment(snapshot.time)} is in place. Files that it replaced: .replaced-{stamp} in homes and"
        f" folders of accounts, {VAR}/replaced-{stamp} for root's."
    )


def put(part: Part, item: str, root: pathlib.Path, stamp: str) -> list[str]:
    """Puts one part into place while its units rest; what could not be."""
    faults: list[str] = []
    units = running(part.units) if not item else []
    if units:
        subprocess.run(["systemctl", "stop", *units], check=True)
    try:
        for path in part.all(item):
            if os.path.lexists(below(root, path)):
                faults += copy(below(root, path), pathlib.Path(path), stamp)
        if part.load and not item and not faults:
            shell(part.load, f"{part.name} could not be loaded", FOLDER=str(part.folder(root)), ROOT=str(root))
    except Refused as error:
        faults.append(str(error))
    finally:
        if units:
            subprocess.run(["systemctl", "start", *units], check=False)
    if not faults:
        print(f"{part.name}{item and ':'}{item}: in place")
    return faults


def running(patterns: list[str]) -> list[str]:
    if not patterns:
        return []
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating,failed", *patterns]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def copy(source: pathlib.Path, target: pathlib.Path, stamp: str) -> list[str]:
    """Copies a restored path over the present one, as its owner: root could be led elsewhere by a link."""
    owner = source.lstat().st_uid
    command = ["rsync", "-aH", "--numeric-ids", "--backup"]
    if owner == 0:
        command += [f"--backup-dir={VAR}/replaced-{stamp}{target.parent if source.is_file() else target}"]
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        user: dict[str, object] = {}
    else:
        account = pwd.getpwuid(owner)
        command += [f"--backup-dir=.replaced-{stamp}", f"--exclude=/.replaced-{stamp}"]
        if not target.parent.is_dir():
            return [f"{target}: {target.parent} is not there. Run site.yml, then restore this part again."]
        if source.is_dir() and not target.exists():
            target.mkdir(mode=source.stat().st_mode & 0o777)
            os.chown(target, owner, source.stat().st_gid)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        user = {"user": owner, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}
    where = [f"{source}/", f"{target}/"] if source.is_dir() else [str(source), str(target)]
    done = subprocess.run(  # type: ignore[call-overload]
        [*command, "--", *where], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, **user
    )
    if done.returncode:
        return [f"{target} could not be put into place: {done.stderr.strip()[-500:]}"]
    return []


def adopt(settings: Settings) -> None:
    """Lets this server continue the copies of an earlier one of its name."""
    snapshots = Repository(settings).snapshots()
    if snapshots:
        state.update(adopted=snapshots[-1].id)
    print("This server's copies continue.")
