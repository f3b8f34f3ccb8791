"""Settings are checked before use, and faults are named in the person's own words."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleParserError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checks = load("playbooks/filter_plugins/settings.py")
known_settings = load("inventory/plugins/vars/known_settings.py")
MINE = "group_vars/all/zz-mine.yml"


@pytest.fixture
def inventory(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of inventory/onprem."""
    shutil.copytree(ROOT / "inventory/onprem", tmp_path / "onprem")
    return tmp_path / "onprem"


def run(
    *command: str | pathlib.Path, home: pathlib.Path, cwd: pathlib.Path = ROOT, locale: str = "C.UTF-8"
) -> subprocess.CompletedProcess[str]:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(home), "LC_ALL": locale}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (MINE, "---\nmlflow_logns: true\n", "zz-mine.yml, line 2: there is no setting mlflow_logns. Is mlflow_logins"),
        (MINE, "jupyter_screen_memory_mx: 1G\n", "Is jupyter_screen_memory_max meant?"),
        (MINE, "ansible_prot: 2222\n", "Is ansible_port meant?"),
        (MINE, "container_name: a\n", "line 1: container_name is called cloud_server_name now."),
        (MINE, "xyzzy: 1\n", "there is no setting xyzzy.\n"),
        ("group_vars/all/people.yml", "peple: []\n", "people.yml, line 1: there is no setting peple. Is people meant?"),
        ("group_vars/dev", "ssh_prt: 1\n", "group_vars/dev, line 1: there is no setting ssh_prt. Is ssh_port meant?"),
        ("host_vars/recommender-dev.yml", "ssh_prt: 1\n", "recommender-dev.yml, line 1: there is no setting ssh_prt."),
        ("hosts.yml", "dev:\n  hosts:\n    one: {ansible_hots: a}\n", "hosts.yml, line 3: there is no setting"),
        ("hosts.yml", "all:\n  children:\n    dev:\n      vars: {ssh_prt: 1}\n", "hosts.yml, line 4: "),
        (MINE, "ssh_port: 22\nopen_ports: [80\noperator: a\n", "zz-mine.yml, line 3: this is not YAML: did not find"),
        (MINE, 'operator: "bob\nssh_port: 22\n', "a quoted scalar that begins in line 1"),
        (MINE, "ssh_port: 22\noperator: {{ x }}\n", "zz-mine.yml, line 2: quotes are missing around a template"),
        (MINE, "ssh_port:22\n", "zz-mine.yml, line 1: it must hold lines of the form NAME: value"),
        ("hosts.yml", "dev: {hosts: {one: {}}\n", "hosts.yml, line 2: this is not YAML"),
    ],
)  # fmt: skip
def test_what_nothing_would_read_is_named(inventory: pathlib.Path, file: str, text: str, words: str) -> None:
    (inventory / file).parent.mkdir(exist_ok=True)
    (inventory / file).write_text(text)
    with pytest.raises(AnsibleParserError) as error:
        known_settings.check(str(inventory), DataLoader())
    assert words in str(error.value)


def test_new_names_of_settings_are_known() -> None:
    assert set(known_settings.RENAMED.values()) <= known_settings.of_roles()
    assert not known_settings.RENAMED.keys() & known_settings.of_roles()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "mlflow_logins: true\nrecommender_train: false\nconda_prefix: /opt/conda\nansible_become_password: !vault x\n",
        # a person's own, and what another plugin of Ansible's reads
        'my_keys: [a]\nteam: [b]\noperator_keys: "{{ my_keys + team }}"\nansible_aws_ssm_region: eu-central-1\n',
        # whole file in a vault whose password is not there
        "$ANSIBLE_VAULT;1.1;AES256\n3030\n",
    ],
)
def test_what_is_known_or_a_persons_own_is_let_pass(inventory: pathlib.Path, text: str) -> None:
    (inventory / MINE).write_text(text)
    known_settings.check(str(inventory), DataLoader())


