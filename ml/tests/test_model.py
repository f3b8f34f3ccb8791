"""Persistence, lists, requests, parameters."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender import __version__, train
from recommender.algorithms import catalogue, convert, dump
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from recommender.errors import InputError
from recommender.evaluation import validation
from recommender.serving.answer import answer
from recommender.serving.recommender import Recommender
from tests.conftest import ROOT
from tests.test_scoring import CASES, names

# Persistence


@pytest.mark.parametrize("case", [*CASES[:1], *CASES[2:4], *CASES[7:10]], ids=names)
def test_one_seed_one_model(case, ratings: Ratings, make_config) -> None:
    config = make_config(algorithm=case[0], params=case[1])
    assert train.fit(ratings, config)[0].digest() == train.fit(ratings, config)[0].digest()


def test_another_seed_is_another_model(ratings: Ratings, make_config) -> None:
    assert len({train.fit(ratings, make_config(seed=seed))[0].digest() for seed in (0, 0, 1)}) == 2


@pytest.fixture
def saved(ratings: Ratings, make_config, tmp_path: Path) -> dict[str, Path]:
    """A model as it is kept twice: the folder of the arrays and that of the dump."""
    recommender, algo = train.fit(ratings, make_config())
    folders = {"arrays": tmp_path / "arrays", "native": tmp_path / "native"}
    recommender.save(folders["arrays"], {"dataset_digest": "d", "parameters": {"seed": 0}})
    dump.save(algo, folders["native"], {"dataset_digest": "d", "parameters": {"seed": 0}})
    return folders


LOAD = {"arrays": Recommender.load, "native": dump.load}


def test_manifest_says_what_made_which_files(saved: dict[str, Path], ratings: Ratings) -> None:
    for folder, name in ((saved["arrays"], "recommender.npz"), (saved["native"], "surprise.dump")):
        assert {path.name for path in folder.iterdir()} == {name, "manifest.json"}
        stated = json.loads((folder / "manifest.json").read_text())
        content = (folder / name).read_bytes()
        assert stated["files"] == {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        }
        assert (
            stated["made_with"] | {"python": platform.python_version(), "numpy": np.__version__}
            == (stated["made_with"])
        )
        assert {"system", "mlflow", "pandas", "scikit-surprise"} < set(stated["made_with"])
        assert (stated["format"], stated["dataset_digest"], stated["parameters"]) == (3, "d", {"seed": 0})
    assert dump.load(saved["native"]).predict("1", "7").est == pytest.approx(
        Recommender.load(saved["arrays"]).estimate(["1"], ["7"])[0], abs=1e-9
    )


def test_arrays_need_no_pickle(saved: dict[str, Path]) -> None:
    with np.load(saved["arrays"] / "recommender.npz", allow_pickle=False) as stored:
        assert {array.dtype.kind for array in (stored[key] for key in stored.files)} <= set("fiu")


@pytest.mark.parametrize("kind", LOAD)
def test_one_flipped_bit_is_refused(kind: str, saved: dict[str, Path]) -> None:
    path = next(path for path in saved[kind].iterdir() if path.name != "manifest.json")
    content = bytearray(path.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        LOAD[kind](saved[kind])
    after = hashlib.sha256(content).hexdigest()
    assert str(refused.value).startswith(f"{path}: its sha256 is {after}, the manifest says {before}: ")
    assert "train again: recommender train" in str(refused.value)


@pytest.mark.parametrize("kind", LOAD)
def test_a_missing_file_is_named(kind: str, saved: dict[str, Path]) -> None:
    for path in sorted(saved[kind].iterdir(), reverse=True):
        path.unlink()
        with pytest.raises(InputError, match=rf"{path}: missing, .* Copy the whole folder again"):
            LOAD[kind](saved[kind])


@pytest.mark.parametrize("kind", LOAD)
def test_a_newer_format_is_refused_whatever_it_looks_like(kind: str, saved: dict[str, Path]) -> None:
    path = saved[kind] / "manifest.json"
    path.write_text('{"format": 4, "recommender": "7.0.0", "pieces": []}')
    with pytest.raises(InputError) as refused:
        LOAD[kind](saved[kind])
    assert str(refused.value).startswith(
        f"{path}: format 4, written by recommender 7.0.0; this is recommender {__version__}, which reads "
        "formats 1 to 3. Load the model with recommender 7.0.0, or train it again"
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "recommender": "1", "files": {}}'])
def test_an_invalid_manifest_is_refused(content: str, saved: dict[str, Path]) -> None:
    (saved["arrays"] / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest of a recommender\.npz"):
        Recommender.load(saved["arrays"])


def test_a_dump_that_cannot_be_read_says_what_made_it(saved: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "surprise.prediction_algorithms.matrix_factorization", None)
    with pytest.raises(InputError, match=r"cannot be unpickled here .* scikit-surprise 1\.1\.5 and numpy"):
        dump.load(saved["native"])


NUMPY_ALONE = """
import json, pathlib, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "recommender"}:
            raise ImportError(f"{name} is neither Python's, numpy nor the recommender")
