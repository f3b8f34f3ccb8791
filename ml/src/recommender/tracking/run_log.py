"""Log one run: parameters, metrics, figures, the model."""

import functools
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recommender import uris
from recommender.tracking import runs, stores

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from recommender.config import Config
    from recommender.data.ratings import Ratings

# Modules stored with a model: the one it imports, and its dependencies.
_PACKAGE = Path(__file__).parents[1]
CARRIED = ("__init__.py", "compiled.py", "errors.py", "serving")
SERVING = _PACKAGE / "serving/mlflow_model.py"


def log_inputs(client: "MlflowClient", run_id: str, inputs: list[Any]) -> None:
    """Log the datasets of a run; try twice. Raises MlflowException of the second try."""
    import mlflow

    try:
        client.log_inputs(run_id, inputs)
    except mlflow.exceptions.MlflowException:
        # MLflow refuses one of two concurrent first uses of a dataset.
        client.log_inputs(run_id, inputs)


def log_setup(run_id: str, config: "Config", ratings: "Ratings") -> None:
    """Log parameters, dataset and environment to the active run."""
    import mlflow
    from mlflow.entities import Param

    flat = {
        "algorithm": config.algorithm,
        "seed": config.seed,
        **{f"params.{key}": value for key, value in config.params.items()},
        "ranking.algorithm": config.ranking.algorithm,
        **{f"ranking.params.{key}": value for key, value in config.ranking.params.items()},
        **{f"evaluation.{key}": value for key, value in config.evaluation},
        **{f"recommendation.{key}": value for key, value in config.recommendation},
    }
    client = mlflow.MlflowClient()
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])
    log_inputs(client, run_id, [_dataset(config, ratings)])
    mlflow.log_dict(runs.parameters(config), "config.yaml")
    mlflow.log_dict(_environment(), "environment.json")


def log_folds(run_id: str, mean: dict[str, float], folds: list[dict[str, float]], figure: "Figure") -> None:
    """Log metrics, their mean and those of each fold as fold_<name>, and their plot to the active run."""
    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    numbers = [Metric(key, value, now, 0) for key, value in mean.items()]
    for step, fold in enumerate(folds, start=1):
        numbers += [Metric(f"fold_{key}", value, now, step) for key, value in fold.items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=numbers)
    mlflow.log_figure(figure, "plots/evaluation.png")


def log_seconds(run_id: str, seconds: dict[str, float]) -> None:
    """Log wall seconds of the run's parts as metrics seconds_<part>."""
    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(
        run_id, metrics=[Metric(f"seconds_{k}", v, now, 0) for k, v in seconds.items()]
    )


def log_report(report: Mapping[str, Any], name: str) -> None:
    """Log the run's own report as its artifact `name`."""
    import mlflow

    mlflow.log_dict(dict(report), name)


def log_model(native: Path, arrays: Path, metadata: dict[str, Any], example: dict[str, float]) -> Any:
    """Log the folder with Surprise's dump as the run's artifact native/, and the MLflow model.

    `arrays` is the folder of a saved Recommender, the model's only data. The modules in CARRIED are copied
    beside it, into code/. `example` is a history (item: rating) for the input example. Returns MLflow's
    ModelInfo.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    mlflow.log_artifacts(str(native), "native")
    packages = ("mlflow", "numpy", "pandas")
    code = arrays.parent / "code" / _PACKAGE.name
    for name in CARRIED:
        _copy_code(_PACKAGE / name, code / name)
    with stores.own_code():
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SERVING),
            code_paths=[str(code)],
            artifacts={"recommender": str(arrays)},
            # Otherwise MLflow starts a second process to detect them.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in packages],
            signature=ModelSignature(
                inputs=Schema(
                    [
                        ColSpec("string", "user", required=False),
                        ColSpec("string", "item", required=False),
                        ColSpec("long", "k", required=False),
                        ColSpec(AnyType(), "history", required=False),  # type: ignore[no-untyped-call]
                        ColSpec("long", "reasons", required=False),
                        ColSpec("string", "similar_to", required=False),
                    ]
                )
            ),
            input_example=pd.DataFrame({"user": ["new"], "k": [10], "history": [example], "reasons": [2]}),
            metadata=metadata,
        )


def _copy_code(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        # The HTTP server comes with a deployment, not with a model.
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "app"))
    else:
        shutil.copy(source, target)


def _dataset(config: "Config", ratings: "Ratings") -> Any:
    """Return the dataset for MLflow, whose slower from_pandas inspects every id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = (("string", "user"), ("string", "item"), ("double", "rating"))
    schema = {"mlflow_colspec": [{"type": kind, "name": name, "required": True} for kind, name in columns]}
    profile = {"num_rows": len(ratings), "num_users": len(ratings.users), "num_items": len(ratings.items)}
    entity = Dataset(
        name=ratings.name,
        # MLflow's column takes 36 characters; the tag dataset_digest has all.
        digest=ratings.digest()[:32],
        source_type="sql" if config.data.is_sql else "local",
        source=json.dumps({"uri": uris.redacted(config.data.source)}),
        schema=json.dumps(schema),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])


# Reading the metadata of all packages takes as long as a small training.
@functools.cache
def _environment() -> dict[str, Any]:
    read = (dist.metadata for dist in importlib.metadata.distributions())
    packages = {metadata["Name"]: metadata["Version"] for metadata in read}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }
