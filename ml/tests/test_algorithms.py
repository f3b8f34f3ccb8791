"""Our algorithms: the compiled ones against Surprise's own, bit by bit."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import surprise
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise.model_selection import GridSearchCV, KFold, cross_validate

from recommender import algorithm
from recommender.algorithms import sgd
from recommender.algorithms.compiled import arrays
from recommender.data import Ratings
from tests.conftest import ROOT

COMPILED = [sgd.SVD, sgd.SVDpp]
LEARNT = ("bu", "bi", "pu", "qi", "yj")


def dataset(rows: list[tuple[str, str, float]]) -> surprise.Dataset:
    """A Surprise dataset in the order given, duplicates and all."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    return surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=(0.5, 5)))


def assert_same_bits(kind: type, trainset: surprise.Trainset, params: dict) -> None:
    mine, theirs = kind(**params).fit(trainset), kind.surprises(**params).fit(trainset)
    for name in LEARNT:
        if hasattr(theirs, name):
            assert getattr(mine, name).tobytes() == np.asarray(getattr(theirs, name)).tobytes(), name


any_ratings = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(1, 10).map(lambda x: x / 2)),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("kind", COMPILED)
@settings(max_examples=40, deadline=None)
@given(rows=any_ratings, n_factors=st.sampled_from([0, 1, 3, 8, 9, 20]), seed=st.integers(0, 2**32 - 1))
def test_compiled_equals_surprise_bit_by_bit_on_any_ratings(kind, rows, n_factors: int, seed: int) -> None:
    params = {"n_factors": n_factors, "n_epochs": 3, "random_state": seed, "reg_qi": 0.3, "lr_bu": 0.01}
    assert_same_bits(kind, dataset(rows).build_full_trainset(), params)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (sgd.SVD, {"n_epochs": 5}),
        (sgd.SVD, {"n_epochs": 3, "biased": False, "init_mean": 0.5, "init_std_dev": 0.3}),
        (sgd.SVDpp, {"n_epochs": 1, "n_factors": 10}),
        (sgd.SVDpp, {"n_epochs": 1, "n_factors": 7, "cache_ratings": True, "lr_yj": 0.001, "reg_yj": 0.1}),
    ],
)
def test_compiled_equals_surprise_bit_by_bit_on_a_fold(kind, params: dict, films: Ratings) -> None:
    fold, _ = next(KFold(5, random_state=0).split(algorithm.dataset(films)))
    assert_same_bits(kind, fold, params | {"random_state": 0})


def test_a_random_state_is_drawn_from_as_surprise_does(ratings: Ratings) -> None:
    trainset = algorithm.dataset(ratings).build_full_trainset()
    mine, theirs = np.random.RandomState(3), np.random.RandomState(3)
    sgd.SVD(n_epochs=1, random_state=mine).fit(trainset)
    surprise.SVD(n_epochs=1, random_state=theirs).fit(trainset)
    assert mine.normal() == theirs.normal()


def test_arrays_stand_in_the_order_of_all_ratings(ratings: Ratings) -> None:
    trainset, _ = next(KFold(2, random_state=0).split(algorithm.dataset(ratings)))
    assert list(zip(*(column.tolist() for column in arrays(trainset)), strict=True)) == list(
        trainset.all_ratings()
    )


@pytest.mark.parametrize("kind", COMPILED)
def test_surprises_tools_take_our_classes(kind, ratings: Ratings) -> None:
    data = algorithm.dataset(ratings)
    params = {"n_factors": 3, "n_epochs": 2, "random_state": 0}
    mine, theirs = (
        cross_validate(algo(**params), data, cv=KFold(2, random_state=0)) for algo in (kind, kind.surprises)
    )
    np.testing.assert_array_equal(mine["test_rmse"], theirs["test_rmse"])
    search = GridSearchCV(kind, {"n_factors": [2, 3], "n_epochs": [2], "random_state": [0]}, cv=2, refit=True)
    search.fit(data)
    assert 0 < search.best_score["rmse"] < 2


def test_dump_of_a_compiled_algorithm_is_surprises_own(ratings: Ratings, tmp_path: Path) -> None:
    algo = algorithm.make("SVD", {"n_factors": 3, "n_epochs": 2}, 0)
    algo.fit(algorithm.dataset(ratings).build_full_trainset())
    algorithm.save(algo, tmp_path / "native", {})
    assert type(algo) is sgd.SVD
    loaded = algorithm.load(tmp_path / "native")
    assert type(loaded) is surprise.SVD
    assert loaded.predict("1", "7") == algo.predict("1", "7")
    assert type(pickle.loads(pickle.dumps(algo))) is sgd.SVD


@pytest.mark.parametrize("chosen", [False, True])
def test_compiling_needs_no_folder_that_can_be_written(chosen: bool, tmp_path: Path) -> None:
    """As root everything can be written, so os.access says it: nothing but the temporary folder can."""
    code = (
        "import os, tempfile; real = os.access\n"
        "os.access = lambda path, mode: mode != os.W_OK\n"
        "from recommender.algorithms import compiled\n"
        "os.access = real\n"
        "double = compiled.compiled()(lambda x: 2 * x)\n"
        "print(double(21), os.environ['NUMBA_CACHE_DIR'], any(os.scandir(os.environ['NUMBA_CACHE_DIR'])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    if chosen:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "chosen")
        (tmp_path / "chosen").mkdir()
    (tmp_path / "code.py").write_text(code)
    line = [sys.executable, str(tmp_path / "code.py")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    value, folder, filled = done.stdout.split()
    assert (value, filled) == ("42", "True")
    assert Path(folder).parent == tmp_path
    # A folder of the process's own goes with it.
    assert Path(folder).exists() == chosen
