"""An extension of Jupyter's server: open documents are on disk soon after a change, at a stop and after a crash.

What it mends in jupyter-server-ydoc 3.0, pycrdt-store 0.1 and jupyter-server 2.21, by replacing methods of theirs:

- each change puts the save off by another second, and a stop saves nothing (jupyterlab/jupyter-collaboration#219);
- after a crash the file wins, though the store has what came later, and a replaced file is known by a later time alone
  (jupyterlab/jupyter-collaboration#240);
- a save truncates the file before it writes (jupyter/notebook#1198);
- a stop waits for ever while a browser is there (jupyterlab/jupyter-collaboration#503);
- the store squashes a document into nothing, and commits each change on its own.

Nothing else depends on this file: without its line in config.json Jupyter behaves as upstream again.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import sqlite3
import stat
from typing import Any, NamedTuple

from anyio._backends._asyncio import WorkerThread
from jupyter_server.services.contents import fileio
from jupyter_server_ydoc.app import YDocExtension
from jupyter_server_ydoc.loaders import FileLoader
from jupyter_server_ydoc.rooms import DocumentRoom
from jupyter_server_ydoc.stores import SQLiteYStore
from jupyter_server_ydoc.utils import LogLevel, OutOfBandChanges
from pycrdt import merge_updates
from pycrdt.store import YDocNotFound

# Seconds from a change to the start of its save, however many follow; writing takes the third.
MOST = 2.0
# A slow save is followed by a pause of so many times its length.
PAUSE = 2.0
# Seconds until a save that failed is tried again; doubled each time, up to the second.
AGAIN, AGAIN_MOST = 1.0, 30.0
# Seconds that a stop gives to its saves.
STOP = 10.0

# How often a file is read again that changes meanwhile.
TRIES = 5

# In the document's state: hash of the file that the document was last equal to.
BASE = "jupyter_screen_base"

# What the execution of a cell leaves in its metadata while it lasts.
RUNNING = "jupyter_server_nbmodel"

# What the rows of the store are marked with.
UNSAVED, SAVED = b"unsaved", b""


# --- files ---


class Look(NamedTuple):
    """A file as it was seen: what tells one writing of it from another, and the hash of its bytes."""

    identity: tuple[int, ...] | None
    hash: str


@dataclasses.dataclass
class Write:
    """One save of a room: the file that it may replace, and what it wrote."""

    expected: tuple[int, ...] | None
    algorithm: str
    refused: bool = False
    wrote: Look | None = None


_write: contextvars.ContextVar[Write | None] = contextvars.ContextVar("write", default=None)
_upstream_writing = fileio.atomic_writing
_swept: set[str] = set()
_numbers = itertools.count()


def identity(path: str) -> tuple[int, ...] | None:
    """Returns what changes whenever a file is replaced or written, or None where there is none."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _digest(path: str, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def look(path: str, algorithm: str) -> Look:
    """Returns a file's identity and hash, which belong together. Raises OSError where it cannot be read."""
    # of one that never rests, as a log, the next look will tell that it is another
    for _ in range(TRIES):
        seen = Look(identity(path), _digest(path, algorithm))
        if identity(path) == seen.identity:
            break
    return seen


