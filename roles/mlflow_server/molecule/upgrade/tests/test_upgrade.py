"""Upgrades and moves of a server that holds one of everything, and what goes wrong on the way.

Two real versions of MLflow and of PostgreSQL, and all that a client can read compared one by one. The tests go on
from each other's state, in their order.
"""

import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from testinfra.host import Host

PROJECT = pathlib.Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = pathlib.Path(__file__).parents[1]
OLD = {"mlflow_server_requirements": str(SCENARIO / "mlflow-3.10.txt")}
POSTGRESQL = {"mlflow_server_backend": "postgresql"}
MOVE = POSTGRESQL | {"mlflow_server_switch": "move"}
VERSION = re.findall(r"==(\S+)", (PROJECT / "files/requirements.in").read_text())[0]
DATABASE = "/var/lib/mlflow/mlflow.db"
# what says that an upgrade of PostgreSQL is under way, and the unit that a run gives it
STATE = "/etc/mlflow/postgresql"
MAJOR = POSTGRESQL | {"mlflow_server_postgresql_upgrade": True}
UPGRADE = (
    "systemd-run --quiet --wait --pipe --collect --unit=mlflow-postgresql --property=TimeoutStopSec=infinity"
    " --property='ExecStopPost=/bin/bash /opt/mlflow/postgresql.sh back' bash /opt/mlflow/postgresql.sh upgrade"
)
# pg_restore does not find the function's table, whose schema pg_dump does not write into it
UNRESTORABLE = """
    CREATE TABLE films (id int); INSERT INTO films VALUES (1);
    CREATE FUNCTION known(int) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM films WHERE id = $1)';
    CREATE TABLE ratings (film int CONSTRAINT known CHECK (known(film))); INSERT INTO ratings VALUES (1)
"""
# what a client reads; a new version may say more, and none of what was there otherwise
Dump = dict[str, Any]
READ: list[Dump] = []


@dataclass
class Run:
    """What came of a run of the role."""

    ok: bool
    changed: int
    output: str


Role = Callable[..., Run]


def command(host: Host, variables: dict[str, Any], playbook: pathlib.Path = SCENARIO / "role.yml") -> list[str]:
    words = ["ansible-playbook", str(playbook), "--limit", host.backend.get_hostname()]
    words += ["--inventory", str(PROJECT / "../../molecule/hosts.py"), "--inventory", str(SCENARIO / "groups.ini")]
    return [*words, "--extra-vars", json.dumps(variables)]


@pytest.fixture(scope="module")
def role(host: Host) -> Role:
    """Runs the role with variables."""

    def run(variables: dict[str, Any], *playbook: pathlib.Path) -> Run:
        words = command(host, variables, *playbook)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout)
        found = re.search(r"changed=(\d+)", done.stdout)
        return Run(done.returncode == 0, int(found[1]) if found else -1, " ".join(done.stdout.split()))

    return run


@pytest.fixture
def same_server(host: Host) -> Iterator[None]:
    """The test must leave the server alone that ran before it."""
    before = pid(host)
    assert before != "0"
    yield
    assert pid(host) == before


def pid(host: Host) -> str:
    value: str = host.check_output("systemctl show mlflow.service --value --property=MainPID")
    return value


def version(host: Host) -> str:
    script = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5000/version').read().decode())"
    deadline = time.monotonic() + 120
    while (answer := host.run("python3 -c %s", script)).rc:
        assert time.monotonic() < deadline, host.check_output("journalctl -u mlflow -n 40 --no-pager")
        time.sleep(1)
    value: str = answer.stdout.strip()
    return value


def client(host: Host, name: str) -> str:
    """Output of a program of this folder, run with MLflow's client by an account that may not touch the data."""
    host.check_output("python3 -c %s", f"open('/tmp/{name}', 'w').write({(PROJECT / 'molecule' / name).read_text()!r})")
    host.check_output(f"chmod 644 /tmp/{name}")
    run = host.run(
        f"cd /tmp && runuser -u nobody -- env HOME=/tmp MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
        " MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false"
        f" /opt/mlflow/current/bin/python /tmp/{name}"
    )
    assert run.rc == 0, f"{run.stderr}\n{host.check_output('journalctl -u mlflow -n 40 --no-pager')}"
    output: str = run.stdout
    return output


def dump(host: Host) -> Dump:
    found: Dump = json.loads(client(host, "dump.py").splitlines()[-1])
    READ[:] = [found]
    return found


def read_before(host: Host) -> Dump:
    """What was read last: nothing was logged since, also not by a test between."""
    return READ[0] if READ else dump(host)


