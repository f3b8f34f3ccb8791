"""Logs one of everything to the server named by MLFLOW_TRACKING_URI, as a client of MLflow 3.10 or newer does."""

import json
import math
import pathlib
import tempfile
import time

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

client = MlflowClient()
now = int(time.time() * 1000)
ratings = client.create_experiment("ratings", tags={"team": "films", "söng": "naïve ☃"})
empty = client.create_experiment("empty")
gone = client.create_experiment("gone")
client.delete_experiment(gone)

runs = []
for number in range(3):
    run = client.create_run(ratings, run_name=f"run {number}", tags={"kind": "baseline"})
    identifier = run.info.run_id
    runs.append(identifier)
    client.log_batch(
        identifier,
        [Metric("rmse", 1 / (step + 1) + number, now + step, step) for step in range(250)],
        [Param("factors", str(20 * number)), Param("long", "x" * 5000)],
        [RunTag("note", "five\nstars")],
    )
    for value in (math.nan, math.inf, -math.inf, -0.0, 1e-300):
        client.log_metric(identifier, "odd", value, step=7)
    dataset = Dataset(
        "ml-latest-small", "abc123", "local", json.dumps({"uri": "ratings.csv"}), schema="{}", profile="{}"
    )
    client.log_inputs(identifier, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    with tempfile.TemporaryDirectory() as folder:
        note = pathlib.Path(folder, "note.txt")
        note.write_text(f"stars of run {number}")
        client.log_artifact(identifier, str(note), "notes")
    client.set_terminated(identifier, "FINISHED" if number else "FAILED")
deleted = client.create_run(ratings).info.run_id
client.delete_run(deleted)

model = client.create_logged_model(
    ratings, "svd", runs[0], tags={"flavour": "arrays"}, params={"k": "64"}, model_type="recommender"
)
client.finalize_logged_model(model.model_id, "READY")

client.create_registered_model("dev.movie-recommender", tags={"owner": "ana"}, description="films")
for identifier in runs:
    version = client.create_model_version(
        "dev.movie-recommender",
        f"runs:/{identifier}/notes",
        identifier,
        tags={"digest": identifier[:8]},
        description=f"of {identifier}",
    )
client.set_registered_model_alias("dev.movie-recommender", "champion", "3")
client.set_registered_model_alias("dev.movie-recommender", "previous", "2")
client.create_registered_model("staging.movie-recommender")
