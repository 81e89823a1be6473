"""What tests of streams share: micro-batches without Spark's engine, sources of the toy houses in every format, and a real query."""

from __future__ import annotations

import csv
import json
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition

from jobs.runs.chosen_model import registered_model
from jobs.runs.conf import Conf
from jobs.runs.stream_batch import BatchScorer, Done, Input
from jobs.runs.stream_model import Newer, StreamModel
from jobs.runs.stream_plan import checkpoint_of
from jobs.runs.stream_run import StreamSummary, stream_from
from jobs.runs.stream_state import QueryManifest, StreamState
from jobs.tables.delta import orphans
from tests.toy.runs import QUARANTINE, SCORED, content
from tests.toy.workspace import Workspace

__all__ = [
    "FORMATS",
    "STEPS",
    "Frame",
    "KafkaLike",
    "Spool",
    "assert_streamed_like",
    "run_stream",
    "running",
    "source_settings",
    "write_source",
]

STEPS = "stream.options.maxFilesPerTrigger=3"
"""By which the ten files of the toy's table come in four batches."""
FORMATS = ("delta", "parquet", "csv", "json")


class Frame:
    """A micro-batch's rows, its tasks run one after the other in this process."""

    def __init__(self, partitions: Sequence[pa.Table], batch_rows: int = 64) -> None:
        self.partitions, self.batch_rows = partitions, batch_rows

    def mapInArrow(self, task: Any, schema: str) -> Frame:
        self.task = pickle.loads(pickle.dumps(task))
        return self

    def collect(self) -> list[tuple[str]]:
        outs = [
            out
            for number, table in enumerate(self.partitions)
            for out in [self.task.run(iter(table.to_batches(self.batch_rows)), number)]
        ]
        return [(out.to_json(),) for out in outs if out.task.ids_in.count]


class Spool:
    """Spark's part in this process: notes a batch's offsets, calls the scorer, notes that it was done; what was not is repeated.

    Args:
        workspace: the toy model's.
        spark: a session, by which the model is sent.
        overrides: of the configuration.
    """

    def __init__(
        self, workspace: Workspace, spark: Any, *overrides: str, newer: Newer = lambda: None
    ) -> None:
        self.conf: Conf = workspace.conf(*overrides)
        self.spark, self.newer = spark, newer
        self.state = StreamState(checkpoint_of(self.conf))
        self.told: list[Done] = []
        self.schema = workspace.rows("houses").schema
        self.clock: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC)
        self.seconds = 0.0
        (self.state.spark / "offsets").mkdir(parents=True, exist_ok=True)
        (self.state.spark / "commits").mkdir(parents=True, exist_ok=True)
        self.state.path.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> BatchScorer:
        """Start a process anew: all that it knows is in the files."""
        model, bundle = registered_model(self.conf)
        query = self.state.query() or self.state.begin(self.clock(), {}, model.version)
        self.model = StreamModel(
            self.spark, self.conf, model, bundle, self.schema.names, self.newer, lambda: self.seconds
        )
        rows = Input("columns", self.schema, "", ("house_id",), ("town", "area_m2", "rooms"), "asked_ts")
        self.scorer = BatchScorer(
            self.conf, self.state, query, self.model, rows, lambda: self.clock(), self.told.append
        )
        self.last = self.scorer.recover()
        return self.scorer

    @property
    def query(self) -> QueryManifest:
        query = self.state.query()
        assert query is not None
        return query

    def run(self, batches: Sequence[Sequence[pa.Table]]) -> None:
        """Run the batches that are not done yet, in order."""
        for number, partitions in enumerate(batches):
            if (self.state.spark / "commits" / str(number)).exists():
                continue
            self.batch(number, partitions)

    def batch(self, number: int, partitions: Sequence[pa.Table], offset: str | None = None) -> None:
        """Run one batch."""
        source = json.dumps({"logOffset": number}) if offset is None else offset
        (self.state.spark / "offsets" / str(number)).write_text(f"v1\n{{}}\n{source}")
        self.scorer(Frame(partitions), number)
        (self.state.spark / "commits" / str(number)).write_text("v1\n{}")


