"""The typed section `serverless`: what a package for a function in a cloud is built with. It knows nothing of packages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from feature_pipelines.errors import ConfigurationError
from jobs.runs.settings import Location, Section, setting
from jobs.serverless.objects import require_sink

__all__ = ["ServerlessSettings"]


def _sink(url: str) -> str:
    try:
        require_sink(url)
    except ConfigurationError as exc:
        raise ValueError(str(exc)) from exc
    return url


SinkUrl = Annotated[Location, AfterValidator(_sink)]


class ServerlessSettings(Section):
    """A model as a function; all but `directory` and `store` is written into its package, and holds there."""

    directory: Location = setting(
        "where `jobs.package_serverless` puts packages: `<directory>/<model>-<version>/`", min_length=1
    )
    store: Literal["snapshot", "environment", "none"] = setting(
        "where a function reads stored features: `snapshot`, a read-only copy of the SQLite store of `store.url` inside the package; "
        "`environment`, ONESCORE_STORE_URL when it runs; `none`, rows bring them"
    )
    sink: SinkUrl | None = setting(
        "where results of queues and uploads go: `s3://bucket/prefix`, `gs://bucket/prefix` or `file:///directory`; null: "
        "ONESCORE_SINK when it runs"
    )
    max_body_bytes: int = setting("a larger request is refused (413); Lambda takes 6 MB", "bytes", gt=0)
    max_answer_bytes: int = setting(
        "a larger answer is refused (413), counted as Lambda counts it; Lambda returns 6 MB", "bytes", gt=0
    )
    max_rows: int = setting("a request or file of more rows is refused (413)", "rows", gt=0)
    max_object_bytes: int = setting("a larger uploaded file is refused", "bytes", gt=0)
    max_concurrent: int = setting(
        "requests that one process answers at once, where a platform sends it several; further ones are refused (503)",
        "requests",
        gt=0,
    )
    timeout_seconds: float = setting(
        "time of one invocation, where the platform does not say it to the function (Google)", "s", gt=0
    )
    reserve_ms: float = setting(
        "so much before its end an invocation refuses what it cannot finish", "ms", ge=0
    )
    log: Literal["stdout", "none"] = setting(
        "the prediction log: `stdout`, a line of JSON for each logged row; `none`, no log"
    )
    log_sample_share: float = setting(
        "share of the rows that is logged, chosen by a hash of the row's id", "0 to 1", ge=0, le=1
    )
    log_pii: Literal["drop", "hash", "keep"] = setting(
        'what becomes of fields tagged "pii" in the prediction log; the key for hash is ONESCORE_PREDICTION_LOG_PII_KEY'
    )