def sql(host: Host, query: str) -> str:
    value: str = host.check_output("cd / && runuser -u postgres -- psql -qtA -c %s mlflow", query)
    return value


def clusters(host: Host) -> list[list[str]]:
    """Version, name, port and state of each cluster of PostgreSQL."""
    return [line.split()[:4] for line in host.check_output("pg_lsclusters --no-header").splitlines()]


def saved(host: Host) -> dict[str, Any]:
    """What is said of a copy as the role backup makes and tries it."""
    host.check_output("install -d -o mlflow /var/tmp/copy && mlflow-admin save /var/tmp/copy")
    found: dict[str, Any] = json.loads(host.run("mlflow-admin verify /var/tmp/copy /var/lib/mlflow/artifacts").stdout)
    return found


def sqlite(host: Host, query: str) -> None:
    script = f"import sqlite3; c = sqlite3.connect({DATABASE!r}); c.execute({query!r}); c.commit()"
    host.check_output("cd / && runuser -u mlflow -- python3 -c %s", script)


@pytest.fixture(scope="module")
def logged(host: Host, role: Role) -> Dump:
    """A server of the old version, filled; what a client reads from it."""
    assert role(OLD).ok
    assert version(host) == "3.10.0"
    client(host, "fill.py")
    found = dump(host)
    kinds = [name.split()[0] for name in found]
    least = {
        "experiment": 4,
        "run": 4,
        "metric": 6,
        "input": 3,
        "artifact": 3,
        "logged": 1,
        "registered": 2,
        "version": 3,
    }
    assert {kind: kinds.count(kind) for kind in least} == least
    return found


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"mlflow_server_backend": "postgresql://m:hidden@127.0.0.1:1/m"},
            "mlflow_server_backend postgresql+psycopg://m:***@",
        ),
        ({"mlflow_server_backend": "postgres"}, 'mlflow_server_backend is "postgres"'),
        ({"mlflow_server_backend_store_uri": "sqlite:////var/lib/mlflow/mlflow.db"}, "is now mlflow_server_backend"),
        ({"mlflow_server_gc_schedule": "sometimes"}, "mlflow_server_gc_schedule is no time"),
        (
            {
                "mlflow_server_s3": {
                    "bucket": "models",
                    "endpoint": "http://127.0.0.1:1",
                    "access_key": "a",
                    "secret_key": "hidden",
                }
            },
            "mlflow_server_s3: s3://models at http://127.0.0.1:1 cannot be written",
        ),
    ],
    ids=["unreachable", "misspelt", "renamed", "schedule", "store"],
)
def test_bad_settings_leave_the_server_alone(
    host: Host, role: Role, logged: Dump, same_server: None, variables: dict[str, Any], message: str
) -> None:
    files = host.check_output("sha256sum /etc/mlflow/mlflow.env /etc/systemd/system/mlflow.service")
    run = role(OLD | variables)
    assert not run.ok
    assert message in run.output
    assert "hidden@" not in run.output
    assert host.check_output("sha256sum /etc/mlflow/mlflow.env /etc/systemd/system/mlflow.service") == files


def test_no_room_for_the_copy_leaves_the_server_alone(host: Host, role: Role, logged: Dump, same_server: None) -> None:
    host.check_output("install -d -o mlflow /var/lib/mlflow/backups")
    host.check_output("mount -t tmpfs -o size=1m tmpfs /var/lib/mlflow/backups")
    try:
        run = role({})
    finally:
        host.check_output("umount /var/lib/mlflow/backups")
    assert not run.ok
    assert "Make room, for instance by removing old copies from /var/lib/mlflow/backups" in run.output
    assert version(host) == "3.10.0"


