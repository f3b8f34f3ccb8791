#!/usr/bin/env python3
"""How many copies of MLflow's database are whole that were made while clients wrote: ours, and naive ones.

For SQLite and for PostgreSQL an MLflow server, set up as the role does, is written to by three clients while a copy is
made. At random moments `mlflow-admin save` makes one, and right after it `cp`: of mlflow.db and what lies beside it, or
of PostgreSQL's data folder. Each is opened (a data folder by a second PostgreSQL), its integrity is checked, and it
must hold each batch that was acknowledged before it began, and no half of one.

    bench/copies.py [--copies 20] [--seed 1] [ENVIRONMENT]

ENVIRONMENT has MLflow; without one, the role's lock is installed into .cache/mlflow-bench once. PostgreSQL is Debian's.
"""

import argparse
import collections
import contextlib
import glob
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import tracking

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENTS, BATCH, ROWS = 3, 50, 30_000
# One statement for both databases: rows of an old run, so that a copy takes as long as one of a used server.
FILL = """
import sys, sqlalchemy as sa
with sa.create_engine(sys.argv[1]).begin() as connection:
    connection.execute(sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
        " INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
        " SELECT 'old', i, i, :run, i, false FROM n"),
        {"rows": int(sys.argv[3]), "run": sys.argv[2]})
"""
# Looks at databases that nobody writes to; one process, since to import MLflow takes seconds. A line of JSON each: the
# address, the last acknowledged step of each run, and folder and artifacts of a copy of ours. Prints how each ended.
LOOK = """
import contextlib, io, json, sys, sqlalchemy as sa
from mlflow_admin.snapshot import verify
size = int(sys.argv[1])
def look(uri, kept, saved):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            if saved:
                verify(*saved)
        except SystemExit:
            print(said.getvalue(), file=sys.stderr)
            return "damaged"
    engine = sa.create_engine(uri, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        ask = lambda query, **words: connection.execute(sa.text(query), words).fetchall()
        if uri.startswith("sqlite"):
            if ask("PRAGMA integrity_check") != [("ok",)] or ask("PRAGMA foreign_key_check"):
                return "damaged"
        for run, last in kept.items():
            rows = ask("SELECT step, count(*) FROM metrics WHERE run_uuid = :run GROUP BY step", run=run)
            there = dict(map(tuple, rows))
            newest = {row[0] for row in ask("SELECT step FROM latest_metrics WHERE run_uuid = :run", run=run)}
            if {*range(1, last + 1)} - {*there} or {*there.values()} - {size} or newest - {max(there, default=0)}:
                return "lacks rows"
    return "whole"
for line in sys.stdin:
    try:
        print(look(*json.loads(line)), flush=True)
    except sa.exc.SQLAlchemyError as error:
        print(error.orig, file=sys.stderr)
        print("damaged" if "malformed" in str(error) else "does not open", flush=True)
"""
ENDS = ("whole", "does not open", "damaged", "lacks rows")


