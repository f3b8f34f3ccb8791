"""Reads the list of people of the inventory: their keys from wherever they are, and what is wrong with them."""

import base64
import binascii
import hashlib
import json
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

ROLES = ("operator", "analyst", "tunnel", "command")
KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa")
# Bits by the curve's name (RFC 5656, section 10.1).
CURVES = {"nistp256": 256, "nistp384": 384, "nistp521": 521}
ECDSA = {
    **{f"ecdsa-sha2-{curve}": curve for curve in CURVES},
    "sk-ecdsa-sha2-nistp256@openssh.com": "nistp256",
}
# sshd compares the host as the client sent it
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
REMEDY = "make one with: ssh-keygen -t ed25519"


class Refused(ValueError):
    """A key or a source of keys that the policy does not take; the message says why."""


def key(line: str, rsa_bits: int, ecdsa: bool = False) -> dict[str, Any]:
    """Parts of a public key's line (RFC 4253, section 6.6; RFC 8709): type, bits, fingerprint as of ssh-keygen -l.

    Raises Refused for an invalid public key, for options, and for a type or size that is not accepted.
    """
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    if kind in ECDSA and not ecdsa:
        raise Refused(
            f"a key of type {kind} is not taken; {REMEDY}. Where your device makes no other (Secretive, Windows Hello),"
            " let ECDSA in: access_ecdsa: true"
        )
    if re.match(r"(ecdsa-sha2-|sk-ecdsa-|ssh-dss)", kind) and kind not in ECDSA:
        raise Refused(f"a key of type {kind} is not taken; {REMEDY}")
    if kind not in (*KEY_TYPES, *ECDSA):
        if any(f" {known} " in f" {line} " for known in KEY_TYPES):
            raise Refused("a key with options in front is not taken: what a person may do follows from their role")
        raise Refused("this is not a public key in OpenSSH's format (ssh-ed25519 AAAA… comment)")
    try:
        blob = base64.b64decode(encoded, validate=True)
        fields = list(wire_strings(blob))
    except (binascii.Error, struct.error):
        fields = []
    if len(fields) < 2 or fields[0] != kind.encode() or (kind in ECDSA and fields[1] != ECDSA[kind].encode()):
        raise Refused("the key is damaged or cut off: copy its whole line again")
    bits = int.from_bytes(fields[-1], "big").bit_length() if kind == "ssh-rsa" else CURVES[ECDSA.get(kind, "nistp256")]
    if bits < (rsa_bits if kind == "ssh-rsa" else 0):
        raise Refused(f"an RSA key of {bits} bits is not taken, {rsa_bits} is the least; {REMEDY}")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return {
        "line": f"{kind} {encoded} {comment}".strip(),
        "type": kind,
        "bits": bits,
        "fingerprint": f"SHA256:{digest}",
    }


def title(line: str) -> str:
    """How the owner knows a key: its type, the end of what is encoded, and its comment."""
    kind, _, rest = line.strip().partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    return f"{kind} …{encoded[-12:]} {comment}".strip()


def wire_strings(blob: bytes) -> Iterator[bytes]:
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        if len(blob) < 4 + length:
            raise struct.error
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]


def lines(source: str, folder: str) -> Iterator[tuple[str, str]]:
    """Pairs of a place and a line that stands there, for a key, a file of keys, or a folder of .pub files.

    Raises Refused for what is neither.
    """
    if re.match(r"\S+-\S+ +AAAA|\S+=\S*.* AAAA", source) or "\n" in source:
        texts = {"": source}
    else:
        path = pathlib.Path(folder, os.path.expanduser(source))
        try:
            files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
            texts = {str(file): file.read_text() for file in files}
        except (OSError, ValueError) as error:
            raise Refused(f"{path} cannot be read as a file of public keys: {error}") from error
        if not files:
            raise Refused(f"the folder {path} has no file *.pub")
    for name, text in texts.items():
        if "PRIVATE KEY" in text:
            raise Refused(
                f"{name or 'this'} is a private key, which never leaves its owner: name the .pub file beside it"
            )
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                yield f"{name} line {number}" if name else f"key {title(line)}", line.strip()


