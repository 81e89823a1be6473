"""AWS's events that carry no HTTP request: uploads to S3, batches of SQS, and a direct invocation.

    S3 ObjectCreated, by notification or EventBridge       each object is scored, its result goes to the sink
    SQS                                                    each message is a body of the protocol, or an S3 notification; its
                                                           result goes to the sink; those that failed are said to SQS alone
    anything else                                          a direct invocation: the protocol's body itself

A message that is no body can never be scored: it fails each time, until its queue's redrive policy puts it aside. This module
knows nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_plus

from feature_pipelines.errors import ContractError, OnescoreError
from jobs.online.json_logs import event as log_event
from jobs.online.json_logs import failure
from jobs.online.protocol import read_body, read_content, refuse, write_body
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from jobs.serverless.gateways import answer_of_size
from jobs.serverless.http import as_refused, body_of_text, error_document, failure_facts
from jobs.serverless.objects import ObjectStore, Sink, name_part
from jobs.serverless.uploads import Uploaded, require_final, score_upload

__all__ = ["Objects", "answer_direct", "answer_messages", "answer_uploads", "is_queue", "uploads_of"]


class Objects:
    """The sink, and the stores of uploads, each opened when it is first needed.

    Args:
        open_sink: returns the sink at a URL; open_objects: returns a store by its kind.
        sink_url: of the sink; None = there is none.
    """

    def __init__(
        self,
        open_sink: Callable[[str], Sink],
        open_objects: Callable[[str], ObjectStore],
        sink_url: str | None,
    ) -> None:
        self._open_sink, self._open_objects, self._sink_url = open_sink, open_objects, sink_url
        self._sink: Sink | None = None
        self._opened: dict[str, ObjectStore] = {}

    def sink(self) -> Sink:
        """Return the sink.

        Raises:
            ContractError: evidence `status` 500: the function has none, and is to be given one.
        """
        if self._sink_url is None:
            refuse(
                500,
                "NO_SINK",
                "the function has nowhere to put results: set serverless.sink or ONESCORE_SINK",
            )
        if self._sink is None:
            self._sink = self._open_sink(self._sink_url)
        return self._sink

    def store(self, kind: str) -> ObjectStore:
        """Return the store of a kind of upload."""
        if kind not in self._opened:
            self._opened[kind] = self._open_objects(kind)
        return self._opened[kind]


def is_queue(event: Mapping[str, Any]) -> bool:
    """Return whether an event is a batch of SQS."""
    records = event.get("Records")
    return isinstance(records, list) and bool(records) and _source(records[0]) == "aws:sqs"


def uploads_of(event: Mapping[str, Any]) -> list[Uploaded] | None:
    """Return the objects that an event says were made; None if it is no event of a service. One that says something else has none.

    Raises:
        ContractError: it is another service's event, which nobody would see fail if it were answered.
    """
    if event.get("source") == "aws.s3" and isinstance(event.get("detail"), Mapping):
        detail = event["detail"]
        is_new = event.get("detail-type") == "Object Created"
        return [_uploaded(detail, detail["object"].get("version-id"), lambda key: key)] if is_new else []
    if event.get("Event") == "s3:TestEvent":
        return []
    records = event.get("Records")
    if records is None and "detail-type" not in event:
        return None
    if not isinstance(records, list) or not records or _source(records[0]) != "aws:s3":
        refuse(400, "UNKNOWN_EVENT", "the event is of no kind that this function takes")
    return [
        _uploaded(record["s3"], record["s3"]["object"].get("versionId"), unquote_plus)
        for record in records
        if str(record.get("eventName", "")).startswith("ObjectCreated:")
    ]


def answer_uploads(
    function: Function, uploads: list[Uploaded], objects: Objects, deadline: Deadline, request_id: str = ""
) -> list[dict[str, Any]]:
    """Score uploads; return what became of each.

    Args:
        function: answers rows.
        uploads: the objects.
        objects: the sink and the stores.
        deadline: of the invocation.
        request_id: the platform's name of it, by which a failure is found in the log.

    Raises:
        OnescoreError: at least one of them is to be handed over again, and this is the first one's reason. All were tried: those that
            did not fail have their results, and are skipped when the event comes again.
    """
    said: list[dict[str, Any]] = []
    failures: list[OnescoreError] = []
    for uploaded in uploads:
        try:
            said.append(
                score_upload(function, uploaded, objects.store(uploaded.kind), objects.sink(), deadline)
            )
        except Exception as exc:  # noqa: BLE001 - one upload's failure is not that of those after it
            failed = exc if isinstance(exc, OnescoreError) else as_refused(exc)
            facts = {**uploaded.facts(), **failure_facts(failed)}
            log_event("upload", outcome="failed", request_id=request_id, **facts)
            failures.append(failed)
    if failures:
        raise failures[0]
    return said


def answer_messages(
    function: Function,
    event: Mapping[str, Any],
    objects: Objects,
    deadline: Deadline,
    request_id: str = "",
) -> dict[str, Any]:
    """Score the messages of a batch; return SQS's {"batchItemFailures": [{"itemIdentifier": id}, ...]}.

    The function's trigger must be set to ReportBatchItemFailures, else SQS takes every message for answered.

    Args:
        function, objects, deadline, request_id: see `answer_uploads`.
        event: the batch.

    Raises:
        ContractError: a record has no message id, so it cannot be said which failed.
    """
    records = event["Records"]
    if not all(isinstance(one, Mapping) and isinstance(one.get("messageId"), str) for one in records):
        refuse(400, "MALFORMED_EVENT", "a record of the batch has no messageId")
    failures = []
    for record in records:
        try:
            _answer_message(function, record, objects, deadline, request_id)
        except Exception as exc:  # noqa: BLE001 - one message's failure is not the batch's
            number = record["messageId"]
            failure("message_failed", message_id=number, request_id=request_id, **failure_facts(exc))
            failures.append({"itemIdentifier": number})
    return {"batchItemFailures": failures}


def answer_direct(function: Function, event: Any, deadline: Deadline) -> dict[str, Any]:
    """Return the answers to a direct invocation, or {"error": {"code", "message"}}: a caller is told nothing by a stack trace."""
    try:
        asked = read_content(event, max_rows=function.settings.max_rows)
        content = {"predictions": function.answer(asked, deadline)}
    except ContractError as refused:
        return error_document(refused)
    return answer_of_size(content, function.settings.max_answer_bytes)


def _answer_message(
    function: Function, record: Mapping[str, Any], objects: Objects, deadline: Deadline, request_id: str
) -> None:
    deadline.require()
    body = body_of_text(str(record["body"]))
    uploads = _wrapped_uploads(body)
    if uploads is not None:
        answer_uploads(function, uploads, objects, deadline, request_id)
        return
    if len(body) > function.settings.max_body_bytes:
        refuse(413, "BODY_TOO_LARGE", "the message is too large")
    asked = read_body(body, max_rows=function.settings.max_rows)
    answers = function.answer(asked, deadline)
    require_final(answers)
    number, document = record["messageId"], write_body(answers)
    name = f"sqs/{name_part(number)}.json"
    written = deadline.within(lambda: objects.sink().put_once(name, document))
    log_event("message", outcome="scored" if written else "skipped", message_id=number, rows=len(answers))


def _wrapped_uploads(body: bytes) -> list[Uploaded] | None:
    """Return the uploads of a message that is an event of S3, which a queue before the function evens out."""
    if b"aws:s3" not in body and b"aws.s3" not in body and b"s3:TestEvent" not in body:
        return None
    try:
        content = json.loads(body)
        return uploads_of(content) if isinstance(content, dict) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _uploaded(said: Mapping[str, Any], version: Any, unquoted: Callable[[str], str]) -> Uploaded:
    found = said["object"]
    return Uploaded(
        kind="s3",
        bucket=str(said["bucket"]["name"]),
        key=unquoted(str(found["key"])),
        version=str(version or ""),
        etag=str(found.get("eTag") or found.get("etag") or ""),
        sequencer=str(found.get("sequencer") or ""),
        size=int(found.get("size") or 0),
    )


def _source(record: Any) -> str:
    return str(record.get("eventSource", "")) if isinstance(record, Mapping) else ""
