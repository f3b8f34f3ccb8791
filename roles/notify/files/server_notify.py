#!/usr/bin/python3
"""Tells somebody what is wrong on this server, and when it is well again. It needs root.

usage: server-notify run     look, and send what is new (server-notify.timer does this)
       server-notify show    print what is wrong now, and send nothing
       server-notify test    send a test message by each channel
"""

import contextlib
import email.message
import email.utils
import http.client
import json
import os
import pathlib
import re
import shlex
import signal
import smtplib
import socket
import ssl
import stat
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

SETTINGS = pathlib.Path("/etc/server-notify/settings.json")
# The second is in memory, for a disk that is full.
FOLDERS = (pathlib.Path("/var/lib/server-notify"), pathlib.Path("/run/server-notify"))
OWN_UNIT = "server-notify.service"
REBOOT = pathlib.Path("/run/reboot-required")

HOUR, DAY = 3600.0, 86400.0
# Samples of a disk: how far apart, how long they are kept, and how much time an estimate needs.
SAMPLE_EVERY, SAMPLES_KEPT, ESTIMATE_NEEDS = 0.9 * HOUR, 3 * DAY, 6 * HOUR
# Longest line and most lines of a message: some receivers refuse 2,000 characters.
LINE, LINES, TEXT = 300, 20, 1800
# Most causes of a command.
MOST = 20
# Seconds for a receiver's answer.
ANSWER = 20
LARGEST_CERTIFICATE = 2**20
PORTS = {"starttls": 587, "tls": 465, "none": 25}

# Text of each cause, by what it is recognized by.
Causes = dict[str, str]
# What a receiver was told of each cause.
Told = dict[str, dict[str, Any]]


class Undelivered(Exception):
    """Why a message did not arrive, and what mends it."""


# What is told


