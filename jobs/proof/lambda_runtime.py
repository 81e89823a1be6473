"""AWS's side of a Lambda function on this machine: the Runtime API, behind which the real client (awslambdaric) runs the handler.

    GET  /2018-06-01/runtime/invocation/next              waits for an event
    POST /2018-06-01/runtime/invocation/{id}/response     its answer
    POST /2018-06-01/runtime/invocation/{id}/error        or why there is none
    POST /2018-06-01/runtime/init/error                   the handler could not be loaded

Answers leave in one write and without Nagle's delay, else each event would take 40 ms. This module knows nothing of models.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from feature_pipelines.errors import UnavailableError

__all__ = ["Invoked", "LambdaRuntime"]

_PREFIX = "/2018-06-01/runtime/"
_ARN = "arn:aws:lambda:eu-central-1:000000000000:function:onescore"


@dataclass(frozen=True)
class Invoked:
    """What became of an event.

    Args:
        is_error: whether the handler raised.
        content: what it returned, or {"errorType", "errorMessage", ...}.
        seconds: from handing over the event to the answer.
        size: of the answer, bytes.
    """

    is_error: bool
    content: Any
    seconds: float
    size: int


@dataclass
class _Waiting:
    request_id: str
    body: bytes
    timeout_ms: int
    done: threading.Event
    answer: tuple[bool, bytes] | None = None


class LambdaRuntime:
    """One function's Runtime API on a free port of the loopback interface; a context manager."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._under_way: dict[str, _Waiting] = {}
        self.init_error: dict[str, Any] | None = None
        self.n_polls = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.runtime = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> LambdaRuntime:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.is_ending = True
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """What AWS_LAMBDA_RUNTIME_API is set to."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def invoke(self, event: Any, *, timeout_ms: int = 60_000, patience_seconds: float = 90) -> Invoked:
        """Hand over an event and return what became of it.

        Args:
            event: JSON values.
            timeout_ms: how much time the function is told to have.
            patience_seconds: how long to wait for it.

        Raises:
            UnavailableError: it did not answer.
        """
        waiting = _Waiting(str(uuid.uuid4()), json.dumps(event).encode(), timeout_ms, threading.Event())
        began = time.perf_counter()
        self._queue.put(waiting)
        if not waiting.done.wait(patience_seconds) or waiting.answer is None:
            raise UnavailableError(f"the Lambda function did not answer within {patience_seconds:g} s")
        is_error, body = waiting.answer
        return Invoked(is_error, json.loads(body), time.perf_counter() - began, len(body))

    def take(self) -> _Waiting | None:
        """Return the next event, or None when there is none for a while."""
        try:
            waiting = self._queue.get(timeout=0.2)
        except queue.Empty:
            return None
        self._under_way[waiting.request_id] = waiting
        return waiting

    def finish(self, request_id: str, is_error: bool, body: bytes) -> None:
        """Take the answer to an event."""
        waiting = self._under_way.pop(request_id)
        waiting.answer = (is_error, body)
        waiting.done.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    runtime: LambdaRuntime
    is_ending = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server
    timeout: ClassVar[float | None] = None

    def do_GET(self) -> None:
        runtime = self.server.runtime
        runtime.n_polls += 1
        while not self.server.is_ending:
            waiting = runtime.take()
            if waiting is not None:
                headers = {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": waiting.request_id,
                    "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + waiting.timeout_ms),
                    "Lambda-Runtime-Invoked-Function-Arn": _ARN,
                }
                return self._answer(200, waiting.body, headers)
        self.close_connection = True
        return None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks()
        route = self.path.removeprefix(_PREFIX)
        if route.startswith("init/error"):
            self.server.runtime.init_error = json.loads(body)
        else:
            _, request_id, what = route.split("/", 2)
            self.server.runtime.finish(request_id, what.startswith("error"), body)
        self._answer(202, b'{"status":"OK"}', {"Content-Type": "application/json"})

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
