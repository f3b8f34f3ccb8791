"""The server's users: what the list may say, what is kept on the host, and what the server's API is asked for."""

import json
import os
import pathlib
import pwd
import subprocess
import types
from typing import Any

import pytest
import requests
from mlflow_admin import logins
from mlflow_admin.store import Refused
from werkzeug.security import generate_password_hash

Capture = pytest.CaptureFixture[str]
ME = pwd.getpwuid(os.getuid()).pw_name

PERMISSION = (
    " is no permission: give {experiment: NAME, permission: …} or {model: NAME, permission: …} with READ, USE, EDIT,"
    " MANAGE or DENY; the name * stands for all."
)
FAULTS = {
    "no mapping": (["ana"], "ana is no user: give a name of letters, digits and ._@-"),
    "no name": ([{}], "None is no user: give a name of letters, digits and ._@-"),
    "a colon": ([{"name": "a:b"}], "a:b is no user: give a name of letters, digits and ._@-"),
    "the role's own": (
        [{"name": "admin"}], "admin stands for the account that the role makes itself: take one out.",
    ),
    "twice": ([{"name": "ana"}, {"name": "ana"}], "ana stands twice: take one out."),
    "unknown": (
        [{"name": "ana", "pasword": "x", "group": "y"}],
        "ana has group, pasword: an entry has name, password, admin, permissions and accounts.",
    ),
    "password": (
        [{"name": "ana", "password": "short"}],
        "ana: give a password of 12 to 128 letters, digits and ._~@+=:,/- or none, and one is made on the host.",
    ),
    "admin": ([{"name": "ana", "admin": "no"}], "ana: admin is true or false."),
    "account": (
        [{"name": "ana", "accounts": ["no-such-account"]}],
        "ana: no-such-account is not an account with a home here. Make it (those of people are made by site.yml --tags"
        " access), or take it out of accounts.",
    ),
    "no kind": ([{"name": "ana", "permissions": [{"permission": "READ"}]}], 'ana: {"permission": "READ"}' + PERMISSION),
    "two kinds": (
        [{"name": "ana", "permissions": [{"experiment": "a", "model": "b", "permission": "READ"}]}],
        'ana: {"experiment": "a", "model": "b", "permission": "READ"}' + PERMISSION,
    ),
    "no such permission": (
        [{"name": "ana", "permissions": [{"model": "a", "permission": "WRITE"}]}],
        'ana: {"model": "a", "permission": "WRITE"}' + PERMISSION,
    ),
    "a word": ([{"name": "ana", "permissions": ["READ"]}], 'ana: "READ"' + PERMISSION),
}  # fmt: skip


