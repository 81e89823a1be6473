"""What is said of a submission that has ended, to machines and to people: which one, how it ended, where its answers are; no data."""

from __future__ import annotations

from typing import Any

import orjson

from feature_pipelines.columns import DType
from feature_pipelines.wire import encode
from jobs.submissions.ledger import Submission
from jobs.submissions.results import described

__all__ = ["as_json", "as_text"]

_TIMESTAMP = DType("timestamp")


def as_json(submission: Submission, public_url: str | None) -> bytes:
    """Return the body of a webhook.

    Args:
        submission: that has ended.
        public_url: of the gateway, before the path of `status_url`; None = the path alone.
    """
    data: dict[str, Any] = described(submission)
    data["status_url"] = _link(submission, public_url)
    return orjson.dumps(
        {
            "type": f"submission.{submission.state}",
            "timestamp": encode(_TIMESTAMP, [submission.finished_ts])[0],
            "data": data,
        }
    )


def as_text(submission: Submission, public_url: str | None) -> tuple[str, str]:
    """Return title and text of a mail or a chat message; see `as_json`."""
    version = f" version {submission.model_version}" if submission.model_version is not None else ""
    refused = f", {submission.rows_refused} of them refused" if submission.rows_refused else ""
    lines = [
        f"{submission.rows_done} of {submission.n_rows} rows{refused}, {submission.model}{version}",
        _link(submission, public_url),
    ]
    if submission.reason is not None:
        lines.insert(0, f"{submission.reason}: {submission.message or ''}")
    return f"Submission {submission.id[:14]} {submission.state}", "\n".join(lines)


def _link(submission: Submission, public_url: str | None) -> str:
    return f"{(public_url or '').rstrip('/')}/submissions/{submission.id}"
