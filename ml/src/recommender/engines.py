"""Tell which engine pays for a number of ratings: this machine's compiled code or a Spark cluster."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

# Written by bench/spark.py, on two cores with 24 GB: engine (local, or the number of workers), ratings, and
# seconds of one training, inf where the memory was too little.
TABLE = Path(__file__).with_name("engines.csv")
LOCAL = "local"


def table(lines: Iterable[str]) -> dict[str, list[tuple[float, float]]]:
    """Ratings and seconds by engine, in ascending order."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in csv.DictReader(lines):
        found.setdefault(row["engine"], []).append((float(row["ratings"]), float(row["seconds"])))
    return {engine: sorted(rows) for engine, rows in found.items()}


def seconds(measured: list[tuple[float, float]], ratings: int) -> float:
    """Between two measured sizes by the power law that joins them, beyond them in proportion."""
    if any(size <= ratings and took == np.inf for size, took in measured):
        return float(np.inf)
    at, took = np.log(np.array([row for row in measured if row[1] < np.inf]).T)
    size = float(np.log(ratings))
    return float(np.exp(np.interp(size, at, took) + max(0.0, size - float(at[-1]))))


def advice(ratings: int, measured: dict[str, list[tuple[float, float]]] | None = None) -> str:
    """One line for people: what a training takes with each engine, and which pays."""
    if measured is None:
        measured = table(TABLE.read_text(encoding="utf-8").splitlines())
    took = {engine: seconds(rows, ratings) for engine, rows in measured.items()}
    clusters = {engine: value for engine, value in took.items() if engine != LOCAL}
    best = min(clusters, key=lambda engine: clusters[engine])
    workers = "1 worker" if best == "1" else f"{best} workers"
    said = f"one machine {_length(took[LOCAL])}, Spark with {workers} {_length(took[best])}"
    pays = "pays: docs/spark.md" if took[best] < took[LOCAL] else "does not pay"
    largest = int(min(max(size for size, _ in measured[engine]) for engine in (LOCAL, best)))
    how = "measured elsewhere" if ratings <= largest else f"in proportion to {largest:,} measured elsewhere"
    return f"engine: {ratings:,} ratings, {how}: {said}. A cluster {pays}"


def _length(value: float) -> str:
    if value == np.inf:
        return "has too little memory"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"
