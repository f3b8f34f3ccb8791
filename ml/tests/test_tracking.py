"""Runs, versions and aliases in a local store; a server that is not there."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from recommender import names, train
from recommender.algorithms import dump
from recommender.cli import main, printing
from recommender.errors import InputError, RecommenderError
from recommender.evaluation import results
from recommender.promotion import trial
from recommender.tracking import data_reports, registry, run_log, runs, stores
from tests.conftest import ROOT


def clean_environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **extra}


def versions(name: str) -> list[str]:
    return sorted(
        str(version.version) for version in mlflow.MlflowClient().search_model_versions(f"name='{name}'")
    )


def runs_of(experiment: str) -> list[mlflow.entities.Run]:
    return mlflow.search_runs(experiment_names=[experiment], output_format="list")


# What a training leaves behind


@pytest.fixture(scope="module")
def report(store: str, folder: Path) -> dict:
    from recommender.config import Config

    config = Config.model_validate(
        {
            "params": {"n_factors": 4, "n_epochs": 3},
            "data": {"source": str(folder)},
            "evaluation": {"folds": 2, "k": 5},
            "recommendation": {"min_item_ratings": 3, "k": 4},
            "tracking": {"experiment": "one"},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOMMENDER_ENVIRONMENT", "staging")
        patch.setenv("RECOMMENDER_SOURCE_DIGEST", "abc123")
        return train.train(config, store)


def test_report_keeps_its_contract(report: dict, ratings, store: str) -> None:
    parts = (
        "dataset algorithm params ranking metrics model tracking_uri seconds recommendations source_digest"
    )
    assert list(report) == parts.split()
    assert report["dataset"]["ratings"] == len(ratings)
    assert report["dataset"]["digest"] == ratings.digest()
    listed = (
        "list_precision",
        "list_recall",
        "list_ndcg",
        "coverage",
        "list_ratings",
        "list_users",
        "popular_ndcg",
    )
    assert set(report["metrics"]) == {*results.METRICS, *listed, "k"}
    model = report["model"]
    assert (model["name"], model["version"], model["alias"]) == ("staging.movie-recommender", "1", "champion")
    assert model["uri"] == "models:/staging.movie-recommender/1"
    assert report["source_digest"] == "abc123"
    assert report["recommendations"]["user"] == "1"
    assert [set(pick) for pick in report["recommendations"]["items"]] == [
        {"item", "title", "estimate", "score", "rank", "because"}
    ] * 4
    assert report["seconds"]["total"] >= report["seconds"]["fit"] > 0
    assert json.loads(json.dumps(report)) == report
    assert "version   staging.movie-recommender 1, alias champion" in printing.summary(report)


def test_run_has_everything(report: dict) -> None:
    run = mlflow.get_run(report["model"]["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["params.n_factors"] == "4"
    assert run.data.params["seed"] == "0"
    assert run.data.params["evaluation.threshold"] == "4.0"
    for key in results.METRICS:
        assert run.data.metrics[key] == pytest.approx(report["metrics"][key], abs=1e-6)
        assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, f"fold_{key}")) == 2
    assert run.data.metrics["seconds_fit"] > 0
    assert run.data.tags["dataset_digest"] == report["dataset"]["digest"]
    assert run.data.tags["model_digest"] == report["model"]["digest"]
    assert run.data.tags["source_digest"] == "abc123"
    assert "source_commit" not in run.data.tags
    [dataset] = run.inputs.dataset_inputs
    assert report["dataset"]["digest"].startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.profile)["num_rows"] == report["dataset"]["ratings"]
    local = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    found = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    assert {"config.yaml", "environment.json", "plots/evaluation.png"} <= found
    assert {"native/surprise.dump", "native/manifest.json"} <= found
    assert json.loads((local / "environment.json").read_text())["packages"]["scikit-surprise"]
    assert (local / "plots/evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_kept_twice_with_a_manifest_each(report: dict) -> None:
    native = Path(
        mlflow.artifacts.download_artifacts(run_id=report["model"]["run_id"], artifact_path="native")
    )
    place = Path(mlflow.artifacts.download_artifacts(report["model"]["uri"]))
    estimate = registry.load(str(place)).predict(pd.DataFrame({"user": ["3"], "item": ["7"]})).estimate[0]
    assert dump.load(native).predict("3", "7").est == pytest.approx(estimate, abs=1e-9)
    assert not [*place.rglob("*.dump"), *place.rglob("*.pkl")]
    for folder in (native, place / "artifacts" / "recommender"):
        stated = json.loads((folder / "manifest.json").read_text())
        assert stated["dataset_digest"] == report["dataset"]["digest"]
        assert stated["model_digest"] == report["model"]["digest"]
        assert stated["parameters"]["params"] == report["params"]
        assert (stated["parameters"]["algorithm"], stated["parameters"]["seed"]) == ("SVD", 0)
        assert "source" not in stated["parameters"]["data"]


def test_damaged_model_is_refused(report: dict, tmp_path: Path, capsys) -> None:
    place = Path(mlflow.artifacts.download_artifacts(report["model"]["uri"], dst_path=str(tmp_path)))
    path = place / "artifacts" / "recommender" / "recommender.npz"
    path.write_bytes(path.read_bytes() + b"\0")
    line = ["recommend", "--user", "1", "--model", str(place), "--tracking-uri", mlflow.get_tracking_uri()]
    assert main.main(line) == 2
    assert f"{path}: its sha256 is " in capsys.readouterr().err


def test_version_is_tagged(report: dict) -> None:
    version = mlflow.MlflowClient().get_model_version_by_alias("staging.movie-recommender", "champion")
    assert version.run_id == report["model"]["run_id"]
    assert version.tags["source_digest"] == "abc123"
    assert version.tags["dataset_digest"] == report["dataset"]["digest"]
    assert version.tags["model_digest"] == report["model"]["digest"]


CLEAN_PROCESS = """
import json, pathlib, pickle, sys

