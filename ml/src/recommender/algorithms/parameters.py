"""Check an algorithm's parameters."""

import math
from typing import Any

import numpy as np

from recommender.errors import InputError

# Minimum counts. Surprise accepts less and answers nonsense.
_LEAST = {"k": 1, "min_k": 0, "n_epochs": 1, "n_factors": 0, "min_support": 1}
_OPTIONS = {
    "sim_options": {"name", "user_based", "min_support", "shrinkage"},
    "bsl_options": {"method", "n_epochs", "reg_i", "reg_u", "reg", "learning_rate"},
}


def check(params: dict[str, Any], where: str = "params") -> None:
    """Raise InputError for invalid numbers, and for options that Surprise would ignore."""
    for key, value in params.items():
        if isinstance(value, dict) and key in _OPTIONS:
            if unknown := sorted(map(str, value.keys() - _OPTIONS[key])):
                known = ", ".join(sorted(_OPTIONS[key]))
                raise InputError(f"{where}.{key}: there is no {', '.join(unknown)}; there are: {known}.")
            check(value, f"{where}.{key}")
        elif key in _LEAST:
            try:
                check_number(f"{where}.{key}", value, _LEAST[key], 1e9, whole=True)
            except ValueError as error:
                raise InputError(f"{error}.") from error
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}.{key} is {value}, but must be a number.")


def check_number(
    name: str, value: Any, least: float, most: float = np.inf, whole: bool = False, above: bool = False
) -> None:
    """Raise ValueError unless `value` is finite and in the range; `least` itself is not, if `above`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most or (above and value == least):
        what = "a whole number" if whole else "a number"
        span = f"above {least:g}" if above else f"from {least:g} {'on' if most == np.inf else f'to {most:g}'}"
        raise ValueError(f"{name} is {value!r}, but must be {what} {span}")
