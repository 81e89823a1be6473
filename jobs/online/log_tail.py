"""The prediction log of a server that keeps no metrics of its own, read as it grows and counted like answers that pass.

Files appear whole and never change, so each is counted once, when it is first seen. What was there before the tail began is not
counted: counters start at zero with the watcher, as a server's own start with the server, and no restart counts a row twice.
Retention may delete files at any time.
This module knows nothing of HTTP or stores.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.online.log_gaps import GapWatch
from jobs.online.metrics import ServingMetrics
from udfs.prediction_schema import SCHEMA

__all__ = ["LogTail"]

_LOGGER = logging.getLogger("onescore.watch")
_FILES = "*/date=*/part-*.parquet"
_MODEL = ("model", "model_version", "model_digest", "feature_fingerprint")
_REQUEST = ("process", "served_ts", "request_rows", "lookup_us", "features_us", "model_us")
_READ = ("error_code", "statuses", *_MODEL, *_REQUEST)


class LogTail:
    """Counts the rows of files that appear.

    Args:
        directory: the prediction log; it may come later.
        metrics: counts.
        overdue_seconds: how long nothing of a process's last rows may come until they count as lost; above its flush_seconds.
        timer: seconds from any start.
    """

    def __init__(
        self,
        directory: Path,
        metrics: ServingMetrics,
        *,
        overdue_seconds: float = 60.0,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._metrics = directory, metrics
        self._gaps = GapWatch(overdue_seconds, timer)
        self._seen = self._names()

    def poll(self) -> int:
        """Count what is new; return how many rows."""
        names = self._names()
        n = 0
        counted = set()
        for name in sorted(names - self._seen):
            try:
                table = pq.read_table(self._directory / name, partitioning=None)
            except FileNotFoundError:
                continue  # retention was quicker
            except (OSError, pa.ArrowException) as exc:
                _LOGGER.error("a file of the prediction log cannot be read: %s", type(exc).__name__)
            else:
                if _is_ours(table.schema):
                    self._count(table)
                    n += table.num_rows
                else:
                    _LOGGER.error("a file in the prediction log is not of it: it has other columns")
            counted.add(name)
        self._seen = (self._seen & names) | counted
        self._count_gaps()
        return n

    def _count_gaps(self) -> None:
        """Say how many rows are in no file: those that will not be, and those that may yet be written."""
        directories = sorted(path for path in self._directory.glob("*") if path.is_dir())
        found = self._gaps.look(directories).values()
        self._metrics.gaps(sum(missing.lost for missing in found), sum(missing.queued for missing in found))

    def _names(self) -> set[str]:
        return {str(path.relative_to(self._directory)) for path in self._directory.glob(_FILES)}

    def _count(self, table: pa.Table) -> None:
        codes = table.column("error_code").to_pylist()
        statuses: dict[str, Tally[str]] = {}
        for code, of_row in zip(codes, table.column("statuses").to_pylist(), strict=True):
            for view, status in of_row:
                if (
                    code is None or status != "PRESENT"
                ):  # a refused row that was never looked up has the first
                    statuses.setdefault(view, Tally())[status] += 1
        self._metrics.rows(table.num_rows, Tally(code for code in codes if code is not None), statuses)
        requests = dict.fromkeys(zip(*(table.column(name).to_pylist() for name in _REQUEST), strict=True))
        for *_, lookup_us, features_us, model_us in requests:
            self._metrics.latency((lookup_us, features_us, model_us))
        for name, version, digest, fingerprint in set(
            zip(*(table.column(name).to_pylist() for name in _MODEL), strict=True)
        ):
            self._metrics.model({"name": name, "digest": digest, "feature_fingerprint": fingerprint}, version)


def _is_ours(schema: pa.Schema) -> bool:
    """Return whether a file has the columns that are counted, each of its declared type."""
    return all(
        name in schema.names and schema.field(name).type.equals(SCHEMA.field(name).type) for name in _READ
    )
