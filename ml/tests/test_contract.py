"""What a client of the service may rely on, in this process, and where CONTRACT_URL says: in the image."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import schemathesis

from recommender.serving.app import app
from recommender.serving.recommender import Recommender


def test_answers_are_those_of_the_model(client: httpx.Client, models: Path) -> None:
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
    client: httpx.Client, method: str, path: str, sent: Any, code: int, says: str
) -> None:
    reply = client.request(method, path, json=sent)
    assert reply.status_code == code
    assert says in reply.json()["detail"]
    assert reply.headers["x-request-id"]


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * 65536

    for content, headers in ((b" " * (app.BODY_BYTES + 1), {}), (body(), {"transfer-encoding": "chunked"})):
        reply = client.post(
            "/v1/recommend", content=content, headers={"content-type": "application/json", **headers}
        )
        assert reply.status_code == 413
        assert "Ask in several requests" in reply.json()["detail"]


def test_request_ids(client: httpx.Client) -> None:
    assert client.get("/health/live", headers={"x-request-id": "abc123"}).headers["x-request-id"] == "abc123"
    for bad in ("a b", "x" * 65, "<script>"):
        assert client.get("/health/live", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_no_request_that_the_interface_describes_fails(
    client: httpx.Client, request: pytest.FixtureRequest
) -> None:
    if "CONTRACT_URL" in os.environ:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    else:
        made = app.make(request.getfixturevalue("live"), hosts=["testserver"])
        schema = schemathesis.openapi.from_asgi("/openapi.json", made)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:

        @hypothesis.settings(
            max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            reply = case.call(base_url=str(client.base_url), headers=client.headers)
            assert reply.status_code < 500, reply.text

        answered()
