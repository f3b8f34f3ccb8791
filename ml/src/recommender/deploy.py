"""What is deployed is champion, or the run says why not: train, go back to an earlier version, let it be."""

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
    """What a run has to do: `what` is champion (nothing), stays (nothing), back (to `version`) or train.

    `champion` is the version that is champion now, `says` a sentence for people.
    """

    what: str
    champion: str | None
    version: str | None
    says: str


def judge(name: str, wanted: str) -> Verdict:
    """Compare what is deployed (`wanted`, a source_digest) with the champion of `name`.

    A deployment that is new makes its version champion. One that was champion already leaves the choice to
    people: what they trained, chose by a rollback or promoted since stays, and the verdict says so.
    """
    champion = registry.champion(name)
    versions = registry.versions(name)
    fitting = [str(each.version) for each in versions if _is_of(each, wanted)]
    now = next((each for each in versions if str(each.version) == champion), None)
    if champion is not None and champion in fitting:
        return Verdict("champion", champion, champion, f"{name} {champion} is champion, of what is deployed.")
    if now is not None and registry.deployed(name) == wanted:
        environment, _, model = name.partition(".")
        made, asked = (of.partition(":")[2] for of in (now.tags.get("source_digest", ""), wanted))
        # make asks for the name in the parameter file; MODEL is right wherever it is typed
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
            f"{name} {champion}, of {made or 'something else'}, is champion and not {asked}, which is "
            f"deployed: somebody trained or chose it since. It stays. To change that: {mend}",
        )
    if fitting:
        says = f"{name} {fitting[0]} is of what is deployed; it becomes champion again."
        return Verdict("back", champion, fitting[0], says)
    return Verdict("train", champion, None, f"{name} has no version of what is deployed; it is trained.")


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
    """Do what `judge` says, or with `check` only say it; returns the verdict, with the champion after it.

    `tell` gets the report of a training.

    Raises InputError for data and parameters, RecommenderError for MLflow.
    """
    name = f"{names.environment()}.{config.tracking.model}"
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
                verdict = Verdict("train", verdict.champion, None, f"{name} is trained anew.")
            elif report is not None:
                _restore(name, champion, report)
        if verdict.what == "train":
            champion = _train(config, uri, report, say, tell)
        if verdict.what != "stays" and registry.deployed(name) != wanted:
            registry.set_deployed(name, wanted)
    return {**asdict(verdict), "champion": champion}


def _back(name: str, wanted: str, before: str | None, say: Callable[[str], None]) -> str | None:
    """Make the newest version champion that is of what is deployed and whole; returns it, or None."""
    for version in registry.versions(name):
        if not _is_of(version, wanted):
            continue
        try:
            if registry.run_of(version) is None:
                raise InputError(f"{name} {version.version}: its run is deleted.")
            trial.check_whole(version)
        except RecommenderError as error:
            say(f"left out: {error}")
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
    """Write the report of a version's training anew, where its run has kept it."""
    from recommender import train

    report = train.kept_report(registry.version(name, number))
    if report is not None:
        train.write_report(path, report)
