"""A version's way from one environment to the next, the way back, and the picture of all.

Runs where the target's registry is. Whatever ends a promotion before its last step (an error, a kill, a full
disk) leaves the champion as it was, and the next run removes what was begun; that step itself it finishes.
"""

import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender import bundle, evidence, gate, manifest, probe, registry, tracking, typed
from recommender.errors import InputError, RecommenderError, Refusal

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# On a run and a version that are being written; whoever finds it without a promotion at work removes them.
PENDING = "promotion_pending"
# Seconds that loading and answering may take.
PROBE_TIMEOUT = 300
_UNDONE = (
    "\nWhat was begun is undone, now or by the next run, and finished where the aliases had begun to move."
)
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


def export(environment: str, model: str, number: str | None, path: Path) -> str:
    """Write a version, by default the champion, into the archive `path`; returns its name and number."""
    with _mlflow(f"{environment}: MLflow cannot give the version"):
        version = registry.version(registry.registered_name(environment, model), number)
        if PENDING in version.tags:
            raise InputError(
                f"{version.name} {version.version} is what an interrupted promotion left: choose another."
            )
        with tempfile.TemporaryDirectory() as scratch:
            bundle.write(version, environment, path, Path(scratch))
    return f"{version.name} {version.version}"


def promote(
    archive: Path,
    target: str,
    settings: gate.Settings,
    overridden: frozenset[str] = frozenset(),
    by: str = "",
    sandbox: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Let an exported version pass the gate, write it into the target by value and make it champion.

    Returns a sentence with the new version. `sandbox` shuts the model's own code into a systemd unit while it
    is tried, which needs root. `by` says who promotes, `say` gets each check and step.
    Raises Refusal, with all failed checks, InputError, and RecommenderError for what MLflow cannot do.
    """
    if unknown := sorted(overridden - {*gate.OVERRIDABLE}):
        raise InputError(
            f"{', '.join(unknown)} cannot be overridden. What can: {', '.join(gate.OVERRIDABLE)}; "
            "a version that was changed or does not load is never promoted."
        )
    if not archive.is_file():
        raise InputError(
            f"{archive}: no such file. Write it first: "
            f"recommender export --environment {gate.before(target)} --output {typed.quoted(archive)}"
        )
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch, _mlflow(f"{target}: MLflow", _UNDONE):
        folder = Path(scratch)
        content = bundle.read(archive, folder, gate.before(target))
        source = content["environment"]
        if source == target:
            raise InputError(f"From and to are both {target}: a version moves to another environment.")
        name = registry.registered_name(target, content["name"].removeprefix(f"{source}."))
        tidy(name, say)
        before = registry.champion(name)
        champion = registry.version(name, before) if before else None
        digest = content["tags"].get("artifact_digest")
        if champion and digest and registry.tags(champion).get("artifact_digest") == digest:
            return f"{name} {before} is {content['name']} {content['version']}, and champion already."
        failed = []
        for check in judge(content, folder, target, champion, settings, sandbox):
            verdict = "passed" if check.passed else "OVERRIDDEN" if check.name in overridden else "FAILED"
            say(f"  {check.name:8} {verdict:10} {check.found}")
            if not check.passed:
                failed.append(check)
        refusing = [check for check in failed if check.name not in overridden]
        if refusing:
            names = ",".join(check.name for check in refusing)
            able = all(check.name in gate.OVERRIDABLE for check in refusing)
            raise Refusal(
                f"{content['name']} {content['version']} is not promoted; {target} is as it was.\n"
                + "\n".join(f"  {check.name}: {check.found}. {check.mend}" for check in refusing)
                + (f"\nIf you know better: OVERRIDE={names}" if able else "")
            )
        lineage = content["tags"].get("lineage")
        step = f"{source} {content['version']} (run {content['run']['id'][:8]})"
        origin = {
            "source_environment": source,
            "source_version": content["version"],
            "source_run_id": content["run"]["id"],
            "promoted_by": by,
            "promoted_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "lineage": f"{lineage} > {step}" if lineage else step,
            "overridden": "; ".join(f"{check.name}: {check.found}" for check in failed),
        }
        tags = {key: value for key, value in {**content["tags"], **origin}.items() if value}
        say(f"copying to {target}")
        try:
            version = _copy(content, folder, name, {**tags, "environment": target}, before)
        except BaseException:
            # where this cannot, the next run will
            with contextlib.suppress(Exception):
                tidy(name, say)
            raise
    was = f"; {before} is previous" if before else ""
    return f"{name} {version} is champion, copied from {content['name']} {content['version']}{was}."


def judge(
    content: dict[str, Any],
    folder: Path,
    target: str,
    champion: "ModelVersion | None",
    settings: gate.Settings,
    sandbox: bool,
) -> Iterator[gate.Check]:
    """All checks, in order; what cannot be tried because an earlier one failed is left out."""
    yield gate.order(content["environment"], target)
    whole = gate.digest(
        bundle.seal(content["files"]), content["tags"].get("artifact_digest"), _damage(folder / bundle.MODEL)
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


def rollback(environment: str, model: str, number: str | None = None) -> str:
    """Make a version champion, by default `previous`, and the champion `previous`; returns a sentence.

    Raises InputError when there is nothing to go back to, Refusal when its files are not what they were.
    """
    name = registry.registered_name(environment, model)
    with _mlflow(f"{environment}: MLflow", _UNDONE):
        tidy(name)
        now = registry.aliases(name)
        champion, wanted = now.get(registry.CHAMPION), number or now.get(registry.PREVIOUS)
        if number is None and (champion is None or wanted is None or champion == wanted):
            there = f"champion {champion}" if champion else "no champion"
            others = "" if champion else registry.others(name)
            raise InputError(f"{name} has {there} and no version before it to go back to.{others}")
        version = registry.version(name, wanted)
        wanted = str(version.version)
        if wanted == champion:
            return f"{name} {wanted} is champion already. Nothing was changed."
        check_whole(version)
        registry.point(name, wanted, champion)
    after = f", {champion} is previous. Once more goes forward again" if champion else ""
    return f"{name} {wanted} is champion{after}."


def tidy(name: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Finish what was interrupted where the aliases had begun to move, and remove it where they had not."""
    import mlflow

    client = mlflow.MlflowClient()
    registry.settle(name)
    served = {*registry.aliases(name).values()}
    for version in registry.versions(name):
        if PENDING in version.tags and str(version.version) in served:
            _done(version)
        elif PENDING in version.tags:
            say(f"removing {name} {version.version}, which an interrupted promotion left")
            client.delete_model_version(name, version.version)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], f"tags.{PENDING} != ''"):
        say(f"removing run {run.info.run_id}, which an interrupted promotion left")
        # mlflow gc would free the place one day; a full disk needs it now
        with contextlib.suppress(tracking.Untrusted):
            _artifacts(tracking.trusted(run.info.artifact_uri)).delete_artifacts()
        client.delete_run(run.info.run_id)


