"""Models that version 1.0.0 stored, whose code looked for modules in other places, load and answer as before.

fixtures/stored-1.0.0.zip holds what MLflow stored of an SVD over the small world (model/, with the code of
that time) and the algorithm's dump (native/).
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from recommender.algorithms import dump
from recommender.promotion import probe
from recommender.serving import Recommender
from recommender.tracking import registry
from tests.conftest import ROOT

# Answers of version 1.0.0.
PAIRS = {("1", "7"): 3.181539342423403, ("2", "17"): 3.2880903624066016}
LISTED = ["177", "237", "207"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(ROOT / "tests/fixtures/stored-1.0.0.zip") as archive:
        archive.extractall(path)
    return path


def test_where_this_code_runs(stored: Path) -> None:
    before = [*sys.path]
    model = registry.load(str(stored / "model"))
    # where MLflow puts the model's own code, for processes that are started later
    assert sys.path == before
    pairs = model.predict(pd.DataFrame([*PAIRS], columns=["user", "item"]))
    assert pairs["estimate"].tolist() == pytest.approx([*PAIRS.values()], abs=1e-9)
    assert model.predict(pd.DataFrame({"user": ["1"], "k": [3]}))["item"].tolist() == LISTED
    assert isinstance(model.unwrap_python_model().recommender, Recommender)


def test_where_only_its_own_code_is(stored: Path, tmp_path: Path) -> None:
    users, items = (list(each) for each in zip(*PAIRS, strict=True))
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"pairs": {"user": users, "item": items}, "lists": {"user": ["1"]}}))
    line = [sys.executable, "-IB", probe.__file__, str(stored / "model"), str(golden)]
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(line, env=clean, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert answered["pairs"]["estimate"] == pytest.approx([*PAIRS.values()], abs=1e-9)
    assert answered["lists"]["item"][:3] == LISTED


def test_its_dump(stored: Path) -> None:
    algo = dump.load(stored / "native")
    assert [algo.predict(*pair).est for pair in PAIRS] == pytest.approx([*PAIRS.values()], abs=1e-9)
