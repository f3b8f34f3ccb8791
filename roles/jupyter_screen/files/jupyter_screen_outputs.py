"""An extension of Jupyter's server: a cell's whole output reaches the notebook, however fast it is printed.

jupyter-server-nbmodel 0.2 (`actions.py: _output_hook`) copies the whole text of a stream for each message, so its work
grows with the square. A kernel that is 1,000 messages ahead drops the next ones (jupyter/nbconvert#659), and without
the end of the cell among them `execute_interactive` waits for ever. Besides it counts characters where the document
counts bytes, leaves out an output that equals the one before, and ignores display updates and clear_output(wait=True).

This extension reads messages at once and writes them to the document ten times a second. Without it everything else
still works: drop it, with jupyter_screen_kernel.py, once jupyter-server-nbmodel does the same.
"""

import asyncio
import contextlib
import inspect
import json
import pathlib
import queue
import re
import sys
import time
from collections import OrderedDict
from itertools import zip_longest
from typing import Any

# Seconds that one turn reads: the server has other work.
TURN = 0.02
# Least seconds between two writes to the document, and how many times longer a pause is than the write before.
PAUSE, SHARE = 0.1, 5
# Seconds without a message, after a cell's reply, when its end is given up.
SILENCE = 10
# Cells that still get late output, as of a thread.
REMEMBERED = 500
# Characters that are collected before controls are applied.
COLLECTED = 1 << 20
# Bytes behind an updated display that are written again with it: a page shows no change in the middle.
BEHIND = 20_000
# What a notebook keeps of a message (nbformat 4: output_from_msg).
FIELDS = {
    "display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}
CONTROLS = re.compile(r"([\b\r\n])")
KERNEL = pathlib.Path(__file__).with_name("jupyter_screen_kernel.py")


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_screen_outputs"}]


def size_of(text: str) -> int:
    """Return the length in UTF-8, which is how the shared document counts."""
    return len(text) if text.isascii() else len(text.encode())


def fit(value: Any) -> Any:
    """Return the value as the shared document can hold it: integers of 64 bits, and no halves of surrogate pairs."""
    if isinstance(value, dict):
        return {fit(name): fit(part) for name, part in value.items()}
    if isinstance(value, list):
        return [fit(part) for part in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value) if abs(value) < 1 << 1000 else str(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="replace").decode()
    return value


def weight(output: dict[str, Any]) -> int:
    """Return the length of an output in a notebook."""
    return len(json.dumps(output.get("data", output)))


class Stream:
    """Text of one stream as JupyterLab shows it: only its last line can still change."""

    display_id = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.raw: list[str] = []
        self.collected = 0
        # finished lines that are in the document, and those that are not yet
        self.old: list[str] = []
        self.new: list[str] = []
        self.line = ""
        self.cursor = 0
        # of the document: the bytes before its last line, and that line
        self.start = 0
        self.shown = ""
        self.finished = 0

    @property
    def size(self) -> int:
        """Bytes of the text, with what has been collected at its longest."""
        return self.finished + size_of(self.line) + self.collected

    @property
    def changed(self) -> bool:
        return bool(self.raw or self.new or self.line != self.shown)

    def feed(self, text: str) -> None:
        self.raw.append(text)
        self.collected += size_of(text)
        if self.collected > COLLECTED:
            self.settle()

    def settle(self) -> None:
        """Apply the controls that were collected as JupyterLab does (outputarea/src/model.ts: processText)."""
        line, cursor = self.line, self.cursor
        for part in CONTROLS.split("".join(self.raw)):
            if part == "\n":
                self.new.append(line + "\n")
                self.finished += size_of(line) + 1
                line, cursor = "", 0
            elif part == "\r":
                cursor = 0
            elif part == "\b":
                if cursor:
                    line, cursor = line[: cursor - 1] + line[cursor + 1 :], cursor - 1
            else:
                line, cursor = line[:cursor] + part + line[cursor + len(part) :], cursor + len(part)
        self.line, self.cursor, self.raw, self.collected = line, cursor, [], 0

    def change(self) -> tuple[int, int, str]:
        """Return where the document's text ends to be right, how long it is, and what follows there; in bytes."""
        self.settle()
        fresh = "".join(self.new) + self.line
        same = len(self.shown)
        if not fresh.startswith(self.shown):
            pairs = zip_longest(self.shown, fresh)
            same = next(place for place, (one, other) in enumerate(pairs) if one != other)
        change = self.start + size_of(self.shown[:same]), self.start + size_of(self.shown), fresh[same:]
        self.old += self.new
        self.new, self.start, self.shown = [], self.finished, self.line
        return change

    def value(self) -> dict[str, Any]:
        self.settle()
        return {"output_type": "stream", "name": self.name, "text": "".join([*self.old, *self.new, self.line])}

    def release(self) -> None:
        """Forget the text that is in the document."""
        self.old = []


class Output:
    """Any other output; index is its place among the cell's outputs."""

    def __init__(self, value: dict[str, Any], display_id: str | None) -> None:
        self.content = value
        self.display_id = display_id
        self.size = weight(value)
        self.index = -1

    def value(self) -> dict[str, Any]:
        return self.content

    def release(self) -> None:
        self.content = {}


class Cell:
    """The outputs of one execution, and how many of them are in the shared document."""

    def __init__(self, limit: int, ycell: Any, copy: list[Any]) -> None:
        self.limit = limit
        self.copy = copy
        self.idle = asyncio.Event()
        self.id = None if ycell is None else ycell["id"]
        self.cells: Any = None
        if ycell is not None:
            from pycrdt import Array

            self.cells = ycell.doc.get("cells", type=Array)
        self.at = 0
        # where the first output stands in the document: another's may come before
        self.offset = 0
        self.clear()
        # the outputs before were removed when the execution began
        self.cleared = False

    def clear(self) -> None:
        self.outputs: list[Stream | Output] = []
        self.displays: dict[str, list[Output]] = {}
        self.written = 0
        # displays that were updated after they were written, and those that a page shows as they were
        self.stale: set[int] = set()
        self.unseen: set[int] = set()
        # bytes of all outputs but the last
        self.before = 0
        self.mark: Stream | None = None
        self.lost = 0
        self.clear_next = False
        self.cleared = True

    @property
    def size(self) -> int:
        """Bytes of all outputs."""
        return self.before + (self.outputs[-1].size if self.outputs else 0)

    def append(self, output: Stream | Output) -> None:
        if self.outputs:
            last = self.outputs[-1]
            if isinstance(last, Stream):
                last.settle()
            self.before += last.size
        if isinstance(output, Output):
            output.index = len(self.outputs)
        self.outputs.append(output)

    def stream(self, name: str) -> Stream:
        """Return the last output where it is of this stream, else a new one."""
        last = self.outputs[-1] if self.outputs else None
        if isinstance(last, Stream) and last.name == name:
            return last
        self.append(stream := Stream(name))
        return stream

    def note(self, text: str) -> Stream:
        """Say something in the cell on a line of its own, and return the stream that says it."""
        stream = self.stream("stderr")
        stream.settle()
        stream.feed("\n" * bool(stream.line) + text)
        return stream

    def cut(self, size: int) -> None:
        """Leave out so many bytes; the place is marked."""
        self.lost += size
        if not self.mark:
            self.mark = self.note(self.cut_text())

    def cut_text(self) -> str:
        return (
            f"[Output cut: the first {self.limit / (1 << 20):g} MB of this cell are kept, {self.lost} bytes are not. "
            "Write less or to a file, or raise jupyter_screen_output_max.]"
        )

    def count(self) -> None:
        """Say how much was left out by now, as long as nothing stands after the mark."""
        if self.mark and self.outputs[-1] is self.mark:
            self.mark.feed("\r" + self.cut_text())

    def feed(self, message: dict[str, Any]) -> None:
        """Take a message of the kernel."""
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "status":
            if content["execution_state"] == "idle":
                self.idle.set()
        elif kind == "clear_output":
            if content.get("wait"):
                self.clear_next = True
            else:
                self.clear()
        elif kind == "stream" or kind in FIELDS:
            if self.clear_next:
                self.clear()
            if kind == "stream":
                self.print(content["name"], content["text"])
            else:
                self.show(message)

    def print(self, name: str, text: str) -> None:
        size = size_of(text)
        if self.mark:
            self.lost += size
            return
        if self.size + size > self.limit:
            if isinstance(last := self.outputs[-1] if self.outputs else None, Stream):
                last.settle()
            room = max(0, self.limit - self.size)
            if size > room:
                # whole lines
                text = text.encode()[:room].decode(errors="ignore")
                text = text[: text.rfind("\n") + 1]
        if text:
            self.stream(name).feed(text)
        if size > size_of(text):
            self.cut(size - size_of(text))

    def show(self, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        value = {"output_type": kind, **{field: content[field] for field in FIELDS[kind] if field in content}}
        output = Output(value, content.get("transient", {}).get("display_id"))
        # one that begins within the limit is kept whole, and an error always
        if kind != "error" and (self.mark or self.size >= self.limit):
            self.cut(output.size)
            return
        self.count()
        self.append(output)
        if output.display_id:
            self.displays.setdefault(output.display_id, []).append(output)

    def update(self, display_id: str, content: dict[str, Any]) -> bool:
        """Give a display its new state, and return whether it is in this cell."""
        displays = self.displays.get(display_id, [])
        for output in displays:
            output.content = {"output_type": "display_data", "data": content["data"], "metadata": content["metadata"]}
            size = weight(output.content)
            if self.outputs[-1] is not output:
                self.before += size - output.size
            output.size = size
            if output.index < self.written:
                self.stale.add(output.index)
        return bool(displays)

    def place(self) -> Any:
        """Return the cell in the shared document as it is now, or None: it may have been moved, removed or reloaded."""
        for index in (self.at, *range(len(self.cells))):
            if index < len(self.cells) and self.cells[index].get("id") == self.id:
                self.at = index
                return self.cells[index]
        return None

    def flush(self, last: bool = False) -> None:
        """Write to the shared document what has changed; with last also what pages cannot see yet."""
        if self.cells is None:
            self.copy[:] = [output.value() for output in self.outputs]
            return
        ycell = self.place()
        if ycell is None or "outputs" not in ycell:
            self.clear()
            return
        if last:
            self.count()
        array = ycell["outputs"]
        with array.doc.transaction():
            if self.cleared:
                array.clear()
                self.offset, self.cleared = 0, False
            if len(array) != self.offset + self.written or not self.flush_text(array):
                self.forget(len(array))
            self.flush_displays(array, last)
            self.write(array, [output.value() for output in self.outputs[self.written :]])

    def flush_text(self, array: Any) -> bool:
        """Write the change of the last stream, and return whether the document held what was written before."""
        stream = self.outputs[self.written - 1] if self.written else None
        if not isinstance(stream, Stream) or not stream.changed:
            return True
        output = array[len(array) - 1]
        text = output.get("text")
        if isinstance(text, str) or len(text) != stream.start + size_of(stream.shown):
            return False
        start, end, fresh = stream.change()
        if start < end:
            del text[start:end]
        if fresh:
            text += fresh
        return True

    def flush_displays(self, array: Any, last: bool) -> None:
        changed = self.stale | self.unseen if last else self.stale
        if not changed:
            return
        first = min(changed)
        behind = self.outputs[first + 1 : self.written]
        if last or sum(output.size for output in behind) <= BEHIND:
            values = [item.to_py() if hasattr(item, "to_py") else item for item in array[self.offset + first :]]
            for index in self.stale:
                values[index - first] = self.outputs[index].value()
            del array[self.offset + first :]
            self.written = first
            self.write(array, values)
            self.unseen = {index for index in self.unseen if index < first}
        else:
            for index in changed:
                array[self.offset + index].update(self.outputs[index].value())
            self.unseen |= changed
        self.stale = set()

    def write(self, array: Any, values: list[dict[str, Any]]) -> None:
        """Append the values of the outputs that come next.

        Only what can still change becomes a shared type of its own: the work for a list of those grows with the square.
        """
        from pycrdt import Map, Text

        plain: list[Any] = []
        for value in values:
            output = self.outputs[self.written]
            self.written += 1
            if isinstance(output, Stream):
                output.change()
                item = Map({**value, "text": Text(value["text"])}) if self.written == len(self.outputs) else value
            else:
                item = Map(value) if output.display_id else value
            plain.append(item)
        array.extend(plain)

    def forget(self, length: int) -> None:
        """Continue behind what is in the document now: somebody else changed the cell's outputs."""
        written, rest = self.outputs[: self.written], self.outputs[self.written :]
        self.clear()
        self.cleared, self.offset = False, length
        if written and isinstance(stream := written[-1], Stream) and stream.changed:
            self.stream(stream.name).feed(stream.change()[2])
        for output in rest:
            self.append(output)
            if output.display_id:
                self.displays.setdefault(output.display_id, []).append(output)

    def release(self) -> None:
        """Forget what is in the document, but not where later output belongs."""
        for output in self.outputs:
            output.release()


class Reader:
    """Reads what a kernel publishes for as long as its client lives, and hands it to the cells."""

    def __init__(self, client: Any, limit: int, log: Any) -> None:
        self.client = client
        self.limit = limit
        self.log = log
        self.executions: OrderedDict[str, Cell] = OrderedDict()
        self.changed: set[Cell] = set()
        self.heard = 0.0
        self.pause_ends = 0.0
        self.task = asyncio.create_task(self.read())
        # the channels are closed at the end of the client
        stop_channels = client.stop_channels

        def stop() -> None:
            self.task.cancel()
            stop_channels()

        client.stop_channels = stop
        client.execute_interactive = self.execute

    async def read(self) -> None:
        import zmq
        import zmq.asyncio

        socket = self.client.iopub_channel.socket
        # without a future for each message
        plain = zmq.Socket.shadow(socket.underlying)
        poller = zmq.asyncio.Poller()
        poller.register(socket, zmq.POLLIN)
        try:
            while True:
                wait = max(0.0, self.pause_ends - time.monotonic()) if self.changed else 5.0
                await poller.poll(int(wait * 1000))
                ends = time.monotonic() + TURN
                with contextlib.suppress(zmq.Again):
                    while time.monotonic() < ends:
                        self.take(plain.recv_multipart(zmq.NOBLOCK))
                if self.changed and time.monotonic() >= self.pause_ends:
                    self.flush()
                # the turn of others, also when messages never cease
                await asyncio.sleep(0)
        except Exception:
            self.log.exception("the output of a kernel is no longer read")
        finally:
            # else the kernel would wait for a reader that is gone
            socket.close(linger=0)

    def take(self, frames: list[bytes]) -> None:
        self.heard = time.monotonic()
        try:
            _, frames = self.client.session.feed_identities(frames)
            message = self.client.session.deserialize(frames)
            content = message["content"] = fit(message["content"])
            if display_id := content.get("transient", {}).get("display_id"):
                # a new display changes those of the same id too
                self.changed |= {cell for cell in self.executions.values() if cell.update(display_id, content)}
            if cell := self.executions.get(message["parent_header"].get("msg_id")):
                cell.feed(message)
                self.changed.add(cell)
        except Exception:
            self.log.exception("a message of a kernel was not understood")

    def flush(self, only: Cell | None = None) -> None:
        began = time.monotonic()
        for cell in [only] if only else self.changed:
            try:
                cell.flush(last=bool(only))
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                raise
            # pycrdt's panic is not an Exception
            except BaseException:
                self.log.exception("output of the cell %s was not written", cell.id)
        self.changed = self.changed - {only} if only else set()
        ended = time.monotonic()
        self.pause_ends = ended + max(PAUSE, SHARE * (ended - began))

    async def execute(self, code: str, output_hook: Any, stdin_hook: Any = None) -> dict[str, Any]:
        """Run a cell as execute_interactive does, and return its reply; output_hook is nbmodel's and tells the cell."""
        import zmq
        import zmq.asyncio

        outputs, ycell = output_hook.args[:2]
        cell = Cell(self.limit, ycell, outputs)
        client = self.client
        asked = client.execute(code, allow_stdin=client.allow_stdin)
        if inspect.isawaitable(asked):
            asked = await asked
        for known, other in list(self.executions.items()):
            # what is late for the run before has no place any more
            if (cell.id and other.id == cell.id) or len(self.executions) >= REMEMBERED:
                del self.executions[known]
        self.executions[asked] = cell
        channels = [client.shell_channel, *([client.stdin_channel] if client.allow_stdin else [])]
        poller = zmq.asyncio.Poller()
        for channel in channels:
            poller.register(channel.socket, zmq.POLLIN)
        reply: dict[str, Any] | None = None
        try:
            while reply is None:
                ready = dict(await poller.poll())
                for channel in channels:
                    if channel.socket not in ready:
                        continue
                    with contextlib.suppress(queue.Empty):
                        message = await channel.get_msg(timeout=0)
                        if channel is not client.shell_channel:
                            stdin_hook(message)
                        elif message["parent_header"].get("msg_id") == asked:
                            reply = message
            waits = 0
            while not cell.idle.is_set() and waits < SILENCE:
                heard = self.heard
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(cell.idle.wait(), 1)
                waits = 0 if self.heard > heard else waits + 1
            if not cell.idle.is_set():
                cell.note("[Output may be missing: the kernel has not said that it is complete.]")
        finally:
            self.flush(cell)
            outputs[:] = [output.value() for output in cell.outputs]
            cell.release()
            if ycell is None:
                self.executions.pop(asked, None)
        return reply


def _load_jupyter_server_extension(server: Any) -> None:
    from jupyter_client.manager import KernelManager
    from jupyter_server_nbmodel.execution_stack import ExecutionStack
    from zmq.asyncio import Socket

    limit = int(server.config.JupyterScreenOutputs.get("max_bytes", 0)) or sys.maxsize
    get_client, format_kernel_cmd = ExecutionStack._get_client, KernelManager.format_kernel_cmd

    async def get_reading_client(self: Any, kernel_id: str) -> Any:
        client = await get_client(self, kernel_id)
        # a client of another server has no sockets
        if "stop_channels" not in vars(client) and isinstance(getattr(client.iopub_channel, "socket", None), Socket):
            Reader(client, limit, server.log)
        return client

    def format_waiting_kernel_cmd(self: Any, extra_arguments: list[str] | None = None) -> list[str]:
        command: list[str] = format_kernel_cmd(self, extra_arguments)
        return [*command, f"--config={KERNEL}"] if {"ipykernel_launcher", "ipykernel"} & set(command) else command

    ExecutionStack._get_client = get_reading_client
    KernelManager.format_kernel_cmd = format_waiting_kernel_cmd