sys.meta_path.insert(0, Nothing())
from recommender.serving import Recommender
model = Recommender.load(pathlib.Path(sys.argv[1]))
print(json.dumps([*model.estimate(["1", "stranger"], ["7", "7"]), model.top_n("1", 1)[0].estimate]))
"""


def test_scoring_needs_numpy_alone(saved: dict[str, Path]) -> None:
    line = [sys.executable, "-c", NUMPY_ALONE, str(saved["arrays"])]
    clean = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(line, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = Recommender.load(saved["arrays"])
    expected = [*here.estimate(["1", "stranger"], ["7", "7"]), here.top_n("1", 1)[0].estimate]
    assert json.loads(done.stdout) == expected


# Lists


@pytest.fixture(scope="module")
def recommender(ratings: Ratings) -> Recommender:
    algo = catalogue.fit(
        catalogue.make("SVD", {"n_factors": 4, "n_epochs": 3}, 0),
        catalogue.dataset(ratings).build_full_trainset(),
    )
    settings = {"k": 4, "min_item_ratings": 18, "damping": 5.0}
    return convert.build(convert.scorer(algo, ratings), ratings, settings)


@given(user=st.sampled_from([*(str(u + 1) for u in range(30)), "stranger"]), k=st.integers(1, 30))
def test_lists(recommender: Recommender, ratings: Ratings, user: str, k: int) -> None:
    picks = recommender.top_n(user, k)
    frame = ratings.frame()
    seen = set(frame.item[frame.user == user])
    often = set(frame.item.value_counts().loc[lambda count: count > 17].index)
    assert 0 < len(often) < len(ratings.items)
    first = picks[: len(often - seen)]
    assert {pick.item for pick in first} <= often - seen
    assert len({pick.item for pick in first}) == len(first) == min(k, len(often - seen))
    assert [pick.rank for pick in picks] == list(range(1, len(picks) + 1))
    estimates = [pick.estimate for pick in first]
    assert estimates == sorted(estimates, reverse=True)
    unseen = set(ratings.items) - seen
    assert {pick.item for pick in picks} <= unseen
    assert len({pick.item for pick in picks}) == len(picks) == min(k, len(unseen))
    assert all(pick.title == ratings.titles[pick.item] for pick in picks)
    assert picks == recommender.top_n(user, 30)[:k]
    if user != "stranger":
        best = recommender.estimate([user] * len(often - seen), sorted(often - seen))
        np.testing.assert_allclose(estimates, sorted(best, reverse=True)[:k], atol=1e-9)


def test_strangers_get_the_highest_damped_means(recommender: Recommender, ratings: Ratings) -> None:
    frame, damping = ratings.frame(), 5.0
    groups = frame.groupby("item").rating
    damped = (groups.sum() + damping * frame.rating.mean()) / (groups.count() + damping)
    expected = damped[groups.count() > 17].nlargest(3)
    picks = recommender.top_n("stranger", 3)
    assert [pick.item for pick in picks] == list(expected.index)
    assert [pick.estimate for pick in picks] == pytest.approx(list(expected))


def test_minimum_that_no_item_reaches_means_the_most_rated(ratings: Ratings, make_config) -> None:
    config = make_config(recommendation={"min_item_ratings": 10_000})
    most = ratings.frame().item.value_counts()
    picks = train.fit(ratings, config)[0].top_n("stranger", 25)
    often = set(most[most == most.max()].index)
    assert {pick.item for pick in picks[: len(often)]} == often and len(picks) == len(ratings.items)


# Requests


def test_pairs(recommender: Recommender) -> None:
    reply = answer(
        recommender, pd.DataFrame({"user": ["1", "stranger", 2, 2.0], "item": ["7", "none", 7, "7"]})
    )
    assert list(reply.columns) == ["user", "item", "estimate", "known_user"]
    assert list(reply.known_user) == [True, False, True, True]
    assert reply.estimate.between(0.5, 5).all()
    assert reply.estimate[2] == reply.estimate[3]


def test_lists_by_frame(recommender: Recommender) -> None:
    reply = answer(recommender, pd.DataFrame({"user": ["1", "stranger"], "k": [2, np.nan]}))
    assert list(reply.columns) == ["user", "item", "title", "estimate", "score", "rank", "known_user"]
    assert list(reply["rank"]) == [1, 2, 1, 2, 3, 4]
    assert answer(recommender, pd.DataFrame({"user": ["1"]})).shape == (4, 7)
    assert answer(recommender, pd.DataFrame({"user": []})).empty


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"item": ["1"]}, "no column 'user'"),
        ({"user": ["1", None]}, "Row 1 has no user"),
        ({"user": ["1"], "item": [" "]}, "Row 0 has no item"),
        ({"user": ["1"], "k": [0]}, "k = 0"),
        ({"user": ["1"], "k": [1.5]}, "k = 1.5"),
        ({"user": ["1"], "k": ["many"]}, "k = 'many'"),
    ],
)
def test_requests_without_sense(recommender: Recommender, request_: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer(recommender, pd.DataFrame(request_))


# Parameters and evaluation


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("SDV", {}, r"there is no 'SDV'; there are: AutoEASE, BMF, BaselineOnly, CoClustering, EASE"),
        ("AlgoBase", {}, "there is no 'AlgoBase'"),
        ("SVD", {"factors": 3}, "SVD does not take 'factors'; it takes: biased, init_mean"),
        ("KNNBasic", {"kk": 3}, "KNNBasic does not take 'kk'; it takes: bsl_options, k, min_k, sim_options"),
        ("SVD", {"random_state": 3}, "the key 'seed' sets it"),
        ("SlopeOne", {"a": 1}, "it takes: none"),
        ("KNNBasic", {"sim_options": {"name": "psychic"}}, "KNNBasic cannot train with these"),
        ("KNNBasic", {"k": "many"}, "params.k is 'many', but must be a whole number"),
        ("KNNBasic", {"k": -2000}, "params.k is -2000, but must be a whole number from 1"),
        ("KNNBasic", {"k": 10**23}, "params.k is 100000000000000000000000"),
        ("KNNBasic", {"sim_options": {"userbased": False}}, "params.sim_options: there is no userbased"),
        ("KNNBaseline", {"bsl_options": {"reg": float("inf")}}, "params.bsl_options.reg is inf"),
        ("KNNWithMeans", {"min_k": 1.5}, "params.min_k is 1.5"),
        ("BaselineOnly", {"bsl_options": {"method": "magic"}}, "BaselineOnly cannot train with these"),
        ("SVD", {"n_factors": "many"}, "params.n_factors is 'many'"),
        ("SVD", {"lr_all": 1000}, "the training of SVD diverged"),
    ],
)
def test_bad_parameters(ratings: Ratings, make_config, name: str, params: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validation.cross_validate(ratings, make_config(algorithm=name, params=params))


def test_random_answers_are_measured_but_not_served(ratings: Ratings, make_config) -> None:
    config = make_config(algorithm="NormalPredictor", params={})
    first, second = (validation.cross_validate(ratings, config) for _ in range(2))
    assert first.mean() == second.mean() and first.mean()["rmse"] > 0.5
    with pytest.raises(
        InputError, match="NormalPredictor draws each answer at random, so it can be measured"
    ):
        train.fit(ratings, config)


def test_options_of_one_algorithm_do_not_leak_into_another() -> None:
    catalogue.make("KNNBasic", {"sim_options": {"user_based": False}}, 0)
    assert catalogue.make("KNNBasic", {}, 0).sim_options == {"user_based": True}
    given_ = {"sim_options": {"name": "cosine"}}
    catalogue.make("KNNBasic", given_, 0)
    assert given_ == {"sim_options": {"name": "cosine"}}


def test_cross_validation_equals_surprises_own(ratings: Ratings, make_config) -> None:
    from surprise.model_selection import KFold, cross_validate

    config = make_config(evaluation={"folds": 3})
    lines: list[str] = []
    result = validation.cross_validate(ratings, config, lines.append)
    theirs = cross_validate(
        catalogue.make("SVD", config.params, 0), catalogue.dataset(ratings), cv=KFold(3, random_state=0)
    )
    np.testing.assert_allclose([fold.rmse for fold in result.folds], theirs["test_rmse"], atol=1e-12)
    np.testing.assert_allclose([fold.mae for fold in result.folds], theirs["test_mae"], atol=1e-12)
    assert result.mean()["rmse"] == pytest.approx(theirs["test_rmse"].mean())
    assert len(result.true) == len(result.estimate) == len(ratings)
    lines = [line for line in lines if "compiled" not in line]
    assert [line.split(":")[0] for line in lines] == ["fold 1/3", "fold 2/3", "fold 3/3"]
    assert result.table().splitlines()[-1].split()[:2] == ["mean", f"{result.mean()['rmse']:.4f}"]


@pytest.mark.parametrize(
    ("scale", "threshold"),
    [((0.5, 5), 4), ((1, 5), 4), ((1, 10), 8), ((0, 10), 8), ((0, 100), 80), ((0, 1), 0.8), ((-10, 10), 5),
     ((-1, 1), 0.5), ((90, 100), 97.5), ((-5, -1), -2)],
)  # fmt: skip
def test_what_is_relevant_goes_by_the_scale(scale: tuple, threshold: float, make_config) -> None:
    low, high = scale
    draw = np.random.default_rng(0)
    lines = [
        (f"u{u}", f"i{i}", low + (high - low) * draw.integers(0, 11) / 10)
        for u in range(12)
        for i in range(9)
    ]
    table = from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]), scale=scale)
    config = validation.on_scale(make_config(algorithm="BaselineOnly", params={}), table)
    assert config.evaluation.threshold == threshold
    # the highest ratings are relevant, and not all are: neither none nor everything is recalled
    assert low < threshold < high
    usual = validation.cross_validate(table, make_config(algorithm="BaselineOnly", params={}))
    assert usual.mean() == validation.cross_validate(table, config).mean()
    for wrong, count in ((high + 1, "no rating"), (low - 1, "every rating")):
        own = make_config(evaluation={"folds": 2, "threshold": wrong})
        with pytest.raises(
            InputError, match=rf"evaluation\.threshold is .* off the scale .* {count}"
        ) as refused:
            validation.cross_validate(table, own)
        typed = str(refused.value).rpartition("=")[2]
        assert float(typed) == threshold


def test_fewer_ratings_than_folds(make_config) -> None:
    two = from_frame(pd.DataFrame({"user": ["1", "2"], "item": ["1", "1"], "rating": [1, 2]}))
    with pytest.raises(InputError, match="2 ratings cannot make 5 folds"):
        validation.cross_validate(two, make_config(evaluation={"folds": 5}))