def clean(text: str) -> str:
    """One line of printable signs."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return text if len(text) <= LINE else text[: LINE - 1] + "…"


def same(text: str) -> str:
    """The text without its figures, which may move."""
    return re.sub(r"\d+(?:[.,:]\d+)*", "0", text)


def plan(told: Told, causes: Causes, now: float) -> tuple[list[str], list[str], Told]:
    """Return what to say is wrong, what to say is well again, and what the receiver knows afterwards.

    Each cause is told at once when it appears or changes, and when it ends. While it comes and goes, or keeps changing,
    an hour lies between two messages.
    """
    wrong: list[str] = []
    well: list[str] = []
    after: Told = {}
    for key in sorted({*told, *causes}):
        entry: dict[str, Any] = {"mark": "", "text": "", "at": 0.0, "seen": now, "here": True, "returns": 0} | told.get(
            key, {}
        )
        text = causes.get(key, "")
        mark = same(text)
        entry["returns"] += bool(text) and not entry["here"]
        # a clock that was set back ends the wait
        waits = 0 <= now - entry["at"] < HOUR
        if not mark and not entry["mark"] and not waits and not 0 <= now - entry["seen"] < HOUR:
            continue
        if mark != entry["mark"] and (not waits or not (text or entry["returns"])):
            times = "once" if entry["returns"] == 1 else f"{entry['returns']} times"
            again = f" (it came back {times})" if entry["returns"] else ""
            (wrong if text else well).append((text or entry["text"]) + again)
            entry |= {"mark": mark, "at": now, "text": text or entry["text"]}
        entry |= {"here": bool(text), "seen": now if text else entry["seen"]}
        after[key] = entry
    return wrong, well, after


def words(host: str, wrong: list[str], well: list[str], still: int) -> tuple[str, str]:
    """Title and lines of a message; `still` counts what is wrong after it."""
    if wrong:
        title = f"{host}: {len(wrong)} problem{'s' if len(wrong) > 1 else ''}"
    elif still:
        title = f"{host}: {len(well)} well again, {still} still wrong"
    else:
        title = f"{host}: all is well again"
    lines, left = [], TEXT
    everything = [*wrong, *(f"Well again: {text}" for text in well)]
    for text in everything[:LINES]:
        if len(text) > left:
            break
        lines.append(text)
        left -= len(text)
    if len(lines) < len(everything):
        lines.append(f"… and {len(everything) - len(lines)} more: sudo server-notify show")
    return title, "\n".join(lines)


def fill(template: Any, values: dict[str, str]) -> Any:
    """The template with {title}, {message}, {host} and {text} replaced in each of its strings."""
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    if isinstance(template, str):
        # in one go: a value is not searched again
        return re.sub(f"{{({'|'.join(values)})}}", lambda found: values[found[1]], template)
    return template


# What is wrong


def failed_units(listed: str) -> Causes:
    """Causes of what `systemctl list-units --failed` prints."""
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return {
        f"unit {name}": f"{name} failed. Why: sudo journalctl -u {shlex.quote(name)}"
        for name in names
        if name != OWN_UNIT
    }


def disks(mountinfo: str) -> list[str]:
    """Mount points of the writable disks, one for each."""
    found: dict[str, str] = {}
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        fields, (kind, source, options) = before.split(), behind.split()[:3]
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if (point == "/" or source.startswith("/dev/") or kind == "zfs") and "rw" in options.split(","):
            found[fields[2]] = min(found.get(fields[2], point), point, key=len)
    return sorted(found.values())


def keep(samples: list[list[float]], now: float, free: float) -> list[list[float]]:
    """The samples of the last days; about one an hour is added."""
    samples = [sample for sample in samples if 0 <= now - sample[0] <= SAMPLES_KEPT]
    return samples if samples and now - samples[-1][0] < SAMPLE_EVERY else [*samples, [now, free]]


def seconds_left(samples: list[list[float]], now: float, free: float) -> float | None:
    """Seconds until nothing is free, by the median of the slopes between samples; None if it does not fill up.

    The median does not follow one large file that comes or goes.
    """
    line = [sample for sample in samples if sample[0] < now] + [[now, free]]
    if now - line[0][0] < ESTIMATE_NEEDS:
        return None
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(line) for b in line[i + 1 :])
    return free / -slope if slope < 0 else None


def disk(point: str, what: str, used: float, free: float, left: float | None, settings: dict[str, Any]) -> Causes:
    """The cause that a disk's bytes or inodes are, if any."""
    share = 100 * used / (used + free)
    rest = f"{free / 1e9:.1f} GB left" if what == "bytes" else f"{free:.0f} inodes left, one is needed for each file"
    if share >= settings["disk_percent"]:
        return {f"disk {point} {what}": f"The disk at {point} is {share:.0f} % full ({rest})."}
    if left is not None and left <= settings["disk_days"] * DAY:
        return {
            f"disk {point} {what}": f"The disk at {point} will be full within {settings['disk_days']} days at this rate"
            f" ({share:.0f} % now, {rest})."
        }
    return {}


def look_at_disks(settings: dict[str, Any], state: dict[str, Any], now: float) -> Causes:
    found: Causes = {}
    before, state["samples"] = state["samples"], {}
    points = settings["mounts"] or filter(os.path.isdir, disks(pathlib.Path("/proc/self/mountinfo").read_text()))
    for point in points:
        stats = os.statvfs(point)
        for what, used, free in (
            ("bytes", (stats.f_blocks - stats.f_bfree) * stats.f_frsize, stats.f_bavail * stats.f_frsize),
            ("inodes", stats.f_files - stats.f_ffree, stats.f_favail),
        ):
            # btrfs does not count inodes
            if used + free > 0:
                samples = keep(before.get(f"{point} {what}", []), now, free)
                state["samples"][f"{point} {what}"] = samples
                found |= disk(point, what, used, free, seconds_left(samples, now, free), settings)
    return found


