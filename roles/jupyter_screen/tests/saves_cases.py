"""Cases of test_saves.py, which runs this in JupyterLab's own environment: each a room on a real file and store.

Prints a JSON object of the cases' names and what was wrong. With the argument "upstream" the extension is left out.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "files"))
import jupyter_screen_connect
import jupyter_screen_saves as saves
from anyio import to_thread
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server_fileid.manager import ArbitraryFileIdManager
from jupyter_server_ydoc.app import YDocExtension
from jupyter_server_ydoc.loaders import FileLoader
from jupyter_server_ydoc.rooms import DocumentRoom
from jupyter_server_ydoc.stores import SQLiteYStore
from pycrdt import Doc, Text

CELL = {"cell_type": "code", "source": "", "metadata": {}, "execution_count": None}
LOG = logging.getLogger("cases")


def notebook(*printed: str) -> dict[str, Any]:
    outputs = [[{"output_type": "stream", "name": "stdout", "text": text}] for text in printed]
    cells = [{**CELL, "id": f"cell{number}", "outputs": output} for number, output in enumerate(outputs)]
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


class Place:
    """A folder with a notebook, and the rooms of servers on it, of which each but the last was killed."""

    def __init__(self, folder: pathlib.Path, name: str = "a.ipynb") -> None:
        self.folder = folder
        self.file = folder / "notebooks" / name
        self.file.parent.mkdir()
        self.tasks: list[asyncio.Task[Any]] = []
        self.loader: Any = None
        self.room: Any = None

    async def open(self, delay: float = 0.1) -> Any:
        """Returns the room of a server that has just started."""
        manager = AsyncLargeFileManager(root_dir=str(self.file.parent))
        # each instance would show that it has no signing key of its own
        manager.notary.db_file = ":memory:"
        manager.notary.secret = b"secret"
        ids = ArbitraryFileIdManager(root_dir=str(self.file.parent), db_path=str(self.folder / "ids.db"))
        self.loader = FileLoader(ids.index(self.file.name), ids, manager, LOG)
        store = SQLiteYStore(path=".notebook:a.y", log=LOG)
        store.db_path = str(self.folder / "documents.db")
        store.squash_after_inactivity_of = 3600
        silent = types.SimpleNamespace(emit=lambda **_: None)
        kind = ("json", "notebook") if self.file.suffix == ".ipynb" else ("text", "file")
        self.room = DocumentRoom("room", *kind, self.loader, silent, store, LOG, save_delay=delay)
        self.tasks.append(asyncio.create_task(self.room.start()))
        await self.room.started.wait()
        await self.room.initialize()
        await self.room.ydoc_observed.wait()
        return self.room

    async def kill(self) -> None:
        """Ends the server as a kill does, once what it had begun to store is there."""
        await asyncio.sleep(0.3)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        self.room._document.unobserve()
        await asyncio.sleep(0)

    def write(self, *printed: str) -> None:
        self.file.write_text(json.dumps(notebook(*printed)))

    def printed(self) -> list[str]:
        """Returns what the cells of the file printed."""
        cells = json.loads(self.file.read_text())["cells"]
        return ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells]

    def shown(self) -> list[str]:
        return ["".join(output["text"] for output in cell["outputs"]) for cell in self.room._document.get()["cells"]]

    def print(self, text: str) -> None:
        """Does what a running cell does: more output in the first cell."""
        output = self.room._document.ycells[0]["outputs"][0]["text"]
        output += text

    def stored(self) -> str:
        with contextlib.closing(sqlite3.connect(self.folder / "documents.db")) as connection:
            rows = connection.execute("SELECT yupdate FROM yupdates ORDER BY timestamp").fetchall()
        return "".join(repr(row) for row in rows)


async def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


async def case_changes_without_a_pause_are_saved(place: Place) -> None:
    place.write("begin ")
    await place.open(delay=0.5)
    for _ in range(400):
        place.print("more ")
        if "more" in place.printed()[0]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was saved while the cell printed")


async def case_a_pause_is_waited_for(place: Place) -> None:
    place.write("begin ")
    await place.open(delay=0.2)
    place.print("end")
    await until(lambda: place.printed() == ["begin end"], "not saved")


async def crash(place: Place) -> None:
    """Leaves a file that was saved, and a store that has more."""
    place.write("begin ")
    await place.open()
    place.print("saved ")
    await until(lambda: place.printed() == ["begin saved "], "not saved")
    await asyncio.sleep(0.2)
    place.room._save_delay = None
    place.print("stored")
    await until(lambda: "stored" in place.stored(), "not stored")
    await place.kill()


async def case_a_crash_brings_back_what_the_store_has(place: Place) -> None:
    await crash(place)
    assert place.printed() == ["begin saved "]
    await place.open()
    assert place.shown() == ["begin saved stored"]
    await until(lambda: place.printed() == ["begin saved stored"], "the file stays behind")


async def case_a_crash_before_the_first_save(place: Place) -> None:
    place.write("begin ")
    await place.open(delay=60)
    place.print("stored")
    await until(lambda: "stored" in place.stored(), "not stored")
    await place.kill()
    await place.open()
    await until(lambda: place.printed() == ["begin stored"], "the file stays behind")


async def replaced_after_a_crash(place: Place, replace: Callable[[], None]) -> None:
    await crash(place)
    replace()
    mine = place.file.read_bytes()
    await place.open()
    assert place.shown() == place.printed()
    await asyncio.sleep(0.5)
    assert place.file.read_bytes() == mine


async def case_a_file_replaced_after_a_crash_stays(place: Place) -> None:
    await replaced_after_a_crash(place, lambda: place.write("mine"))


async def case_an_older_file_put_there_after_a_crash_stays(place: Place) -> None:
    def replace() -> None:
        place.write("mine")
        os.utime(place.file, (1, 1))

    await replaced_after_a_crash(place, replace)


async def case_a_file_of_equal_size_and_time_stays(place: Place) -> None:
    def replace() -> None:
        status, text = place.file.stat(), place.file.read_text()
        place.file.write_text(text.replace("saved", "other"))
        os.utime(place.file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert place.file.stat().st_size == status.st_size

    await replaced_after_a_crash(place, replace)


async def case_the_same_file_put_back_after_a_crash_stays(place: Place) -> None:
    await replaced_after_a_crash(place, lambda: place.file.write_bytes(place.file.read_bytes()) and None)


async def case_a_file_replaced_while_a_cell_prints_stays(place: Place) -> None:
    place.write("begin ")
    await place.open()
    place.print("printed ")
    await until(lambda: place.printed() == ["begin printed "], "not saved")
    place.print("unsaved")
    place.write("mine")
    # as mv or cp -p of a copy: upstream looks for a later time
    os.utime(place.file, (1, 1))
    await place.loader.maybe_notify()
    await until(lambda: place.shown() == ["mine"], "not taken")
    place.print("!")
    await until(lambda: place.printed() == ["mine!"], "not saved any more")


async def case_a_file_replaced_right_before_a_save_stays(place: Place) -> None:
    place.write("begin ")
    await place.open()
    save = place.loader._contents_manager.save

    async def slow(*arguments: Any) -> Any:
        place.loader._contents_manager.save = save
        place.write("mine")
        return await save(*arguments)

    place.loader._contents_manager.save = slow
    place.print("printed")
    await until(lambda: place.shown() == ["mine"], "not taken")
    assert place.printed() == ["mine"]


async def case_a_file_that_is_still_arriving_is_not_written_over(place: Place) -> None:
    place.write("begin ")
    await place.open()
    whole = json.dumps(notebook("mine"))
    place.file.write_text(whole[:50])
    await place.loader.maybe_notify()
    place.print("printed")
    await asyncio.sleep(0.5)
    assert place.file.read_text() == whole[:50]
    place.file.write_text(whole)
    await place.loader.maybe_notify()
    await until(lambda: place.shown() == ["mine"], "not taken")


async def case_a_file_that_no_document_can_hold_is_not_written_over(place: Place) -> None:
    place.write("begin ")
    await place.open()
    big = notebook("mine", "too", "whole")
    big["cells"][1]["outputs"] = [
        {"output_type": "display_data", "data": {"application/json": 1 << 63}, "metadata": {}}
    ]
    text = json.dumps(big)
    place.file.write_text(text)
    await place.loader.maybe_notify()
    with contextlib.suppress(IndexError, KeyError):
        place.print("printed")
    await asyncio.sleep(0.5)
    assert place.file.read_text() == text
    place.write("mine")
    await place.loader.maybe_notify()
    await until(lambda: place.shown() == ["mine"], "not taken")


async def case_the_same_file_open_as_a_text_loses_nothing(place: Place) -> None:
    place.write("begin ")
    await place.open()
    silent = types.SimpleNamespace(emit=lambda **_: None)
    text = DocumentRoom("text", "text", "file", place.loader, silent, None, LOG, save_delay=0.1)
    place.tasks.append(asyncio.create_task(text.start()))
    await text.started.wait()
    await text.initialize()
    place.print("printed")
    await until(lambda: place.printed() == ["begin printed"], "not saved")
    await until(lambda: "begin printed" in text._document.get(), "the text does not know of it")
    typed = text._document.get() + "\n"
    text._document.set(typed)
    await until(lambda: place.file.read_text() == typed, "not saved")
    assert place.printed() == ["begin printed"]


async def case_a_file_that_is_touched_is_no_other(place: Place) -> None:
    place.write("begin ")
    await place.open()
    os.utime(place.file)
    place.print("printed")
    await place.loader.maybe_notify()
    await until(lambda: place.printed() == ["begin printed"], "not saved")


async def case_a_save_that_failed_is_tried_again(place: Place) -> None:
    place.write("begin ")
    await place.open()
    save, failures = place.loader._contents_manager.save, [OSError("No space left on device")]

    async def full(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await save(*arguments)

    place.loader._contents_manager.save = full
    place.print("printed")
    await until(lambda: place.printed() == ["begin printed"], "given up")


async def case_a_save_cut_off_leaves_the_old_file(place: Place) -> None:
    place.write("begin ")
    await place.open()
    with (
        contextlib.suppress(ZeroDivisionError),
        place.loader._contents_manager.atomic_writing(str(place.file), encoding="utf-8") as file,
    ):
        file.write("{")
        file.flush()
        # what a kill would leave
        assert place.printed() == ["begin "]
        raise ZeroDivisionError
    assert place.printed() == ["begin "]
    assert os.listdir(place.file.parent) == ["a.ipynb"]


async def case_a_save_keeps_what_the_file_is(place: Place) -> None:
    real = place.folder / "real.ipynb"
    place.file.symlink_to(real)
    place.write("begin ")
    real.chmod(0o640)
    left, other_s = place.folder / ".~real.ipynb.4000000.0", place.folder / ".~real.ipynb"
    left.touch()
    other_s.touch()
    await place.open()
    place.print("printed")
    await until(lambda: place.printed() == ["begin printed"], "not saved")
    assert place.file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert not left.exists()
    assert other_s.exists()
    other = place.folder / "other.ipynb"
    os.link(real, other)
    place.print(" twice")
    await until(lambda: "twice" in other.read_text(), "the other name was lost")


async def case_saves_in_place_are_known_as_ours(place: Place) -> None:
    place.write("begin ")
    await place.open()
    place.loader._contents_manager.use_atomic_writing = False
    for text in ("one ", "two "):
        place.print(text)
        await until(lambda text=text: text in place.file.read_text(), "not saved")  # type: ignore[misc]
        await place.loader.maybe_notify()
    assert place.shown() == place.printed() == ["begin one two "]


async def case_marks_of_a_running_cell_stay_out_of_the_file(place: Place) -> None:
    place.write("begin ")
    await place.open()
    cell = place.room._document.ycells[0]
    cell["execution_state"] = "running"
    cell["metadata"]["jupyter_server_nbmodel"] = {"requestId": "1"}
    place.print("printed")
    await until(lambda: place.printed() == ["begin printed"], "not saved")
    assert json.loads(place.file.read_text())["cells"][0]["metadata"] == {}
    await place.kill()
    await place.open()
    cell = place.room._document.ycells[0]
    assert cell["execution_state"] == "idle"
    assert "jupyter_server_nbmodel" not in cell["metadata"]


async def case_opening_writes_nothing(place: Place) -> None:
    place.write("x" * 1_000_000)
    mine = place.file.read_bytes()
    for _ in range(3):
        await place.open()
        await asyncio.sleep(0.3)
        await place.kill()
        assert place.file.read_bytes() == mine
    assert (place.folder / "documents.db").stat().st_size < 2_000_000


async def case_a_text_is_saved_too(place: Place) -> None:
    place.file = place.file.with_suffix(".py")
    place.file.write_text("begin\n")
    room = await place.open()
    source = room._document._ysource
    source += "end\n"
    await until(lambda: place.file.read_text() == "begin\nend\n", "not saved")
    await place.kill()
    await place.open(delay=60)
    assert place.room._document.get() == "begin\nend\n"


async def case_a_log_that_grows_is_shown(place: Place) -> None:
    place.file = place.file.with_suffix(".log")
    place.file.write_text("begin\n")
    get = AsyncLargeFileManager.get

    async def grows(self: Any, path: str, **options: Any) -> Any:
        model = await get(self, path, **options)
        if path == "a.log" and options.get("content"):
            with place.file.open("a") as file:
                file.write("more\n")
        return model

    AsyncLargeFileManager.get = grows
    try:
        room = await place.open()
    finally:
        AsyncLargeFileManager.get = get
    await place.loader.maybe_notify()
    assert room._document.get() == place.file.read_text()


async def case_a_stop_saves(place: Place) -> None:
    place.write("begin ")
    room = await place.open(delay=60)
    place.print("printed")
    ended = asyncio.Event()

    async def nothing() -> None:
        ended.set()

    server = types.SimpleNamespace(rooms={"room": room, "awareness": object()}, clean=nothing)
    loaders = types.SimpleNamespace(clear=nothing)
    await YDocExtension.stop_extension(
        types.SimpleNamespace(ywebsocket_server=server, file_loaders=loaders, log=LOG)  # type: ignore[arg-type]
    )
    assert place.printed() == ["begin printed"]
    assert ended.is_set()


async def case_a_stop_waits_for_a_save_under_way(place: Place) -> None:
    place.write("begin ")
    room = await place.open(delay=0.01)
    save = place.loader._contents_manager.save

    async def slow(*arguments: Any) -> Any:
        await asyncio.sleep(0.5)
        return await save(*arguments)

    place.loader._contents_manager.save = slow
    place.print("printed")
    await until(lambda: room.save_lock.locked(), "no save begins")
    await room.stop()
    assert place.printed() == ["begin printed"]


async def case_a_room_that_is_closed_is_saved(place: Place) -> None:
    place.write("begin ")
    room = await place.open(delay=60)
    place.print("printed")
    await room.stop()
    assert place.printed() == ["begin printed"]


async def case_what_a_crash_left_unsaved_is_known(place: Place) -> None:
    database = place.folder / "documents.db"
    assert saves.unsaved(database) == []
    place.write("begin ")
    await place.open(delay=60)
    await asyncio.sleep(0.2)
    assert saves.unsaved(database) == []
    place.print("stored")
    await until(lambda: saves.unsaved(database) == ["json:notebook:a"], "not known")
    assert await saves.save(place.room)
    await until(lambda: saves.unsaved(database) == [], "still told of")


async def case_a_file_that_is_gone_leaves_no_stopped_room(place: Place) -> None:
    place.write("begin ")
    await place.open(delay=60)
    place.print("stored")
    database = place.folder / "documents.db"
    await until(lambda: saves.unsaved(database) == ["json:notebook:a"], "not known")
    server = types.SimpleNamespace(rooms={"json:notebook:a": place.room})
    asked = []

    async def get_document(**options: Any) -> None:
        asked.append(options["room_id"])
        raise FileNotFoundError

    store = types.SimpleNamespace(db_path=str(database))
    ydoc: Any = types.SimpleNamespace(ystore_class=lambda: store, ywebsocket_server=server, log=LOG)
    ydoc.get_document = get_document
    await saves.recover(ydoc)
    assert asked == ["json:notebook:a"]
    assert server.rooms == {}


async def case_a_store_cut_off_in_a_transaction_is_read(place: Place) -> None:
    place.write("begin ")
    await place.open(delay=60)
    place.print("stored")
    database, left = place.folder / "documents.db", place.folder / "left.db"
    await until(lambda: saves.unsaved(database) == ["json:notebook:a"], "not known")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE yupdates SET metadata = zeroblob(1000000)")
        for end in ("", "-journal"):
            shutil.copy(f"{database}{end}", f"{left}{end}")
        connection.execute("ROLLBACK")
    assert saves.unsaved(left) == ["json:notebook:a"]


async def case_the_store_squashes_and_keeps(place: Place) -> None:
    store = SQLiteYStore(path="a", log=LOG)
    store.db_path = str(place.folder / "documents.db")
    store.squash_after_inactivity_of = store.squash_no_more_often_than = -1
    place.tasks.append(asyncio.create_task(store.start()))
    await store.started.wait()
    document: Doc[Any] = Doc()
    text = document.get("text", type=Text)
    for word in ("one ", "two ", "three"):
        state = document.get_state()
        text += word
        await store.write(document.get_update(state))
    again: Doc[Any] = Doc()
    text = again.get("text", type=Text)
    await store.apply_updates(again)
    assert str(text) == "one two three"


async def case_the_store_takes_many_at_once_and_again(place: Place) -> None:
    store = SQLiteYStore(path="a", log=LOG)
    store.db_path = str(place.folder / "documents.db")
    place.tasks.append(asyncio.create_task(store.start()))
    await store.started.wait()
    document: Doc[Any] = Doc()
    text = document.get("text", type=Text)
    updates = []
    for _ in range(300):
        state = document.get_state()
        text += "x"
        updates.append(document.get_update(state))
    callback, failures = store.get_metadata, [OSError("database or disk is full")]

    async def full() -> bytes:
        if failures:
            raise failures.pop()
        return await callback()

    store.get_metadata = full
    await store.write(updates.pop(0))
    await asyncio.gather(*(store.write(update) for update in updates))
    again: Doc[Any] = Doc()
    text = again.get("text", type=Text)
    await store.apply_updates(again)
    assert str(text) == "x" * 300
    cursor = await store._db.cursor()
    await cursor.execute("SELECT count(*) FROM yupdates")
    assert (await cursor.fetchone())[0] < 10


async def case_a_busy_kernel_is_not_waited_for(place: Place) -> None:
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
    kernel = types.SimpleNamespace(_kernel_info_future=answer, execution_state="starting")
    connection: Any = types.SimpleNamespace(kernel_manager=kernel, _kernel_info_future=answer, log=LOG)
    ask = ZMQChannelsWebsocketConnection.request_kernel_info
    assert not ask(connection).done()
    kernel.execution_state = "busy"
    assert ask(connection).result() == {}


async def case_no_thread_holds_up_the_end(place: Place) -> None:
    assert await to_thread.run_sync(lambda: threading.current_thread().daemon)


CASES = {name: case for name, case in list(globals().items()) if name.startswith("case_")}


async def run(case: Callable[[Place], Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(pathlib.Path(folder))
        try:
            await case(place)
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()


def outcome(name: str) -> str:
    try:
        asyncio.run(run(CASES[name]))
    except BaseException:
        return traceback.format_exc()
    return ""


def main(arguments: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    if "upstream" not in arguments:
        saves.install()
        jupyter_screen_connect.install()
    wanted = [name for name in arguments if name in CASES] or list(CASES)
    # most of the time they wait
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as threads:
        found = dict(zip(wanted, threads.map(outcome, wanted), strict=True))
    print(json.dumps(found))
    sys.stdout.flush()
    # upstream's threads would be waited for
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
