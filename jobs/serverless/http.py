"""One HTTP request to a function, whichever gateway it came by: the lean server's routes, protocol and refusals.

    POST /invocations, or / itself      GET /ping  /health  /version

A gateway may put a stage or a mapping before the path, so its last part alone counts. This module knows no gateway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from feature_pipelines.errors import ContractError, OnescoreError
from jobs.online.protocol import asks_for_features, read_body, refuse, require_json, write_body
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from udfs.incidents import incident

__all__ = [
    "HttpAnswer",
    "HttpRequest",
    "as_refused",
    "body_of_text",
    "error_document",
    "failure_facts",
    "is_retryable",
    "refusal",
    "respond",
]

_JSON = "application/json"
_RETRY_AFTER = {"Retry-After": "1"}


@dataclass(frozen=True)
class HttpRequest:
    """What a gateway hands over.

    Args:
        method, path: of the request.
        query: after the question mark.
        content_type, content_encoding: the headers, "" where there is none.
        body: decoded from whatever the gateway wraps it in.
    """

    method: str
    path: str
    query: str
    content_type: str
    content_encoding: str
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class HttpAnswer:
    """What goes back."""

    status: int
    body: bytes = field(repr=False)
    headers: dict[str, str]


def respond(function: Function, request: HttpRequest, deadline: Deadline) -> HttpAnswer:
    """Return the answer to a request, also to one that is refused, and 500 with an incident's number where something of ours fails.

    Args:
        function: answers rows.
        request: as it came.
        deadline: of the invocation.
    """
    try:
        return _routed(function, request, deadline)
    except Exception as exc:  # noqa: BLE001 - the outermost frame: a platform would show the message, which may hold data
        return refusal(as_refused(exc))


def as_refused(exc: Exception) -> ContractError:
    """Return what may be shown of a failure: itself if it is a refusal, else status 500 and an incident's number."""
    if isinstance(exc, ContractError) and {"status", "code"} <= exc.evidence.keys():
        return exc
    return ContractError(incident(exc), status=500, code="INTERNAL")


def failure_facts(exc: Exception) -> dict[str, Any]:
    """Return what a log says of an event's failure: `code` and `message`, which hold no data; what is wrong in full if a setting is."""
    if isinstance(exc, OnescoreError) and not isinstance(exc, ContractError):
        return {"code": type(exc).__name__, "message": str(exc)}
    refused = as_refused(exc)
    code = str(refused.evidence["code"])
    return {"code": code, "message": str(refused), "retryable": is_retryable(refused)}


def body_of_text(text: str) -> bytes:
    """Return a body that an event holds as text; one with half a surrogate pair is that of no UTF-8, and a row's value would change.

    Raises:
        ContractError: evidence `status` 400.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        refuse(400, "MALFORMED_JSON", "the body is not valid UTF-8 JSON")


def refusal(refused: ContractError) -> HttpAnswer:
    """Return the answer that says why a whole request is refused: a code and a message without data."""
    status = int(refused.evidence["status"])
    headers = {"Content-Type": _JSON, **(_RETRY_AFTER if status in (429, 503) else {})}
    if status == 405:
        headers["Allow"] = refused.evidence["allow"]
    return HttpAnswer(status, json.dumps(error_document(refused)).encode(), headers)


def error_document(refused: ContractError) -> dict[str, object]:
    """Return {"error": {"code", "message"}} of what was refused as a whole."""
    return {"error": {"code": refused.evidence["code"], "message": str(refused)}}


def is_retryable(refused: ContractError) -> bool:
    """Return whether the same request may be answered later: the fault is not its own."""
    return int(refused.evidence["status"]) >= 500 or refused.evidence["status"] == 429


def _routed(function: Function, request: HttpRequest, deadline: Deadline) -> HttpAnswer:
    route = request.path.rstrip("/").rpartition("/")[2]
    is_root = not request.path.strip("/")
    if route in ("ping", "health", "version"):
        if request.method not in ("GET", "HEAD"):
            _not_allowed("GET")
        content = b"\n" if route != "version" else json.dumps(function.facts()).encode()
        return HttpAnswer(200, content, {"Content-Type": _JSON if route == "version" else "text/plain"})
    if route != "invocations" and not is_root:
        refuse(404, "NOT_FOUND", "there is no such route")
    if request.method != "POST":
        _not_allowed("POST")
    settings = function.settings
    if len(request.body) > settings.max_body_bytes:
        refuse(413, "BODY_TOO_LARGE", f"the body has more than {settings.max_body_bytes} bytes")
    require_json(
        request.content_type.encode(errors="replace"), request.content_encoding.encode(errors="replace")
    )
    with_features = asks_for_features(request.query.encode(errors="replace"))
    asked = read_body(request.body, max_rows=settings.max_rows)
    asked = asked._replace(with_features=True) if with_features else asked
    body = write_body(function.answer(asked, deadline))
    return HttpAnswer(200, body, {"Content-Type": _JSON})


def _not_allowed(method: str) -> None:
    raise ContractError(f"use {method}", status=405, code="METHOD_NOT_ALLOWED", allow=method)
