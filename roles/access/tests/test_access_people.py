"""Unit tests of the filter that reads the list of people, with real keys: no server, no container."""

import importlib.util
import pathlib
import subprocess
from typing import Any

import pytest

ROLE = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("access_people", ROLE / "filter_plugins/access_people.py")
assert spec
assert spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


# what the site sets
LOOPBACK = ["127.0.0.1:*", "[::1]:*", "localhost:*"]


def make(folder: pathlib.Path, kind: str, bits: int) -> pathlib.Path:
    """Path of a public key's file; the private one stands beside it."""
    private = folder / f"{kind}{bits}"
    comment = f"me at {kind}"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-C", comment, "-f", private], check=True
    )
    return private.with_name(f"{private.name}.pub")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("keys")
    for kind, bits in (("ed25519", 256), ("rsa", 2048), ("rsa", 3072), ("ecdsa", 256), ("ecdsa", 521)):
        make(folder, kind, bits)
    return folder


def read(
    *people: Any, folder: pathlib.Path | str = "/nowhere", ecdsa: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    result = module.access_people(list(people), str(folder), 3072, ecdsa)
    return result["people"], result["errors"]


def ana(keys: Any, **more: Any) -> dict[str, Any]:
    return {"name": "ana", "role": "analyst", "keys": keys, **more}


@pytest.mark.parametrize(
    ("name", "kind", "bits"),
    [
        ("ed25519256", "ssh-ed25519", 256),
        ("rsa3072", "ssh-rsa", 3072),
        ("ecdsa256", "ecdsa-sha2-nistp256", 256),
        ("ecdsa521", "ecdsa-sha2-nistp521", 521),
    ],
)
def test_a_key_is_what_ssh_keygen_says_it_is(keys: pathlib.Path, name: str, kind: str, bits: int) -> None:
    file = keys / f"{name}.pub"
    said = subprocess.check_output(["ssh-keygen", "-lf", file], text=True).split()
    line = file.read_text().strip()
    for source in (line, f"{name}.pub", str(file), [line], [f"{name}.pub", line]):
        people, errors = read(ana(source), folder=keys, ecdsa=name.startswith("ecdsa"))
        assert errors == []
        assert people[0]["keys"] == [{"line": line, "type": kind, "bits": bits, "fingerprint": said[1]}]
        assert str(bits) == said[0]


def test_a_path_may_begin_at_home(keys: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(keys))
    people, errors = read(ana("~/ed25519256.pub"))
    assert errors == []
    assert people[0]["keys"][0]["type"] == "ssh-ed25519"


def test_a_folder_stands_for_its_pub_files(tmp_path: pathlib.Path) -> None:
    first, second = make(tmp_path, "ed25519", 256), make(tmp_path, "rsa", 3072)
    second.write_text(f"# two lines\n\n{second.read_text()}{first.read_text()}")
    people, errors = read(ana("."), folder=tmp_path)
    assert errors == []
    assert [key["type"] for key in people[0]["keys"]] == ["ssh-ed25519", "ssh-rsa"]


def test_lines_of_one_text_are_keys(keys: pathlib.Path) -> None:
    text = "".join((keys / f"{name}.pub").read_text() for name in ("ed25519256", "rsa3072"))
    people, errors = read(ana(text))
    assert errors == []
    assert len(people[0]["keys"]) == 2


def test_a_certificate_authoritys_entry_and_options_are_refused(keys: pathlib.Path) -> None:
    line = (keys / "ed25519256.pub").read_text().strip()
    for options in ('command="/bin/sh"', "cert-authority", "no-pty", 'from="192.0.2.1",no-pty'):
        (keys / "options").write_text(f"{options} {line}\n")
        _, errors = read(ana("options"), folder=keys)
        assert len(errors) == 1
        assert f"ana: {keys}/options line 1: a key with options in front is not taken" in errors[0]
    _, errors = read(ana(f'command="/bin/sh" {line}'))
    assert "a key with options in front is not taken" in errors[0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "rsa2048.pub",
            "an RSA key of 2048 bits is not taken, 3072 is the least; make one with: ssh-keygen -t ed25519",
        ),
        ("ecdsa256.pub", "a key of type ecdsa-sha2-nistp256 is not taken; make one with: ssh-keygen -t ed25519"),
        ("ed25519256", "is a private key, which never leaves its owner: name the .pub file beside it"),
        ("missing.pub", "missing.pub cannot be read as a file of public keys"),
        ("empty", "empty has no file *.pub"),
        ("binary", "binary cannot be read as a file of public keys"),
        ("blank", "has no key and could never log in"),
        ("prose", "line 1: this is not a public key in OpenSSH's format"),
        ([], "has no key and could never log in"),
    ],
)
def test_what_is_no_key_is_refused_and_the_message_says_what_it_is(keys: pathlib.Path, source: Any, said: str) -> None:
    (keys / "empty").mkdir(exist_ok=True)
    (keys / "binary").write_bytes(b"\xff\xfe\x00")
    (keys / "blank").write_text("# nothing\n")
    (keys / "prose").write_text("my key is under the mat\n")
    _, errors = read(ana(source), folder=keys)
    assert len(errors) == 1
    assert errors[0].startswith("ana: ")
    assert said in errors[0]


