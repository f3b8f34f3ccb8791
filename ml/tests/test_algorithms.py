"""Our algorithms: the compiled against Surprise's own, bit by bit, the others against their definition."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import surprise
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from surprise.model_selection import GridSearchCV, KFold, cross_validate

from recommender.algorithms import bayesian, catalogue, dump, ranking, sgd
from recommender.algorithms.trainset import arrays
from recommender.data.ratings import Ratings
from recommender.errors import InputError
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
    fold, _ = next(KFold(5, random_state=0).split(catalogue.dataset(films)))
    assert_same_bits(kind, fold, params | {"random_state": 0})


def test_a_random_state_is_drawn_from_as_surprise_does(ratings: Ratings) -> None:
    trainset = catalogue.dataset(ratings).build_full_trainset()
    mine, theirs = np.random.RandomState(3), np.random.RandomState(3)
    sgd.SVD(n_epochs=1, random_state=mine).fit(trainset)
    surprise.SVD(n_epochs=1, random_state=theirs).fit(trainset)
    assert mine.normal() == theirs.normal()


def test_arrays_stand_in_the_order_of_all_ratings(ratings: Ratings) -> None:
    trainset, _ = next(KFold(2, random_state=0).split(catalogue.dataset(ratings)))
    assert list(zip(*(column.tolist() for column in arrays(trainset)), strict=True)) == list(
        trainset.all_ratings()
    )


@pytest.mark.parametrize("kind", COMPILED)
def test_surprises_tools_take_our_classes(kind, ratings: Ratings) -> None:
    data = catalogue.dataset(ratings)
    params = {"n_factors": 3, "n_epochs": 2, "random_state": 0}
    mine, theirs = (
        cross_validate(algo(**params), data, cv=KFold(2, random_state=0)) for algo in (kind, kind.surprises)
    )
    np.testing.assert_array_equal(mine["test_rmse"], theirs["test_rmse"])
    search = GridSearchCV(kind, {"n_factors": [2, 3], "n_epochs": [2], "random_state": [0]}, cv=2, refit=True)
    search.fit(data)
    assert 0 < search.best_score["rmse"] < 2


def test_dump_of_a_compiled_algorithm_is_surprises_own(ratings: Ratings, tmp_path: Path) -> None:
    algo = catalogue.make("SVD", {"n_factors": 3, "n_epochs": 2}, 0)
    algo.fit(catalogue.dataset(ratings).build_full_trainset())
    dump.save(algo, tmp_path / "native", {})
    assert type(algo) is sgd.SVD
    loaded = dump.load(tmp_path / "native")
    assert type(loaded) is surprise.SVD
    assert loaded.predict("1", "7") == algo.predict("1", "7")
    assert type(pickle.loads(pickle.dumps(algo))) is sgd.SVD


# What the system says to an account without an entry, and to one whose HOME it may not look into.
NO_ENTRY = "os.path.expanduser = lambda path: path\n"
CLOSED = """
from pathlib import Path
os.environ["HOME"], look = "/closed", Path.exists
def exists(path):
    if path.is_relative_to("/closed"):
        raise PermissionError(13, "Permission denied")
    return look(path)