def test_a_link_to_settings_that_are_gone_is_refused(inventory: pathlib.Path) -> None:
    (inventory / "group_vars/all/00-common.yml").symlink_to("../../../common.yml")
    with pytest.raises(
        AnsibleParserError, match=r"00-common.yml is a link to .*common.yml, which is not there"
    ) as error:
        known_settings.check(str(inventory), DataLoader())
    for name in ("settings.yml", "wiring.yml"):
        shutil.copy(ROOT / "inventory" / name, inventory.parent)
    subprocess.run(str(error.value).partition("Type: ")[2], shell=True, check=True)
    known_settings.check(str(inventory), DataLoader())


@pytest.mark.parametrize("both", [False, True])
def test_the_vendors_file_under_its_old_name_is_refused(inventory: pathlib.Path, both: bool) -> None:
    new = inventory / "group_vars/all/10-vendor.yml"
    old, before = new.with_name("vendor.yml"), new.read_text()
    (shutil.copy if both else shutil.move)(new, old)
    with pytest.raises(AnsibleParserError, match=r"vendor\.yml is called 10-vendor\.yml now: under its old") as error:
        known_settings.check(str(inventory), DataLoader())
    assert ("Put lines of your own into team.yml" in str(error.value)) == both
    subprocess.run(str(error.value).partition("ype: ")[2], shell=True, check=True)
    assert new.read_text() == before and not old.exists()
    known_settings.check(str(inventory), DataLoader())


def test_a_folder_of_somebody_elses_is_let_pass(inventory: pathlib.Path) -> None:
    (inventory / "group_vars/all/00-settings.yml").unlink()
    (inventory / MINE).write_text("xyzzy: 1\n")
    (inventory / "other.yml").write_text("this: [is: {not YAML\n")
    known_settings.check(str(inventory), DataLoader())


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in ROOT.glob("inventory/*/hosts.yml")))
def test_the_inventories_hold_known_names_alone(folder: str) -> None:
    known_settings.check(str(ROOT / "inventory" / folder), DataLoader())


def test_a_name_on_the_command_line_is_known_too(tmp_path: pathlib.Path) -> None:
    of = ("ansible-inventory", "-i", "inventory/onprem", "--graph", "-e")
    assert (
        "-e: there is no setting mlflow_logns. Is mlflow_logins meant?"
        in run(*of, "mlflow_logns=1", home=tmp_path).stderr
    )
    assert run(*of, "mlflow_logins=true _x=1", home=tmp_path).returncode == 0


