"""The tracking server as its users and its host see it.

debian12 has the defaults: SQLite, a folder, no logins. debian13 has PostgreSQL, an S3 store that checks keys, logins.
"""

import json
import os
import pathlib
import re
import subprocess
import time
from typing import Any

import pytest
from testinfra.host import Host

SCENARIO = pathlib.Path(__file__).parents[1]

PYTHON = "/opt/mlflow/current/bin/python"

WRITE = """
import json, pathlib, tempfile
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.create_experiment("ratings")
run = client.create_run(experiment)
client.log_metric(run.info.run_id, "rmse", 0.875)
with tempfile.TemporaryDirectory() as folder:
    note = pathlib.Path(folder, "note.txt")
    note.write_text("five stars")
    client.log_artifact(run.info.run_id, str(note), "notes")
client.create_registered_model("recommender")
version = client.create_model_version("recommender", run.info.artifact_uri + "/notes", run.info.run_id)
client.set_registered_model_alias("recommender", "champion", version.version)
print(json.dumps({"run": run.info.run_id, "artifacts": run.info.artifact_uri}))
"""

READ = """
import json, pathlib, sys
from mlflow import MlflowClient
client = MlflowClient()
run = client.get_run(sys.argv[1])
champion = client.get_model_version_by_alias("recommender", "champion")
print(json.dumps({
    "rmse": run.data.metrics["rmse"],
    "note": pathlib.Path(client.download_artifacts(run.info.run_id, "notes/note.txt")).read_text(),
    "champion": [champion.version, champion.run_id],
}))
"""

GET = """
import sys, urllib.error, urllib.request
for name in sys.argv[2:]:
    try:
        request = urllib.request.Request(sys.argv[1], headers={"Host": name})
        print(urllib.request.urlopen(request, timeout=5).status)
    except urllib.error.HTTPError as error:
        print(error.status)
    except OSError:
        print(0)
"""

# says when it has begun
LOG = """
from mlflow import MlflowClient
client = MlflowClient()
run = client.create_run(client.create_experiment("busy")).info.run_id
step = 0
while True:
    client.log_metric(run, "step", step, step=step)
    step += 1
    if step == 3:
        open("/tmp/logging", "w").write("3")
"""

# one call, and what the server says to it
TRY = """
import json, sys
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
client = MlflowClient()
experiment = lambda name: client.get_experiment_by_name(name).experiment_id
calls = {
    "list": lambda: sorted(e.name for e in client.search_experiments()),
    "read": lambda: experiment("shared"),
    "write": lambda: client.create_run(experiment("shared")).info.run_id,
    "others": lambda: experiment("ratings"),
    "spoil": lambda: client.create_run(experiment("ratings")).info.run_id,
    "model": lambda: client.get_registered_model("recommender").name,
}
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = calls[name]()
    except MlflowException as error:
        found[name] = error.get_http_status_code() if error.error_code != "INTERNAL_ERROR" else str(error)
print(json.dumps(found))
"""

OBJECTS = """
import boto3, json
keys = json.load(open("/srv/s3.json"))
client = boto3.client("s3", endpoint_url="http://127.0.0.1:5055", region_name="us-east-1",
                      aws_access_key_id=keys["access_key"], aws_secret_access_key=keys["secret_key"])
for found in client.list_objects_v2(Bucket="models").get("Contents", []):
    print(found["Key"])
"""


def grand(host: Host) -> bool:
    """Whether this host has PostgreSQL, S3 and logins."""
    return bool(host.backend.get_hostname() == "debian13")


def login(host: Host, user: str) -> list[str]:
    """A user's login, as environment variables; none where there are no logins."""
    if not grand(host):
        return []
    file = "/etc/mlflow/admin.env" if user == "admin" else f"/etc/mlflow/users/{user}.env"
    words: list[str] = re.findall(r"^MLFLOW_TRACKING_\w+=.+$", host.file(file).content_string, re.M)
    assert len(words) == 2
    return words


