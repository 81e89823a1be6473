"""The path through a stream: files of the rows in a directory, read by a query until there are no more, into tables of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import pyarrow.parquet as pq

from feature_pipelines.schema import Schema
from jobs.proof.path_answers import Answer, Row
from jobs.proof.path_bench import Bench
from jobs.proof.path_rows import ROW, expressed, placed
from jobs.proof.path_spark import answers_in_tables

__all__ = ["StreamPath"]

_FILES = 3


class StreamPath:
    """The streaming job over Parquet files of the rows, several micro-batches of them.

    Args:
        bench: the model, the session and the scratch directory.
    """

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench) -> None:
        self._bench, self._spark = bench, bench.spark()
        self._runs = 0

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        from jobs.runs.stream_run import score_stream
        from jobs.runs.stream_source import columns_ddl

        bench = self._bench
        table, refused = expressed(bench.scorer.feature_set, rows)
        self._runs += 1
        directory = bench.scratch() / f"stream-{self._runs}"
        requests = directory / "requests"
        requests.mkdir(parents=True)
        step = max(-(-table.num_rows // _FILES), 1)
        for number, start in enumerate(range(0, max(table.num_rows, 1), step)):
            pq.write_table(table.slice(start, step), requests / f"rows-{number}.parquet")
        known = columns_ddl(Schema(tuple(bench.scorer.feature_set.sources)))
        scored, quarantine = directory / "scored", directory / "quarantine"
        conf = bench.conf_with(
            [
                f"input.row_id=[{ROW}]",
                f"output.scored={json.dumps(str(scored))}",
                f"output.quarantine={json.dumps(str(quarantine))}",
                "output.pass_through=[]",
                "quarantine.max_share=1",
                "stream.format=parquet",
                f"stream.source={json.dumps(str(requests))}",
                "stream.options.maxFilesPerTrigger=1",
                f"stream.columns={json.dumps(f'{known}, `{ROW}` bigint')}",
                "stream.select=[]",
                "stream.event_time=null",
                "stream.watermark=null",
                "stream.follow_alias=false",
                f"stream.checkpoint={json.dumps(str(directory / 'checkpoint'))}",
            ]
        )
        score_stream(self._spark, conf, bench.model, bench.bundle, available_now=True, log=False)
        return placed(len(rows), refused, answers_in_tables(str(scored), str(quarantine)))
