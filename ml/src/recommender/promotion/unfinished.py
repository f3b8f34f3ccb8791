"""What a promotion that was cut off has left."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# On a run and a version that are being written; whoever finds it without a promotion at work removes them.
PENDING = "promotion_pending"


def remove_unfinished(name: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Finish what was interrupted where the aliases had begun to move, and remove it where they had not."""
    import mlflow

    client = mlflow.MlflowClient()
    registry.finish_alias_move(name)
    served = {*registry.aliases(name).values()}
    for version in registry.versions(name):
        if PENDING in version.tags and str(version.version) in served:
            done(version)
        elif PENDING in version.tags:
            say(f"removing {name} {version.version}, which an interrupted promotion left")
            client.delete_model_version(name, version.version)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], f"tags.{PENDING} != ''"):
        say(f"removing run {run.info.run_id}, which an interrupted promotion left")
        # mlflow gc would free the place one day; a full disk needs it now
        with contextlib.suppress(stores.Untrusted):
            _artifacts(stores.require_server_store(run.info.artifact_uri)).delete_artifacts()
        client.delete_run(run.info.run_id)


def done(version: "ModelVersion") -> None:
    """Take the mark off a version and its run: they are whole."""
    import mlflow

    client, run = mlflow.MlflowClient(), registry.run_of(version)
    if run is not None and PENDING in run.data.tags:
        client.delete_tag(run.info.run_id, PENDING)
    client.delete_model_version_tag(version.name, str(version.version), PENDING)


def _artifacts(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)
