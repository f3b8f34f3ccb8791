#!/usr/bin/python3
"""Makes the accounts, the keys and the end of the accounts of the people who may log in."""

import os
import pathlib
import pwd
import signal
import stat
import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: access
short_description: Accounts and keys of the people who may log in, all of them in one call
options:
  people: {type: list, elements: dict, required: true}
  stage:
    description:
      - look changes nothing and returns who would go, and which of them nobody has named for removal.
      - accounts makes and opens accounts, and takes nothing from anybody.
      - keys writes one file of keys a person, and removes the files of all others.
      - revoke locks the accounts that are no longer listed and ends their sessions; their files stay.
    choices: [look, accounts, keys, revoke]
    required: true
  folder: {type: path, required: true}
  operator: {type: str, required: true}
  named: {description: 'look: accounts that may lose their access.', type: list, elements: str, default: []}
  keep: {description: 'keys: accounts that keep theirs beside people.', type: list, elements: str, default: []}
"""
# The group that an account is in tells that this role manages it, and as what.
GROUP = "access-{}"
# from the one who may do most; of the last two, neither may do what the other does
ROLES = ("operator", "analyst", "tunnel", "command")
PROC = pathlib.Path("/proc")
# A user that no account and no process has.
UNUSED = 4294967000
# Seconds in which all processes of an account must have ended.
SECONDS = 30
# sshd runs a forced command by the shell: bash would first read the account's own .bashrc
SHELLS = {"operator": "/bin/bash", "analyst": "/bin/bash", "tunnel": "/usr/sbin/nologin", "command": "/bin/sh"}


class Host:
    """The server's accounts, as its files have them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.users = {user.pw_name: user for user in pwd.getpwall()}
        self.groups = {
            fields[0]: set(filter(None, fields[3].split(",")))
            for fields in (line.split(":") for line in pathlib.Path("/etc/group").read_text().splitlines())
        }
        # the standard library of Python 3.13 cannot read it any more
        lines = pathlib.Path("/etc/shadow").read_text().splitlines()
        self.shadow = {line.partition(":")[0]: line.split(":") for line in lines}
        self.done: list[str] = []

    def run(self, *command: str) -> None:
        self.done.append(" ".join(command))
        if not self.module.check_mode:
            self.module.run_command(list(command), check_rc=True)

    def members(self, role: str) -> list[str]:
        return sorted(self.users.keys() & self.groups.get(GROUP.format(role), set()))

    def role(self, name: str) -> str | None:
        return next((role for role in ROLES if name in self.groups.get(GROUP.format(role), ())), None)


def refuse_reserved(host: Host, people: list[dict[str, Any]]) -> None:
    for person in people:
        name = person["name"]
        user = host.users.get(name)
        if user and not 1000 <= user.pw_uid < 60000:
            host.module.fail_json(msg=f"{name} is an account that the system uses itself : choose another name")
        if not user and name in host.groups:
            host.module.fail_json(msg=f"{name} is the name of a group that the system uses itself: choose another name")


def read_keys(folder: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}


def identities(text: str) -> set[tuple[str, ...]]:
    """Keys of a file, each without its comment."""
    return {tuple(line.split()[:2]) for line in text.splitlines()}


def leaving(
    host: Host, people: list[dict[str, Any]], there: dict[str, str], operator: str, named: list[str]
) -> list[dict[str, Any]]:
    """Managed accounts that the list does not have: name, role, title, and whether the removal is meant.

    It is meant where the account is named. An account that only the operator's own keys open is the same person's.
    """
    listed = {person["name"] for person in people}
    mine = {identity for person in people if person["name"] == operator
            for key in person["keys"] for identity in identities(key["line"])}  # fmt: skip
    return [
        {
            "name": name,
            "role": role,
            "title": f"{name} ({role})",
            "meant": name in named or identities(there.get(name, "")) <= mine,
        }
        for role in ROLES
        for name in host.members(role)
        if name not in listed and host.role(name) == role
    ]


