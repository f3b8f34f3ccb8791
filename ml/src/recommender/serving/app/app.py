"""The HTTP interface: lists, estimates, similar items, health, metrics, and a page to try them."""

import asyncio
import importlib.resources
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi_swagger import patch_fastapi  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from recommender.errors import InputError
from recommender.serving.app import answers, guard
from recommender.serving.app.clients import Clients
from recommender.serving.app.counts import Counts
from recommender.serving.app.guard import Guard
from recommender.serving.app.live import Live, Served
from recommender.serving.app.ring import Ring

# Limits of one request. A batch is rendered in one turn of the event loop, hence so many lines.
MOST_K, MOST_HISTORY, MOST_EXCLUDED, MOST_USERS, MOST_PAIRS = 500, 1000, 1000, 256, 1000
MOST_LINES = 5000
# Lists of batches that wait at once, but for a batch that is alone.
MOST_WAITING = 64
BODY_BYTES = 2**18
# What the server is called by at the end of a tunnel.
HOSTS = ("localhost", "127.0.0.1", "*.localhost")
# Seconds that a request may wait before it is refused.
PATIENCE = 0.025

Id = Annotated[str, Field(min_length=1, max_length=200)]
K = Annotated[int, Field(ge=1, le=MOST_K)]
History = Annotated[dict[Id, float], Field(max_length=MOST_HISTORY)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ListRequest(_Sent):
    """A list for one user. `history`: ratings since the training, or all of somebody new."""

    user: Id = "new"
    k: K | None = None
    history: History | None = None
    exclude: Annotated[list[Id], Field(max_length=MOST_EXCLUDED)] = []
    reasons: Annotated[int, Field(ge=0, le=10)] = 0


class BatchRequest(_Sent):
    """Lists for several users."""

    users: Annotated[list[Id], Field(min_length=1, max_length=MOST_USERS, examples=[["1", "2"]])]
    k: K | None = None


class Pair(_Sent):
    """A user and an item."""

    user: Annotated[Id, Field(examples=["1"])]
    item: Annotated[Id, Field(examples=["318"])]


class EstimateRequest(_Sent):
    """Pairs whose rating is estimated."""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MOST_PAIRS)]


LIST_EXAMPLES = {
    "somebody known": {"value": {"user": "1", "k": 5, "reasons": 2}},
    "somebody new": {"value": {"history": {"318": 5, "1": 4}, "k": 5, "reasons": 2}},
}


