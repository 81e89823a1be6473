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
    "Told",
    "inlined",
]

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_ID = Field(description="of the submission", pattern="^[0-9a-f]{32}$")
_TIME = Field(description="RFC 3339, UTC")


class Notify(BaseModel):
    """Who is told when a submission is done."""

    model_config = ConfigDict(extra="forbid")
    webhook: str | None = Field(None, description="a URL that is posted to")
    targets: list[str] | None = Field(
        None, description="names of targets that this server is configured with: chat, mail"
    )
    email: str | None = Field(None, description="an address that is written to")


class RowsBody(BaseModel):
    """Rows to be scored."""

    model_config = ConfigDict(extra="forbid")
    rows: list[Any] = Field(
        description="objects in the wire form of /invocations; a row that is none gets an error of its own",
        min_length=1,
    )
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
    rows_refused: int | None = Field(
        description="how many of rows_done have an error in place of an answer; null: not counted, by an earlier version"
    )
    created_ts: str = _TIME
    started_ts: str | None = _TIME
    finished_ts: str | None = _TIME
    model: str
    model_version: str | None = Field(description="fixed when the submission was taken")
    status_url: str
    reason: ErrorDetail | None = Field(None, description="of a submission that failed")


class Told(BaseModel):
    """What became of one notification; where it goes is not shown."""

    kind: Literal["webhook", "target", "email"]
    state: Literal["pending", "sent", "failed"]
    attempts: int
    reason: str | None = Field(description="why the last attempt failed")


class StatusPage(Status):
    """A submission with a page of its answers."""

    notifications: list[Told] | None = Field(
        None, description="where the client asked to be told, once it has ended"
    )

    next: str | None = Field(description="the next page; null: there is none")
    results: list[dict[str, Any]] = Field(
        description="the objects that /invocations answers with, in the order of the rows; empty until it has succeeded"
    )


class Listed(BaseModel):
    """One's submissions, newest first."""

    submissions: list[Status]
    next: str | None


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema in one piece: the description of a route has no place for the parts that it would refer to."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(parts[value["$ref"].rpartition("/")[2]])
        return {name: resolved(one) for name, one in value.items()}

    found: dict[str, Any] = resolved(schema)
    return found
