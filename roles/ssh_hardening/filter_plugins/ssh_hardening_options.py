"""Decides what the drop-in of sshd says, by what was found on the server and by the role's variables."""

from collections.abc import Iterable
from typing import Any

SIGNATURES = (
    "sk-ssh-ed25519-cert-v01@openssh.com,ssh-ed25519-cert-v01@openssh.com,rsa-sha2-512-cert-v01@openssh.com,"
    "rsa-sha2-256-cert-v01@openssh.com,sk-ssh-ed25519@openssh.com,ssh-ed25519,rsa-sha2-512,rsa-sha2-256"
)
ECDSA = ",sk-ecdsa-sha2-nistp256@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"
MLKEM = "mlkem768x25519-sha256"
POST_QUANTUM = [MLKEM, "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"]
CLASSICAL = [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
]
MACS = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]
# sshd -T spells these otherwise than they are written
RESPELLED = ("PerSourcePenalties", "PerSourcePenaltyExemptList")


def ssh_hardening_found(lines: Iterable[str]) -> dict[str, Any]:
    """What the preflight's probe printed, one NAME=VALUE a line.

    Returns version (str), kex (the exchanges that sshd knows), penalties (whether sshd bans by itself), and of host
    keys fingerprints, weak and missing (names of files below /etc/ssh), and packages, those that are installed.
    """
    found: dict[str, list[str]] = {"version": [], "kex": [], "fingerprint": [], "weak": [], "missing": []}
    for line in lines:
        name, _, value = line.partition("=")
        found.setdefault(name, []).append(value)
    version = found["version"][0]
    return {
        "version": version,
        "kex": found["kex"][0].split(),
        "penalties": [int(part) for part in version.split(".") if part] >= [9, 8],
        "fingerprints": found["fingerprint"],
        "weak": found["weak"],
        "missing": found["missing"],
        "packages": found.get("packages", [""])[0].split(),
    }


def ssh_hardening_options(
    found: dict[str, Any],
    *,
    profile: str,
    permit_open: list[str],
    ecdsa: bool,
    ban: bool,
    exempt: list[str],
    moduli: str,
) -> dict[str, str | int]:
    """Options of sshd with their values, in the order of the file.

    "Hardened Debian 13 (version 1)" of ssh-audit 3.9.0, and "Hardened Debian 12 (version 3)" for an sshd without mlkem.
    The order of algorithms counts there.

    Args:
        found: what `ssh_hardening_found` returns.
        profile: default, or strict for post-quantum exchanges alone.
        permit_open: what a tunnel may reach, as host:port.
        ecdsa: whether ECDSA keys of people are accepted.
        ban: whether sshd bans, where it can.
        exempt: addresses and networks that are never banned.
        moduli: path of the filtered moduli.
    """
    mlkem = MLKEM in found["kex"]
    exchanges = POST_QUANTUM + (CLASSICAL if profile == "default" and not mlkem else [])
    options: dict[str, str | int] = {
        "KexAlgorithms": ",".join(name for name in exchanges if name in found["kex"]),
        "Ciphers": "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-gcm@openssh.com"
        ",aes128-ctr",
        "MACs": ",".join([*sorted(MACS, reverse=mlkem), "umac-128-etm@openssh.com"]),
        "HostKeyAlgorithms": SIGNATURES,
        "PubkeyAcceptedAlgorithms": SIGNATURES + (ECDSA if ecdsa else ""),
        "CASignatureAlgorithms": "sk-ssh-ed25519@openssh.com,ssh-ed25519,rsa-sha2-512,rsa-sha2-256",
        "ModuliFile": moduli,
        "PermitRootLogin": "no",
        "PubkeyAuthentication": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitEmptyPasswords": "no",
        "AuthenticationMethods": "publickey",
        "MaxAuthTries": 20,
        "MaxStartups": "30:30:100",
        "PerSourceMaxStartups": 10,
        "LoginGraceTime": 60,
        "ClientAliveInterval": 300,
        "ClientAliveCountMax": 2,
        "TCPKeepAlive": "no",
        "Compression": "no",
        "UseDNS": "no",
        "X11Forwarding": "no",
        "AllowAgentForwarding": "no",
        "AllowStreamLocalForwarding": "no",
        "AllowTcpForwarding": "local" if permit_open else "no",
        "PermitOpen": " ".join(map(str, permit_open)) or "none",
        "GatewayPorts": "no",
        "PermitTunnel": "no",
        "PermitUserEnvironment": "no",
        "LogLevel": "VERBOSE",
    }
    if found["penalties"]:
        options["PerSourcePenalties"] = "no"
    if found["penalties"] and ban:
        options["PerSourcePenalties"] = "authfail:20s noauth:5s grace-exceeded:60s min:60s max:3600s"
        options["PerSourcePenaltyExemptList"] = ",".join(["127.0.0.0/8", "::1/128", *map(str, exempt)])
    return options


def ssh_hardening_effective(options: dict[str, Any], port: int, given: dict[str, Any]) -> list[str]:
    """Lines that sshd -T must print: those of our options that are not given otherwise, in lower case."""
    ours = {name: value for name, value in options.items() if name not in RESPELLED and name not in given}
    return [f"port {port}", *(f"{name} {value}".lower() for name, value in ours.items())]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "ssh_hardening_found": ssh_hardening_found,
            "ssh_hardening_options": ssh_hardening_options,
            "ssh_hardening_effective": ssh_hardening_effective,
        }