def refused(gone: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Removals that look like a mistake: of an operator, or of several people at once."""
    doubtful = [person for person in gone if not person["meant"]]
    return doubtful if len(doubtful) > 1 or any(person["role"] == "operator" for person in doubtful) else []


def differing(host: Host, name: str, role: str) -> list[str]:
    """usermod's options for what an account of that role must have, and has otherwise."""
    shell = ["--shell", SHELLS[role]] if host.users[name].pw_shell != SHELLS[role] else []
    return shell + (["--password", "*"] if role == "command" and host.shadow[name][1] != "*" else [])


def open_accounts(host: Host, people: list[dict[str, Any]]) -> None:
    for role in ROLES:
        if GROUP.format(role) not in host.groups:
            host.run("groupadd", "--system", GROUP.format(role))
    for person in people:
        name, role = person["name"], person["role"]
        if name not in host.users:
            # '*': no password fits, and unlike '!' the account does not count as locked
            host.run("useradd", "--create-home", "--user-group", "--key", "HOME_MODE=0700", "--password", "*",
                     "--shell", SHELLS[role], "--groups", GROUP.format(role), name)  # fmt: skip
            continue
        changes = [] if shrinks(host.role(name), role) else differing(host, name, role)
        password, expiry = host.shadow[name][1], host.shadow[name][7]
        if password.startswith("!") and "--password" not in changes:
            # not the old password: the account may have been locked for a reason
            changes += ["--password", "*"]
        if expiry:
            changes += ["--expiredate", ""]
        if host.role(name) is None:
            changes += ["--append", "--groups", GROUP.format(role)]
        if changes:
            host.run("usermod", *changes, name)


def shrinks(before: str | None, after: str) -> bool:
    lower = before is not None and ROLES.index(after) > ROLES.index(before)
    return lower or (before, after) == ("command", "tunnel")


def sound(path: pathlib.Path) -> bool:
    status = path.stat()
    return status.st_uid == 0 and stat.S_IMODE(status.st_mode) == (0o755 if path.is_dir() else 0o644)


def refuse_takeover(host: Host, wanted: dict[str, str], there: dict[str, str], operator: str) -> None:
    """Stops the run of one operator from giving another's account to its own keys."""
    mine, mine_before = set(wanted[operator].splitlines()), set(there.get(operator, "").splitlines())
    for name in (wanted.keys() & there.keys()) - {operator}:
        new, old = set(wanted[name].splitlines()), set(there[name].splitlines())
        if new <= mine and not old & (mine | mine_before):
            host.module.fail_json(
                msg=f"this would replace all keys of {name} by those of {operator}. operator_keys are the keys of the"
                f" machine that this runs on: list the keys of {name} themselves"
            )


def write_keys(
    host: Host, people: list[dict[str, Any]], folder: pathlib.Path, operator: str, keep: list[str]
) -> dict[str, str]:
    wanted = {person["name"]: "".join(f"{key['line']}\n" for key in person["keys"]) for person in people}
    there = read_keys(folder)
    refuse_takeover(host, wanted, there, operator)
    for name in there.keys() & set(keep):
        listed = wanted.get(name, "")
        wanted[name] = listed + "".join(
            f"{line}\n" for line in there[name].splitlines() if line not in listed.splitlines()
        )
    if there == wanted and folder.is_dir() and all(sound(path) for path in (folder, *folder.iterdir())):
        return {"before": "", "after": ""}
    host.done.append(f"keys in {folder}")
    if not host.module.check_mode:
        folder.mkdir(exist_ok=True)
        # sshd reads these as the person who logs in, whatever umask this runs under
        folder.chmod(0o755)
        os.chown(folder, 0, 0)
        for name, text in wanted.items():
            # whole or not at all
            new = folder / f".{name}"
            new.write_text(text)
            new.chmod(0o644)
            new.rename(folder / name)
        for name in there.keys() - wanted.keys():
            (folder / name).unlink(missing_ok=True)
    return {
        side: "".join(f"{name}: {line}\n" for name, text in sorted(files.items()) for line in text.splitlines())
        for side, files in (("before", there), ("after", wanted))
    }


def processes(uid: int) -> list[int]:
    return [int(entry.name) for entry in PROC.glob("[0-9]*") if owner(entry) == uid and not ended(entry)]


def ended(entry: pathlib.Path) -> bool:
    """Whether it is gone, or a zombie that its parent has not asked after."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill_all(uid: int) -> None:
    """Sends SIGKILL to every process of that user in one call of the kernel's, which no fork can outrun."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        # the effective user says whom it may signal, the others who may signal it: nobody
        os.setresuid(UNUSED, uid, UNUSED)
        os.kill(-1, signal.SIGKILL)
    finally:
        os._exit(0)


def end_processes(host: Host, name: str) -> None:
    """Kills whatever runs as that account, sessions and forwardings included, until nothing is left."""
    uid = host.users[name].pw_uid
    deadline = time.monotonic() + SECONDS
    while True:
        # first: a list may miss all of those that fork fast, and only after this one is nothing left of them
        kill_all(uid)
        if not (left := processes(uid)):
            return
        if time.monotonic() > deadline:
            told = "; ".join(f"{process} {command(process)}" for process in left[:5])
            host.module.fail_json(
                msg=f"{name} has no keys and no sudo any more, but {len(left)} processes still run after {SECONDS} s:"
                f" {told}. Stop what starts them (systemctl status {left[0]}), and run this again. A reboot ends them"
            )
        time.sleep(0.1)


def command(process: int) -> str:
    try:
        return (PROC / str(process) / "cmdline").read_text().replace("\0", " ").strip()[:60]
    except OSError:
        return "(ended)"


def owner(entry: pathlib.Path) -> int | None:
    try:
        return entry.stat().st_uid
    except OSError:
        return None


def revoke(host: Host, people: list[dict[str, Any]]) -> None:
    wanted = {person["name"]: person["role"] for person in people}
    for role in ROLES:
        for name in host.members(role):
            if wanted.get(name) == role:
                continue
            # a higher role keeps its sessions
            ends = name not in wanted or shrinks(role, wanted[name])
            if ends:
                host.done.append(f"end of the sessions of {name}")
            if name not in wanted:
                # the role's own group goes last, all others now
                host.run("usermod", "--lock", "--expiredate", "1", "--groups", GROUP.format(role), name)
            elif changes := differing(host, name, wanted[name]):
                host.run("usermod", *changes, name)
            if ends and not host.module.check_mode:
                # lingering units would start again
                pathlib.Path("/var/lib/systemd/linger", name).unlink(missing_ok=True)
                end_processes(host, name)
            # last, so that a run that was cut short begins here again
            if name in wanted:
                host.run("gpasswd", "--add", name, GROUP.format(wanted[name]))
            host.run("gpasswd", "--delete", name, GROUP.format(role))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "people": {"type": "list", "elements": "dict", "required": True},
            "stage": {"choices": ["look", "accounts", "keys", "revoke"], "required": True},
            "folder": {"type": "path", "required": True},
            "operator": {"type": "str", "required": True},
            "named": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    host = Host(module)
    people = [person for person in module.params["people"] if person["state"] == "present"]
    diff: dict[str, str] = {}
    folder, operator = pathlib.Path(module.params["folder"]), module.params["operator"]
    refuse_reserved(host, people)
    try:
        if module.params["stage"] == "look":
            gone = leaving(host, people, read_keys(folder), operator, module.params["named"])
            module.exit_json(changed=False, leaving=gone, refused=refused(gone), operators=host.members("operator"))
        elif module.params["stage"] == "accounts":
            open_accounts(host, people)
        elif module.params["stage"] == "keys":
            diff = write_keys(host, people, folder, operator, module.params["keep"])
        else:
            revoke(host, people)
    except (OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"{error}; done before it: {host.done}")
    if not diff:
        diff = {"before": "", "after": "".join(f"{step}\n" for step in host.done)}
    module.exit_json(changed=bool(host.done), diff=diff, done=host.done)


if __name__ == "__main__":
    main()