@pytest.mark.parametrize("kept", [30, 60, 70])
def test_a_line_that_is_cut_off_is_refused(keys: pathlib.Path, kept: int) -> None:
    line = (keys / "ed25519256.pub").read_text()
    _, errors = read(ana(line[:kept]))
    assert len(errors) == 1
    assert "the key is damaged or cut off" in errors[0]


def test_an_ecdsa_key_is_named_with_what_lets_it_in(keys: pathlib.Path) -> None:
    line = (keys / "ecdsa256.pub").read_text()
    _, errors = read(ana(line))
    assert len(errors) == 1
    assert errors[0].startswith("ana: key ecdsa-sha2-nistp256 …")
    assert "me at ecdsa: a key of type ecdsa-sha2-nistp256 is not taken" in errors[0]
    assert "let ECDSA in: access_ecdsa: true" in errors[0]


def test_a_key_that_calls_itself_another_type_is_refused(keys: pathlib.Path) -> None:
    encoded = (keys / "rsa2048.pub").read_text().split()[1]
    _, errors = read(ana(f"ssh-ed25519 {encoded} me"))
    assert "the key is damaged or cut off" in errors[0]
    _, errors = read(ana((keys / "ecdsa521.pub").read_text().replace("nistp521 ", "nistp256 ")), ecdsa=True)
    assert "the key is damaged or cut off" in errors[0]


def test_every_fault_of_the_list_is_told_at_once(keys: pathlib.Path) -> None:
    good = str(keys / "ed25519256.pub")
    people, errors = read(
        {"name": "bob", "role": "operator", "keys": good},
        {"name": "bob", "role": "analyst", "keys": good},
        {"name": "Eve", "role": "admin", "keys": good},
        {"role": "analyst", "keys": good},
        {"name": "tina", "role": "tunnel", "keys": good},
        {"name": "toni", "role": "tunnel", "keys": good, "ports": [0, "ssh", 8888]},
        {"name": "carl", "role": "analyst", "keys": good, "ports": [8888]},
        {"name": "dora", "role": "analyst", "keys": good, "state": "gone"},
        {"name": "emil", "role": "analyst", "key": good},
    )
    assert len(people) == 9
    for said in (
        "bob: is there twice",
        "Eve: the name must be of a-z",
        "Eve: role is 'admin'; it can be operator, analyst, tunnel, command",
        "entry 4: the name must be of a-z",
        "tina: ports are what a person of role tunnel may reach",
        "toni: port 0 is not a number from 1 to 65535",
        "toni: port ssh is not a number from 1 to 65535",
        "carl: ports are what a person of role tunnel may reach",
        "dora: state is gone; it can be present or absent",
        "emil: there is no key; known are name, role, keys, ports, command and state",
    ):
        assert any(error.startswith(said) for error in errors), (said, errors)


def test_who_is_absent_needs_no_key() -> None:
    people, errors = read({"name": "ana", "state": "absent"})
    assert errors == []
    assert people == [{"name": "ana", "role": "", "state": "absent", "ports": [], "command": "", "keys": []}]


