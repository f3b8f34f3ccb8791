"""Saved copies: consistent while others write, and what is wrong with one is found before it is needed."""

import fcntl
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow_admin import snapshot, store
from mlflow_admin.store import Refused

Capture = pytest.CaptureFixture[str]
MODEL = "dev.movie-recommender"


class Server:
    """A server's database and artifacts, and what is made of them."""

    def __init__(self, database: pathlib.Path, capsys: Capture) -> None:
        self.database, self.capsys = database, capsys
        self.artifacts = database.parent / "artifacts"
        self.saved = database.parent / "saved"

    def save(self) -> dict[str, Any]:
        snapshot.save(str(self.saved))
        first, last = self.capsys.readouterr().out.splitlines()
        assert first == "copied"
        found: dict[str, Any] = json.loads(last)
        return found

    def verify(self, artifacts: pathlib.Path | None = None) -> list[str]:
        """The faults; none go with the exit code 0."""
        code = 0
        try:
            snapshot.verify(str(self.saved), str(artifacts or self.artifacts))
        except SystemExit as error:
            code = int(str(error.code))
        faults: list[str] = json.loads(self.capsys.readouterr().out)["faults"]
        assert bool(faults) == (code == 1)
        return faults

    def load(self) -> dict[str, Any]:
        snapshot.load(str(self.saved))
        found: dict[str, Any] = json.loads(self.capsys.readouterr().out.splitlines()[-1])
        return found

    def everything(self) -> list[Any]:
        """All that MLflow's client reads."""
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        # under another name each time: MLflow keeps what it has opened
        copy = self.database.with_name(f"read-{len(list(self.database.parent.glob('read-*')))}.db")
        shutil.copy(self.database, copy)
        client = MlflowClient(f"sqlite:///{copy}")
        experiments = client.search_experiments(view_type=ViewType.ALL)
        runs = client.search_runs([found.experiment_id for found in experiments], run_view_type=ViewType.ALL)
        models = client.search_registered_models()
        return [
            sorted((found.experiment_id, found.name, found.artifact_location) for found in experiments),
            sorted(
                (found.info.run_id, found.info.lifecycle_stage, found.info.artifact_uri, str(found.data.params),
                 *(str(client.get_metric_history(found.info.run_id, name)) for name in sorted(found.data.metrics)))
                for found in runs
            ),
            sorted((found.name, str(found.aliases), found.description) for found in models),
            sorted(
                (found.name, found.version, found.source, found.run_id, str(found.tags))
                for model in models
                for found in client.search_model_versions(f"name='{model.name}'")
            ),
        ]  # fmt: skip


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Database and artifacts: versions of an address, a run, a logged model, and a place that is not the server's."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("server")
    patch = pytest.MonkeyPatch()
    # the registry asks the server of the environment for a logged model
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("ratings", "mlflow-artifacts:/1")
    run = client.create_run(experiment)
    client.log_param(run.info.run_id, "factors", "64")
    for step in range(3):
        client.log_metric(run.info.run_id, "rmse", 0.9 - step / 10, step=step)
    client.create_run(experiment)
    gone = client.create_run(experiment)
    client.delete_run(gone.info.run_id)
    logged = client.create_logged_model(experiment, "svd", run.info.run_id)
    client.create_registered_model(MODEL)
    home = run.info.artifact_uri
    for source in (f"{home}/model", f"runs:/{run.info.run_id}/model", f"models:/{logged.model_id}", "file:///nowhere"):
        client.create_model_version(MODEL, source, run.info.run_id)
    client.set_registered_model_alias(MODEL, "champion", "3")
    client.set_registered_model_alias(MODEL, "previous", "1")
    for place, text in ((f"{home}/model/arrays", "1 2"), (f"{logged.artifact_location}/arrays", "3 4")):
        path = folder / "artifacts" / place.removeprefix("mlflow-artifacts:/")
        path.mkdir(parents=True)
        (path / "factors.txt").write_text(text)
        (path / "söng.txt").write_text("☃")
    patch.undo()
    return folder


@pytest.fixture
def server(filled: pathlib.Path, database: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture,
           monkeypatch: pytest.MonkeyPatch) -> Server:  # fmt: skip
    shutil.copy(filled / "mlflow.db", database)
    shutil.copytree(filled / "artifacts", tmp_path / "artifacts")
    (tmp_path / "saved").mkdir()
    monkeypatch.setattr(snapshot, "GRANTED", tmp_path / "granted.json")
    (tmp_path / "granted.json").write_text('{"ana": []}')
    return Server(database, capsys)


