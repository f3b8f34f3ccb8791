"""bin/tunnel: permitted services, local ports, and its ssh_config as ssh reads it."""

import importlib.util
import pathlib
import re
import socket
import subprocess
import sys
import threading
from importlib.machinery import SourceFileLoader
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load() -> Any:
    loader = SourceFileLoader("tunnel", str(ROOT / "bin/tunnel"))
    spec = importlib.util.spec_from_loader("tunnel", loader)
    assert spec
    # where a script finds what lies beside it
    sys.path.append(str(ROOT / "bin"))
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


tunnel = load()
SERVER: dict[str, Any] = {
    "name": "one", "host": "203.0.113.10", "port": 2222, "key": "", "operator": "deploy", "worker": "analyst",
    "options": "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=.known_hosts -J door",
    "people": [
        {"name": "deploy", "role": "operator"},
        {"name": "analyst", "role": "analyst"},
        {"name": "tina", "role": "tunnel", "ports": [5000, "9000"]},
        {"name": "nas", "role": "command", "command": "internal-sftp"},
        {"name": "gone", "role": "analyst", "state": "absent"},
    ],
    "ports": {"jupyter of ana": 8889, "jupyter of analyst": 8888, "mlflow": 5000},
}  # fmt: skip


def test_ones_own_jupyter_comes_first_and_a_tunnel_has_its_ports_alone() -> None:
    found = tunnel.services(SERVER, tunnel.person(SERVER, "analyst"))
    assert list(found.items()) == [("jupyter of analyst", 8888), ("jupyter of ana", 8889), ("mlflow", 5000)]
    assert tunnel.services(SERVER, tunnel.person(SERVER, "tina")) == {"mlflow": 5000, "port 9000": 9000}


@pytest.mark.parametrize("name", ["gone", "nobody"])
def test_who_is_not_among_the_people_is_told_who_is(name: str) -> None:
    with pytest.raises(SystemExit, match=f"{name} is not among the people of one: deploy, analyst, tina"):
        tunnel.person(SERVER, name)


def test_an_account_that_runs_one_command_is_refused() -> None:
    said = "nas has role command in people: it runs one command on one"
    with pytest.raises(SystemExit, match=said):
        tunnel.services(SERVER, tunnel.person(SERVER, "nas"))
    with pytest.raises(SystemExit, match=said):
        tunnel.ssh_config(SERVER, "nas")


