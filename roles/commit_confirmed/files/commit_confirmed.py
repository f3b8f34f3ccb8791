#!/usr/bin/python3
"""Restores files unless the change to them is confirmed in time; Junos calls this `commit confirmed`.

usage: commit-confirmed arm NAME SECONDS RELOAD PATH...    prints a token
       commit-confirmed confirm NAME [TOKEN]
       commit-confirmed revert [NAME [TOKEN]]
       commit-confirmed settle NAME
       commit-confirmed boot

arm keeps a copy of each PATH (a file or a folder; one that is not there is remembered as absent) and starts a systemd
timer. Unless confirm comes within SECONDS, the copies are put back and the shell command RELOAD is run. With a token,
confirm and revert touch only the change that it was given for. settle waits for the end of another run's change, and
reverts what no timer is there for any more. boot puts back whatever a reboot left unconfirmed, and reloads nothing: it
runs before the services start.

The copies stand in /etc, on the file system of what they replace, so that putting them back is a link of each file: it
needs no room on a full disk. Folders are never moved: one that is a mount point, or comes from the lower layer of a
container's overlay, cannot be. What a timer put back is kept until the next change: whoever was cut off so long may
still be writing, and takes it back again.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import uuid
from typing import Any

STATE = pathlib.Path(os.environ.get("COMMIT_CONFIRMED_STATE", "/etc/commit-confirmed"))


def unit(name: str) -> str:
    return f"commit-confirmed-{name}"


def remove(path: pathlib.Path) -> None:
    """Removes a file, a link or a folder; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file, a link or a folder with its modes, times and owners."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        for entry in source.iterdir():
            copy(entry, target / entry.name)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
    own(source, target)


def entries(folder: pathlib.Path) -> list[str] | None:
    """Names of all that is below a folder, relative to it and a folder before what is in it; None for no folder."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def replace(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes the target the file, the link or, without what is in it, the folder that the source is."""
    folder = source.is_dir() and not source.is_symlink()
    if folder != (target.is_dir() and not target.is_symlink()):
        remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        target.mkdir(exist_ok=True)
        own(source, target)
        return
    new = target.with_name(f".{target.name}.commit-confirmed")
    remove(new)
    try:
        os.link(source, new, follow_symlinks=False)
    except OSError:
        # another file system
        copy(source, new)
    new.rename(target)
    # rename does nothing where the target is the same file already
    remove(new)


def own(source: pathlib.Path, target: pathlib.Path) -> None:
    """Gives the target the source's owner, mode and times."""
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not source.is_symlink():
        shutil.copystat(source, target)


