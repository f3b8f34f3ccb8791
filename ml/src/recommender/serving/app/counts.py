"""Counts and latencies, as Prometheus reads them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from recommender.serving.app.live import Served

# Seconds.
_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# Where prometheus_client keeps the values of all processes, of those that have ended too.
_SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Counts:
    """What has been answered: by this process, or by all that share PROMETHEUS_MULTIPROC_DIR.

    `version` is the number of the version that is served; `draining` says that the process is about to end.
    """

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.version = ""
        self.draining = False
        self._served: tuple[str, ...] | None = None
        labels = ("route", "status", "version")
        self._requests = Counter("recommender_requests", "Answered requests.", labels, registry=registry)
        self._seconds = Histogram(
            "recommender_request_seconds", "Seconds from a request's head to its answer.", labels,
            buckets=_BOUNDS, registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "recommender_in_flight",
            "Requests being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._refused = Counter(
            "recommender_refused",
            "Requests refused before they were looked at.",
            ("reason",),
            registry=registry,
        )
        self._fallbacks = Counter(
            "recommender_fallbacks",
            "Lists of what is popular, for users that are unknown.",
            registry=registry,
        )
        self._switches = Counter(
            "recommender_switches", "Switches to another version.", ("outcome",), registry=registry
        )
        self._switching = Histogram(
            "recommender_switch_seconds", "Seconds from the request to switch to the new version.",
            registry=registry,
        )  # fmt: skip
        self._model = Gauge(
            "recommender_model_info", "1 for the version that is served, 0 for one before it.",
            ("name", "version", "run_id", "model_digest"), registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while it is answered."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer of a route, as /v1/similar."""
        labels = route, str(status), self.version
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that was refused."""
        self._refused.labels(reason).inc()

    def fallback(self) -> None:
        """Count a list of what is popular."""
        self._fallbacks.inc()

    def switched(self, served: Served, seconds: float) -> None:
        """Count a switch, and name what is served now."""
        self._switches.labels("done").inc()
        self._switching.observe(seconds)
        self.serving(served)

    def failed(self) -> None:
        """Count a switch that was refused."""
        self._switches.labels("refused").inc()

    def serving(self, served: Served) -> None:
        """Name what is served."""
        about = served.about
        self.version = about.version
        if self._served:
            self._model.labels(*self._served).set(0)
        self._served = about.name, about.version, about.run_id, about.model_digest
        self._model.labels(*self._served).set(1)

    def summary(self) -> dict[str, float | None]:
        """Requests, errors (5xx) and the bound in ms below which 99 of 100 were answered, of this process."""
        requests = errors = 0.0
        within: dict[float, float] = {}
        for family in (*self._requests.collect(), *self._seconds.collect()):
            for sample in family.samples:
                if sample.name.endswith("_requests_total"):
                    requests += sample.value
                    errors += sample.value if sample.labels["status"].startswith("5") else 0
                elif sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    within[bound] = within.get(bound, 0) + sample.value
        p99 = min((bound for bound, count in within.items() if count >= 0.99 * requests), default=0.0)
        # None: more than the largest bound.
        return {"requests": requests, "errors": errors, "p99_ms": 1000 * p99 if p99 <= _BOUNDS[-1] else None}

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        registry = self.registry
        if os.environ.get(_SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def share(number: str) -> None:
    """Share counts under the number of this process, not under its pid: call it before a Counts is made.

    So there are as many files as processes, however often they start. Gauges begin again.
    """
    if folder := os.environ.get(_SHARED):
        for path in Path(folder).glob(f"gauge_live*_{number}.db"):
            path.unlink(missing_ok=True)
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
