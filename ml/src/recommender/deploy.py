"""Make the deployed code and data champion: train, restore an earlier version, or leave the champion."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender import names, uris
from recommender.errors import InputError, RecommenderError
from recommender.promotion import trial, unfinished
from recommender.tracking import registry, runs, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from recommender.config import Config
    from recommender.train import Report


@dataclass(frozen=True)
class Verdict:
    """The work of a run: `what` is champion (nothing), stays (nothing), back (to `version`) or train.

    `champion` is the present champion's version, `says` a sentence for people.
    """

    what: str
    champion: str | None
    version: str | None
    says: str


def judge(name: str, wanted: str) -> Verdict:
    """Compare the deployed source_digest, `wanted`, with the champion of `name`.

    A new deployment makes its version champion. If a deployment was champion before, people decide: a version
    trained, rolled back to or promoted since then stays champion, and the verdict says so.
    """
    champion = registry.champion(name)
    versions = registry.versions(name)
    fitting = [str(each.version) for each in versions if _is_of(each, wanted)]
    now = next((each for each in versions if str(each.version) == champion), None)
    if champion is not None and champion in fitting:
        return Verdict(
            "champion", champion, champion, f"{name} {champion} is champion and matches the deployment."
        )
    if now is not None and registry.deployed(name) == wanted:
        environment, _, model = name.partition(".")
        made, asked = (of.partition(":")[2] for of in (now.tags.get("source_digest", ""), wanted))
        # make reads the name from the parameter file; MODEL works everywhere.
        other = "" if model == names.MODEL else f" MODEL={shlex.quote(model)}"
        mend = (
            f"make rollback ENV={environment} VERSION={fitting[0]}{other}"
            if fitting
            else "make train, in the folder of the job"
        )
        return Verdict(
            "stays",
            champion,
            fitting[0] if fitting else None,
            f"{name} {champion}, of {made or 'another source'}, is champion, but {asked} is deployed. The "
            f"champion was trained or chosen since and stays. To change that: {mend}",
        )
    if fitting:
        says = f"{name} {fitting[0]} matches the deployment and becomes champion again."
        return Verdict("back", champion, fitting[0], says)
    return Verdict("train", champion, None, f"{name} has no version of the deployment. It is trained.")


def _is_of(version: "ModelVersion", wanted: str) -> bool:
    return version.tags.get("source_digest") == wanted and unfinished.PENDING not in version.tags


def deploy(
    config: "Config",
    wanted: str,
    uri: str | None,
    report: Path | None,
    check: bool,
    say: Callable[[str], None] = lambda line: None,
    tell: Callable[["Report"], None] = lambda report: None,
) -> dict[str, Any]:
    """Carry out the verdict of `judge`, or only report it with `check`.

    `tell` gets the report of a training. Returns the verdict with the resulting champion.
    Raises InputError for data and parameters, RecommenderError for errors of MLflow.
    """
    name = names.registered_name(names.environment(), config.tracking.model)
    uri = stores.connect(uri)
    with stores.explained(f"{uris.redacted(uri)}: MLflow"):
        if not check:
            registry.finish_alias_move(name)
            runs.end_lost(runs.experiment(config.tracking.experiment, uri))
        verdict = judge(name, wanted)
        say(verdict.says)
        if check:
            return asdict(verdict)
        champion = verdict.champion
        if verdict.what == "back":
            champion = _back(name, wanted, champion, say)
            if champion is None:
                verdict = Verdict("train", verdict.champion, None, f"{name} is trained again.")
            elif report is not None:
                _restore(name, champion, report)
        if verdict.what == "train":
            champion = _train(config, uri, report, say, tell)
        if verdict.what != "stays" and registry.deployed(name) != wanted:
            registry.set_deployed(name, wanted)
    return {**asdict(verdict), "champion": champion}


def _back(name: str, wanted: str, before: str | None, say: Callable[[str], None]) -> str | None:
    """Make the newest intact version of the deployment champion; return it, or None."""
    for version in registry.versions(name):
        if not _is_of(version, wanted):
            continue
        try:
            if registry.run_of(version) is None:
                raise InputError(f"{name} {version.version}: its run is deleted.")
            trial.check_whole(version)
        except RecommenderError as error:
            say(f"skipped: {error}")
            continue
        registry.move_aliases(name, str(version.version), before)
        return str(version.version)
    return None


def _train(
    config: "Config",
    uri: str,
    path: Path | None,
    say: Callable[[str], None],
    tell: Callable[["Report"], None],
) -> str:
    from recommender import train

    report = train.train(config, uri, True, say)
    tell(report)
    if path is not None:
        train.write_report(path, report)
    return str(report["model"]["version"])


def _restore(name: str, number: str, path: Path) -> None:
    """Restore the report of a version's training if its run has kept it."""
    from recommender import train

    report = train.kept_report(registry.version(name, number))
    if report is not None:
        train.write_report(path, report)
