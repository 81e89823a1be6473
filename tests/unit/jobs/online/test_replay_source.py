"""Which tables of requests can be replayed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import ContractError
from jobs.online.replay_source import RequestSource
from jobs.tables.snapshot import pin_snapshot
from tests.toy.houses import FEATURES
from tests.toy.workspace import house_rows


def test_table_whose_rows_name_their_own_time_is_refused(tmp_path: Path) -> None:
    """The batch job scores them as of it, so that a replay as of the as-of field would differ."""
    rows = house_rows(3)
    pq.write_table(rows, tmp_path / "plain.parquet")
    pq.write_table(rows.append_column("as_of_ts", rows.column("asked_ts")), tmp_path / "timed.parquet")
    RequestSource(FEATURES, pin_snapshot(str(tmp_path / "plain.parquet")))
    with pytest.raises(ContractError, match=r"column 'as_of_ts'.*as of 'asked_ts': leave the column out"):
        RequestSource(FEATURES, pin_snapshot(str(tmp_path / "timed.parquet")))
