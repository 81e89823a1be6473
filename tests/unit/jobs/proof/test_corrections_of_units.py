"""Corrections that a task reads are those of its own files' processes, however long the model's history is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.proof.compare_task import read_corrections_of
from jobs.proof.corrections import CORRECTIONS_SCHEMA
from jobs.proof.corrections_table import write_corrections
from jobs.proof.log_files import LogFile
from jobs.proof.reconcile_run import lay_corrections
from tests.unit.jobs.proof.test_repair import differing

A, B, C = "1-aa", "2-bb", "3-cc"


def file_of(process: str, first: int = 1) -> LogFile:
    return LogFile(f"/log/houses/date=1970-01-01/part-{process}-{first:012d}-{first + 8:012d}.parquet")


def plan_over(uri: str, *files: LogFile) -> Any:
    return SimpleNamespace(
        asked=SimpleNamespace(with_corrections=True),
        corrections_uri=uri,
        model=SimpleNamespace(name="houses"),
        log=SimpleNamespace(files=files),
    )


def test_only_corrections_of_the_logs_and_the_units_processes_are_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "corrections")
    facts: dict[str, Any] = {"model": "houses", "version": "2", "digest": "d"}
    for when in (1, 2):
        rows = differing(*({"process": process} for process in (C, B, A)))
        write_corrections(uri, [rows], report_id=str(when), corrected_ts=when, **facts)
    laid = lay_corrections(plan_over(uri, file_of(A), file_of(A, 9), file_of(C)), tmp_path / "parts")
    assert laid is not None
    assert pq.read_table(laid).column("process").to_pylist() == [A, A, C, C]
    found = read_corrections_of(laid, [file_of(C), file_of(C, 9)])
    assert found.schema == CORRECTIONS_SCHEMA
    assert found.column("process").to_pylist() == [C, C]
    assert sorted(found.column("corrected_ts").cast(pa.int64()).to_pylist()) == [1, 2]
    assert read_corrections_of(laid, [file_of(B)]).num_rows == 0
    assert lay_corrections(plan_over(uri, file_of("9-ff")), tmp_path / "others") is None
