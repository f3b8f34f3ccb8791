"""The tracking server as its users and its host see it."""

import json
import time

import pytest
from testinfra.host import Host

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


def client(host: Host, script: str, *arguments: str) -> dict[str, object]:
    """Run a script with MLflow's client as an account that may not touch the data; its JSON."""
    run = host.run(
        "cd /tmp && runuser -u nobody -- env HOME=/tmp MLFLOW_TRACKING_URI=http://127.0.0.1:5000 "
        "MLFLOW_DISABLE_TELEMETRY=true " + " ".join(["%s"] * (3 + len(arguments))),
        PYTHON,
        "-c",
        script,
        *arguments,
    )
    assert run.rc == 0, f"{run.stderr}\n{host.check_output('journalctl -u mlflow -n 40 --no-pager')}"
    result: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return result


def statuses(host: Host, path: str, *names: str) -> list[int]:
    """HTTP statuses of a path asked for under each host name; 0 where nothing answers."""
    url = f"http://127.0.0.1:5000{path}"
    command = "/usr/bin/python3 -c %s %s " + " ".join(["%s"] * len(names))
    return [int(word) for word in host.check_output(command, GET, url, *names).split()]


def unit(host: Host, name: str) -> str:
    """A property of the unit in force."""
    value: str = host.check_output("systemctl show mlflow.service --value --property=%s", name)
    return value


@pytest.fixture(scope="module")
def logged(host: Host) -> dict[str, object]:
    """Identifiers of a run with a metric and an artifact, registered as the champion."""
    return client(host, WRITE)


def test_runs_at_boot(host: Host) -> None:
    service = host.service("mlflow")
    assert service.is_running
    assert service.is_enabled


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
    assert host.file("/var/lib/mlflow/mlflow.db").mode == 0o640
    assert host.file("/etc/mlflow").mode == 0o700
    assert host.file("/etc/mlflow/mlflow.env").mode == 0o600
    assert host.run("runuser -u nobody -- ls /var/lib/mlflow").rc != 0


def test_artifacts_go_through_the_server(host: Host, logged: dict[str, object]) -> None:
    assert str(logged["artifacts"]).startswith("mlflow-artifacts:/")
    stored = host.check_output("find /var/lib/mlflow/artifacts -name note.txt -user mlflow")
    assert len(stored.splitlines()) == 1
    assert str(logged["run"]) in stored


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
        "tracking.example",
        "tracking.example:443",
    ]
    foreign = ["attacker.example", "10.0.0.1:5000"]
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert statuses(host, path, *known, *foreign) == [200] * len(known) + [403] * len(foreign)


def test_jobs_and_telemetry_are_off(host: Host) -> None:
    pid = unit(host, "MainPID")
    # root of a container may not read another account's environment; the account itself may
    environment = host.check_output("runuser -u mlflow -- cat /proc/%s/environ", pid).split("\0")
    assert {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"} <= set(environment)


def test_the_command_line_does_not_hold_the_database_address(host: Host) -> None:
    assert "sqlite:" not in host.check_output("cat /proc/%s/cmdline", unit(host, "MainPID"))


def test_the_unit_is_confined(host: Host) -> None:
    assert unit(host, "MemoryMax") == str(2 * 1024**3)
    exposure = host.check_output("systemd-analyze security --no-pager mlflow.service").splitlines()[-1]
    assert "exposure level" in exposure
    assert float(exposure.split(":")[1].split()[0]) <= 1.5


def test_comes_back_with_its_data_when_killed(host: Host, logged: dict[str, object]) -> None:
    before = unit(host, "MainPID")
    host.check_output("kill -9 %s", before)
    deadline = time.monotonic() + 90
    while unit(host, "MainPID") in ("0", before) or statuses(host, "/health", "localhost") != [200]:
        assert time.monotonic() < deadline, host.check_output("journalctl -u mlflow -n 40 --no-pager")
        time.sleep(0.5)
    assert client(host, READ, str(logged["run"]))["note"] == "five stars"