def picture(environment: str) -> str:
    """All versions of an environment's models as text: aliases, metrics, and where each came from."""
    import mlflow

    with _mlflow(f"{environment}: MLflow"):
        client = mlflow.MlflowClient()
        pattern = registry.registered_name(environment, "%")
        found: list[str] = []
        page = None
        while True:
            part = client.search_registered_models(f"name LIKE '{pattern}'", page_token=page)
            found += [each.name for each in part]
            page = part.token
            if not page:
                break
        # _ is a wildcard of LIKE, and MLflow lets others give names that nothing here does
        names = sorted(name for name in found if registry.usable(environment, name))
        lines = []
        for name in names:
            of = registry.aliases(name)
            rows = [_row(version, of) for version in registry.versions(name)]
            widths = [max(len(row[at]) for row in [_HEADS, *rows]) for at in range(len(_HEADS))]
            lines += [
                name,
                *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in [_HEADS, *rows]),
            ]
    return "\n".join(lines or [f"{environment}: no model is registered."])


_HEADS = [
    "version",
    "alias",
    "registered (UTC)",
    "algorithm",
    "rmse",
    "mae",
    "ndcg_at_k",
    "data",
    "code",
    "from",
]


def _row(version: "ModelVersion", aliases: dict[str, str]) -> list[str]:
    tags, run = registry.tags(version), registry.run_of(version)
    numbers, origin = (run.data.metrics, "trained here") if run else ({}, "its run is deleted")
    if "lineage" in tags:
        by = f", promoted by {tags.get('promoted_by', 'unknown')}"
        origin = tags["lineage"] + by + (f"; overridden {tags['overridden']}" if "overridden" in tags else "")
    if PENDING in version.tags:
        origin = "unfinished: the next promotion removes it"
    moment = datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC)
    code, _, conf = tags.get("source_digest", "").partition(":")
    code = tags.get("source_commit", code)
    row = [
        str(version.version),
        ",".join(sorted(alias for alias, of in aliases.items() if of == str(version.version))),
        moment.strftime("%Y-%m-%d %H:%M"),
        tags.get("algorithm", ""),
        *(f"{numbers[key]:.4f}" if key in numbers else "" for key in ("rmse", "mae", "ndcg_at_k")),
        tags.get("dataset_digest", "")[:8],
        f"{code[:8]}{'+' if code.endswith('+') else ''} {conf}".strip(),
        origin,
    ]
    # whoever reaches MLflow can write tags, and what a terminal obeys into them
    return ["".join(sign if sign.isprintable() else "?" for sign in text) for text in row]


