"""Register, find and load models in MLflow's registry; move their aliases."""

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recommender import confined, names, typed
from recommender.errors import InputError, RecommenderError
from recommender.tracking import stores

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION = "champion"
PREVIOUS = "previous"
# Tag of a registered model: its aliases' targets, only while they move.
_MOVING = "aliases_moving"
# Tag of a registered model: the source_digest deployed last and made champion.
_DEPLOYED = "deployed"


def register(model_uri: str, name: str, tags: dict[str, str]) -> str:
    """Register a logged model as a new version of `name`, make it champion and return the version.

    The former champion becomes `previous`.
    Raises RecommenderError for errors of MLflow.
    """
    import mlflow

    with stores.explained(f"{name}: MLflow does not register the model"):
        finish_alias_move(name)
        before = champion(name)
        version = str(mlflow.register_model(model_uri, name, tags=tags, await_registration_for=60).version)
        move_aliases(name, version, before)
    return version


def move_aliases(name: str, champion: str, previous: str | None) -> None:
    """Point the aliases to these versions; the champion can be served at every moment.

    MLflow moves one alias at a time, so a tag records the targets first. `finish_alias_move` completes an
    interrupted move.
    """
    import mlflow

    aliases = {CHAMPION: champion, PREVIOUS: previous}
    mlflow.MlflowClient().set_registered_model_tag(name, _MOVING, json.dumps(aliases))
    finish_alias_move(name)


def finish_alias_move(name: str) -> None:
    """Finish an interrupted move of the aliases of `name`, if there is one."""
    import mlflow

    client = mlflow.MlflowClient()
    found = _model(name)
    if found is None or _MOVING not in found.tags:
        return
    for alias, version in json.loads(found.tags[_MOVING]).items():
        # The version may have been deleted since.
        if version is not None and _found(client.get_model_version, name, version):
            client.set_registered_model_alias(name, alias, version)
    client.delete_registered_model_tag(name, _MOVING)


def deployed(name: str) -> str | None:
    """Return the source_digest that a deployment last made champion of `name`, or None."""
    found = _model(name)
    return found.tags.get(_DEPLOYED) if found else None


def set_deployed(name: str, digest: str) -> None:
    """Record that `digest` is deployed and was made champion."""
    import mlflow

    mlflow.MlflowClient().set_registered_model_tag(name, _DEPLOYED, digest)


def aliases(name: str) -> dict[str, str]:
    """Return the versions of `name` by alias; empty if the model is not registered."""
    found = _model(name)
    return {alias: str(version) for alias, version in found.aliases.items()} if found else {}


def versions(name: str) -> list["ModelVersion"]:
    """Return all versions of `name`, newest first; empty if the model is not registered."""
    import mlflow

    found = mlflow.search_model_versions(filter_string=f"name='{name}'")
    return sorted(found, key=lambda version: -int(version.version))


def version(name: str, number: str | None) -> "ModelVersion":
    """Return a version of `name`, by default its champion.

    Raises InputError, with the available versions, for a missing one.
    """
    import mlflow

    wanted = number or champion(name)
    client = mlflow.MlflowClient()
    if wanted is not None and re.fullmatch(r"[0-9]+", wanted):
        found: ModelVersion | None = _found(client.get_model_version, name, wanted)
        if found is not None:
            return found
    there = ", ".join(str(each.version) for each in versions(name)) or "none"
    raise InputError(
        f"{name} has no {f'version {number}' if number else CHAMPION}. Available versions: {there}."
        + ("" if number and there != "none" else others(name))
    )


def others(name: str) -> str:
    """Return a sentence for a model without a champion: other models that have one, or how to train."""
    of, _, model = name.partition(".")
    there = [each for each in with_champion(of) if each != model]
    if there:
        first = typed.quoted(there[0])
        named = ", ".join(there)
        return f" Models of {of} with a champion: {named}. Say --model {first}, with make MODEL={first}."
    return f" Train one with: {typed.train(model)}" if of == names.environment() else ""