unpickled = []  # every class or function that any pickle, by whatever library, asks for
sys.addaudithook(lambda event, about: unpickled.append(about) if event == "pickle.find_class" else None)
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
replies = []
for uri in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(uri)
    pairs = model.predict(pd.DataFrame({"user": ["1", "stranger"], "item": ["7", "7"]}))
    lists = model.predict(pd.DataFrame({"user": ["1", "stranger"], "k": [2, 3]}))
    default = model.predict(pd.DataFrame({"user": ["1"]}))
    try:
        model.predict(pd.DataFrame({"user": ["1"], "k": [0]}))
    except mlflow.exceptions.MlflowException as error:
        refusal = error.error_code
    replies.append({"pairs": pairs.to_dict("records"), "lists": lists.to_dict("records"),
                    "default": len(default), "refusal": refusal})
served = list(unpickled)
pickle.loads(pickle.dumps(pathlib.PurePosixPath("x")))
json.dump({"replies": replies, "surprise": "surprise" in sys.modules, "unpickled": served,
           "hook works": len(unpickled) > len(served)}, sys.stdout)
"""


def test_models_are_served_by_a_clean_process_without_surprise_and_pickle(
    report: dict, make_config, store: str, environment: str, tmp_path: Path
) -> None:
    reports = [report]
    for name in ("KNNBaseline", "SlopeOne"):
        config = make_config(algorithm=name, params={}, recommendation={"min_item_ratings": 3, "k": 4})
        reports.append(train.train(config, store))
    clean = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", CLEAN_PROCESS, store, *(each["model"]["uri"] for each in reports)]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for reply, expected in zip(found["replies"], reports, strict=True):
        assert [row["known_user"] for row in reply["pairs"]] == [True, False]
        assert [(row["user"], row["rank"]) for row in reply["lists"]] == [
            ("1", 1), ("1", 2), ("stranger", 1), ("stranger", 2), ("stranger", 3),
        ]  # fmt: skip
        keys = ("item", "title", "estimate", "score", "rank")
        shown, report_ = (
            [{key: row[key] for key in keys} for row in rows[:2]]
            for rows in (reply["lists"], expected["recommendations"]["items"])
        )
        assert shown == report_
        assert reply["default"] == 4
        assert reply["refusal"] == "INVALID_PARAMETER_VALUE"
    assert (found["surprise"], found["unpickled"], found["hook works"]) == (False, [], True)


def test_a_served_request_may_have_numbers_for_ids(report: dict) -> None:
    from mlflow.pyfunc import scoring_server

    model = registry.load(report["model"]["uri"])
    schema = model.metadata.get_input_schema()
    for body, rows in (
        ({"dataframe_records": [{"user": 1, "k": 2}]}, 2),
        ({"dataframe_split": {"columns": ["user", "item"], "data": [["1", "7"], [9999, 7]]}}, 2),
        ({"inputs": {"user": ["1"]}}, 4),
    ):
        reply = scoring_server.invocations(json.dumps(body), "application/json", model, schema)
        assert reply.status == 200
        assert len(json.loads(reply.response)["predictions"]) == rows


# Registry


def test_aliases_move_and_runs_are_reproducible(make_config, store: str, environment: str) -> None:
    first, second, third = (train.train(make_config(), store)["model"] for _ in range(3))
    assert first["digest"] == second["digest"] == third["digest"]
    name = f"{environment}.movie-recommender"
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    assert versions(name) == ["1", "2", "3"]
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "3", "previous": "2"}


def test_first_version_has_no_previous(report: dict) -> None:
    assert set(mlflow.MlflowClient().get_registered_model("staging.movie-recommender").aliases) == {
        "champion"
    }


def test_no_register(make_config, store: str, environment: str, capfd) -> None:
    report = train.train(make_config(), store, register=False)
    assert (report["model"]["name"], report["model"]["version"], report["model"]["alias"]) == (
        None,
        None,
        None,
    )
    assert versions(f"{environment}.movie-recommender") == []
    assert registry.load(report["model"]["uri"]).predict(pd.DataFrame({"user": ["1"], "k": [1]})).shape == (
        1,
        7,
    )
    # progress bars are for those who wait
    assert "Downloading artifacts" not in capfd.readouterr().err
    assert "not registered" in printing.summary(report)


@pytest.mark.parametrize(
    "place", ["recommender.evaluation.validation.cross_validate", "recommender.tracking.run_log.log_model"]
)
def test_failed_run_registers_nothing(place: str, make_config, store, environment: str, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(place, fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        train.train(make_config(tracking={"experiment": environment}), store)
    assert [run.info.status for run in runs_of(environment)] == ["FAILED"]
    assert versions(f"{environment}.movie-recommender") == []


def test_failed_registration_leaves_the_champion(make_config, store, environment: str, monkeypatch) -> None:
    name = f"{environment}.movie-recommender"
    train.train(make_config(), store)

    def fail(*args: object, **kwargs: object) -> None:
        raise MlflowException("no")

    monkeypatch.setattr("mlflow.register_model", fail)
    with pytest.raises(RecommenderError, match="MLflow does not register the model: no"):
        train.train(make_config(), store)
    assert registry.champion(name) == "1"


def test_bad_data_makes_no_run(make_config, store: str, environment: str, tmp_path: Path) -> None:
    stores.connect(store)
    with pytest.raises(InputError):
        train.train(make_config(tracking={"experiment": environment}, data={"source": str(tmp_path)}), store)
    assert mlflow.get_experiment_by_name(environment) is None


def test_deleted_experiment(make_config, store: str, environment: str) -> None:
    stores.connect(store)
    mlflow.delete_experiment(mlflow.create_experiment(environment))
    with pytest.raises(InputError, match=r"is deleted\. Restore it"):
        train.train(make_config(tracking={"experiment": environment}), store)


@pytest.mark.parametrize("name", ["a.b", "a/b", "a b"])
def test_bad_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RECOMMENDER_ENVIRONMENT", name)
    with pytest.raises(InputError, match="use letters, digits"):
        names.environment()


def test_unknown_model(store: str) -> None:
    stores.connect(store)
    with pytest.raises(InputError, match="Train one with: recommender train"):
        registry.load("models:/nowhere.movie-recommender@champion")


# Whole processes: killed, and two at once


def command(conf: Path, uri: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "recommender", "train", "--config", str(conf), "--tracking-uri", uri, *more]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_registers_nothing(
    number: signal.Signals, conf: Path, store: str, environment: str, tmp_path: Path, capsys
) -> None:
    # long enough for a busy machine; a signal waits for the end of a fold at most
    slow = command(
        conf,
        store,
        *("--set", "evaluation.folds=400"),
        *("--set", "params.n_epochs=50000"),
        *("--set", f"tracking.experiment={environment}"),
    )
    process = subprocess.Popen(slow, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    stores.connect(store)
    deadline = time.monotonic() + 60
    while mlflow.get_experiment_by_name(environment) is None or not runs_of(environment):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    # Nothing is told of SIGKILL: the run still says that it runs, and nobody else's does.
    expected = {
        signal.SIGTERM: (128 + signal.SIGTERM, "FAILED"),
        signal.SIGKILL: (-signal.SIGKILL, "RUNNING"),
    }
    assert (process.returncode, *(run.info.status for run in runs_of(environment))) == expected[number]
    assert versions(f"{environment}.movie-recommender") == []
    assert main.main([*slow[3:-4], *slow[-2:]]) == 0
    ended = {signal.SIGTERM: "FAILED", signal.SIGKILL: "KILLED"}[number]
    assert sorted(run.info.status for run in runs_of(environment)) == sorted(["FINISHED", ended])
    assert len(versions(f"{environment}.movie-recommender")) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "RUNNING"),
        ({"process": "999999999 1"}, "KILLED"),
        # the number is another process's by now
        ({"process": f"{os.getpid()} 1"}, "KILLED"),
        ({"process_boot": "another"}, "KILLED"),
        ({"process_host": "another", "process": "999999999 1"}, "RUNNING"),
        ({"process": ""}, "RUNNING"),
    ],
)
def test_run_of_a_lost_process_is_ended_by_the_next(
    make_config, store: str, environment: str, changes: dict[str, str], status: str
) -> None:
    config = make_config(tracking={"experiment": environment})
    uri = stores.connect(store)
    client = mlflow.MlflowClient()
    lost = client.create_run(runs.experiment(environment, uri), tags={**runs._process(), **changes})
    with runs.run(config, uri, {}) as later:
        assert client.get_run(later.info.run_id).info.status == "RUNNING"
        assert client.get_run(lost.info.run_id).info.status == status


def test_a_dataset_that_another_run_was_first_to_log() -> None:
    tries = []

    class Client:
        def log_inputs(self, run_id: str, inputs: list[str]) -> None:
            tries.append((run_id, inputs))
            if len(tries) == 1:
                raise mlflow.exceptions.MlflowException("UNIQUE constraint failed: datasets.digest")

    run_log.log_inputs(Client(), "1", ["ratings"])
    assert tries == [("1", ["ratings"])] * 2


def test_two_first_trainings_at_once(conf: Path, tmp_path: Path) -> None:
    environment = clean_environment()
    environment.pop("MLFLOW_TRACKING_URI", None)
    line = [
        sys.executable,
        "-m",
        "recommender",
        "train",
        "--config",
        str(conf),
        "--report",
        "artifacts/report.json",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(line, cwd=tmp_path, env=environment, umask=0o002, **pipes) for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert "version   dev.movie-recommender" in output
    stores.connect(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert versions("dev.movie-recommender") == ["1", "2"]
    report = tmp_path / "artifacts" / "report.json"
    assert json.loads(report.read_text())["model"]["version"] in ("1", "2")
    assert report.stat().st_mode & 0o777 == 0o664
    assert [path.name for path in report.parent.iterdir()] == ["report.json"]
    assert {path.stat().st_mode & 0o060 for path in (tmp_path / "mlruns").iterdir()} == {0o060}


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o644), (0o002, 0o664)])
def test_a_report_can_be_read_whatever_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        train.write_report(tmp_path / "report.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == mode


# Servers


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every request with the server's status and body."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>hello</html>"), (403, b""), (500, b"oops")],
    ids=["website", "denied", "broken"],
)
def test_server_that_is_no_mlflow(status: int, body: bytes) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    server.status, server.body = status, body
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(RecommenderError, match=f"GET /health answers {status}, not the OK"):
            stores.connect(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_server_that_is_not_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(RecommenderError) as caught:
        stores.connect(f"http://me:secret@127.0.0.1:{port}")
    assert "Connection refused" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "TIMEOUT", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(RecommenderError, match="does not answer within seconds"):
            stores.connect(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/x", "ftp://x"])
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(InputError, match="not a tracking server"):
        stores.connect(uri)


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("sqlite:///{here}/text.db", "file is not a database"),
        ("postgresql+psycopg://me:secret@127.0.0.1:9/mlflow", "refused"),
        ("postgresql+nodriver://me:secret@127.0.0.1:9/mlflow", "Can't load plugin"),
    ],
)
def test_databases_that_are_none(uri: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("some notes of mine, and no database\n" * 99)
    with pytest.raises(RecommenderError, match=f"cannot open this MLflow store: .*{cause}") as caught:
        stores.connect(uri.format(here=tmp_path))
    assert "secret" not in str(caught.value)
    assert (tmp_path / "text.db").read_text().startswith("some notes")


def test_local_store_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecommenderError, match="needs a folder that you can write"):
        stores.connect(f"sqlite:///{tmp_path}/file/mlflow.db")


@pytest.mark.parametrize("place", ["mlflow-artifacts://127.0.0.1:6000/1/a", "mlflow-artifacts://other/1/a"])
def test_artifacts_at_another_server_are_not_asked_for(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:5000")
    with pytest.raises(stores.Untrusted, match="The login would be sent there"):
        stores.require_server_store(place)
    assert stores.require_server_store("mlflow-artifacts:/1/a") == "mlflow-artifacts:/1/a"


@pytest.fixture
def elsewhere(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place at another server; the local store passes for a tracking server's."""
    stores.connect(store)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:5000")
    return "mlflow-artifacts://127.0.0.1:6666/"