def _copy(content: dict[str, Any], folder: Path, name: str, tags: dict[str, str], before: str | None) -> str:
    """Write the version down in this registry; the aliases move last. Returns its number."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client, source = mlflow.MlflowClient(), content["run"]
    kept = {key: value for key, value in source["tags"].items() if key not in _OF_THE_STORE}
    run = client.create_run(
        tracking.experiment(name, mlflow.get_tracking_uri()),
        start_time=source["start_time"],
        run_name=source["name"],
        tags={PENDING: tags["promoted_at"]},
    )
    run_id = run.info.run_id
    tracking.trusted(run.info.artifact_uri)
    params = [Param(key, value) for key, value in source["params"].items()]
    notes = [RunTag(key, value) for key, value in {**kept, **tags}.items()]
    metrics = [Metric(*point) for point in source["metrics"]]
    # as many as MLflow takes in one request
    for at in range(0, max(len(params), len(notes)), 100):
        client.log_batch(run_id, params=params[at : at + 100], tags=notes[at : at + 100])
    for at in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[at : at + 1000])
    inputs = [
        DatasetInput(
            Dataset(**each["dataset"]), [InputTag(key, value) for key, value in each["tags"].items()]
        )
        for each in source["inputs"]
    ]
    if inputs:
        tracking.log_inputs(client, run_id, inputs)
    client.log_artifacts(run_id, str(folder / bundle.RUN))
    client.log_artifacts(run_id, str(folder / bundle.MODEL), bundle.MODEL)
    place = f"{run.info.artifact_uri}/{bundle.MODEL}"
    _compare(run_id, place, content["files"])
    client.set_terminated(run_id, "FINISHED", source["end_time"])
    with contextlib.suppress(mlflow.exceptions.MlflowException):
        client.create_registered_model(name)
    version = client.create_model_version(
        name,
        place,
        run_id,
        tags={**tags, PENDING: tags["promoted_at"]},
        description=content["description"] or None,
    )
    registry.point(name, str(version.version), before)
    _done(version)
    return str(version.version)


# Tags of a run that mean something in its own store alone, or of its own promotion.
_OF_THE_STORE = (
    "mlflow.parentRunId",
    "mlflow.rootRunId",
    "mlflow.log-model.history",
    "overridden",
    PENDING,
    *tracking.PROCESS,
)


def _done(version: "ModelVersion") -> None:
    import mlflow

    client, run = mlflow.MlflowClient(), registry.run_of(version)
    if run is not None and PENDING in run.data.tags:
        client.delete_tag(run.info.run_id, PENDING)
    client.delete_model_version_tag(version.name, str(version.version), PENDING)


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
        found = gate.digest(bundle.seal(bundle.digests(Path(scratch))), recorded)
    if not found.passed:
        raise Refusal(f"{version.name} {version.version} is damaged: {found.found}. The champion stays.")


def _compare(run_id: str, place: str, files: dict[str, str]) -> None:
    """Raise RecommenderError when the store does not give back what was written into it."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle.download(run_id, place, Path(scratch))
        found = bundle.digests(Path(scratch))
    if found != files:
        name = min(key for key in {*files, *found} if files.get(key) != found.get(key))
        raise RecommenderError(
            f"The artifact store does not give back {name} as it was written. Is its disk full?"
        )


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


def _artifacts(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)


@contextlib.contextmanager
def _mlflow(what: str, then: str = "") -> Iterator[None]:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, OSError) as error:
        raise RecommenderError(
            f"{what}: {getattr(error, 'message', error)}{then}\nLook at the disk there (df -h) and the "
            "server's journal (journalctl -u mlflow), then type the same again."
        ) from error
