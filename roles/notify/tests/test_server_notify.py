"""What the program recognizes, says, and does not say again."""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

PATH = pathlib.Path(__file__).parents[1] / "files/server_notify.py"
spec = importlib.util.spec_from_file_location("server_notify", PATH)
assert spec and spec.loader
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)

NOW, MINUTE, HOUR, DAY = 1_800_000_000.0, 60.0, 3600.0, 86400.0
SETTINGS: dict[str, Any] = {
    "webhook": "", "webhook_body": {"text": "{text}"}, "webhook_headers": {}, "mail": "", "smtp": {}, "host": "dev",
    "lines": [], "mounts": ["/"], "disk_percent": 101, "disk_days": 0, "certificates": [], "certificate_days": 14,
    "reboot_days": 7, "environment": {},
}  # fmt: skip


def story(*steps: tuple[float, dict[str, str]]) -> list[list[str]]:
    """What is said at each of these times, with these causes; + is wrong, - is well again."""
    told: dict[str, Any] = {}
    said = []
    for minutes, causes in steps:
        wrong, well, told = program.plan(told, causes, NOW + minutes * MINUTE)
        said.append([f"+{text}" for text in wrong] + [f"-{text}" for text in well])
    return said


BAD = {"unit a": "a failed"}


def test_each_cause_is_told_once_and_so_is_its_end() -> None:
    assert story((0, BAD), (5, BAD), (500, BAD), (505, {}), (510, {}), (2000, {})) == [
        ["+a failed"], [], [], ["-a failed"], [], [],
    ]  # fmt: skip


def test_several_at_one_moment_are_told_together() -> None:
    two = BAD | {"disk /": "full"}
    assert story((0, two), (5, BAD)) == [["+full", "+a failed"], ["-full"]]


def test_what_changes_is_told_again_but_not_its_figures() -> None:
    def at(text: str) -> dict[str, str]:
        return {"disk /": text}

    said = story((0, at("80 %, 1.5 GB left")), (90, at("81 %, 1.4 GB left")), (95, at("full")), (100, at("fuller")),
                 (154, at("fuller")), (155, at("fuller")), (160, {}))  # fmt: skip
    assert said == [["+80 %, 1.5 GB left"], [], ["+full"], [], [], ["+fuller"], ["-fuller"]]


