"""The validation and the drift report: right numbers, remarks in their place, pages that stand alone."""

import json
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from recommender.cli.main import main
from recommender.data import reports
from recommender.data.ratings import Ratings
from recommender.data.reading import from_frame
from tests.conftest import ROOT


def ratings_of(lines: list[tuple[str, str, float]], **keys) -> Ratings:
    return from_frame(pd.DataFrame(lines, columns=["user", "item", "rating"]), **keys)


def before(ratings: Ratings) -> dict:
    ids = {"users": list(ratings.users), "items": list(ratings.items)}
    return json.loads(json.dumps({"version": "3", "profile": reports.profile(ratings), "ids": ids}))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [tag, *(str(value) for _, value in attrs)]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_profile(ratings: Ratings) -> None:
    report = reports.profile(ratings)
    numbers, frame = report["numbers"], ratings.frame()
    assert numbers["ratings"] == len(frame) and numbers["density"] == len(frame) / (30 * 25)
    assert numbers["rating_mean"] == pytest.approx(frame.rating.mean())
    assert numbers["users_with_few"] == np.mean(frame.groupby("user").size() < 5)
    assert numbers["items_without_title"] == 0
    assert numbers["ratings_of_top_items"] == frame.groupby("item").size().nlargest(2).sum() / len(frame)
    assert dict(report["tables"]["Ratings"]) == {f"{k:g}": v for k, v in frame.rating.value_counts().items()}
    for table, key in (("Users by their ratings", "user"), ("Items by their ratings", "item")):
        assert sum(count for _, count in report["tables"][table]) == frame[key].nunique()
    assert report["remarks"] == [] and json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("lines", "remark"),
    [
        ([("a", "x", 3), ("b", "x", 3)], "All ratings are equal"),
        ([("a", "x", 0.5), ("b", "x", 1)], "Ratings go from 0.5 to 1 only. Is the scale 0.5 to 5 right?"),
        ([("a", "x", 0.5), ("b", "x", 5)], "100% of the users have fewer than 5 ratings."),
    ],
)
def test_remarks(lines: list, remark: str) -> None:
    assert any(found.startswith(remark) for found in reports.profile(ratings_of(lines))["remarks"])


def spread(counts: dict[float, int]) -> Ratings:
    lines = [(f"u{at}", "x", value) for value, count in counts.items() for at in range(count)]
    return ratings_of([(f"{user}of{value}", item, value) for user, item, value in lines], scale=(-1, 100))


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ({0: 60, 1: 1, 5: 9, 6: 9, 7: 9, 8: 9, 10: 9}, "0"),
        ({-1: 19, 1: 3, 2: 10, 3: 20, 4: 30, 5: 20}, "-1"),
        ({1: 10, 2: 10, 3: 10, 4: 10, 99: 40}, "99"),
        ({1: 10, 2: 5, 3: 8, 4: 20, 5: 60}, None),
        ({0: 10, 1: 8, 2: 10, 3: 30, 4: 40}, None),
        ({0: 50, 1: 50}, None),
        ({0: 22, 0.5: 1, 1: 4, 2: 13, 3: 20, 4: 25, 5: 15}, "0"),
        ({0: 22, 1: 5, 2: 13, 3: 20, 4: 25, 5: 15}, "0"),
        ({0: 60, 4: 20, 5: 20}, "0"),
        ({-1: 60, 3: 20, 5: 20}, "-1"),
        # likes, and a scale whose lowest value is 0
        ({-1: 45, 0: 5, 1: 50}, None),
        ({0: 30, 1: 30, 2: 40}, None),
        ({0: 12, 1: 6, 2: 12, 3: 30, 4: 40}, None),
        ({1: 20, 4: 40, 5: 40}, None),
        ({0.5: 1, 1: 3, 2: 8, 3: 20, 3.5: 20, 4: 20, 5: 15}, None),
    ],
)
def test_a_peak_apart_is_remarked_on(counts: dict, value: str | None) -> None:
    remarks = [each for each in reports.profile(spread(counts))["remarks"] if "--missing" in each]
    assert len(remarks) == (value is not None)
    if value:
        assert remarks[0].endswith(f"If {value} means 'not rated', say --missing {value} (data.missing).")


@pytest.mark.parametrize(
    ("pair", "remarked"),
    [
        (("Bob", "bob"), True),
        (("Bob B", "BobB"), True),
        (("a", "a\u200b"), True),
        (("007", "7"), True),
        (("caf\u00e9", "cafe\u0301"), True),
        (("10", "1"), False),
        (("a1", "a10"), False),
        (("NA", "b"), True),
    ],
)
def test_ids_that_look_alike_are_remarked_on(pair: tuple[str, str], remarked: bool) -> None:
    lines = [(user, item, 3.0 + at) for at, (user, item) in enumerate([(pair[0], "x"), (pair[1], "y")])]
    found = [
        each
        for each in reports.profile(ratings_of(lines))["remarks"]
        if "users differ" in each or "is 'NA'" in each
    ]
    assert bool(found) == remarked
    turned = ratings_of([(item, user, rating) for user, item, rating in lines])
    assert (
        any("items differ" in each or "items is 'NA'" in each for each in reports.profile(turned)["remarks"])
        == remarked
    )


