"""AWS's events that carry an HTTP request, and the answers they expect: API Gateway v1 (REST) and v2 (HTTP), and function URLs.

A function URL speaks v2. Lambda takes and returns 6 MB at most, counted as JSON, in which a body is a text: what is larger after that
is refused here, with a code, and not by the platform without one. This module knows nothing of models.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from feature_pipelines.errors import ContractError
from jobs.online.protocol import refuse
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from jobs.serverless.http import HttpAnswer, HttpRequest, body_of_text, error_document, refusal, respond

__all__ = ["answer_gateway", "answer_of_size", "is_gateway"]

_MALFORMED = ContractError(
    "the event is not of the shape that a gateway sends", status=400, code="MALFORMED_EVENT"
)
_ENVELOPE = 1_024
_MOST_PER_BYTE = 6  # a character beyond ASCII, or one that JSON escapes, is \\uXXXX


def is_gateway(event: Mapping[str, Any]) -> bool:
    """Return whether an event carries an HTTP request."""
    return isinstance(event.get("requestContext"), Mapping) and (
        "httpMethod" in event or "http" in event["requestContext"]
    )


def answer_gateway(function: Function, event: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Return what the gateway turns into an HTTP answer; an event of another shape than a gateway's is answered 400 MALFORMED_EVENT.

    Args:
        function: answers rows.
        event: of v1 or v2.
        deadline: of the invocation.
    """
    try:
        request = _request(event)
    except ContractError as refused:
        return _reply(refusal(refused))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return _reply(refusal(_MALFORMED))
    reply = _reply(respond(function, request, deadline))
    most = function.settings.max_answer_bytes
    return reply if _fits(reply, most) else _reply(refusal(_too_large(most)))


def answer_of_size(content: dict[str, Any], most: int) -> dict[str, Any]:
    """Return the content of a direct answer, or why it is too large to be returned."""
    return content if len(json.dumps(content)) <= most else error_document(_too_large(most))


def _too_large(most: int) -> ContractError:
    return ContractError(
        f"the answer has more than {most} bytes; send fewer rows, or ask for no features, or upload a file",
        status=413,
        code="ANSWER_TOO_LARGE",
    )


def _fits(reply: Mapping[str, Any], most: int) -> bool:
    """Return whether a reply is short enough as JSON; it is only written for that where its length might not be."""
    return _MOST_PER_BYTE * len(reply["body"]) + _ENVELOPE <= most or len(json.dumps(reply)) <= most


def _request(event: Mapping[str, Any]) -> HttpRequest:
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    content_type, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
    http = event["requestContext"].get("http")
    if isinstance(http, Mapping):
        method, path = http.get("method"), event.get("rawPath") or http.get("path")
        query = event.get("rawQueryString") or ""
    else:
        method, path = event.get("httpMethod"), event.get("path")
        pairs = event.get("multiValueQueryStringParameters") or {
            name: [value] for name, value in (event.get("queryStringParameters") or {}).items()
        }
        query = urlencode([(name, value) for name, values in pairs.items() for value in values])
    stage = f"/{event['requestContext'].get('stage')}"
    path = str(path or "/")
    if path == stage or path.startswith(f"{stage}/"):
        path = path.removeprefix(stage) or "/"
    return HttpRequest(str(method or ""), path, str(query), content_type, encoding, _body(event))


def _body(event: Mapping[str, Any]) -> bytes:
    text = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return body_of_text(str(text))
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        refuse(400, "MALFORMED_BODY", "the body is not the base64 that the gateway says it is")


def _reply(answer: HttpAnswer) -> dict[str, Any]:
    return {
        "statusCode": answer.status,
        "headers": answer.headers,
        "body": answer.body.decode(),
        "isBase64Encoded": False,
    }
