"""An extension of Jupyter's server: when a kernel restarts, cells that still wait for the one before are given up.

jupyter-server-nbmodel 0.2 keeps waiting for the answer of a kernel that has died, by lack of memory or by its user's
restart, and runs no other cell of that notebook. It has a method that ends the waiting, and nothing that calls it
(execution_stack.py: "FIXME connect this to kernel lifecycle").
"""

import asyncio
import contextlib
from typing import Any

from jupyter_server_nbmodel.actions import _get_ycell

EVENTS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
MESSAGE = "the kernel restarted before this cell had ended"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_screen_restarts"}]


async def _give_up(stack: Any, documents: Any, kernel: str) -> None:
    waiting = [request["request_id"] for request in stack.pending(kernel)]
    metadata = stack._ExecutionStack__execution_metadata.get(kernel, {})
    results = stack._ExecutionStack__execution_results.get(kernel, {})
    cells = [metadata[request] for request in waiting if metadata.get(request)]
    # the worker's own end, which cancel waits for
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await stack.cancel(kernel, timeout=5)
    for request in waiting:
        results[request] = {"error": MESSAGE}
    for known in cells:
        cell = await _get_ycell(documents, known)
        if cell is not None:
            with cell.doc.transaction():
                cell["execution_state"] = "idle"
                if "jupyter_server_nbmodel" in cell["metadata"]:
                    # the running cell's; those behind it had not begun
                    del cell["metadata"]["jupyter_server_nbmodel"]
                    output = {"output_type": "error", "ename": "KernelRestarted", "evalue": MESSAGE}
                    cell["outputs"].append({**output, "traceback": [f"KernelRestarted: {MESSAGE}"]})


def _load_jupyter_server_extension(server: Any) -> None:
    applications = server.extension_manager.extension_apps

    async def listener(logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        if data["action"] != "restart" or data.get("status") != "success":
            return
        try:
            (execution,) = applications["jupyter_server_nbmodel"]
            (documents,) = applications["jupyter_server_ydoc"]
            await _give_up(execution._Extension__execution_stack, documents, data["kernel_id"])
        except Exception:
            server.log.exception("cells of the restarted kernel %s may wait for ever", data.get("kernel_id"))

    server.event_logger.add_listener(schema_id=EVENTS, listener=listener)