def test_ports_become_numbers(keys: pathlib.Path) -> None:
    people, errors = read(
        {"name": "tina", "role": "tunnel", "keys": "ed25519256.pub", "ports": ["8888", 5000]}, folder=keys
    )
    assert errors == []
    assert people[0]["ports"] == [8888, 5000]


@pytest.mark.parametrize(
    "command",
    [
        "internal-sftp -d /srv/copies",
        "rclone serve restic --stdio --append-only 'my repository'",
        r"""printf '%s\n' "it's $HOME" \" '' # 100%=all""",
    ],
)
def test_an_account_may_have_one_command(keys: pathlib.Path, command: str) -> None:
    text = (keys / "ed25519256.pub").read_text()
    people, errors = read({"name": "nas", "role": "command", "keys": [text], "command": command})
    assert errors == []
    assert (people[0]["command"], people[0]["ports"], len(people[0]["keys"])) == (command, [], 1)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "command is empty; it must be what the account runs: command: internal-sftp"),
        (None, "command is empty; it must be what"),
        (["true"], 'command is ["true"]; it must be what'),
        (True, "command is true; it must be what"),
        ("true\nMatch all", "it must be one line without control characters"),
        ("true\r", "it must be one line"),
        ("a\tb", "it must be one line"),
        ("a\u2028b", "it must be one line"),
        (" true", "it must be one line"),
        ("# true", "it must be one line"),
        ("= true", "it must be one line"),
        ("echo it's", "where sshd misses the end of a quote"),
        ('echo "', "where sshd misses the end of a quote"),
        # the shell takes it, sshd does not
        (r"echo 'a\'", "where sshd misses the end of a quote"),
        ("true # don't", "where sshd misses the end of a quote"),
    ],
)
def test_a_command_that_sshd_would_read_otherwise_is_refused(keys: pathlib.Path, command: Any, said: str) -> None:
    _, errors = read({"name": "nas", "role": "command", "keys": "ed25519256.pub", "command": command}, folder=keys)
    assert len(errors) == 1
    assert errors[0].startswith("nas: command is ")
    assert said in errors[0]


def test_role_and_command_go_together(keys: pathlib.Path) -> None:
    nas = {"name": "nas", "role": "command", "keys": "ed25519256.pub"}
    assert read(nas, folder=keys)[1] == [
        "nas: command is empty; it must be what the account runs: command: internal-sftp"
    ]
    _, errors = read({**nas, "command": "true", "ports": [22]}, ana("ed25519256.pub", command="true"), folder=keys)
    assert errors == [
        "nas: ports are what a person of role tunnel may reach: list them there, and only there",
        "ana: command is what an account of role command runs: give it there, and only there",
    ]
    assert read({"name": "nas", "state": "absent", "role": "command", "command": "'"})[1] == []


