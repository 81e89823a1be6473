"""The typed section of asynchronous inference: what a submission may cost, how long it is kept, and how work is retried.

As in `jobs.runs.settings`, a default is in conf/base.yaml and nowhere else. Nothing here can change a score.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from jobs.runs.secret_refs import SecretRef
from jobs.runs.secret_rules import holds_secret
from jobs.runs.settings import Location, Section, setting

__all__ = ["SubmissionsSettings", "revealed_database_url"]

_SCHEMES = ("sqlite:///", "postgresql://", "postgres://", "env:", "file:")


def _database(text: str) -> str:
    """Refuse a password in the open, and what is no database that holds submissions."""
    if holds_secret(text):
        raise ValueError(
            "a URL with a password is refused (not shown); refer to the whole URL by env:NAME or file:PATH, or set PGPASSWORD"
        )
    if not text.startswith(_SCHEMES):
        raise ValueError("expected sqlite:///PATH, postgresql://HOST:PORT/DATABASE, env:NAME or file:PATH")
    return text


class SubmissionsSettings(Section):
    """Asynchronous inference: the gateway, its workers, and what they keep."""

    host: str = setting("where `jobs.serve_async` listens", min_length=1)
    port: int = setting("where it listens; 0: any free port", ge=0, le=65_535)
    database_url: Annotated[str, AfterValidator(_database)] = setting(
        "where submissions are kept: `sqlite:///PATH` (one machine), `postgresql://HOST:PORT/DATABASE` (many), or a reference "
        "`env:NAME` or `file:PATH` to such a URL with its password",
        min_length=1,
    )
    max_body_bytes: int = setting(
        "a larger request is refused (413), and so is one of which more than four times as many would be kept; all in hand at one "
        "gateway may have four times as many together, and eight bytes of memory for each, further ones are refused (503)",
        "bytes",
        gt=0,
    )
    body_timeout_seconds: float = setting("how long a client may take to send a request's body", "s", gt=0)
    max_rows: int = setting("a submission of more rows, by reference too, is refused (413)", "rows", gt=0)
    batch_rows: int = setting(
        "a submission of more rows is scored by a Spark job, a smaller one by a worker; the bits are the same",
        "rows",
        gt=0,
    )
    chunk_rows: int = setting("rows scored and stored together", "rows", gt=0)
    page_rows: int = setting("most answers of one page", "rows", gt=0)
    max_queued: int = setting(
        "submissions that may wait or run; further ones are refused (429)", "submissions", gt=0
    )
    max_queued_bytes: int = setting("what their rows may take together; likewise", "bytes", gt=0)
    max_queued_share: float = setting(
        "of both, what one API key may have; further ones of it are refused (429), and of what is in hand at one gateway (503); "
        "without keys there is no such bound",
        gt=0,
        le=1,
    )
    max_requests_per_second: float = setting(
        "requests of one API key to one gateway; twice as many may come at once, further ones are refused (429)",
        "1/s",
        gt=0,
    )
    retry_after_seconds: int = setting("when a client that was refused so should ask again", "s", gt=0)
    reference_root: Location | None = setting(
        "directory below which a submission may refer to a Parquet file, a directory of them or a Delta table; null: none may"
    )
    scorers: int = setting(
        "processes of one worker that score, each one submission at a time", "processes", gt=0, le=256
    )
    worker_port: int | None = setting(
        "where a worker serves its /metrics, on this machine alone; 0: any free port; null: nowhere",
        ge=0,
        le=65_535,
    )
    max_versions: int = setting("model versions that one of them keeps loaded", "versions", gt=0)
    poll_seconds: float = setting("how often a worker looks for work", "s", ge=0.005)
    max_crashes: int = setting(
        "a submission that ended so many processes that scored it has failed (SCORER_CRASHED)", gt=0
    )
    max_attempts: int = setting(
        "a submission that was begun so often since something of it was stored, by workers that died or where scoring failed by our "
        "fault, has failed",
        gt=0,
    )
    retry_seconds: float = setting(
        "pause before the second attempt; it doubles each time, up to 60 s", "s", gt=0
    )
    chunk_timeout_seconds: float = setting(
        "a process that takes longer for one chunk is ended, as if it had crashed", "s", gt=0
    )
    large_timeout_seconds: float = setting(
        "a Spark job that stores no further rows for so long is ended, as if it had crashed; it stores up to 320,000 together",
        "s",
        gt=0,
    )
    dead_after_seconds: float = setting(
        "a worker that gave no sign of life for so long is taken for dead, and its work for the others'",
        "s",
        gt=0,
    )
    retention_hours: float = setting("results and history are deleted so long after the end", "h", gt=0)
    shutdown_seconds: float = setting("how long what is under way may take after SIGTERM", "s", gt=0)


def revealed_database_url(settings: SubmissionsSettings) -> str:
    """Return the database's URL, read now if it is a reference; pass it on, never print it.

    Raises:
        ConfigurationError: the reference leads nowhere.
    """
    url = settings.database_url
    return SecretRef(url).reveal() if url.startswith(("env:", "file:")) else url