class Writers:
    """Clients that log batches of metrics, each to a run of its own, and what MLflow acknowledged to them."""

    def __init__(self, address: str) -> None:
        self.address, self.ended, self.busy = address, threading.Event(), threading.Event()
        self.experiment = self.ask("experiments/create", name="bench")["experiment_id"]
        self.kept = {self.begin(): 0 for _ in range(CLIENTS)}
        self.errors: list[str] = []
        self.threads = [threading.Thread(target=self.write, args=(run,)) for run in self.kept]

    def ask(self, path: str, **words: object) -> dict[str, str]:
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}", json.dumps(words).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said: dict[str, str] = json.load(answer)
        return said

    def begin(self) -> str:
        run: dict[str, dict[str, str]] = self.ask("runs/create", experiment_id=self.experiment)["run"]  # type: ignore[assignment]
        return run["info"]["run_id"]

    def write(self, run: str) -> None:
        deadline = time.monotonic() + 3600
        try:
            while self.busy.wait() and not self.ended.is_set() and time.monotonic() < deadline:
                step = self.kept[run] + 1
                metrics = [{"key": f"m{n}", "value": step, "timestamp": step, "step": step} for n in range(BATCH)]
                self.ask("runs/log-batch", run_id=run, metrics=metrics)
                self.kept[run] = step
                time.sleep(0.01)
        except OSError as error:
            self.errors.append(f"{run}: {error}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """They write during the block. Raises SystemExit when one of them was refused."""
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            self.busy.set()
            for thread in self.threads:
                thread.join()
        if self.errors:
            raise SystemExit(f"MLflow refused to write: {self.errors[0]}")


class Bench:
    """A database of MLflow's, and how it is copied and looked at."""

    def __init__(self, environment: pathlib.Path, folder: pathlib.Path, uri: str) -> None:
        self.python, self.folder, self.uri = environment / "bin/python", folder, uri
        (folder / "lock").touch()
        (folder / "artifacts").mkdir()
        self.variables = os.environ | {
            "PYTHONPATH": str(ROOT / "roles/mlflow_server/files"), "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_ADMIN_LOCK": str(folder / "lock"), "MLFLOW_ADMIN_BACKUPS": str(folder / "backups"),
        }  # fmt: skip
        self.looks = subprocess.Popen(
            [self.python, "-c", LOOK, str(BATCH)], env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def save(self, place: pathlib.Path) -> None:
        command = [str(self.python), "-m", "mlflow_admin", "save", str(place)]
        subprocess.run(command, env=self.variables, stdout=subprocess.DEVNULL, check=True)

    def fill(self, run: str) -> None:
        subprocess.run([self.python, "-c", FILL, self.uri, run, str(ROWS)], check=True)

    def look(self, uri: str, kept: dict[str, int], saved: pathlib.Path | None = None) -> str:
        assert self.looks.stdin and self.looks.stdout
        places = [str(saved), str(self.folder / "artifacts")] if saved else []
        self.looks.stdin.write(json.dumps([uri, kept, places]) + "\n")
        self.looks.stdin.flush()
        return self.looks.stdout.readline().strip()


class Sqlite(Bench):
    """MLflow's default."""

    def saved(self, place: pathlib.Path, kept: dict[str, int]) -> str:
        return self.look(f"sqlite:///{place}/database.db", kept, place)

    def copy(self, place: pathlib.Path) -> None:
        subprocess.run(f"cp -a {self.folder}/mlflow.db* {place}/", shell=True, check=False)

    def copied(self, place: pathlib.Path, kept: dict[str, int]) -> str:
        return self.look(f"sqlite:///{place}/mlflow.db", kept)


class Postgresql(Bench):
    """A PostgreSQL of its own over its socket."""

    def __init__(self, environment: pathlib.Path, folder: pathlib.Path, uri: str) -> None:
        super().__init__(environment, folder, uri)
        self.cluster = folder / "postgresql"

    def saved(self, place: pathlib.Path, kept: dict[str, int]) -> str:
        login = ["--host", str(self.cluster), "--username=postgres"]
        subprocess.run(["createdb", *login, "restored"], check=True)
        restore = ["pg_restore", *login, "--dbname=restored", "--no-owner", f"{place}/database.dump"]
        subprocess.run(restore, check=True)
        found = self.look(self.uri.replace("@/postgres", "@/restored"), kept, place)
        subprocess.run(["dropdb", *login, "restored"], check=True)
        return found

    def copy(self, place: pathlib.Path) -> None:
        # the server goes on, and its files come and go
        subprocess.run(["cp", "-a", self.cluster / "data", place / "data"], stderr=subprocess.DEVNULL, check=False)

    def copied(self, place: pathlib.Path, kept: dict[str, int]) -> str:
        (place / "data/postmaster.pid").unlink(missing_ok=True)
        try:
            with tracking.started(place) as uri:
                socket = ["--host", place, "--username=postgres", "--database=postgres"]
                check = tracking.as_postgres("pg_amcheck", *socket, "--install-missing", "--heapallindexed")
                damaged = subprocess.run(check, cwd=place, stdout=subprocess.DEVNULL, check=False).returncode
                return "damaged" if damaged else self.look(uri, kept)
        except subprocess.CalledProcessError:
            return "does not open"


def rounds(bench: Sqlite | Postgresql, address: str, copies: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """Each copy: who made it, how it ended, and the seconds that it took."""
    writers, moments = Writers(address), random.Random(seed)
    bench.fill(writers.begin())
    ways: dict[str, tuple[Callable[[pathlib.Path], None], Callable[[pathlib.Path, dict[str, int]], str]]] = {
        "mlflow-admin save": (bench.save, bench.saved),
        "cp": (bench.copy, bench.copied),
    }
    with writers.writing():
        for _ in range(copies):
            for name, (make, look) in ways.items():
                with tempfile.TemporaryDirectory(dir=bench.folder, ignore_cleanup_errors=True) as made:
                    place = pathlib.Path(made)
                    place.chmod(0o777)
                    writers.busy.set()
                    time.sleep(moments.uniform(0, 1))
                    kept, began = dict(writers.kept), time.perf_counter()
                    make(place)
                    took = time.perf_counter() - began
                    # to look at it takes less while they rest
                    writers.busy.clear()
                    if writers.kept == kept:
                        print(f"{name}: nothing was written meanwhile", file=sys.stderr)
                    yield name, look(place, kept), took
    print(f"{sum(writers.kept.values())} batches of {BATCH} metrics were acknowledged", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", nargs="?", type=pathlib.Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    environment = (arguments.environment or tracking.installed()).resolve()
    if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
        print("PostgreSQL is missing: apt install postgresql", file=sys.stderr)
        return 2
    print(f"| {arguments.copies} copies of each under writes | {' | '.join(ENDS)} | seconds, median |")
    print("|---|" + "---|" * (len(ENDS) + 1), flush=True)
    bad = 0
    for kind in (Sqlite, Postgresql):
        with tempfile.TemporaryDirectory(prefix="copies-bench-") as name, contextlib.ExitStack() as stack:
            folder = pathlib.Path(name)
            folder.chmod(0o755)
            uri = f"sqlite:///{folder}/mlflow.db"
            if kind is Postgresql:
                uri = stack.enter_context(tracking.postgresql(folder / "postgresql"))
            bench = kind(environment, folder, uri)
            options = ["--workers", "1", "--backend-store-uri", uri, "--artifacts-destination", f"{folder}/artifacts"]
            settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            address, _, _ = stack.enter_context(tracking.running(environment, folder, options, settings))
            ends: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
            for way, ended, took in rounds(bench, address, arguments.copies, arguments.seed):
                ends[way].append((ended, took))
                print(f"{kind.__name__}, {way}: {ended}, {took:.2f} s", file=sys.stderr, flush=True)
            bench.looks.communicate()
            for way, found in ends.items():
                count = [sum(ended == end for ended, _ in found) for end in ENDS]
                median = statistics.median(took for _, took in found)
                print(f"| {kind.__name__}, `{way}` | {' | '.join(map(str, count))} | {median:.2f} |", flush=True)
            bad += sum(ended != "whole" for ended, _ in ends["mlflow-admin save"])
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
