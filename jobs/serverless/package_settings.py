"""What a configuration tells a function: its limits, where results go, what is logged. It reads the configuration; functions do not."""

from __future__ import annotations

from jobs.runs.conf import Conf
from jobs.serverless.settings import FunctionSettings

__all__ = ["function_settings"]


def function_settings(conf: Conf) -> FunctionSettings:
    """Return the settings of a function; no secret is among them: these are read from its environment."""
    given = conf.serverless
    return FunctionSettings(
        store_timeout_ms=conf.store.timeout_ms,
        sink=given.sink,
        max_body_bytes=given.max_body_bytes,
        max_answer_bytes=given.max_answer_bytes,
        max_rows=given.max_rows,
        max_object_bytes=given.max_object_bytes,
        max_concurrent=given.max_concurrent,
        timeout_seconds=given.timeout_seconds,
        reserve_ms=given.reserve_ms,
        log=given.log,
        log_sample_share=given.log_sample_share,
        log_pii=given.log_pii,
        allow_tolerance=conf.model.allow_tolerance,
    )