def _beside(path: str) -> tuple[int, str] | None:
    """Opens a new file that may take the place of another. None where only writing in place keeps what that one is."""
    folder, name = os.path.split(path)
    prefix = f".~{name}."
    if path not in _swept:
        # what a kill left
        _swept.add(path)
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                ours = re.fullmatch(re.escape(prefix) + r"\d+\.\d+", entry.name)
                if ours and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    os.unlink(entry.path)
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    # a link's other names, another owner and a mount of the file alone would be lost
    if old and (
        not stat.S_ISREG(old.st_mode)
        or old.st_nlink != 1
        or old.st_uid != os.geteuid()
        or old.st_dev != os.stat(folder).st_dev
        or not os.access(path, os.W_OK)
    ):
        return None
    new = os.path.join(folder, f"{prefix}{os.getpid()}.{next(_numbers)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600 if old else 0o666)
    except OSError:
        return None
    if old:
        try:
            if os.fstat(descriptor).st_gid != old.st_gid:
                os.fchown(descriptor, -1, old.st_gid)
            # not by its name, where another writer of the folder may lay a link
            shutil.copystat(path, f"/proc/self/fd/{descriptor}")
        except OSError:
            os.close(descriptor)
            os.unlink(new)
            return None
    return descriptor, new


@contextlib.contextmanager
def atomic_writing(path: str, text: bool = True, encoding: str = "utf-8", log: Any = None, **options: Any) -> Any:
    """Yields a file whose content replaces that of path at once, at the end, or not at all.

    Raises:
        OutOfBandChanges: if the file is not the one that a room's save may replace.
    """
    path = os.path.realpath(path)
    write = _write.get()
    opened = _beside(path)
    if opened is None:
        _check(path, write)
        with _upstream_writing(path, text=text, encoding=encoding, log=log, **options) as file:
            yield file
        if write:
            write.wrote = look(path, write.algorithm)
        return
    descriptor, new = opened
    try:
        if text:
            options = {"encoding": encoding, "newline": "\n", **options}
        with open(descriptor, "w" if text else "wb", **options) as file:
            yield file
            file.flush()
            # an empty one would keep the time that was copied
            os.utime(descriptor)
            os.fsync(descriptor)
            if write:
                wrote = Look(_identity(os.fstat(descriptor)), _digest(new, write.algorithm))
            _check(path, write)
            os.replace(new, path)
            if write:
                write.wrote = wrote
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _check(path: str, write: Write | None) -> None:
    if write and identity(path) != write.expected:
        write.refused = True
        raise OutOfBandChanges


# --- loaders: which file is ours ---


def _os_path(loader: FileLoader) -> str:
    return str(loader._contents_manager._get_os_path(loader.path))


def _look(loader: FileLoader) -> Look:
    return look(_os_path(loader), loader._contents_manager.hash_algorithm)


_upstream_load = FileLoader.load_content


async def load_content(self: FileLoader, format: str, file_type: str) -> dict[str, Any]:
    """Loads the file with the hash of the bytes that were read, and remembers it as the one that may be replaced."""
    for _ in range(TRIES):
        before = identity(_os_path(self))
        model: dict[str, Any] = await _upstream_load(self, format, file_type)
        self.seen = _look(self)
        if self.seen.identity == before:
            break
        # what was read may be neither
        self.seen = Look(before, "")
    model["hash"] = self.seen.hash
    _drop_marks(model["content"])
    return model


def _drop_marks(content: Any) -> None:
    """Takes out what is of the running server alone, and would name a request of one that is gone."""
    for cell in content["cells"] if isinstance(content, dict) else ():
        cell["metadata"].pop(RUNNING, None)


async def maybe_save_content(self: FileLoader, model: dict[str, Any]) -> dict[str, Any] | None:
    """Saves the content. Returns the model with the hash of what was written, or None where it may not be written.

    Raises:
        OutOfBandChanges: if the file is another than was loaded or saved last, by its bytes and not by its time.
    """
    async with self._lock:
        if model["type"] not in {"directory", "file", "notebook"}:
            model["type"] = "file"
        found = await self._contents_manager.get(self.path, format=model["format"], type=model["type"], content=False)
        if not found["writable"]:
            return None
        now = identity(_os_path(self))
        if now != self.seen.identity:
            # a file that was only touched is still ours
            seen = _look(self)
            if seen.hash != self.seen.hash:
                raise OutOfBandChanges
            self.seen = seen
        write = Write(self.seen.identity, self._contents_manager.hash_algorithm)
        context = contextvars.copy_context()
        context.run(_write.set, write)
        task = asyncio.create_task(self._save_content(model, asyncio.Event(), self.path), context=context)
        try:
            # one that is cut off half-way would not be known as ours
            saved: dict[str, Any] = await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
        except Exception:
            if write.refused:
                raise OutOfBandChanges from None
            raise
        finally:
            if write.wrote:
                self.seen = write.wrote
        if not write.wrote:
            # with use_atomic_writing off
            self.seen = _look(self)
        return {**saved, "hash": self.seen.hash}


async def maybe_notify(self: FileLoader) -> None:
    """Tells the rooms of a file that was moved, or replaced by whatever means: an older one, one of equal size."""
    replaced = False
    async with self._lock:
        path = self.path
        moved, self._current_path = self._current_path != path, path
        # raises where it is not there
        model = await self._contents_manager.get(path, content=False)
        self.last_modified = model["last_modified"]
        now = identity(_os_path(self))
        if self.seen is not None and now not in (None, self.seen.identity, self.told):
            found = _look(self)
            if found.hash == self.seen.hash:
                self.seen = found
            else:
                # one that cannot be read is told of once, until it is written again
                replaced, self.told = True, now
    if moved:
        for callback in self._filepath_subscriptions.values():
            callback()
    if replaced:
        for callback in self._subscriptions.values():
            await callback()


# --- rooms: when to save, and who is newer ---


def _on_document_change(self: DocumentRoom, target: str, event: Any) -> None:
    # the state is not in the file
    if target == "state" or self.loading or self._update_lock.locked():
        return
    states = [state.get("autosave", True) for state in self.awareness.states.values() if state]
    _changed(self, any(states or [True]))


def _changed(room: DocumentRoom, autosave: bool = True) -> None:
    now = asyncio.get_running_loop().time()
    room.changed_at = now
    if room.unsaved_since is None:
        room.unsaved_since = now
    if autosave and room._save_delay is not None and (room.saver is None or room.saver.done()):
        room.saver = asyncio.create_task(_save_when_due(room))


async def _save_when_due(room: DocumentRoom) -> None:
    """Saves after a quiet while, but at the latest MOST seconds after a change, for as long as there are changes."""
    loop = asyncio.get_running_loop()
    again = AGAIN
    not_before = room.saved_at + PAUSE * room.took
    while room.unsaved_since is not None:
        quiet, latest = room.changed_at + room._save_delay, room.unsaved_since + max(MOST, room._save_delay)
        wait = max(min(quiet, latest), not_before) - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        elif await save(room):
            again = AGAIN
            not_before = room.saved_at + PAUSE * room.took
        else:
            not_before = loop.time() + again
            again = min(2 * again, AGAIN_MOST)


async def save(room: DocumentRoom) -> bool:
    """Saves the document now. Returns whether it is on disk, or may not be; errors are logged."""
    loop = asyncio.get_running_loop()
    async with room.save_lock:
        since, room.unsaved_since = room.unsaved_since, None
        began = loop.time()
        try:
            # at once, since a cell that is removed meanwhile would be an error
            content = room._document.get()
            _drop_marks(content)
            model = {"format": room._file_format, "type": room._file_type, "content": content}
            saved = await room._file.maybe_save_content(model)
            if saved:
                _stamp(room, saved["hash"])
                # the same file may be open as a notebook and as a text
                for other, told in list(room._file._subscriptions.items()):
                    if other != room._room_id:
                        await told()
            room._emit(LogLevel.INFO, "save", "Content saved.")
            room.complaint = ""
            return True
        except OutOfBandChanges:
            if await room._on_outofband_change():
                return True
        except Exception as error:
            _complain(room, "Error saving file", error)
        except BaseException:
            room.unsaved_since = since if since is not None else room.unsaved_since
            raise
        finally:
            room.saved_at = loop.time()
            room.took = room.saved_at - began
        room.unsaved_since = since if since is not None else loop.time()
        return False


def _complain(room: DocumentRoom, what: str, error: BaseException) -> None:
    """Tells of an error, and not again while it is tried again."""
    path = room._room_id
    with contextlib.suppress(RuntimeError):
        path = room._file.path
    message = f"{what}: {path}\n{error!r}"
    if message != room.complaint:
        room.complaint = message
        room.log.error(message, exc_info=error)
        with contextlib.suppress(Exception):
            room._emit(LogLevel.ERROR, None, message)


def _stamp(room: DocumentRoom, hash: str) -> None:
    """Notes in the document itself, and so in the store, which file it came from or went to."""
    with room.ydoc.transaction():
        if room.unsaved_since is None:
            room._document.dirty = False
        room._document.hash = hash
        room._document.ystate[BASE] = hash


def _take(room: DocumentRoom, model: dict[str, Any]) -> None:
    """Makes the document what the file is. At once: a change that came between would be taken for the file's."""
    room.loading = True
    try:
        if room._document.get() != model["content"]:
            room._document.set(model["content"])
        room.unsaved_since = None
        _stamp(room, model["hash"])
    finally:
        room.loading = False


async def _on_outofband_change(self: DocumentRoom) -> bool:
    """Takes the file that a person put there. Returns whether it could be read."""
    self.log.info("Out-of-band changes. Overwriting the content in room %s", self._room_id)
    seen = self._file.seen
    try:
        model = await self._file.load_content(self._file_format, self._file_type)
        _take(self, model)
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    # pycrdt's panic is not an Exception
    except BaseException as error:
        # it may still be on its way, or no document can hold it: it is not written over
        self._file.seen = seen
        _complain(self, "Error loading content from file", error)
        return False
    self.complaint = ""
    self._emit(LogLevel.INFO, "overwrite", "Out-of-band changes. Overwriting the room.")
    return True


def _save_to_disc(self: DocumentRoom) -> asyncio.Task[None]:
    async def run() -> None:
        if not await save(self):
            raise OSError(self.complaint)

    return asyncio.create_task(run())


async def _maybe_save_document(self: DocumentRoom, saving_document: Any, save_now: bool = False) -> None:
    await save(self)


_upstream_initialize = DocumentRoom.initialize
_upstream_stop = DocumentRoom.stop


async def initialize(self: DocumentRoom) -> None:
    """Fills the document from the store where that is newer than the file, else from the file."""
    if self.ready:
        return
    if self._document_load_progressively:
        await _upstream_initialize(self)
        return
    self.log.info("Initializing room %s", self._room_id)
    async with self._update_lock:
        model = await self._file.load_content(self._file_format, self._file_type)
        stored, written = await _from_store(self)
        state = self.ydoc.get_state()
        newer = stored and self._document.ystate.get(BASE) == model["hash"] and _mtime(self._file.seen) <= written
        if stored:
            _end_cells(self)
        else:
            await self._apply_deterministic_source_content(model["content"])
        unsaved = newer and _plain(self._document.get()) != _plain(model["content"])
        if not newer:
            self.log.info("Content in room %s loaded from file %s", self._room_id, self._file.path)
            if stored and self._document.get() != model["content"]:
                self._document.set(model["content"])
            _stamp(self, model["hash"])
        self._emit(LogLevel.INFO, "load", f"Content loaded from {'the store' if newer else 'disk'}.")
        if unsaved:
            self.unsaved_since = asyncio.get_running_loop().time()
        if self.ystore:
            # what the store has is not stored once more at each opening
            await self.ystore.write(self.ydoc.get_update(state))
        self.ready = True
        self._emit(LogLevel.INFO, "initialize", "Room initialized")
    if unsaved:
        self.log.warning("%s lacked what the store still had: it is saved again", self._file.path)
        _changed(self)


def _plain(content: Any) -> Any:
    """Takes out of a notebook's content what no file has."""
    for cell in content["cells"] if isinstance(content, dict) else ():
        cell["metadata"].pop("trusted", None)
    return content


def _mtime(seen: Look) -> float:
    return seen.identity[-1] / 1e9 if seen.identity else 0.0


async def _from_store(room: DocumentRoom) -> tuple[bool, float]:
    """Applies what the store has. Returns whether it had anything, and when the last of it was written."""
    store = room.ystore
    if store is None:
        return False, 0.0
    if isinstance(store, SQLiteYStore):
        # while a save lasts, the file is still the old one
        store.metadata_callback = lambda: (
            SAVED if room.unsaved_since is None and not room.save_lock.locked() else UNSAVED
        )
    async with store.start_lock:
        if not store.started.is_set():
            room.create_task(store.start())
            await store.started.wait()
    try:
        await store.apply_updates(room.ydoc)
    except YDocNotFound:
        return False, 0.0
    if not isinstance(store, SQLiteYStore):
        return True, 0.0
    async with store.lock, store._db:
        cursor = await store._db.cursor()
        await cursor.execute("SELECT max(timestamp) FROM yupdates WHERE path = ?", (store.path,))
        return True, (await cursor.fetchone())[0] or 0.0
    # an error is logged there, and swallowed
    return True, 0.0


def _end_cells(room: DocumentRoom) -> None:
    """Marks cells as ended that ran when the server died, and their kernels with it."""
    for cell in getattr(room._document, "ycells", ()):
        if cell.get("execution_state", "idle") != "idle":
            cell["execution_state"] = "idle"
        if RUNNING in cell["metadata"]:
            del cell["metadata"][RUNNING]


def _wants_saving(room: DocumentRoom) -> bool:
    # without a delay, only explicit saves are wanted
    return room.unsaved_since is not None and room._save_delay is not None


async def _stop_room(self: DocumentRoom) -> None:
    if self.saver is not None:
        self.saver.cancel()
    if _wants_saving(self) or self.save_lock.locked():
        await save(self)
    await _upstream_stop(self)


# --- the store: all of it, and no commit for each line ---

_upstream_store_write = SQLiteYStore.write


async def _write_together(self: SQLiteYStore, data: bytes) -> None:
    """Stores an update with all that came while the one before was written. Errors are logged, and tried again."""
    waiting: list[bytes] = self.__dict__.setdefault("waiting", [])
    turn: asyncio.Lock = self.__dict__.setdefault("turn", asyncio.Lock())
    waiting.append(data)
    async with turn:
        if not waiting:
            return
        batch = waiting[:]
        waiting.clear()
        await self.db_initialized.wait()
        # it swallows errors, after which what came later would be worth nothing
        handler, self._db._exception_handler = self._db._exception_handler, None
        try:
            await _upstream_store_write(self, merge_updates(*batch) if len(batch) > 1 else batch[0])
        except Exception:
            # else the room would end, and with it the saves of the file
            waiting[:0] = batch
            self.log.exception("%s cannot take what was changed; tried again with the next change", self.db_path)
        finally:
            self._db._exception_handler = handler


# --- the server's start and stop ---

_upstream_stop_extension = YDocExtension.stop_extension


async def _stop_extension(self: YDocExtension) -> None:
    rooms = [room for room in self.ywebsocket_server.rooms.values() if isinstance(room, DocumentRoom)]
    saves = [asyncio.create_task(save(room)) for room in rooms if _wants_saving(room) or room.save_lock.locked()]
    if saves:
        self.log.info("Saving %d documents", len(saves))
        await asyncio.wait(saves, timeout=STOP)
    await _upstream_stop_extension(self)


def unsaved(database: pathlib.Path) -> list[str]:
    """Returns the rooms whose last change in the store had not been saved when it was written."""
    if not database.exists():
        return []
    # to be written too: a transaction that a crash cut off is taken back by the first who reads
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # of a group, SQLite gives the other columns of the row that has the maximum
        rows = connection.execute("SELECT path, metadata, max(timestamp) FROM yupdates GROUP BY path").fetchall()
    # as upstream names them: .notebook:<file id>.y
    names = [path[1:-2].partition(":") for path, metadata, _ in rows if metadata == UNSAVED]
    return [f"{'json' if kind == 'notebook' else 'text'}:{kind}:{file}" for kind, _, file in names]


async def recover(ydoc: YDocExtension) -> None:
    """Opens the documents that a crash left unsaved, which saves them; nobody may ever look at them here."""
    try:
        rooms = unsaved(pathlib.Path(ydoc.ystore_class().db_path))
    except sqlite3.Error as error:
        ydoc.log.warning("The store of documents cannot be read: %s", error)
        return
    for room in rooms:
        try:
            await ydoc.get_document(room_id=room, copy=False, create=True)
        except Exception as error:
            # removed since, or no notebook any more; upstream would give the stopped room to the next browser
            ydoc.ywebsocket_server.rooms.pop(room, None)
            ydoc.log.warning("Room %s is not recovered: %s", room, error)


_upstream_worker = WorkerThread.__init__


def _daemonic(self: WorkerThread, *arguments: Any) -> None:
    """Makes a thread that the process does not wait for.

    anyio ends its threads with the task that asked first: that of a browser's connection, which outlives the stop.
    """
    _upstream_worker(self, *arguments)
    self.daemon = True


_tasks: set[asyncio.Task[None]] = set()


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_screen_saves"}]


def _load_jupyter_server_extension(server: Any) -> None:
    if not isinstance(server.contents_manager, fileio.AsyncFileManagerMixin):
        server.log.warning("jupyter_screen_saves: %s keeps no files here", type(server.contents_manager).__name__)
        return
    install()


async def _start_jupyter_server_extension(server: Any) -> None:
    (ydoc,) = server.extension_manager.extension_apps.get("jupyter_server_ydoc", (None,))
    if ydoc is None or not issubclass(ydoc.ystore_class, SQLiteYStore) or fileio.atomic_writing is not atomic_writing:
        return

    base: Any = ydoc.ystore_class

    class Store(base):  # type: ignore[misc]
        """get_document makes stores without the configuration, in another database."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**{"config": ydoc.config, "path": "", **options})

    ydoc.ystore_class = Store
    task = asyncio.create_task(recover(ydoc))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def install() -> None:
    """Puts the functions above in the place of upstream's methods."""
    fileio.atomic_writing = atomic_writing
    FileLoader.seen = FileLoader.told = None
    FileLoader.load_content = load_content
    FileLoader.maybe_save_content = maybe_save_content
    FileLoader.maybe_notify = maybe_notify
    DocumentRoom.loading = False
    DocumentRoom.complaint = ""
    DocumentRoom.unsaved_since = DocumentRoom.saver = None
    DocumentRoom.changed_at = DocumentRoom.took = 0.0
    DocumentRoom.saved_at = float("-inf")
    DocumentRoom.save_lock = property(lambda self: self.__dict__.setdefault("_save_lock", asyncio.Lock()))
    DocumentRoom._on_document_change = _on_document_change
    DocumentRoom._on_outofband_change = _on_outofband_change
    DocumentRoom._save_to_disc = _save_to_disc
    DocumentRoom._maybe_save_document = _maybe_save_document
    DocumentRoom.initialize = initialize
    DocumentRoom.stop = _stop_room
    YDocExtension.stop_extension = _stop_extension
    SQLiteYStore.write = _write_together
    WorkerThread.__init__ = _daemonic
    # inactivity alone never comes while a cell prints for days
    SQLiteYStore.squash_history_older_than = 3600
    # without them a squash leaves out what it squashes
    SQLiteYStore._compress = SQLiteYStore._decompress = bytes
