"""A directory with the toy model's tables, and the calls that train and score there. One model is trained per test session."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from mlflow import MlflowClient

from jobs.runs.conf import Conf, load
from jobs.runs.tracking import connect_from
from jobs.runs.train_run import TrainedModel, train

__all__ = ["CONF_DIR", "Workspace", "house_rows", "price_rows", "rate_rows"]

CONF_DIR = Path(__file__).parent / "conf"
UTC_TIME = pa.timestamp("us", tz="UTC")
_START_US = 1_577_836_800_000_000  # 2020-01-01T00:00Z
_DAY_US = 86_400_000_000
_ENVIRONMENT = threading.Lock()  # some tests ask for a configuration in several threads


def house_rows(n: int = 2_000, seed: int = 1, bad: Sequence[int] = ()) -> pa.Table:
    """Return n requests of January to March 2020; each position in `bad` has no area, which the contract requires."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(20, 300, n)
    no_area = np.isin(np.arange(n), bad)
    return pa.table(
        {
            "house_id": np.arange(n),
            "asked_ts": pa.array(
                _START_US + rng.integers(0, 90, n) * _DAY_US + rng.integers(0, 24, n) * 3_600_000_000
            ).cast(UTC_TIME),
            "area_m2": pa.array(area, mask=no_area),
            "rooms": pa.array(rng.integers(1, 9, n), mask=rng.random(n) < 0.1),
            "town": pa.array([f"town-{i}" for i in rng.integers(0, 6, n)], mask=rng.random(n) < 0.05),
        }
    )


def price_rows(houses: pa.Table) -> pa.Table:
    """Return the outcome of each request, known a day after it was asked."""
    rng = np.random.default_rng(7)
    area = houses.column("area_m2").fill_null(100).to_numpy()
    known = pa.array(houses.column("asked_ts").cast(pa.int64()).to_numpy() + _DAY_US).cast(UTC_TIME)
    return pa.table(
        {
            "house_id": houses.column("house_id"),
            "event_ts": known,
            "price": area * 3 + rng.normal(0, 5, len(area)),
        }
    )


def rate_rows(n: int = 200) -> pa.Table:
    """Return stored rates of five of the six towns, some of them known only days after the event."""
    rng = np.random.default_rng(3)
    event = _START_US - 10 * _DAY_US + rng.integers(0, 100, n) * _DAY_US
    return pa.table(
        {
            "town": [f"town-{i}" for i in rng.integers(0, 5, n)],
            "event_ts": pa.array(event).cast(UTC_TIME),
            "created_ts": pa.array(event + rng.integers(0, 5, n) * _DAY_US).cast(UTC_TIME),
            "rate_pct": rng.uniform(1, 5, n),
            "rate_pct_floor": rng.uniform(0, 1, n),
        }
    )


@dataclass(frozen=True)
class Workspace:
    """One directory as ONESCORE_HOME, with tables below .onescore/tables and a registry of its own."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Workspace:
        """Make the tables: houses (10 files of 200 rows), house_prices, rates."""
        workspace = cls(root)
        houses = house_rows()
        workspace.write("houses", houses, rows_per_file=200)
        workspace.write("house_prices", price_rows(houses))
        workspace.write("rates", rate_rows())
        return workspace

    def copy_to(self, root: Path) -> Workspace:
        """Return a copy, trained model included, that can be changed freely: its registry names the files of the copy."""
        shutil.copytree(self.root, root)
        for registry in (root / ".onescore").glob("*.db"):
            with closing(sqlite3.connect(registry)) as original:
                dump = "\n".join(original.iterdump())
            registry.unlink()
            with closing(sqlite3.connect(registry)) as copy:
                copy.executescript(dump.replace(str(self.root), str(root)))
        return Workspace(root)

    def write(self, table: str, rows: pa.Table, rows_per_file: int | None = None) -> None:
        """Replace a table; one file, or files of so many rows."""
        step = rows_per_file or max(rows.num_rows, 1)
        for i, start in enumerate(range(0, max(rows.num_rows, 1), step)):
            write_deltalake(self.table(table), rows.slice(start, step), mode="append" if i else "overwrite")

    def table(self, name: str) -> str:
        """Return where a table is."""
        return str(self.root / ".onescore" / "tables" / name)

    def rows(self, name: str) -> pa.Table:
        """Return a table's rows, read with delta-rs."""
        return DeltaTable(self.table(name)).to_pyarrow_table()

    def conf(self, *overrides: str, model: str = "houses") -> Conf:
        """Return a toy model's configuration with this directory as its home."""
        with _ENVIRONMENT:
            before = os.environ.get("ONESCORE_CONF_DIR")
            os.environ["ONESCORE_CONF_DIR"] = str(CONF_DIR)
            try:
                return load("local", model, overrides, root=self.root)
            finally:
                if before is None:
                    del os.environ["ONESCORE_CONF_DIR"]
                else:
                    os.environ["ONESCORE_CONF_DIR"] = before

    def env(self) -> dict[str, str]:
        """Return the variables by which a job started as a process works in this directory."""
        return {"ONESCORE_HOME": str(self.root), "ONESCORE_CONF_DIR": str(CONF_DIR)}

    def connect(self) -> MlflowClient:
        """Point MLflow at this directory's registry."""
        return connect_from(self.conf())

    def train(self, *overrides: str) -> TrainedModel:
        """Train and register."""
        return train(self.conf(*overrides))

    def train_model(self, model: str, *overrides: str) -> TrainedModel:
        """Train and register another toy model than the houses."""
        return train(self.conf(*overrides, model=model))
