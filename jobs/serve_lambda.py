"""The AWS Lambda handler of a packaged model: `jobs.serve_lambda.handler`.

It takes API Gateway v1 and v2, function URLs, SQS batches, S3 events (by notification, EventBridge or in a queue) and direct
invocations. The model is loaded, and its golden rows replayed, when Lambda starts the process, before the first event.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jobs.online.json_logs import failure
from jobs.serverless.aws_events import (
    Objects,
    answer_direct,
    answer_messages,
    answer_uploads,
    is_queue,
    uploads_of,
)
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from jobs.serverless.gateways import answer_gateway, is_gateway
from jobs.serverless.http import failure_facts
from jobs.serverless.opening import opened

__all__ = ["EventFailed", "handler"]


class EventFailed(Exception):
    """The event is to be handed over again; the message is a code, for Lambda keeps it and shows it."""


def handler(event: Any, context: Any) -> Any:
    """Return the answer to one event; see the module.

    Args:
        event: as Lambda hands it over.
        context: Lambda's; says how much time there is.

    Raises:
        EventFailed: an upload could not be scored now, or the event is of no shape that a service sends. Lambda tries again, then
            puts the event where the function says.
    """
    function, objects = opened()
    deadline = Deadline(context.get_remaining_time_in_millis, function.settings.reserve_ms)
    request_id = str(getattr(context, "aws_request_id", ""))
    try:
        return _answered(function, event, objects, deadline, request_id)
    except Exception as exc:  # noqa: BLE001 - the outermost frame: Lambda would show the message, which may hold data
        facts = failure_facts(exc)
    failure("event_failed", request_id=request_id, **facts)
    raise EventFailed(facts["code"])


def _answered(function: Function, event: Any, objects: Objects, deadline: Deadline, request_id: str) -> Any:
    if not isinstance(event, Mapping):
        return answer_direct(function, event, deadline)
    if is_gateway(event):
        return answer_gateway(function, event, deadline)
    if is_queue(event):
        return answer_messages(function, event, objects, deadline, request_id)
    uploads = uploads_of(event)
    if uploads is None:
        return answer_direct(function, event, deadline)
    return {"uploads": answer_uploads(function, uploads, objects, deadline, request_id)}


if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # within Lambda: the start is the place for what takes long
    opened()