def test_an_upgrade_that_is_cut_off_and_then_fails_goes_back(host: Host, role: Role, logged: Dump) -> None:
    # as when the power fails during the migration: neither the run nor its unit can take anything back
    upgrading = subprocess.Popen(command(host, {}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while host.run("cd /etc/mlflow/before && test -e migrating && mv back away").rc:
        assert time.monotonic() < deadline and upgrading.poll() is None
        time.sleep(0.2)
    upgrading.kill()
    upgrading.wait()
    host.check_output("systemctl kill --signal=KILL mlflow-upgrade.service")
    while host.run("systemctl show --value --property=ActiveState mlflow-upgrade").stdout.strip() in (
        "active",
        "deactivating",
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    host.check_output("mv /etc/mlflow/before/away /etc/mlflow/before/back")
    python = host.check_output("sed -n s/^python=//p /etc/mlflow/before/back")
    unit = "systemd-run --wait --collect --uid=mlflow --property=EnvironmentFile=/etc/mlflow/mlflow.env"
    host.check_output(f"{unit} {python} /opt/mlflow/mlflow_admin.py migrate")
    assert host.run("systemctl is-active mlflow.service").stdout.strip() == "inactive"

    # the new server starts on the migrated database, and is given no time to answer
    run = role({"mlflow_server_start_timeout": 1})
    assert not run.ok
    assert "are as they were before" in run.output
    assert len(host.file("/var/lib/mlflow/backups").listdir()) == 2
    assert not host.file("/etc/mlflow/before").exists
    assert version(host) == "3.10.0"
    assert dump(host) == logged


def test_an_upgrade_loses_nothing(host: Host, role: Role, logged: Dump) -> None:
    assert role({}).ok
    assert version(host) == VERSION
    assert dump(host) == logged
    assert role({}).changed == 0


def test_an_older_version_is_refused(role: Role, logged: Dump, same_server: None) -> None:
    run = role(OLD)
    assert not run.ok
    assert "is of a newer MLflow" in run.output


def test_another_backend_is_refused_while_this_one_holds_data(
    host: Host, role: Role, logged: Dump, same_server: None
) -> None:
    run = role(POSTGRESQL)
    assert not run.ok
    assert "playbooks/migrate_tracking.yml" in run.output
    assert re.search(r"Move it by ansible-playbook playbooks/migrate_tracking\.yml -i \S+/hosts\.py -i \S+", run.output)
    assert "--limit debian13" in run.output and "Nothing was changed" in run.output
    assert run.changed == 0
    assert not host.package("postgresql").is_installed


def test_a_row_that_cannot_be_kept_leaves_sqlite_in_force(host: Host, role: Role, logged: Dump) -> None:
    sqlite(host, "UPDATE registered_models SET description = 'a' || char(0) || 'b' WHERE name LIKE 'staging%'")
    run = role(MOVE)
    assert not run.ok
    assert "Table registered_models cannot be copied" in run.output
    assert sql(host, "SELECT count(*) FROM runs") == "0"
    sqlite(host, "UPDATE registered_models SET description = '' WHERE name LIKE 'staging%'")
    version(host)
    assert dump(host).keys() == logged.keys()


def test_a_move_that_is_killed_leaves_sqlite_in_force(host: Host, role: Role, logged: Dump) -> None:
    lock = "systemd-run --unit=lock --uid=postgres psql mlflow -c 'BEGIN; LOCK runs; SELECT pg_sleep(600)'"
    host.check_output(lock)
    moving = subprocess.Popen(command(host, MOVE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    deadline = time.monotonic() + 180
    while sql(host, waiting) == "0":
        assert time.monotonic() < deadline and moving.poll() is None
        time.sleep(1)
    assert pid(host) == "0"
    host.check_output("systemctl kill --signal=KILL mlflow-move.service")
    output, _ = moving.communicate()
    sql(
        host,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK runs%'",
    )
    assert moving.returncode
    assert "goes on with the database and the artifacts that it had" in " ".join(output.split())
    assert version(host) == VERSION
    assert sql(host, "SELECT count(*) FROM runs") == "0"
    assert dump(host).keys() == logged.keys()


def test_the_move_to_postgresql_loses_nothing(host: Host, role: Role, logged: Dump) -> None:
    before = read_before(host)
    assert role(POSTGRESQL, PROJECT / "../../playbooks/migrate_tracking.yml").ok
    assert dump(host) == before
    assert host.file(DATABASE).exists
    assert host.run("grep -c sqlite /etc/mlflow/mlflow.env").stdout.strip() == "0"
    assert role(POSTGRESQL).changed == 0
    # identifiers go on where they were
    client(host, "more.py")
    assert {name: value for name, value in dump(host).items() if name in before} == before


def test_it_outlives_a_restart_of_postgresql(host: Host, logged: Dump, same_server: None) -> None:
    host.check_output("systemctl restart postgresql@15-main.service")
    assert dump(host).keys() >= logged.keys()


def test_the_way_back_to_sqlite_loses_nothing(host: Host, logged: Dump, same_server: None) -> None:
    new = {"MLFLOW_BACKEND_STORE_URI": "sqlite:////var/lib/mlflow/back.db"}
    new["MLFLOW_ARTIFACTS_DESTINATION"] = "/var/lib/mlflow/artifacts"
    wanted = json.dumps({"settings": new, "switch": "move", "upgrade": False, "command": "nothing"})
    tool = "systemd-run --quiet --wait --pipe --collect --uid=mlflow --property=EnvironmentFile=/etc/mlflow/mlflow.env"
    tool += " /opt/mlflow/current/bin/python /opt/mlflow/mlflow_admin.py"
    assert host.check_output(f"{tool} switch %s", wanted).strip() == "move"
    assert re.search(r"compared: \d{3,} rows of \d+ tables", host.check_output(f"printf %%s %s | {tool} move", wanted))
    read = """
import json, mlflow
client = mlflow.MlflowClient("sqlite:////var/lib/mlflow/back.db")
known = [experiment.experiment_id for experiment in client.search_experiments()]
model = client.get_registered_model("dev.movie-recommender")
run = client.get_model_version_by_alias(model.name, "champion").run_id
aliases = {name: int(number) for name, number in model.aliases.items()}
print(json.dumps([len(known), aliases, client.get_run(run).data.params["factors"],
                  len(client.get_metric_history(run, "rmse")), client.create_experiment("new") not in known]))
"""
    command = "cd / && runuser -u mlflow -- env HOME=/var/lib/mlflow MLFLOW_DISABLE_TELEMETRY=true"
    found = json.loads(host.check_output(f"{command} /opt/mlflow/current/bin/python -c %s", read).splitlines()[-1])
    assert found == [4, {"champion": 3, "previous": 2}, "40", 250, True]
    # a second time it is in the way
    again = host.run(f"printf %%s %s | {tool} move", wanted)
    assert again.rc == 1 and "sudo mv /var/lib/mlflow/back.db /var/lib/mlflow/back.db.old" in again.stderr
    host.check_output("rm /var/lib/mlflow/back.db")


def test_a_failed_upgrade_puts_postgresql_back(host: Host, role: Role, logged: Dump, tmp_path: pathlib.Path) -> None:
    before, table = read_before(host), sql(host, "SELECT 'runs'::regclass::oid")
    lock = tmp_path / "requirements.txt"
    lock.write_text((PROJECT / "files/requirements.txt").read_text() + "# another lock\n")
    run = role(POSTGRESQL | {"mlflow_server_requirements": str(lock), "mlflow_server_start_timeout": 1})
    assert not run.ok
    assert "are as they were before" in run.output
    assert version(host) == VERSION
    assert dump(host) == before
    # pg_restore has made the tables anew
    assert sql(host, "SELECT 'runs'::regclass::oid") != table


def test_an_older_postgresql_is_told_and_left(host: Host, role: Role, logged: Dump, same_server: None) -> None:
    run = role(POSTGRESQL)
    assert run.ok and run.changed == 0
    assert "is in PostgreSQL 15" in run.output
    assert "ansible-playbook site.yml --tags tracking -e mlflow_postgresql_upgrade=true" in run.output
    assert clusters(host) == [["15", "main", "5432", "online"]]
    assert saved(host)["faults"] == []


def test_no_room_for_the_new_postgresql_leaves_the_old_one_alone(
    host: Host, role: Role, logged: Dump, same_server: None
) -> None:
    host.check_output("install -d -o postgres -g postgres /var/lib/postgresql/17")
    host.check_output("mount -t tmpfs -o size=20m tmpfs /var/lib/postgresql/17")
    try:
        run = role(MAJOR)
    finally:
        host.check_output("umount /var/lib/postgresql/17")
    assert not run.ok
    assert "MB free in /var/lib/postgresql/17, where 20 MB are" in run.output
    assert not host.file(STATE).exists


def test_a_new_cluster_in_use_is_not_dropped(host: Host, logged: Dump, same_server: None) -> None:
    host.check_output("pg_createcluster --start 17 main && runuser -u postgres -- createdb --cluster=17/main ours")
    run = host.run(UPGRADE)
    assert run.rc == 1
    assert "database ours of postgres\n" in run.stderr and "pg_dropcluster --stop 17 main" in run.stderr
    host.check_output("runuser -u postgres -- dropdb --cluster=17/main ours")
    assert clusters(host)[1][:2] == ["17", "main"]


def test_a_copy_of_postgresql_that_lacks_rows_is_taken_back(host: Host, role: Role, logged: Dump) -> None:
    before = read_before(host)
    host.check_output("runuser -u postgres -- createdb ratings")
    host.check_output("runuser -u postgres -- psql -q -c %s ratings", UNRESTORABLE)
    # the empty cluster of the test before is in the way
    run = role(MAJOR)
    assert not run.ok
    assert "< ratings: public.ratings 1 rows > ratings: public.ratings 0 rows" in run.output
    assert "MLflow runs with PostgreSQL 15 as before" in run.output
    assert clusters(host) == [["15", "main", "5432", "online"]]
    assert host.service("postgresql@15-main").is_running
    assert "auto" in host.file("/etc/postgresql/15/main/start.conf").content_string.split()
    assert not host.file(STATE).exists
    assert dump(host) == before
    host.check_output("runuser -u postgres -- psql -q -c 'ALTER TABLE ratings DROP CONSTRAINT known' ratings")


def test_a_power_cut_while_postgresql_is_copied_leads_to_the_old_one(host: Host, logged: Dump) -> None:
    before = read_before(host)
    hook = "/etc/postgresql-common/pg_upgradecluster.d/wait"
    host.check_output(f"printf '#!/bin/sh\\ntouch /var/tmp/copies; sleep 600\\n' >{hook} && chmod 755 {hook}")
    host.check_output(UPGRADE.replace("--wait --pipe --collect", "--no-block"))
    deadline = time.monotonic() + 300
    while not host.file("/var/tmp/copies").exists:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    name = host.ansible.get_variables()["cloud_server_name"]
    subprocess.run(["docker", "kill", name], check=True, capture_output=True)
    subprocess.run(["docker", "start", name], check=True, capture_output=True)
    # not by a login, which is refused at first
    up = ["docker", "exec", name, "systemctl", "is-active", "ssh.service", "mlflow.service"]
    while subprocess.run(up, capture_output=True, text=True).stdout.split() != ["active", "active"]:
        assert time.monotonic() < deadline
        time.sleep(1)
    host.check_output(f"rm {hook}")
    assert version(host) == VERSION
    assert [cluster[:3] for cluster in clusters(host)] == [["15", "main", "5432"], ["17", "main", "5433"]]
    assert dump(host) == before
    assert host.file(STATE).exists


def test_the_upgrade_of_postgresql_loses_nothing(host: Host, role: Role, logged: Dump) -> None:
    before = read_before(host)
    host.check_output("cp -a /etc/postgresql/15/main/. /var/tmp/conf-15")
    run = role(MAJOR)
    assert run.ok
    assert "sudo pg_dropcluster 15 main" in run.output
    assert clusters(host) == [["15", "main", "5433", "down"], ["17", "main", "5432", "online"]]
    assert host.service("postgresql@17-main").is_running
    assert dump(host) == before
    assert host.check_output("runuser -u postgres -- psql -qtAc 'SELECT * FROM ratings' ratings") == "1"
    # before the upgrade, and before the one that the power cut ended and the one that failed
    copies = [name for name in host.file("/var/lib/mlflow/backups").listdir() if "postgresql-15-before-17" in name]
    assert len(copies) == 3
    found = saved(host)
    assert found["faults"] == [] and found["rows"] > 750


def test_a_change_of_postgresql_that_was_cut_off_is_finished(host: Host, role: Role, logged: Dump) -> None:
    before = read_before(host)
    # as when the power fails between the two ports
    host.check_output(
        f"install -d {STATE} && cp -p /var/tmp/conf-15/*.conf {STATE}"
        f" && echo 5433 >{STATE}/spare && touch {STATE}/proven"
        " && systemctl stop mlflow.service postgresql@17-main.service && pg_conftool 17 main set port 5434"
    )
    assert role(MAJOR).ok
    assert clusters(host) == [["15", "main", "5433", "down"], ["17", "main", "5432", "online"]]
    assert not host.file(STATE).exists
    assert dump(host) == before
    assert role(MAJOR).changed == 0


def test_going_back_to_the_old_postgresql_keeps_what_was_logged_since(host: Host, logged: Dump) -> None:
    host.check_output(f"install -d {STATE} && cp -p /var/tmp/conf-15/*.conf {STATE} && touch {STATE}/proven")
    host.check_output("bash /opt/mlflow/postgresql.sh back")
    assert clusters(host) == [["15", "main", "5432", "online"]]
    assert version(host) == VERSION
    (copy,) = [name for name in host.file("/var/lib/mlflow/backups").listdir() if "set-aside-postgresql-17" in name]
    # of the version of the copy, and not of the server
    rows = f"/usr/lib/postgresql/17/bin/pg_restore --data-only --table=runs --file=- /var/lib/mlflow/backups/{copy}"
    assert host.check_output(rows).count("FINISHED") == 2
