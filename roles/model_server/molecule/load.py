"""Asks a server for lists at a steady rate, half of it on new connections, and writes what came back.

usage: load.py PORT PER_SECOND SECONDS OUTPUT

Ends after so many seconds, or once there is a file OUTPUT.stop. One line of JSON a request: start and end (seconds of
the monotonic clock), status (0: lost, with the error), version, and kind (new or kept, GET or POST). No standard
library's client: it would ask again by itself, and hide what was lost.
"""

import asyncio
import json
import os
import random
import sys
import time
from typing import Any

CONNECTIONS = 16


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, post: bool) -> tuple[int, str, bool]:
    """Status, version, and whether the connection stays open."""
    user = random.randrange(120)
    if post:
        body = json.dumps({"user": "new", "history": {str(user): 4}, "k": 10}).encode()
        head = f"POST /v1/recommend HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    else:
        body, head = b"", f"GET /v1/recommend?user={user}&k=10 HTTP/1.1\r\n"
    writer.write(f"{head}Host: 127.0.0.1\r\n\r\n".encode() + body)
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    answer = json.loads(await reader.readexactly(int(headers["content-length"])))
    version = answer.get("model", {}).get("version", "")
    return int(line.split()[1]), version, headers.get("connection", "").lower() != "close"


async def main(port: int, per_second: float, seconds: float, output: str) -> None:
    found: list[dict[str, Any]] = []
    end = time.monotonic() + seconds

    def goes_on(due: float) -> bool:
        return due < end and not os.path.exists(f"{output}.stop")

    async def one(connection: Any, kept: bool) -> Any:
        post, began = random.random() < 0.5, time.monotonic()
        told: dict[str, Any] = {"start": began, "kind": f"{'kept' if kept else 'new'} {'POST' if post else 'GET'}"}
        try:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
            status, version, stays = await asyncio.wait_for(ask(*connection, post), 30)
            told |= {"status": status, "version": version}
        except (OSError, ValueError, KeyError, EOFError, asyncio.IncompleteReadError, TimeoutError) as error:
            told |= {"status": 0, "version": "", "error": repr(error)}
            stays = False
        told["end"] = time.monotonic()
        found.append(told)
        if kept and stays:
            return connection
        if connection is not None:
            connection[1].close()
        return None

    async def keeping(every: float) -> None:
        connection, due = None, time.monotonic() + random.random() * every
        while goes_on(due):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            connection = await one(connection, True)
            due += every

    async def renewing(every: float) -> None:
        due, tasks = time.monotonic(), set()
        while goes_on(due):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(one(None, False))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += every
        await asyncio.gather(*tasks)

    half = per_second / 2
    await asyncio.gather(renewing(1 / half), *(keeping(CONNECTIONS / half) for _ in range(CONNECTIONS)))
    with open(output, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in found)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
