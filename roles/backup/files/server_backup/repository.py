"""Calls of restic. Releases 0.14 (Debian 12) to 0.18 (Debian 13) are known."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

from .settings import ETC, VAR, Refused, Settings

OURS = "server-backup"
LEAST = 32 << 20
# seconds for what has little to read: restic tries again for 15 minutes, also with a wrong key of a store
QUICK = {"cat": 120, "unlock": 120, "snapshots": 900, "stats": 900}
# what restic says, and what the operator reads
KNOWN = (
    (
        r"wrong password or no key found",
        "The key of this server does not open the repository {repository}. The one that it was made with is on the"
        " control machine that set up the server: make backup-key there, and put it into backup_key in your vault.",
    ),
    (
        r"(?i)signature we calculated does not match|invalidaccesskeyid|access key id you provided",
        "{repository} does not take the keys of backup_environment. Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        " there, then run site.yml --tags backup.",
    ),
    (
        r"(?i)no space left on device|disk quota exceeded",
        "There is no space left, here or where the copies are ({repository}). Make room; the next run continues.",
    ),
    (
        r"(?i)is there a repository at the following location|repository does not exist",
        "There is no repository at {repository}. Is its disk mounted? If the copies are lost, begin again:"
        " sudo server-backup prove --again",
    ),
    (
        r"(?i)repository is already locked|unable to create lock",
        "Another program has locked the repository {repository}. A lock of a dead one expires within 30 minutes.",
    ),
    (
        r"(?i)permission denied \(|host key verification failed|connection (?:refused|timed out|reset)|no route to host"
        r"|could not resolve|no such host|broken pipe|unable to open repository at rclone|network is unreachable"
        r"|connection already closed",
        "No connection to {repository}.",
    ),
    (
        r"(?i)\b403\b|blob not removed, server response|access denied",
        "The place of the copies ({repository}) does not allow that: it can only be appended to, or a login is wrong.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    id: str
    time: float
    server: str

    @property
    def short(self) -> str:
        return self.id[:8]


class Repository:
    """The copies of one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        options = [word for option in settings.options for word in ("-o", option)]
        self.command = ["restic", *options]
        self.environment = os.environ | {
            # an address may hold a login, and everybody reads command lines
            "RESTIC_REPOSITORY": settings.repository,
            "RESTIC_PASSWORD_FILE": str(ETC / "key"), "RESTIC_CACHE_DIR": str(VAR / "cache"), "HOME": str(VAR),
            # restic would take all cores that serving needs
            "GOMAXPROCS": "1", "LC_ALL": "C.UTF-8", **settings.environment,
        }  # fmt: skip

    def call(self, *words: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """What restic answers.

        Raises:
            Refused: it ends with another code than those that are accepted, or a short question has no answer.
        """
        free = shutil.disk_usage(VAR).free
        # with a full cache restic can wait for ever
        if free < LEAST:
            raise Refused(f"There is no space left on the disk of {VAR}: {free >> 20} MiB are free. Make room.")
        try:
            done = subprocess.run(
                [*self.command, *words], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=QUICK.get(words[0]),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = b"".join(part for part in (error.stderr, error.stdout) if part).decode(errors="replace")
            raise Refused(
                f"{self.settings.place} had no answer in {error.timeout:.0f} s. {self.explain(words[0], said)}"
            ) from None
        if done.returncode not in accept:
            raise Refused(self.explain(words[0], done.stderr + done.stdout))
        return done

    def explain(self, verb: str, said: str) -> str:
        lines = [line for line in said.strip().splitlines() if line.strip() and not line.startswith("{")] or [
            line for line in said.strip().splitlines() if line.strip()
        ]
        detail = f"restic {verb}: {' '.join(lines[-3:])[-600:]}"
        for pattern, words in KNOWN:
            if re.search(pattern, said):
                return f"{words.format(repository=self.settings.place)} ({detail})"
        return detail

    def is_there(self) -> bool:
        done = self.call("cat", "config", "--no-lock", accept=(0, 1, 10))
        missing = r"(?i)is there a repository|does not exist|no such file|not found|404|specified key does not exist"
        if done.returncode and not re.search(missing, done.stderr):
            raise Refused(self.explain("cat", done.stderr))
        return done.returncode == 0

    def snapshots(self) -> list[Snapshot]:
        """This server's copies, the oldest first."""
        listed = self.call("snapshots", "--json", "--no-lock", "--host", self.settings.name, "--tag", OURS)
        found = []
        for entry in json.loads(listed.stdout or "[]") or []:
            # nanoseconds, which Python does not read
            stamp = re.sub(r"(\.\d{6})\d+", r"\1", entry["time"])
            server = next((tag[3:] for tag in entry.get("tags", []) if tag.startswith("id=")), "")
            found.append(Snapshot(entry["id"], datetime.datetime.fromisoformat(stamp).timestamp(), server))
        return sorted(found, key=lambda snapshot: snapshot.time)

    def backup(self, paths: list[str], exclude: list[str], *tags: str, largest: int = 0) -> dict[str, Any]:
        """Makes a copy; restic's summary, with `vanished`, the files that went while it read.

        Args:
            largest: bytes of the largest file that is copied; 0 for any.

        Raises:
            Refused: also if some files could not be read, which the copy then lacks.
        """
        marks = [word for tag in tags for word in ("--tag", tag)]
        left_out = [word for pattern in exclude for word in ("--exclude", pattern)]
        left_out += ["--exclude-larger-than", str(largest)] if largest else []
        done = self.call(
            "backup", "--json", "--host", self.settings.name, *marks, *left_out, "--", *paths,
            accept=(0, 3),
        )  # fmt: skip
        lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
        errors = [json.dumps(line) for line in lines if line.get("message_type") == "error"]
        unread = [error for error in errors if not re.search(r'no such file or directory|"Err": 2\b', error)]
        if unread:
            raise Refused(f"{len(unread)} files could not be read, and the copy lacks them: {unread[0][:300]}")
        [summary] = [line for line in lines if line.get("message_type") == "summary"]
        return {**summary, "vanished": len(errors)}

    def restore(self, snapshot: Snapshot | str, target: pathlib.Path, paths: list[str]) -> None:
        name = snapshot if isinstance(snapshot, str) else snapshot.id
        only = [word for path in paths for word in ("--include", re.sub(r"([*?\[\\])", r"\\\1", path))]
        self.call("restore", name, "--no-lock", "--target", str(target), *only)

    def size(self, snapshot: Snapshot, paths: list[str]) -> int:
        """Bytes of its files, or of those below some paths."""
        if paths:
            lines = self.call("ls", snapshot.id, "--json", "--no-lock", "--recursive", *paths).stdout.splitlines()
            return sum(int(json.loads(line).get("size", 0)) for line in lines)
        answer = self.call("stats", snapshot.id, "--json", "--no-lock", "--mode", "restore-size")
        return int(json.loads(answer.stdout)["total_size"])