def shown(value: Any) -> str:
    """A value as the list's owner would recognise it, at most 60 characters of it."""
    text = "empty" if value is None or value == "" else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def read_ports(ports: Any) -> tuple[list[int], list[str]]:
    """Ports as numbers, and what is wrong with them."""
    if not isinstance(ports, list):
        one = ports if str(ports).isdecimal() else 8888
        return [], [f"ports is {shown(ports)}; it must be a list: ports: [{one}]"]
    found, errors = [], []
    for port in ports:
        if isinstance(port, (bool, float)) or not re.fullmatch(r"[0-9]{1,5}", str(port)) or not 0 < int(port) < 65536:
            errors.append(f"port {port} is not a number from 1 to 65535")
        else:
            found.append(int(port))
    return found, errors


def command_faults(command: Any) -> Iterator[str]:
    """What is wrong with the one command of an account, which sshd_config takes as the rest of a line."""
    if not isinstance(command, str) or not command:
        yield f"command is {shown(command)}; it must be what the account runs: command: internal-sftp"
        return
    # isprintable: no line's end either
    if not command.isprintable() or command != command.strip() or command.startswith(("#", "=")):
        yield (
            f"command is {shown(command)}; it must be one line without control characters, and begin with neither"
            " blank, # nor ="
        )
    # sshd counts quotes as this does, also those of a comment; a shell reads '\' otherwise
    if not re.fullmatch(r"""([^'"]|'[^']*'|"[^"]*")*""", re.sub(r"""\\[\\'"]""", "", command)):
        yield f"command is {shown(command)}, where sshd misses the end of a quote: put it into a script, and name that"


def read_sources(keys: Any) -> tuple[list[str], list[str]]:
    """Lines, files and folders of keys, and what is wrong with them."""
    form = "it must be a public key, a path, or a list of them: keys: [keys/me.pub]"
    if not isinstance(keys, (str, list)) or keys == "":
        return [], [f"keys is {shown(keys)}; {form}"]
    sources = [keys] if isinstance(keys, str) else keys
    wrong = [
        f"keys has {shown(source)} in place {place}; {form}"
        for place, source in enumerate(sources, 1)
        if not isinstance(source, str) or not source
    ]
    return ([] if wrong else list(sources)), wrong


