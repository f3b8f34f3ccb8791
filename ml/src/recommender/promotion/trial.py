"""Run the gate's checks on a version: its files, its answers, its latency."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender.errors import InputError, Refusal
from recommender.promotion import bundle, evidence, gate, probe
from recommender.serving import manifest
from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
# Limit in seconds for loading and answering.
PROBE_TIMEOUT = 300
# Limit in bytes for its files and for its output.
PROBE_OUTPUT = 2**24
# A model contains foreign code: no rights, network or disk, little memory.
_SANDBOX = (
    "systemd-run --quiet --pipe --wait --collect --service-type=exec --setenv=MLFLOW_DISABLE_TELEMETRY=true "
    "--setenv=HOME=/tmp -p DynamicUser=yes -p PrivateNetwork=yes -p PrivateDevices=yes "
    "-p ProtectSystem=strict -p ProtectHome=yes -p ProtectProc=invisible -p CapabilityBoundingSet= "
    "-p RestrictAddressFamilies=AF_UNIX -p SystemCallFilter=@system-service -p MemoryMax=2G "
    f"-p MemorySwapMax=0 -p TasksMax=256 -p LimitFSIZE={PROBE_OUTPUT} -p RuntimeMaxSec={PROBE_TIMEOUT}"
).split()


def run_checks(
    content: bundle.Content,
    folder: Path,
    target: str,
    champion: "ModelVersion | None",
    settings: gate.Settings,
    sandbox: bool,
) -> Iterator[gate.Check]:
    """Yield the checks in order; skip those that depend on a failed one."""
    yield gate.order(content["environment"], target)
    whole = gate.digest(
        bundle.artifact_digest(content["files"]),
        content["tags"].get("artifact_digest"),
        _damage(folder / bundle.MODEL),
    )
    yield whole
    run = content["run"]
    latest: dict[str, tuple[int, int, float]] = {}
    for key, value, at, step in run["metrics"]:
        latest[key] = max(latest.get(key, (-1, -1, 0.0)), (step, at, value))
    candidate = gate.Measured(
        f"{content['name']} {content['version']}",
        {key: value for key, (_, _, value) in latest.items()},
        content["tags"].get("holdout_digest"),
        evidence.read_lists(folder / bundle.RUN / evidence.LISTS),
    )
    theirs = None
    if champion is not None:
        champion_run = registry.run_of(champion)
        theirs = gate.Measured(
            f"{champion.name} {champion.version}",
            champion_run.data.metrics if champion_run else {},
            registry.tags(champion).get("holdout_digest"),
            _lists(champion_run) if champion_run else None,
        )
    yield gate.metrics(candidate, theirs, settings.margins)
    if settings.list_errors is not None:
        yield gate.lists(candidate, theirs, settings.list_errors)
    yield gate.size(bundle.size(folder), settings.size_mb)
    # Changed code is never run.
    if not whole.passed:
        return
    recorded = folder / bundle.RUN / evidence.GOLDEN
    answered, problem = _probe(folder / bundle.MODEL, recorded, sandbox)
    if answered is None:
        mend = "Compare the environment there with requirements.txt of the model."
        yield gate.Check("loads", False, problem, mend)
        return
    try:
        versions = ", ".join(f"{key} {value}" for key, value in answered["made_of"].items())
        surprise = "with" if answered["surprise"] else "without"
        found = f"{versions}, {surprise} Surprise, in {answered['load_seconds']:.1f} s"
        golden = gate.golden(json.loads(recorded.read_text(encoding="utf-8")), answered)
        latency = gate.latency(answered["latency_ms"], settings.latency_ms)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        mend = "Find out what its code does: its output has the wrong form."
        yield gate.Check("loads", False, f"its output is not a valid answer ({error!r})", mend)
        return
    yield gate.Check("loads", True, found)
    yield golden
    yield latency


def _lists(run: "Run") -> tuple[gate.Floats, gate.Floats] | None:
    """Return each user's NDCG as a run has it, None if it has not."""
    import mlflow

    run_id = run.info.run_id
    stores.require_server_store(str(run.info.artifact_uri))
    if evidence.LISTS not in {each.path for each in mlflow.MlflowClient().list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=evidence.LISTS, dst_path=scratch
        )
        return evidence.read_lists(Path(path))


def check_whole(version: "ModelVersion") -> None:
    """Compare a version's artifacts with the digest that training recorded.

    Raises Refusal if they differ, Untrusted if the tracking server does not keep them itself.
    """
    if not registry.tags(version).get("artifact_digest"):
        # Trained before digests were recorded.
        registry.check_places(version)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fetch_whole(version, Path(scratch))


def fetch_whole(version: "ModelVersion", folder: Path) -> None:
    """Download a version's artifacts into `folder` (see bundle.download); raises as `check_whole` does."""
    bundle.download(str(version.run_id), str(version.source), folder)
    recorded = registry.tags(version).get("artifact_digest")
    found = gate.digest(bundle.artifact_digest(bundle.digests(folder)), recorded)
    if recorded and not found.passed:
        raise Refusal(
            f"{version.name} {version.version} is damaged: {found.found}. The champion is unchanged."
        )


def _probe(model: Path, golden: Path, sandbox: bool) -> tuple[dict[str, Any] | None, str]:
    """Return probe.py's answer, or None and the reason for its failure."""
    paths = {Path(probe.__file__): "/tmp/probe.py", model: "/tmp/model", golden: "/tmp/golden.json"}
    command = [sys.executable, "-IB", *map(str, paths)]
    if sandbox:
        # The unit cannot read the promoting person's folder.
        seen = [f"--property=BindReadOnlyPaths={path}:{place}" for path, place in paths.items()]
        command = [*_SANDBOX, *seen, sys.executable, "-IB", *paths.values()]
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    clean["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problem:
        limit = PROBE_TIMEOUT + 30
        try:
            done = subprocess.run(
                command, env=clean, cwd="/", stdout=out, stderr=problem, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"loading and answering did not end within {PROBE_TIMEOUT} s"
        printed, said = (_read(file) for file in (out, problem))
    if done.returncode != 0:
        last = (said.strip().splitlines() or ["no message"])[-1]
        return None, f"the process that loads it ended with {done.returncode}: {last}"
    try:
        answered: dict[str, Any] = json.loads(printed)
    except ValueError:
        return None, f"its output is not a valid answer: {printed[:100]!r}"
    return answered, ""


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read(PROBE_OUTPUT).decode("utf-8", "replace"))


def _damage(model: Path) -> str:
    try:
        manifest.check(model / "artifacts" / "recommender", "recommender.npz")
    except InputError as error:
        return str(error)
    return ""