def test_what_comes_and_goes_is_told_once_an_hour() -> None:
    steps = [(5.0 * step, BAD if step % 2 == 0 else {}) for step in range(100)]
    said = story(*steps)
    times = [step * 5 for step, lines in enumerate(said) if lines]
    assert times[:2] == [0, 5], "its first end is told at once"
    assert len(times) > 5 and all(b - a >= 60 for a, b in itertools.pairwise(times[1:]))
    assert "came back" in said[times[2] // 5][0]


def test_what_was_well_for_an_hour_is_told_at_once() -> None:
    assert story((0, BAD), (5, {}), (66, {}), (67, BAD), (72, {})) == [
        ["+a failed"],
        ["-a failed"],
        [],
        ["+a failed"],
        ["-a failed"],
    ]


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    assert story((0, BAD), (5, {}), (-5000, BAD)) == [
        ["+a failed"],
        ["-a failed"],
        ["+a failed (it came back once)"],
    ]


def test_a_message_names_its_problems_and_what_is_left() -> None:
    assert program.words("dev", ["a", "b"], ["c"], 2) == ("dev: 2 problems", "a\nb\nWell again: c")
    assert program.words("dev", [], ["c"], 0) == ("dev: all is well again", "Well again: c")
    assert program.words("dev", [], ["c"], 3)[0] == "dev: 1 well again, 3 still wrong"
    title, message = program.words("dev", ["x" * 300] * 500, [], 500)
    assert title == "dev: 500 problems" and len(message) < 2000 and "and 494 more" in message


def test_a_body_is_filled_and_what_is_filled_in_is_not() -> None:
    template = {"a": ["{title}: {message}", 5, {"b": "{host} {other} {}"}]}
    values = {"title": "{message}", "message": "m", "host": "h", "text": "t"}
    assert program.fill(template, values) == {"a": ["{message}: m", 5, {"b": "h {other} {}"}]}


def test_failed_units_without_its_own() -> None:
    names = ("a.service", "server-notify.service", "b\\x2dc.mount")
    listed = "".join(f"{name} loaded failed failed A thing\n" for name in names)
    found = program.failed_units(listed)
    assert list(found) == ["unit a.service", "unit b\\x2dc.mount"]
    assert found["unit b\\x2dc.mount"].endswith("journalctl -u 'b\\x2dc.mount'")


def test_disks_are_those_that_can_be_written_once_each() -> None:
    lines = [
        "30 1 8:1 / / ro,relatime - ext4 /dev/sda1 rw,errors=remount-ro",
        "31 30 8:1 /var /var rw - ext4 /dev/sda1 rw",
        "32 30 8:2 / /data\\040one rw shared:1 - xfs /dev/sdb1 rw",
        "33 30 7:1 / /snap/core ro - squashfs /dev/loop1 ro",
        "34 30 0:5 / /run rw - tmpfs tmpfs rw",
        "35 30 0:9 / /pool rw - zfs tank/pool rw,xattr",
        "36 30 0:7 / /net rw - nfs4 host:/ rw",
    ]
    assert program.disks("\n".join(lines)) == ["/", "/data one", "/pool"]
    assert program.disks("30 1 0:40 / / rw - overlay overlay rw,lowerdir=a") == ["/"]


def hourly(*free: float) -> list[list[float]]:
    return [[NOW - (len(free) - place) * HOUR, value] for place, value in enumerate(free)]


def test_a_disk_s_end_is_estimated() -> None:
    falling = hourly(*(1000 - 10 * hour for hour in range(24)))
    assert program.seconds_left(falling, NOW, 760) == pytest.approx(76 * HOUR)
    assert program.seconds_left(falling[-5:], NOW, 760) is None, "too few hours"
    assert program.seconds_left(hourly(*[500] * 24), NOW, 500) is None
    assert program.seconds_left(hourly(*range(500, 524)), NOW, 524) is None
    # one large file
    assert program.seconds_left(hourly(*[900] * 20, *[500] * 4), NOW, 500) is None


def test_samples_are_few_and_recent() -> None:
    samples: list[list[float]] = []
    for step in range(12 * 24 * 5):
        samples = program.keep(samples, NOW + step * 5 * MINUTE, step)
    assert 60 <= len(samples) <= 80
    assert samples[-1][0] - samples[0][0] <= 3 * DAY
    # a clock that was set back
    assert program.keep([[NOW + DAY, 1]], NOW, 5) == [[NOW, 5]]


@pytest.mark.parametrize(
    ("used", "free", "left", "says"),
    [
        (96e9, 4e9, None, "The disk at / is 96 % full (4.0 GB left)."),
        (80e9, 20e9, 2 * DAY, "The disk at / will be full within 3 days at this rate (80 % now, 20.0 GB left)."),
        (80e9, 20e9, 4 * DAY, ""),
        (80e9, 20e9, None, ""),
    ],
)
def test_a_disk_is_told(used: float, free: float, left: float | None, says: str) -> None:
    found = program.disk("/", "bytes", used, free, left, SETTINGS | {"disk_percent": 95, "disk_days": 3})
    assert list(found.values()) == ([says] if says else [])


def dates(since: float, until: float) -> str:
    begin, end = (time.strftime("%b %d %T %Y GMT", time.gmtime(NOW + days * DAY)) for days in (since, until))
    return f"notBefore={begin}\nnotAfter={end}\n"


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [(-76, 13, True), (-75, 15, False), (-4, 2, False), (-5, 1, True), (-100, -1, True)],
)
def test_a_certificate_is_told_before_its_end(since: float, until: float, told: bool) -> None:
    assert bool(program.certificate("/x.crt", dates(since, until), NOW, 14)) == told


def test_certificates_are_read_without_following_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "b.crt").symlink_to(tmp_path / "deep/a.crt")
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "c.key").write_text("-----BEGIN CERTIFICATE-----\n")
    subprocess.run(["mkfifo", str(tmp_path / "d.crt")], check=True)
    assert [path for path, _ in program.certificates([str(tmp_path)])] == [str(tmp_path / "deep/a.crt")]


def test_a_real_certificate_is_read(tmp_path: pathlib.Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "40", "-subj", "/CN=a.example.org"]
    paths = ["-keyout", str(tmp_path / "a.key"), "-out", str(tmp_path / "a.crt")]
    subprocess.run([*made, *paths], check=True, capture_output=True)
    (tmp_path / "b.crt").write_text("-----BEGIN CERTIFICATE-----\ncut off")
    settings, now = SETTINGS | {"certificates": [str(tmp_path)]}, time.time()
    broken = f"certificate {tmp_path}/b.crt"
    assert program.look_at_certificates(settings, now) == {broken: f"The certificate {tmp_path}/b.crt cannot be read."}
    later = program.look_at_certificates(settings, now + 39 * DAY)
    assert set(later) == {broken, f"certificate {tmp_path}/a.crt"}


def test_a_reboot_is_due_since_the_first_update_that_asked() -> None:
    since, found = program.reboot(None, NOW - 1 * DAY, NOW, 7)
    assert (since, found) == (NOW - 1 * DAY, {})
    since, found = program.reboot(since, NOW + 5 * DAY, NOW + 6.5 * DAY, 7)
    assert since == NOW - 1 * DAY and "due for 8 days" in found["reboot"]
    assert program.reboot(since, None, NOW + 7 * DAY, 7) == (None, {})


