"""The `stream` section of the configuration: what a streaming query reads, when, and by which policy.

It stands apart from `settings` for its size alone. No key here is part of the digest that scored rows carry: what of it can change
a row is in the query's own identity, which a restart must share (see `stream_state`).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from jobs.runs.settings import Location, Section, SparkConf, setting

__all__ = ["StreamSettings", "seconds_of"]

_DURATION = re.compile(r"(?P<n>[0-9]+) (?P<unit>second|minute|hour|day)s?")
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError("expected a duration such as '10 seconds', '5 minutes', '2 hours' or '1 day'")
    return text


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration as the settings write it.

    >>> seconds_of("2 hours")
    7200
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is no duration")
    return int(match["n"]) * _SECONDS[match["unit"]]


Duration = Annotated[str, AfterValidator(_duration)]


class StreamSettings(Section):
    """What `jobs.score_stream` reads, and how."""

    format: str = setting(
        "the source: `delta` (what commits add to a Delta table), `parquet`, `csv`, `json` or `text` (a JSON object a line), `rate`, "
        "`kafka`, or any other format that Spark streams from",
        min_length=1,
    )
    source: Location | None = setting(
        "table name, path or URI that is read; null: input.source (not for formats without a place)"
    )
    options: SparkConf = setting(
        "options of the source, as Spark names them (`maxFilesPerTrigger`, `subscribe`); secrets as references"
    )
    columns: str = setting(
        "columns of the source besides the request's, as Spark DDL (`shop string, tried int`): parquet and csv, and fields that a "
        "JSON row may bring"
    )
    select: list[str] = setting(
        "SQL expressions that make the request's columns of the source's (`value AS house_id`); []: as they come"
    )
    checkpoint: Location | None = setting(
        "directory of the query's state, on a file system that driver and workers share and the driver can lock; null: "
        "`<storage.root>/streams/<model.name>`"
    )
    trigger: Duration = setting("how often a batch begins at most; `--available-now` ends when all is read")
    event_time: str | None = setting(
        "column by which a row is late and a lag is told; null: the feature set's as-of field"
    )
    watermark: Duration | None = setting(
        "a row is quarantined as LATE if its event time is further behind the latest one of earlier batches; null: none is late"
    )
    refresh_views_seconds: int | None = setting(
        "a view's table is pinned anew at a batch's beginning if it was pinned so long ago; 0: at each; null: when the query starts",
        "s",
        ge=0,
    )
    follow_alias: bool = setting(
        "true: an alias that was moved is taken at the next batch's beginning; false: the version of the first start stays"
    )
