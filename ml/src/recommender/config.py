"""Read the parameter file: one YAML file and its seed determine a run."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recommender.errors import InputError
from recommender.names import MODEL, MODEL_NAME


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Columns(_Section):
    """Names of the columns in a CSV or Parquet file or an SQL table."""

    user: str = "userId"
    item: str = "movieId"
    rating: str = "rating"
    timestamp: str = "timestamp"
    title: str = "title"
    # The item column of the titles, if named differently than in the ratings.
    title_item: str | None = None

    @model_validator(mode="after")
    def _different(self) -> "Columns":
        names = [self.user, self.item, self.rating, self.timestamp]
        if again := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"user, item, rating and timestamp are four columns, and {again!r} is named twice"
            )
        return self


class DataConfig(_Section):
    """Location and format of the ratings; conf/default.yaml explains each key."""

    source: str
    format: Literal["auto", "latest", "100k", "1m", "csv", "jsonl", "parquet", "sql"] = "auto"
    table: str | None = None
    columns: Columns = Columns()
    separator: str | None = None
    header: bool = True
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    titles: str | None = None
    titles_separator: str | None = None
    titles_encoding: str | None = None
    scale: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()
    duplicates: Literal["error", "latest", "last", "first", "mean"] = "error"
    time_format: str | None = None

    @field_validator("missing", mode="before")
    @classmethod
    def _as_text(cls, missing: Any) -> Any:
        values = missing if isinstance(missing, list | tuple) else [] if missing is None else [missing]
        return tuple(value if isinstance(value, str) else f"{value:g}" for value in values)

    @field_validator("source")
    @classmethod
    def _from_a_pipe(cls, source: str) -> str:
        return "/dev/stdin" if source == "-" else source

    @field_validator("separator", "titles_separator")
    @classmethod
    def _one_character(cls, separator: str | None) -> str | None:
        if separator is None:
            return None
        # Spellings of shells and most tools; \\x01 is Hive's.
        separator = {"\\t": "\t", "tab": "\t", "\\x01": "\x01"}.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            hint = "; for '::' say format 1m" if separator == "::" else ""
            raise ValueError(f"one character, or \\t for a tab, and {separator!r} is not{hint}")
        return separator

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and not scale[0] < scale[1]:
            raise ValueError("the lowest rating comes first, as in [0.5, 5.0]")
        return scale

    @property
    def is_sql(self) -> bool:
        """Whether the source is an SQLAlchemy URL."""
        return self.format == "sql" or "://" in self.source


class RankingConfig(_Section):
    """The algorithm that orders lists; without one, that of the ratings orders them too."""

    algorithm: str | None = None
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _whose_params(self) -> "RankingConfig":
        if self.params and self.algorithm is None:
            raise ValueError("params without an algorithm; name it, as ranking.algorithm: UserEASE")
        return self


class EvaluationConfig(_Section):
    """Cross-validation and the ranking metrics' cut-offs."""

    folds: Annotated[int, Field(ge=2)] = 5
    k: Annotated[int, Field(ge=1)] = 10
    threshold: float | None = None


class RecommendationConfig(_Section):
    """Rules for lists from a trained model."""

    k: Annotated[int, Field(ge=1)] = 10
    min_item_ratings: Annotated[int, Field(ge=0)] = 20
    damping: Annotated[float, Field(ge=0)] = 25.0
    spread: Annotated[float, Field(ge=0, le=1)] = 0.0


class TrackingConfig(_Section):
    """Names in MLflow; the environment precedes the model's name."""

    experiment: str = "movie-recommender"
    model: Annotated[str, Field(pattern=f"^{MODEL_NAME}$")] = MODEL


class Range(_Section):
    """A range of a parameter: integers if both ends are, on a logarithmic scale if `log`."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _sound(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("the lower of low and high comes first")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic scale begins above 0")
        return self


class TuningConfig(_Section):
    """A search: `space` maps keys of params (dotted if nested) to a list of values or a range."""

    search: Literal["optuna", "random", "grid"] = "optuna"
    trials: Annotated[int, Field(ge=1)] = 30
    metric: Literal["rmse", "mae", "list_ndcg"] = "rmse"
    space: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)] | Range], Field(min_length=1)]

    @model_validator(mode="after")
    def _fitting(self) -> "TuningConfig":
        if self.search != "optuna" and self.metric == "list_ndcg":
            raise ValueError("Surprise's searches know rmse and mae; for list_ndcg say search: optuna")
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(f"a grid needs lists of values, and space.{ranges[0]} is a range")
        if self.search == "random" and (inner := [key for key in ranges if "." in key]):
            raise ValueError(
                f"Surprise's random search takes no range for {inner[0]}: give a list, or say optuna"
            )
        return self


class Config(_Section):
    """All settings of a run; `experiments` are the parameter files of a leaderboard."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    algorithm: str = "SVD"
    params: dict[str, Any] = {}
    ranking: RankingConfig = RankingConfig()
    data: DataConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    recommendation: RecommendationConfig = RecommendationConfig()
    tracking: TrackingConfig = TrackingConfig()
    experiments: tuple[str, ...] = ()
    tuning: TuningConfig | None = None

    @property
    def named(self) -> str:
        """The algorithm's name, or both of a model with two."""
        return f"{self.algorithm} + {self.ranking.algorithm}" if self.ranking.algorithm else self.algorithm


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a parameter file and override single values.

    `overrides` maps dotted keys ("evaluation.folds") to values. Paths in the file are relative to the file's
    folder, paths in `overrides` to the working directory. `${NAME}` in data.source comes from the
    environment.
    Raises InputError for an unreadable file, unknown keys and invalid values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}. Name a parameter file with --config, with make CONF=conf/svd.yaml."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    try:
        content = yaml.safe_load(text)
    # ValueError: an invalid date
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: contains no settings. Start from conf/default.yaml.")
    data = content.get("data")
    if isinstance(data, dict):
        for key in ("source", "titles"):
            # Table names and SQL addresses are not paths.
            if isinstance(data.get(key), str) and "://" not in str(data.get("source")):
                named = os.path.expanduser(os.path.expandvars(data[key]))
                data[key] = str((path.parent / named).resolve())
    if isinstance(experiments := content.get("experiments"), list):
        content["experiments"] = [str((path.parent / str(name)).resolve()) for name in experiments]
    for key, value in (overrides or {}).items():
        _put(content, key.split("."), value, path)
    if isinstance(data := content.get("data"), dict) and isinstance(data.get("source"), str):
        data["source"] = os.path.expandvars(data["source"])
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            where = "" if key in (overrides or {}) else f"{path}: "
            unknown = problem["type"] == "extra_forbidden"
            lines.append(f"{where}{key}: " + (f"unknown key{_meant(key)}" if unknown else problem["msg"]))
        raise InputError("\n".join(lines)) from error


def _meant(path: str) -> str:
    room, _, key = path.rpartition(".")
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    found = [
        f"{name}.{key}"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel) and key in section.model_fields
    ]
    section = sections.get(room)
    names = (
        [*section.model_fields] if isinstance(section, type) and issubclass(section, BaseModel) else sections
    )
    near = [f"{room}.{name}".lstrip(".") for name in difflib.get_close_matches(key, names, 1)]
    found = found or near
    return f"; is {' or '.join(found)} meant?" if found else "; conf/default.yaml lists the keys"


def _put(content: dict[str, Any], keys: list[str], value: Any, path: Path) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise InputError(f"{path}: {'.'.join(keys)} cannot be set: {key} is a single value.")
    content[keys[-1]] = value