def certificate(path: str, dates: str, now: float, days: float) -> Causes:
    """The cause that a certificate is, by what `openssl x509 -dates` prints.

    One that lasts some days is renewed within its last: there a quarter of its time is near its end.
    """
    begin, end = (ssl.cert_time_to_seconds(date) for date in re.findall(r"not(?:Before|After)=(.*)", dates))
    if end - now > min(days * DAY, (end - begin) / 4):
        return {}
    day = time.strftime("%Y-%m-%d", time.gmtime(end))
    return {f"certificate {path}": f"The certificate {path} ends on {day} and was not renewed. Remove it if unused."}


def certificates(folders: list[str]) -> Iterator[tuple[str, bytes]]:
    """Each certificate below the folders; links are not followed, because their owner is not root."""
    for folder in folders:
        for place, _, names in os.walk(folder):
            for path in (os.path.join(place, name) for name in sorted(names) if name.endswith((".crt", ".pem"))):
                try:
                    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                except OSError:
                    continue
                with open(opened, "rb") as file:
                    is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                    text = file.read(LARGEST_CERTIFICATE) if is_file else b""
                if b"BEGIN CERTIFICATE" in text:
                    yield path, text


def look_at_certificates(settings: dict[str, Any], now: float) -> Causes:
    found: Causes = {}
    for path, text in certificates(settings["certificates"]):
        command = ["openssl", "x509", "-noout", "-dates"]
        said = subprocess.run(command, input=text, capture_output=True, timeout=30)
        if said.returncode:
            found[f"certificate {path}"] = f"The certificate {path} cannot be read."
        else:
            found |= certificate(path, said.stdout.decode(), now, settings["certificate_days"])
    return found


def reboot(since: float | None, written: float | None, now: float, days: float) -> tuple[float | None, Causes]:
    """Since when a reboot is due, and the cause that it is. Later updates write the mark again."""
    if written is None:
        return None, {}
    since = min(written, now if since is None else since)
    if now - since < days * DAY:
        return since, {}
    return since, {"reboot": f"A reboot has been due for {(now - since) / DAY:.0f} days ({REBOOT})."}


def said_lines(name: str, output: str) -> Causes:
    """Each line is a cause. A first word with a colon recognizes it, else the line without its figures."""
    found: Causes = {}
    for line in filter(None, map(clean, output.splitlines())):
        key = re.match(r"(\S{1,64}): \S", line)
        found.setdefault(f"{name}: {key[1] if key else same(line)}", f"{name}: {line}")
    if len(found) > MOST:
        rest = len(found) - MOST
        found = dict(list(found.items())[:MOST]) | {f"{name}: more": f"{name}: {rest} more lines"}
    return found