@pytest.mark.parametrize(
    ("ids", "remarked"),
    [(["1", "3", "4", "#2"], True), (["1", "#2"], True), (["a", "#2"], False), (["#1", "#2"], False)],
)
def test_an_id_like_a_comment_is_remarked_on(ids: list[str], remarked: bool) -> None:
    remarks = reports.profile(ratings_of([(each, "x", 3.0) for each in ids]))["remarks"]
    assert ("One of the users is '#2'. If its line is a comment, delete the line." in remarks) == remarked


def test_what_reading_found_is_remarked_on(tmp_path: Path, capsys) -> None:
    path = tmp_path / "r.csv"
    path.write_text("userId,movieId,rating,timestamp\n1,1,1,01/02/2015\n1,2,5,02/01/2015\n1,3,0,x\n")
    line = ["check", "--config", str(ROOT / "conf/default.yaml"), "--data", str(path), "--missing", "0"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "ok: 1 rows that mean 'not rated' are left out" in printed
    assert "LOOK: Times are not used: '01/02/2015': no row says" in printed
    assert main([*line, "--time-format", "%d/%m/%Y"]) == 0
    assert "rated from 2015-01-02" in capsys.readouterr().out


def test_ratings_of_the_future_and_of_any_value() -> None:
    from dataclasses import replace

    many = ratings_of([(f"u{at}", "x", 1 + at / 100) for at in range(99)])
    assert len(reports.profile(many)["tables"]["Ratings"]) == reports.BINS
    [remark] = [
        found for found in reports.profile(replace(many, period=(0.0, 4e12)))["remarks"] if "future" in found
    ]
    assert "Are times in seconds?" in remark


@pytest.mark.parametrize(
    ("last", "remarked"),
    [(13022015, True), (150302, True), (42000, True), (694224001, False), (874724710, False)],
)
def test_times_that_are_too_old_are_remarked_on(last: int, remarked: bool) -> None:
    from dataclasses import replace

    ratings = replace(ratings_of([("a", "x", 1.0)]), period=(0.0, float(last)))
    found = [each for each in reports.profile(ratings)["remarks"] if "--time-format" in each]
    assert len(found) == remarked


def test_drift() -> None:
    old = ratings_of([("a", "x", 1), ("a", "y", 2), ("b", "x", 2), ("c", "z", 5)])
    new = ratings_of([("a", "x", 1), ("b", "x", 2), ("d", "w", 4), ("d", "x", 5), ("e", "x", 5)])
    report = reports.drift(new, reports.profile(new), before(old))
    assert report["numbers"] == pytest.approx({
        "rating_mean_change": 3.4 - 2.5,
        # 1: .25 to .2, 2: .5 to .2, 4: 0 to .2, 5: .25 to .4
        "distance": (0.05 + 0.3 + 0.2 + 0.15) / 2,
        "ratings_change": 0.25,
        "new_users": 2 / 4,
        "new_items": 1 / 2,
        "ratings_of_new_items": 1 / 5,
        "gone_users": 1 / 3,
        "coverage": 1 / 3,
    })  # fmt: skip
    assert [remark.split()[0] for remark in report["remarks"]] == ["new_items", "distance", "coverage"]
    same = reports.drift(old, reports.profile(old), before(old))
    assert same["remarks"] == [] and same["checks"] == ["the champion was trained on the same ratings"]
    assert set(same["numbers"].values()) == {0.0, 1.0}


def test_pages_stand_alone_and_escape(ratings: Ratings) -> None:
    wicked = ratings_of([("<b>", "x", 1), ("b", "x", 2)], name="<script>alert(1)</script>")
    for report in (reports.profile(wicked), reports.drift(wicked, reports.profile(wicked), before(ratings))):
        tags = Tags()
        tags.feed(reports.page(report))
        assert not {"script", "link", "img", "b"} & set(tags.found)
        assert not any(value.startswith(("http", "//")) for value in tags.found)
        assert "<script>alert(1)</script>" in tags.text
        for key in report["numbers"]:
            assert key.replace("_", " ") in tags.text


def test_logged_with_each_training(conf: Path, store: str, environment: str, tmp_path: Path, capsys) -> None:
    line = ["--config", str(conf), "--tracking-uri", store]
    assert main(["check", *line, "--champion"]) == 2
    assert "no champion with a profile of its data" in capsys.readouterr().err
    experiment = ["--set", f"tracking.experiment={environment}"]
    for _ in range(2):
        assert (
            main(["train", *line, *experiment, "--set", "algorithm=BaselineOnly", "--set", "params={}"]) == 0
        )
    mlflow.set_tracking_uri(store)
    new, old = mlflow.search_runs(experiment_names=[environment], output_format="list")
    paths = {
        run.info.run_id: {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "data")}
        for run in (old, new)
    }
    assert paths[old.info.run_id] == {"data/ids.json", "data/profile.json", "data/profile.html"}
    assert paths[new.info.run_id] > paths[old.info.run_id] | {"data/drift.html"}
    assert new.data.metrics["data_ratings"] == old.data.metrics["data_ratings"] > 400
    assert (new.data.metrics["drift_coverage"], new.data.metrics["drift_new_users"]) == (1, 0)
    assert "drift_coverage" not in old.data.metrics
    capsys.readouterr()
    assert main(["check", *line, "--champion", "--output", str(tmp_path / "pages")]) == 0
    assert "ok: the champion was trained on the same ratings" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {
        "validation.html", "validation.json", "drift.html", "drift.json",
    }  # fmt: skip
    assert main(["check", *line, "--output", "/proc/nowhere"]) == 1
    assert main(["check", *line, "--data", "nowhere"]) == 2
