"""Logs to a server that already holds something: identifiers must go on, not begin anew."""

from mlflow import MlflowClient

client = MlflowClient()
known = {experiment.experiment_id for experiment in client.search_experiments()}
experiment = client.create_experiment("later")
assert experiment not in known
run = client.create_run(experiment).info.run_id
client.log_metric(run, "rmse", 0.5)
client.create_registered_model("prod.movie-recommender")
assert client.create_model_version("dev.movie-recommender", f"runs:/{run}/notes", run).version in (4, "4")
