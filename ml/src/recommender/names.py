"""What models and environments are called."""

import os
import re

from recommender.errors import InputError

# Where no parameter file says it.
MODEL = "movie-recommender"
# What it can be: no signs of MLflow's URIs and filters, and nothing that a terminal obeys.
MODEL_NAME = r"[^/:.'\"\s\x00-\x1f\x7f-\x9f]+"


def environment() -> str:
    """RECOMMENDER_ENVIRONMENT, or dev; raises InputError for a name that cannot be part of a model's name."""
    return checked_environment(os.environ.get("RECOMMENDER_ENVIRONMENT") or "dev", "RECOMMENDER_ENVIRONMENT=")


def checked_environment(name: str, where: str = "") -> str:
    """`name`, where it can be part of a model's name; raises InputError, after `where`, where it cannot."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"{where}{name!r}: use letters, digits, - and _, as in dev, staging, prod.")
    return name


def registered_name(environment: str, model: str) -> str:
    """<environment>.<model>; raises InputError for parts that cannot be one."""
    if not re.fullmatch(MODEL_NAME, model):
        raise InputError(
            f"{model!r} is no model's name: it holds no blanks, quotes, dots, colons and slashes."
        )
    return f"{checked_environment(environment)}.{model}"


def is_name_of(environment: str, name: str) -> bool:
    """Whether `name` is one that `registered_name` gives for the environment."""
    first, _, model = name.partition(".")
    return first == environment and re.fullmatch(MODEL_NAME, model) is not None