def version_at(experiment: str, source: str = "") -> mlflow.entities.model_registry.ModelVersion:
    """The champion, of a run of the experiment, without a digest."""
    client, name = mlflow.MlflowClient(), f"{names.environment()}.movie-recommender"
    run = client.create_run(experiment)
    client.create_registered_model(name)
    version = client.create_model_version(name, source or f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "champion", version.version)
    return version


@pytest.mark.parametrize("folder_of_its_own", [False, True])
def test_training_writes_nothing_elsewhere(
    elsewhere: str, make_config, store: str, environment: str, tmp_path: Path, folder_of_its_own: bool
) -> None:
    mlflow.create_experiment(environment, tmp_path.as_uri() if folder_of_its_own else elsewhere)
    config = make_config(tracking={"experiment": environment})
    with pytest.raises(stores.Untrusted), runs.run(config, store, {}):
        mlflow.log_dict({}, "config.yaml")
    assert [*tmp_path.iterdir()] == []


def test_a_run_that_goes_on_writes_nothing_elsewhere(
    elsewhere: str, make_config, store: str, environment: str
) -> None:
    run = mlflow.MlflowClient().create_run(mlflow.create_experiment(environment, elsewhere))
    mlflow.create_experiment(f"{environment}-mine", "mlflow-artifacts:/1")
    config = make_config(tracking={"experiment": f"{environment}-mine"})
    with pytest.raises(stores.Untrusted), runs.run(config, store, {}, run_id=run.info.run_id):
        mlflow.log_dict({}, "config.yaml")


