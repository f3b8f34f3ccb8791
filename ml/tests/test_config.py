from pathlib import Path

import pytest

from recommender import config
from recommender.errors import InputError
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_are_valid(path: Path) -> None:
    from recommender.algorithms import catalogue

    loaded = config.load(path)
    catalogue.make(loaded.algorithm, loaded.params, loaded.seed)
    assert Path(loaded.data.source) == ROOT / "data" / "ml-latest-small"


def test_there_are_shipped_files() -> None:
    assert len(list((ROOT / "conf").glob("*.yaml"))) >= 4


def test_overrides_paths_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {source: '${PLACE}/r.csv', titles: t.csv}\n")
    monkeypatch.setenv("PLACE", "sub")
    loaded = config.load(path, {"evaluation.folds": 3, "params.n_factors": 7})
    assert loaded.data.source == str(tmp_path / "sub" / "r.csv")
    assert loaded.data.titles == str(tmp_path / "t.csv")
    assert (loaded.evaluation.folds, loaded.params) == (3, {"n_factors": 7})
    assert config.load(path, {"data.source": "here.csv"}).data.source == "here.csv"
    path.write_text("data: {source: 'sqlite:///${PLACE}.db', table: t, titles: films}\n")
    loaded = config.load(path)
    assert (loaded.data.source, loaded.data.titles) == ("sqlite:///sub.db", "films")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no settings"),
        ("- 1", "contains no settings"),
        ("seed: [", "not YAML"),
        ("seed: 0", "data: Field required"),
        (
            "data: {source: x}\nsede: 1",
            "sede: unknown key; is seed meant?",
        ),
        (
            "data: {source: x}\nk: 5",
            "k: unknown key; is evaluation.k or recommendation.k meant?",
        ),
        (
            "data: {source: x}\nevaluation: {folds: 1}",
            "evaluation.folds: Input should be greater than or equal to 2",
        ),
        ("data: {source: x, scale: [5, 1]}", "data.scale: Value error, the lowest rating comes first"),
        ("data: {source: x, format: excel}", "data.format: Input should be 'auto'"),
        ("data: {source: x}\ntracking: {model: a/b}", "tracking.model"),
        ("data: {source: x}\nseed: -1", "seed: Input should be greater"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        config.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_unreadable_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file or directory\. Name a parameter file with --config"):
        config.load(tmp_path / "none.yaml")
    path = tmp_path / "c.yaml"
    path.write_bytes(b"seed: \xff")
    with pytest.raises(InputError, match="not UTF-8 text"):
        config.load(path)
    path.write_text("data: {source: x}\n")
    with pytest.raises(InputError, match="source is a single value"):
        config.load(path, {"data.source.name": 1})
    # the file is not to blame
    with pytest.raises(InputError, match=r"^evaluation\.fold: unknown key; is evaluation\.folds meant\?$"):
        config.load(path, {"evaluation.fold": 3})
    with pytest.raises(InputError, match=r"^unheard: unknown key; conf/default\.yaml lists the keys$"):
        config.load(path, {"unheard": 3})


def test_every_key_of_data_is_explained_and_has_a_flag() -> None:
    import yaml

    from recommender.cli import main

    explained = yaml.safe_load((ROOT / "conf" / "default.yaml").read_text())["data"]
    assert explained.keys() == config.DataConfig.model_fields.keys()
    assert explained["columns"].keys() == config.Columns.model_fields.keys()
    defaults = config.DataConfig(source="x").model_dump(mode="json")
    assert {**explained, "source": "x"} == defaults
    keys = [
        *(key for key in explained if key != "columns"),
        *(f"columns.{key}" for key in explained["columns"]),
    ]
    flags = {action.dest for action in main._parser()._subparsers._group_actions[0].choices["train"]._actions}
    assert {f"data.{key}" for key in keys} <= flags
    readme = (ROOT / "README.md").read_text()
    for key in keys:
        assert f"`{key}`" in readme or f"`.{key.rpartition('.')[2]}`" in readme, key


def test_data_flags_reach_the_settings(tmp_path: Path) -> None:
    from recommender.cli import main, options

    line = [
        "train",
        "--config",
        str(ROOT / "conf" / "default.yaml"),
        "--no-header",
        "--missing",
        "0",
        "-1",
        "NULL",
    ]
    loaded = options.settings(main._parser().parse_args([*line, "--separator", "\\t", "--decimal", ","])).data
    assert (loaded.header, loaded.missing, loaded.separator, loaded.decimal) == (
        False,
        ("0", "-1", "NULL"),
        "\t",
        ",",
    )