def look_by_command(line: dict[str, Any]) -> Causes:
    """Run a command as root and return its lines, and its failure, as causes."""
    name, seconds = line["name"], line["timeout"]
    process = subprocess.Popen(
        ["/bin/sh", "-c", line["command"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # those that it started too; what it has said is not waited for
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return {f"{name} timeout": f"{name}: no answer within {seconds:g} s"}
    found = said_lines(name, output)
    if process.returncode:
        why = clean(([line for line in errors.splitlines() if line.strip()] or ["no message"])[-1])
        found[f"{name} exit"] = f"{name}: ended with {process.returncode}: {why}"
    return found


def look(settings: dict[str, Any], state: dict[str, Any], now: float) -> Causes:
    """All that is wrong. A look that fails is wrong too. Samples of disks are added to the state."""

    def units() -> Causes:
        command = ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"]
        return failed_units(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)

    def due() -> Causes:
        written = REBOOT.stat().st_mtime if REBOOT.exists() else None
        state["reboot"], found = reboot(state["reboot"], written, now, settings["reboot_days"])
        return found

    looks = {
        "failed units": units,
        "disks": lambda: look_at_disks(settings, state, now),
        "certificates": lambda: look_at_certificates(settings, now),
        "a due reboot": due,
    } | {line["name"]: lambda line=line: look_by_command(line) for line in settings["lines"]}
    causes: Causes = {}
    for name, find in looks.items():
        try:
            causes |= find()
        except Exception as error:
            causes[f"look {name}"] = f"Cannot look for {name}: {error}"
    return {key: clean(text) for key, text in causes.items()}


# How it is told


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: followed, it would lose the message and count as delivered."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def by_webhook(settings: dict[str, Any], title: str, message: str) -> str:
    """Post a message and return what the receiver answered. Raises OSError or HTTPException."""
    values = {"title": title, "message": message, "host": settings["host"], "text": f"{title}\n{message}"}
    body = json.dumps(fill(settings["webhook_body"], values)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "server-notify"} | settings["webhook_headers"]
    request = urllib.request.Request(settings["webhook"], data=body, headers=headers)
    with urllib.request.build_opener(NoRedirect).open(request, timeout=ANSWER) as answer:
        return f"{answer.status} {answer.reason} {answer.read(200).decode(errors='replace')}"


def by_mail(settings: dict[str, Any], title: str, message: str) -> str:
    """Send a mail and return what the receiver answered. Raises OSError."""
    smtp = {"tls": "starttls", "user": "", "password": "", "from": settings["mail"]} | settings["smtp"]
    mail = email.message.EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = smtp["from"], settings["mail"], title
    sender = email.utils.parseaddr(smtp["from"])[1]
    mail["Date"], mail["Message-ID"] = email.utils.localtime(), email.utils.make_msgid(domain=sender.split("@")[-1])
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message + "\n")
    context = ssl.create_default_context()
    port = int(smtp.get("port") or PORTS[smtp["tls"]])
    with (
        smtplib.SMTP_SSL(smtp["host"], port, timeout=ANSWER, context=context)
        if smtp["tls"] == "tls"
        else smtplib.SMTP(smtp["host"], port, timeout=ANSWER)
    ) as connection:
        if smtp["tls"] == "starttls":
            connection.starttls(context=context)
        if smtp["user"]:
            connection.login(smtp["user"], smtp["password"])
        connection.send_message(mail)
    return f"{smtp['host']} took the mail for {settings['mail']}"


CHANNELS = {"webhook": by_webhook, "mail": by_mail}
BY_CODE = {
    301: "write the address that it leads to into notify_webhook",
    401: "mend the secret in notify_webhook or notify_webhook_headers",
    404: "mend notify_webhook: the receiver does not know this address",
    400: "mend notify_webhook_body: the receiver does not accept it",
    500: "the receiver has a problem of its own: try again later",
}
MENDS: list[tuple[type[BaseException], str]] = [
    (smtplib.SMTPAuthenticationError, "mend user and password in notify_smtp"),
    (smtplib.SMTPNotSupportedError, "set another tls in notify_smtp: starttls, tls or none"),
    (smtplib.SMTPRecipientsRefused, "mend notify_mail, or log in: user and password in notify_smtp"),
    (smtplib.SMTPSenderRefused, "mend from in notify_smtp"),
    (smtplib.SMTPResponseException, "do what the answer says"),
    (ssl.SSLCertVerificationError, "mend the host's name, or set site_ca_bundle to your company's certificates"),
    (ssl.SSLError, "port and tls do not fit together: 587 with starttls, 465 with tls, 25 with none"),
    (smtplib.SMTPServerDisconnected, "port and tls do not fit together: 587 with starttls, 465 with tls, 25 with none"),
    (socket.gaierror, "mend the host's name: the server cannot resolve it"),
    (TimeoutError, "mend host and port, or look what stops the connection: many vendors block port 25"),
    (ConnectionError, "mend host and port: nothing answers there"),
    (OSError, "mend host and port"),
]


def without_secrets(text: str, settings: dict[str, Any]) -> str:
    """One line, in which the webhook's address and what else is secret is dots."""
    url = urllib.parse.urlsplit(settings["webhook"])
    secrets = [settings["webhook"], url.query, *(part for part in url.path.split("/") if len(part) > 7)]
    secrets += [settings["smtp"].get("password"), *settings["webhook_headers"].values()]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return clean(text)


def explain(error: Exception) -> str:
    """What went wrong and what mends it."""
    if isinstance(error, urllib.error.HTTPError):
        code = {302: 301, 303: 301, 307: 301, 308: 301, 403: 401, 410: 404}.get(error.code, error.code)
        mend = BY_CODE.get(code) or BY_CODE[500 if code >= 500 or code == 429 else 400]
        body = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = error.read(200)
        return f"the answer is {error.code} {error.reason} {body.decode(errors='replace')[:100]}. To mend it: {mend}."
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    mend = next((words for kind, words in MENDS if isinstance(error, kind)), "mend the settings")
    return f"{type(error).__name__}: {str(error)[:150]}. To mend it: {mend}."


def deliver(channel: str, settings: dict[str, Any], title: str, message: str) -> str:
    """Send a message and return the receiver's answer. Raises Undelivered."""
    try:
        return without_secrets(CHANNELS[channel](settings, title, message), settings)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Undelivered(without_secrets(explain(error), settings)) from None


# The run


class Memory:
    """The state, in the first folder that can be written."""

    def __init__(self, folders: tuple[pathlib.Path, ...] = FOLDERS) -> None:
        self.folders = folders
        self.written = ""
        self.state: dict[str, Any] = {"samples": {}, "reboot": None, "told": {}}
        kept = {path.stat().st_mtime: path for folder in folders if (path := folder / "state.json").is_file()}
        for _, path in sorted(kept.items()):
            # one that a power cut damaged is left out
            with contextlib.suppress(ValueError, TypeError):
                self.state |= json.loads(path.read_text())

    def save(self) -> None:
        """Write the state if it has changed. Raises OSError."""
        text = json.dumps(self.state, sort_keys=True)
        if text == self.written:
            return
        for folder in self.folders:
            part = folder / "state.part"
            try:
                with part.open("w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(folder / "state.json")
            except OSError as error:
                failed = error
                continue
            self.written = text
            return
        raise failed


def run(settings: dict[str, Any], memory: Memory, now: float) -> int:
    """Look, and send what is new by each channel. What could not be delivered is new at the next run."""
    causes = look(settings, memory.state, now)
    channels = [name for name in CHANNELS if settings[name]]
    told = memory.state["told"] = {name: memory.state["told"].get(name, {}) for name in channels}
    # before anything is sent: what cannot be remembered would be sent at each run
    memory.save()
    os.environ.update(settings["environment"])
    failed = 0
    for channel in channels:
        wrong, well, after = plan(told[channel], causes, now)
        if wrong or well:
            still = sum(bool(entry["mark"]) for entry in after.values())
            title, message = words(settings["host"], wrong, well, still)
            try:
                deliver(channel, settings, title, message)
                print(f"{channel}: told: {title}")
            except Undelivered as error:
                print(f"{channel}: not delivered: {error}")
                failed = 1
                continue
        told[channel] = after
        memory.save()
    return failed


def test(settings: dict[str, Any]) -> int:
    """Send a test message by each channel, and print what the receivers say."""
    os.environ.update(settings["environment"])
    failed = 0
    for channel in (name for name in CHANNELS if settings[name]):
        message = "This is a test. Problems of this server will arrive here."
        try:
            print(f"{channel}: delivered: {deliver(channel, settings, settings['host'] + ': a test', message)}")
        except Undelivered as error:
            print(f"{channel}: NOT DELIVERED: {error}")
            failed = 1
    return failed


def main() -> int:
    if sys.argv[1:] not in (["run"], ["show"], ["test"]):
        sys.exit(__doc__)
    try:
        settings = json.loads(SETTINGS.read_text())
    except PermissionError:
        sys.exit(f"server-notify: {SETTINGS} is root's: sudo server-notify …")
    settings["host"] = settings["host"] or socket.gethostname()
    if sys.argv[1] == "test":
        return test(settings)
    memory = Memory()
    if sys.argv[1] == "run":
        return run(settings, memory, time.time())
    print("\n".join(look(settings, memory.state, time.time()).values()) or "All is well.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