def test_lines_are_recognized() -> None:
    output = "late: the last backup is 30 hours old\n\n3 of 4 queues stand\n\x1b[1mred\n"
    assert program.said_lines("b", output) == {
        "b: late": "b: late: the last backup is 30 hours old",
        "b: 0 of 0 queues stand": "b: 3 of 4 queues stand",
        "b: [0mred": "b: [1mred",
    }
    many = program.said_lines("b", "".join(f"queue{letter}\n" for letter in "abcdefghijklmnopqrstuvwxyz"))
    assert len(many) == 21 and many["b: more"] == "b: 6 more lines"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("true", {}),
        ("echo one; echo why >&2; exit 3", {"x: one": "x: one", "x exit": "x: ended with 3: why"}),
        ("exit 4", {"x exit": "x: ended with 4: no message"}),
        # what it started holds its output
        ("sleep 300 & sleep 300", {"x timeout": "x: no answer within 1 s"}),
    ],
)
def test_a_command_says_what_is_wrong(command: str, says: dict[str, str]) -> None:
    assert program.look_by_command({"name": "x", "command": command, "timeout": 1}) == says


def test_a_look_that_fails_is_wrong_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = SETTINGS | {"mounts": ["/nowhere"], "lines": [{"name": "x", "command": "echo one", "timeout": 9}]}
    found = program.look(settings, program.Memory((tmp_path,)).state, NOW)
    assert found["look failed units"].startswith("Cannot look for failed units: ")
    assert "/nowhere" in found["look disks"] and found["x: one"] == "x: one"


class Receiver(BaseHTTPRequestHandler):
    code = 200
    got: ClassVar[list[tuple[Message, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.headers, json.loads(body)))
        self.send_response(self.code)
        if self.code == 301:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"heard " + self.path.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Receiver, "got", [])
    monkeypatch.setattr(Receiver, "code", 200)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/very-secret"
        server.shutdown()
        thread.join()


def test_what_is_not_delivered_is_sent_again_to_that_receiver_alone(
    receiver: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mails: list[str] = []
    monkeypatch.setitem(program.CHANNELS, "mail", lambda settings, title, message: mails.append(title) or "taken")
    monkeypatch.setattr(program, "look", lambda settings, state, now: dict(causes))
    settings = SETTINGS | {"webhook": receiver, "mail": "a@example.org", "smtp": {"host": "x"}}
    causes, codes = dict(BAD), []
    for minute, code in enumerate((503, 301, 200, 200)):
        monkeypatch.setattr(Receiver, "code", code)
        # a new process, which reads what the last one wrote
        codes.append(program.run(settings, program.Memory((tmp_path,)), NOW + minute * MINUTE))
    assert codes == [1, 1, 0, 0] and len(Receiver.got) == 3 and mails == ["dev: 1 problem"]
    assert Receiver.got[2][1] == {"text": "dev: 1 problem\na failed"}
    causes.clear()
    assert program.run(settings, program.Memory((tmp_path,)), NOW + 10 * MINUTE) == 0
    assert Receiver.got[3][1] == {"text": "dev: all is well again\nWell again: a failed"} and len(mails) == 2
    said = capsys.readouterr().out
    assert "secret" not in said and "503" in said and "write the address that it leads to" in said


def test_nothing_is_sent_that_could_not_be_remembered(
    receiver: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "look", lambda *_: dict(BAD))
    with pytest.raises(OSError):
        program.run(SETTINGS | {"webhook": receiver}, program.Memory((tmp_path / "gone", tmp_path / "too")), NOW)
    assert Receiver.got == []
    # a full disk leaves the second folder
    memory = program.Memory((tmp_path / "gone", tmp_path))
    assert program.run(SETTINGS | {"webhook": receiver}, memory, NOW) == 0
    assert program.run(SETTINGS | {"webhook": receiver}, program.Memory((tmp_path / "gone", tmp_path)), NOW) == 0
    assert len(Receiver.got) == 1


def test_a_damaged_state_is_left_out(tmp_path: pathlib.Path) -> None:
    for text in ("", "[1", "5"):
        (tmp_path / "state.json").write_text(text)
        assert program.Memory((tmp_path,)).state == {"samples": {}, "reboot": None, "told": {}}


def test_a_test_says_what_the_receiver_answered(
    receiver: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"webhook": receiver, "webhook_headers": {"Authorization": "Bearer abc"}}
    assert program.test(settings) == 0
    assert capsys.readouterr().out == "webhook: delivered: 200 OK heard /hooks/…\n"
    assert Receiver.got[0][0]["Authorization"] == "Bearer abc"
    for code, mend in (
        (403, "mend the secret"),
        (404, "does not know this address"),
        (422, "webhook_body"),
        (502, "later"),
    ):
        monkeypatch.setattr(Receiver, "code", code)
        assert program.test(settings) == 1
        said = capsys.readouterr().out
        assert f"NOT DELIVERED: the answer is {code}" in said and mend in said and "secret/" not in said


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"webhook": "http://127.0.0.1:1/very-secret"}, "nothing answers there"),
        ({"webhook": "http://nowhere.invalid/very-secret"}, "cannot resolve it"),
        ({"mail": "a@example.org", "smtp": {"host": "127.0.0.1", "port": "1"}}, "nothing answers there"),
    ],
)
def test_what_is_unreachable_says_what_to_mend(
    settings: dict[str, Any], mend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert program.test(SETTINGS | settings) == 1
    said = capsys.readouterr().out
    assert mend in said and "very-secret" not in said
