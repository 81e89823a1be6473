"""What the gateway takes and says, as types: the source of its OpenAPI document. Bodies are read by `payload`, more strictly."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ErrorAnswer",
    "ErrorDetail",
    "Listed",
    "Notify",
    "ReferenceBody",
    "RowsBody",
    "State",
    "Status",
    "StatusPage",
    "Ticket",
]

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_ID = Field(description="of the submission", pattern="^[0-9a-f]{32}$")
_TIME = Field(description="RFC 3339, UTC")


class Notify(BaseModel):
    """Who is told when a submission is done."""

    model_config = ConfigDict(extra="forbid")
    webhook: str | None = Field(None, description="a URL that is posted to")
    urls: list[str] | None = Field(None, description="further targets, as Apprise names them")


class RowsBody(BaseModel):
    """Rows to be scored."""

    model_config = ConfigDict(extra="forbid")
    rows: list[dict[str, Any]] = Field(description="in the wire form of /invocations", min_length=1)
    notify: Notify | None = None


class ReferenceBody(BaseModel):
    """A table to be scored."""

    model_config = ConfigDict(extra="forbid")
    reference: str = Field(
        description="path of a Parquet file or directory or a Delta table, below the configured root"
    )
    notify: Notify | None = None


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """The answer to a request that is refused as a whole."""

    error: ErrorDetail


class Ticket(BaseModel):
    """A submission that was taken."""

    id: str = _ID
    state: State
    rows: int
    status_url: str


class Status(BaseModel):
    """A submission."""

    model_config = ConfigDict(protected_namespaces=())
    id: str = _ID
    state: State
    rows: int
    rows_done: int
    created_ts: str = _TIME
    started_ts: str | None = _TIME
    finished_ts: str | None = _TIME
    model: str
    model_version: str | None = Field(description="fixed when the submission was taken")
    status_url: str
    reason: ErrorDetail | None = Field(None, description="of a submission that failed")


class StatusPage(Status):
    """A submission with a page of its answers."""

    next: str | None = Field(description="the next page; null: there is none")
    results: list[dict[str, Any]] = Field(
        description="the objects that /invocations answers with, in the order of the rows; empty until it has succeeded"
    )


class Listed(BaseModel):
    """One's submissions, newest first."""

    submissions: list[Status]
    next: str | None