def tags(of: "ModelVersion") -> dict[str, str]:
    """Return a version's tags, with its run's tags on the model's origin as defaults."""
    keys = (
        "algorithm",
        "dataset_digest",
        "source_digest",
        "source_commit",
        "model_digest",
        "artifact_digest",
        "holdout_digest",
    )
    run = run_of(of)
    return {key: run.data.tags[key] for key in keys if run and key in run.data.tags} | dict(of.tags)


def run_of(version: "ModelVersion") -> "Run | None":
    """Return the run of a version, or None if it was deleted."""
    import mlflow

    run: Run | None = _found(mlflow.MlflowClient().get_run, version.run_id) if version.run_id else None
    return run if run and run.info.lifecycle_stage == "active" else None


def check_places(version: "ModelVersion") -> None:
    """Check that the tracking server itself keeps a version's model and run.

    Raises Untrusted otherwise.
    """
    import mlflow

    client = mlflow.MlflowClient()
    if (run := run_of(version)) is not None:
        stores.require_server_store(run.info.artifact_uri)
    _pinned(client.get_model_version_download_uri(version.name, str(version.version)))


def _pinned(uri: str) -> str:
    """Return `uri` with the alias resolved, as it could move; raises Untrusted like `check_places`."""
    import mlflow
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    client = mlflow.MlflowClient()
    parts = urlsplit(uri)
    if parts.scheme == "runs":
        stores.require_server_store(
            client.get_run(parts.path.lstrip("/").partition("/")[0]).info.artifact_uri
        )
        return uri
    if parts.scheme != "models":
        return stores.require_server_store(uri)
    root, inner = ModelsArtifactRepository.split_models_uri(uri)  # type: ignore[no-untyped-call]
    named = get_model_name_and_version(client, root)  # type: ignore[no-untyped-call]
    if len(named) == 1:
        stores.require_server_store(client.get_logged_model(named[0]).artifact_location)
    else:
        check_places(client.get_model_version(*named))
    return f"models:/{'/'.join([*map(str, named), *filter(None, [inner])])}"


def _model(name: str) -> "RegisteredModel | None":
    """Return the registered model, or None.

    Uses search, not get: with logins on, MLflow answers 403 rather than 404 for a missing model unless you
    are admin.
    """
    import mlflow

    return next(iter(mlflow.MlflowClient().search_registered_models(f"name='{name}'")), None)


def _found(get: Any, *arguments: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return get(*arguments)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def with_champion(environment: str) -> list[str]:
    """Return an environment's models with a champion, named without the environment."""
    return [each.name.partition(".")[2] for each in models(environment) if CHAMPION in each.aliases]


def models(environment: str) -> list["RegisteredModel"]:
    """Return an environment's registered models, sorted by name."""
    import mlflow

    found: list[RegisteredModel] = []
    pattern, page = f"name LIKE '{names.checked_environment(environment)}.%'", None
    while True:
        part = mlflow.MlflowClient().search_registered_models(pattern, page_token=page)
        # _ is a wildcard of LIKE, and MLflow allows names that we do not.
        found += [each for each in part if names.is_name_of(environment, each.name)]
        page = part.token
        if not page:
            return sorted(found, key=lambda each: str(each.name))


def champion(name: str) -> str | None:
    """Return the version of `name` with the alias champion, or None."""
    return aliases(name).get(CHAMPION)


def load(uri: str, train: str = "recommender train") -> Any:
    """Load a model by its MLflow URI.

    The model's code runs in this process.
    Raises InputError, with the command `train`, for a missing model, RecommenderError for an account with
    sudo on a server, and Untrusted when the tracking server does not keep the model itself.
    """
    confined.check()
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        # The user chose the path, not a server.
        with stores.own_code():
            return mlflow.pyfunc.load_model(
                _pinned(uri) if urlsplit(uri).scheme in ("models", "runs") else uri
            )
    # ValueError: an address that MLflow cannot parse
    except (MlflowException, OSError, ValueError) as error:
        reason = error.message if isinstance(error, MlflowException) else str(error)
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise RecommenderError(f"{uri}: MLflow does not let this login read it: {reason}") from error
        raise InputError(f"{uri}: no such model: {reason.rstrip('.')}. Train one with: {train}") from error
