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
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from recommender.errors import InputError
from recommender.serving.app import answers, app, bundle, clients, guard, service, trial
from recommender.serving.app.counts import Counts
from recommender.serving.app.live import Live
from recommender.serving.app.ring import Ring, kept
from recommender.serving.recommender import Recommender
from tests.served import HERE, LABELS


def name(place: Path, number: int) -> str:
    return (place.parent / f"v{number}").read_text()


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


def test_clients_of_a_container(live: Live, tmp_path: Path) -> None:
    """Without clients nobody has a key; counts need one too, as nothing stands in front."""
    given = {
        "shop": {"per_second": 0.001, "burst": 3, "sha256": [clients.digest("one")]},
        "unused": {"per_second": 5, "sha256": []},
    }
    file = tmp_path / "clients"
    file.write_text(json.dumps(given))
    for variable, path in ((json.dumps(given), "/nowhere"), ("", str(file))):
        with TestClient(app.make(live, clients=clients.Given(variable, path, required=True)), HERE) as client:
            keyed = {"authorization": "Bearer one"}
            assert [client.get(each).status_code for each in ("/v1/models", "/metrics")] == [401, 401]
            assert [client.get(each, headers=keyed).status_code for each in ("/v1/models", "/metrics")] == [
                200,
                200,
            ]
            assert client.get("/health/ready").status_code == 200
            assert [client.get("/v1/models", headers=keyed).status_code for _ in range(2)] == [200, 429]
    for required, code in ((True, 401), (False, 200)):
        with TestClient(app.make(live, clients=clients.Given("", "/nowhere", required)), HERE) as client:
            assert client.get("/v1/models").status_code == code
    for bad in ("{", "[]", '{"shop": {}}', '{"shop": {"per_second": "fast", "sha256": []}}'):
        with pytest.raises(InputError, match=r"per_second|another form"):
            clients.Given(bad, "/nowhere", required=True)


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