def test_training_reads_no_champion_elsewhere(elsewhere: str, environment: str) -> None:
    version = version_at(mlflow.create_experiment(environment, elsewhere))
    with pytest.raises(stores.Untrusted):
        data_reports.of_champion(version.name)


def test_deployment_reads_no_report_elsewhere(elsewhere: str, environment: str) -> None:
    version = version_at(mlflow.create_experiment(environment, elsewhere))
    with pytest.raises(stores.Untrusted):
        train.kept_report(version)
    # without a digest there is nothing to fetch and compare
    with pytest.raises(stores.Untrusted):
        trial.check_whole(version)


@pytest.mark.parametrize("what", ["run", "source", "model", "one of a run"])
def test_no_model_is_loaded_from_elsewhere(elsewhere: str, environment: str, what: str) -> None:
    there = mlflow.create_experiment(environment, elsewhere)
    here = mlflow.create_experiment(f"{environment}-mine", "mlflow-artifacts:/1")
    uri = f"models:/{environment}.movie-recommender@champion"
    if what == "run":
        version_at(there)
    elif what == "source":
        version_at(here, f"{elsewhere}model")
    elif what == "model":
        model = mlflow.MlflowClient().create_logged_model(there)
        version_at(here, f"models:/{model.model_id}")
    else:
        uri = f"runs:/{mlflow.MlflowClient().create_run(there).info.run_id}/model"
    with pytest.raises(stores.Untrusted):
        registry.load(uri)


