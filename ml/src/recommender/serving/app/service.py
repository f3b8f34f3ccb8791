"""The service of an environment: which version it serves, and who has a key."""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recommender.errors import InputError, RecommenderError
from recommender.serving.app import bundle, clients, ring, system, trial
from recommender.serving.app.processes import Processes

ETC, VAR = Path("/etc/model-server"), Path("/var/lib/model-server")
# Bundles that stay on the disk besides the one that is served and the one before it.
_KEPT = 2
# Seconds for a trial.
_TRIAL = 120
# A model is data, and what reads it for the first time gets no account, rights, network or time all the same.
# The processes that answer go first.
_CONFINED = (
    "systemd-run --quiet --pipe --wait --collect --service-type=exec -p DynamicUser=yes "
    "-p PrivateNetwork=yes -p PrivateDevices=yes -p ProtectSystem=strict -p ProtectHome=yes "
    "-p ProtectProc=invisible -p CapabilityBoundingSet= -p RestrictAddressFamilies=AF_UNIX "
    "-p SystemCallFilter=@system-service -p SystemCallFilter=~@network-io "
    "-p SystemCallErrorNumber=EPERM -p Nice=10 "
    f"-p MemorySwapMax=0 -p TasksMax=64 -p RuntimeMaxSec={_TRIAL} --setenv=OPENBLAS_NUM_THREADS=1 "
    "--setenv=PYTHONDONTWRITEBYTECODE=1"
).split()


def prove(folder: Path) -> dict[str, Any]:
    """Try a copy of a bundle, wherever it is, as a version is tried; nothing is switched or kept.

    Raises InputError if the folder is not named as a bundle, and RecommenderError if it is not whole, or
    answers otherwise than its training did.
    """
    folder = folder.resolve()
    if not (folder.is_dir() and re.fullmatch(r"[0-9a-f]{16}", folder.name)):
        raise InputError(
            f"{folder}: not a folder with the name of a bundle, as those in {VAR}/prod/bundles have."
        )
    inside = f"/tmp/{folder.name}"
    findings = _confined([f"--property=BindReadOnlyPaths={folder}:{inside}"], ["prove", inside], [])
    if refused := findings.pop("refused"):
        raise RecommenderError(refused.replace(inside, str(folder)))
    return {**system.content(folder / bundle.ABOUT)["labels"], **findings}


