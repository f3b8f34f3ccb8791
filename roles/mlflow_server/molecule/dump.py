"""Prints as JSON all that a client can read from the tracking server, one entry a thing, to compare two servers."""

import json
import pathlib

from mlflow import MlflowClient
from mlflow.entities import ViewType

client = MlflowClient()
found = {}
experiments = client.search_experiments(view_type=ViewType.ALL)
for experiment in experiments:
    found[f"experiment {experiment.experiment_id}"] = [
        experiment.name, experiment.lifecycle_stage, experiment.artifact_location, experiment.creation_time,
        experiment.tags,
    ]  # fmt: skip
identifiers = [experiment.experiment_id for experiment in experiments]
for run in client.search_runs(identifiers, run_view_type=ViewType.ALL, max_results=1000):
    identifier = run.info.run_id
    found[f"run {identifier}"] = [
        run.info.experiment_id, run.info.run_name, run.info.status, run.info.start_time, run.info.end_time,
        run.info.lifecycle_stage,
        run.info.artifact_uri, run.data.params, run.data.tags,
    ]  # fmt: skip
    for name, value in run.data.metrics.items():
        history = client.get_metric_history(identifier, name)
        points = sorted([repr(point.value), point.timestamp, point.step] for point in history)
        found[f"metric {identifier} {name}"] = [repr(value), points]
    for given in run.inputs.dataset_inputs:
        found[f"input {identifier} {given.dataset.name}"] = [
            given.dataset.digest, given.dataset.source, given.dataset.schema,
        [[tag.key, tag.value] for tag in given.tags],
        ]  # fmt: skip
    if run.info.lifecycle_stage == "active":
        for folder in client.list_artifacts(identifier):
            for file in client.list_artifacts(identifier, folder.path):
                found[f"artifact {identifier} {file.path}"] = pathlib.Path(
                    client.download_artifacts(identifier, file.path)
                ).read_text()
for model in client.search_logged_models(identifiers):
    found[f"logged model {model.model_id}"] = [
        model.experiment_id, model.name, str(model.status), model.source_run_id, model.model_type,
        model.tags, model.params,
        model.creation_timestamp, model.artifact_location,
    ]  # fmt: skip
for registered in client.search_registered_models():
    aliases = {name: str(version) for name, version in registered.aliases.items()}
    found[f"registered {registered.name}"] = [
        registered.description,
        registered.tags,
        aliases,
        registered.creation_timestamp,
    ]
    for version in client.search_model_versions(f"name='{registered.name}'"):
        found[f"version {registered.name} {version.version}"] = [
            version.source, version.run_id, version.status, version.description,
        version.tags, version.creation_timestamp,
            client.get_model_version_download_uri(registered.name, version.version),
        ]  # fmt: skip
print(json.dumps(found, sort_keys=True))
