"""The gate's checks run on a version: its files, its answers, its latency."""

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
from recommender.tracking import registry

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
# Seconds that loading and answering may take.
PROBE_TIMEOUT = 300
# Bytes that it may write, its answer included, and that are read of that.
PROBE_OUTPUT = 2**24
# The model brings code of its own. It gets an account that owns nothing, no network, no place to write and
# no more memory than a server has to spare.
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
    """All checks, in order; what cannot be tried because an earlier one failed is left out."""
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
    )
    theirs = None
    if champion is not None:
        champion_run = registry.run_of(champion)
        theirs = gate.Measured(
            f"{champion.name} {champion.version}",
            champion_run.data.metrics if champion_run else {},
            registry.tags(champion).get("holdout_digest"),
        )
    yield gate.metrics(candidate, theirs, settings.margins)
    yield gate.size(bundle.size(folder), settings.size_mb)
    # Nothing of what was changed is run.
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
        mend = "Find out what its code does: the answer is not what loading and asking a model gives."
        yield gate.Check("loads", False, f"it printed what is no answer ({error!r})", mend)
        return
    yield gate.Check("loads", True, found)
    yield golden
    yield latency


def check_whole(version: "ModelVersion") -> None:
    """Raise Refusal when the artifacts of a version are not those that training recorded.

    Raises Untrusted where the tracking server does not keep them itself.
    """
    recorded = registry.tags(version).get("artifact_digest")
    if not recorded:
        # trained before digests were recorded: there is nothing to compare with
        registry.check_places(version)
        return
    with tempfile.TemporaryDirectory() as scratch:
        bundle.download(str(version.run_id), str(version.source), Path(scratch))
        found = gate.digest(bundle.artifact_digest(bundle.digests(Path(scratch))), recorded)
    if not found.passed:
        raise Refusal(f"{version.name} {version.version} is damaged: {found.found}. The champion stays.")


def _probe(model: Path, golden: Path, sandbox: bool) -> tuple[dict[str, Any] | None, str]:
    """What probe.py prints, or None and why it printed nothing."""
    paths = {Path(probe.__file__): "/tmp/probe.py", model: "/tmp/model", golden: "/tmp/golden.json"}
    command = [sys.executable, "-IB", *map(str, paths)]
    if sandbox:
        # where it sees them; it cannot look into the folder of the one who promotes
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
        return None, f"it printed what is no answer: {printed[:100]!r}"
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
