"""Weak host keys go, and a person can compare what comes instead."""

import pytest

pytestmark = pytest.mark.parametrize("server", ["debian13"], indirect=True)
WEAK = """
set -e
cd /etc/ssh
ssh-keygen -q -t ecdsa -N "" -f ssh_host_ecdsa_key
rm ssh_host_rsa_key ssh_host_rsa_key.pub
ssh-keygen -q -t rsa -b 2048 -N "" -f ssh_host_rsa_key
"""


def fingerprints(server):
    lines = server.host.check_output("for key in /etc/ssh/ssh_host_*_key; do ssh-keygen -lf $key; done").splitlines()
    return {line.split()[-1]: line for line in lines}


def test_weak_keys_are_replaced_and_told(server):
    server.host.check_output("bash -c %s", WEAK)
    before = fingerprints(server)
    output = server.converge()
    after = fingerprints(server)
    assert set(before) == {"(ECDSA)", "(ED25519)", "(RSA)"}
    assert set(after) == {"(ED25519)", "(RSA)"}
    assert after["(ED25519)"] == before["(ED25519)"]
    assert after["(RSA)"].startswith("4096 ")
    for line in (*before.values(), *after.values()):
        assert line in output