def test_every_verb_says_which_line_is_wrong(inventory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (inventory / MINE).write_text("---\nopen_ports: [{port: 80}\nssh_port: 22\n")
    of = ("-i", str(inventory))
    for command in (["bin/tunnel", *of], ["bin/models", *of, "show"], ["ansible-playbook", "site.yml", *of]):
        result = run(*command, home=tmp_path)
        assert result.returncode != 0
        assert "zz-mine.yml, line 3: this is not YAML" in result.stderr, command
        assert "has no host" not in result.stderr


# as they stand in the inventory, templates resolved
SETTINGS: dict[str, Any] = {
    "operator": "deploy", "analyst": "analyst", "people": [{"name": "deploy"}, {"name": "analyst"}],
    "operator_keys": ["ssh-ed25519 AAAA me"], "operators_before": ["deploy"], "first_login_user": "root",
    "ssh_port": 22, "ansible_port": 22, "ssh_ports_before": [22], "open_ports": [], "trusted_addresses": [],
    "site_ca_bundle": "",
    "download_environment": {}, "jupyter_port": 8888, "mlflow_port": 5000, "tunnel_ports": {"mlflow": 5000},
    "jupyter_people": [], "mlflow_backend": "sqlite", "mlflow_logins": False, "mlflow_postgresql_upgrade": False,
    "mlflow_users": [{"name": "recommender", "accounts": ["deploy"], "permissions": [{"experiment": "a"}]}],
    "registry_servers": {}, "serving_ports": {"dev": 8000, "prod": 8002}, "serving_environments": ["dev", "prod"],
    "serving_workers": 2, "serving_keep_requests": True, "serving_public": "",
    "serving_clients": [{"name": "shop", "per_second": 5}],
    "notify_webhook": "", "notify_webhook_body": {"text": "{text}"}, "notify_webhook_headers": {},
    "notify_mail": "", "notify_smtp": {}, "notify_lines": [{"name": "backup", "command": "server-backup late"}],
    "promotion_gate": {"margins": {"rmse": 0}, "list_errors": 1.645}, "minimum_memory_mb": 1800,
    "spark_address": "10.0.0.5", "spark_state": "present", "spark_cores": 0, "spark_memory_mb": 0, "spark_storage": "",
    "spark_private_network": "", "wireguard_network": "10.77.0.0/16", "wireguard_address": "10.77.1.2",
    "wireguard_endpoint": "203.0.113.5", "wireguard_port": 51820, "wireguard_keepalive": 0,
    "backup_to": "append:two", "backup_environment": {}, "inventory_hostname": "one", "groups": {"all": ["one", "two"]},
    "minimum_disk_gb": 6, "maximum_clock_offset": 300,
}  # fmt: skip


def test_every_list_is_checked_and_the_defaults_pass() -> None:
    known = checks.CHECKS.keys() | {"inventory_hostname", "groups"}
    assert SETTINGS.keys() == known - {"ansible_private_key_file", "ansible_connection"}
    assert checks.settings_faults(SETTINGS) == []
    plain, wired = (yaml.safe_load((ROOT / f"inventory/{name}.yml").read_text()) for name in ("settings", "wiring"))
    assert SETTINGS.keys() <= plain.keys() | wired.keys() | {"inventory_hostname", "groups"}
    assert {name for name in plain if isinstance(plain[name], list | dict)} <= checks.CHECKS.keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ssh_port": "twenty-two", "ansible_port": "twenty-two"}, "ssh_port is 'twenty-two': give a port"),
        ({"ssh_port": True}, "ssh_port is True: give a port"),
        ({"ssh_ports_before": 2222}, "ssh_ports_before is 2222: give a list, as [22]"),
        ({"ssh_ports_before": [22, "x"]}, "entry 2 of ssh_ports_before is 'x'"),
        ({"open_ports": None}, "open_ports is empty: give a list, as [{port: 443}]"),
        ({"open_ports": {"port": 443}}, "open_ports is a mapping: give a list"),
        ({"open_ports": [443]}, "entry 1 of open_ports: it must be of the form {port: 22"),
        ({"open_ports": [{"port": "https"}]}, "entry 1 of open_ports (port https): port https is neither"),
        ({"open_ports": [{"port": 80}, {"port": 443, "from": "a"}]}, "entry 2 of open_ports (port 443): "),
        ({"open_ports": [{"port": 80}, {"port": 80}]}, "entry 2 of open_ports (port 80) changes nothing: entry 1"),
        ({"open_ports": [{"port": 22}]}, "entry 1 of open_ports (port 22) changes nothing: the rule of ssh_port 22"),
        ({"trusted_addresses": "192.0.2.1"}, "trusted_addresses must be a list"),
        ({"trusted_addresses": ["office"]}, "office in trusted_addresses is"),
        ({"people": "ana"}, "people is 'ana': give a list"),
        ({"people": [{"name": "ana"}, "ben"]}, "entry 2 of people is 'ben': give an entry"),
        ({"people": [{"role": "analyst"}]}, "entry 1 of people has no name"),
        ({"operator_keys": [["a"]]}, "entry 1 of operator_keys is a list"),
        ({"operator": "Bob Smith"}, "operator is 'Bob Smith': give the name of an account"),
        ({"operators_before": "bob"}, "operators_before is 'bob': give a list, as [deploy]"),
        ({"jupyter_people": ["ana"]}, "entry 1 of jupyter_people is 'ana': give an entry, as {name: ana, port: 8889}"),
        ({"jupyter_people": [{"name": "ana"}]}, "entry 1 of jupyter_people (ana) has no port"),
        ({"jupyter_people": [{"name": "ana", "port": 80}]}, "port in entry 1 of jupyter_people (ana) is 80"),
        ({"jupyter_people": [{"name": "ana", "port": 8889, "memory": 1}]}, "(ana) has memory, which nothing reads"),
        ({"jupyter_people": [{"name": "ana", "port": 8889, "groups": "a"}]}, "groups in entry 1 of jupyter_people"),
        ({"jupyter_people": [{"name": "ana", "port": 5000}]}, "mlflow_port and entry 1 of jupyter_people (ana)"),
        ({"jupyter_port": "5000"}, "jupyter_port and mlflow_port name the same port, 5000"),
        ({"mlflow_users": {"name": "ana"}}, "mlflow_users is a mapping: give a list"),
        ({"mlflow_users": [{"name": "ana", "accounts": "ana"}]}, "accounts in entry 1 of mlflow_users (ana) is 'ana'"),
        ({"mlflow_logins": "maybe"}, "mlflow_logins is 'maybe': give true or false"),
        ({"mlflow_postgresql_upgrade": "17"}, "mlflow_postgresql_upgrade is '17': give true or false"),
        ({"spark_state": "gone"}, "spark_state is 'gone': give present or absent"),
        ({"spark_private_network": "wg"}, "spark_private_network is 'wg': give wireguard, or nothing"),
        ({"wireguard_network": "10.77.0.0/24"}, "wireguard_network is '10.77.0.0/24': give one such as 10.77.0.0/16"),
        ({"spark_private_network": "wireguard", "groups": {"all": ["one", "two"], "spark_workers": ["one"]},
          "wireguard_endpoint": "one.example.org"}, "write the server's public IP address into host_vars of one"),
        ({"spark_address": "one.example.org", "groups": {"all": ["one", "two"], "spark_master": ["one"]}},
          "spark_address, by default ansible_host, is 'one.example.org': write the IP address"),
        ({"spark_storage": "srv/spark"}, "spark_storage is 'srv/spark': give the path of a folder"),
        ({"spark_storage": "/home/ana/spark"}, "not in /home, /root or /tmp"),
        ({"mlflow_backend": "sqllite"}, "mlflow_backend is 'sqllite': give sqlite"),
        ({"download_environment": "x=y"}, "download_environment is 'x=y': give a mapping"),
        ({"serving_ports": {"prod": 80}}, "prod in serving_ports is 80: give a port, a number from 1024 to 65535"),
        ({"serving_ports": {"prod": 9002}}, "serving_ports has no port for dev"),
        ({"serving_ports": {"dev": 8000, "prod": 5000}}, "mlflow_port and prod in serving_ports name the same port"),
        ({"serving_environments": ["test"]}, "entry 1 of serving_environments is 'test': give dev, staging or prod"),
        ({"backup_to": "mnt"}, "backup_to is 'mnt': give a folder such as /mnt/copies, append:NAME"),
        ({"backup_to": "append:three"}, "backup_to is append:three, which is not a server of this inventory"),
        ({"backup_to": "append:one"}, "backup_to is append:one, the server itself"),
        ({"backup_environment": ["a"]}, "backup_environment is a list: give a mapping"),
        ({"serving_workers": 0}, "serving_workers is 0: give a number from 1 to 16"),
        ({"serving_clients": [{"name": "shop"}]}, "entry 1 of serving_clients (shop) has no per_second"),
        ({"serving_clients": [{"name": "shop", "per_second": 5, "rate": 1}]}, "(shop) has rate, which nothing reads"),
        ({"registry_servers": ["dev"]}, "registry_servers is a list: give a mapping"),
        ({"promotion_gate": []}, "promotion_gate is a list: give a mapping"),
        ({"promotion_gate": {"margins": {"ndcg_at_k": 0}}}, "ndcg_at_k in margins of promotion_gate is called rated"),
        ({"tunnel_ports": {"x": "http"}}, "x in tunnel_ports is 'http': give a port"),
        ({"minimum_disk_gb": "6 GB"}, "minimum_disk_gb is '6 GB': give a number"),
        ({"notify_webhook": "hooks.example.org/x"}, "notify_webhook is not a URL: give https://"),
        ({"notify_mail": "ana"}, "notify_mail is 'ana': give one address"),
        ({"notify_mail": "a@example.org"}, "notify_mail is set and notify_smtp is not: give {host: "),
        ({"notify_smtp": {"host": "a", "prot": 25}}, "notify_smtp has prot, which nothing reads: it may have host"),
        ({"notify_smtp": {"host": "a", "port": 70000}}, "port in notify_smtp is 70000: give a number from 1 to 65535"),
        ({"notify_lines": [{"name": "backup"}]}, "entry 1 of notify_lines must have name and command"),
        ({"site_ca_bundle": "/nowhere"}, "site_ca_bundle is '/nowhere': give the path of a file"),
    ],
)  # fmt: skip
def test_a_person_is_told_what_that_person_wrote(settings: dict[str, Any], words: str) -> None:
    (fault,) = checks.settings_faults(SETTINGS | settings)
    assert words in fault


