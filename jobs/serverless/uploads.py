"""An uploaded object: fetched in the version that its event names, scored, its result written once.

The name of a result is that of the object and its version (S3: version id, or etag and sequencer; Cloud Storage: generation), and a
result is never overwritten. So an event that comes twice, or is handed over again after a failure, gives one result. A file of which
no rows can be read has a result that says so; what may go better later (the store, the time) is an error of the event.
This module knows no platform and no form of event.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from feature_pipelines.errors import ContractError
from jobs.online.json_logs import event
from jobs.online.protocol import refuse, write_body
from jobs.serverless.deadline import Deadline
from jobs.serverless.files import rows_of_file
from jobs.serverless.function import Function
from jobs.serverless.http import error_document, is_retryable
from jobs.serverless.objects import Gone, ObjectStore, Sink, name_part

__all__ = ["Uploaded", "require_final", "score_upload"]

_LONGEST_NAME = 700  # S3 and Cloud Storage take 1,024 bytes, prefix and all


@dataclass(frozen=True)
class Uploaded:
    """What an event says of an object.

    Args:
        kind: of its store: s3 or gs.
        bucket, key: as they are, not as a URL writes them.
        version: which version it is; "" where the bucket keeps none.
        etag: of the content; "" if not known.
        sequencer: orders events of one key; "" if there is none.
        size: bytes that its store gives; 0 if not known.
    """

    kind: str
    bucket: str
    key: str
    version: str
    etag: str
    sequencer: str
    size: int

    @property
    def identity(self) -> str:
        """What tells this version from every other of the key."""
        return self.version or f"{self.etag}-{self.sequencer}"

    def facts(self) -> dict[str, str]:
        """Return what a log says of it: the key, which may hold data, by the beginning of its SHA-256."""
        key = hashlib.sha256(self.key.encode(errors="surrogatepass")).hexdigest()[:16]
        return {"bucket": self.bucket, "key_sha256": key, "version": self.identity}

    def result_name(self) -> str:
        """Return the name of its result below the sink."""
        within = f"{self.kind}/{name_part(self.bucket)}"
        name = "/".join(name_part(part) for part in self.key.split("/"))
        if len(name) > _LONGEST_NAME:
            name = f"sha256-{hashlib.sha256(self.key.encode()).hexdigest()}"
        return f"{within}/{name}/{name_part(self.identity)}.json"


def score_upload(
    function: Function, uploaded: Uploaded, objects: ObjectStore, sink: Sink, deadline: Deadline
) -> dict[str, Any]:
    """Score one object and write its result; return what became of it: {"outcome", "code"?, "rows"?, "result"?}.

    Args:
        function: answers rows.
        uploaded: the object.
        objects: its store.
        sink: where the result goes.
        deadline: of the invocation.

    Raises:
        ContractError: evidence `status` of 429, 500 or more: it may go better when the event is handed over again.
    """
    if sink.is_own(uploaded.kind, uploaded.bucket, uploaded.key):
        return _skipped(uploaded, "OWN_RESULT")
    name = uploaded.result_name()
    if deadline.within(lambda: sink.has(name)):
        return _skipped(uploaded, "ALREADY_SCORED")
    try:
        content, n_rows, code = _scored(function, uploaded, objects, deadline)
    except Gone:
        return _skipped(uploaded, "GONE")
    source = {"bucket": uploaded.bucket, "key": uploaded.key, "version": uploaded.identity}
    document = b'{"source":' + json.dumps(source).encode() + b"," + content[1:]
    if not deadline.within(lambda: sink.put_once(name, document)):
        return _skipped(uploaded, "ALREADY_SCORED")
    outcome = {"outcome": "refused", "code": code} if code else {"outcome": "scored", "rows": n_rows}
    event("upload", **uploaded.facts(), **outcome)
    return {**outcome, "result": sink.url(name)}


def require_final(answers: list[dict[str, Any]]) -> None:
    """Refuse answers of which one may be another when the row is asked again: they are no result to keep.

    Raises:
        ContractError: evidence `status` 503.
    """
    codes = {a["error"]["code"] for a in answers if "error" in a and a["error"]["retryable"]}
    if codes:
        refuse(503, sorted(codes)[0], "a row could not be answered now, so the whole is to be asked again")


def _scored(
    function: Function, uploaded: Uploaded, objects: ObjectStore, deadline: Deadline
) -> tuple[bytes, int, str]:
    """Return a JSON object: the answers, or why the file as a whole is refused; and the number of rows, and the refusal's code."""
    settings = function.settings
    try:
        if uploaded.size > settings.max_object_bytes:
            refuse(413, "OBJECT_TOO_LARGE", f"the object has more than {settings.max_object_bytes} bytes")
        content = deadline.within(
            lambda: objects.fetch(
                uploaded.bucket,
                uploaded.key,
                version=uploaded.version,
                etag=uploaded.etag,
                max_bytes=settings.max_object_bytes,
            )
        )
        if len(content) < uploaded.size:
            refuse(503, "OBJECTS_UNAVAILABLE", "the object store gave less than the whole object")
        asked = rows_of_file(uploaded.key, content, function.feature_set, max_rows=settings.max_rows)
        answers = function.answer(asked, deadline)
        require_final(answers)
    except ContractError as refused:
        if is_retryable(refused):
            raise
        return json.dumps(error_document(refused)).encode(), 0, str(refused.evidence["code"])
    return write_body(answers), len(answers), ""


def _skipped(uploaded: Uploaded, code: str) -> dict[str, Any]:
    event("upload", **uploaded.facts(), outcome="skipped", code=code)
    return {"outcome": "skipped", "code": code}
