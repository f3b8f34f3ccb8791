"""Filters of the role: what is wrong with its variables, and its commands with their timeouts."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SMTP = ("host", "port", "user", "password", "from", "tls")
LINE = ("name", "command", "timeout")
TLS = ("starttls", "tls", "none")
# printable ASCII, and no login before the host: that would end in messages of Python's
URL = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?([/?][!-~]*)?")
ADDRESS = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+")
Faults = Iterator[str]


def whole(value: Any, lowest: int, highest: int) -> bool:
    return (
        not isinstance(value, bool) and bool(re.fullmatch(r"\d{1,9}", str(value))) and lowest <= int(value) <= highest
    )


def webhook(name: str, value: Any) -> Faults:
    # the value is a secret
    if value and not (isinstance(value, str) and URL.fullmatch(value)):
        yield f'{name} is not a URL: give https://…, without blanks and without a login before the host, or "" for none'


def mapping(name: str, value: Any) -> Faults:
    if not isinstance(value, Mapping):
        yield f'{name} is not a mapping: give {{text: "{{text}}"}}'
    elif not re.search(r"{(text|message|title)}", str(value)):
        yield f"{name} has none of {{text}}, {{message}} and {{title}}: messages would be empty"


def texts(name: str, value: Any) -> Faults:
    if not isinstance(value, Mapping):
        yield f"{name} is not a mapping: give {{NAME: text}}"
        return
    for key, text in value.items():
        if (
            isinstance(text, Mapping | list)
            or not re.fullmatch(r"[ -~]*", str(text))
            or not re.fullmatch(r"[\w-]+", str(key))
        ):
            yield f"{key} in {name} is not a text of one line"


def mail(name: str, value: Any) -> Faults:
    if value and not (isinstance(value, str) and ADDRESS.fullmatch(value)):
        yield f"{name} is '{value}': give one address, as ana@example.org, or \"\" for none"


def smtp(name: str, value: Any) -> Faults:
    if not isinstance(value, Mapping):
        yield f"{name} is not a mapping: give {{host: smtp.example.org, user: …, password: …}}"
        return
    for key in sorted(map(str, value.keys() - set(SMTP))):
        yield f"{name} has {key}, which nothing reads: it may have {', '.join(SMTP)}"
    host = str(value.get("host", ""))
    if value and not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        yield f"host in {name} is '{host}': give the mail server's name, as smtp.example.org"
    if "port" in value and not whole(value["port"], 1, 65535):
        yield f"port in {name} is {value['port']}: give a number from 1 to 65535"
    if value.get("tls", TLS[0]) not in TLS:
        yield f"tls in {name} is {value['tls']}: give {', '.join(TLS[:-1])} or {TLS[-1]}"
    if bool(value.get("user")) != bool(value.get("password")):
        yield f"{name} has only one of user and password: give both or neither"
    elif value.get("user") and value.get("tls") == "none":
        yield f"{name} has a password and tls: none, which would send it readable: give starttls or tls"
    sender = value.get("from", "")
    if sender and not re.fullmatch(rf"(?:[^<>\r\n]*<)?{ADDRESS.pattern}>?", str(sender)):
        yield f"from in {name} is '{sender}': give an address, as server@example.org"


def number(lowest: int, highest: int) -> Callable[[str, Any], Faults]:
    def check(name: str, value: Any) -> Faults:
        if not whole(value, lowest, highest):
            yield f"{name} is {value}: give a number from {lowest} to {highest}"

    return check


def paths(name: str, value: Any) -> Faults:
    if not isinstance(value, list):
        yield f"{name} is not a list: give [/path]"
        return
    for path in value:
        if not re.fullmatch(r"/.*", str(path)):
            yield f"{path} in {name} is not an absolute path"


def lines(name: str, value: Any) -> Faults:
    if not isinstance(value, list):
        yield f"{name} is not a list: give [{{name: backup, command: …}}]"
        return
    seen = set()
    for position, line in enumerate(value, 1):
        where = f"entry {position} of {name}"
        if not isinstance(line, Mapping) or not all(str(line.get(key, "")).strip() for key in LINE[:2]):
            yield f"{where} must have name and command"
            continue
        for key in sorted(map(str, line.keys() - set(LINE))):
            yield f"{where} has {key}, which nothing reads: it may have {', '.join(LINE)}"
        if line.get("timeout") is not None and not whole(line["timeout"], 1, 600):
            yield f"timeout in {where} is {line['timeout']}: give seconds, from 1 to 600"
        if line["name"] in seen:
            yield f"{where} has the name {line['name']} again: give each its own"
        seen.add(line["name"])


CHECKS: dict[str, Callable[[str, Any], Faults]] = {
    "notify_webhook": webhook,
    "notify_webhook_body": mapping,
    "notify_webhook_headers": texts,
    "notify_mail": mail,
    "notify_smtp": smtp,
    "notify_minutes": number(1, 59),
    "notify_lines": lines,
    "notify_mounts": paths,
    "notify_disk_percent": number(1, 100),
    "notify_disk_days": number(0, 365),
    "notify_certificates": paths,
    "notify_certificate_days": number(1, 365),
    "notify_reboot_days": number(0, 365),
    "notify_environment": texts,
}


def faults(values: Mapping[str, Any], together: bool = True) -> list[str]:
    """Sentences that say what is wrong with the variables, without a secret; `together` also with two of them."""
    found = [fault for name, value in values.items() for fault in CHECKS[name](name, value)]
    if together and not found and values.get("notify_mail") and not values.get("notify_smtp"):
        found.append("notify_mail is set and notify_smtp is not: give {host: smtp.example.org, user: …, password: …}")
    return found


def timed(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The commands, each with its timeout in seconds."""
    return [{**line, "timeout": int(line.get("timeout") or 60)} for line in given]


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    """The values as texts: a password of digits is a number in YAML."""
    return {str(name): str(value) for name, value in values.items()}


class FilterModule:
    """Ansible's face of this file."""

    def filters(self) -> dict[str, Any]:
        return {"notify_faults": faults, "notify_lines": timed, "notify_texts": texts_of}
