"""How long the tasks of a Spark query ran, as Spark itself measured them: the longest and the median of each stage.

Spark keeps these numbers beside its web page, also where the page is off; reading them costs the query nothing. A Connect client cannot ask
for them. This module knows nothing of what the query does.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from udfs.shipped import is_remote

__all__ = ["StageTimes", "stage_times", "tagged"]

_MEDIAN_AND_LONGEST = (0.5, 1.0)


@dataclass(frozen=True)
class StageTimes:
    """One stage.

    Args:
        tasks: how many it has.
        read, written: rows that it took from a shuffle and gave to one.
        median, longest: seconds that a task ran.
    """

    tasks: int
    read: int
    written: int
    median: float
    longest: float


@contextlib.contextmanager
def tagged(spark: SparkSession) -> Iterator[str]:
    """Mark what this thread runs inside, and yield the mark for `stage_times`."""
    tag = f"onescore-{uuid.uuid4().hex}"
    if is_remote(spark):
        yield tag
        return
    spark.sparkContext.addJobTag(tag)
    try:
        yield tag
    finally:
        spark.sparkContext.removeJobTag(tag)


def stage_times(spark: SparkSession, tag: str) -> list[StageTimes]:
    """Return the stages that ran inside `tagged`, in the order in which they were planned; none where Spark does not tell.

    Args:
        spark: the session.
        tag: what `tagged` gave.
    """
    if is_remote(spark):
        return []
    context: Any = spark.sparkContext
    try:
        scala, gateway = context._jsc.sc(), context._gateway
        scala.listenerBus().waitUntilEmpty()
        quantiles = gateway.new_array(gateway.jvm.double, len(_MEDIAN_AND_LONGEST))
        for i, quantile in enumerate(_MEDIAN_AND_LONGEST):
            quantiles[i] = quantile
        store = scala.statusStore()
        found = [_times(store, number, quantiles) for number in _stages(store, tag)]
    except Py4JError:  # another version's, or a platform that lets nobody ask
        return []
    return [times for times in found if times is not None]


def _stages(store: Any, tag: str) -> list[int]:
    jobs = [job for job in _each(store.jobsList(None)) if job.jobTags().contains(tag)]
    return sorted({number for job in jobs for number in _each(job.stageIds())})


def _times(store: Any, number: int, quantiles: Any) -> StageTimes | None:
    """Return a stage's times; None if none of its tasks ran, as where its rows were there already.

    In a session that has run more stages than Spark keeps (`spark.ui.retainedStages`) it forgets those first that did not run.
    """
    try:
        stage = store.lastStageAttempt(number)
    except Py4JJavaError as error:
        if error.java_exception.getClass().getName() == "java.util.NoSuchElementException":
            return None
        raise
    summary = store.taskSummary(number, stage.attemptId(), quantiles)
    if not stage.numCompleteTasks() or summary.isEmpty():
        return None
    milliseconds = list(_each(summary.get().executorRunTime()))
    return StageTimes(
        stage.numCompleteTasks(),
        stage.shuffleReadRecords(),
        stage.shuffleWriteRecords(),
        milliseconds[0] / 1000,
        milliseconds[1] / 1000,
    )


def _each(sequence: Any) -> Iterator[Any]:
    return (sequence.apply(i) for i in range(sequence.size()))
