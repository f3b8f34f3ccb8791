"""Search for an algorithm's parameters: Optuna with pruning, or Surprise's own searches.

Sources: T. Akiba et al., "Optuna: a next-generation hyperparameter optimization framework" (KDD 2019); the
sampler is J. Bergstra et al., "Algorithms for hyper-parameter optimization" (2011), TPE; the pruning rule is
the median of the earlier trials after as many folds. Surprise's are GridSearchCV and RandomizedSearchCV.
"""

import copy
import hashlib
import inspect
import json
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recommender.algorithms import catalogue, trainset
from recommender.config import Config, Range, TuningConfig
from recommender.data.ratings import Ratings
from recommender.errors import InputError, RecommenderError
from recommender.evaluation import processes, validation
from recommender.files import alone, write_whole
from recommender.tracking import runs

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The best parameters and their value of the metric; `trials` counts all, `pruned` those ended early."""

    params: dict[str, Any]
    value: float
    trials: int
    pruned: int
    run_id: str


def tune(
    config: Config, ratings: Ratings, uri: str, folder: Path, progress: Progress = lambda line: None
) -> Outcome:
    """Search as config.tuning says; each trial is an MLflow run, nested in the search's run.

    `folder` keeps the trials. An interrupted search resumes in the same runs if it is started again with the
    same data and parameter file (more `trials` extend it).
    Raises InputError for invalid parameters, RecommenderError for errors of MLflow, and when another process
    runs the same search.
    """
    if config.tuning is None:
        raise InputError("tuning: missing. Name what to search for, as conf/tune.yaml does.")
    settings = config.tuning
    if settings.metric == "list_ndcg" and config.ranking.algorithm:
        raise InputError(
            "tuning.metric: list_ndcg is that of ranking.algorithm, and what is searched are params. Give "
            f"{config.ranking.algorithm} as the algorithm, and leave ranking out."
        )
    validation.check_folds(ratings, config.evaluation.folds)
    # For its message: refuse unknown keys before the first trial.
    _with(config, dict.fromkeys(settings.space))
    name = digest(config, ratings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecommenderError(f"{folder}: {error.strerror}. Name a folder with --state.") from error
    with alone(folder / f"{name}.lock", "another process runs this search. Wait for it, or end it first."):
        search = _optuna if settings.search == "optuna" else _surprise
        return search(config, settings, ratings, uri, folder / f"{name}.db", progress)


def digest(config: Config, ratings: Ratings) -> str:
    """Return a search's key: data, algorithm, folds and space, but not the number of trials."""
    content = config.model_dump(mode="json", exclude={"data", "tracking", "experiments", "ranking"})
    content["tuning"].pop("trials")
    text = json.dumps([ratings.digest(), content], sort_keys=True)
    return f"tuning-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _with(config: Config, chosen: dict[str, Any]) -> Config:
    """Return the configuration with these parameters over its own."""
    params = copy.deepcopy(config.params)
    for key, value in chosen.items():
        *path, last = key.split(".")
        place = params
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InputError(f"tuning.space.{key}: params.{part} is a single value, not options.")
        place[last] = value
    return config.model_copy(update={"params": params})


# Worker processes' inputs for every fold.
_work: dict[str, Any] = {}


def _prepare(config: Config, ratings: Ratings, metric: str) -> None:
    from threadpoolctl import threadpool_limits

    # One process per processor: more threads would slow each other down.
    threadpool_limits(1)
    _work.update(config=config, ratings=ratings, metric=metric)


def _measure(chosen: dict[str, Any], fold: int) -> float:
    config, ratings, metric = _with(_work["config"], chosen), _work["ratings"], _work["metric"]
    if metric == "list_ndcg":
        return validation.lists(ratings, config, config.seed + fold).metrics[metric]
    folds = trainset.folds(ratings, config.evaluation.folds, config.seed)
    known, held_out = next(islice(folds, fold, None))
    return float(getattr(validation.measure(ratings, config, known, held_out, fold + 1)[0], metric))