Path.exists = exists
"""


@pytest.mark.parametrize(("chosen", "account"), [(False, ""), (True, NO_ENTRY), (False, CLOSED)])
def test_compiling_needs_no_folder_that_can_be_written(chosen: bool, account: str, tmp_path: Path) -> None:
    """As root everything can be written, so os.access says it: nothing but the temporary folder can."""
    code = (
        f"import os, tempfile; real = os.access\n{account}"
        "os.access = lambda path, mode: mode != os.W_OK\n"
        "from recommender import compiled\n"
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


# BMF


def test_draw_is_normal_with_the_mean_and_covariance_asked_for() -> None:
    draw = np.random.default_rng(0)
    root = np.tril(draw.normal(size=(4, 4))) + 3 * np.eye(4)
    precision, b, z = root @ root.T, draw.normal(size=4), draw.normal(size=4)
    triangle, drawn = precision[np.tril_indices(4)], b.copy()
    bayesian._draw(triangle, drawn, z)
    np.testing.assert_allclose(drawn, np.linalg.solve(precision, b) + np.linalg.solve(root.T, z))


def test_links_without_noise_reach_the_mode_of_their_posterior() -> None:
    """Coordinate after coordinate, against one dense system of normal equations."""
    draw = np.random.default_rng(1)
    n, n_links, d = 6, 4, 3
    has = draw.random((n, n_links)) < 0.6
    weight = draw.random(n) + 0.5
    roots = np.tril(draw.normal(size=(n, d, d)))
    own = np.eye(d) + roots @ roots.transpose(0, 2, 1)
    slope, prior = draw.normal(size=(n, d)), 2 * np.eye(d)
    columns = [np.flatnonzero(column) for column in has.T]
    first, near = np.cumsum([0, *map(len, columns)]), np.concatenate(columns)
    links, base, mean = np.zeros((n_links, d)), np.zeros(d), np.zeros((n, d))
    for _ in range(300):
        triangles = own[:, *np.tril_indices(d)].copy()
        bayesian._links(
            triangles, slope, mean, weight, first, near, links, prior[np.tril_indices(d)],
            np.zeros((n_links, d)), base, np.zeros(d),
        )  # fmt: skip
    features = np.column_stack([np.ones(n), weight[:, None] * has])
    np.testing.assert_allclose(mean, features @ np.vstack([base, links]), atol=1e-9)
    # A row given its mean: N(mean, 1) and the ratings' own precision; integrated out, what is left of both.
    curve = np.eye(d) - np.linalg.inv(own)
    system = np.einsum("ui,uj,uab->iajb", features, features, curve)
    for at in range(n_links + 1):
        system[at, :, at] += prior if at else np.eye(d)
    right = np.einsum("ui,uab,ub->ia", features, np.linalg.inv(own), slope)
    size = (n_links + 1) * d
    mode = np.linalg.solve(system.reshape(size, size), right.reshape(size)).reshape(-1, d)
    np.testing.assert_allclose(np.vstack([base, links]), mode, atol=1e-9)


def test_mean_of_the_samples_is_kept_as_one_product() -> None:
    draw = np.random.RandomState(0)
    left, right = draw.normal(size=(5, 12, 2)), draw.normal(size=(5, 9, 2))
    mean = np.einsum("sik,sjk->ij", left, right) / 5
    p, q = bayesian._mean_product(left, right, 50, draw)
    np.testing.assert_allclose(p @ q.T, mean, atol=1e-9)
    p, q = bayesian._mean_product(left, right, 3, draw)
    values = np.linalg.svd(mean, compute_uv=False)
    assert np.linalg.norm(p @ q.T - mean) == pytest.approx(np.linalg.norm(values[3:]), rel=0.01)


def test_bmf_learns_more_than_biases_and_the_same_from_one_seed(films: Ratings) -> None:
    fold, rest = next(KFold(5, random_state=0).split(catalogue.dataset(films)))
    short = {"n_epochs": 3, "n_burn_in": 1}
    algos = [catalogue.fit(catalogue.make("BMF", short, seed), fold) for seed in (0, 0, 1)]
    assert all(
        np.array_equal(getattr(algos[0], name), getattr(algos[1], name)) for name in ("bu", "bi", "pu", "qi")
    )
    assert not np.array_equal(algos[0].pu, algos[2].pu)
    algo = catalogue.fit(catalogue.make("BMF", {}, 0), fold)
    biases = surprise.BaselineOnly(verbose=False).fit(fold)
    error = {type(each): surprise.accuracy.rmse(each.test(rest), verbose=False) for each in (algo, biases)}
    assert error[bayesian.BMF] < error[surprise.BaselineOnly] - 0.03
    assert 0.5 < algo.noise < 0.9
    # somebody unknown is taken for the mean of all who are known
    item, everybody = rest[0][1], [fold.to_raw_uid(inner) for inner in fold.all_users()]
    mean = np.mean([algo.predict(user, item, clip=False).est for user in everybody])
    assert algo.predict("?", item, clip=False).est == pytest.approx(mean, abs=1e-9)


EDGES = {
    "constant ratings": [("a", "x", 3.0), ("a", "y", 3.0), ("b", "x", 3.0)],
    "one rating": [("a", "x", 4.0)],
    "one user": [("a", item, 2.0 + at) for at, item in enumerate("xyz")],
    "one item": [(user, "x", 2.0 + at) for at, user in enumerate("abc")],
    "twice": [("a", "x", 1.0), ("a", "x", 5.0), ("b", "y", 2.0)],
}


@pytest.mark.parametrize("rows", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("kind", ["BMF", "EASE", "SVD", "SVDpp", "UserEASE"])
def test_whatever_the_ratings_every_estimate_is_finite_and_on_the_scale(kind: str, rows: list) -> None:
    params = {"EASE": {"min_ratings": 1}, "UserEASE": {}}.get(kind, {"n_factors": 2, "n_epochs": 3})
    algo = catalogue.fit(catalogue.make(kind, params, 0), dataset(rows).build_full_trainset())
    answers = [algo.predict(user, item).est for user in "abz" for item in "xyw"]
    assert all(0.5 <= answer <= 5 for answer in answers)
    if not kind.endswith("EASE"):
        spread = {rating for _, _, rating in rows}
        assert len(spread) > 1 or answers == pytest.approx([spread.pop()] * 9, abs=0.5)


# EASE


@pytest.mark.parametrize("n_users", [8, 60])
def test_ease_solves_its_regressions(n_users: int) -> None:
    """Each column is ridge regression of an item on the others, for more users than items and for fewer."""
    draw = np.random.default_rng(0)
    chosen = draw.random((n_users, 12)) < 0.5
    chosen[0, 0] = True
    rating = draw.integers(1, 11, chosen.shape) / 2
    rows = [(f"u{u}", f"i{i}", float(rating[u, i])) for u, i in zip(*np.nonzero(chosen), strict=True)]
    trainset = dataset(rows).build_full_trainset()
    algo = ranking.EASE(reg=3.0, min_ratings=1, rating_weight=0.5).fit(trainset)
    x = np.zeros((trainset.n_users, trainset.n_items))
    for u, i, value in trainset.all_ratings():
        x[u, i] = 0.5 + 0.5 * (value - 0.5) / 4.5
    for column in range(trainset.n_items):
        others = np.arange(trainset.n_items) != column
        expected = Ridge(alpha=3.0, fit_intercept=False).fit(x[:, others], x[:, column]).coef_
        np.testing.assert_allclose(algo.weights[others, column], expected, atol=1e-5)
        assert algo.weights[column, column] == 0
    low, high = 0.5, 5
    assert algo.estimate(0, 1) == pytest.approx(low + (high - low) * (x[0] @ algo.weights[:, 1]), abs=1e-5)


@pytest.mark.parametrize(("activity", "n_users"), [(0.0, 9), (0.3, 9), (1.0, 20)])
def test_user_ease_solves_its_regressions(activity: float, n_users: int) -> None:
    """Each user's row is ridge regression on the others' rows; long rows are scaled down."""
    draw = np.random.default_rng(1)
    chosen = draw.random((n_users, 12)) < np.linspace(0.2, 0.9, n_users)[:, None]
    chosen[:, 0] = True
    rating = draw.integers(1, 11, chosen.shape) / 2
    rows = [(f"u{u}", f"i{i}", float(rating[u, i])) for u, i in zip(*np.nonzero(chosen), strict=True)]
    trainset = dataset(rows).build_full_trainset()
    algo = ranking.UserEASE(reg=3.0, rating_weight=0.5, activity=activity).fit(trainset)
    x = np.zeros((trainset.n_users, trainset.n_items))
    for u, i, value in trainset.all_ratings():
        x[u, i] = 0.5 + 0.5 * (value - 0.5) / 4.5
    scale = (x > 0).sum(axis=1) ** -activity
    scale *= np.sqrt((x**2).sum() / ((x * scale[:, None]) ** 2).sum())
    scaled = x * scale[:, None]
    assert (scaled**2).sum() == pytest.approx((x**2).sum())
    for u in range(trainset.n_users):
        others = np.arange(trainset.n_users) != u
        weights = Ridge(alpha=3.0, fit_intercept=False).fit(scaled[others].T, scaled[u]).coef_
        expected = 0.5 + 4.5 * (weights @ scaled[others]) / scale[u]
        found = [algo.estimate(u, i) for i in range(trainset.n_items)]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_user_ease_gives_strangers_what_is_popular() -> None:
    rows = [(user, item, 5.0) for user, items in {"a": "xy", "b": "xy", "c": "x"}.items() for item in items]
    algo = ranking.UserEASE().fit(dataset(rows).build_full_trainset())
    assert (algo.predict("z", "y").est - 0.5) / 4.5 == pytest.approx(2 / 3)
    assert algo.predict("a", "w").est == 0.5


def test_user_ease_refuses_more_users_than_its_memory_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MOST_USERS", 2)
    trainset = dataset([(user, "x", 5.0) for user in "abc"]).build_full_trainset()
    with pytest.raises(InputError, match=r"at most 2 \(here 3\): take EASE"):
        catalogue.fit(catalogue.make("UserEASE", {}, 0), trainset)


def test_ease_falls_back_to_popularity() -> None:
    rows = [
        (user, item, 5.0)
        for user, items in {"a": "xyr", "b": "xy", "c": "x", "d": "s"}.items()
        for item in items
    ]
    algo = ranking.EASE(min_ratings=2).fit(dataset(rows).build_full_trainset())

    def score(user: str, item: str) -> float:
        return (algo.predict(user, item).est - 0.5) / 4.5

    # r is too rare to be learnt, d has rated nothing that is, and z is new.
    assert [score("b", "r"), score("d", "x"), score("z", "y")] == pytest.approx([1 / 4, 3 / 4, 2 / 4])
    assert score("c", "y") != pytest.approx(2 / 4)
    assert score("a", "w") == 0


def test_ease_learns_no_more_items_than_its_memory_bears() -> None:
    rows = [
        (f"u{u}", item, 5.0) for item, users in {"x": 5, "y": 4, "z": 4, "r": 2}.items() for u in range(users)
    ]
    trainset = dataset(rows).build_full_trainset()
    algo = ranking.EASE(min_ratings=1, max_items=2).fit(trainset)
    learnt = {trainset.to_raw_iid(at) for at in np.flatnonzero(algo.position >= 0)}
    # of two with as many ratings the first one of the trainset
    assert (learnt, algo.weights.shape) == ({"x", "y"}, (2, 2))
    assert (algo.predict("u1", "z").est - 0.5) / 4.5 == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("users", "items", "most", "kind"),
    [(3, 4, 9, ranking.UserEASE), (4, 3, 9, ranking.EASE), (3, 4, 2, ranking.EASE)],
)
def test_auto_ease_takes_the_smaller(
    users: int, items: int, most: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MOST_USERS", most)
    rows = [(f"u{u}", f"i{i}", 5.0) for u in range(users) for i in range(items) if (u, i) != (0, 0)]
    trainset = dataset(rows).build_full_trainset()
    algo, alone = ranking.AutoEASE().fit(trainset), kind().fit(trainset)
    assert type(algo.chosen) is kind
    pairs = [(u, i) for u in range(users) for i in range(items)]
    assert [algo.estimate(*pair) for pair in pairs] == [alone.estimate(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("EASE", {"max_items": -1}, "max_items is -1"),
        ("BMF", {"n_factors": -1}, "n_factors is -1"),
        ("BMF", {"n_factors": 2.5}, "n_factors is 2.5"),
        ("BMF", {"n_epochs": 0}, "n_epochs is 0, but must be a whole number from 1 to"),
        ("BMF", {"n_kept": True}, "n_kept is True"),
        ("BMF", {"link_precision": float("nan")}, "link_precision is nan"),
        ("BMF", {"link_precision": "high"}, "link_precision is 'high'"),
        ("EASE", {"reg": 0}, "reg is 0"),
        ("EASE", {"reg": float("inf")}, "reg is inf"),
        ("EASE", {"reg": None}, "reg is None"),
        ("EASE", {"min_ratings": -1}, "min_ratings is -1"),
        ("EASE", {"rating_weight": 2}, "rating_weight is 2, but must be a number from 0 to 1"),
        ("UserEASE", {"reg": 0}, "reg is 0"),
        ("UserEASE", {"rating_weight": -1}, "rating_weight is -1"),
        ("UserEASE", {"activity": 1.5}, "activity is 1.5, but must be a number from 0 to 1"),
        ("SVD", {"lr_all": float("nan")}, "params.lr_all is nan"),
        ("SVDpp", {"lr_all": 1000.0}, "the training of SVDpp diverged"),
        ("SVD", {"n_factors": -1}, "params.n_factors is -1"),
    ],
)
def test_parameters_without_sense(ratings: Ratings, name: str, params: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        catalogue.fit(catalogue.make(name, params, 0), catalogue.dataset(ratings).build_full_trainset())


@given(rows=any_ratings)
def test_a_plan_keeps_the_order_of_each_user_and_item(rows: list) -> None:
    trainset = dataset(rows).build_full_trainset()
    user, item, _ = arrays(trainset)
    order, size = sgd._plan(user, item, trainset.n_items)
    assert sorted(order) == list(range(len(rows))) and size.sum() == len(rows) and size.max() <= 4
    for key in (user, item):
        for one in np.unique(key):
            places = order[key[order] == one]
            assert list(places) == sorted(places)
    for group in np.split(order, np.cumsum(size)[:-1]):
        assert len(set(user[group])) == len(set(item[group])) == len(group)
