"""A small load generator: a number of keep-alive connections in one process, each sending its next request when the last is answered.

    python tests/benchmarks/load.py PORT CONNECTIONS REQUESTS SECONDS [PATH] < bodies.jsonl

It prints JSON: the seconds of each request, and the wall time. It ends after REQUESTS requests in all or SECONDS, whichever is
first, talks to the loopback interface alone, and checks that every answer is 200 or 202. It needs the standard library only, so that it
costs little beside the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, and so on."""

    def __init__(self, requests: list[bytes], budget: list[int], deadline: float) -> None:
        self._requests, self._budget, self._deadline = requests, budget, deadline
        self.spent: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        self._received += data
        if self._end < 0:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._received, 0, head)
            if not self._received.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")) or length is None:
                raise SystemExit(f"not answered: {self._received[:200]!r}")
            self._end = head + 4 + int(length[1])
        if len(self._received) >= self._end:
            now = time.perf_counter()
            self.spent.append(now - self._begun)
            if self._budget[0] > 0 and now < self._deadline:
                self._send()
            else:
                self._transport.close()
                self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if it was not we who closed."""
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server closed a connection"))

    def _send(self) -> None:
        self._budget[0] -= 1
        self._received, self._end = b"", -1
        self._begun = time.perf_counter()
        self._transport.write(self._requests[self._budget[0] % len(self._requests)])


async def _main(port: int, connections: int, n_requests: int, seconds: float, path: str) -> None:
    bodies = [line.rstrip(b"\n") for line in sys.stdin.buffer]
    requests = [
        b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (path.encode(), len(body), body)
        for body in bodies
    ]
    budget = [n_requests]
    begun = time.perf_counter()
    loop = asyncio.get_running_loop()
    opened = [
        (
            await loop.create_connection(
                lambda: _Connection(requests, budget, begun + seconds), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for connection in opened))
    wall = time.perf_counter() - begun
    json.dump({"wall": wall, "seconds": [second for one in opened for second in one.spent]}, sys.stdout)


if __name__ == "__main__":
    where = sys.argv[5] if len(sys.argv) > 5 else "/invocations"
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), where))
