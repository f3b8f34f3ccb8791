"""Prints a line at intervals while one task runs, so that long tasks show progress."""

import os
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: heartbeat
type: notification
short_description: Show that a long task moves
description:
  - Prints how long the current task has been running, every 15 seconds, from the first 15 on.
requirements:
  - enabled in ansible.cfg
"""
SECONDS = 15


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core is untyped
    """The running task, and the thread that reports it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "heartbeat"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.task = ""
        self.began = 0.0
        threading.Thread(target=self.tell, daemon=True).start()

    def tell(self) -> None:
        while True:
            time.sleep(SECONDS)
            elapsed = time.monotonic() - self.began
            if self.task and elapsed >= SECONDS:
                # not through sys.stdout: Ansible forks, and a lock held at that moment would stay held in the child
                os.write(1, f"    … {elapsed:.0f} s: {self.task}\n".encode())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.task, self.began = task.get_name(), time.monotonic()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.task = ""