@pytest.fixture
def writing(server: Server) -> Iterator[None]:
    """Metrics and runs arrive, until the test ends."""
    from mlflow import MlflowClient

    client, ended, failed = MlflowClient(f"sqlite:///{server.database}"), threading.Event(), []

    def write() -> None:
        try:
            while not ended.is_set():
                run = client.create_run("1").info.run_id
                for step in range(5):
                    client.log_metric(run, "rmse", step / 10, step=step)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    yield
    ended.set()
    thread.join()
    assert not failed


def test_copies_under_concurrent_writes_are_whole(server: Server, writing: None) -> None:
    rows = []
    for _ in range(5):
        found = server.save()
        rows.append(found["rows"])
        assert server.verify() == []
    assert rows == sorted(rows) and rows[0] < rows[-1]


def test_what_is_in_a_copy_is_said(server: Server) -> None:
    found = server.save()
    assert (found["kind"], found["versions"], found["aliases"], found["folders"]) == ("sqlite", 4, 2, 4)
    # model and logged model: two files each
    assert found["files"] == 4 and found["without_artifacts"] == []
    manifest = json.loads((server.saved / "manifest.json").read_text())
    assert manifest["counts"]["metrics"] == 3 and manifest["schema"]["alembic_version"]
    address, run, logged, elsewhere = manifest["versions"]
    assert address["artifacts"] == run["artifacts"] != logged["artifacts"]
    assert address["artifacts"]["files"] == 2 and address["artifacts"]["bytes"] == 6
    assert address["location"] == run["location"] and elsewhere["artifacts"] is None
    assert (server.saved / "granted.json").read_text() == '{"ana": []}'
    assert server.verify() == []


def test_a_copy_elsewhere_is_verified_there(server: Server, tmp_path: pathlib.Path) -> None:
    server.save()
    server.saved, artifacts = server.saved.rename(tmp_path / "scratch"), server.artifacts.rename(tmp_path / "restored")
    server.database.unlink()
    (server.saved / "database.db").chmod(0o444)
    assert server.verify(artifacts) == []
    assert sorted(path.name for path in server.saved.iterdir()) == ["database.db", "granted.json", "manifest.json"]


def test_artifacts_that_are_lost_already_are_said_and_no_fault(server: Server) -> None:
    shutil.rmtree(next(server.artifacts.glob("1/models")))
    assert server.save()["without_artifacts"] == [f"{MODEL} 3"]
    assert server.verify() == []