def write_source(directory: Path, format_: str, rows: pa.Table, name: str = "part") -> None:
    """Write rows as one file of a source."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{name}"
    if format_ == "parquet":
        pq.write_table(rows, partial)
    elif format_ == "json":
        lines = [json.dumps(_wire(row)) for row in rows.to_pylist()]
        partial.write_text("".join(f"{line}\n" for line in lines))
    else:
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows.schema.names)
            writer.writerows([list(_wire(row).values()) for row in rows.to_pylist()])
    partial.rename(directory / f"{name}.{format_}")


def source_settings(workspace: Workspace, format_: str, directory: Path) -> list[str]:
    """Return the settings of a source with the toy houses."""
    place = workspace.table("houses") if format_ == "delta" else str(directory)
    return [f"stream.format={format_}", f"stream.source={json.dumps(place)}"]


def assert_streamed_like(workspace: Workspace, clean: Workspace, *, leftovers: bool = False) -> None:
    """See that one query's rows are those of the batch job, each once, and that nothing but what is allowed is left over."""
    state = StreamState(checkpoint_of(workspace.conf()))
    query = state.query()
    assert query is not None
    for table in (SCORED, QUARANTINE):
        ours, theirs = content(workspace, table), content(clean, table)
        assert theirs
        assert ours - theirs == Counter(), f"{table} has rows twice or rows that the batch job does not have"
        assert theirs - ours == Counter(), f"{table} lacks rows of the batch job"
        assert set(workspace.rows(table).column("run_id").to_pylist()) == {query.query_id}
        assert leftovers or orphans(workspace.table(table), "") == []
    last = state.last_record()
    assert last is not None
    assert (last.totals.rows, last.totals.scored, last.totals.quarantined) == (2_000, 1_990, 10)


def run_stream(spark: Any, workspace: Workspace, *overrides: str) -> StreamSummary:
    """Run a query until all is read."""
    return stream_from(spark, workspace.conf(*overrides), available_now=True)


@contextmanager
def running(spark: Any, workspace: Workspace, *overrides: str) -> Iterator[list[Any]]:
    """Run a query in a thread of its own, and stop it at the end; yields a list that then holds its summary or what it raised."""
    stop, ended = threading.Event(), list[Any]()

    def run() -> None:
        try:
            ended.append(stream_from(spark, workspace.conf(*overrides), stop=stop))
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ended
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()


def _wire(row: dict[str, Any]) -> dict[str, Any]:
    return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in row.items()}


class KafkaLike(DataSource):
    """A source with the columns of Kafka's, whose broker is a file: a line is the value of one message of one partition."""

    @classmethod
    def name(cls) -> str:
        return "kafka_like"

    def schema(self) -> str:
        return "key binary, value binary, topic string, partition int, offset bigint, timestamp timestamp, timestampType int"

    def streamReader(self, schema: Any) -> DataSourceStreamReader:
        return _KafkaLikeReader(dict(self.options))


class _KafkaLikeReader(DataSourceStreamReader):
    def __init__(self, options: dict[str, str]) -> None:
        self.broker, self.topic = Path(options["broker"]), options["subscribe"]

    def initialOffset(self) -> dict[str, int]:
        return {"0": 0}

    def latestOffset(self) -> dict[str, int]:  # type: ignore[override]
        return {"0": len(self.broker.read_bytes().splitlines())}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> list[InputPartition]:
        return [InputPartition((start["0"], end["0"]))] if end["0"] > start["0"] else []

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        start, stop = partition.value
        for offset, line in enumerate(self.broker.read_bytes().splitlines()[start:stop], start):
            yield None, line, self.topic, 0, offset, datetime(2026, 1, 1, tzinfo=UTC), 0
