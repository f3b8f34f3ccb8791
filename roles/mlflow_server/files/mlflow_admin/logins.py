"""The server's users, and where their passwords are kept."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from .store import URI, Refused, connect, write

# what earlier runs gave, lest it be taken for what a user has made
GRANTED = pathlib.Path("/var/lib/mlflow/granted.json")
PASSWORD = r"[A-Za-z0-9._~@+=:,/-]{12,128}"
USERS = sa.table("users", sa.column("username"), sa.column("is_admin"), sa.column("password_hash"))
# kinds of a permission, as mlflow_server_users and as MLflow call them
RESOURCES = {"experiment": "experiment", "model": "registered_model"}


def check_users(users: list[Any]) -> None:
    """Whether mlflow_server_users says what can be done.

    Raises:
        Refused: at the first entry that does not.
    """
    names = [user.get("name") if isinstance(user, dict) else user for user in users]
    for user, name in zip(users, names, strict=True):
        what = f"mlflow_server_users: {name}"
        named = name is not None and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}", str(name))
        if not isinstance(user, dict) or not named:
            raise Refused(f"{what} is no user: give a name of letters, digits and ._@-")
        if name == "admin" or names.count(name) > 1:
            raise Refused(
                f"{what} stands {'for the account that the role makes itself' if name == 'admin' else 'twice'}: take"
                " one out."
            )
        unknown = set(user) - {"name", "password", "admin", "permissions", "accounts"}
        if unknown:
            raise Refused(
                f"{what} has {', '.join(sorted(unknown))}: an entry has name, password, admin, permissions and"
                " accounts."
            )
        if "password" in user and not re.fullmatch(PASSWORD, str(user["password"])):
            raise Refused(
                f"{what}: give a password of 12 to 128 letters, digits and ._~@+=:,/- or none, and one is made on"
                " the host."
            )
        if not isinstance(user.get("admin", False), bool):
            raise Refused(f"{what}: admin is true or false.")
        for account in user.get("accounts", []):
            try:
                home = pathlib.Path(pwd.getpwnam(account).pw_dir)
            except KeyError:
                home = pathlib.Path("/nonexistent")
            if not home.is_dir():
                raise Refused(
                    f"{what}: {account} is not an account with a home here. Make it (those of people are made by"
                    " site.yml --tags access), or take it out of accounts."
                )
        for grant in user.get("permissions", []):
            kinds = set(grant) & set(RESOURCES) if isinstance(grant, dict) else set()
            if (
                len(kinds) != 1
                or set(grant) != kinds | {"permission"}
                or grant["permission"] not in ("READ", "USE", "EDIT", "MANAGE", "DENY")
            ):
                raise Refused(
                    f"{what}: {json.dumps(grant)} is no permission: give {{experiment: NAME, permission: …}} or"
                    f" {{model: NAME, permission: …}}"
                    " with READ, USE, EDIT, MANAGE or DENY; the name * stands for all."
                )


def credentials(wanted: dict[str, Any]) -> None:
    """Makes passwords that are not there, keeps each user's in a file for root, gives it to the user's accounts.

    Run by root. Prints what `users` takes: the users with their passwords, and what changed.

    Args:
        wanted: users, and the folder of their files.

    Raises:
        Refused: at the end of all, for the accounts whose file could not be written.
    """
    folder = pathlib.Path(wanted["folder"])
    changes: list[str] = []
    complete: list[dict[str, Any]] = []
    failed: list[str] = []
    folder.mkdir(mode=0o700, exist_ok=True)
    for user in wanted["users"]:
        file = folder / f"{user['name']}.env"
        text = file.read_text() if file.exists() else ""
        kept = re.search(rf"^MLFLOW_TRACKING_PASSWORD=({PASSWORD})$", text, re.M)
        password = user.get("password") or (kept and kept[1]) or secrets.token_urlsafe(24)
        if write(file, f"MLFLOW_TRACKING_USERNAME={user['name']}\nMLFLOW_TRACKING_PASSWORD={password}\n"):
            changes.append(f"wrote {file}")
        ini = f"[mlflow]\nmlflow_tracking_username = {user['name']}\nmlflow_tracking_password = {password}\n"
        for account in user.get("accounts", []):
            # as the account itself: in its home, root could be led elsewhere by a link
            script = (
                "cd && umask 077 && mkdir -p .mlflow && cd .mlflow && new=$(cat) && "
                "if test -e credentials && ! test -f credentials; then echo it is no regular file >&2; exit 1; fi && "
                'if test "$new" != "$(cat credentials 2>/dev/null)"; then '
                'printf "%s\\n" "$new" >credentials.new && mv credentials.new credentials && echo wrote; fi'
            )
            command = [
                "timeout",
                "30",
                "runuser",
                "-u",
                account,
                "--",
                "env",
                f"HOME={pwd.getpwnam(account).pw_dir}",
                "sh",
                "-c",
                script,
            ]
            written = subprocess.run(command, input=ini, text=True, capture_output=True)
            if written.returncode:
                why = written.stderr.strip() or (
                    "no answer for 30 s" if written.returncode == 124 else "no reason given"
                )
                failed.append(f"~{account}/.mlflow/credentials cannot be written: {why}")
            changes += [f"wrote ~{account}/.mlflow/credentials"] if written.stdout else []
        complete.append(user | {"password": password})
    for file in set(folder.glob("*.env")) - {folder / f"{user['name']}.env" for user in wanted["users"]}:
        file.unlink()
        changes.append(f"removed {file}")
    json.dump({"users": complete, "changes": changes}, sys.stdout)
    if failed:
        raise Refused("\n".join(failed))


def renew_admin(connection: sa.Connection) -> bool:
    """Makes the database's admin the one of this host's file; false where it is already, or there is none."""
    from werkzeug.security import check_password_hash, generate_password_hash

    name, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    known = connection.scalar(sa.select(USERS.c.password_hash).where(USERS.c.username == name))
    if known is None or check_password_hash(known, password):
        return False
    changed = USERS.update().where(USERS.c.username == name)
    connection.execute(changed.values(password_hash=generate_password_hash(password), is_admin=True))
    return True


def users(wanted: dict[str, Any], address: str) -> None:
    """Makes the server's users those that are wanted, through its API so that its cache learns of it.

    Prints what changed. Permissions that a user has by having made something stay; those that an earlier run gave and
    that are no longer wanted go. The run that gives people their first logins leaves them what there is: whoever may
    change something by the list keeps MANAGE of each experiment and model, as if that user had made it.

    Args:
        wanted: what `credentials` prints.
        address: of the server.
    """
    import requests
    from werkzeug.security import check_password_hash

    if not wanted:
        raise Refused("The users on the server were not changed.")
    changes = list(wanted["changes"])
    admin = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    with connect(os.environ[URI]).begin() as connection:
        present = {row.username: row for row in connection.execute(sa.select(USERS))}
        if renew_admin(connection):
            changes.append("password of admin")

    def ask(method: str, path: str, expected: tuple[int, ...] = (200, 204), **content: Any) -> Any:
        """What the server answers an admin's request."""
        try:
            answer = requests.request(method, f"{address}/api/{path}", auth=admin, timeout=60, **content)
        except requests.RequestException as error:
            raise Refused(f"{method} {path} had no answer in 60 s: {error}. Run this again.") from None
        if answer.status_code not in expected:
            raise Refused(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer

    def identifier(kind: str, name: str) -> str:
        """What MLflow's permissions call a thing; an experiment that is not there is made, to have one."""
        if kind == "model" or name == "*":
            return name
        found = ask("GET", "2.0/mlflow/experiments/get-by-name", (200, 404), params={"experiment_name": name})
        if found.status_code == 404:
            found = ask("POST", "2.0/mlflow/experiments/create", json={"name": name})
            changes.append(f"experiment {name}")
            return str(found.json()["experiment_id"])
        return str(found.json()["experiment"]["experiment_id"])

    def pages(method: str, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Entries of an answer that comes in pages."""
        page: dict[str, Any] | None = {"max_results": 1000}
        while page:
            content: dict[str, Any] = {"params" if method == "GET" else "json": page}
            found = ask(method, path, **content).json()
            yield from found.get(key, [])
            token = found.get("next_page_token")
            page = page | {"page_token": token} if token else None

    def existing() -> Iterator[tuple[str, str]]:
        """Experiments and models, as permissions call them; Default, which MLflow makes, if it has a run."""
        for experiment in pages("POST", "2.0/mlflow/experiments/search", "experiments"):
            number = str(experiment["experiment_id"])
            runs = {"experiment_ids": [number], "max_results": 1}
            if number != "0" or ask("POST", "2.0/mlflow/runs/search", json=runs).json().get("runs"):
                yield "experiment", number
        for model in pages("GET", "2.0/mlflow/registered-models/search", "registered_models"):
            yield "registered_model", model["name"]

    for name in present.keys() - {admin[0]} - {user["name"] for user in wanted["users"]}:
        ask("DELETE", "2.0/mlflow/users/delete", json={"username": name})
        changes.append(f"removed {name}")
    granted = json.loads(GRANTED.read_text()) if GRANTED.exists() else {}
    given: dict[str, list[list[str]]] = {}
    people = {user["name"] for user in wanted["users"] if user.get("accounts")}
    # GRANTED is written last: an interrupted run is the first again
    left = list(existing()) if people and not people & granted.keys() else []
    for user in wanted["users"]:
        name, password = user["name"], user["password"]
        if name not in present:
            ask("POST", "2.0/mlflow/users/create", json={"username": name, "password": password})
            changes.append(f"made {name}")
        elif not check_password_hash(present[name].password_hash, password):
            ask("PATCH", "2.0/mlflow/users/update-password", json={"username": name, "password": password})
            changes.append(f"password of {name}")
        is_admin = bool(name in present and present[name].is_admin)
        if is_admin != user.get("admin", False):
            ask("PATCH", "2.0/mlflow/users/update-admin", json={"username": name, "is_admin": not is_admin})
            changes.append(f"{name} is {'no longer ' if is_admin else ''}admin")
        wants = {}
        for grant in user.get("permissions", []):
            kind = next(iter(set(grant) & set(RESOURCES)))
            wants[RESOURCES[kind], identifier(kind, grant[kind])] = grant["permission"]
        listed = ask("GET", "3.0/mlflow/users/permissions/list", params={"username": name}).json()["permissions"]
        has = {(item["resource_type"], item["resource_pattern"]): item["permission"] for item in listed}
        earlier = {(kind, pattern) for kind, pattern in granted.get(name, [])}
        for kind, pattern in (earlier & has.keys() - wants.keys()) | {
            key for key, value in wants.items() if has.get(key, value) != value
        }:
            ask(
                "POST",
                "3.0/mlflow/users/permissions/revoke",
                json={"username": name, "resource_type": kind, "resource_id": pattern},
            )
            changes.append(f"{name} lost {has.pop((kind, pattern))} on {kind} {pattern}")
        given[name] = [list(key) for key in wants]
        if name in people and {"EDIT", "MANAGE"} & set(wants.values()):
            wants = dict.fromkeys(left, "MANAGE") | has | wants
        for (kind, pattern), permission in wants.items():
            if has.get((kind, pattern)) != permission:
                content = {"username": name, "resource_type": kind, "resource_id": pattern, "permission": permission}
                ask("POST", "3.0/mlflow/users/permissions/grant", json=content)
                changes.append(f"{name} has {permission} on {kind} {pattern}")
    write(GRANTED, json.dumps(given, sort_keys=True))
    print("\n".join(changes))