@pytest.mark.parametrize("people", [None, "ana", {"name": "ana"}, ["ana"], 3])
def test_what_is_no_list_of_people_is_refused(people: Any) -> None:
    result = module.access_people(people, "/nowhere", 3072)
    assert result["people"] == []
    assert len(result["errors"]) == 1


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        ({"ports": 5000}, "tina: ports is 5000; it must be a list: ports: [5000]"),
        ({"ports": "5000"}, 'tina: ports is "5000"; it must be a list: ports: [5000]'),
        ({"ports": None}, "tina: ports is empty; it must be a list: ports: [8888]"),
        ({"ports": {"mlflow": 5000}}, 'tina: ports is {"mlflow": 5000}; it must be a list: ports: [8888]'),
        ({"ports": [None]}, "tina: port None is not a number from 1 to 65535"),
        ({"ports": ["²"]}, "tina: port ² is not a number from 1 to 65535"),
        ({"ports": [True]}, "tina: port True is not a number from 1 to 65535"),
        ({"ports": [[5000]]}, "tina: port [5000] is not a number from 1 to 65535"),
        (
            {"keys": None},
            "tina: keys is empty; it must be a public key, a path, or a list of them: keys: [keys/me.pub]",
        ),
        ({"keys": ""}, "tina: keys is empty; it must be"),
        ({"keys": {"laptop": "x"}}, 'tina: keys is {"laptop": "x"}; it must be'),
        ({"keys": 7}, "tina: keys is 7; it must be"),
        ({"keys": ["ed25519256.pub", None]}, "tina: keys has empty in place 2; it must be"),
        ({"keys": [["ed25519256.pub"]]}, 'tina: keys has ["ed25519256.pub"] in place 1; it must be'),
        ({"keys": "A" * 900}, "cannot be read as a file of public keys: [Errno 36] File name too long"),
        ({"keys": "a\0b"}, "cannot be read as a file of public keys"),
        ({"name": 12}, "entry 1: the name is 12, which YAML does not read as text: put a name into quotes"),
        ({"name": None}, "entry 1: the name is empty, which YAML"),
        ({"name": True}, "entry 1: the name is true, which YAML"),
        ({"name": ["tina"]}, 'entry 1: the name is ["tina"], which YAML'),
        ({"role": None}, "tina: role is 'None'; it can be"),
        ({"role": ["tunnel"]}, "tina: role is '['tunnel']'; it can be"),
        ({"state": True}, "tina: state is True; it can be"),
        ({3: 4, "key": 1}, "tina: there is no 3, key; known are"),
    ],
)
def test_a_slip_is_told_with_the_name_of_its_entry(keys: pathlib.Path, slip: dict[Any, Any], said: str) -> None:
    tina = {"name": "tina", "role": "tunnel", "keys": "ed25519256.pub", "ports": [8888]}
    _, errors = read({**tina, **slip}, folder=keys)
    assert len(errors) >= 1
    assert said in errors[0], errors


@pytest.mark.parametrize("entry", [None, "ana", 3, ["ana"]])
def test_an_entry_that_is_no_person_is_told_by_its_place(keys: pathlib.Path, entry: Any) -> None:
    _, errors = read(ana("ed25519256.pub"), entry, folder=keys)
    assert len(errors) == 1
    assert errors[0].startswith("entry 2 is ")


def test_what_people_with_a_shell_may_forward() -> None:
    assert module.access_forwards([], [], []) == {"open": [], "listen": [], "errors": []}
    found = module.access_forwards(LOOPBACK, [5678], ["/home/%u/forward.sock"])
    assert found == {"open": [*LOOPBACK, "[/home/%u/forward.sock]:*"], "listen": ["5678"], "errors": []}
    # sshd reads a list for TCP as one for sockets too: each of them only beside every host
    assert module.access_forwards(LOOPBACK, ["*"], ["any"]) == {"open": ["any"], "listen": ["*:*"], "errors": []}
    # not a list, as YAML reads it without brackets
    found = module.access_forwards("127.0.0.1:8888", 5678, "/run/postgresql/.s.PGSQL.5432")
    assert found["open"] == ["127.0.0.1:8888", "[/run/postgresql/.s.PGSQL.5432]:*"]
    assert (found["listen"], found["errors"]) == (["5678"], [])


@pytest.mark.parametrize("entry", ["10.0.0.5:*", "*:*", "any", "127.0.0.1", "localhost:", "localhost:70000", "::1:80"])
def test_another_host_is_no_place_to_forward_to(entry: str) -> None:
    (error,) = module.access_forwards([*LOOPBACK, entry], [], [])["errors"]
    assert error.startswith(f'access_permit_open: "{entry}" is not on the server\'s loopback: write HOST:PORT')


@pytest.mark.parametrize(
    "entry", ["forward.sock", "~/forward.sock", "/home/%h/a", "/tmp/a b", "/tmp/a]:* *", "/a\nUser x"]
)
def test_a_socket_is_named_in_full(entry: str) -> None:
    (error,) = module.access_forwards(LOOPBACK, [], [entry])["errors"]
    assert "is not the path of a socket: write it in full" in error


@pytest.mark.parametrize("entry", [22, 70000, "debug", "127.0.0.1:5678", True, -1])
def test_a_debugger_has_a_port(entry: Any) -> None:
    (error,) = module.access_forwards(LOOPBACK, [entry], [])["errors"]
    assert "is not a port from 1024 to 65535: write [5678], or ['*'] for any" in error