def test_a_connection_that_mitogen_would_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that proves a change must be a new one; the variable would win over the task's own connection."""
    settings = SETTINGS | {"ansible_connection": "ssh"}
    assert checks.settings_faults(settings) == []
    monkeypatch.setattr(checks.constants, "DEFAULT_STRATEGY", "fast")
    assert checks.settings_faults(settings) == ["ansible_connection is ssh, with FAST=1: take it out, it is ssh anyway"]


@pytest.mark.parametrize(
    ("path", "found"),
    [("~/ca.pem", "{home}/ca.pem"), ("ca.pem", "{home}/ca.pem"), ("bootstrap.yml", "{root}/playbooks/bootstrap.yml")],
)
def test_a_file_is_found_where_a_person_means_it(
    path: str, found: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("ca.pem").touch()
    assert checks.settings_faults(SETTINGS | {"site_ca_bundle": path}) == []
    assert checks.local_file(path) == found.format(home=tmp_path, root=ROOT)
    # the one place that uses it
    assert 'src: "{{ site_ca_bundle | local_file }}"' in (ROOT / "playbooks/bootstrap.yml").read_text()


@pytest.mark.parametrize(("said", "meant"), [("false", False), ("no", False), ("False", False), ("true", True)])
def test_logins_are_switched_on_the_command_line(said: str, meant: bool) -> None:
    """-e mlflow_logins=false is a text, which counts as true."""
    assert checks.settings_faults(SETTINGS | {"mlflow_logins": said}) == []
    common = yaml.safe_load((ROOT / "inventory/wiring.yml").read_text())
    templar = Templar(DataLoader(), {"mlflow_logins": said})
    assert templar.template(trust_as_template(common["mlflow_server_auth"])) is meant
    assert bool(templar.template(trust_as_template(common["recommender_credentials"]))) is meant
    for file in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("playbooks/**/*.j2"), *ROOT.glob("inventory/**/*.yml")]:
        uses = re.findall(r"(?:if|\{\{|and|or|not|when:) mlflow_logins\b(?! \| bool)", file.read_text())
        assert uses == [], file


