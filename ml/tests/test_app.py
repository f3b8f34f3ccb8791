"""The HTTP interface, a bundle's way into it, and switches under requests."""

import asyncio
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import schemathesis
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from recommender import train
from recommender.data.ratings import Ratings
from recommender.errors import InputError
from recommender.promotion import evidence
from recommender.serving.app import answers, app, bundle, clients, guard, service, trial
from recommender.serving.app.counts import Counts
from recommender.serving.app.live import Live
from recommender.serving.app.ring import Ring, kept
from recommender.serving.recommender import Recommender

HERE = "http://127.0.0.1:8000"
LABELS = {
    "name": "dev.movie-recommender", "version": "1", "run_id": "f" * 32, "algorithm": "SVD + EASE",
    "trained_at": "2026-11-29T00:00:00+00:00",
    "model_digest": "a", "dataset_digest": "b", "artifact_digest": "c",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(ratings: Ratings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model as bundles v1 and v2, links to them; the second estimates otherwise."""
    from recommender.config import Config

    place = tmp_path_factory.mktemp("models")
    for number, epochs in ((1, 3), (2, 20)):
        content = {
            "algorithm": "SVD", "params": {"n_factors": 4, "n_epochs": epochs}, "data": {"source": "x"},
            "ranking": {"algorithm": "AutoEASE"}, "recommendation": {"k": 4, "min_item_ratings": 0},
        }  # fmt: skip
        model, _ = train.fit(ratings, Config.model_validate(content))
        model.save(place / f"model{number}", {})
        golden, _ = evidence.sample(model, 0)
        (place / f"golden{number}.json").write_text(json.dumps(golden))
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    """A server's folder of bundles, with v1 as current; the names of both are in v1 and v2."""
    bundles = tmp_path / "bundles"
    for number in ("1", "2"):
        made = bundle.lay_out(
            models / f"model{number}", models / f"golden{number}.json", {**LABELS, "version": number}, bundles
        )
        (tmp_path / f"v{number}").write_text(made.name)
    (bundles / "current").symlink_to((tmp_path / "v1").read_text())
    return bundles


def name(place: Path, number: int) -> str:
    return (place.parent / f"v{number}").read_text()


@pytest.fixture
def live(place: Path) -> Live:
    live = Live(place)
    live.start()
    return live


@pytest.fixture
def client(live: Live) -> Iterator[TestClient]:
    with TestClient(app.make(live), HERE) as client:
        yield client


def test_answers_are_those_of_the_model(client: TestClient, models: Path) -> None:
    model = Recommender.load(models / "model1")
    history = {"7": 5.0, "17": 1.0}
    for sent, picks in (
        ({"user": "1", "k": 3}, model.top_n("1", 3)),
        ({"history": history}, model.top_n("new", history=history)),
        ({"user": "stranger"}, model.top_n("stranger")),
        ({"user": "1", "k": 2, "exclude": [model.top_n("1", 1)[0].item]}, model.top_n("1", 3)[1:]),
    ):
        reply = client.post("/v1/recommend", json=sent)
        assert reply.status_code == 200
        assert [line["item"] for line in reply.json()["items"]] == [pick.item for pick in picks]
        assert [line["rank"] for line in reply.json()["items"]] == list(range(1, len(picks) + 1))
        np.testing.assert_allclose(
            [line["estimate"] for line in reply.json()["items"]], [pick.estimate for pick in picks], atol=1e-6
        )
        assert reply.json()["model"] == {"name": "dev.movie-recommender", "version": "1"}
        assert reply.headers["x-model-version"] == "dev.movie-recommender/1"
    assert client.get("/v1/recommend", params={"user": "stranger"}).json()["known"] is False
    pairs = [{"user": "1", "item": "7"}, {"user": "nobody", "item": "nothing"}]
    found = client.post("/v1/estimate", json={"pairs": pairs}).json()["pairs"]
    np.testing.assert_allclose(
        [each["estimate"] for each in found], model.estimate(["1", "nobody"], ["7", "nothing"])
    )
    near = client.get("/v1/similar", params={"item": "7", "k": 3}).json()["items"]
    assert [each["item"] for each in near] == [pick.item for pick in model.similar("7", 3)]
    lists = client.post("/v1/recommend/batch", json={"users": ["1", "2"], "k": 2}).json()["lists"]
    assert [[line["item"] for line in each["items"]] for each in lists] == [
        [pick.item for pick in model.top_n(user, 2)] for user in ("1", "2")
    ]
    because = client.get("/v1/recommend", params={"user": "1", "reasons": 2}).json()["items"][0]["because"]
    assert [each["item"] for each in because] == [
        each.item for each in model.reasons("1", model.top_n("1")[0].item, 2)
    ]
    assert client.post("/v1/recommend", json={"history": {"7": 5, "unheard-of": 3}}).json()["ignored"] == [
        "unheard-of"
    ]


@pytest.mark.parametrize(
    ("method", "path", "sent", "code", "says"),
    [
        ("POST", "/v1/recommend", {"k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("POST", "/v1/recommend", {"k": 10**9}, 422, "k: Input should be less than or equal to 500"),
        ("POST", "/v1/recommend", {"kk": 1}, 422, "kk: Extra inputs are not permitted"),
        (
            "POST",
            "/v1/recommend",
            {"history": {"7": 9}},
            422,
            "rating 9.0 of item '7' is not on the scale 0.5 to 5",
        ),
        ("POST", "/v1/recommend", {"history": {str(i): 3 for i in range(1001)}}, 422, "history: "),
        ("POST", "/v1/recommend", {"user": "x" * 201}, 422, "user: "),
        ("POST", "/v1/recommend", "text", 422, "body: "),
        ("POST", "/v1/recommend/batch", {"users": []}, 422, "users: "),
        ("POST", "/v1/estimate", {"pairs": [{"user": "1"}]}, 422, "pairs.0.item: Field required"),
        ("GET", "/v1/similar?item=nothing", None, 422, "item 'nothing' is unknown"),
        ("GET", "/v1/recommend", None, 422, "user: Field required"),
        ("POST", "/v1/recommend/batch", {"users": ["1"] * 11, "k": 500}, 422, "a smaller k"),
        ("GET", "/v1/nothing", None, 404, ""),
        ("DELETE", "/v1/recommend", None, 405, ""),
    ],
)
def test_bad_input_says_what_to_send(
    client: TestClient, method: str, path: str, sent: Any, code: int, says: str
) -> None:
    reply = client.request(method, path, json=sent)
    assert reply.status_code == code
    assert says in reply.json()["detail"]
    assert reply.headers["x-request-id"]


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * 65536

    for content, headers in ((b" " * (app.BODY_BYTES + 1), {}), (body(), {"transfer-encoding": "chunked"})):
        reply = client.post(
            "/v1/recommend", content=content, headers={"content-type": "application/json", **headers}
        )
        assert reply.status_code == 413
        assert "Ask in several requests" in reply.json()["detail"]


def test_request_ids(client: TestClient) -> None:
    assert client.get("/health/live", headers={"x-request-id": "abc123"}).headers["x-request-id"] == "abc123"
    for bad in ("a b", "x" * 65, "<script>"):
        assert client.get("/health/live", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_metrics_are_prometheus(client: TestClient, live: Live) -> None:
    client.get("/v1/recommend", params={"user": "1"})
    client.get("/v1/recommend", params={"user": "stranger"})
    client.get("/v1/recommend")
    families = {each.name: each for each in text_string_to_metric_families(client.get("/metrics").text)}
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["recommender_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counted[("/v1/recommend", "200")] == 2 and counted[("/v1/recommend", "422")] == 1
    assert families["recommender_fallbacks"].samples[0].value == 1
    # while /metrics itself is answered
    assert families["recommender_in_flight"].samples[0].value == 1


def test_nothing_to_serve_yet(tmp_path: Path) -> None:
    live = Live(tmp_path)
    live.start()
    with TestClient(app.make(live), HERE) as client:
        assert client.get("/health/live").status_code == 200
        for path in ("/health/ready", "/v1/models", "/v1/recommend?user=1"):
            reply = client.get(path)
            assert reply.status_code == 503
            assert "make promote" in reply.json()["detail"]


def test_a_switch_flips_every_answer_and_back(client: TestClient, live: Live, place: Path) -> None:
    def version() -> str:
        return client.get("/v1/recommend", params={"user": "1"}).json()["model"]["version"]

    first = live.now
    assert version() == "1"
    live.switch(name(place, 2))
    assert version() == "2"
    assert client.get("/v1/models").json()["previous"]["version"] == "1"
    live.switch(name(place, 1))
    # the one that was still in memory
    assert live.now is first and version() == "1"
    assert live.switch(name(place, 1)) is first


def test_no_request_is_lost_or_mixed_while_versions_switch(live: Live, place: Path, models: Path) -> None:
    """Each answer is whole: its estimates are those of the version that it names."""
    expected = {
        number: {
            pick.item: pick.estimate for pick in Recommender.load(models / f"model{number}").top_n("1", 25)
        }
        for number in ("1", "2")
    }
    done, seen = threading.Event(), set()

    def switching() -> None:
        for _ in range(60):
            live.switch(name(place, 1 if live.now.about.version == "2" else 2))
            live.before = None
        done.set()

    with TestClient(app.make(live), HERE) as client:
        thread = threading.Thread(target=switching)
        thread.start()
        while not done.is_set():
            reply = client.get("/v1/recommend", params={"user": "1", "k": 25})
            assert reply.status_code == 200
            version = reply.json()["model"]["version"]
            seen.add(version)
            for line in reply.json()["items"]:
                assert line["estimate"] == pytest.approx(expected[version][line["item"]], abs=1e-6)
        thread.join()
    assert seen == {"1", "2"}


# Bundles


def damaged(place: Path, of: str, how: str) -> str:
    """A copy of a bundle with a fault, under the name that its about.json asks for if it can."""
    folder = place / "damaged"
    shutil.copytree(place / of, folder)
    array = folder / "arrays/scorer_item_factors.npy"
    content = json.loads((folder / bundle.ABOUT).read_text())
    if how == "truncated":
        array.write_bytes(array.read_bytes()[:-8])
    elif how == "changed":
        raw = bytearray(array.read_bytes())
        raw[-1] ^= 1
        array.write_bytes(raw)
    elif how == "missing":
        array.unlink()
    elif how == "other schema":
        content["format"] = 99
    elif how == "no about":
        (folder / bundle.ABOUT).write_text("{}")
        return folder.name
    (folder / bundle.ABOUT).write_text(json.dumps(content))
    made = place / bundle._name(content["labels"], content["files"])
    shutil.rmtree(made)
    folder.rename(made)
    return made.name


@pytest.mark.parametrize("how", ["truncated", "changed", "missing", "other schema", "no about"])
def test_what_is_damaged_is_never_served(live: Live, place: Path, how: str) -> None:
    before, bad = live.now, damaged(place, name(place, 2), how)
    with pytest.raises(InputError):
        live.switch(bad)
    assert live.now is before
    assert trial.tried(place / bad, None, [])["refused"]


def test_a_bundle_is_whole_or_not_there(models: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = models / "model2", models / "golden2.json", {**LABELS, "version": "3"}, place
    before = sorted(path.name for path in place.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space left"):
            bundle.lay_out(*arguments)
    assert sorted(path.name for path in place.iterdir()) == before


def test_golden_answers_differ(live: Live, place: Path) -> None:
    served = live.now
    recorded = json.loads((place / name(place, 1) / bundle.GOLDEN).read_text())
    assert trial.golden(served, recorded) == ""
    other = json.loads((place / name(place, 2) / bundle.GOLDEN).read_text())
    assert "at the training" in trial.golden(served, other)
    scorer = replace(served.recommender.scorer, base=float("nan"), fallback=float("nan"))
    nan = replace(served, recommender=replace(served.recommender, scorer=scorer))
    assert "nan" in trial.golden(nan, recorded)


def test_the_last_requests_are_tried(live: Live, place: Path, tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring", places=3)
    with TestClient(app.make(live, ring), HERE) as client:
        for user in ("1", "2", "3", "4"):
            client.post("/v1/recommend", json={"user": user, "k": 2})
        client.post("/v1/recommend", json={"user": "x", "exclude": ["y" * 100] * 100})
    assert sorted(each["user"] for each in kept(tmp_path / "ring")) == ["2", "3", "4"]
    found = trial.tried(place / name(place, 2), place / name(place, 1), [*kept(tmp_path / "ring")])
    assert (found["refused"], found["replayed"]) == ("", 3)


def test_batches_do_not_pile_up(live: Live) -> None:
    served = app.make(live)

    async def asked() -> list[int]:
        transport = httpx.ASGITransport(served)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            sent = {"users": ["1"] * 60}
            replies = await asyncio.gather(
                *(client.post("/v1/recommend/batch", json=sent) for _ in range(3)), client.get("/v1/models")
            )
            after = await client.post("/v1/recommend/batch", json={"users": ["1"] * 256, "k": 10})
        return [reply.status_code for reply in (*replies, after)]

    assert asyncio.run(asked()) == [200, 503, 503, 200, 200]


def test_a_damaged_version_is_replaced(live: Live, place: Path) -> None:
    (place / name(place, 1) / "about.json").write_text("{")
    assert trial.tried(place / name(place, 2), place / name(place, 1), [{"user": "1"}])["refused"] == ""


def test_a_failure_says_where_to_look(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "similar", lambda *words: 1 / 0)
    with TestClient(app.make(live), HERE, raise_server_exceptions=False) as client:
        reply = client.get("/v1/similar", params={"item": "1"})
    assert (reply.status_code, "journal" in reply.json()["detail"]) == (500, True)
    assert reply.headers["x-request-id"]


def test_a_full_disk_keeps_the_requests_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    Ring(tmp_path / "ring").add({"user": "1"})
    assert clients.Bucket(tmp_path / "rate", 1.0, 1.0).take() == 0
    assert [*kept(tmp_path / "ring")] == []


def test_what_would_wait_too_long_is_refused_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, answered = Counts(), []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = guard.Guard(slow, counts, None, 0.025, 1000)

    async def burst() -> list[int]:
        answered.clear()

        async def one() -> None:
            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    answered.append(message["status"])

            scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": [], "query_string": b""}
            await guarded(scope, None, send)

        await asyncio.gather(*(one() for _ in range(30)))
        return [*answered]

    async def many() -> list[list[int]]:
        # One burst is a queue after a stall; more in a row are too much.
        monkeypatch.setattr(guard, "_PAUSE", float("inf"))
        found = [await burst() for _ in range(4)]
        monkeypatch.setattr(guard, "_PAUSE", 0.0)
        await asyncio.sleep(0.1)
        return [*found, await burst()]

    first, *_, last, after = asyncio.run(many())
    assert first.count(200) == 30
    assert 2 <= last.count(200) <= 5 and last.count(503) == 30 - last.count(200)
    assert after.count(200) == 30


def test_no_request_that_the_interface_describes_fails(live: Live) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app.make(live, hosts=["testserver"]))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:

        @hypothesis.settings(
            max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            reply = case.call(base_url=HERE)
            assert reply.status_code < 500, reply.text

        answered()


def test_many_switches_take_no_more_memory(live: Live, place: Path, models: Path) -> None:
    third = bundle.lay_out(models / "model2", models / "golden2.json", {**LABELS, "version": "3"}, place).name
    names = [name(place, 1), name(place, 2), third]

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))

    for at in range(60):
        live.switch(names[at % 3])
    before = resident()
    for at in range(180):
        live.switch(names[at % 3])
    gc.collect()
    assert resident() <= 1.05 * before


def test_clients_and_their_rates(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    limits = {
        "required": True,
        "clients": {"shop": {"per_second": 1000, "burst": 3}, "slow": {"per_second": 0.001, "burst": 1}},
    }
    (folder / clients.CLIENTS).write_text(json.dumps(limits))
    (folder / clients.KEYS).write_text(
        json.dumps({"slow": {"a": clients.digest("one"), "b": clients.digest("two")}})
    )
    known = clients.Clients(folder, tmp_path / "state")
    with TestClient(app.make(live, clients=known), HERE) as client:

        def ask(key: str = "", path: str = "/v1/models") -> Any:
            return client.get(path, headers={"authorization": f"Bearer {key}"} if key else {})

        assert ask().status_code == ask("wrong").status_code == 401
        assert ask().headers["www-authenticate"] == "Bearer"
        assert ask(path="/health/ready").status_code == ask(path="/").status_code == 200
        assert ask("one").status_code == 200
        # both keys are of one client
        late = ask("two")
        assert late.status_code == 429 and int(late.headers["retry-after"]) > 900
        (folder / clients.KEYS).write_text(json.dumps({"shop": {"c": clients.digest("three")}}))
        known.load()
        assert ask("one").status_code == 401 and ask("three").status_code == 200
        # more than its bucket ever holds
        sent = {"users": ["1"] * 20}
        many = client.post("/v1/recommend/batch", json=sent, headers={"authorization": "Bearer three"})
        assert many.status_code == 200
        # what cannot be read changes nothing
        (folder / clients.CLIENTS).write_text("{")
        with pytest.raises(InputError):
            known.load()
        assert ask("three").status_code == 200


def test_a_bucket_is_shared_and_fills_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now)
    one, other = (clients.Bucket(tmp_path / "rate", 2.0, 2.0) for _ in range(2))
    assert (one.take(), other.take()) == (0, 0)
    assert one.take() == pytest.approx(0.5)
    now += 0.5
    assert other.take() == 0 and one.take() > 0
    # after a boot the clock begins again
    now = 5.0
    assert one.take() == 0


def test_the_serving_process_loads_numpy_and_its_framework_alone() -> None:
    heavy = {"mlflow", "surprise", "pandas", "sklearn", "scipy", "numba", "matplotlib"}
    script = f"import sys, recommender.serving.app.server; print([*({heavy} & set(sys.modules))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PROCESS = {"served": "b3"}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({}, []),
        ({"served": None, "processes": {1: {"served": None}, 2: {"served": None}}}, []),
        ({"served": None, "damaged": "b3"}, ["damaged: b3"]),
        ({"refused": {"version": "4", "refused": "NaN"}}, ["refused: version 4: NaN"]),
        ({"processes": {1: PROCESS, 2: {"error": "gone"}}}, ["processes: 1 of 2 answer: journalctl"]),
        ({"processes": {1: PROCESS, 2: {"served": "b2"}}}, ["2 of 2 answer, and not all with the served"]),
        ({"processes": {1: PROCESS, 2: {"served": "b2"}}, "switching": True}, []),
    ],
)  # fmt: skip
def test_faults_of_what_is_served(
    status: dict[str, Any], says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_well = {
        "served": {"bundle": "b3"}, "damaged": None, "switching": False, "refused": None, "wanted": 2,
        "processes": {1: PROCESS, 2: PROCESS},
    }  # fmt: skip
    here = service.Service.__new__(service.Service)
    here.environment = "prod"
    monkeypatch.setattr(service.Service, "status", lambda self: all_well | status)
    found = here.faults()
    assert len(found) == len(says) and all(part in line for part, line in zip(says, found, strict=True))
