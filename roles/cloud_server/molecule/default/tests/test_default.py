"""A server comes as a vendor hands it over, is found again by its name, and goes without a trace."""

import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[5]
INVENTORY = ROOT / "molecule/hosts.py"


def play(name, host, code=0, **variables):
    """Runs a playbook on one server of the scenario, asserts how it ends, and returns what it said on one line."""
    result = subprocess.run(
        ["ansible-playbook", ROOT / f"playbooks/{name}.yml", "-i", INVENTORY, "--limit", host,
         "-e", json.dumps(variables)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return " ".join((result.stdout + result.stderr).split())


def docker(*command):
    return subprocess.check_output(["docker", *command], text=True)


def test_systemd_and_the_openness_that_vendors_leave(host):
    assert host.process.get(pid=1).comm == "systemd"
    settings = host.check_output("sshd -T")
    assert "passwordauthentication yes" in settings
    assert "permitrootlogin yes" in settings
    assert host.file("/etc/machine-id").content_string.strip()
    assert host.file("/root/.ssh/authorized_keys").mode == 0o600


def test_two_servers_share_no_host_key(host):
    name = host.backend.get_hostname()
    keys = {
        server: docker("exec", variables["cloud_server_name"], "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
        for server, variables in json.loads(subprocess.check_output([INVENTORY]))["_meta"]["hostvars"].items()
    }
    assert name in keys
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"cloud_server_vendor": ""}, "there are tasks for local, vultr"),
        ({"cloud_server_vendor": "onprem"}, "inventory/README.md tells what it needs"),
        ({"cloud_server_name": "-x/y"}, "must be letters, digits and hyphens"),
        ({"cloud_server_ssh_port": 2222}, "Take ssh_port out of the inventory of this server"),
        ({"cloud_server_state": "stopped"}, "To stop it, type: docker stop"),
        ({"cloud_server_state": "gone"}, "must be one of: present, absent, stopped, started"),
    ],
)
def test_what_cannot_be_is_refused(variables, said):
    assert said in play("create", "debian13", code=2, **variables)


def test_keys_of_the_list_get_in_and_a_server_goes_and_comes(host, tmp_path):
    name = host.backend.get_hostname()
    if name != "debian13":
        pytest.skip("once is enough")
    variables = host.ansible.get_variables()
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    before = docker("inspect", "--format", "{{.Id}}", variables["cloud_server_name"])
    play("destroy", name)
    assert variables["cloud_server_name"] not in docker("ps", "--all", "--format", "{{.Names}}").split()
    # nothing is there any more, and that is well
    assert "changed=0" in play("destroy", name)
    play("create", name, cloud_server_keys=[key.with_suffix(".pub").read_text().strip()])
    assert docker("inspect", "--format", "{{.Id}}", variables["cloud_server_name"]) != before
    login = [
        "ssh", "-i", key, "-p", str(variables["ansible_port"]), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "id", "-u",
    ]  # fmt: skip
    result = subprocess.run(login, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert result.stdout == "0\n", result.stderr