def test_a_private_key_without_its_public_one(tmp_path: pathlib.Path) -> None:
    key = tmp_path / "aws.pem"
    settings = SETTINGS | {
        "ansible_private_key_file": str(key),
        "operator_keys": [],
        "people": [{"name": "a", "keys": []}],
    }
    (fault,) = checks.settings_faults(settings)
    assert fault.endswith("there is no such file on this machine: mend the path")
    key.touch()
    (fault,) = checks.settings_faults(settings)
    assert f"ssh-keygen -y -f '{key}' > '{key}.pub'" in fault
    # a list of keys needs no file
    assert checks.settings_faults(settings | {"people": [{"name": "a", "keys": "ssh-ed25519 AAAA a"}]}) == []
    tmp_path.joinpath("aws.pem.pub").touch()
    assert checks.settings_faults(settings) == []
    assert checks.settings_faults(settings | {"ansible_private_key_file": f"{key}.pub"}) == []


def test_no_password_is_told() -> None:
    faults = checks.settings_faults(SETTINGS | {"mlflow_users": [{"name": "ana", "password": ["secret"]}]})
    assert faults == ["password in entry 1 of mlflow_users (ana) is not a text"]


def test_what_cannot_be_worked_out_hides_no_other_fault() -> None:
    class Settings(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if name == "mlflow_users":
                raise ValueError("of a template")
            return super().__getitem__(name)

    assert checks.settings_faults(Settings(SETTINGS)) == []
    assert len(checks.settings_faults(Settings(SETTINGS | {"ssh_port": 0}))) == 1


@pytest.mark.parametrize(
    ("asked", "wanted", "before", "said", "words"),
    [
        # ansible_port alone: the server's own port, from which sshd would move away
        (2222, 22, [22], "way in 2222 end", "set ssh_port: 2222."),
        (22, "2222", [22], "way in 22 end", "take ansible_port out and set ssh_ports_before: [22]"),
        ("2222", 22, [2222], "way in 2222 end", "set ssh_port: 2222."),
        (40022, 22, [22], "way in 2222 end", "Set ssh_port: 2222."),
        # what later runs find: one port for both, and a port that is forwarded to where sshd is or was
        (2222, "2222", [22], "way in 22 end", ""),
        (40022, 22, [22], "Welcome!\r\nway in 22 end\r\n", ""),
        (40022, 2222, ["22"], "way in 22 end", ""),
        # not over SSH
        (2222, 22, [22], "way in  end", ""),
    ],
)
def test_a_port_that_no_later_run_would_find(asked: Any, wanted: Any, before: list[Any], said: str, words: str) -> None:
    fault = checks.port_fault(asked, wanted, before, said)
    assert words in fault and bool(fault) == bool(words)


@pytest.mark.parametrize("verb", ["status", "who"])
def test_a_host_that_is_not_there_is_refused_and_those_that_are_named(inventory: pathlib.Path, verb: str) -> None:
    result = run("make", "-o", ".venv/.complete", verb, f"INVENTORY={inventory}", "HOST=recommender", home=inventory)
    assert result.returncode == 2
    assert f"{inventory} has no host recommender" in result.stderr
    assert "Its hosts: recommender-dev" in result.stderr


def test_make_up_leaves_real_servers_alone(tmp_path: pathlib.Path) -> None:
    result = run("make", "-o", ".venv/.complete", "up", "INVENTORY=inventory/vultr", home=tmp_path)
    assert result.returncode == 2
    assert "type: ansible-playbook site.yml -i inventory/vultr" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["promote"], "make promote FROM=dev TO=staging"),
        (["promote", "FROM=dev"], "make promote FROM=dev TO=staging"),
        (["rollback"], "make rollback ENV=prod"),
        (["create", "VENDOR=vultr"], "make create VENDOR=vultr NAME=recommender-dev ENV=dev"),
        (["up", "VENDOR=vultr"], "make create VENDOR=vultr NAME=recommender-dev ENV=dev"),
        (["destroy", "NAME=recommender-dev"], "make destroy VENDOR=vultr NAME=recommender-dev"),
    ],
)
def test_a_verb_without_its_arguments_says_what_to_type(tmp_path: pathlib.Path, typed: list[str], said: str) -> None:
    result = run("make", "-o", ".venv/.complete", *typed, home=tmp_path)
    assert result.returncode == 2
    assert f"Type for example: {said}\n" in result.stderr


