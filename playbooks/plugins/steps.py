"""Prints one line a step, and what failed at the end; all that Ansible's default callback prints goes to a log."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pathlib
import re
import shlex
import sys
import tempfile
import textwrap
import time
from typing import Any, NamedTuple

from ansible import constants, context
from ansible.playbook.block import Block
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.utils import display as ansible_display

DOCUMENTATION = """
name: steps
type: stdout
short_description: One line a step, failures last, the rest in a log
description:
  - A step is a file of a role's tasks, or a play's own tasks.
  - With C(-v) the screen shows all that the default callback prints.
  - The log is ANSIBLE_LOG_PATH where that is set, else a file in .cache/logs/ansible, else one in the temporary folder.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout_callback in ansible.cfg
"""
FOLDER = pathlib.Path(__file__).resolve().parents[2] / ".cache/logs/ansible"
KEPT = 50
# of what a program said when it failed: lines, and characters of each
LINES, LINE = 100, 2000


class Failure(NamedTuple):
    """What failed: label is the host, and where the task was delegated; a rescued one is none to tell of."""

    task: str
    text: str
    label: str
    host: str
    rescued: bool


class LogOnly(ansible_display.Display):  # type: ignore[misc]  # ansible-core is untyped
    """Ansible's display without the screen."""

    def display(self, *words: Any, **how: Any) -> None:
        super().display(*words, **how | {"log_only": True})


