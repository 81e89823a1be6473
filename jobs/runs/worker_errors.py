"""Errors of ours that were raised in a Spark worker, found again on the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException

from feature_pipelines import errors
from feature_pipelines.errors import OnescoreError

__all__ = ["errors_of_workers"]


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Raise the error of ours that ended a task, which Spark brings back as text, in place of Spark's."""
    try:
        yield
    except PySparkException as exc:
        raise _raised_in_worker(exc) from exc


def _raised_in_worker(exc: PySparkException) -> Exception:
    found = re.findall(rf"^\s*{re.escape(errors.__name__)}\.(\w+): (.*)$", str(exc), re.MULTILINE)
    kind = getattr(errors, found[-1][0], None) if found else None
    if isinstance(kind, type) and issubclass(kind, OnescoreError):
        return kind(found[-1][1])
    return exc