def client(host: Host, script: str, *arguments: str, user: str = "trainer", login_by: list[str] | None = None) -> Any:
    """Run a script with MLflow's client as an account that may not touch the data; its JSON."""
    # the store of this test, which checks keys, does not know addresses that are signed for one download
    words = ["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false"] if grand(host) else []
    words += [*(login(host, user) if login_by is None else login_by), PYTHON, "-c", script, *arguments]
    run = host.run(
        "cd /tmp && runuser -u nobody -- env HOME=/tmp MLFLOW_TRACKING_URI=http://127.0.0.1:5000 "
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES=0 MLFLOW_DISABLE_TELEMETRY=true " + " ".join(["%s"] * len(words)),
        *words,
    )
    assert run.rc == 0, f"{run.stderr}\n{host.check_output('journalctl -u mlflow -n 40 --no-pager')}"
    return json.loads(run.stdout.splitlines()[-1])


def statuses(host: Host, path: str, *names: str) -> list[int]:
    """HTTP statuses of a path asked for under each host name; 0 where nothing answers."""
    url = f"http://127.0.0.1:5000{path}"
    command = "/usr/bin/python3 -c %s %s " + " ".join(["%s"] * len(names))
    return [int(word) for word in host.check_output(command, GET, url, *names).split()]


def unit(host: Host, name: str) -> str:
    """A property of the unit in force."""
    value: str = host.check_output("systemctl show mlflow.service --value --property=%s", name)
    return value


def artifacts(host: Host) -> str:
    """Names of all artifacts that are stored, where this host stores them, one a line."""
    if grand(host):
        stored: str = host.check_output("/opt/s3/bin/python -c %s", OBJECTS)
    else:
        stored = host.check_output("find /var/lib/mlflow/artifacts -type f -user mlflow")
    return stored


def role(host: Host, **variables: Any) -> subprocess.CompletedProcess[str]:
    """The scenario's play again, with other variables."""
    command = ["ansible-playbook", str(SCENARIO / "converge.yml"), "--limit", host.backend.get_hostname()]
    command += ["--inventory", str(pathlib.Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "../../molecule/hosts.py")]
    done = subprocess.run([*command, "--extra-vars", json.dumps(variables)], capture_output=True, text=True)
    print(done.stdout)
    return done


@pytest.fixture(scope="module")
def logged(host: Host) -> dict[str, object]:
    """Identifiers of a run with a metric and an artifact, registered as the champion."""
    identifiers: dict[str, object] = client(host, WRITE)
    return identifiers


def test_runs_at_boot(host: Host) -> None:
    service = host.service("mlflow")
    assert service.is_running
    assert service.is_enabled
    # which has the port before anybody can log in
    assert host.service("mlflow.socket").is_enabled


def test_listens_on_loopback_only(host: Host) -> None:
    listening = [line.split()[3] for line in host.check_output("ss -Hltn 'sport = :5000'").splitlines()]
    assert listening == ["127.0.0.1:5000"]


def test_runs_under_its_own_account(host: Host) -> None:
    group = "/sys/fs/cgroup/system.slice/mlflow.service/cgroup.procs"
    owners = host.check_output(f"stat -c %U $(sed s,^,/proc/, {group})").split()
    assert len(owners) >= 2
    assert set(owners) == {"mlflow"}
    assert host.user("mlflow").shell == "/usr/sbin/nologin"


def test_data_and_settings_are_private(host: Host) -> None:
    assert host.file("/var/lib/mlflow").mode == 0o750
    assert host.file("/etc/mlflow/mlflow.env").mode == 0o600
    private = ["/var/lib/mlflow", "/etc/mlflow", "/etc/mlflow/mlflow.env", "/opt/mlflow/artifacts.lock"]
    if grand(host):
        private += ["/etc/mlflow/admin.env", "/etc/mlflow/auth.ini", "/etc/mlflow/users/trainer.env"]
    else:
        private += ["/var/lib/mlflow/mlflow.db"]
    for path in private:
        assert host.file(path).exists
        assert host.run("runuser -u nobody -- sh -c 'ls $0/. || cat $0' %s", path).rc != 0, path
    # the server's own account reads no more than it needs
    assert host.run("runuser -u mlflow -- cat /etc/mlflow/mlflow.env").rc != 0


def test_artifacts_go_through_the_server(host: Host, logged: dict[str, object]) -> None:
    assert str(logged["artifacts"]).startswith("mlflow-artifacts:/")
    assert not str(logged["artifacts"]).startswith("mlflow-artifacts://")
    stored = [line for line in artifacts(host).splitlines() if line.endswith("/note.txt")]
    assert len(stored) == 1
    assert str(logged["run"]) in stored[0]
    assert stored[0].startswith("mlflow/" if grand(host) else "/var/lib/mlflow/artifacts/")


