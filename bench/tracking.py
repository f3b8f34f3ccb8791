#!/usr/bin/env python3
"""What a tracking server takes and needs: calls of MLflow's client a second, and memory, of three ways to run it.

The first two run as the role runs them, on SQLite and on PostgreSQL over its socket; the third is `mlflow server` with
its defaults. Each is started on a fresh database and asked by one client, one call after another. PostgreSQL is
Debian's, with a database of its own for the time; without it that line is left out.

    bench/tracking.py [--calls 200] [ENVIRONMENT]

ENVIRONMENT has MLflow; without one, the role's lock is installed into .cache/mlflow-bench once.
"""

import argparse
import contextlib
import glob
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENT = """
import json, sys, time
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
client, calls = MlflowClient(), int(sys.argv[1])
run = client.create_run(client.create_experiment("bench")).info.run_id
client.log_metric(run, "warm", 0)
def rate(call):
    start = time.perf_counter()
    for step in range(calls):
        call(step)
    return calls / (time.perf_counter() - start)
single = rate(lambda step: client.log_metric(run, "rmse", 1 / (step + 1), step=step))
many = [f"m{number}" for number in range(50)]
batch = rate(lambda step: client.log_batch(run, [Metric(name, step, step, step) for name in many]))
print(json.dumps([single, batch]))
"""


def as_postgres(*command: object) -> list[str]:
    """A command of PostgreSQL's newest release here, which root may not run itself."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    return [*user, f"{programs}/{command[0]}", *map(str, command[1:])]


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[str]:
    """URL of the data in a folder, on a PostgreSQL that ends with the block.

    Raises:
        subprocess.CalledProcessError: it does not start.
    """
    control = as_postgres("pg_ctl", f"--pgdata={folder}/data", "--silent", "--wait")
    listen = f"--options=-k {folder} -c listen_addresses="
    subprocess.run(
        [*control, listen, f"--log={folder}/log", "start"], cwd=folder, check=True, stderr=subprocess.DEVNULL
    )
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "--mode=immediate", "stop"], cwd=folder, check=True)


@contextlib.contextmanager
def postgresql(folder: pathlib.Path) -> Iterator[str]:
    """URL of a new database on a PostgreSQL of its own, which ends with the block."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    command = as_postgres("initdb", f"--pgdata={folder}/data", "--auth=trust", "--username=postgres")
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    with started(folder) as uri:
        yield uri


def installed() -> pathlib.Path:
    """Environment of the role's lock, made where it is missing or of another lock."""
    lock = ROOT / "roles/mlflow_server/files/requirements.txt"
    environment = ROOT / ".cache/mlflow-bench"
    mark = environment / "lock.txt"
    if not mark.exists() or mark.read_bytes() != lock.read_bytes():
        subprocess.run(["uv", "venv", "--quiet", "--clear", environment], check=True)
        subprocess.run(
            ["uv", "pip", "sync", "--quiet", "--require-hashes", f"--python={environment}/bin/python", lock], check=True
        )
        shutil.copy(lock, mark)
    return environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory(group: int) -> float:
    """Proportional memory in MB of all processes of a session."""
    total = 0
    for stat in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(pathlib.Path(stat).read_text().rsplit(")", 1)[1].split()[3]) == group:
                lines = pathlib.Path(stat).with_name("smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@contextlib.contextmanager
def running(
    environment: pathlib.Path, folder: pathlib.Path, options: list[str], settings: dict[str, str]
) -> Iterator[tuple[str, int, float]]:
    """Address and process of a server, and seconds to its first answer; it ends with the block.

    Raises:
        RuntimeError: the server ends, or does not answer in three minutes.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    start = time.perf_counter()
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [environment / "bin/mlflow", "server", "--port", str(port), *options],
            cwd=folder, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | settings,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            if server.poll() is not None or time.perf_counter() - start > 180:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)
        yield address, server.pid, time.perf_counter() - start
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait(30)


def measure(
    environment: pathlib.Path, folder: pathlib.Path, options: list[str], settings: dict[str, str], calls: int
) -> list[float]:
    """Seconds to the first answer, log_metric a second, log_batch of 50 metrics a second, MB after that."""
    with running(environment, folder, options, settings) as (address, process, up):
        variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": address}
        rates = subprocess.check_output(
            [environment / "bin/python", "-c", CLIENT, str(calls)], env=variables, stderr=subprocess.DEVNULL
        )
        return [up, *json.loads(rates.splitlines()[-1]), memory(process)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", nargs="?", type=pathlib.Path)
    parser.add_argument("--calls", type=int, default=200)
    arguments = parser.parse_args()
    environment = (arguments.environment or installed()).resolve()
    if not (environment / "bin/mlflow").exists():
        print(f"{environment} has no MLflow in it", file=sys.stderr)
        return 2
    one = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print(f"{'':32}{'up, s':>8}{'log_metric/s':>14}{'log_batch/s':>13}{'memory, MB':>12}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mlflow-bench-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        ways = [("role, SQLite", ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/role.db"], one)]
        if glob.glob("/usr/lib/postgresql/*/bin/initdb"):
            uri = stack.enter_context(postgresql(folder / "postgresql"))
            ways.append(("role, PostgreSQL", ["--workers", "1", "--backend-store-uri", uri], one))
        ways.append(("mlflow server, its defaults", [], {}))
        for title, options, settings in ways:
            up, single, batch, megabytes = measure(environment, folder, options, settings, arguments.calls)
            print(f"{title:32}{up:8.1f}{single:14.1f}{batch:13.1f}{megabytes:12.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
