"""An extension of Jupyter's server: a page connects at once to a kernel that is busy.

jupyter-server 2.21 asks a kernel for its protocol before it opens a page's connection. A kernel that runs a cell
answers when the cell has ended: the page waits for 60 seconds, and for 60 more at each further try
(jupyter/notebook#3711). Cells that the server itself runs may begin before the page has connected.
"""

import asyncio
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

_upstream = ZMQChannelsWebsocketConnection.request_kernel_info


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_screen_connect"}]


def _load_jupyter_server_extension(server: Any) -> None:
    install()


def request_kernel_info(self: ZMQChannelsWebsocketConnection) -> Any:
    """Asks as upstream does. Returns a future of the answer, which is empty at once where the kernel is busy."""
    future = _upstream(self)
    if getattr(self.kernel_manager, "execution_state", None) != "busy" or future.done():
        return future
    unknown = asyncio.get_running_loop().create_future()
    unknown.set_result({})
    return unknown


def install() -> None:
    """Puts the function above in the place of upstream's method."""
    ZMQChannelsWebsocketConnection.request_kernel_info = request_kernel_info
