"""What Spark measured of the tasks of one query is told apart from all else that ran."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from py4j.protocol import Py4JError

from jobs.runs import task_times
from jobs.runs.task_times import stage_times, tagged

SECONDS = 1.5


def slow_where_key_is_0(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows, late in the one task whose key is 0."""
    for batch in batches:
        if 0 in batch.column("key").to_pylist():
            time.sleep(SECONDS)
        yield batch


def run_query(spark: Any) -> None:
    """Write 40 rows into a shuffle of four tasks, of which one is slow, and read them."""
    rows = spark.range(0, 40, 1, 2).selectExpr("id", "id % 4 AS key").repartitionByRange(4, "key")
    rows.mapInArrow(slow_where_key_is_0, "id long, key long").repartition(3).collect()


def test_the_slow_task_is_seen_in_its_stage_alone(spark: Any) -> None:
    run_query(spark)
    with tagged(spark) as tag:
        run_query(spark)
    run_query(spark)
    stages = [stage for stage in stage_times(spark, tag) if stage.read == stage.written == 40]
    assert [stage.tasks for stage in stages] == [4]
    (slow,) = stages
    assert slow.median < SECONDS <= slow.longest < 20


def test_what_spark_has_forgotten_is_left_out_and_the_rest_is_told(spark: Any) -> None:
    """As in a session that has run more stages than Spark keeps: it forgets those first that did not run."""
    with tagged(spark) as tag:
        run_query(spark)
        run_query(spark)
    before = stage_times(spark, tag)
    context = spark.sparkContext
    store, jvm = context._jsc.sc().statusStore(), context._jvm
    jobs = [job for job in task_times._each(store.jobsList(None)) if job.jobTags().contains(tag)]
    first = min(int(number) for job in jobs for number in task_times._each(job.stageIds()))
    key = context._gateway.new_array(jvm.int, 2)
    key[0], key[1] = first, 0
    store.store().delete(jvm.java.lang.Class.forName("org.apache.spark.status.StageDataWrapper"), key)
    assert stage_times(spark, tag) == before[1:]


def test_nothing_is_told_of_a_mark_under_which_nothing_ran(spark: Any) -> None:
    with tagged(spark) as tag:
        pass
    assert stage_times(spark, tag) == []


def test_where_spark_cannot_be_asked_nothing_is_told(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise Py4JError("Method statusStore([]) does not exist")

    with tagged(spark) as tag:
        spark.range(3).count()
    with monkeypatch.context() as patched:
        patched.setattr(task_times, "_stages", refuse)
        assert stage_times(spark, tag) == []
    monkeypatch.setattr(task_times, "is_remote", lambda _: True)
    with tagged(spark) as tag:
        spark.range(3).count()
    assert stage_times(spark, tag) == []