def damage(server: Server, how: str, sql: Any) -> None:
    file, copy = next(server.artifacts.rglob("model/arrays/factors.txt")), server.saved / "database.db"
    match how:
        case "an artifact is missing":
            file.unlink()
        case "a model's artifacts are missing":
            shutil.rmtree(file.parents[1])
        case "an artifact has changed":
            file.write_text("2 1")
        case "a row is missing":
            sql(copy, "DELETE FROM metrics WHERE step = 1")
        case "an alias has moved":
            sql(copy, "UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")
        case "a version is missing":
            sql(copy, "DELETE FROM model_versions WHERE version = 2")
        case "another schema":
            sql(copy, "UPDATE alembic_version SET version_num = '451aebb31d03'")
        case "rows that refer to nothing":
            sql(copy, "UPDATE metrics SET run_uuid = 'none' WHERE step = 1")
        case "truncated":
            with copy.open("r+b") as opened:
                opened.truncate(copy.stat().st_size // 2)
        case "no database":
            copy.unlink()
        case "no manifest":
            (server.saved / "manifest.json").unlink()
        case "half a manifest":
            (server.saved / "manifest.json").write_text('{"format": 1')


FAULTS = {
    "an artifact is missing": "1 files of 3 bytes, and were 2 of 6, with another digest.",
    "a model's artifacts are missing": f"The artifacts of {MODEL} 1 are missing: ",
    "an artifact has changed": "are not those that were saved: 2 files of 6 bytes, and were 2 of 6, with another",
    "a row is missing": "Table metrics has 2 rows, and had 3 when it was saved.",
    "an alias has moved": f"Alias {MODEL} champion has the version 2, and had 3.",
    "a version is missing": f"Version {MODEL} 2 is missing.",
    "another schema": "The schema is {'alembic_version': '451aebb31d03'}, and was ",
    "rows that refer to nothing": "1 rows refer to rows that are not there.",
    "truncated": "database.db cannot be read: ",
    "no database": "database.db cannot be read: ",
    "no manifest": "has no manifest.json: nothing was saved there, or not to the end.",
    "half a manifest": "manifest.json cannot be read: JSONDecodeError",
}


@pytest.mark.parametrize("how", FAULTS)
def test_damage_is_found(server: Server, sql: Any, how: str) -> None:
    server.save()
    damage(server, how, sql)
    faults = server.verify()
    assert [fault for fault in faults if FAULTS[how] in fault], faults
    if how not in ("no manifest", "half a manifest") and "artifact" not in how and how != "no database":
        assert f"{server.saved}/database.db is not the file that was saved." in faults


def test_a_copy_that_was_cut_off_is_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.save()

    def full(*words: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(snapshot, "_digest", full)
    with pytest.raises(Refused, match=r"could not be saved to .*: No space left on device"):
        snapshot.save(str(server.saved))
    server.capsys.readouterr()
    assert "not to the end" in server.verify()[0]


def test_a_path_in_a_row_leads_nowhere_else() -> None:
    root = "/var/lib/mlflow/artifacts"
    for uri in ("mlflow-artifacts:/../../etc", "mlflow-artifacts:/", f"{root}/../secret", root, "/etc", "s3://a/b", ""):
        assert snapshot._below(uri, root) is None, uri
    for uri in ("mlflow-artifacts:/1/a", "mlflow-artifacts:///1/a", f"file://{root}/1/a", f"{root}/1//a/"):
        assert snapshot._below(uri, root) == "1/a"
    assert snapshot._below("mlflow-artifacts:/1/a", "s3://models") is None


def test_of_a_store_the_places_alone_are_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://models")
    assert server.save()["folders"] == 0
    snapshot.verify(str(server.saved), "")
    manifest = json.loads((server.saved / "manifest.json").read_text())
    assert manifest["destination"] == "s3://models" and len(manifest["locations"]) == 4
    assert manifest["versions"][0]["location"].startswith("mlflow-artifacts:/1/")


def test_where_artifacts_are_must_be_said(server: Server) -> None:
    server.save()
    with pytest.raises(SystemExit):
        snapshot.verify(str(server.saved), "")
    (fault,) = json.loads(server.capsys.readouterr().out)["faults"]
    assert fault == f"Say where the artifacts were restored to: mlflow-admin verify {server.saved} ARTIFACTS"


def test_nothing_deletes_artifacts_while_they_are_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.cli

    asked: list[Any] = []
    monkeypatch.setattr(mlflow.cli.cli, "main", lambda words, standalone_mode: asked.append(words))
    for name in ("COPY_WAITS", "GC_WAITS"):
        for module in (store, snapshot):
            monkeypatch.setattr(module, name, 0, raising=False)
    with open(store.LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        server.save()
        store.gc("30d")
        assert server.capsys.readouterr().out.startswith("Nothing was deleted: somebody has read artifacts")
        assert not asked
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="Artifacts have been deleted for 0 s"):
            snapshot.save(str(server.saved))
    store.gc("30d")
    assert len(asked) == 1
    store.LOCK.unlink()
    with pytest.raises(Refused, match=r"lock is missing: run site\.yml --tags tracking\."):
        store.gc("30d")


def test_a_copy_brings_everything_back(server: Server, sql: Any) -> None:
    before = server.everything()
    server.save()
    lost = [
        "DELETE FROM metrics",
        "DELETE FROM registered_model_aliases",
        "UPDATE runs SET lifecycle_stage = 'deleted'",
    ]
    sql(server.database, *lost)
    (server.database.parent / "granted.json").unlink()
    assert server.everything() != before
    backups = server.database.parent / "backups"
    for times in (1, 2):
        found = server.load()
        assert server.everything() == before
        assert not found["migrated"] and len(list(backups.iterdir())) == times
    assert (server.database.parent / "granted.json").read_text() == '{"ana": []}'
    # what was there before the first of them is kept
    first = min(backups.iterdir())
    assert sql(first, "SELECT count(*) FROM metrics") == [(0,)]


def test_a_copy_is_loaded_where_nothing_is(server: Server) -> None:
    before = server.everything()
    server.save()
    server.database.unlink()
    assert server.load()["set_aside"] == ""
    assert server.everything() == before


def test_an_older_copy_is_migrated(server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store
    import sqlalchemy as sa
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    scripts = ScriptDirectory(str(pathlib.Path(mlflow.store.__file__).parent / "db_migrations"))
    earlier = str(scripts.get_revision(str(scripts.get_current_head())).down_revision)
    uri = f"sqlite:///{tmp_path}/old.db"
    engine = sa.create_engine(uri)
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(uri), earlier)
    with engine.begin() as connection:
        row = "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'of old', 'active')"
        connection.execute(sa.text(row))
    engine.dispose()
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", uri)
    server.save()
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{server.database}")
    assert server.verify() == []
    assert server.load()["migrated"]
    assert [name for _, name, _ in server.everything()[0]] == ["Default", "of old"]


def test_a_copy_of_a_newer_version_is_refused(server: Server, sql: Any) -> None:
    sql(server.database, "UPDATE alembic_version SET version_num = 'of_tomorrow'")
    server.save()
    assert "The schema of_tomorrow is of a newer MLflow than this server's" in server.verify()[0]
    before = server.database.read_bytes()
    wanted = r"whose schema of_tomorrow this server's MLflow \S+ does not know\. Install that version"
    with pytest.raises(Refused, match=wanted):
        server.load()
    assert server.database.read_bytes() == before


def test_a_copy_of_another_kind_says_what_to_type(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.save()
    assert snapshot.fits(str(server.saved))["kind"] == "sqlite"
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg://mlflow@/mlflow")
    wanted = r"is of sqlite, and this server's database is postgresql\. Set mlflow_backend: sqlite in the"
    with pytest.raises(Refused, match=wanted):
        server.load()


@pytest.mark.parametrize("there", [True, False])
def test_what_cannot_be_loaded_leaves_the_database_alone(server: Server, sql: Any, there: bool) -> None:
    server.save()
    file, manifest = server.saved / "database.db", server.saved / "manifest.json"
    sql(file, "DELETE FROM metrics")
    if there:
        before = server.everything()
    else:
        server.database.unlink()
    with pytest.raises(Refused, match=r"database\.db is not the file that was saved\. Restore it again\."):
        server.load()
    # with the right digest, and other rows
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"sha256": snapshot._sha256(file)}))
    wanted = r"could not be loaded: Table metrics has 0 rows, and had 3 when it was saved\.\n"
    wanted += "The database is as it was before" if there else "There was no database before"
    with pytest.raises(Refused, match=wanted):
        server.load()
    assert server.everything() == before if there else not server.database.exists()