def read_keys(sources: list[str], folder: str, rsa_bits: int, ecdsa: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Keys from wherever they are, each once, and what is wrong with them."""
    found: list[dict[str, Any]] = []
    errors = []
    for source in sources:
        try:
            for place, line in lines(str(source), folder):
                try:
                    parsed = key(line, rsa_bits, ecdsa)
                except Refused as error:
                    errors.append(f"{place}: {error}")
                else:
                    if parsed["fingerprint"] not in {other["fingerprint"] for other in found}:
                        found.append(parsed)
        except Refused as error:
            errors.append(str(error))
    return found, errors


def access_people(people: Any, folder: str, rsa_bits: int, ecdsa: bool = False) -> dict[str, list[Any]]:
    """The people in full, and every fault of the list in words.

    folder is what paths are relative to, rsa_bits the least size of an RSA key, ecdsa whether ECDSA keys are taken.
    Returns people, each with name, role, state, command, ports (int) and keys (line, type, bits, fingerprint), and
    errors (str); people is not to be used while there are errors.
    """
    if not isinstance(people, list):
        said = f"it is {shown(people)}; it must be a list of people, each with name, role and keys"
        return {"people": [], "errors": [said]}
    found: list[dict[str, Any]] = []
    errors: list[str] = []
    for position, person in enumerate(people, 1):
        if not isinstance(person, dict):
            errors.append(
                f"entry {position} is {shown(person)}; an entry is: {{name: NAME, role: {'|'.join(ROLES)}, keys: …}}"
            )
            continue
        given = person.get("name", "")
        name = given if isinstance(given, str) else ""
        who = name or f"entry {position}"
        mistakes = []
        if unknown := set(person) - {"name", "role", "keys", "ports", "command", "state"}:
            mistakes.append(
                f"there is no {', '.join(sorted(map(str, unknown)))};"
                " known are name, role, keys, ports, command and state"
            )
        if not isinstance(given, str):
            mistakes.append(f"the name is {shown(given)}, which YAML does not read as text: put a name into quotes")
        elif not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
            mistakes.append("the name must be of a-z, 0-9, _ and -, begin with a letter and have 32 characters at most")
        elif name in {other["name"] for other in found}:
            mistakes.append("is there twice")
        state, role = person.get("state", "present"), person.get("role", "")
        if state not in ("present", "absent"):
            mistakes.append(f"state is {state}; it can be present or absent")
        command = person.get("command", "")
        entry: dict[str, Any] = {
            "name": name,
            "role": role,
            "state": state,
            "ports": [],
            "command": command,
            "keys": [],
        }
        found.append(entry)
        if state != "absent":
            if role not in ROLES:
                mistakes.append(f"role is '{role}'; it can be {', '.join(ROLES)}")
            entry["ports"], wrong = read_ports(person.get("ports", []))
            if not wrong and (role == "tunnel") != bool(entry["ports"]):
                wrong = ["ports are what a person of role tunnel may reach: list them there, and only there"]
            mistakes += wrong
            if role == "command":
                mistakes += command_faults(command)
            elif "command" in person:
                mistakes.append("command is what an account of role command runs: give it there, and only there")
            sources, wrong = read_sources(person.get("keys", []))
            entry["keys"], damaged = read_keys(sources, folder, rsa_bits, ecdsa)
            mistakes += wrong
            # one wrong path is one fault, whoever has it
            for fault in damaged:
                same = next((place for place, error in enumerate(errors) if error.endswith(f": {fault}")), None)
                if same is None:
                    mistakes.append(fault)
                else:
                    errors[same] = f"{errors[same].removesuffix(f': {fault}')} and {who}: {fault}"
            if not entry["keys"] and not mistakes + damaged:
                mistakes.append(
                    f"has no key and could never log in; {REMEDY}, and put the line of its .pub file into keys"
                )
        errors += [f"{who}: {mistake}" for mistake in mistakes]
    return {"people": found, "errors": errors}


def port_of(text: str, lowest: int) -> bool:
    """Whether sshd reads it as a port, or as * for any."""
    return text == "*" or bool(re.fullmatch(r"\d{1,5}", text) and lowest <= int(text) <= 65535)


def access_forwards(opened: Any, listened: Any, sockets: Any) -> dict[str, list[str]]:
    """What people with a shell may forward, as sshd_config writes it, and every fault of the settings in words.

    opened is what ssh -L and -D may reach, each host:port, listened the ports where ssh -R may listen, and sockets the
    paths of Unix sockets that ssh -L may reach. Returns open and listen, values of PermitOpen and PermitListen with %u
    for the account's name, and errors; the values are not to be used while there are errors.
    """
    found: dict[str, list[str]] = {"open": [], "listen": [], "errors": []}
    for entry in opened if isinstance(opened, list) else [opened]:
        host, _, port = str(entry).rpartition(":")
        if host not in LOOPBACK or not port_of(port, 1):
            found["errors"].append(
                f"access_permit_open: {shown(entry)} is not on the server's loopback: write HOST:PORT,"
                f" where HOST is {', '.join(LOOPBACK)} and PORT a number, or * for any"
            )
        found["open"].append(str(entry))
    for entry in sockets if isinstance(sockets, list) else [sockets]:
        # characters that sshd_config gives a meaning are left out
        if entry != "any" and not re.fullmatch(r"/(%u|[\w.,:@+/-])+", str(entry), re.ASCII):
            found["errors"].append(
                f"access_permit_sockets: {shown(entry)} is not the path of a socket: write it in full, as"
                " /home/%u/forward.sock, where %u is the account's name"
            )
        found["open"].append(f"[{entry}]:*")
    if "[any]:*" in found["open"]:
        found["open"] = ["any"]
    for entry in listened if isinstance(listened, list) else [listened]:
        # below, root alone may listen
        if isinstance(entry, bool) or not port_of(str(entry), 1024):
            found["errors"].append(
                f"access_permit_listen: {shown(entry)} is not a port from 1024 to 65535: write [5678], or ['*'] for any"
            )
        found["listen"].append("*:*" if entry == "*" else str(entry))
    return found


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"access_people": access_people, "access_forwards": access_forwards}
