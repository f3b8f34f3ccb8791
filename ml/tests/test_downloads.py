"""Downloads, against a web server of our own that can break off and knows of ranges, or does not."""

import hashlib
import http.server
import io
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from recommender import typed
from recommender.cli.main import main
from recommender.config import DataConfig
from recommender.data import downloads, reading
from recommender.errors import InputError, RecommenderError

RATINGS = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},4,0\n" for u in range(99) for i in range(9))


class Server(http.server.ThreadingHTTPServer):
    content = b""
    ranges = True
    cut_at: int | None = None
    status: int | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.server.ranges else None
        first = int(asked[1]) if asked else 0
        self.asked.append(first)
        body = self.server.content[first:]
        self.send_response(self.server.status or (416 if not body else 206 if asked else 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_at is not None:
            body = body[: max(0, self.server.cut_at - first)]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...

    asked: ClassVar[list[int]] = []


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ml-1m/ratings.csv", RATINGS)
    server = Server(("127.0.0.1", 0), Handler)
    server.content = packed.getvalue()
    Handler.asked.clear()
    digest = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setitem(downloads.SETS, "1m", replace(downloads.SETS["1m"], sha256=digest))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirror(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_downloaded_unpacked_and_read(server: Server, mirror: str, tmp_path: Path, capsys) -> None:
    line = ["download", "1m", "--folder", str(tmp_path / "new"), "--mirror", mirror]
    assert main(line) == 0
    printed = capsys.readouterr()
    assert "1,000,209 ratings" in printed.err and "no commercial use" in printed.err
    folder = tmp_path / "new" / "ml-1m"
    assert printed.out == f"{folder}\n  {typed.runnable(f'recommender train --data {folder}')}\n"
    assert len(reading.read(DataConfig(source=str(folder)))) == 99 * 9
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ml-1m"]
    assert main(line) == 0
    assert Handler.asked == [0]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(
    server: Server, mirror: str, tmp_path: Path, ranges: bool, monkeypatch
) -> None:
    monkeypatch.setattr(downloads, "PIECE", 64)
    half = 64 * (len(server.content) // 128)
    server.cut_at, server.ranges = half, ranges
    with pytest.raises(
        RecommenderError, match=r"the same command resumes .* embedded set: --data data/ml-latest"
    ):
        downloads.download("1m", tmp_path, mirror)
    assert Handler.asked == [0, half, half] if ranges else [0, 0, 0]
    [part] = tmp_path.iterdir()
    assert part.read_bytes() == server.content[:half]
    server.cut_at = None
    assert downloads.download("1m", tmp_path, mirror).name == "ml-1m"
    assert Handler.asked[3:] == [half if ranges else 0]


def test_all_had_arrived_when_it_was_killed(server: Server, mirror: str, tmp_path: Path) -> None:
    (tmp_path / ".ml-1m.zip.part").write_bytes(server.content)
    assert (downloads.download("1m", tmp_path, mirror) / "ratings.csv").read_text() == RATINGS
    assert Handler.asked == [len(server.content)]


def test_another_file_is_refused_and_forgotten(server: Server, mirror: str, tmp_path: Path) -> None:
    (tmp_path / ".ml-1m.zip.part").write_bytes(b"of another file")
    with pytest.raises(RecommenderError, match="not the pinned one"):
        downloads.download("1m", tmp_path, mirror)
    assert list(tmp_path.iterdir()) == []
    assert downloads.download("1m", tmp_path, mirror).is_dir()


def test_two_at_once(server: Server, mirror: str, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".ml-1m.zip.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RecommenderError, match="another download of this file is running"):
            downloads.download("1m", tmp_path, mirror)


def test_refusals(server: Server, mirror: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="there is no set '5m'; there are: 100k, 1m, 25m, 32m"):
        downloads.download("5m", tmp_path, mirror)
    server.status = 404
    with pytest.raises(RecommenderError, match="404 Client Error"):
        downloads.download("1m", tmp_path, mirror)
    (tmp_path / "a file").touch()
    with pytest.raises(RecommenderError, match="Name a folder with space that you can write"):
        downloads.download("1m", tmp_path / "a file", mirror)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main(["download", "1m", "--folder", str(tmp_path), "--mirror", nowhere]) == 1
    assert "embedded set: --data data/ml-latest-small" in capsys.readouterr().err


def test_pins() -> None:
    assert len({chosen.sha256 for chosen in downloads.SETS.values()}) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", chosen.sha256) for chosen in downloads.SETS.values())