def test_there_must_be_something_to_save(server: Server) -> None:
    server.database.unlink()
    with pytest.raises(Refused, match="There is no database yet"):
        snapshot.save(str(server.saved))


DUMP = r"""
--
-- PostgreSQL database dump
--
COPY public.alembic_version (version_num) FROM stdin;
{head}
\.
COPY public.metrics (key, value, run_uuid) FROM stdin;
rmse	0.9	a
COPY public.runs (key) FROM stdin;	0.8	a
\.
COPY public.model_versions (name, version, source, "storage_location", run_id) FROM stdin;
m\t\\\n	10	mlflow-artifacts:/1/a/artifacts	\N	a
m\t\\\n	9	runs:/a/x	\N	a
\.
COPY public.runs (run_uuid, artifact_uri) FROM stdin;
a	mlflow-artifacts:/1/a/artifacts
\.
SELECT pg_catalog.setval('public.sequence', 1, true);
"""


@pytest.fixture
def dumped(server: Server, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A saved folder as PostgreSQL's would be; pg_restore prints its file."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    script = server.saved.parent / "bin/pg_restore"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\ncat "$3"; test -s "$3" || { echo "could not read" >&2; exit 1; }\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    scripts = ScriptDirectory(str(pathlib.Path(mlflow.store.__file__).parent / "db_migrations"))
    file = server.saved / "database.dump"
    file.write_text(DUMP.replace("{head}", str(scripts.get_current_head())))
    manifest: dict[str, Any] = {"format": 1, "time": "now", "kind": "postgresql", "mlflow": "3"}
    manifest |= {"sha256": snapshot._sha256(file), "destination": str(server.artifacts), **snapshot._of_dump(file)}
    snapshot._add_artifacts(manifest, server.artifacts)
    (server.saved / "manifest.json").write_text(json.dumps(manifest))
    return file


def test_a_dump_of_postgresql_is_read_without_a_database(server: Server, dumped: pathlib.Path) -> None:
    found = json.loads((server.saved / "manifest.json").read_text())
    assert found["counts"] == {"alembic_version": 1, "metrics": 2, "model_versions": 2, "runs": 1}
    assert [(row["name"], row["version"], row["storage_location"]) for row in found["versions"]] == [
        ("m\t\\\n", "9", None), ("m\t\\\n", "10", None),
    ]  # fmt: skip
    assert found["versions"][0]["location"] == "mlflow-artifacts:/1/a/artifacts/x"
    assert server.verify() == []
    dumped.write_text(dumped.read_text().replace("rmse\t0.9\ta\n", ""))
    assert "Table metrics has 1 rows, and had 2 when it was saved." in server.verify()
    dumped.write_text("")
    assert f"{dumped} cannot be read: {dumped} is damaged: could not read" in server.verify()