@pytest.mark.parametrize(("users", "message"), FAULTS.values(), ids=FAULTS)
def test_a_list_that_cannot_be_done_is_refused(users: list[Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        logins.check_users(users)
    assert str(refused.value) == f"mlflow_server_users: {message}"


def test_a_list_that_can_be_done() -> None:
    grants = [{"experiment": "*", "permission": "READ"}, {"model": "dev.shop", "permission": "MANAGE"}]
    password = {"password": "A-z0.9_~@+=:,/", "admin": True}
    logins.check_users([{"name": "ana", "accounts": [ME], "permissions": grants}, {"name": "bo@x.org"} | password])


def made(capsys: Capture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_passwords_are_made_once_and_kept(tmp_path: pathlib.Path, capsys: Capture) -> None:
    folder = tmp_path / "users"
    wanted = {"folder": str(folder), "users": [{"name": "ana"}, {"name": "bo", "password": "given-by-hand"}]}
    logins.credentials(wanted)
    first = made(capsys)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert first["changes"] == [f"wrote {folder}/ana.env", f"wrote {folder}/bo.env"]
    ana, bo = (user["password"] for user in first["users"])
    assert len(ana) == 32 and bo == "given-by-hand"
    assert (folder / "ana.env").read_text() == f"MLFLOW_TRACKING_USERNAME=ana\nMLFLOW_TRACKING_PASSWORD={ana}\n"
    logins.credentials(wanted)
    assert made(capsys) == first | {"changes": []}
    logins.credentials(wanted | {"users": [{"name": "ana"}]})
    assert made(capsys) == {"users": [{"name": "ana", "password": ana}], "changes": [f"removed {folder}/bo.env"]}
    assert [file.name for file in folder.iterdir()] == ["ana.env"]


def test_an_account_gets_its_login_as_itself(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], input: str, **options: Any) -> Any:
        assert command[:5] == ["timeout", "30", "runuser", "-u", ME]
        return real(["env", f"HOME={tmp_path}", *command[8:]], input=input, **options)

    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    wanted = {"folder": str(tmp_path / "users"), "users": [{"name": "ana", "accounts": [ME], "password": "a" * 12}]}
    logins.credentials(wanted)
    assert made(capsys)["changes"] == [f"wrote {tmp_path}/users/ana.env", f"wrote ~{ME}/.mlflow/credentials"]
    file = tmp_path / ".mlflow/credentials"
    assert file.read_text() == f"[mlflow]\nmlflow_tracking_username = ana\nmlflow_tracking_password = {'a' * 12}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    logins.credentials(wanted)
    assert made(capsys)["changes"] == []
    file.unlink()
    file.mkdir()
    with pytest.raises(Refused, match=rf"^~{ME}/\.mlflow/credentials cannot be written: it is no regular file$"):
        logins.credentials(wanted)
    # what the others need is printed all the same
    assert made(capsys)["users"][0]["name"] == "ana"


@pytest.mark.parametrize(("code", "why"), [(124, "no answer for 30 s"), (1, "no reason given")])
def test_an_account_that_does_not_answer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    result = types.SimpleNamespace(returncode=code, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: result)
    wanted = {"folder": str(tmp_path / "users"), "users": [{"name": "ana", "accounts": [ME]}]}
    with pytest.raises(Refused, match=f"cannot be written: {why}$"):
        logins.credentials(wanted)


class Api:
    """The server's API: users, permissions, experiments; what it was asked to change, in order."""

    def __init__(self) -> None:
        self.experiments = {"ratings": "1"}
        self.models: list[str] = []
        self.runs: list[str] = []
        self.permissions: dict[str, list[dict[str, str]]] = {}
        self.changes: list[Any] = []
        self.answers: dict[str, tuple[int, str]] = {}

    def request(self, method: str, url: str, auth: Any, timeout: int, json: Any = None, params: Any = None) -> Any:
        assert auth == ("admin", "secret of admin") and url.startswith("http://127.0.0.1:5000/api/")
        path = url.partition("/api/")[2]
        code, content = 200, {}
        if method != "GET" and not path.endswith("search"):
            self.changes.append((method, path.partition("/mlflow/")[2], json))
        if path.endswith("get-by-name"):
            number = self.experiments.get(params["experiment_name"])
            code, content = (200, {"experiment": {"experiment_id": number}}) if number else (404, {})
        elif path.endswith("experiments/search"):
            # one a page
            numbers = ["0", *self.experiments.values()]
            at = int(json.get("page_token", 0))
            content = {"experiments": [{"experiment_id": numbers[at]}], "next_page_token": str(at + 1)}
            if at + 1 == len(numbers):
                del content["next_page_token"]
        elif path.endswith("runs/search"):
            content = {"runs": self.runs}
        elif path.endswith("registered-models/search"):
            content = {"registered_models": [{"name": name} for name in self.models]}
        elif path.endswith("experiments/create"):
            content = {"experiment_id": "2"}
        elif path.endswith("permissions/list"):
            content = {"permissions": self.permissions.get(params["username"], [])}
        code, text = self.answers.get(path.rpartition("/")[2], (code, ""))
        return types.SimpleNamespace(status_code=code, text=text, json=lambda: content)


@pytest.fixture
def api(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, sql: Any) -> Api:
    """A server with the users admin, ana and gone, as its database has them."""
    hashes = {name: generate_password_hash(f"secret of {name}", "pbkdf2:sha256:1") for name in ("admin", "ana", "gone")}
    rows = ", ".join(f"('{name}', {int(name == 'admin')}, '{text}')" for name, text in hashes.items())
    sql(
        tmp_path / "mlflow.db",
        "CREATE TABLE alembic_version (version_num)",
        "CREATE TABLE users (username, is_admin, password_hash)",
        f"INSERT INTO users VALUES {rows}",
    )
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret of admin")
    monkeypatch.setattr(logins, "GRANTED", tmp_path / "granted.json")
    found = Api()
    monkeypatch.setattr(requests, "request", found.request)
    return found


def users(capsys: Capture, *wanted: dict[str, Any], changes: list[str] | None = None) -> list[str]:
    """The lines that say what changed."""
    logins.users({"users": list(wanted), "changes": changes or []}, "http://127.0.0.1:5000")
    return list(filter(None, capsys.readouterr().out.splitlines()))


ANA = {"name": "ana", "password": "secret of ana"}
GONE = {"name": "gone", "password": "secret of gone"}


def test_users_that_are_as_they_should_be_stay(api: Api, capsys: Capture) -> None:
    assert users(capsys, ANA, GONE, changes=["wrote a file"]) == ["wrote a file"]
    assert api.changes == []


def test_users_come_change_and_go(api: Api, capsys: Capture) -> None:
    said = users(capsys, ANA | {"password": "another one!", "admin": True}, {"name": "bo", "password": "secret of bo"})
    assert said == ["removed gone", "password of ana", "ana is admin", "made bo"]
    assert api.changes == [
        ("DELETE", "users/delete", {"username": "gone"}),
        ("PATCH", "users/update-password", {"username": "ana", "password": "another one!"}),
        ("PATCH", "users/update-admin", {"username": "ana", "is_admin": True}),
        ("POST", "users/create", {"username": "bo", "password": "secret of bo"}),
    ]


def test_an_admin_becomes_a_user_again(api: Api, capsys: Capture, sql: Any, tmp_path: pathlib.Path) -> None:
    sql(tmp_path / "mlflow.db", "UPDATE users SET is_admin = 1")
    assert users(capsys, ANA, GONE | {"admin": True}) == ["ana is no longer admin"]


def test_the_admins_password_is_the_hosts(api: Api, capsys: Capture, sql: Any, tmp_path: pathlib.Path) -> None:
    text = generate_password_hash("of before", "pbkdf2:sha256:1")
    sql(tmp_path / "mlflow.db", f"UPDATE users SET password_hash = '{text}' WHERE username = 'admin'")
    assert users(capsys, ANA, GONE) == ["password of admin"]
    assert users(capsys, ANA, GONE) == []


def test_permissions_are_those_of_the_list(api: Api, capsys: Capture) -> None:
    made = {"resource_type": "experiment", "resource_pattern": "9", "permission": "MANAGE"}
    api.permissions["ana"] = [made]
    grants = [
        {"experiment": "ratings", "permission": "READ"},
        {"experiment": "new", "permission": "EDIT"},
        {"model": "*", "permission": "USE"},
    ]
    said = users(capsys, ANA | {"permissions": grants}, GONE)
    assert said == [
        "experiment new", "ana has READ on experiment 1", "ana has EDIT on experiment 2",
        "ana has USE on registered_model *",
    ]  # fmt: skip
    # the next run takes back what this one gave, and nothing that ana has made
    given = [
        {"resource_type": kind, "resource_pattern": pattern, "permission": permission}
        for kind, pattern, permission in (("experiment", "1", "READ"), ("registered_model", "*", "USE"))
    ]
    api.permissions["ana"] = [made, *given]
    api.changes.clear()
    said = users(capsys, ANA | {"permissions": [{"experiment": "ratings", "permission": "MANAGE"}]}, GONE)
    assert sorted(said) == [
        "ana has MANAGE on experiment 1", "ana lost READ on experiment 1", "ana lost USE on registered_model *",
    ]  # fmt: skip
    kept = json.loads(logins.GRANTED.read_text())
    assert kept == {"ana": [["experiment", "1"]], "gone": []}
    assert not [change for change in api.changes if change[2].get("resource_id") == "9"]


@pytest.mark.parametrize("used", [False, True])
def test_people_keep_what_there_was_before_their_first_logins(api: Api, capsys: Capture, used: bool) -> None:
    api.experiments["old"] = "7"
    api.models, api.runs = ["shop"], ["a run"] * used
    api.permissions["ana"] = [{"resource_type": "experiment", "resource_pattern": "7", "permission": "READ"}]
    listed = {"experiment": "ratings", "permission": "EDIT"}
    ana, job = ANA | {"accounts": [ME], "permissions": [listed]}, GONE | {"permissions": [listed]}
    bo = {"name": "bo", "password": "secret of bo", "accounts": [ME], "permissions": [listed | {"permission": "READ"}]}
    # the shared login of an earlier release is nobody's own
    logins.GRANTED.write_text(json.dumps({"gone": []}))
    default = ["ana has MANAGE on experiment 0"] * used
    assert users(capsys, ana, bo, job) == [
        *default, "ana has EDIT on experiment 1", "ana has MANAGE on registered_model shop",
        "made bo", "bo has READ on experiment 1", "gone has EDIT on experiment 1",
    ]  # fmt: skip
    assert json.loads(logins.GRANTED.read_text())["ana"] == [["experiment", "1"]]
    # what is made from then on belongs to its maker
    assert not [line for line in users(capsys, ana, bo, job) if "MANAGE" in line]


def test_a_list_that_did_not_arrive_changes_nobody(api: Api) -> None:
    with pytest.raises(Refused, match=r"^The users on the server were not changed\.$"):
        logins.users({}, "http://127.0.0.1:5000")
    assert api.changes == []


def test_what_the_server_refuses_is_said(api: Api, capsys: Capture) -> None:
    api.answers["delete"] = (500, "disk full")
    with pytest.raises(Refused, match=r"^DELETE 2\.0/mlflow/users/delete answered 500: disk full$"):
        users(capsys, ANA)


def test_a_server_without_an_answer(api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(*words: Any, **options: Any) -> None:
        raise requests.Timeout("read timed out")

    monkeypatch.setattr(requests, "request", request)
    message = r"^DELETE 2\.0/mlflow/users/delete had no answer in 60 s: read timed out\. Run this again\.$"
    with pytest.raises(Refused, match=message):
        users(capsys, ANA)
