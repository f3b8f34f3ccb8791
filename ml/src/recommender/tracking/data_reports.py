"""Log a run's data reports to MLflow; read the champion's."""

import json

from recommender.data import reports
from recommender.data.ratings import Ratings
from recommender.tracking import registry, stores

PROFILE = "data/profile.json"
IDS = "data/ids.json"


def of_champion(name: str) -> reports.Before | None:
    """Return the report of the data behind the champion of registered model `name`.

    None without a champion or its profile: the champion predates these reports, or its run was deleted.
    Raises RecommenderError when MLflow does not answer, Untrusted when another server keeps the reports.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with stores.explained(f"{name}: MLflow"):
        try:
            version = registry.champion(name)
            if version is None:
                return None
            run = str(mlflow.MlflowClient().get_model_version(name, version).run_id)
            stores.require_server_store(mlflow.MlflowClient().get_run(run).info.artifact_uri)
            found = {path.path for path in mlflow.MlflowClient().list_artifacts(run, "data")}
            if not {PROFILE, IDS} <= found:
                return None
            profile, ids = (
                json.loads(mlflow.artifacts.load_text(f"runs:/{run}/{path}")) for path in (PROFILE, IDS)
            )
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return {"version": version, "profile": profile, "ids": ids}


def log(run_id: str, ratings: Ratings, name: str) -> list[str]:
    """Log profile and ids to the active run as pages, JSON and metrics, with drift if `name` has a champion.

    Metrics are data_<number> and drift_<number>. Returns the remarks.
    """
    import mlflow

    now, before = reports.profile(ratings), of_champion(name)
    pages = {"data": now, **({"drift": reports.drift(ratings, now, before)} if before is not None else {})}
    mlflow.log_dict({"users": ratings.users, "items": ratings.items}, IDS)
    for key, report in pages.items():
        file = PROFILE if key == "data" else "data/drift.json"
        mlflow.log_dict(dict(report), file)
        mlflow.log_text(reports.page(report), file.replace(".json", ".html"))
        mlflow.log_metrics(
            {f"{key}_{name}": value for name, value in report["numbers"].items()}, run_id=run_id
        )
    return [remark for report in pages.values() for remark in report["remarks"]]
