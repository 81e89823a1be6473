"""The paths through a stream: files of the rows, read by a query until there are no more, into tables of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq

from feature_pipelines.reasons import Reason
from feature_pipelines.schema import Schema
from jobs.proof.path_answers import Answer, Row
from jobs.proof.path_bench import Bench
from jobs.proof.path_rows import ROW, expressed, placed
from jobs.proof.path_spark import answers_in_tables

__all__ = ["StreamPath"]

_FILES = 3


class StreamPath:
    """The streaming job over files of the rows, a micro-batch each.

    Args:
        bench: the model, the session and the scratch directory.
        source: "parquet", "delta", "json" or "csv".
    """

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench, source: str) -> None:
        self._bench, self._source, self._spark = bench, source, bench.spark()
        self._runs = 0

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        from jobs.runs.stream_run import score_stream
        from jobs.runs.stream_source import columns_ddl

        bench = self._bench
        self._runs += 1
        directory = bench.scratch() / f"stream-{self._source}-{self._runs}"
        requests = directory / "requests"
        requests.mkdir(parents=True)
        is_text = self._source in ("json", "csv")
        refused = self._write_texts(rows, requests) if is_text else self._write_table(rows, requests)
        known = columns_ddl(Schema(tuple(bench.scorer.feature_set.sources)))
        scored, quarantine = directory / "scored", directory / "quarantine"
        conf = bench.conf_with(
            [
                f"input.row_id=[{ROW}]",
                f"output.scored={json.dumps(str(scored))}",
                f"output.quarantine={json.dumps(str(quarantine))}",
                "output.pass_through=[]",
                "quarantine.max_share=1",
                f"stream.format={self._source}",
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

    def _write_table(self, rows: Sequence[Row], requests: Path) -> dict[int, Answer]:
        """Write the rows as columns of the declared types; return the answers to those that these cannot hold."""
        from deltalake import write_deltalake

        table, refused = expressed(self._bench.scorer.feature_set, rows)
        for number, start in enumerate(_starts(table.num_rows)):
            part = table.slice(start, _step(table.num_rows))
            if self._source == "delta":
                write_deltalake(str(requests), part, mode="append")
            else:
                pq.write_table(part, requests / f"rows-{number}.parquet")
        return refused

    def _write_texts(self, rows: Sequence[Row], requests: Path) -> dict[int, Answer]:
        """Write the rows as lines of text; return the answers to those that these cannot hold."""
        names = self._bench.scorer.feature_set.sources.names
        refused = dict[int, Answer]()
        if self._source == "csv":
            broken = ((i, name) for i, row in enumerate(rows) for name in _broken(row))
            refused = {i: Answer(code=str(Reason.BAD_VALUE), field=name) for i, name in broken}
        asked = [(i, row) for i, row in enumerate(rows) if i not in refused]
        for number, start in enumerate(_starts(len(asked))):
            part = asked[start : start + _step(len(asked))]
            if self._source == "json":
                lines = [json.dumps({**row, ROW: i}, allow_nan=False) for i, row in part]
            else:
                cells = [[*(row.get(name) for name in names), i] for i, row in part]
                table: list[list[Any]] = [[*names, ROW], *cells]
                lines = [",".join(map(_cell, line)) for line in table]
            content = "".join(f"{line}\n" for line in lines).encode()
            (requests / f"rows-{number}.{self._source}").write_bytes(content)
        return refused


def _step(n: int) -> int:
    return max(-(-n // _FILES), 1)


def _starts(n: int) -> range:
    return range(0, max(n, 1), _step(n))


def _cell(value: Any) -> str:
    """Return a value as a cell: null is nothing at all, a text stands in quotes."""
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else json.dumps(value)


def _broken(row: Row) -> list[str]:
    """Return the fields whose text is no Unicode, which UTF-8 has no bytes for."""
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
    return [name for name, text in texts.items() if text.encode("utf-8", "replace").decode() != text]
