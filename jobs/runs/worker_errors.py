"""Errors of ours that were raised in a Spark worker, and files that Spark could not read, found again on the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException

from feature_pipelines import errors
from feature_pipelines.errors import OnescoreError, TableError

__all__ = ["errors_of_workers"]

_UNREAD = re.compile(
    r"\[FAILED_READ_FILE\.(\w+)\] Encountered error while reading file (.+?)\.(?: ([^\n]*)|$)", re.MULTILINE
)


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Raise the error of ours that ended a task, which Spark brings back as text, in place of Spark's.

    Raises:
        TableError: Spark's own reader could not read a file, which it names.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as exc:
        raise _raised_in_worker(exc) from exc


def _raised_in_worker(exc: Exception) -> Exception:
    text = str(exc)
    found = re.findall(rf"^\s*{re.escape(errors.__name__)}\.(\w+): (.*)$", text, re.MULTILINE)
    kind = getattr(errors, found[-1][0], None) if found else None
    if isinstance(kind, type) and issubclass(kind, OnescoreError):
        return kind(found[-1][1])
    unread = _UNREAD.search(text)
    if unread is None:
        return exc
    kind_of_trouble, file, hint = unread.groups()
    why = (hint or "").partition("SQLSTATE")[0].strip(" .") or "it is damaged"
    return TableError(
        f"{file}: Spark cannot read the file ({kind_of_trouble}): {why}. Put a whole one of the expected columns in its place, and start "
        "again",
        file=file,
    )
