"""The process that serves: on systemd's socket, ready when it can answer, drained at its end."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recommender.errors import InputError
from recommender.serving.app import app
from recommender.serving.app.clients import Clients, Given
from recommender.serving.app.counts import Counts
from recommender.serving.app.live import Live
from recommender.serving.app.ring import Ring

log = logging.getLogger("model-server")
# The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST = 3
# Seconds: how long at most a kept-alive connection may bring another request once the process is to end,
# and how long a connection may be open without a request.
_LINGER, _SILENCE = 5.0, 60.0
# Open at once.
_CONNECTIONS = 4000


@dataclass(frozen=True)
class Settings:
    """Where a process finds what it serves: folders of bundles and of clients; where it keeps requests.

    `hosts` are further names that it may be called by. `drain` is how many seconds the end may take.
    """

    bundles: Path
    clients: Path | None = None
    state: Path | None = None
    control: Path | None = None
    number: str = "1"
    keep_requests: bool = True
    address: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    drain: int = 30
    given: Given | None = None


def notify(*lines: str) -> None:
    """Tell systemd; nothing where it does not ask."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect("\0" + address[1:] if address[0] == "@" else address)
        out.sendall("\n".join(lines).encode())


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which holds little for a client and lets none hold it up: it limits neither."""

    # Bytes without a complete head or a part of a body, and requests that wait for the one before.
    _MOST, _WAITING = 2**14, 8

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.unused, self.unread, self.since = 0, 0, time.monotonic()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.unused += len(data)
        super().data_received(data)
        if self.unused > self._MOST or len(self.pipeline) > self._WAITING:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self.unused, self.since = 0, time.monotonic()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.unused = 0
        super().on_message_complete()

    def idle(self) -> float:
        """Seconds since the last complete head, 0 while a request is answered."""
        working = self.cycle is not None and not self.cycle.response_complete
        return 0.0 if working else time.monotonic() - self.since


class _Server(uvicorn.Server):
    """uvicorn, which tells systemd what it does, and loses no kept-alive connection's request at its end."""

    def __init__(self, config: uvicorn.Config, counts: Counts, linger: float) -> None:
        super().__init__(config)
        self.counts, self.linger = counts, linger

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        self.counts.draining = True
        # systemd still listens: what arrives now waits for another process.
        for server in self.servers:
            server.close()
        end = time.monotonic() + self.linger
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


async def _watched() -> None:
    """Tell systemd's watchdog that the loop turns."""
    every = int(os.environ.get("WATCHDOG_USEC", 0)) / 2e6
    while every:
        notify("WATCHDOG=1")
        await asyncio.sleep(every)


async def _swept(server: uvicorn.Server) -> None:
    """Close connections without a request, and those whose answer is not read.

    uvicorn's own timer ends with the first byte of the next head, and no answer's memory is freed before it
    is read.
    """
    while True:
        await asyncio.sleep(_SILENCE / 4)
        for each in [*server.server_state.connections]:
            if not isinstance(each, _Protocol):
                continue
            before, each.unread = each.unread, each.transport.get_write_buffer_size()
            if before and each.unread == before:
                each.transport.abort()
            elif each.idle() > _SILENCE:
                each.transport.close()


async def _controlled(path: Path, live: Live, counts: Counts, clients: Clients | None) -> None:
    """Take lines `switch BUNDLE`, `drop`, `clients` and `status` on a socket; a line of JSON answers each."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                reply = await _obeyed(line.decode().split(), live, counts, clients)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    path.chmod(0o600)
    async with server:
        await server.serve_forever()


async def _obeyed(words: list[str], live: Live, counts: Counts, clients: Clients | None) -> dict[str, object]:
    switching = words[:1] == ["switch"]
    try:
        if switching and len(words) == 2:
            began = time.perf_counter()
            # In a thread: requests are answered meanwhile.
            served = await asyncio.to_thread(live.switch, words[1])
            counts.switched(served, time.perf_counter() - began)
            log.info(json.dumps({"switched": served.about.label, "bundle": served.about.bundle}))
        elif words == ["clients"] and clients is not None:
            clients.load()
        elif words == ["drop"]:
            live.drop()
        elif words != ["status"]:
            return {"error": "say: switch BUNDLE, drop, clients, or status"}
    except (InputError, OSError, MemoryError) as error:
        if switching:
            counts.failed()
        return {"error": str(error) or repr(error)}
    now, before = (each.about.bundle if each else None for each in (live.now, live.before))
    return {"served": now, "previous": before, **counts.summary()}


@contextlib.contextmanager
def _listening(address: str, port: int) -> Iterator[socket.socket]:
    """The socket of systemd, or one of this process."""
    if os.environ.get("LISTEN_FDS"):
        with socket.socket(fileno=_FIRST) as given:
            yield given
        return
    with socket.create_server((address, port), backlog=2048) as made:
        yield made


async def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises InputError for a bundle that cannot be served."""
    live, counts = Live(settings.bundles), Counts()
    live.start()
    if live.now is not None:
        counts.serving(live.now)
    ring = None
    if settings.state and settings.keep_requests:
        ring = Ring(settings.state / f"{settings.number}.ring")
    elif settings.state:
        for path in settings.state.glob("*.ring"):
            path.unlink(missing_ok=True)
    clients: Clients | None = settings.given
    if settings.clients and settings.state:
        clients = Clients(settings.clients, settings.state)
    # The rest is for what is in flight.
    linger = min(_LINGER, settings.drain / 3)
    config = uvicorn.Config(
        app.make(live, ring, counts, clients, settings.hosts), access_log=False, log_level="warning",
        lifespan="off", timeout_graceful_shutdown=int(settings.drain - linger), timeout_keep_alive=30,
        limit_concurrency=_CONNECTIONS, server_header=False, http=_Protocol,
    )  # fmt: skip
    with _listening(settings.address, settings.port) as listening:
        server = _Server(config, counts, linger)
        beside = [asyncio.create_task(_watched()), asyncio.create_task(_swept(server))]
        if settings.control:
            beside.append(asyncio.create_task(_controlled(settings.control, live, counts, clients)))
        await server.serve(sockets=[listening])
        for task in beside:
            task.cancel()