def test_verbs_act_on_the_host_named_and_else_on_all() -> None:
    for verb in ("status", "who"):
        command = ["make", "-n", "-o", ".venv/.complete", verb, "INVENTORY=inventory/onprem"]
        assert "--limit" not in subprocess.check_output(command, cwd=ROOT, text=True)
        assert "--limit 'desk'" in subprocess.check_output([*command, "HOST=desk"], cwd=ROOT, text=True)


@pytest.mark.parametrize(
    ("name", "words"), [("onprm", "is inventory/onprem meant?"), ("xyz", "inventory has aws_ec2, azure")]
)
def test_an_inventory_that_is_not_there(name: str, words: str, tmp_path: pathlib.Path) -> None:
    for command in (["ansible-playbook", "site.yml", "-i", name], ["bin/models", "-i", name, "show"]):
        result = run(*command, home=tmp_path)
        assert result.returncode != 0
        assert f"there is no {name}: {words}" in result.stderr


@pytest.fixture
def everybodys(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkout in a world-writable folder, as in WSL below /mnt."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in ("ansible.cfg", "bin", "inventory", "ml", "playbooks", "roles", "site.yml"):
        (folder / part).symlink_to(ROOT / part)
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("arguments", ["site.yml", "site.yml -i inventory/onprem --tags access", "playbooks/who.yml"])
def test_a_bare_call_without_ansible_cfg_says_what_to_type(everybodys: pathlib.Path, arguments: str) -> None:
    result = run("ansible-playbook", *arguments.split(), home=everybodys, cwd=everybodys)
    assert result.returncode == 2
    assert re.search(r"Type:\s+export ANSIBLE_CONFIG=/\S+/ansible.cfg and then this again", result.stdout)
    assert "Find the login" not in result.stdout


def test_every_playbook_of_ones_own_begins_with_that_check() -> None:
    parts = [play["import_playbook"] for play in yaml.safe_load((ROOT / "site.yml").read_text())]
    assert parts[0] == "playbooks/bootstrap.yml"
    others = {path.name for path in ROOT.glob("playbooks/*.yml")} - {pathlib.Path(part).name for part in parts[1:]}
    for name in others - {"check_call.yml"}:
        assert yaml.safe_load((ROOT / "playbooks" / name).read_text())[0]["import_playbook"] == "check_call.yml", name


def test_make_and_bin_name_ansible_cfg(everybodys: pathlib.Path) -> None:
    assert (ROOT / "Makefile").read_text().count("export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg\n") == 1
    result = run("bin/models", "-i", "inventory/xyz", "show", home=everybodys, cwd=everybodys)
    assert "there is no inventory/xyz: inventory has aws_ec2" in result.stderr


@pytest.mark.parametrize("locale", ["xx_XX.UTF-8", "C"])
def test_a_locale_that_ansible_does_not_start_in(locale: str, tmp_path: pathlib.Path) -> None:
    of = ("INVENTORY=inventory/onprem", "HOST=recommender-dev")
    made = run("make", "-s", "-o", ".venv/.complete", "ssh-config", *of, home=tmp_path, locale=locale)
    assert made.returncode == 0
    assert made.stdout.startswith("Host recommender-dev\n")
    assert f"LC_ALL={locale}" in made.stderr and "is used instead" in made.stderr
    called = run("bin/tunnel", "-i", "inventory/onprem", home=tmp_path, locale=locale)
    assert called.returncode == 1
    assert "Type LC_ALL=C.UTF-8" in called.stderr


def test_commands_in_messages_hold_the_port() -> None:
    """Each ssh command in a message names the port."""
    for file in [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]:
        for line in file.read_text().splitlines():
            for options in re.findall(r"\bssh (?!-keygen)([^@\n]*?)\{\{[^}]*\}\}@\{\{", line):
                assert "-p" in options or "option" in options.lower(), f"{file}: {line}"


@pytest.mark.parametrize(("port", "words"), [(22, "ssh deploy@192.0.2.1"), (2222, "ssh -p 2222 deploy@192.0.2.1")])
def test_the_login_that_messages_tell(port: int, words: str) -> None:
    variables = {"ansible_port": port, "ansible_user": "deploy", "ansible_host": "192.0.2.1"}
    text = yaml.safe_load((ROOT / "inventory/wiring.yml").read_text())["log_in"]
    assert Templar(DataLoader(), variables).template(trust_as_template(text)) == words


def test_what_a_person_sets_is_plain() -> None:
    """No templates: wiring.yml derives the commented values."""
    text = (ROOT / "inventory/settings.yml").read_text()
    assert "{{" not in text
    wired = yaml.safe_load((ROOT / "inventory/wiring.yml").read_text())
    assert not wired.keys() & yaml.safe_load(text).keys()
    shown = re.findall(r"^# (\w+):(?: |$)", text, re.M)
    assert set(shown) >= {"operator_keys", "people", "mlflow_logins", "site_ca_bundle"}
    assert set(shown) <= wired.keys()