def arm(name: str, seconds: int, reload: str, paths: list[str]) -> str:
    """Returns the token. Raises SystemExit when another change holds a path, OSError without room for the copies."""
    for other in unconfirmed():
        for held in kept(STATE / other)["paths"]:
            if any(pathlib.Path(path).is_relative_to(held["path"]) or pathlib.Path(held["path"]).is_relative_to(path)
                   for path in paths):  # fmt: skip
                sys.exit(
                    f"commit-confirmed: another run is changing {held['path']} ({other}); "
                    f"wait until it has ended, or: commit-confirmed revert {other}"
                )
    state, new, token = STATE / name, STATE / f".{name}.new", uuid.uuid4().hex
    remove(STATE / f".{name}.reverted")
    remove(new)
    new.mkdir(parents=True, mode=0o700)
    try:
        found = []
        for number, path in enumerate(map(pathlib.Path, paths)):
            there = os.path.lexists(path)
            if there:
                copy(path, new / str(number))
            found.append({"path": str(path), "there": there, "names": entries(path)})
        (new / "kept.json").write_text(json.dumps({"paths": found, "reload": reload, "token": token}))
        # a copy that is only in memory would be lost by the very crash that it is there for
        os.sync()
        new.rename(state)
    except BaseException:
        remove(new)
        raise
    try:
        subprocess.run(
            ["systemd-run", "--quiet", "--collect", f"--unit={unit(name)}", f"--on-active={seconds}",
             "--timer-property=AccuracySec=1s", "--property=Restart=on-failure", "--property=RestartSec=10s",
             os.path.realpath(__file__), "revert", name],
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        remove(state)
        raise
    return token


def kept(state: pathlib.Path) -> dict[str, Any]:
    """What arm wrote down: paths, each with whether it was there and the names in it; reload; token."""
    found: dict[str, Any] = json.loads((state / "kept.json").read_text())
    return found


def put_back(state: pathlib.Path) -> None:
    """Puts the kept copies back; may be interrupted and run again."""
    for number, entry in enumerate(kept(state)["paths"]):
        target, kept_copy = pathlib.Path(entry["path"]), state / str(number)
        if not entry["there"]:
            remove(target)
            continue
        replace(kept_copy, target)
        for name in set(entries(target) or []) - set(entry["names"] or []):
            remove(target / name)
        for name in entry["names"] or []:
            replace(kept_copy / name, target / name)


def forget(name: str, keep: bool = False) -> None:
    gone = STATE / f".{name}.reverted"
    remove(gone)
    (STATE / name).rename(gone)
    if not keep:
        remove(gone)
        return
    # what is written into a file now in force must not be written into its copy; without room for that they stay one
    for file in (path for path in gone.rglob("*") if path.is_file() and not path.is_symlink()):
        new = file.with_name(f"{file.name}.new")
        with contextlib.suppress(OSError):
            copy(file, new)
            new.rename(file)


def put_back_and_reload(state: pathlib.Path) -> None:
    """Raises SystemExit where the reload fails."""
    put_back(state)
    reload = kept(state)["reload"]
    if code := subprocess.run(["/bin/sh", "-c", reload]).returncode:
        sys.exit(f"commit-confirmed: the files are back, and {reload} ended with {code}")


def revert(name: str, token: str = "") -> None:
    gone = STATE / f".{name}.reverted"
    if name in unconfirmed() and token in ("", kept(STATE / name)["token"]):
        put_back_and_reload(STATE / name)
        # the state goes last: a revert that was cut short, or could not reload, is done again
        forget(name, keep=not token)
        subprocess.run(["systemctl", "stop", f"{unit(name)}.timer"], check=False)
        print(f"commit-confirmed: {name} was not confirmed and is as it was before")
    elif token and gone.exists() and token == kept(gone)["token"]:
        put_back_and_reload(gone)
        remove(gone)
        print(f"commit-confirmed: {name} had been taken back already, and is so again")
    elif token:
        sys.exit(f"commit-confirmed: {name} was taken back or changed by another run meanwhile")


def settle(name: str, lock: int) -> None:
    while name in unconfirmed() and timer_runs(name):
        fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(1)
        fcntl.flock(lock, fcntl.LOCK_EX)
    revert(name)


def timer_runs(name: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", f"{unit(name)}.timer"]).returncode == 0


def unconfirmed() -> list[str]:
    return sorted(path.name for path in STATE.glob("[!.]*") if path.is_dir())


def main() -> None:
    STATE.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(STATE, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    match sys.argv[1:]:
        case ["arm", name, seconds, reload, *paths] if paths:
            print(arm(name, int(seconds), reload, paths))
        case ["confirm", name, *token] if len(token) < 2:
            if name not in unconfirmed() or token not in ([], [kept(STATE / name)["token"]]):
                sys.exit(f"commit-confirmed: {name} was taken back before it was confirmed")
            forget(name)
            # the change stays from here on: a timer that fires all the same finds nothing to do
            subprocess.run(["systemctl", "stop", f"{unit(name)}.timer"], check=False)
        case ["revert"]:
            for name in unconfirmed():
                revert(name)
        case ["revert", name, *token] if len(token) < 2:
            revert(name, *token)
        case ["settle", name]:
            settle(name, lock)
        case ["boot"]:
            for name in unconfirmed():
                put_back(STATE / name)
                forget(name)
                print(f"commit-confirmed: {name} was not confirmed before the reboot and is as it was before")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"commit-confirmed: {error}")
