"""The AWS Lambda handler of a packaged model: `jobs.serve_lambda.handler`.

It takes API Gateway v1 and v2, function URLs, SQS batches, S3 events (by notification, EventBridge or in a queue) and direct
invocations. The model is loaded, and its golden rows replayed, when Lambda starts the process, before the first event.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from feature_pipelines.errors import ContractError, OnescoreError
from jobs.online.json_logs import event as log_event
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
from jobs.serverless.opening import opened
from udfs.incidents import incident

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
    try:
        return _answered(function, event, objects, deadline)
    except ContractError as failed:
        code = str(failed.evidence.get("code", "CONTRACT"))
    except OnescoreError as failed:
        log_event("misconfigured", message=str(failed))
        code = type(failed).__name__
    except Exception as exc:  # noqa: BLE001 - the outermost frame: Lambda would show the message, which may hold data
        log_event("event_failed", message=incident(exc))
        code = "INTERNAL"
    raise EventFailed(code)


def _answered(function: Function, event: Any, objects: Objects, deadline: Deadline) -> Any:
    if not isinstance(event, Mapping):
        return answer_direct(function, event, deadline)
    if is_gateway(event):
        return answer_gateway(function, event, deadline)
    if is_queue(event):
        return answer_messages(function, event, objects, deadline)
    uploads = uploads_of(event)
    if uploads is None:
        return answer_direct(function, event, deadline)
    return {"uploads": answer_uploads(function, uploads, objects, deadline)}


if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # within Lambda: the start is the place for what takes long
    opened()
