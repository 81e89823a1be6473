"""Answers on their way out: a page of them as JSON, all of them as lines of JSON or as CSV. They were written once, and are not parsed
again but for CSV. This module knows nothing of HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from feature_pipelines.columns import DType
from feature_pipelines.errors import UnavailableError
from feature_pipelines.wire import encode
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.ledger_chunk import Chunk

__all__ = ["csv_lines", "described", "json_lines", "page_of"]

_TIMESTAMP = DType("timestamp")
_AT_ONCE = 20_000


def described(submission: Submission) -> dict[str, Any]:
    """Return what a client is told of a submission, without its answers."""
    said: dict[str, Any] = {
        "id": submission.id,
        "state": submission.state,
        "rows": submission.n_rows,
        "rows_done": submission.rows_done,
        "rows_refused": submission.rows_refused if submission.rows_done else 0,
        "created_ts": _time(submission.created_ts),
        "started_ts": _time(submission.started_ts),
        "finished_ts": _time(submission.finished_ts),
        "model": submission.model,
        "model_version": submission.model_version,
        "status_url": f"/submissions/{submission.id}",
    }
    if submission.reason is not None:
        said["reason"] = {"code": submission.reason, "message": submission.message or ""}
    return said


def page_of(
    ledger: Ledger,
    submission: Submission,
    offset: int,
    limit: int,
    notifications: Sequence[Mapping[str, Any]] | None = None,
) -> bytes:
    """Return a submission with a page of its answers, as JSON; there are none before it has succeeded.

    Args:
        ledger: has the answers.
        submission: whose.
        offset, limit: of the page, rows.
        notifications: what became of them (see `outbox.Outbox.of`); None = nobody asked to be told.
    """
    said = described(submission)
    if notifications is not None:
        said["notifications"] = notifications
    lines: list[bytes] = []
    if submission.state == "succeeded":
        for chunk in ledger.chunks(submission.id, offset, limit):
            first = max(offset - chunk.first_row, 0)
            lines += chunk.body.split(b"\n")[first : offset + limit - chunk.first_row]
    after = offset + len(lines)
    has_more = bool(lines) and after < submission.n_rows
    said["next"] = f"/submissions/{submission.id}?offset={after}&limit={limit}" if has_more else None
    return orjson.dumps(said)[:-1] + b',"results":[' + b",".join(lines) + b"]}"


def json_lines(ledger: Ledger, submission: Submission) -> Iterator[bytes]:
    """Yield a succeeded submission's answers, a JSON object a line, in the order of its rows.

    Raises:
        UnavailableError: they were deleted meanwhile; what was yielded is not all.
    """
    for chunk in _all_chunks(ledger, submission):
        yield chunk.body + b"\n"


def csv_lines(ledger: Ledger, submission: Submission) -> Iterator[bytes]:
    """Yield a succeeded submission's answers as CSV: what identifies the row, the outputs, or why there are none.

    Texts are as they came, so that rows can be joined by them: one that begins with "=" is a formula to a spreadsheet, unless the column
    is imported as text. What is not valid Unicode is written as an escape, such as \\ud800.

    Raises:
        UnavailableError: see `json_lines`.
    """
    row_id, outputs = json.loads(submission.row_id), json.loads(submission.outputs)
    yield _line(
        [*row_id, *outputs, "model_version", "as_of_ts", "error_code", "error_field", "error_message"]
    )
    for chunk in _all_chunks(ledger, submission):
        answers = (json.loads(line) for line in chunk.body.split(b"\n"))
        ids = (json.loads(line) for line in chunk.ids.split(b"\n"))
        yield b"".join(_row(id_, answer, outputs) for id_, answer in zip(ids, answers, strict=True))


def _all_chunks(ledger: Ledger, submission: Submission) -> Iterator[Chunk]:
    """Yield all chunks in order; a download that ends early must not look whole."""
    after = 0
    while after < submission.n_rows:
        chunks = [one for one in ledger.chunks(submission.id, after, _AT_ONCE) if one.first_row >= after]
        if not chunks:
            raise UnavailableError("the answers were deleted while they were read")
        yield from chunks
        after = chunks[-1].first_row + chunks[-1].n_rows


def _row(id_: list[Any], answer: dict[str, Any], outputs: list[str]) -> bytes:
    error = answer.get("error", {})
    cells = [
        *id_,
        *(answer.get(name) for name in outputs),
        answer.get("model_version"),
        answer.get("as_of_ts"),
    ]
    return _line([*cells, error.get("code"), error.get("field"), error.get("message")])


def _line(cells: list[Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # quotes what holds either
    writer.writerow([_cell(cell) for cell in cells])
    return text.getvalue().removesuffix("\r\n").encode("utf-8", "backslashreplace") + b"\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _time(at: int | None) -> Any:
    return None if at is None else encode(_TIMESTAMP, [at])[0]
