#!/usr/bin/python
"""Ansible module: folders that an account owns, made without following a link that somebody else laid."""

from __future__ import annotations

import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mlflow_server_folders
short_description: Folders that an account owns
description:
  - Each path is walked folder by folder, so that no part of it can be exchanged in between.
  - A link is followed where root alone can write beside it. Any other link is refused.
  - Where others can write, an existing folder of somebody else is refused, unless it is root's and empty or a mount.
options:
  paths: {description: Absolute paths, a parent before what is in it., type: list, elements: str, required: true}
  owner: {description: The account. Its own group becomes the folders' group., type: str, required: true}
  mode: {description: Permissions of the folders, octal., type: str, default: "0750"}
"""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# a path with more links than this is a circle
LINKS = 20


class Refused(Exception):
    """Something that the operator has to mend; the message says how."""


def roots_alone(folder: int) -> bool:
    """Whether root alone decides what lies in a folder."""
    status = os.fstat(folder)
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def check_owner(path: str, parent: int, folder: int, uid: int) -> None:
    """Whether a folder that is there may be given to the account.

    Raises:
        Refused: others can write where it lies, and it is somebody's.
    """
    status, above = os.fstat(folder), os.fstat(parent)
    if status.st_uid == uid or roots_alone(parent):
        return
    if status.st_uid != 0 or (os.listdir(folder) and status.st_dev == above.st_dev):
        raise Refused(
            f"{path} belongs to user {status.st_uid} and lies where others than root can write: it is not"
            f" given away. Look what it is (sudo ls -la {path}), move it away, and run this again."
        )


def ensure(path: str, uid: int, gid: int, mode: int, check: bool) -> bool:
    """Makes a folder, and those above it where they are missing, with owner and mode; whether that changed anything.

    Raises:
        Refused: a part of the path is a link that somebody other than root may have laid, or no folder.
    """
    folder, walked, links = os.open("/", FOLDER), "/", 0
    parts = [part for part in os.path.normpath(path).split("/") if part]
    try:
        while parts:
            part, last = parts.pop(0), not parts
            here = os.path.join(walked, part)
            try:
                status = os.lstat(part, dir_fd=folder)
            except FileNotFoundError:
                if check:
                    return True
                os.mkdir(part, 0o700 if last else 0o755, dir_fd=folder)
                made = os.open(part, FOLDER, dir_fd=folder)
                # the parents of what is made are root's
                os.fchmod(made, mode if last else 0o755)
                if last:
                    os.fchown(made, uid, gid)
                os.close(folder)
                folder, walked = made, here
                if last:
                    return True
                continue
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if not roots_alone(folder) or links > LINKS:
                    raise Refused(
                        f"{here} is a link to {os.readlink(part, dir_fd=folder)}, which others than root can have laid."
                        f" It is not followed. Look who needs it, remove it (sudo rm {here}) and run this again; to"
                        " keep the data elsewhere, name that folder in the variable, or mount it there."
                    )
                target = os.readlink(part, dir_fd=folder)
                parts = [piece for piece in os.path.normpath(os.path.join(walked, target)).split("/") if piece] + parts
                os.close(folder)
                folder, walked = os.open("/", FOLDER), "/"
                continue
            if not stat.S_ISDIR(status.st_mode):
                raise Refused(f"{here} is not a folder. Move it away (sudo mv {here} {here}.old) and run this again.")
            below = os.open(part, FOLDER, dir_fd=folder)
            try:
                if last:
                    check_owner(here, folder, below, uid)
            finally:
                os.close(folder)
                folder, walked = below, here
        status = os.fstat(folder)
        wrong = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (uid, gid, mode)
        if wrong and not check:
            # the mode last: a change of owner may take bits from it
            os.fchown(folder, uid, gid)
            os.fchmod(folder, mode)
        return wrong
    finally:
        os.close(folder)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "mode": {"type": "str", "default": "0750"},
        },
        supports_check_mode=True,
    )
    uid = gid = -1
    try:
        account = pwd.getpwnam(module.params["owner"])
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        # before the first run, the paths can be looked at all the same
        if not module.check_mode:
            module.fail_json(msg=f"There is no account {module.params['owner']}.")
    mode = int(module.params["mode"], 8)
    try:
        changed = [path for path in module.params["paths"] if ensure(path, uid, gid, mode, module.check_mode)]
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed), folders=changed)


if __name__ == "__main__":
    main()
