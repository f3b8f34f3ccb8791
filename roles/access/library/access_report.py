#!/usr/bin/python3
"""Lists who sshd would let in, and by which keys, as sshd itself sees it."""

import fnmatch
import grp
import os
import pathlib
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: access_report
short_description: Who can get in over SSH, by sshd's effective configuration and the keys that it would read
options: {}
"""


def effective(module: AnsibleModule, user: str) -> dict[str, list[str]]:
    """Values of sshd's options for that user, by option in lower case."""
    _, output, _ = module.run_command(["sshd", "-T", "-C", f"user={user},host=localhost,addr=127.0.0.1"], check_rc=True)
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).extend(value.split())
    return found


def listed(names: set[str], patterns: list[str]) -> bool:
    """Whether a name matches a pattern of sshd's, whatever host the pattern asks for."""
    return any(fnmatch.fnmatchcase(name, pattern.partition("@")[0]) for name in names for pattern in patterns)


def groups_of(user: pwd.struct_passwd) -> set[str]:
    return {group.gr_name for group in grp.getgrall() if user.pw_name in group.gr_mem or user.pw_gid == group.gr_gid}


def let_in(user: pwd.struct_passwd, options: dict[str, list[str]]) -> bool:
    names = {user.pw_name}
    groups = groups_of(user)
    return (
        not listed(names, options.get("denyusers", []))
        and not listed(groups, options.get("denygroups", []))
        and (listed(names, options["allowusers"]) if "allowusers" in options else True)
        and (listed(groups, options["allowgroups"]) if "allowgroups" in options else True)
        and (user.pw_uid != 0 or options["permitrootlogin"] != ["no"])
    )


def keys(module: AnsibleModule, user: pwd.struct_passwd, options: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for pattern in options.get("authorizedkeysfile", []):
        name = pattern.replace("%u", user.pw_name).replace("%h", user.pw_dir).replace("%%", "%")
        file = pathlib.Path(user.pw_dir, name)
        if file.is_file() and os.path.getsize(file):
            code, output, _ = module.run_command(["ssh-keygen", "-l", "-f", str(file)])
            found += output.splitlines() if code == 0 else [f"{file} cannot be read as a file of keys"]
    return found


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    shadow = dict(line.split(":")[:2] for line in pathlib.Path("/etc/shadow").read_text().splitlines())
    people: list[dict[str, Any]] = []
    for user in pwd.getpwall():
        options = effective(module, user.pw_name)
        if not let_in(user, options):
            continue
        ways = keys(module, user, options) if options["pubkeyauthentication"] == ["yes"] else []
        if "yes" in options["passwordauthentication"] + options["kbdinteractiveauthentication"]:
            # a hash; what begins otherwise fits no password
            ways += ["a password"] if shadow.get(user.pw_name, "").startswith("$") else []
        if ways:
            roles = [name.removeprefix("access-") for name in groups_of(user) if name.startswith("access-")]
            role = roles[0] if roles else "not in the list"
            people.append({"name": user.pw_name, "role": role, "ways": ways})
    module.exit_json(changed=False, people=people)


if __name__ == "__main__":
    main()
