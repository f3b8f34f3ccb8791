"""Settings of a kernel, run by every version of ipykernel: it waits for a slow reader instead of dropping output.

With 1,000 messages waiting ZeroMQ drops the next, the end of the cell among them (jupyter/nbconvert#659).
XPUB_NODROP makes the sending thread wait, as in nteract/nteract#4188, and keeps the memory bounded.
jupyter_screen_outputs.py adds this file to the kernels' command.
"""

from typing import Any

import zmq
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp

_init_iopub = IPKernelApp.init_iopub


def _init_without_drops(self: Any, context: Any) -> None:
    _init_iopub(self, context)
    thread = self.iopub_thread
    # the socket belongs to that thread
    thread.schedule(lambda: thread.socket.setsockopt(zmq.XPUB_NODROP, 1))


IPKernelApp.init_iopub = _init_without_drops
# seconds; after the default 10 a line of its own would say so in the cell
OutStream.flush_timeout = 3600
