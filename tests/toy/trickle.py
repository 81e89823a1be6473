"""A server in front of another that passes its answers on a byte at a time, as a network or a machine at its end does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["Trickle", "trickling"]


class Trickle:
    """A running proxy; `seconds_per_byte` of 0 passes all on at once, and may be changed at any time."""

    def __init__(self, target: int, seconds_per_byte: float) -> None:
        self.seconds_per_byte = seconds_per_byte
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for source, sink, is_slow in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, is_slow), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                while is_slow and data and self.seconds_per_byte:
                    sink.sendall(data[:1])
                    data = data[1:]
                    time.sleep(self.seconds_per_byte)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def trickling(target: int, *, seconds_per_byte: float) -> Iterator[Trickle]:
    """Run a proxy before a port of this machine, and end it."""
    proxy = Trickle(target, seconds_per_byte)
    try:
        yield proxy
    finally:
        proxy.close()
