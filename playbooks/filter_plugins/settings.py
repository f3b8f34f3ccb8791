"""Checks settings before use. A message says what the person wrote, and what to write instead."""

import contextlib
import importlib.util
import ipaddress
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from ansible import constants

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
# yields each fault of a value; the name is how the message calls it
Check = Callable[[str, Any], Iterator[str]]


def number(value: Any) -> float | None:
    """The number that a setting holds, also as a text; None where it holds none."""
    try:
        return None if isinstance(value, bool) else float(str(value))
    except ValueError:
        return None


def shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        # what is in it may be secret
        return "a list" if isinstance(value, list) else "a mapping"
    return "empty" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def local_file(path: str) -> str:
    """The file of this machine that a path names: where copy looks, else below the current folder; empty for none."""
    playbooks = ROLES.parent / "playbooks"
    paths = [os.path.join(folder, os.path.expanduser(path)) for folder in (playbooks / "files", playbooks, os.getcwd())]
    return next(filter(os.path.isfile, paths), "")


def kind(fits: Callable[[Any], Any], wanted: str) -> Check:
    def check(name: str, value: Any) -> Iterator[str]:
        if not fits(value):
            yield f"{name} is {shown(value)}: give {wanted}"

    return check


def port(lowest: int) -> Check:
    def fits(value: Any) -> bool:
        found = number(value)
        return found is not None and found.is_integer() and lowest <= found <= 65535

    return kind(fits, f"a port, a number from {lowest} to 65535")


account = kind(
    lambda value: isinstance(value, str) and re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", value),
    "the name of an account, in lower case",
)
text = kind(lambda value: isinstance(value, str) and value.strip(), "a text")
a_number = kind(lambda value: (found := number(value)) is not None and found >= 0, "a number")
# the text "false" would count as true
truth = kind(lambda value: isinstance(value, bool) or value in ("true", "True", "yes"), "true or false, not as a text")
# also from -e NAME=false, where it is used through | bool
switch = kind(
    lambda value: isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no", "on", "off"),
    "true or false",
)
scalar = kind(lambda value: isinstance(value, str | int | float), "a text")
folder = kind(
    lambda value: isinstance(value, str) and bool(re.fullmatch("(?!/(home|root|tmp|var/tmp)(/|$))(/[^/ ]+)*", value)),
    "the path of a folder, which a service can see: not in /home, /root or /tmp",
)
file = kind(
    lambda value: value in (None, "") or (isinstance(value, str) and local_file(value)),
    "the path of a file on this machine",
)
backend = kind(
    lambda value: isinstance(value, str) and (value in ("sqlite", "postgresql") or ":" in value),
    "sqlite, postgresql or the URL of a database",
)


