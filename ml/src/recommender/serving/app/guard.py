"""ASGI middleware: counts, request ids, keys, limits, and refusing what would wait too long."""

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from recommender.serving.app.clients import Client, Clients
from recommender.serving.app.counts import Counts

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("model-server")
# Answered in any load.
_ALWAYS = ("/health/", "/metrics")
# Seconds of work after which long turns count as overload.
_PERSISTENT = 0.4
# Seconds without a request that end an overload.
_PAUSE = 0.01
# Statuses below 500 that an operator wants to know of.
_TOLD = (401, 408, 413, 429)
# Seconds for the whole body.
_BODY = 15.0


class Guard:
    """Answer each HTTP request with an id, count it, and refuse what may not be asked or would wait too long.

    Requests are answered one after the other in a turn of the event loop, so how long the turn has worked is
    how long a request has waited in it. When turns have been long for a while, a turn's rest gets 503 after
    `patience` seconds. A refusal costs a fraction of an answer, so the queue shortens and accepted requests
    are answered in time. One long turn is not an overload: a queue after a stall is answered (the idea of
    CoDel, RFC 8289). Both times are the processor's, so that other programs cause no refusal. Health and
    metrics are always answered. A body of more than `most` bytes gets 413 before it is held in memory; one
    that stops 408. While `counts.draining`, each answer closes its connection.
    """

    def __init__(self, app: App, counts: Counts, clients: Clients | None, patience: float, most: int) -> None:
        self.app, self.counts, self.clients, self.patience, self.most = app, counts, clients, patience, most
        # When this turn began, and when the turns began to be long.
        self._turn: float | None = None
        self._since: float | None = None
        self._ended = 0.0
        # When a request with 503 was in the journal.
        self._told = float("-inf")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number, status, began, problem = _number(scope), 500, time.perf_counter(), ""
        begun = False

        async def numbered(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                more = [(b"x-request-id", number)]
                if self.counts.draining:
                    # The client's next request takes another connection, to the process that follows.
                    more.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        held, end = 0, asyncio.get_running_loop().time() + _BODY

        async def measured() -> Message:
            nonlocal held
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError as error:
                raise self._refused(
                    "slow", 408, "The body stopped. Send it again.", connection="close"
                ) from error
            held += len(message.get("body", b""))
            if held > self.most:
                raise self._too_large()
            # Bodies that come at once make a long turn as well.
            if not message.get("more_body") and self._late():
                raise self._too_late()
            return message

        with self.counts.in_flight():
            try:
                self._check(scope)
                await self.app(scope, measured if _has_body(scope) else receive, numbered)
            except HTTPException as error:
                problem = error.detail
                answer = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
                await answer(scope, receive, numbered)
            except Exception:
                if not begun:
                    detail = "The server failed at this request. Its journal tells more."
                    await JSONResponse({"detail": detail}, 500)(scope, receive, numbered)
                raise
            finally:
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "other")
                self.counts.answered(route, status, seconds)
                if self._is_told(status):
                    self._tell(scope, route, status, seconds, number, problem)

    def _check(self, scope: Message) -> None:
        """Raise HTTPException for a request that is not answered."""
        path = scope["path"]
        always = path.startswith(_ALWAYS)
        scope["late"] = self._too_late
        if not always and self._late():
            raise self._too_late()
        if self.clients is not None and path.startswith(self.clients.keyed):
            key = _key(scope)
            client = self.clients.of(key) if key else None
            if client is None and self.clients.required:
                detail = (
                    "This key is unknown."
                    if key
                    else "A key is needed. Send it as Authorization: Bearer KEY."
                )
                raise self._refused("key", 401, detail, **{"www-authenticate": "Bearer"})
            if client is not None:
                # One token is taken already, and no bucket holds more than its burst.
                scope["charge"] = lambda n: self._charge(client, min(n, client.bucket.burst - 1))
                self._charge(client, 1)
        if not always and _announced(scope) > self.most:
            raise self._too_large()

    def _refused(self, reason: str, status: int, detail: str, **headers: str) -> HTTPException:
        self.counts.refused(reason)
        return HTTPException(status, detail, headers)

    def _charge(self, client: Client, n: float) -> None:
        if wait := client.bucket.take(n):
            again = {"retry-after": str(math.ceil(wait))}
            raise self._refused("rate", 429, f"{client.name} asks more often than it may.", **again)

    def _too_late(self) -> HTTPException:
        again = {"retry-after": "1"}
        return self._refused(
            "late", 503, "More is asked than can be answered. Try again in a second.", **again
        )

    def _too_large(self) -> HTTPException:
        # The rest of the body is not read.
        detail = f"The body is larger than {self.most} bytes. Ask in several requests."
        return self._refused("too large", 413, detail, connection="close")

    def _late(self) -> bool:
        now, loop = time.thread_time(), asyncio.get_running_loop()
        if self._turn is None:
            # Overloaded, turns follow one another at once.
            if self._since is None or loop.time() - self._ended > _PAUSE:
                self._since = now
            self._turn = now
            loop.call_soon(self._next_turn)
        return now - self._turn > self.patience and now - (self._since or now) > _PERSISTENT

    def _next_turn(self) -> None:
        if self._turn is None or time.thread_time() - self._turn <= self.patience:
            self._since = None
        self._turn, self._ended = None, asyncio.get_running_loop().time()

    def _is_told(self, status: int) -> bool:
        """Whether the journal tells of a request; of 503 one a second, since a refusal has to be cheap."""
        if status == 503:
            now = asyncio.get_running_loop().time()
            if now - self._told < 1:
                return False
            self._told = now
        return status >= 500 or status in _TOLD or log.isEnabledFor(logging.DEBUG)

    def _tell(
        self, scope: Message, route: str, status: int, seconds: float, number: bytes, problem: str
    ) -> None:
        line = {
            "method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 3),
            "version": self.counts.version, "request": number.decode(),
        }  # fmt: skip
        if problem:
            line["refused"] = problem
        if log.isEnabledFor(logging.DEBUG):
            # It may have a user's id.
            line["query"] = scope["query_string"].decode("latin-1")
        log.log(logging.WARNING if status >= 500 else logging.INFO, json.dumps(line))


def charge(scope: Message, n: int) -> None:
    """Count a request as n more of its client. Raises HTTPException for more than the client's rate."""
    if n and "charge" in scope:
        scope["charge"](n)


def late(scope: Message) -> HTTPException:
    """What to raise for a request that would wait too long."""
    refused: HTTPException = scope["late"]()
    return refused


def _header(scope: Message, wanted: bytes) -> bytes:
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found


def _key(scope: Message) -> str:
    kind, _, key = _header(scope, b"authorization").partition(b" ")
    return key.strip().decode("latin-1") if kind.lower() == b"bearer" else ""


def _number(scope: Message) -> bytes:
    given = _header(scope, b"x-request-id")
    return given if given.isalnum() and len(given) <= 64 else uuid.uuid4().hex.encode()


def _has_body(scope: Message) -> bool:
    return scope["method"] not in ("GET", "HEAD")


def _announced(scope: Message) -> int:
    length = _header(scope, b"content-length")
    return int(length) if length.isdigit() and len(length) < 19 else 0
