"""Export, promote and roll back versions.

Runs beside the target's registry. If a promotion is interrupted (an error, a kill, a full disk), the champion
does not change and the next run cleans up. An interrupted last step is completed by the next run.
"""

import contextlib
import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recommender import names, typed
from recommender.errors import InputError, RecommenderError, Refusal
from recommender.promotion import bundle, gate, trial, unfinished
from recommender.promotion.service import Service
from recommender.promotion.unfinished import PENDING
from recommender.tracking import registry, run_log, runs, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_UNDONE = (
    "\nAn unfinished promotion is undone, now or by the next run. If the aliases had begun to move, the next "
    "run completes it."
)


def export(environment: str, model: str, number: str | None, path: Path) -> str:
    """Write a version, by default the champion, into the archive `path`; returns its name and number."""
    with stores.explained(f"{environment}: MLflow cannot give the version", storing=True):
        version = registry.version(names.registered_name(environment, model), number)
        if PENDING in version.tags:
            raise InputError(
                f"{version.name} {version.version} is left from an interrupted promotion. Choose another."
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
    service: Service | None = None,
) -> str:
    """Check an exported version, copy it into the target, serve it and make it champion.

    `sandbox` tries the model's own code in a systemd unit, which needs root. `by` names the promoting person.
    `service` serves the target's champion; the version becomes champion only once it is served.
    `say` gets each check and step. Returns a sentence with the new version.
    Raises Refusal with all failed checks, InputError, and RecommenderError for errors of MLflow.
    """
    if unknown := sorted(overridden - {*gate.OVERRIDABLE}):
        raise InputError(
            f"{', '.join(unknown)} cannot be overridden. These can: {', '.join(gate.OVERRIDABLE)}. "
            "A version that was changed or does not load is never promoted."
        )
    if not archive.is_file():
        raise InputError(
            f"{archive}: no such file. Write it first: "
            f"recommender export --environment {gate.before(target)} --output {typed.quoted(archive)}"
        )
    mlflow = stores.explained(f"{target}: MLflow", _UNDONE, storing=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch, mlflow:
        folder = Path(scratch)
        content = bundle.read(archive, folder, gate.before(target))
        source = content["environment"]
        if source == target:
            raise InputError(f"Source and target are both {target}. Choose another environment.")
        name = names.registered_name(target, content["name"].removeprefix(f"{source}."))
        unfinished.remove_unfinished(name, say)
        before = registry.champion(name)
        champion = registry.version(name, before) if before else None
        digest = content["tags"].get("artifact_digest")
        if champion and digest and registry.tags(champion).get("artifact_digest") == digest:
            again = service is not None and service.ensure(champion, say)
            return f"{name} {before} is {content['name']} {content['version']}, and is champion already" + (
                ". It is served again." if again else "."
            )
        failed = []
        for check in trial.run_checks(content, folder, target, champion, settings, sandbox):
            verdict = "passed" if check.passed else "OVERRIDDEN" if check.name in overridden else "FAILED"
            say(f"  {check.name:8} {verdict:10} {check.found}")
            if not check.passed:
                failed.append(check)
        refusing = [check for check in failed if check.name not in overridden]
        if refusing:
            wanted = ",".join(check.name for check in refusing)
            able = all(check.name in gate.OVERRIDABLE for check in refusing)
            raise Refusal(
                f"{content['name']} {content['version']} is not promoted. {target} is unchanged.\n"
                + "\n".join(f"  {check.name}: {check.found}. {check.mend}" for check in refusing)
                + (f"\nIf you know better: OVERRIDE={wanted}" if able else "")
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
            version = _copy(content, folder, name, {**tags, "environment": target})
            serving = service.serving(version, folder, say) if service else contextlib.nullcontext()
            with serving:
                registry.move_aliases(name, str(version.version), before)
            unfinished.done(version)
        except BaseException:
            # If this fails, the next run does it.
            with contextlib.suppress(Exception):
                unfinished.remove_unfinished(name, say)
            raise
    was = f"; {before} is previous" if before else ""
    return f"{name} {version.version} is champion, copied from {content['name']} {content['version']}{was}."


def rollback(environment: str, model: str, number: str | None = None, service: Service | None = None) -> str:
    """Make a version, by default `previous`, champion and the champion `previous`; return a sentence.

    `service` serves it first.
    Raises InputError without a version to go back to, Refusal if its files were changed.
    """
    name = names.registered_name(environment, model)
    with stores.explained(f"{environment}: MLflow", _UNDONE, storing=True):
        unfinished.remove_unfinished(name)
        now = registry.aliases(name)
        champion, wanted = now.get(registry.CHAMPION), number or now.get(registry.PREVIOUS)
        if number is None and (champion is None or wanted is None or champion == wanted):
            there = f"champion {champion}" if champion else "no champion"
            others = "" if champion else registry.others(name)
            raise InputError(f"{name} has {there} and no version before it to go back to.{others}")
        version = registry.version(name, wanted)
        wanted = str(version.version)
        if wanted == champion:
            if service and service.ensure(version):
                return f"{name} {wanted} is champion already. It is served again."
            return f"{name} {wanted} is champion already. Nothing was changed."
        with tempfile.TemporaryDirectory() as scratch:
            if service:
                trial.fetch_whole(version, Path(scratch))
            else:
                trial.check_whole(version)
            serving = service.serving(version, Path(scratch)) if service else contextlib.nullcontext()
            with serving:
                registry.move_aliases(name, wanted, champion)
    after = f", {champion} is previous. Another rollback undoes this one" if champion else ""
    return f"{name} {wanted} is champion{after}."


def _copy(content: bundle.Content, folder: Path, name: str, tags: dict[str, str]) -> "ModelVersion":
    """Write the version into this registry and return it; it is marked as unfinished."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client, source = mlflow.MlflowClient(), content["run"]
    kept = {key: value for key, value in source["tags"].items() if key not in _OF_THE_STORE}
    run = client.create_run(
        runs.experiment(name, mlflow.get_tracking_uri()),
        start_time=source["start_time"],
        run_name=source["name"],
        tags={PENDING: tags["promoted_at"]},
    )
    run_id = run.info.run_id
    stores.require_server_store(run.info.artifact_uri)
    params = [Param(key, value) for key, value in source["params"].items()]
    notes = [RunTag(key, value) for key, value in {**kept, **tags}.items()]
    metrics = [Metric(*point) for point in source["metrics"]]
    # MLflow's limits for one request.
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
        run_log.log_inputs(client, run_id, inputs)
    client.log_artifacts(run_id, str(folder / bundle.RUN))
    client.log_artifacts(run_id, str(folder / bundle.MODEL), bundle.MODEL)
    place = f"{run.info.artifact_uri}/{bundle.MODEL}"
    _compare(run_id, place, content["files"])
    client.set_terminated(run_id, "FINISHED", source["end_time"])
    with contextlib.suppress(mlflow.exceptions.MlflowException):
        client.create_registered_model(name)
    return client.create_model_version(
        name,
        place,
        run_id,
        tags={**tags, PENDING: tags["promoted_at"]},
        description=content["description"] or None,
    )


# Tags of a run that belong to its own store or promotion.
_OF_THE_STORE = (
    "mlflow.parentRunId",
    "mlflow.rootRunId",
    "mlflow.log-model.history",
    "overridden",
    PENDING,
    *runs.PROCESS,
)


def _compare(run_id: str, place: str, files: dict[str, str]) -> None:
    """Compare the stored files with the originals; raise RecommenderError if they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle.download(run_id, place, Path(scratch))
        found = bundle.digests(Path(scratch))
    if found != files:
        name = min(key for key in {*files, *found} if files.get(key) != found.get(key))
        raise RecommenderError(f"The artifact store has changed {name}. Is its disk full?")
