"""How time and memory grow with the ratings.

    python -m bench.scaling --sizes 1e6 5e6 20e6 --algorithm SVD --params '{"n_factors": 20, "n_epochs": 2}'

Each size has a process of its own, whose peak memory is measured. The ratings are generated and written as
CSV first, which is not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Two measurements at once, or BLAS beside Python, would measure one another.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

K = 10


class Parts:
    """Wall and CPU seconds of parts, and the peak memory (MB) of the process at the end of each."""

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.measured[name] = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def measure(path: Path, name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Read `path` twice, train, and make every user's list."""
    from recommender import train
    from recommender.config import Config
    from recommender.data import reading

    content = {"algorithm": name, "params": params, "data": {"source": str(path)}}
    config, parts = Config.model_validate(content), Parts()
    with parts.part("load"):
        ratings = reading.read(config.data)
    with parts.part("load again"):
        ratings = reading.read(config.data)
    with parts.part("fit"):
        recommender, _ = train.fit(ratings, config)
    listed = 0
    with parts.part("lists"):
        for block in recommender.recommend(k=K):
            listed += len(block.item)
    return {
        "users": len(ratings.users),
        "items": len(ratings.items),
        "listed": listed,
        "parts": parts.measured,
    }


def table(results: dict[int, dict[str, Any]]) -> str:
    """The measurements as a Markdown table: CPU seconds, and the process's peak memory.

    Lists are also shown by pair of user and item, of which there are more than linearly many.
    """
    lines = [
        "| ratings | users | items | load CSV | load again | fit | all lists | per 1e6 pairs | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n, result in results.items():
        parts = result["parts"]
        seconds = [f"{parts[name]['cpu']:.1f} s" for name in ("load", "load again", "fit", "lists")]
        pair = parts["lists"]["cpu"] / result["users"] / result["items"] * 1e9
        peak = max(part["peak"] for part in parts.values()) / 1024
        lines.append(
            f"| {n:,} | {result['users']:,} | {result['items']:,} | {' | '.join(seconds)} | {pair:.0f} ms "
            f"| {peak:.1f} GB |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print the table; --json keeps the numbers."""
    parser = argparse.ArgumentParser(description="Measure how time and memory grow with the ratings.")
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 5e6, 20e6])
    parser.add_argument("--algorithm", default="SVD")
    parser.add_argument("--params", type=json.loads, default={"n_factors": 20, "n_epochs": 2})
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.algorithm, arguments.params)))
        return 0
    results: dict[int, dict[str, Any]] = {}
    for size in map(int, arguments.sizes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "ratings.csv")
            make = ["generate", "--ratings", str(size), "--output", str(path)]
            subprocess.run([sys.executable, "-m", "recommender", *make], check=True, stdout=sys.stderr)
            line = [sys.executable, "-m", "bench.scaling", "--one", str(path)]
            line += ["--algorithm", arguments.algorithm, "--params", json.dumps(arguments.params)]
            environment = {**os.environ, "RECOMMENDER_CACHE": str(Path(folder, "cache"))}
            done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        results[size] = json.loads(done.stdout)
        print(f"{size:,}: {results[size]['parts']}", file=sys.stderr, flush=True)
    print(f"{arguments.algorithm} with {arguments.params}, {K} items a user, CPU seconds of one thread:\n")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
