"""What a cell shows after a kernel's messages: each line once and in order, or a mark where it was cut off.

The shared document is a stand-in that counts bytes as pycrdt does; where pycrdt is installed, it is used as well.
"""

import contextlib
import importlib.util
import pathlib
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

FILE = pathlib.Path(__file__).parents[1] / "files/jupyter_screen_outputs.py"
SPEC = importlib.util.spec_from_file_location("jupyter_screen_outputs", FILE)
assert SPEC and SPEC.loader
outputs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(outputs)
MEGABYTE = 1 << 20


class Text:
    def __init__(self, text: str) -> None:
        self.bytes = text.encode()

    def __len__(self) -> int:
        return len(self.bytes)

    def __delitem__(self, part: slice) -> None:
        kept = self.bytes[: part.start] + self.bytes[part.stop :]
        # a character is never divided
        kept.decode()
        self.bytes = kept

    def __iadd__(self, text: str) -> "Text":
        self.bytes += text.encode()
        return self

    def __str__(self) -> str:
        return self.bytes.decode()


class Map(dict[str, Any]):
    def to_py(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Text) else value for key, value in self.items()}


class Doc:
    def __init__(self) -> None:
        self.cells: list[Any] = []

    def get(self, name: str, type: Any) -> Any:
        return self.cells

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        yield


class Array(list[Any]):
    doc = Doc()

    def to_py(self) -> list[Any]:
        return [item.to_py() if isinstance(item, Map) else item for item in self]


class YCell(dict[str, Any]):
    def __init__(self) -> None:
        super().__init__(id="one", outputs=Array())
        self.doc = Doc()
        self.doc.cells.append(self)


def real_cell() -> Any:
    pycrdt = pytest.importorskip("pycrdt")
    cells = pycrdt.Doc().get("cells", type=pycrdt.Array)
    cells.append(pycrdt.Map({"id": "zero", "outputs": pycrdt.Array()}))
    cells.append(pycrdt.Map({"id": "one", "outputs": pycrdt.Array()}))
    return cells[1]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> YCell:
    module = types.ModuleType("pycrdt")
    vars(module).update(Text=Text, Map=Map, Array=Array)
    monkeypatch.setitem(sys.modules, "pycrdt", module)
    return YCell()


@pytest.fixture(params=["stand-in", *(["pycrdt"] if importlib.util.find_spec("pycrdt") else [])])
def ycell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return real_cell() if request.param == "pycrdt" else stand_in(monkeypatch)


class Kernel:
    """Sends messages to a cell, which is written to the document now and then."""

    def __init__(self, ycell: Any, limit: int = sys.maxsize) -> None:
        self.ycell = ycell
        self.cell = outputs.Cell(limit, ycell, [])

    def send(self, kind: str, **content: Any) -> None:
        self.cell.feed({"header": {"msg_type": kind}, "content": content})

    def print(self, text: str, name: str = "stdout") -> None:
        self.send("stream", name=name, text=text)

    def display(self, text: str, display_id: str | None = None) -> None:
        self.send("display_data", data={"text/plain": text}, metadata={}, transient={"display_id": display_id})

    def update(self, text: str, display_id: str) -> None:
        self.cell.update(display_id, {"data": {"text/plain": text}, "metadata": {}})

    def shown(self, last: bool = False) -> list[tuple[str, str]]:
        """Returns what is in the document: the stream's name or the output's type, and the text."""
        self.cell.flush(last)
        found = self.ycell["outputs"].to_py()
        assert last is False or [*map(dict, found)] == [output.value() for output in self.cell.outputs]
        return [(o.get("name") or o["output_type"], o.get("text") or o.get("data", o).get("text/plain")) for o in found]


def as_jupyterlab(text: str) -> str:
    """JupyterLab's own way, character by character: outputarea/src/model.ts, processText."""
    shown, at = "", 0
    for character in text:
        if character == "\b":
            if at > 0 and shown[at - 1] != "\n":
                shown, at = shown[: at - 1] + shown[at + 1 :], at - 1
        elif character == "\r":
            while at > 0 and shown[at - 1] != "\n":
                at -= 1
        elif character == "\n":
            shown += "\n"
            at = len(shown)
        else:
            shown, at = shown[:at] + character + shown[at + 1 :], at + 1
    return shown


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_shows_what_jupyterlab_shows(ycell: Any, seed: int) -> None:
    chance = random.Random(seed)
    kernel = Kernel(ycell)
    printed = ""
    for _ in range(200):
        text = "".join(chance.choices(["a", "bc", "█", "é", "😀", " ", "\n", "\r", "\b"], k=chance.randrange(1, 9)))
        printed += text
        kernel.print(text)
        if chance.random() < 0.3:
            assert kernel.shown() == [("stdout", as_jupyterlab(printed))]
    assert kernel.shown(last=True) == [("stdout", as_jupyterlab(printed))]


def test_every_line_of_both_streams_is_there_once_and_in_order(ycell: Any) -> None:
    kernel = Kernel(ycell)
    for number in range(20_000):
        kernel.print(f"{number}\n", "stderr" if number % 3 else "stdout")
        if number % 1000 == 0:
            kernel.shown()
    assert "".join(text for _, text in kernel.shown(last=True)).splitlines() == [*map(str, range(20_000))]


