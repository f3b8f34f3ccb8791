"""MLflow's model registry: names by environment, and the aliases that say what is served."""

import os
import re
from typing import Any

from recommender.errors import InputError, RecommenderError

CHAMPION = "champion"
PREVIOUS = "previous"


def environment() -> str:
    """RECOMMENDER_ENVIRONMENT, or dev; raises InputError for a name that cannot be part of a model's name."""
    name = os.environ.get("RECOMMENDER_ENVIRONMENT") or "dev"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(
            f"RECOMMENDER_ENVIRONMENT={name!r}: use letters, digits, - and _, as in dev, staging, prod."
        )
    return name


def register(model_uri: str, name: str, tags: dict[str, str]) -> str:
    """Register a logged model as a new version of `name` and make it champion; returns the version.

    The champion before becomes `previous`, first, so that an interruption leaves a champion that can be
    served.
    Raises RecommenderError for whatever MLflow refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        before = champion(name)
        version = str(mlflow.register_model(model_uri, name, tags=tags, await_registration_for=60).version)
        if before is not None:
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as error:
        raise RecommenderError(f"{name}: MLflow does not register the model: {error.message}") from error
    return version


def champion(name: str) -> str | None:
    """The version of `name` that alias champion points to, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def load(uri: str) -> Any:
    """Load a model by its MLflow URI; raises InputError when there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        reason = error.message if isinstance(error, MlflowException) else str(error)
        raise InputError(f"{uri}: no such model: {reason} Train one with: recommender train") from error
