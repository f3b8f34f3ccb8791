"""Worker processes that end with whoever started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def pool(
    count: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """So many fresh processes, each of which first calls `prepare`; at the end what waits is not begun."""
    workers = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (prepare, arguments))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Control-C reaches all of a terminal's processes, and it is for the first to say what then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _leave() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
