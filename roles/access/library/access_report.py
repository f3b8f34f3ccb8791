#!/usr/bin/python3
"""Lists who sshd would let in, and by which keys, as sshd itself sees it."""

import fnmatch
import grp
import json
import os
import pathlib
import pwd
import re
import shlex
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: access_report
short_description: Who can get in over SSH, by sshd's effective configuration and the keys that it would read
options:
  user:
    description: Return sshd's effective configuration for this account, and the options of its command line, instead.
    type: str
"""
SYSTEMD = "org.freedesktop.systemd1"
# sshd's options without and with a value
FLAGS, VALUED = "[46Ddeiqrt]*", "[ofpchEgbku]"


def expand(argv: list[str], environment: dict[str, str]) -> list[str]:
    """Words of a command line as systemd hands them over: $NAME is split at spaces, ${NAME} is not."""
    words: list[str] = []
    for word in argv:
        if match := re.fullmatch(r"\$(\w+)", word):
            words += environment.get(match[1], "").split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], ""), word))
    return words


def read_environment(text: str) -> dict[str, str]:
    """Variables of an EnvironmentFile."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            try:
                found[name] = " ".join(shlex.split(value))
            except ValueError:
                continue
    return found


def options_of(argv: list[str]) -> list[str]:
    """The options of sshd's own command line that change its configuration, as further arguments of sshd -T.

    Others, such as -D and -i, say how it runs.
    """
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if match := re.fullmatch(f"-{FLAGS}({VALUED})(.*)", word):
            value = match[2] or next(words, "")
            if match[1] in "ofpch":
                found += [f"-{match[1]}", value]
    return found


def argv_of(title: str) -> list[str]:
    """Arguments of a running sshd, from its /proc/PID/cmdline.

    The listener shows "sshd: /usr/sbin/sshd -D … [listener] 0 of 10-100 startups", where blanks no longer tell
    one argument from the next: all up to the next option is the value of the one before.
    """
    words = [word for word in title.split("\0") if word]
    if not words or not words[0].startswith("sshd: "):
        return words[1:]
    joined: list[str] = []
    for word in re.sub(r" \[listener\].*", "", words[0], flags=re.S).split()[2:]:
        # -o and the like take one argument, whatever is in it
        if len(joined) > 1 and re.fullmatch(f"-{FLAGS}{VALUED}", joined[-2]) and not word.startswith("-"):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def both(running: list[str], started: list[str]) -> list[str]:
    """Options of the running sshd, then those that only its next start would have."""
    found = list(running)
    known = {(flag, " ".join(value.split())) for flag, value in zip(running[::2], running[1::2], strict=True)}
    for flag, value in zip(started[::2], started[1::2], strict=True):
        if (flag, " ".join(value.split())) not in known:
            found += [flag, value]
    return found


def service_property(module: AnsibleModule, unit: str, name: str) -> Any:
    """A property of a systemd service; None where systemd does not say."""
    path = f"/org/freedesktop/systemd1/unit/{re.sub(r'[^A-Za-z0-9]', lambda found: f'_{ord(found[0]):02x}', unit)}"
    command = ["busctl", "--json=short", "get-property", SYSTEMD, path, f"{SYSTEMD}.Service", name]
    code, output, _ = module.run_command(command)
    return json.loads(output)["data"] if code == 0 else None


def command_line(module: AnsibleModule) -> list[str]:
    """Options that sshd runs with or is next started with.

    They win over every file, and `sshd -T` alone knows nothing of them. A reload keeps those of the running process.
    """
    if not shutil.which("busctl"):
        return []
    return both(options_of(running(module)), options_of(starting(module)))


def running(module: AnsibleModule) -> list[str]:
    """Arguments of the sshd that listens; empty where none does, as with a socket that nobody has used yet."""
    _, pid, _ = module.run_command(["systemctl", "show", "--property=MainPID", "--value", "ssh.service"])
    try:
        return argv_of(pathlib.Path("/proc", str(int(pid)), "cmdline").read_text(errors="replace"))
    except (OSError, ValueError):
        return []


def starting(module: AnsibleModule) -> list[str]:
    """Arguments that systemd starts sshd with."""
    _, accept, _ = module.run_command(["systemctl", "show", "--property=Accept,ActiveState", "ssh.socket"])
    unit = "ssh@0.service" if {"Accept=yes", "ActiveState=active"} <= set(accept.split()) else "ssh.service"
    started = [entry[1] for entry in service_property(module, unit, "ExecStart") or [] if entry[1]]
    if not started:
        return []
    environment = read_environment("\n".join(service_property(module, unit, "Environment") or []))
    for file, _ in service_property(module, unit, "EnvironmentFiles") or []:
        path = pathlib.Path(file)
        environment |= read_environment(path.read_text()) if path.is_file() else {}
    return expand(started[-1][1:], environment)


def ask_sshd(module: AnsibleModule, options: list[str], user: str, strict: bool = True) -> tuple[list[str], str]:
    """Lines of sshd's effective configuration for that user, and what is wrong, which ends the module if strict."""
    command = ["sshd", *options, "-T", "-C", f"user={user},host=localhost,addr=127.0.0.1"]
    code, output, said = module.run_command(command, check_rc=strict)
    return output.splitlines(), said.strip() if code else ""


def effective(module: AnsibleModule, options: list[str], user: str) -> dict[str, list[str]]:
    """Values of sshd's options for that user, by option in lower case."""
    found: dict[str, list[str]] = {}
    for line in ask_sshd(module, options, user)[0]:
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
    module = AnsibleModule(argument_spec={"user": {"type": "str"}}, supports_check_mode=True)
    command = command_line(module)
    if user := module.params["user"]:
        there = shutil.which("sshd") is not None
        lines, said = ask_sshd(module, command, user, strict=False) if there else ([], "")
        module.exit_json(changed=False, options=command, lines=lines, said=said)
    shadow = dict(line.split(":")[:2] for line in pathlib.Path("/etc/shadow").read_text().splitlines())
    people: list[dict[str, Any]] = []
    for account in pwd.getpwall():
        options = effective(module, command, account.pw_name)
        if not let_in(account, options):
            continue
        ways = keys(module, account, options) if options["pubkeyauthentication"] == ["yes"] else []
        if "yes" in options["passwordauthentication"] + options["kbdinteractiveauthentication"]:
            # a hash; what begins otherwise fits no password
            ways += ["a password"] if shadow.get(account.pw_name, "").startswith("$") else []
        if (asked := options.get("authorizedkeyscommand", ["none"])) != ["none"]:
            ways.append(f"any key that {' '.join(asked)} prints (AuthorizedKeysCommand)")
        if ways:
            roles = [name.removeprefix("access-") for name in groups_of(account) if name.startswith("access-")]
            role = roles[0] if roles else "not in the list"
            if role != "tunnel" and (forced := options.get("forcecommand", ["none"])) != ["none"]:
                role += f", runs only: {' '.join(forced)}"
            people.append({"name": account.pw_name, "role": role, "ways": ways})
    module.exit_json(changed=False, people=people)


if __name__ == "__main__":
    main()