def _optuna(
    config: Config, settings: TuningConfig, ratings: Ratings, uri: str, database: Path, progress: Progress
) -> Outcome:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    maximise, folds = settings.metric == "list_ndcg", config.evaluation.folds
    study = optuna.create_study(
        storage=f"sqlite:///{database}",
        study_name=database.stem,
        load_if_exists=True,
        direction="maximize" if maximise else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    # The same seed would repeat the first trials.
    seed = (config.seed + len(study.get_trials(deepcopy=False))) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    states = optuna.trial.TrialState
    for left in study.get_trials(states=(states.RUNNING,)):
        # The lock is held: these are a killed search's trials, to repeat.
        study.tell(left.number, state=states.FAIL)
        study.enqueue_trial(left.params)
    distributions = {key: _distribution(values) for key, values in settings.space.items()}
    before = study.user_attrs.get("run_id")
    with (
        runs.run(
            config, uri, _tags(config, ratings), f"tune {config.algorithm}", run_id=_known(before)
        ) as parent,
        processes.pool(_processes(), _prepare, config, ratings, settings.metric) as pool,
    ):
        study.set_user_attr("run_id", parent.info.run_id)
        ended = (states.COMPLETE, states.PRUNED)
        if done := len(study.get_trials(states=ended)):
            progress(f"resuming after {done} of {settings.trials} trials")
        working: dict[Future[float], tuple[Any, int, list[float]]] = {}
        begun = done
        while working or begun < settings.trials:
            while len(working) < _processes() and begun < settings.trials:
                trial = study.ask(distributions)
                working[pool.submit(_measure, trial.params, 0)] = trial, 0, []
                begun += 1
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                trial, fold, values = working.pop(future)
                try:
                    values.append(future.result())
                except InputError as error:
                    study.tell(trial, state=states.FAIL)
                    progress(f"trial {trial.number}: {_shown(trial.params)}: {error}")
                    continue
                trial.report(float(np.mean(values)), fold)
                pruned = fold + 1 < folds and trial.should_prune()
                if fold + 1 < folds and not pruned:
                    working[pool.submit(_measure, trial.params, fold + 1)] = trial, fold + 1, values
                    continue
                value = float(np.mean(values))
                _log(
                    _with(config, trial.params),
                    uri,
                    ratings,
                    trial.params,
                    settings.metric,
                    values,
                    pruned,
                    trial.number,
                )
                if pruned:
                    study.tell(trial, state=states.PRUNED)
                else:
                    study.tell(trial, value)
                finished = len(study.get_trials(deepcopy=False, states=ended))
                complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
                best = study.best_value if complete else value
                progress(
                    f"{finished}/{settings.trials} {settings.metric} {value:.4f}"
                    f"{f' pruned after {fold + 1} of {folds} folds' if pruned else ''} "
                    f"({_shown(trial.params)}); best {best:.4f}"
                )
        if not study.get_trials(states=(states.COMPLETE,)):
            raise InputError("tuning: every trial failed. See the messages above, and mend tuning.space.")
        outcome = Outcome(
            _with(config, study.best_params).params,
            study.best_value,
            len(study.get_trials(states=ended)),
            len(study.get_trials(states=(states.PRUNED,))),
            parent.info.run_id,
        )
        _conclude(config, settings, outcome)
        return outcome


def _surprise(
    config: Config, settings: TuningConfig, ratings: Ratings, uri: str, database: Path, progress: Progress
) -> Outcome:
    """Run Surprise's search by single combinations, to keep each; folds run in parallel."""
    from surprise.model_selection import GridSearchCV, KFold, RandomizedSearchCV

    kind, space = catalogue.ALGORITHMS[config.algorithm], _surprises_space(config, settings)
    if settings.search == "grid":
        combinations = GridSearchCV(kind, space).param_combinations
    else:
        lists = [values for values in settings.space.values() if not isinstance(values, Range)]
        there_are = math.prod(map(len, lists)) if len(lists) == len(settings.space) else math.inf
        combinations = RandomizedSearchCV(
            kind, space, n_iter=min(settings.trials, there_are), random_state=config.seed
        ).param_combinations
    store = database.with_suffix(".json")
    kept: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {"values": {}}
    dataset, folds = catalogue.dataset(ratings), config.evaluation.folds
    name = f"tune {config.algorithm}"
    with runs.run(config, uri, _tags(config, ratings), name, run_id=_known(kept.get("run_id"))) as parent:
        kept["run_id"] = parent.info.run_id
        if kept["values"]:
            progress(f"resuming after {len(kept['values'])} of {len(combinations)} combinations")
        for number, params in enumerate(combinations):
            key = json.dumps(params, sort_keys=True, default=str)
            if key in kept["values"]:
                continue
            catalogue.make(config.algorithm, _ours(params), config.seed, served=False)
            one = {name: _listed(value) for name, value in params.items()}
            search = GridSearchCV(
                kind,
                one,
                measures=[settings.metric],
                cv=KFold(folds, random_state=config.seed),
                n_jobs=_processes(),
            )
            try:
                search.fit(dataset)
            except (ValueError, TypeError, NameError, KeyError, AttributeError, ZeroDivisionError) as error:
                raise InputError(
                    f"tuning: {config.algorithm} cannot train with {_shown(_ours(params))}: {error}"
                ) from error
            values = [
                float(search.cv_results[f"split{fold}_test_{settings.metric}"][0]) for fold in range(folds)
            ]
            _log(config, uri, ratings, _ours(params), settings.metric, values, False, number)
            kept["values"][key] = float(np.mean(values))
            write_whole(store, json.dumps(kept))
            done, best = len(kept["values"]), min(kept["values"].values())
            progress(
                f"{done}/{len(combinations)} {settings.metric} {kept['values'][key]:.4f} "
                f"({_shown(_ours(params))}); best {best:.4f}"
            )
        best_key = min(kept["values"], key=kept["values"].__getitem__)
        outcome = Outcome(
            _ours(json.loads(best_key)), kept["values"][best_key], len(kept["values"]), 0, parent.info.run_id
        )
        _conclude(config, settings, outcome)
        return outcome


def _surprises_space(config: Config, settings: TuningConfig) -> dict[str, Any]:
    """Return the searched and the fixed parameters as lists and distributions for Surprise."""
    from scipy import stats

    space: dict[str, Any] = {key: _listed(value) for key, value in config.params.items()}
    accepted = inspect.signature(catalogue.ALGORITHMS[config.algorithm].__init__).parameters
    own = {"random_state": config.seed, "verbose": False}
    space |= {key: [value] for key, value in own.items() if key in accepted}
    for key, values in settings.space.items():
        chosen: Any = values
        if isinstance(values, Range):
            low, high = values.low, values.high
            if values.log:
                chosen = stats.loguniform(low, high)
            elif isinstance(low, int) and isinstance(high, int):
                chosen = stats.randint(low, high + 1)
            else:
                chosen = stats.uniform(low, high - low)
        *path, last = key.split(".")
        place = space
        for part in path:
            place = place.setdefault(part, {})
        place[last] = chosen
    return space


def _listed(value: Any) -> Any:
    return {key: [inner] for key, inner in value.items()} if isinstance(value, dict) else [value]


def _ours(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters as plain numbers, without seed and verbosity."""
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in params.items()
        if key not in ("random_state", "verbose")
    }


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def _tags(config: Config, ratings: Ratings) -> dict[str, str]:
    return {"dataset_digest": ratings.digest(), "algorithm": config.algorithm, "kind": "tuning"}


def _known(run_id: str | None) -> str | None:
    """Return the run if this tracking store has it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        found = mlflow.MlflowClient().get_run(run_id)
    except MlflowException:
        return None
    return run_id if found.info.lifecycle_stage == "active" else None


def _log(
    config: Config, uri: str, ratings: Ratings, params: dict[str, Any],
    metric: str, values: list[float], pruned: bool, number: int,
) -> None:  # fmt: skip
    """Log a trial as a nested run: parameters, the metric by fold, its mean, the pruning."""
    import mlflow

    tags = _tags(config, ratings) | {"kind": "trial", "pruned": str(pruned).lower()}
    with runs.run(config, uri, tags, f"trial {number}", nested=True):
        mlflow.log_params({f"params.{key}": value for key, value in params.items()})
        for fold, value in enumerate(values, start=1):
            mlflow.log_metric(f"fold_{metric}", value, step=fold)
        mlflow.log_metric(metric, float(np.mean(values)))


def _conclude(config: Config, settings: TuningConfig, outcome: Outcome) -> None:
    import mlflow

    mlflow.log_metrics(
        {f"best_{settings.metric}": outcome.value, "trials": outcome.trials, "pruned": outcome.pruned}
    )
    best = config.model_copy(update={"params": outcome.params, "tuning": None})
    mlflow.log_dict(runs.parameters(best), "best.yaml")


def _shown(params: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in params.items()
    )


def _distribution(values: Any) -> Any:
    import optuna

    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
