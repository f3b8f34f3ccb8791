#!/usr/bin/env python3
"""Which engine pays: seconds of one training on this machine, and on a Spark cluster of 1, 2 and 3 workers.

The cluster is that of the scenario of roles/spark_cluster with one more server, so its executors have 1 GB each; all
servers share this machine's processors. The ratings are generated. A training makes both heads: of conf/default.yaml
here, of conf/spark-als.yaml on the cluster. Each is a process of its own; what it compiles is not counted. The peak is
that of the process, and of the largest executor.

    bench/spark.py [--sizes 1e5 1e6 1e7 25e6] [--workers 1 2 3] [--write]

--write puts what was measured into ml/src/recommender/engines.csv, by which `make train` says which engine pays.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from typing import Any

from serving import loaded

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROLE = ROOT / "roles/spark_cluster"
TABLE = ROOT / "ml/src/recommender/engines.csv"
WORKERS = ["spark2", "spark3", "spark4"]
SERVERS = " ".join(f"{name}=trixie" for name in ("spark1", *WORKERS))
TRAIN = """
import json, resource, sys, time
from pathlib import Path
from recommender import config, train
from recommender.algorithms import catalogue
from recommender.data import synthetic
# more than that would be the swap's speed, or the end of another program
lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
limit = int(lines["MemAvailable"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
chosen = config.load(Path(sys.argv[2]))
ratings = synthetic.generate(int(sys.argv[1]))
catalogue.warm_up(chosen.algorithm, chosen.params, 0)
began = time.perf_counter()
train.fit(ratings, chosen)
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def trained(size: int, parameters: str, **environment: str) -> list[float] | None:
    """Seconds and peak memory (MB) of one training, or None where the memory does not suffice.

    Raises:
        SystemExit: it fails otherwise.
    """
    there = os.environ | {"PYTHONPATH": str(ROOT / "ml/src")} | environment
    # a file: pyspark takes what python -c runs for a doctest of its own
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(TRAIN)
        program.flush()
        line = [str(ROOT / "ml/.venv/bin/python"), program.name, str(size), str(ROOT / "ml/conf" / parameters)]
        done = subprocess.run(line, env=there, capture_output=True, text=True)
    if done.returncode and "MemoryError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr)
    measured: list[float] = json.loads(done.stdout.splitlines()[-1])
    return measured


class Watch(threading.Thread):
    """The resident memory (MB) of the largest executor, until it is ended."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(daemon=True)
        self.cluster, self.ended, self.peak = cluster, threading.Event(), 0.0

    def run(self) -> None:
        executors = "ps -C java -o rss=,args= | grep CoarseGrainedExecutorBackend | cut -c1-12"
        for _ in iter(lambda: self.ended.wait(2), True):
            for server in WORKERS:
                sizes = self.cluster.on(server, executors, code=None).split()
                self.peak = max(self.peak, *(int(size) / 1024 for size in sizes if size.isdigit()), 0.0)


def molecule(*steps: str) -> None:
    environment = os.environ | {
        "SPARK_SERVERS": SERVERS,
        "MOLECULE_EPHEMERAL_DIRECTORY": str(ROOT / ".cache/molecule/bench-spark"),
    }
    for step in steps:
        words = ["--", "-e", "java_options="] if step == "converge" else []
        done = subprocess.run(["molecule", step, *words], cwd=ROLE, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def on_cluster(sizes: list[int], counts: list[int], add: Any) -> None:
    """Train each size with each number of workers."""
    # they know how to reach the scenario's servers
    tests = loaded(ROLE / "molecule/default/tests/test_default.py")
    hosts = subprocess.check_output(
        [sys.executable, ROOT / "molecule/hosts.py"], text=True, cwd=ROLE,
        env=os.environ | {"MOLECULE_SERVERS": SERVERS},
    )  # fmt: skip
    cluster = tests.Cluster(json.loads(hosts)["_meta"]["hostvars"])
    token = cluster.on("spark1", "cat /etc/spark-cluster/token").strip()
    for count in counts:
        for number, server in enumerate(WORKERS):
            cluster.on(server, f"systemctl {'start' if number < count else 'stop'} spark-worker")
        cluster.wait(lambda said, count=count: tests.workers(said) == count)
        for size in sizes:
            with cluster.tunnel(15002) as port:
                watch = Watch(cluster)
                watch.start()
                found = trained(size, "spark-als.yaml", **tests.environment(port, token))
                watch.ended.set()
                watch.join()
            add(str(count), size, found and [found[0], watch.peak])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7, 25e6])
    parser.add_argument("--workers", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes]
    rows = []

    def add(engine: str, size: int, found: list[float] | None) -> None:
        seconds, peak = found or (float("inf"), float("nan"))
        print(f"{engine:8}{size:12,}{seconds:10.1f}{peak:12.0f}", flush=True)
        rows.append([engine, size, round(seconds, 1)])

    print(f"{'engine':8}{'ratings':>12}{'seconds':>10}{'peak, MB':>12}   load {os.getloadavg()[0]:.1f}", flush=True)
    try:
        for size in sizes:
            add("local", size, trained(size, "default.yaml"))
        molecule("create", "converge")
        on_cluster(sizes, arguments.workers, add)
    finally:
        molecule("destroy")
    if arguments.write:
        with TABLE.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["engine", "ratings", "seconds"], *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