def make(
    live: Live,
    ring: Ring | None = None,
    counts: Counts | None = None,
    clients: Clients | None = None,
    hosts: Sequence[str] = (),
) -> FastAPI:
    """Make the application that answers from `live`.

    `ring` keeps the last requests, for the trial of a new version. `clients` says who may ask, None: anybody.
    `hosts` are names besides localhost that it may be called by.
    """
    counts = counts or Counts()
    waiting = 0

    app = FastAPI(
        title="recommender", version="1", docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
        description="Lists, estimates and similar items from the version that is champion.",
    )  # fmt: skip
    # Otherwise a page of a host whose name comes to mean this machine could ask, through a visitor's browser.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*HOSTS, *hosts])
    app.add_middleware(Guard, counts=counts, clients=clients, patience=PATIENCE, most=BODY_BYTES)
    # The page of the interface with its own copy of Swagger UI: no other host is asked.
    patch_fastapi(app, redirect_from_root_to_docs=False)

    def served() -> Served:
        if live.now is None:
            raise HTTPException(503, str(answers.no_model(str(live.place))))
        return live.now

    def labelled(version: Served, answer: dict[str, Any]) -> JSONResponse:
        about = version.about
        answer["model"] = {"name": about.name, "version": about.version}
        return JSONResponse(answer, headers={"x-model-version": about.label})

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        lines = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": f"{'; '.join(lines)}. /docs has examples."}, 422)

    def remember(request: ListRequest) -> None:
        if ring is not None:
            ring.add(request.model_dump(exclude_defaults=True))

    @app.post("/v1/recommend", tags=["lists"])
    async def recommend(asked: Annotated[ListRequest, Body(openapi_examples=LIST_EXAMPLES)]) -> JSONResponse:
        """The best items for one user, by id or by ratings of the request."""
        version = served()
        answer = answers.listed(version, asked.user, asked.k, asked.history, asked.exclude, asked.reasons)
        # Answered, it is one that another version has to answer too.
        remember(asked)
        if not answer["known"]:
            counts.fallback()
        return labelled(version, answer)

    @app.get("/v1/recommend", tags=["lists"])
    async def recommend_by_id(
        user: Annotated[str, Query(min_length=1, max_length=200, examples=["1"])],
        k: Annotated[int | None, Query(ge=1, le=MOST_K)] = None,
        reasons: Annotated[int, Query(ge=0, le=10)] = 0,
    ) -> JSONResponse:
        """The best items for one user that the model knows; others get what is popular."""
        return await recommend(ListRequest(user=user, k=k, reasons=reasons))

    @app.post("/v1/recommend/batch", tags=["lists"])
    async def batch(asked: BatchRequest, request: Request) -> JSONResponse:
        """The lists of several users, of one version; each counts as a request of its client."""
        version, lists = served(), []
        k = version.recommender.settings["k"] if asked.k is None else asked.k
        if len(asked.users) * k > MOST_LINES:
            raise InputError(
                f"{len(asked.users)} users with k={k} are more than {MOST_LINES} lines: "
                "ask for fewer users or a smaller k."
            )
        nonlocal waiting
        if waiting and waiting + len(asked.users) > MOST_WAITING:
            raise guard.late(request.scope)
        guard.charge(request.scope, len(asked.users) - 1)
        waiting += len(asked.users)
        try:
            for user in asked.users:
                lists.append(answers.listed(version, user, asked.k))
                # Others are answered in between.
                await asyncio.sleep(0)
        finally:
            waiting -= len(asked.users)
        return labelled(version, {"lists": lists})

    @app.post("/v1/estimate", tags=["estimates"])
    async def estimate(asked: EstimateRequest) -> JSONResponse:
        """The estimated rating of each pair of user and item."""
        version = served()
        return labelled(version, answers.estimated(version, [(pair.user, pair.item) for pair in asked.pairs]))

    @app.get("/v1/similar", tags=["items"])
    async def similar(
        item: Annotated[str, Query(min_length=1, max_length=200, examples=["318"])],
        k: Annotated[int | None, Query(ge=1, le=MOST_K)] = None,
    ) -> JSONResponse:
        """The items most like one."""
        version = served()
        return labelled(version, answers.similar(version, item, k))

    @app.get("/v1/items", tags=["items"])
    async def items(
        search: Annotated[str, Query(max_length=200, examples=["matrix"])] = "",
        k: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> JSONResponse:
        """Items by words of their title, most rated first."""
        version = served()
        return labelled(version, answers.found(version, search, k))

    @app.get("/v1/models", tags=["what is served"])
    async def models() -> JSONResponse:
        """The served version, and the version before it, which is still in memory."""
        version = served()
        before = answers.described(live.before) if live.before else None
        return labelled(version, {"served": answers.described(version), "previous": before})

    @app.get("/health/live", tags=["health"])
    async def alive() -> PlainTextResponse:
        """The process answers."""
        return PlainTextResponse("alive\n")

    @app.get("/health/ready", tags=["health"])
    async def ready() -> PlainTextResponse:
        """A version is served."""
        return PlainTextResponse(f"serving {served().about.label}\n")

    @app.get("/metrics", tags=["health"])
    async def metrics() -> PlainTextResponse:
        """Counts and latencies for Prometheus."""
        return PlainTextResponse(counts.text(), media_type=counts.CONTENT_TYPE)

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            made.setdefault("components", {})["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"}
            }
            # Without clients, none is needed.
            made["security"] = [{}, {"key": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]

    page = importlib.resources.files("recommender.serving.app") / "page"
    app.mount("/page", StaticFiles(directory=str(page)), name="page")

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse((page / "index.html").read_text(encoding="utf-8"))

    return app
