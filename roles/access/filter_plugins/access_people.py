"""Reads the list of people of the inventory: their keys from wherever they are, and what is wrong with them."""

import base64
import binascii
import hashlib
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

ROLES = ("operator", "analyst", "tunnel")
KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa")
REMEDY = "make one with: ssh-keygen -t ed25519"


class Refused(ValueError):
    """A key or a source of keys that the policy does not take; the message says why."""


def key(line: str, rsa_bits: int) -> dict[str, Any]:
    """Parts of a public key's line (RFC 4253, section 6.6; RFC 8709): type, bits, fingerprint as of ssh-keygen -l.

    Raises Refused for what is no public key, carries options, or is of a type or size that is not taken.
    """
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    if re.match(r"(ecdsa-sha2-|sk-ecdsa-|ssh-dss)", kind):
        raise Refused(f"a key of type {kind} is not taken; {REMEDY}")
    if kind not in KEY_TYPES:
        if any(f" {known} " in f" {line} " for known in KEY_TYPES):
            raise Refused("a key with options in front is not taken: what a person may do follows from their role")
        raise Refused("this is not a public key in OpenSSH's format (ssh-ed25519 AAAA… comment)")
    try:
        blob = base64.b64decode(encoded, validate=True)
        fields = list(wire_strings(blob))
    except (binascii.Error, struct.error):
        fields = []
    if len(fields) < 2 or fields[0] != kind.encode():
        raise Refused("the key is damaged or cut off: copy its whole line again")
    bits = int.from_bytes(fields[-1], "big").bit_length() if kind == "ssh-rsa" else 256
    if bits < (rsa_bits if kind == "ssh-rsa" else 0):
        raise Refused(f"an RSA key of {bits} bits is not taken, {rsa_bits} is the least; {REMEDY}")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return {
        "line": f"{kind} {encoded} {comment}".strip(),
        "type": kind,
        "bits": bits,
        "fingerprint": f"SHA256:{digest}",
    }


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
        files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not files:
            raise Refused(f"the folder {path} has no file *.pub")
        try:
            texts = {str(file): file.read_text() for file in files}
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{path} cannot be read as a file of public keys: {error}") from error
    for name, text in texts.items():
        if "PRIVATE KEY" in text:
            raise Refused(
                f"{name or 'this'} is a private key, which never leaves its owner: name the .pub file beside it"
            )
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                yield f"{name} line {number}" if name else f"key {line.strip()[:40]}…", line.strip()


def access_people(people: Any, folder: str, rsa_bits: int) -> dict[str, list[Any]]:
    """The people in full, and every fault of the list in words.

    folder is what paths are relative to, rsa_bits the least size of an RSA key. Returns people, each with name, role,
    state, ports (int) and keys (line, type, bits, fingerprint), and errors (str); people is not to be used while there
    are errors.
    """
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        return {"people": [], "errors": ["it must be a list of people, each with name, role and keys"]}
    found: list[dict[str, Any]] = []
    errors = []
    for position, person in enumerate(people, 1):
        name = str(person.get("name", ""))
        who = name or f"entry {position}"
        if unknown := set(person) - {"name", "role", "keys", "ports", "state"}:
            errors.append(
                f"{who}: there is no {', '.join(sorted(unknown))}; known are name, role, keys, ports and state"
            )
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
            errors.append(
                f"{who}: the name must be of a-z, 0-9, _ and -, begin with a letter and have 32 characters at most"
            )
        if name in {other["name"] for other in found}:
            errors.append(f"{who}: is there twice")
        state = person.get("state", "present")
        if state not in ("present", "absent"):
            errors.append(f"{who}: state is {state}; it can be present or absent")
        entry: dict[str, Any] = {"name": name, "role": person.get("role", ""), "state": state, "ports": [], "keys": []}
        found.append(entry)
        if state == "absent":
            continue
        if entry["role"] not in ROLES:
            errors.append(f"{who}: role is '{entry['role']}'; it can be {', '.join(ROLES)}")
        for port in person.get("ports", []):
            if not str(port).isdigit() or not 0 < int(port) < 65536:
                errors.append(f"{who}: port {port} is not a number from 1 to 65535")
            else:
                entry["ports"].append(int(port))
        if (entry["role"] == "tunnel") != bool(person.get("ports")):
            errors.append(f"{who}: ports are what a person of role tunnel may reach: list them there, and only there")
        sources = person.get("keys", [])
        for source in [sources] if isinstance(sources, str) else sources:
            try:
                for place, line in lines(str(source), folder):
                    try:
                        parsed = key(line, rsa_bits)
                    except Refused as error:
                        errors.append(f"{who}: {place}: {error}")
                    else:
                        if parsed["fingerprint"] not in {other["fingerprint"] for other in entry["keys"]}:
                            entry["keys"].append(parsed)
            except Refused as error:
                errors.append(f"{who}: {error}")
        if not entry["keys"] and not any(error.startswith(f"{who}:") for error in errors):
            errors.append(
                f"{who}: has no key and could never log in; {REMEDY}, and put the line of its .pub file into keys"
            )
    return {"people": found, "errors": errors}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"access_people": access_people}
