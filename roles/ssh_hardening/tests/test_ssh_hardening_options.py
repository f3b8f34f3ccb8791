"""What the drop-in of sshd says, by what was found on the server: no server, no container."""

import importlib.util
import pathlib
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "filter_plugins/ssh_hardening_options.py"
spec = importlib.util.spec_from_file_location("ssh_hardening_options", PATH)
assert spec and spec.loader
hardening = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hardening)

CURVES = "curve25519-sha256 curve25519-sha256@libssh.org"
DEBIAN_12 = [
    "version=9.2", f"kex={CURVES} ecdh-sha2-nistp256 sntrup761x25519-sha512@openssh.com",
    "fingerprint=256 SHA256:a/b= root@host (ED25519)", "weak=ssh_host_rsa_key", "weak=ssh_host_ecdsa_key",
    "missing=/etc/ssh/moduli.filtered", "packages=openssh-server nftables",
]  # fmt: skip
DEBIAN_13 = ["version=10.0", f"kex={CURVES} mlkem768x25519-sha256 sntrup761x25519-sha512", "socket=ssh.socket"]


def options(lines: list[str], **given: Any) -> dict[str, Any]:
    known = {"profile": "default", "permit_open": [], "ecdsa": False, "ban": True, "exempt": [], "moduli": "/m"}
    found: dict[str, Any] = hardening.ssh_hardening_options(hardening.ssh_hardening_found(lines), **known | given)
    return found


def test_what_was_found() -> None:
    assert hardening.ssh_hardening_found(DEBIAN_12) == {
        "version": "9.2", "penalties": False,
        "kex": ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256",
                "sntrup761x25519-sha512@openssh.com"],
        "fingerprints": ["256 SHA256:a/b= root@host (ED25519)"], "weak": ["ssh_host_rsa_key", "ssh_host_ecdsa_key"],
        "missing": ["/etc/ssh/moduli.filtered"], "packages": ["openssh-server", "nftables"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "bans"), [("9.2", False), ("9.7.1", False), ("9.8", True), ("9.10", True), ("10", True), ("10.0", True)]
)
def test_sshd_bans_by_itself_from_its_version_on(version: str, bans: bool) -> None:
    assert hardening.ssh_hardening_found([f"version={version}", "kex="])["penalties"] is bans


def test_each_system_gets_the_algorithms_of_its_policy() -> None:
    old, new = options(DEBIAN_12), options(DEBIAN_13)
    # in the policy's order, and none that this sshd does not know
    wanted = "sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org"
    assert old["KexAlgorithms"] == wanted
    assert new["KexAlgorithms"] == "mlkem768x25519-sha256,sntrup761x25519-sha512"
    assert options(DEBIAN_12, profile="strict")["KexAlgorithms"] == "sntrup761x25519-sha512@openssh.com"
    sizes = [[word[10:13] for word in macs.split(",")[:2]] for macs in (old["MACs"], new["MACs"])]
    assert sizes == [["256", "512"], ["512", "256"]]


def test_ecdsa_keys_of_people_and_not_of_the_host() -> None:
    assert "ecdsa" not in str(options(DEBIAN_13))
    found = options(DEBIAN_13, ecdsa=True)
    assert found["PubkeyAcceptedAlgorithms"].endswith(",ecdsa-sha2-nistp521")
    assert "ecdsa" not in found["HostKeyAlgorithms"]


def test_a_tunnel_reaches_what_is_listed_and_else_nothing() -> None:
    found = options(DEBIAN_12)
    assert (found["AllowTcpForwarding"], found["PermitOpen"]) == ("no", "none")
    found = options(DEBIAN_12, permit_open=["127.0.0.1:8888", "127.0.0.1:5000"])
    assert (found["AllowTcpForwarding"], found["PermitOpen"]) == ("local", "127.0.0.1:8888 127.0.0.1:5000")


def test_penalties_only_where_sshd_knows_them() -> None:
    assert not {"PerSourcePenalties", "PerSourcePenaltyExemptList"} & options(DEBIAN_12).keys()
    found = options(DEBIAN_13, exempt=["10.0.0.0/8"])
    assert found["PerSourcePenalties"].startswith("authfail:20s ")
    assert found["PerSourcePenaltyExemptList"] == "127.0.0.0/8,::1/128,10.0.0.0/8"
    found = options(DEBIAN_13, ban=False)
    assert found["PerSourcePenalties"] == "no" and "PerSourcePenaltyExemptList" not in found


def test_what_sshd_must_say_of_itself() -> None:
    given = {"MaxAuthTries": 3, "Banner": "/etc/issue"}
    lines = hardening.ssh_hardening_effective(options(DEBIAN_13), 2222, given)
    assert lines[0] == "port 2222" and {"permitrootlogin no", "loglevel verbose", "logingracetime 60"} <= set(lines)
    # those given win over ours, and sshd spells penalties otherwise
    assert not [line for line in lines if line.startswith(("maxauthtries", "banner", "persourcepenalt"))]
