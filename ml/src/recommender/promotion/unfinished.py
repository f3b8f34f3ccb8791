"""Clean up after an interrupted promotion."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# Marks a run and a version in progress; the next promotion removes leftovers.
PENDING = "promotion_pending"


def remove_unfinished(name: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Complete an interrupted promotion if its aliases had begun to move; otherwise remove it."""
    import mlflow

    client = mlflow.MlflowClient()
    registry.finish_alias_move(name)
    served = {*registry.aliases(name).values()}
    for version in registry.versions(name):
        if PENDING in version.tags and str(version.version) in served:
            done(version)
        elif PENDING in version.tags:
            say(f"removing {name} {version.version}, left from an interrupted promotion")
            client.delete_model_version(name, version.version)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], f"tags.{PENDING} != ''"):
        say(f"removing run {run.info.run_id}, left from an interrupted promotion")
        # A full disk needs the space before the next mlflow gc.
        with contextlib.suppress(stores.Untrusted):
            _artifacts(stores.require_server_store(run.info.artifact_uri)).delete_artifacts()
        client.delete_run(run.info.run_id)


def done(version: "ModelVersion") -> None:
    """Remove the mark from a complete version and its run."""
    import mlflow

    client, run = mlflow.MlflowClient(), registry.run_of(version)
    if run is not None and PENDING in run.data.tags:
        client.delete_tag(run.info.run_id, PENDING)
    client.delete_model_version_tag(version.name, str(version.version), PENDING)


def _artifacts(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)