def test_a_server_that_keeps_nothing_is_said() -> None:
    with pytest.raises(SystemExit, match="keeps nothing for deploy"):
        tunnel.services({**SERVER, "ports": {}}, tunnel.person(SERVER, "deploy"))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_taken_port_is_replaced_and_said(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as squatter:
        taken = squatter.getsockname()[1]
        found = tunnel.free_port(taken, set())
        assert found != taken
        assert f"port {taken} of this machine is taken; using {found}" in capsys.readouterr().out
    assert tunnel.free_port(taken, set()) == taken
    assert tunnel.free_port(taken, {taken}) != taken


def test_ssh_understands_the_configuration(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").write_text(tunnel.ssh_config({**SERVER, "key": str(tmp_path / "a key")}, "analyst"))

    def effective(host: str) -> dict[str, str]:
        output = subprocess.check_output(["ssh", "-F", tmp_path / "config", "-G", host], text=True, cwd="/")
        return dict(line.split(" ", 1) for line in output.splitlines() if " " in line)

    found = effective("one")
    assert (found["hostname"], found["user"], found["port"]) == ("203.0.113.10", "analyst", "2222")
    assert found["identityfile"] == str(tmp_path / "a key")
    assert found["userknownhostsfile"] == str(tmp_path / ".known_hosts")
    assert found["proxyjump"] == "door"
    assert "localforward" not in found
    assert "localforward" in effective("one-tunnel")


def test_forwards_end_at_an_address_that_no_other_account_can_stand_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any account may listen on ::1, so a forward to localhost could end there."""
    for line in tunnel.ssh_config(SERVER, "analyst").splitlines():
        if "LocalForward" in line:
            assert line.split()[2].startswith("127.0.0.1:")
    monkeypatch.setattr(tunnel, "loopbacks", lambda: ["127.0.0.1", "[::1]"])
    assert tunnel.forwards({"mlflow": 5000}, {"mlflow": 40001}) == [
        "-L", "127.0.0.1:40001:127.0.0.1:5000", "-L", "[::1]:40001:127.0.0.1:5000",
    ]  # fmt: skip


def test_each_service_has_a_name_of_its_own() -> None:
    """Cookies ignore ports: under one name, services would share sessions."""
    names = [tunnel.host_name(name) for name in ("jupyter of ana", "jupyter of ben_2", "mlflow", "port 9000", "My App")]
    assert names == ["ana.localhost", "ben_2.localhost", "mlflow.localhost", "port-9000.localhost", "my-app.localhost"]


def test_a_service_is_asked_at_the_address_by_its_name() -> None:
    """Works without a resolver for *.localhost, and with servers that check names."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                asked.append(connection.recv(4096).decode())
                connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        assert tunnel.answers("jupyter of ana", port)
        thread.join()
    assert f"Host: ana.localhost:{port}\r\n" in asked[0]


def test_sshd_lets_tunnels_go_to_addresses_alone() -> None:
    settings = yaml.safe_load((ROOT / "inventory/wiring.yml").read_text())
    template = (ROOT / "roles/access/templates/00-access.conf.j2").read_text()
    variables = {
        "permitted": trust_as_template(settings["ssh_hardening_permit_open"]), "tunnel_ports": {"mlflow": 5000},
        "ansible_managed": "", "__access_keys": "", "__access_allowed": ["tina"], "__access_keep": [],
        "__access_commands": [],
        "__access_present": [{"name": "tina", "role": "tunnel", "ports": [5000, 9000]}],
    }  # fmt: skip
    templar = Templar(DataLoader(), variables=variables)
    assert templar.template(trust_as_template("{{ permitted }}")) == ["127.0.0.1:5000"]
    permitted = re.findall(r"^ *PermitOpen (.*)$", templar.template(trust_as_template(template)), re.M)
    assert permitted == ["127.0.0.1:5000 127.0.0.1:9000"]


def test_sshd_lets_people_with_a_shell_go_to_the_loopback_alone() -> None:
    settings = yaml.safe_load((ROOT / "inventory/wiring.yml").read_text())
    spec = importlib.util.spec_from_file_location("p", ROOT / "roles/access/filter_plugins/access_people.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    permitted = {name: settings[name] for name in ("access_permit_open", "access_permit_sockets")}
    found = module.access_forwards(permitted["access_permit_open"], [], permitted["access_permit_sockets"])
    assert found["errors"] == []
    variables = {
        "ansible_managed": "", "__access_keys": "", "__access_allowed": [], "__access_keep": [], **permitted,
        "access_permit_listen": [], "__access_forwards": found,
        "__access_commands": [{"name": "nas", "role": "command", "command": "echo '#1' # all"}],
        "__access_present": [
            {"name": "nas", "role": "command", "ports": []},
            {"name": "tina", "role": "tunnel", "ports": [5000]}, {"name": "deploy", "role": "operator", "ports": []},
            {"name": "ana", "role": "analyst", "ports": []},
        ],
    }  # fmt: skip
    template = (ROOT / "roles/access/templates/00-access.conf.j2").read_text()
    lines = Templar(DataLoader(), variables=variables).template(trust_as_template(template))
    blocks = {block.split()[0]: block for block in lines.split("Match User ")[1:]}
    assert list(blocks) == ["tina", "nas", "ana", "deploy"]
    assert "\n    ForceCommand echo '#1' # all\n" in blocks["nas"]
    assert "PermitOpen" not in blocks["nas"]
    assert re.findall(r"PermitOpen .*", blocks["ana"]) == [
        "PermitOpen 127.0.0.1:* [::1]:* localhost:* [/home/ana/forward.sock]:*"
    ]
    for name, tcp, sockets in (("ana", "local", "local"), ("deploy", "local", "local"), ("tina", "local", "no")):
        assert re.findall(r"Allow(?:Tcp|StreamLocal)Forwarding (\w+)", blocks[name]) == [tcp, sockets]
    assert "PermitListen" not in lines


SOCKETS = """
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:22B9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 125070 1 0 100 0 0 10 0
   1: 0100007F:22B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 122616 1 0 100 0 0 10 0
   2: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995        0 122617 1 0 100 0 0 10 0
   3: 0100007F:22BA 0100007F:1388 01 00000000:00000000 00:00000000 00000000  1001        0 122618 1 0 100 0 0 10 0
"""
SHOWN = f"""Welcome, unit of nobody
uid ana 1001
uid analyst 1000
uid mlflow 995
unit jupyter-screen@ana active
unit mlflow failed
{SOCKETS}
/etc/jupyter-screen/tokens/ana:secret-of-ana
/etc/jupyter-screen/tokens/analyst:secret-of-analyst
"""


def test_a_port_in_other_hands_is_seen() -> None:
    """The port of analyst's Jupyter, which is down, is held by somebody else."""
    seen = tunnel.Seen(SHOWN)
    assert seen.tokens == {"jupyter of ana": "secret-of-ana", "jupyter of analyst": "secret-of-analyst"}
    assert seen.proven("jupyter of ana", 8889) and not seen.strangers("jupyter of ana", 8889)
    assert seen.strangers("jupyter of analyst", 8888) == {1002}
    assert not seen.proven("jupyter of analyst", 8888)
    # a connection is not a listener, and nobody is not its account
    assert not seen.proven("jupyter of ana", 8890) and not seen.strangers("jupyter of ana", 8890)
    assert seen.proven("mlflow", 5000)
    assert seen.down("mlflow") and not seen.down("jupyter of ana") and not seen.down("jupyter of analyst")
    # without a look, as of a tunnel, nothing is proven
    assert not tunnel.Seen().proven("jupyter of ana", 8889)


@pytest.mark.parametrize("service", ["spark", "spark jobs", "spark connect"])
def test_sparks_ports_are_the_account_sparks(service: str) -> None:
    """Who had the one of Connect would get the token."""
    listens = "   0: 0100007F:3A9A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  {} 0 0\n"
    assert tunnel.Seen(f"uid spark 617\n{listens.format(617)}").proven(service, 15002)
    stranger = tunnel.Seen(f"uid spark 617\n{listens.format(1002)}")
    assert stranger.strangers(service, 15002) == {1002} and not stranger.proven(service, 15002)


@pytest.mark.parametrize(
    ("address", "counts"),
    [("0" * 32, True), (tunnel.MAPPED, True), ("00000000", True), ("00000000000000000000000001000000", False)],
)
def test_every_address_that_127_0_0_1_reaches_counts(address: str, counts: bool) -> None:
    row = "   0: {}:22B9 0:0000 0A 00000000:00000000 00:00000000 00000000  {}        0 1 1 0 100 0 0 10 0\n"
    alone = tunnel.Seen("uid ana 1001\n" + row.format(address, 1002))
    assert alone.strangers("jupyter of ana", 8889) == ({1002} if counts else set())
    # beside the closest address it gets nothing
    beside = tunnel.Seen("uid ana 1001\n" + row.format(address, 1002) + row.format("0100007F", 1001))
    assert beside.proven("jupyter of ana", 8889)


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: set[str], *arguments: str, **more: Any
) -> str:
    """What `tunnel` prints for a server that shows SHOWN, where `found` answer."""
    server = {**SERVER, "logins": False, "login_users": [], **more}
    monkeypatch.setattr(sys, "argv", ["tunnel", "-i", "inventory/vultr", *arguments])
    monkeypatch.setattr(tunnel, "settings", lambda *_: [server])
    monkeypatch.setattr(tunnel, "look", lambda ssh, login, who, ports: tunnel.Seen(SHOWN))
    monkeypatch.setattr(tunnel, "forward", lambda command, ports, waited, report, check: print(command, report(found)))
    monkeypatch.setattr(tunnel.signal, "signal", lambda *_: None)
    tunnel.main()
    return capsys.readouterr().out


def test_a_token_is_not_printed_where_another_account_would_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_main(monkeypatch, capsys, {"jupyter of ana", "mlflow"})
    assert "/lab?token=secret-of-ana" in said
    assert "secret-of-analyst" not in said
    assert "jupyter of analyst is left out: port 8888 of one is not held by analyst but by another account" in said
    assert "getent passwd 1002" in said
    assert ":127.0.0.1:8889" in said and ":127.0.0.1:8888" not in said


def test_a_service_that_is_down_is_named_with_its_unit_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_main(monkeypatch, capsys, {"jupyter of ana"})
    assert "does not answer: mlflow is failed. Why: ssh" in said
    assert "deploy@203.0.113.10 systemctl status mlflow\n" in said
    assert "ansible-playbook site.yml -i inventory/vultr --limit one --tags tracking" in said
    said = run_main(monkeypatch, capsys, {"mlflow"})
    assert "Why: ssh" in said and " systemctl status jupyter-screen@ana\n" in said
    assert "ansible-playbook site.yml -i inventory/vultr --limit one --tags workbench" in said


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("deploy", "deploy@203.0.113.10 sudo cat /etc/mlflow/admin.env"),
        ("analyst", "analyst@203.0.113.10 cat .mlflow/credentials"),
        ("ana", "ana has none: an operator lists ana in mlflow_users"),
        (
            "tina",
            "Ask an operator to send you the output of: ssh deploy@203.0.113.10 sudo cat /etc/mlflow/users/tina.env",
        ),
    ],
)
def test_the_login_that_mlflow_asks_for_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, where: str
) -> None:
    people = [*SERVER["people"], {"name": "ana", "role": "analyst"}]
    users = [{"name": "recommender", "accounts": ["analyst"]}, {"name": "chief"}]
    said = run_main(monkeypatch, capsys, {"mlflow"}, "--user", name, logins=True, login_users=users, people=people)
    assert "      asks for a login" in said
    assert where in said
    assert "asks for a login" not in run_main(monkeypatch, capsys, {"mlflow"}, "--user", name, people=people)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(tmp_path: pathlib.Path) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("all: {children: {dev: {hosts: {alpha: }}, prod: {hosts: {beta: }}}}\n")
    with pytest.raises(SystemExit) as error:
        tunnel.settings(str(hosts), "alfa[0]")
    assert "has no host alfa." in str(error.value)
    assert "Its hosts: alpha, beta, in the groups dev, prod" in str(error.value)
    with pytest.raises(SystemExit, match="there is no inventory/vultur: is inventory/vultr meant"):
        tunnel.settings("inventory/vultur", "dev[0]")


def test_an_option_without_a_place_in_a_configuration_is_said() -> None:
    with pytest.raises(SystemExit, match="-o KEY=VALUE"):
        tunnel.ssh_config({**SERVER, "options": "-4"}, "analyst")