class Guarded(Answer):
    """An MLflow that is well and asks for a login."""

    def do_GET(self) -> None:
        health = self.path == "/health"
        self.send_response(200 if health else 401)
        self.end_headers()
        self.wfile.write(b"OK" if health else b"You are not authenticated.")

    do_POST = do_GET


@pytest.mark.parametrize(
    ("login", "says"), [("", "this account has none"), ("ana", "rejects the login of this account")]
)
def test_server_that_asks_for_a_login(
    login: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", login)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", login)
    server = http.server.HTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}"
        assert main.main(["recommend", "--user", "1", "--tracking-uri", uri]) == 1
    finally:
        server.shutdown()
        server.server_close()
    said = capsys.readouterr().err
    assert f"MLflow asks for a login, and {says}. MLflow's client reads it from ~/.mlflow/credentials" in said
    assert "mlflow_users" in said and "no such model" not in said


def test_who_may_not_train_is_told_the_group(conf: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import grp

    folder = tmp_path / "artifacts"
    folder.mkdir()
    folder.chmod(0o2775)

    def denied(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    monkeypatch.setattr(os, "getegid", lambda: -1)
    monkeypatch.setattr(os, "getgroups", lambda: [])
    assert main.main(["train", "--config", str(conf), "--report", str(folder / "report.json")]) == 2
    group = grp.getgrgid(folder.stat().st_gid).gr_name
    assert f"Training here needs group {group}. On a server an operator puts your account" in (
        capsys.readouterr().err
    )