def test_the_work_for_a_stream_does_not_grow_with_what_is_there(ycell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the bytes that are measured, since the clock proves nothing."""
    kernel = Kernel(ycell)
    encoded: list[int] = []
    monkeypatch.setattr(outputs, "size_of", lambda text: encoded.append(len(text)) or len(text.encode()))
    for number in range(5000):
        kernel.print(f"line {number}\n")
        kernel.cell.flush()
    assert sum(encoded) < 20 * len(kernel.shown()[0][1])


def test_an_output_that_equals_the_one_before_is_kept(ycell: Any) -> None:
    kernel = Kernel(ycell)
    kernel.display("x")
    kernel.display("x")
    assert kernel.shown() == [("display_data", "x")] * 2


def test_clear_output_waits_for_the_next_output(ycell: Any) -> None:
    kernel = Kernel(ycell)
    kernel.print("a")
    kernel.send("clear_output", wait=True)
    assert kernel.shown() == [("stdout", "a")]
    kernel.print("b")
    assert kernel.shown() == [("stdout", "b")]
    kernel.send("clear_output", wait=False)
    assert kernel.shown() == []
    kernel.print("c")
    assert kernel.shown(last=True) == [("stdout", "c")]


@pytest.mark.parametrize("behind", [10, 2 * outputs.BEHIND])
def test_a_display_is_updated_in_its_place(ycell: Any, behind: int) -> None:
    kernel = Kernel(ycell)
    kernel.display("first", "a")
    kernel.display("first", "b")
    kernel.print("x" * behind + "\n")
    kernel.shown()
    for number in range(100):
        kernel.update(str(number), "b")
        kernel.print("y\n")
        if number % 7 == 0:
            kernel.shown()
    after = [("display_data", "first"), ("display_data", "99"), ("stdout", "x" * behind + "\n" + "y\n" * 100)]
    assert kernel.shown() == after
    assert kernel.shown(last=True) == after
    # from a later cell, and a thread's late line
    kernel.cell.release()
    kernel.update("later", "a")
    kernel.print("late\n")
    assert kernel.shown() == [("display_data", "later"), after[1], ("stdout", after[2][1] + "late\n")]


def test_what_is_cut_off_is_marked_and_the_error_is_kept(ycell: Any) -> None:
    kernel = Kernel(ycell, MEGABYTE)
    for number in range(100_000):
        kernel.print(f"line number {number} █\n")
        if number % 5000 == 0:
            kernel.shown()
    kernel.send("error", ename="ZeroDivisionError", evalue="", traceback=[])
    (_, text), (name, mark), (kind, _) = kernel.shown(last=True)
    assert (name, kind) == ("stderr", "error")
    lines = text.splitlines()
    assert lines == [f"line number {number} █" for number in range(len(lines))]
    assert MEGABYTE - 100 < len(text.encode()) <= MEGABYTE
    lost = sum(len(f"line number {number} █\n".encode()) for number in range(len(lines), 100_000))
    assert f"the first 1 MB of this cell are kept, {lost} bytes are not" in mark


def test_a_progress_bar_never_reaches_the_limit(ycell: Any) -> None:
    kernel = Kernel(ycell, MEGABYTE)
    for number in range(50_000):
        kernel.print(f"\r{number} " + "█" * 40)
        kernel.display(str(number), "bar") if number == 0 else kernel.update(str(number), "bar")
        if number % 5000 == 0:
            kernel.shown()
    assert [text for _, text in kernel.shown(last=True)] == ["0 " + "█" * 40, "49999", "49999 " + "█" * 40]


def test_a_picture_that_begins_within_the_limit_is_whole(ycell: Any) -> None:
    kernel = Kernel(ycell, MEGABYTE)
    kernel.display("x" * 3 * MEGABYTE)
    kernel.display("y")
    (_, picture), (name, mark) = kernel.shown(last=True)
    assert (len(picture), name) == (3 * MEGABYTE, "stderr")
    assert mark.startswith("[Output cut: the first 1 MB")


def test_outputs_that_somebody_cleared_stay_away(ycell: Any) -> None:
    kernel = Kernel(ycell)
    kernel.print("a\nb")
    kernel.shown()
    ycell["outputs"].clear()
    kernel.print("c\n")
    assert kernel.shown() == [("stdout", "c\n")]
    # what a page adds when it answers a question
    ycell["outputs"].append({"output_type": "stream", "name": "stdin", "text": "answer\n"})
    kernel.print("d\n")
    assert kernel.shown() == [("stdout", "c\n"), ("stdin", "answer\n"), ("stdout", "d\n")]


def test_a_cell_that_was_removed_takes_no_output(ycell: Any) -> None:
    kernel = Kernel(ycell)
    kernel.print("a")
    kernel.cell.id = "gone"
    kernel.cell.flush()
    assert kernel.cell.outputs == []


def test_the_end_of_a_cell_is_told(ycell: Any) -> None:
    kernel = Kernel(ycell)
    kernel.send("status", execution_state="busy")
    assert not kernel.cell.idle.is_set()
    kernel.send("status", execution_state="idle")
    assert kernel.cell.idle.is_set()


def test_without_a_document_the_outputs_are_in_the_answer() -> None:
    answer: list[Any] = []
    cell = outputs.Cell(sys.maxsize, None, answer)
    for word in ("a", "\rb"):
        cell.feed({"header": {"msg_type": "stream"}, "content": {"name": "stdout", "text": word}})
    cell.flush()
    assert answer == [{"output_type": "stream", "name": "stdout", "text": "b"}]


def test_what_no_document_can_hold_is_made_fit(ycell: Any) -> None:
    """Such a value would take the turn's other outputs with it."""
    ycell["outputs"].append(outputs.fit({"data": {"json": [1 << 63, -(1 << 63), True, 1 << 2000, "\ud800é"]}}))
    (found,) = ycell["outputs"].to_py()
    assert found == {"data": {"json": [float(1 << 63), -(1 << 63), True, str(1 << 2000), "?é"]}}
