"""The processes of an environment's service: units, control sockets, restarts."""

import json
import re
import socket
import stat
import time
from pathlib import Path
from typing import Any

from recommender.errors import RecommenderError
from recommender.serving.app import system

RUN = Path("/run")
# Seconds for the answer of a process, and for a start.
_ANSWER, _START = 60, 120
# Bytes of an answer.
_LARGEST = 2**16


class Processes:
    """The units model-server-ENVIRONMENT@N.service; `wanted` of them serve, numbered from 1."""

    def __init__(self, environment: str, wanted: int) -> None:
        self.environment = environment
        self.wanted = [*range(1, wanted + 1)]

    def unit(self, number: int) -> str:
        """The unit of a process."""
        return f"model-server-{self.environment}@{number}.service"

    def states(self) -> dict[int, str]:
        """Return systemd's state of each process that is loaded: active, activating, failed, inactive."""
        pattern = f"model-server-{self.environment}@*.service"
        found = system.output("systemctl", "list-units", "--plain", "--no-legend", "--all", pattern)
        return {int(m[1]): m[2] for m in re.finditer(r"@([0-9]+)\.service +\S+ +(\S+)", found)}

    def running(self, wait: bool = True) -> list[int]:
        """Numbers of the processes that run; with `wait`, those that start or end are waited for."""
        end = time.monotonic() + _START
        while wait and {"activating", "deactivating"} & {*self.states().values()} and time.monotonic() < end:
            time.sleep(0.1)
        return sorted(number for number, state in self.states().items() if state in ("active", "reloading"))

    def ask(self, number: int, *words: str) -> dict[str, Any]:
        """Send a line to a process and return its answer. Raises RecommenderError."""
        path = RUN / f"model-server-{self.environment}-{number}" / "control"
        try:
            # The folder belongs to the process: a link in it could lead anywhere.
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise OSError(f"{path} is not a socket")
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(_ANSWER)
                line.connect(str(path))
                line.sendall(" ".join(words).encode() + b"\n")
                reply: dict[str, Any] = json.loads(line.makefile().readline(_LARGEST))
        except (OSError, ValueError, RecursionError) as error:
            raise RecommenderError(
                f"{self.unit(number)} does not answer ({error}). See: journalctl -u {self.unit(number)}"
            ) from error
        if problem := reply.get("error"):
            raise RecommenderError(f"{self.unit(number)}: {problem}")
        return reply

    def start(self, numbers: list[int]) -> None:
        """Start processes; if one fails, stop all of these. Raises RecommenderError."""
        units = [*map(self.unit, numbers)]
        try:
            system.systemctl("start", units)
        except RecommenderError as error:
            system.systemctl("stop", units)
            raise RecommenderError(f"{error} See: journalctl -u {units[0]}") from error

    def stop(self, numbers: list[int]) -> None:
        """Stop processes, and take what they had in flight out of the shared counts."""
        system.systemctl("stop", [*map(self.unit, numbers)])
        for number in numbers:
            for path in (RUN / f"model-server-{self.environment}-metrics").glob(f"gauge_live*_{number}.db"):
                path.unlink(missing_ok=True)

    def renew(self) -> None:
        """Restart all processes without losing a request: new ones answer before the old ones end.

        Raises RecommenderError, and leaves the old ones, if a new one does not start.
        """
        beside = [number + max([*self.wanted, *self.running()]) for number in self.wanted]
        self.start(beside)
        try:
            # Those of a server that had more are not started again.
            self.stop([number for number in self.running() if number not in beside])
            self.start(self.wanted)
        finally:
            if {*self.wanted} <= {*self.running()}:
                self.stop(beside)