def test_nobody_can_send_the_others_logins_to_a_server_of_their_own(host: Host) -> None:
    script = """
import json
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
try:
    MlflowClient().create_experiment("elsewhere", "mlflow-artifacts://127.0.0.1:6000/1")
except MlflowException as error:
    print(json.dumps(error.error_code))
"""
    assert client(host, script) == "INVALID_PARAMETER_VALUE"


def test_a_client_reads_back_what_it_logged(host: Host, logged: dict[str, object]) -> None:
    assert client(host, READ, str(logged["run"])) == {
        "rmse": 0.875,
        "note": "five stars",
        "champion": ["1", logged["run"]],
    }


def test_answers_to_its_names_only(host: Host) -> None:
    known = [
        "localhost:5000",
        "localhost:15000",
        "127.0.0.1:5000",
        "mlflow.localhost:15000",
        "tracking.example",
        "tracking.example:443",
    ]
    foreign = ["attacker.example", "10.0.0.1:5000"]
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert statuses(host, path, *known, *foreign) == [401 if grand(host) else 200] * len(known) + [403] * len(foreign)


def test_its_own_pages_may_write_and_those_of_other_services_may_not(host: Host) -> None:
    ask = (
        "import http.client as h, sys\n"
        "for origin in sys.argv[1:]:\n"
        "    c = h.HTTPConnection('127.0.0.1', 5000, timeout=60)\n"
        "    headers = {'Origin': origin, 'Host': 'mlflow.localhost:15000', 'Content-Type': 'application/json'}\n"
        "    c.request('POST', '/ajax-api/2.0/mlflow/experiments/search', '{\"max_results\": 1}', headers)\n"
        "    print(c.getresponse().status)"
    )
    origins = ["http://mlflow.localhost:15000", "http://ana.localhost:8889"]
    said = host.check_output("/usr/bin/python3 -c %s %s %s", ask, *origins)
    assert said.split() == ["401" if grand(host) else "200", "403"]


