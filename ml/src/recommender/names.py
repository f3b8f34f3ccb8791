"""Name models and environments."""

import os
import re

from recommender.errors import InputError

# The default without a parameter file.
MODEL = "movie-recommender"
# No characters special to MLflow's URIs and filters, or to terminals.
MODEL_NAME = r"[^/:.'\"\s\x00-\x1f\x7f-\x9f]+"


def environment() -> str:
    """Return RECOMMENDER_ENVIRONMENT, by default dev; raises InputError for an invalid name."""
    return checked_environment(os.environ.get("RECOMMENDER_ENVIRONMENT") or "dev", "RECOMMENDER_ENVIRONMENT=")


def checked_environment(name: str, where: str = "") -> str:
    """Return `name`; raises InputError, beginning with `where`, for an invalid environment name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"{where}{name!r}: use letters, digits, - and _, as in dev, staging, prod.")
    return name


def registered_name(environment: str, model: str) -> str:
    """Return <environment>.<model>; raises InputError for invalid parts."""
    if not re.fullmatch(MODEL_NAME, model):
        raise InputError(
            f"{model!r} is not a valid model name: blanks, quotes, dots, colons and slashes are not allowed."
        )
    return f"{checked_environment(environment)}.{model}"


def is_name_of(environment: str, name: str) -> bool:
    """Check that `name` is a valid registered name of the environment."""
    first, _, model = name.partition(".")
    return first == environment and re.fullmatch(MODEL_NAME, model) is not None