def each(check: Check, form: str) -> Check:
    """A list, each entry of which passes the check."""

    def check_list(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{name} is {shown(value)}: give a list, as {form}"
            return
        for position, entry in enumerate(value, 1):
            called = entry.get("name", "") if isinstance(entry, Mapping) else ""
            yield from check(f"entry {position} of {name}" + (f" ({called})" if called else ""), entry)

    return check_list


def mapping(check: Check, form: str) -> Check:
    """A mapping, each value of which passes the check."""

    def check_mapping(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{name} is {shown(value)}: give a mapping, as {form}"
            return
        for key, content in value.items():
            yield from check(f"{key} in {name}", content)

    return check_mapping


TYPES: dict[str, Check] = {
    "str": scalar,
    "int": a_number,
    "float": a_number,
    "bool": truth,
    "list": each(lambda name, value: iter(()), "[…]"),
    "dict": mapping(lambda name, value: iter(()), "{…}"),
}


def entry(form: str, options: Mapping[str, Mapping[str, Any]], closed: bool) -> Check:
    """A mapping with these options, as an argument specification has them, and with no others where it is closed."""

    def check(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{name} is {shown(value)}: give an entry, as {form}"
            return
        for key, option in options.items():
            if value.get(key) is not None:
                checked = TYPES[option.get("type", "str")](f"{key} in {name}", value[key])
                yield from ((f"{key} in {name} is not a text" for _ in checked) if option.get("no_log") else checked)
            elif option.get("required"):
                yield f"{name} has no {key}: give an entry, as {form}"
        for key in sorted(map(str, value.keys() - options.keys())) if closed else []:
            yield f"{name} has {key}, which nothing reads: it may have {', '.join(options)}"

    return check


@cache
def plugin(path: str) -> Any:
    """The file of a role."""
    spec = importlib.util.spec_from_file_location(path.rpartition("/")[2].removesuffix(".py"), ROLES / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def firewall() -> Any:
    """The role's own reader of its rules."""
    return plugin("firewall/filter_plugins/firewall_rules.py")


def notify(name: str, value: Any) -> Iterator[str]:
    """The role's own check of its variables, without their values, some of which are secret."""
    yield from plugin("notify/filter_plugins/notify.py").faults({name: value}, together=False)


def no_mail_server(settings: Mapping[str, Any]) -> Iterator[str]:
    both = {name: settings[name] for name in ("notify_mail", "notify_smtp")}
    yield from plugin("notify/filter_plugins/notify.py").faults(both)


def rule(name: str, value: Any) -> Iterator[str]:
    called = name + (f" (port {value['port']})" if isinstance(value, Mapping) and "port" in value else "")
    try:
        firewall().rule(value)
    except firewall().Refused as error:
        yield f"{called}: {error}"


def idle(settings: Mapping[str, Any]) -> Iterator[str]:
    """Entries of open_ports that never decide, because SSH's own rule or an entry before them does."""
    before = {f"the rule of ssh_port {settings['ssh_port']}": firewall().rule({"port": settings["ssh_port"]})}
    for position, new in enumerate(map(firewall().rule, settings["open_ports"]), 1):
        sources = [source for family in new["sources"].values() for source in family]
        for where, other in before.items():
            if all(firewall().fits(other, new["protocol"], new["port"], source) for source in sources):
                yield f"entry {position} of open_ports (port {new['port']}) changes nothing: {where} decides before it"
        before[f"entry {position}"] = new


def addresses(name: str, value: Any) -> Iterator[str]:
    try:
        firewall().networks(value, name)
    except firewall().Refused as error:
        yield str(error)


def operator_keys(name: str, value: Any) -> Iterator[str]:
    # a single key is also accepted
    return each(text, '["ssh-ed25519 AAAA… me@laptop"]')(name, [value] if isinstance(value, str) else value)


@cache
def options(role: str, name: str) -> dict[str, Any]:
    specification = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = specification["argument_specs"]["main"]["options"][name].get("options", {})
    return found


def jupyter_people(name: str, value: Any) -> Iterator[str]:
    form = "{name: ana, port: 8889}"
    faults = list(
        each(entry(form, options("jupyter_screen", "jupyter_screen_users"), closed=True), f"[{form}]")(name, value)
    )
    yield from faults
    if not faults:
        for position, person in enumerate(value, 1):
            yield from account(f"name in entry {position} of {name}", person["name"])
            yield from port(1024)(f"port in entry {position} of {name} ({person['name']})", person["port"])


environment = kind(lambda value: value in ("dev", "staging", "prod"), "dev, staging or prod")


def serving_clients(name: str, value: Any) -> Iterator[str]:
    form = "{name: shop, per_second: 50}"
    return each(entry(form, options("model_server", "model_server_clients"), closed=True), f"[{form}]")(name, value)


def copies(name: str, value: Any) -> Iterator[str]:
    forms = r"(|/.+|append:.+|sftp:.+|(s3|b2|azure|gs|rest|swift):.+)"
    if not isinstance(value, str) or not re.fullmatch(forms, value):
        yield (
            f"{name} is {shown(value)}: give a folder such as /mnt/copies, append:NAME (a server of this inventory),"
            " sftp:USER@HOST:/FOLDER, s3:https://HOST/BUCKET, or nothing"
        )


def mlflow_users(name: str, value: Any) -> Iterator[str]:
    form = "{name: ana, accounts: [ana]}"
    known: dict[str, dict[str, Any]] = {
        "name": {"required": True},
        "password": {"no_log": True},
        "admin": {"type": "bool"},
        "permissions": {"type": "list"},
        "accounts": {"type": "list"},
    }
    return each(entry(form, known, closed=False), f"[{form}]")(name, value)


def promotion_gate(name: str, value: Any) -> Iterator[str]:
    yield from mapping(
        lambda name, value: iter(()), "{margins: {rmse: 0}, list_errors: 1.645, latency_ms: 500, size_mb: 500}"
    )(name, value)
    margins = value.get("margins") if isinstance(value, Mapping) else None
    for key in margins if isinstance(margins, Mapping) else ():
        if old := re.fullmatch("(precision|recall|ndcg)_at_k", str(key)):
            yield f"{key} in margins of {name} is called rated_{old[1]} now; of whole lists it is list_{old[1]}"


def taken(settings: Mapping[str, Any]) -> Iterator[str]:
    """Ports of the loopback that two settings name."""
    named = {name: settings[name] for name in ("jupyter_port", "mlflow_port")}
    named |= {f"{key} in serving_ports": value for key, value in settings["serving_ports"].items()}
    for position, person in enumerate(settings["jupyter_people"], 1):
        named[f"entry {position} of jupyter_people ({person['name']})"] = person["port"]
    places: dict[float | None, list[str]] = {}
    for name, value in named.items():
        places.setdefault(number(value), []).append(name)
    for value, names in places.items():
        if value is not None and len(names) > 1:
            yield f"{' and '.join(names)} name the same port, {value:.0f}: give each a port of its own"


def no_port(settings: Mapping[str, Any]) -> Iterator[str]:
    """Served environments without a port: a mapping that is set replaces the default one."""
    for name in settings["serving_environments"]:
        if name not in settings["serving_ports"]:
            yield (
                f"serving_ports has no port for {name}, which serving_environments lists: "
                "give each a port, as {dev: 8000, staging: 8001, prod: 8002}"
            )


def no_receiver(settings: Mapping[str, Any]) -> Iterator[str]:
    """A receiver of copies that is not in the inventory, or that is the server itself."""
    name = re.sub("^append:", "", settings["backup_to"])
    if settings["backup_to"] == f"append:{settings['inventory_hostname']}":
        yield (
            f"backup_to is append:{name}, the server itself, with which its copies would be lost: name another one, or"
            " set it in host_vars of the others"
        )
    elif settings["backup_to"].startswith("append:") and name not in settings["groups"]["all"]:
        there = ", ".join(settings["groups"]["all"])
        yield f"backup_to is append:{name}, which is not a server of this inventory. It has {there}"


def no_public_key(settings: Mapping[str, Any]) -> Iterator[str]:
    """A private key whose public half nobody can let in, because it is not there."""
    key = os.path.expanduser(settings["ansible_private_key_file"]).removesuffix(".pub")
    if os.path.isfile(f"{key}.pub"):
        return
    if not os.path.isfile(key):
        yield f"ansible_private_key_file is '{key}', and there is no such file on this machine: mend the path"
    elif not settings["operator_keys"] and any(person.get("keys") == [] for person in settings["people"]):
        yield (
            f"ansible_private_key_file is '{key}', and its public key '{key}.pub' is not there. "
            f"Make it: ssh-keygen -y -f '{key}' > '{key}.pub'"
        )


def no_member_address(settings: Mapping[str, Any]) -> Iterator[str]:
    """A member of a Spark cluster of which only a name is known; the others' firewalls open to addresses."""
    members = [name for group in ("spark_master", "spark_workers") for name in settings["groups"].get(group, ())]
    name = settings["inventory_hostname"]
    if settings["spark_private_network"]:
        setting, wanted = "wireguard_endpoint", "the server's public IP address"
    else:
        setting, wanted = "spark_address", "the IP address at which the other members reach it"
    if name in members and (settings["spark_private_network"] or settings["spark_state"] == "present"):
        try:
            ipaddress.ip_address(settings[setting])
        except ValueError:
            yield (
                f"{setting}, by default ansible_host, is {shown(settings[setting])}:"
                f" write {wanted} into host_vars of {name}"
            )


def connection(name: str, value: Any) -> Iterator[str]:
    # mitogen takes over what is called ssh, also where a login has to be a new one
    if value == "ssh" and constants.DEFAULT_STRATEGY == "fast":
        yield f"{name} is ssh, with FAST=1: take it out, it is ssh anyway"


CHECKS: dict[str, Check] = {
    "ansible_connection": connection,
    "operator": account,
    "analyst": account,
    "first_login_user": text,
    "operators_before": each(text, "[deploy]"),
    "people": each(entry("{name: ana, role: analyst, keys: keys/ana.pub}", {"name": {"required": True}}, closed=False),
                   "[{name: ana, role: analyst, keys: keys/ana.pub}]"),
    "operator_keys": operator_keys,
    "ansible_private_key_file": text,
    "ssh_port": port(1),
    "ansible_port": port(1),
    "ssh_ports_before": each(port(1), "[22]"),
    "open_ports": each(rule, "[{port: 443}]"),
    "trusted_addresses": addresses,
    "site_ca_bundle": file,
    "download_environment": mapping(scalar, "{https_proxy: http://proxy:3128}"),
    "jupyter_port": port(1024),
    "jupyter_people": jupyter_people,
    "mlflow_port": port(1024),
    "mlflow_backend": backend,
    "mlflow_logins": switch,
    "mlflow_postgresql_upgrade": switch,
    "mlflow_users": mlflow_users,
    "tunnel_ports": mapping(port(1), "{mlflow: 5000}"),
    "registry_servers": mapping(text, "{staging: NAME}"),
    "serving_ports": mapping(port(1024), "{dev: 8000, staging: 8001, prod: 8002}"),
    "serving_environments": each(environment, "[prod]"),
    "serving_workers": kind(lambda value: number(value) in range(1, 17), "a number from 1 to 16"),
    "serving_keep_requests": switch,
    "serving_clients": serving_clients,
    "serving_public": scalar,
    "promotion_gate": promotion_gate,
    "spark_address": text,
    "spark_state": kind(lambda value: value in ("present", "absent"), "present or absent"),
    "spark_private_network": kind(lambda value: value in ("", "wireguard"), "wireguard, or nothing"),
    "wireguard_network": kind(lambda value: re.fullmatch(r"\d+\.\d+\.0\.0/16", str(value)), "one such as 10.77.0.0/16"),
    "wireguard_address": text,
    "wireguard_endpoint": text,
    "wireguard_port": port(1),
    "wireguard_keepalive": a_number,
    "spark_cores": a_number,
    "spark_memory_mb": a_number,
    "spark_storage": folder,
    "backup_to": copies,
    "backup_environment": mapping(scalar, "{AWS_ACCESS_KEY_ID: …}"),
    "notify_webhook": notify,
    "notify_webhook_body": notify,
    "notify_webhook_headers": notify,
    "notify_mail": notify,
    "notify_smtp": notify,
    "notify_lines": notify,
    "minimum_memory_mb": a_number,
    "minimum_disk_gb": a_number,
    "maximum_clock_offset": a_number,
}  # fmt: skip


def settings_faults(settings: Mapping[str, Any]) -> list[str]:
    """Every fault of a host's settings. Templates that fail are left to their users."""
    known: dict[str, Any] = {}
    found: list[str] = []
    for name, check in CHECKS.items():
        try:
            value = settings[name]
            faults = list(check(name, value))
        except Exception:
            continue
        # one that follows another says nothing new
        if name != "ansible_port" or value != known.get("ssh_port"):
            found += faults
        known[name] = value
    known |= {name: settings[name] for name in ("inventory_hostname", "groups") if name in settings}
    for together in (
        () if found else (idle, taken, no_port, no_mail_server, no_public_key, no_receiver, no_member_address)
    ):
        # a setting that is not there, or that could not be worked out
        with contextlib.suppress(KeyError):
            found += together(known)
    return found


def port_fault(asked: Any, wanted: Any, before: list[Any], said: str) -> str:
    """What is wrong with ansible_port (asked) beside ssh_port (wanted); empty where a later run finds sshd again.

    `said` holds "way in PORT end", the server's own port that this run came in by, among whatever a login shell prints.
    """
    match = re.search(r"way in (\d+) end", said)
    if not match or int(asked) == int(wanted):
        return ""
    way_in = int(match[1])
    if way_in == int(asked):
        return (
            f"ansible_port is {asked} and ssh_port is {wanted}: sshd, which listens on {asked}, would move to port "
            f"{wanted}, and no later run would find it. To leave it where it is, set ssh_port: {asked}. "
            f"To move it to {wanted}, take ansible_port out and set ssh_ports_before: [{asked}]."
        )
    if way_in not in map(int, [wanted, *before]):
        return (
            f"ansible_port {asked} is forwarded to the server's port {way_in}, and ssh_port is {wanted}: sshd would "
            f"move away from where the forwarding leads. Set ssh_port: {way_in}."
        )
    return ""


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"local_file": local_file, "port_fault": port_fault, "settings_faults": settings_faults}