def test_jobs_and_telemetry_are_off(host: Host) -> None:
    pid = unit(host, "MainPID")
    # root of a container may not read another account's environment; the account itself may
    environment = host.check_output("runuser -u mlflow -- cat /proc/%s/environ", pid).split("\0")
    assert {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"} <= set(environment)


def test_the_command_line_does_not_hold_the_database_address(host: Host) -> None:
    line = host.check_output("cat /proc/%s/cmdline", unit(host, "MainPID"))
    assert "mlflow" in line
    assert "sqlite:" not in line and "postgresql" not in line


def test_what_the_download_needs_is_in_no_command_line(host: Host) -> None:
    file = host.file("/etc/mlflow/download.env")
    assert (file.user, file.mode) == ("root", 0o600)
    if not grand(host):
        pytest.skip("nothing secret here")
    secret = "http://user:it's $HOME@index.example"
    assert host.file("/srv/given").content_string == secret
    seen = host.file("/srv/seen").content_string
    assert "uv.txt" in seen
    assert "index.example" not in seen and "DOWNLOAD_TEST" not in seen


def test_the_unit_is_confined(host: Host) -> None:
    assert unit(host, "MemoryMax") == str(2 * 1024**3)
    for name in ("mlflow.service", "mlflow-gc.service"):
        exposure = host.check_output("systemd-analyze security --no-pager %s", name).splitlines()[-1]
        assert "exposure level" in exposure
        assert float(exposure.split(":")[1].split()[0]) <= 1.5


def test_processes_have_the_further_groups_that_exist(host: Host) -> None:
    groups = ["users"] if grand(host) else []
    assert unit(host, "SupplementaryGroups").split() == groups
    processes = [unit(host, "MainPID")]
    if grand(host):
        processes.append(host.check_output("head -qn 1 /var/lib/postgresql/*/*/postmaster.pid"))
    number = host.check_output("getent group users | cut -d: -f3")
    for process in processes:
        has = host.check_output("sed -n 's/^Groups://p' /proc/%s/status", process).split()
        assert (number in has) == grand(host)


def test_comes_back_with_its_data_when_killed(host: Host, logged: dict[str, object]) -> None:
    before = unit(host, "MainPID")
    host.check_output("kill -9 %s", before)
    deadline = time.monotonic() + 90
    while unit(host, "MainPID") in ("0", before) or statuses(host, "/health", "localhost") != [200]:
        assert time.monotonic() < deadline, host.check_output("journalctl -u mlflow -n 40 --no-pager")
        time.sleep(0.5)
    assert client(host, READ, str(logged["run"]))["note"] == "five stars"


def test_what_was_deleted_long_ago_is_collected(host: Host, logged: dict[str, object]) -> None:
    script = """
import json, pathlib
from mlflow import MlflowClient
client = MlflowClient()
experiment, runs = client.create_experiment("collected"), []
for number in range(2):
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "old", "old.txt")
    client.delete_run(run.info.run_id)
    runs.append(run.info.run_id)
print(json.dumps(runs))
"""
    old, recent = client(host, script)
    query = f"UPDATE runs SET deleted_time = 1 WHERE run_uuid = '{old}'"
    if grand(host):
        host.check_output("cd / && runuser -u postgres -- psql -q -c %s mlflow", query)
    else:
        change = (
            "import sqlite3, sys; c = sqlite3.connect('/var/lib/mlflow/mlflow.db'); c.execute(sys.argv[1]); c.commit()"
        )
        host.check_output("cd / && runuser -u mlflow -- python3 -c %s %s", change, query)
    assert old in artifacts(host)
    timer = host.service("mlflow-gc.timer")
    assert timer.is_running and timer.is_enabled
    run = host.run("systemctl start mlflow-gc.service")
    assert run.rc == 0, host.check_output("journalctl -u mlflow-gc -n 40 --no-pager")
    stored = artifacts(host)
    assert old not in stored
    assert recent in stored and str(logged["run"]) in stored
    left = "import json, mlflow, sys; print(json.dumps(mlflow.MlflowClient().get_run(sys.argv[1]).info.run_id))"
    assert client(host, left, recent) == recent
    with pytest.raises(AssertionError, match=f"Run with id={old} not found"):
        client(host, left, old, user="admin")


def admin(host: Host, *words: str, rc: int = 0) -> str:
    """What mlflow-admin prints at the end; where it refuses, its sentence."""
    run = host.run("mlflow-admin" + " %s" * len(words), *words)
    assert run.rc == rc, f"{run.stdout}{run.stderr}"
    lines: list[str] = run.stdout.splitlines() or run.stderr.splitlines()
    return lines[-1]


def restarted(host: Host) -> None:
    host.check_output("systemctl start mlflow.service")
    deadline = time.monotonic() + 120
    while statuses(host, "/health", "localhost") != [200]:
        assert time.monotonic() < deadline, host.check_output("journalctl -u mlflow -n 40 --no-pager")
        time.sleep(0.5)


def test_a_copy_waits_for_what_others_change(host: Host, logged: dict[str, object]) -> None:
    host.check_output("rm -rf /srv/copy && install -d -o mlflow -m 700 /srv/copy")
    deadline = time.monotonic() + 60

    def until_held(name: str) -> None:
        while host.run(f"flock --nonblock /var/lib/others/{name}.lock true").rc == 0:
            assert time.monotonic() < deadline, host.check_output("journalctl -u saving --no-pager")
            time.sleep(0.2)

    host.check_output(
        "mkdir -p /var/lib/others && umask 077 && touch /var/lib/others/dev.lock /var/lib/others/prod.lock"
    )
    host.check_output("systemd-run --unit=promotion flock /var/lib/others/prod.lock sleep 600")
    until_held("prod")
    host.check_output("systemd-run --unit=saving --property=RemainAfterExit=yes mlflow-admin save /srv/copy")
    # the copy has the one, and waits for the other
    until_held("dev")
    assert host.file("/srv/copy").listdir() == []
    host.check_output("systemctl stop promotion.service")
    while "exited" not in host.check_output("systemctl show --property=SubState saving.service"):
        assert time.monotonic() < deadline, host.check_output("journalctl -u saving --no-pager")
        time.sleep(0.2)
    host.check_output("systemctl stop saving.service")
    assert host.file("/srv/copy/manifest.json").exists
    for name in ("dev", "prod"):
        file = host.file(f"/var/lib/others/{name}.lock")
        assert (file.mode & 0o77, file.content_string.split(",")[0]) == (0, "a copy of MLflow's database")
        assert host.run(f"flock --nonblock {file.path} true").rc == 0


def test_a_nice_caller_gets_a_nice_program(host: Host) -> None:
    host.check_output(
        "rm -rf /srv/held && mkdir /srv/held && mkfifo /srv/held/manifest.json && chmod -R a+rX /srv/held"
    )
    host.check_output("systemd-run --collect --unit=light --property=Nice=15 mlflow-admin verify /srv/held /srv/held")
    deadline, find = time.monotonic() + 60, "pgrep --full 'mlflow_admin[.]py verify /srv/held' --uid mlflow"
    while not (found := host.run(find).stdout.split()):
        assert time.monotonic() < deadline, host.check_output("journalctl -u light --no-pager")
        time.sleep(0.2)
    unit = host.check_output(f"ps -o unit= -p {found[0]}")
    assert host.check_output(f"systemctl show --property=Nice --property=CPUWeight {unit}").split() == [
        "CPUWeight=20",
        "Nice=15",
    ]
    host.check_output(f"systemctl stop {unit}; rm -r /srv/held")


def test_a_copy_is_verified_and_brings_everything_back(host: Host, logged: dict[str, object]) -> None:
    if grand(host):
        # as if the copy came from another server, whose admin had another password
        hashed = host.check_output(
            f"{PYTHON} -c 'from werkzeug.security import *; print(generate_password_hash(\"of-another-server\"))'"
        )
        change = f"UPDATE users SET password_hash = '{hashed}' WHERE username = 'admin'"
        host.check_output("cd / && runuser -u postgres -- psql -q -c %s mlflow", change)
    host.check_output("rm -rf /srv/copy /srv/restored && install -d -o mlflow -m 700 /srv/copy")
    # a client logs all the while
    host.check_output("rm -f /tmp/logging && touch /tmp/logging && chown nobody /tmp/logging")
    words = [*login(host, "trainer"), "MLFLOW_TRACKING_URI=http://127.0.0.1:5000", "HOME=/tmp", PYTHON, "-c", LOG]
    host.check_output("systemd-run --quiet --unit=logging --uid=nobody env" + " %s" * len(words), *words)
    deadline = time.monotonic() + 120
    while not host.file("/tmp/logging").size:
        assert time.monotonic() < deadline, host.check_output("journalctl -u logging --no-pager")
        time.sleep(0.2)
    saved = json.loads(admin(host, "save", "/srv/copy"))
    host.check_output("systemctl stop logging.service")
    assert saved["kind"] == ("postgresql" if grand(host) else "sqlite")
    assert saved["versions"] == 1 and saved["aliases"] == 1 and saved["rows"] > 10
    artifacts_of: list[str] = []
    if not grand(host):
        assert saved["files"] and not saved["without_artifacts"]
        host.check_output("cp -a /var/lib/mlflow/artifacts /srv/restored")
        artifacts_of = ["/srv/restored"]
    # what a client logs after it
    later = 'import mlflow; print(mlflow.MlflowClient().create_experiment("later"))'
    client(host, later)
    assert json.loads(admin(host, "verify", "/srv/copy", *artifacts_of)) == saved | {"faults": []}
    # a damaged copy is found, and not loaded
    file = f"/srv/copy/database.{'dump' if grand(host) else 'db'}"
    host.check_output(f"cp -a {file} /srv/whole && truncate -s -2000 {file}")
    faults = json.loads(admin(host, "verify", "/srv/copy", *artifacts_of, rc=1))["faults"]
    assert faults[0] == f"{file} is not the file that was saved."
    assert "mlflow.service is active: type systemctl stop mlflow, then" in admin(host, "load", "/srv/copy", rc=1)
    host.check_output("systemctl stop mlflow.service")
    try:
        assert admin(host, "load", "/srv/copy", rc=1) == f"{file} is not the file that was saved. Restore it again."
        host.check_output(f"mv /srv/whole {file}")
        for _ in range(2):
            loaded = json.loads(admin(host, "load", "/srv/copy"))
            assert loaded == saved | {"migrated": False, "set_aside": loaded["set_aside"]}
            assert host.file(loaded["set_aside"]).user == "mlflow"
    finally:
        restarted(host)
    assert client(host, READ, str(logged["run"])) == {
        "rmse": 0.875,
        "note": "five stars",
        "champion": ["1", logged["run"]],
    }
    assert "later" not in client(host, TRY, "list", user="admin")["list"]
    # identifiers go on, also where a sequence gives them
    assert client(host, later, user="admin")
    host.check_output("rm -r /srv/copy /srv/restored /var/lib/mlflow/backups 2>/dev/null || true")


def test_another_program_on_the_port_is_named_and_sent_no_password(host: Host, logged: dict[str, object]) -> None:
    host.check_output("systemctl stop mlflow.service")
    # nobody else gets the port, and who asks meanwhile starts nothing: the database may be about to be upgraded
    bind = "import socket, sys; socket.create_server((sys.argv[1], 5000), reuse_port=True)"
    for address in ("127.0.0.1", "0.0.0.0"):
        taken = host.run("runuser -u nobody -- python3 -c %s %s", bind, address)
        assert "Address already in use" in taken.stderr
    assert statuses(host, "/health", "localhost") == [0]
    assert unit(host, "ActiveState") == "inactive"
    host.check_output("systemctl stop mlflow.socket")
    # anybody's program, and it answers
    other = "systemd-run --quiet --unit=other --uid=nobody --property=WorkingDirectory=/tmp"
    host.check_output(f"{other} /usr/bin/python3 -m http.server --bind 127.0.0.1 5000")
    try:
        done = role(host)
        assert done.returncode
        said = " ".join(done.stdout.split())
        assert re.search(r"Port 5000 of \w+ is taken by .*/other\.service\. Stop that program", said)
        if grand(host):
            # without the port neither the server starts nor what would send its password, which looks for itself
            assert host.run("systemctl restart mlflow.service").rc
            assert host.run("systemctl start mlflow-gc.service").rc
            look = "sed -n s/^ExecStartPre=+//p /etc/systemd/system/mlflow-gc.service | sh"
            assert "It is not mlflow.service that listens" in host.run(look).stderr
        assert "HTTP/1" not in host.check_output("journalctl -u other -o cat")
    finally:
        host.check_output("systemctl stop other.service && systemctl start mlflow.service")
    assert role(host).returncode == 0
    assert client(host, READ, str(logged["run"]))["note"] == "five stars"


def test_root_gives_nothing_away_behind_a_link_of_the_account(host: Host) -> None:
    if grand(host):
        pytest.skip("no folder below the account's own here")
    before = host.check_output("stat -c '%U %a %Z' /etc")
    lay = "cd /var/lib/mlflow && mv artifacts kept && ln -s /etc artifacts"
    host.check_output("runuser -u mlflow -- sh -c %s", lay)
    try:
        done = role(host)
    finally:
        host.check_output("cd /var/lib/mlflow && rm artifacts && mv kept artifacts")
    assert done.returncode
    said = " ".join(done.stdout.split())
    assert "/var/lib/mlflow/artifacts is a link to /etc, which others than root can have laid." in said
    assert "sudo rm /var/lib/mlflow/artifacts" in said
    assert host.check_output("stat -c '%U %a %Z' /etc") == before


def test_users_do_what_they_may_and_no_more(host: Host, logged: dict[str, object]) -> None:
    if not grand(host):
        pytest.skip("no logins here")
    refused = 403
    reader = client(host, TRY, "list", "read", "write", "others", "model", user="reader")
    assert reader["list"] == ["shared"] and reader["read"].isdigit()
    assert (reader["write"], reader["others"]) == (refused, refused)
    assert len(client(host, TRY, "write", user="trainer")["write"]) == 32
    assert "ratings" in client(host, TRY, "list", user="chief")["list"]
    # who may read all, and change one thing
    member = client(host, TRY, "list", "write", "others", "spoil", "model", user="member")
    assert "ratings" in member["list"] and len(member["write"]) == 32 and member["others"].isdigit()
    assert (member["spoil"], member["model"]) == (refused, "recommender")
    assert login(host, "reader")[1] == "MLFLOW_TRACKING_PASSWORD=given-by-the-operator"
    for wrong in ([], ["MLFLOW_TRACKING_USERNAME=reader", "MLFLOW_TRACKING_PASSWORD=given-by-nobody-at-all"]):
        assert client(host, TRY, "list", login_by=wrong)["list"] == 401
    # an account that acts as a user needs to say nothing
    command = "cd /home/ana && runuser -u ana -- env HOME=/home/ana MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
    command += " %s -c %s write"
    assert len(json.loads(host.check_output(command, PYTHON, TRY).splitlines()[-1])["write"]) == 32


def test_users_are_those_that_are_listed(host: Host, logged: dict[str, object]) -> None:
    if not grand(host):
        pytest.skip("no logins here")
    removed, before = login(host, "chief"), unit(host, "MainPID")
    # in the server's cache
    assert client(host, TRY, "list", login_by=removed)["list"]
    users = [{"name": "trainer"}, {"name": "reader", "permissions": [{"experiment": "shared", "permission": "EDIT"}]}]
    assert role(host, mlflow_server_users=users).returncode == 0
    assert client(host, TRY, "list", login_by=removed)["list"] == 401
    assert not host.file("/etc/mlflow/users/chief.env").exists
    # what was given is taken back, what a user has made stays the user's
    assert client(host, TRY, "list", user="trainer")["list"] == ["busy", "collected", "ratings"]
    assert len(client(host, TRY, "write", user="reader")["write"]) == 32
    assert unit(host, "MainPID") == before


def test_wrong_keys_of_the_store_leave_the_server_alone(host: Host) -> None:
    if not grand(host):
        pytest.skip("no store here")
    before = unit(host, "MainPID")
    keys = json.loads(host.file("/srv/s3.json").content_string)
    store = {"bucket": "models/mlflow", "endpoint": "http://127.0.0.1:5055", "access_key": keys["access_key"]}
    run = role(host, mlflow_server_s3=store | {"secret_key": "mistyped"})
    assert run.returncode
    assert "mlflow_server_s3: s3://models/mlflow at http://127.0.0.1:5055 cannot be written" in " ".join(
        run.stdout.split()
    )
    assert unit(host, "MainPID") == before
    assert keys["secret_key"] in host.file("/etc/mlflow/mlflow.env").content_string


def tool(host: Host, verb: str, wanted: dict[str, Any], environment: str = "") -> Any:
    """What a verb of the role's tool does with a JSON given to it, run by root."""
    command = f"cd / && printf %%s %s | timeout 120 env {environment} {PYTHON} /opt/mlflow/mlflow_admin.py {verb}"
    return host.run(command, json.dumps(wanted))


def test_an_account_that_cannot_be_given_its_login_stops_no_other(host: Host) -> None:
    if not grand(host):
        pytest.skip("no logins here")
    file = "/home/ana/.mlflow/credentials"
    host.check_output(f"mv {file} {file}.kept && mkfifo {file} && chown ana {file}")
    run = tool(
        host, "credentials", {"folder": "/run/logins", "users": [{"name": "trainer", "accounts": ["ana", "root"]}]}
    )
    host.check_output(f"rm {file} && mv {file}.kept {file}")
    assert run.rc == 1
    assert run.stderr.strip() == "~ana/.mlflow/credentials cannot be written: it is no regular file"
    assert json.loads(run.stdout)["changes"] == ["wrote /run/logins/trainer.env", "wrote ~root/.mlflow/credentials"]
    host.check_output("rm -r /run/logins /root/.mlflow")


def test_a_store_that_fails_during_a_move_is_said(host: Host) -> None:
    host.check_output("mkdir -p /run/artifacts && echo five stars >/run/artifacts/note.txt")
    uri = "sqlite:////run/none.db"
    new = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": "s3://models"}
    new |= {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    before = f"MLFLOW_BACKEND_STORE_URI={uri} MLFLOW_ARTIFACTS_DESTINATION=/run/artifacts"
    run = tool(host, "move", {"settings": new | {"AWS_DEFAULT_REGION": "us-east-1"}}, before)
    assert run.rc == 1
    assert run.stderr.startswith("The artifacts of /run/artifacts could not be sent to s3://models: ")
    assert run.stderr.strip().endswith("Nothing was moved; run this again.")