class CallbackModule(Default):  # type: ignore[misc]
    """The default callback, which talks to the log, and a few lines of our own for the screen."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "steps"
    _last_task_banner: Any

    def __init__(self) -> None:
        super().__init__()
        self.screen: Any = self._display
        self.brief = False
        self.log = ""
        self.incomplete = ""
        self.step = ""
        self.last_diff = None
        self.counts: dict[str, int] = {}
        self.begun = self.since = time.monotonic()
        self.failures: list[Failure] = []

    def open_log(self, name: str) -> str:
        """Path of a new log, which only its owner may read; empty where none can be made."""
        for folder in (FOLDER, pathlib.Path(tempfile.gettempdir())):
            try:
                if folder == FOLDER:
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    for old in sorted(folder.glob("[0-9]*-[0-9]*-*-*.log"))[:-KEPT]:
                        old.unlink(missing_ok=True)
                prefix = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-"
                handle, path = tempfile.mkstemp(".log", prefix, folder)
            except OSError:
                continue
            handler: Any = logging.StreamHandler(os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace"))
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            handler.handleError = self.lose_log
            ansible_display.logger = logging.getLogger("ansible")
            ansible_display.logger.setLevel(logging.INFO)
            ansible_display.logger.propagate = False
            ansible_display.logger.addHandler(handler)
            return path
        return ""

    def lose_log(self, record: logging.LogRecord) -> None:
        """A full disk must not print a traceback for each line."""
        self.incomplete = f" (incomplete: {sys.exc_info()[1]})"

    def tell(self, text: str, color: str | None = None) -> None:
        # the reader may have gone
        with contextlib.suppress(OSError):
            self.screen.display(printable(text), color=color, screen_only=True)
            # the heartbeat writes past this buffer
            sys.stdout.flush()

    def be_brief(self) -> None:
        """From here on the default callback, and everybody's warnings, reach the log alone."""
        self._display = object.__new__(LogOnly)
        self._display.__dict__.update(self.screen.__dict__)
        shown = self.screen.display
        noise = [constants.config.get_config_value(name) for name in ("COLOR_WARN", "COLOR_DEPRECATE")]

        def display(msg: str, color: str | None = None, stderr: bool = False, **how: Any) -> None:
            if stderr and color in noise:
                how["log_only"] = True
            shown(msg, color=color, stderr=stderr, **how)

        self.screen.display = display
        self.brief = True
        # an interrupted run has no recap
        atexit.register(self.tell_failures)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if not self.log:
            name = pathlib.Path(str(playbook._file_name)).stem
            path = (ansible_display.logger and constants.DEFAULT_LOG_PATH) or self.open_log(name)
            self.log = os.path.relpath(path) if path and path.startswith(os.getcwd()) else path
            self.tell(f"Log: {self.log}" if self.log else "There is no room for a log: all is shown here.")
            if self.log and self.screen.verbosity == 0:
                self.be_brief()
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.end_step()
        super().v2_playbook_on_play_start(play)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        super()._task_start(task, prefix)
        if not isinstance(task, TaskInclude) and (step := self.name_step(task)) != self.step:
            self.end_step()
            self.step = step

    def name_step(self, task: Any) -> str:
        """The role and the file of its tasks, whatever other roles these include; of a play's own tasks the play."""
        above = [task]
        while parent := above[-1]._parent:
            above.append(parent)
        inside = [it for it in reversed(above) if it._role and not isinstance(it, Block)]
        if not inside:
            return str(self._play.get_name())
        role = str(inside[0]._role.get_name())
        files = [
            pathlib.Path((it.get_path() or "").rpartition(":")[0]).stem for it in inside if it._role.get_name() == role
        ]
        file = next((file for file in files if file not in ("main", "")), "")
        return f"{role}: {file.replace('_', ' ')}" if file else role

    def end_step(self) -> None:
        """Tells of the step; one that had nothing to do has no line, and its time is the next one's."""
        if not self.brief or not any(self.counts.values()):
            return
        seconds = time.monotonic() - self.since
        took = f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
        state, color = "ok", constants.COLOR_OK
        if changed := self.counts.get("changed"):
            state = f"{changed} {'to change' if context.CLIARGS['check'] else 'changed'}"
            color = constants.COLOR_CHANGED
        if self.counts.get("failed"):
            state, color = "FAILED", constants.COLOR_ERROR
        self.tell(f"{self.step:<50} {state:<12} {took:>12}", color)
        self.counts, self.step, self.since = {}, "", time.monotonic()

    def count(self, result: Any, what: str) -> None:
        # a role's argument spec is nothing that a person waits for
        if what != "ok" or result.task.action != "ansible.builtin.validate_argument_spec":
            self.counts[what] = self.counts.get(what, 0) + 1

    def v2_runner_on_ok(self, result: Any) -> None:
        if not isinstance(result.task, TaskInclude):
            self.count(result, "changed" if result.result.get("changed") else "ok")
        if not (result.task.loop and "results" in result.result):
            self.show_message(result)
        super().v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self.show_message(result)
        super().v2_runner_item_on_ok(result)

    def show_message(self, result: Any) -> None:
        """What a playbook has to say is shown: the report, who can get in …"""
        if self.brief and result.task.action in constants._ACTION_DEBUG and "censored" not in result.result:
            loop = result.result.get("ansible_loop_var")
            values = {
                name: value
                for name, value in result.result.items()
                if name not in self._hide_in_debug and name[:8] != "_ansible"
            }
            if len(values) > 1:
                values.pop(loop, None)
            # a message, or a variable by its name
            message = values["msg"] if "msg" in values else next(iter(values.values())) if len(values) == 1 else values
            if isinstance(message, dict):
                message = textwrap.dedent(self._dump_results(message).strip("\n"))
            self.tell(f"{self.host_label(result)}: {result.task_name}", constants.COLOR_OK)
            self.tell(as_text(message))

    def _handle_warnings_and_exception(self, result: Any) -> None:
        # Ansible hides the result of a no_log task, and not its exception, which holds the message
        if "censored" in result.result:
            for key in ("exception", "warnings", "deprecations"):
                result.result.pop(key, None)
        super()._handle_warnings_and_exception(result)

    def v2_on_file_diff(self, result: Any) -> None:
        quiet, banner = self._display, self._last_task_banner
        if self.brief:
            self._display, self._last_task_banner = self.screen, self.last_diff
        if self.brief and result.result.get("changed"):
            self.tell(f"{self.host_label(result)}:")
        super().v2_on_file_diff(result)
        self.last_diff = self._last_task_banner
        self._display, self._last_task_banner = quiet, banner

    def v2_playbook_on_no_hosts_matched(self) -> None:
        super().v2_playbook_on_no_hosts_matched()
        if self.brief:
            self.tell(f"{self._play.get_name()}: no server is meant, nothing is done", constants.COLOR_SKIP)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        rescued = is_rescued(result.task)
        if not ignore_errors:
            self.add_failure(result, rescued)
        self.count(result, "ok" if ignore_errors or rescued else "failed")
        super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        ignored = result.task.ignore_unreachable
        if not ignored:
            self.add_failure(result, False)
        self.count(result, "ok" if ignored else "failed")
        super().v2_runner_on_unreachable(result)

    def add_failure(self, result: Any, rescued: bool) -> None:
        task = str(self._last_task_name or result.task.get_name().strip())
        label, host = self.host_label(result), result.host.get_name()
        self.failures.append(Failure(task, self.explain(result.result), label, host, rescued))

    def explain(self, result: dict[str, Any]) -> str:
        """The message and what the program said; of a loop those of the items that failed."""
        items = [item for item in result.get("results") or [] if isinstance(item, dict)]
        if failed := [item for item in items if item.get("failed") or item.get("unreachable")]:
            return "\n".join(f"{self._get_item_label(item)}: {self.explain(item)}" for item in failed)
        text = message = as_text(result.get("msg") or result.get("censored") or "").rstrip()
        if text == "Assertion failed":
            text += f": {as_text(result.get('assertion', ''))}"
        if result.get("rc") and "cmd" in result:
            command = result["cmd"] if isinstance(result["cmd"], str) else shlex.join(map(str, result["cmd"]))
            text = text.replace("non-zero return code", "") + f"\n{command.rstrip()}: ended with {result['rc']}"
        for key in ("stderr", "stdout", "module_stderr", "module_stdout", "content"):
            said = str(result.get(key) or "").rstrip()
            text += f"\n{self.shorten(said)}" if said and said not in message else ""
        return text.strip("\n") or self._dump_results(result).strip("\n")

    def shorten(self, said: str) -> str:
        """The end of what a program said; the log has it all."""
        lines = said.splitlines()
        if len(lines) > LINES:
            lines = [f"… {len(lines) - LINES} lines before these are in the log", *lines[-LINES:]]
        return "\n".join(line[:LINE] for line in lines)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.end_step()
        quiet, self._display = self._display, self.screen
        super().v2_playbook_on_stats(stats)
        self._display = quiet
        # never hide what Ansible counts as a failure
        hidden = stats.failures.keys() - {failure.host for failure in self.failures if not failure.rescued}
        self.failures = [it._replace(rescued=it.rescued and it.host not in hidden) for it in self.failures]
        self.tell(f"It took {time.monotonic() - self.begun:.0f} s. Log: {self.log}{self.incomplete}")
        self.tell_failures()

    def tell_failures(self) -> None:
        """Last and once: what several hosts say alike is one."""
        told: dict[tuple[str, str], list[str]] = {}
        for failure in self.failures if self.brief else []:
            if not failure.rescued:
                told.setdefault((failure.task, failure.text), []).append(failure.label)
        self.failures = []
        for (task, text), hosts in told.items():
            self.tell(f"\nFAILED on {', '.join(sorted(set(hosts)))}: {task}\n{text}", constants.COLOR_ERROR)


def printable(text: str) -> str:
    """Without what a terminal obeys: a server's programs could overwrite what failed."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text.replace("\r\n", "\n").replace("\r", "\n"))


def as_text(message: Any) -> str:
    return "\n".join(map(str, message)) if isinstance(message, list) else str(message)


def is_rescued(task: Any) -> bool:
    """Whether a block with a rescue holds this task, directly or through what it includes."""
    child, parent = task, task._parent
    while parent:
        if isinstance(parent, Block) and parent.rescue and any(it._uuid == child._uuid for it in parent.block):
            return True
        child, parent = parent, parent._parent
    return False
