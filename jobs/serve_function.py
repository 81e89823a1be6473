"""The targets of Google's functions-framework for a packaged model: `score` over HTTP, and `uploaded` for an object's CloudEvent.

    functions-framework --source main.py --target score
    functions-framework --source main.py --target uploaded --signature-type cloudevent

The model is loaded, and its golden rows replayed, when the framework starts the process. This module imports neither Flask nor the
framework: they hand over a request or an event, and take a tuple.
"""

from __future__ import annotations

import os
import time
from typing import Any

from jobs.online.json_logs import event as log_event
from jobs.online.json_logs import failure
from jobs.serverless.aws_events import answer_uploads
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from jobs.serverless.http import HttpRequest, as_refused, failure_facts, refusal, respond
from jobs.serverless.opening import opened
from jobs.serverless.uploads import Uploaded

__all__ = ["EventFailed", "score", "uploaded"]

_FINALIZED = "google.cloud.storage.object.v1.finalized"


class EventFailed(Exception):
    """The event is to be delivered again: the framework answers 500, and logs the message, which is a code."""


def score(request: Any) -> tuple[bytes, int, dict[str, str]]:
    """Return body, status and headers of the answer to an HTTP request.

    Args:
        request: Flask's.
    """
    function, _ = opened()
    try:
        asked = HttpRequest(
            method=request.method,
            path=request.path,
            query=request.query_string.decode("latin-1"),
            content_type=request.headers.get("Content-Type", ""),
            content_encoding=request.headers.get("Content-Encoding", ""),
            body=request.stream.read(function.settings.max_body_bytes + 1),
        )
        answer = respond(function, asked, _deadline(function))
    except Exception as exc:  # noqa: BLE001 - the outermost frame: the framework would log the message, which may hold data
        answer = refusal(as_refused(exc))
    return answer.body, answer.status, answer.headers


def uploaded(cloud_event: Any) -> None:
    """Score an object that was uploaded to Cloud Storage; its result goes to the sink. Events of another type do nothing.

    Args:
        cloud_event: with `["id"]`, `["type"]` and `data`: bucket, name, generation, size.

    Raises:
        EventFailed: it could not be scored now; the trigger delivers it again, where it is told to.
    """
    function, objects = opened()
    request_id = ""
    try:
        request_id = str(cloud_event["id"])
        if cloud_event["type"] != _FINALIZED:
            log_event("upload", outcome="skipped", code="OTHER_EVENT")
            return
        answer_uploads(function, [_upload(cloud_event.data)], objects, _deadline(function), request_id)
    except Exception as exc:  # noqa: BLE001 - the outermost frame: the framework logs the message, which may hold data
        facts = failure_facts(exc)
    else:
        return
    failure("event_failed", request_id=request_id, **facts)
    raise EventFailed(facts["code"])


def _upload(data: Any) -> Uploaded:
    return Uploaded(
        kind="gs",
        bucket=str(data["bucket"]),
        key=str(data["name"]),
        version=str(data["generation"]),
        etag=str(data.get("etag", "")),
        sequencer="",
        size=0
        if data.get("contentEncoding")
        else int(data.get("size", 0)),  # a compressed one is given unpacked
    )


def _deadline(function: Function) -> Deadline:
    settings = function.settings
    return Deadline.after(settings.timeout_seconds, settings.reserve_ms, time.monotonic)


if "FUNCTION_TARGET" in os.environ:  # within the framework: the start is the place for what takes long
    opened()