def _confined(options: list[str], words: list[str], requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the findings of recommender.serving.app.trial in a unit without rights."""
    command = [
        *_CONFINED, *options, f"--setenv=PYTHONPATH={os.environ['PYTHONPATH']}",
        sys.executable, "-sP", "-m", trial.__name__, *words,
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, input=json.dumps(requests), check=False)
    try:
        findings: dict[str, Any] = json.loads(done.stdout)
        if re.fullmatch(r"[0-9a-f]{16}", str(findings.get("bundle", "0" * 16))) and "refused" in findings:
            return findings
    except ValueError:
        pass
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    why = f"the process that tries it ended with {done.returncode}: {last}"
    if time.monotonic() - began >= _TRIAL:
        why = f"it was not tried within {_TRIAL} s"
    return {"refused": why, "unsure": True}


class Service:
    """The service of an environment on this host. Raises InputError if it has none."""

    def __init__(self, environment: str) -> None:
        self.environment = environment
        try:
            self.settings = json.loads((ETC / environment / "settings.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{environment} is not served on this host. "
                "Add it to serving_environments, then run site.yml --tags serving."
            ) from None
        self.folder = VAR / environment
        self.bundles = self.folder / "bundles"
        self.processes = Processes(environment, self.settings["workers"])
        # Exists during a switch. One that was killed leaves it, and the watch repeats the switch.
        self.mark = self.folder / "switching"

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of changes to processes and keys."""
        return system.alone(self.folder / "lock")

    # The version

    def current(self) -> str | None:
        """The bundle that a start serves."""
        link = self.bundles / "current"
        return link.readlink().name if link.is_symlink() else None

    def accept(self, model: Path, golden: Path, labels: str) -> dict[str, Any]:
        """Lay out a model as a bundle and try it, in a unit without rights; return the findings.

        `refused` says why it must not be served. With `unsure` it was not tried to the end: try it again.
        """
        work = Path(tempfile.mkdtemp(prefix=".part-", dir=self.bundles))
        try:
            # The unit's account has no name before it runs; the folder above keeps all others out.
            work.chmod(0o777)
            findings = self._tried(model, golden, labels, work)
            if not findings["refused"]:
                bundle.adopt(work / findings["bundle"], self.bundles)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if not findings.get("unsure"):
            refused = {**json.loads(labels), **findings} if findings["refused"] else {}
            # The watch does not try it again.
            system.write(self.folder / "refused.json", refused)
        return findings

    def _tried(self, model: Path, golden: Path, labels: str, work: Path) -> dict[str, Any]:
        inside = {model: "/tmp/model", golden: "/tmp/golden.json"}
        more, before = [], self.current()
        if before and (self.bundles / before).is_dir():
            inside[self.bundles / before] = f"/tmp/{before}"
            more = ["--before", f"/tmp/{before}"]
        options = [
            f"--property=BindPaths={work}:/tmp/out",
            *(f"--property=BindReadOnlyPaths={path}:{place}" for path, place in inside.items()),
            f"--property=LimitDATA={self.settings['memory']}",
            f"--property=MemoryMax={self.settings['memory']}",
        ]
        words = ["accept", "/tmp/model", "/tmp/golden.json", "--labels", labels, "--place", "/tmp/out", *more]
        kept = [request for path in (self.folder / "state").glob("*.ring") for request in ring.kept(path)]
        return _confined(options, words, kept)

    def switch(self, name: str) -> None:
        """Make every process serve a bundle, then every start; all as before if one process cannot.

        Raises RecommenderError.
        """
        with self.alone():
            numbers, before = self.processes.running(), self.current()
            stopped = {"failed", "activating"} & {*self.processes.states().values()}
            if not numbers and not stopped:
                units = f"model-server-{self.environment}@*"
                raise RecommenderError(f"No process of {self.environment} runs: systemctl status '{units}'")
            self.mark.touch()
            try:
                self._serve(name, numbers)
            except BaseException as error:
                self._back(before)
                self.mark.unlink(missing_ok=True)
                if isinstance(error, (RecommenderError, OSError)):
                    raise RecommenderError(f"{error}. The version before is served.") from error
                raise
            self.mark.unlink()
            with contextlib.suppress(OSError, RecommenderError):
                self._tidy()

    def _serve(self, name: str, numbers: list[int]) -> None:
        for number in numbers:
            self.processes.ask(number, "switch", name)
        system.link(self.bundles / "current", name)
        if not numbers:
            # Those that could not start with what was there.
            system.systemctl("reset-failed", [*map(self.processes.unit, self.processes.wanted)])
            self.processes.start(self.processes.wanted)
        # One that started meanwhile may have read the link before.
        for number in self.processes.running():
            if self.processes.ask(number, "status")["served"] != name:
                self.processes.ask(number, "switch", name)

    def _back(self, before: str | None) -> None:
        """Serve what was served before, in the process that was asked last too."""
        if before is None:
            self._drop()
            return
        system.link(self.bundles / "current", before)
        for number in self.processes.running(wait=False):
            with contextlib.suppress(RecommenderError):
                self.processes.ask(number, "switch", before)

    def renew(self) -> None:
        """Restart all processes without losing a request. Raises RecommenderError."""
        with self.alone():
            self.processes.renew()

    def drop(self) -> None:
        """Serve nothing: what was served first is no champion after all."""
        with self.alone():
            self._drop()

    def _drop(self) -> None:
        (self.bundles / "current").unlink(missing_ok=True)
        for number in self.processes.running(wait=False):
            with contextlib.suppress(RecommenderError):
                self.processes.ask(number, "drop")

    def _tidy(self) -> None:
        """Remove the oldest bundles, and what a killed trial left an hour ago."""
        used = {self.current()}
        for number in self.processes.running():
            used |= {*map(self.processes.ask(number, "status").get, ("served", "previous"))}
        there = [each for each in self.bundles.iterdir() if each.is_dir() and not each.is_symlink()]
        parts = [each for each in there if each.name.startswith(".part-")]
        others = sorted({*there} - {*parts}, key=lambda each: each.stat().st_mtime)
        for each in [each for each in others if each.name not in used][:-_KEPT]:
            # Cut off half-way, it is not taken for a bundle.
            parts.append(each.rename(each.with_name(f".part-{each.name}")))
            os.utime(parts[-1], (0, 0))
        for each in parts:
            if each.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(each)

    def status(self) -> dict[str, Any]:
        """Return the served version, the refused one, and each process with its counts."""
        processes: dict[int, dict[str, Any]] = {}
        for number in self.processes.running(wait=False):
            try:
                processes[number] = self.processes.ask(number, "status")
            except RecommenderError as error:
                processes[number] = {"error": str(error)}
        name = self.current()
        about = system.content(self.bundles / name / bundle.ABOUT).get("labels") if name else None
        return {
            "served": {**about, "bundle": name} if about else None,
            "damaged": name if name and not about else None,
            "switching": self.mark.exists(),
            "refused": system.content(self.folder / "refused.json") or None,
            "wanted": len(self.processes.wanted),
            "processes": processes,
        }

    def faults(self) -> list[str]:
        """Return what is wrong with what is served, a line each. No version yet is not a fault."""
        status, found = self.status(), []
        if status["damaged"]:
            found.append(f"damaged: {status['damaged']}: promote or roll back, which serves a version again")
        if refused := status["refused"]:
            found.append(f"refused: version {refused['version']}: {refused['refused']}")
        answers = [each for each in status["processes"].values() if "error" not in each]
        about = status["served"]
        agree = not about or status["switching"] or all(each["served"] == about["bundle"] for each in answers)
        if len(answers) < status["wanted"] or not agree:
            which = "" if agree else ", and not all with the served version"
            found.append(
                f"processes: {len(answers)} of {status['wanted']} answer{which}: "
                f"journalctl -u 'model-server-{self.environment}@*'"
            )
        return found

    # The keys

    def keys(self) -> dict[str, dict[str, str]]:
        """SHA-256 of each key, by client and by the key's id."""
        return system.content(self._keys)

    @property
    def _keys(self) -> Path:
        return ETC / self.environment / clients.KEYS

    def add_key(self, client: str) -> dict[str, str]:
        """Make a further key for a client and return it with its id; only its digest is kept.

        Raises InputError.
        """
        listed = json.loads((ETC / self.environment / clients.CLIENTS).read_text(encoding="utf-8"))["clients"]
        if client not in listed:
            there = ", ".join(listed) or "none"
            raise InputError(
                f"serving_clients has no {client}; it has: {there}. Add it, then site.yml --tags serving."
            )
        key, ident = secrets.token_urlsafe(32), secrets.token_hex(4)
        with self.alone():
            found = self.keys()
            found.setdefault(client, {})[ident] = clients.digest(key)
            self._write_keys(found)
        return {"key": key, "id": ident}

    def remove_key(self, wanted: str) -> None:
        """Remove a key by its id. Raises InputError."""
        with self.alone():
            found = self.keys()
            if not any(wanted in of for of in found.values()):
                raise InputError(f"There is no key {wanted}. See: model-server keys {self.environment}")
            self._write_keys(
                {client: {i: d for i, d in of.items() if i != wanted} for client, of in found.items()}
            )

    def _write_keys(self, content: dict[str, dict[str, str]]) -> None:
        """Store the keys. A process that does not answer is restarted, and reads them then."""
        system.write(self._keys, content, group=self._keys.parent.stat().st_gid)
        for number in self.processes.running():
            try:
                self.processes.ask(number, "clients")
            except RecommenderError:
                system.systemctl("restart", [self.processes.unit(number)])
