"""A small world of real flights in which faults can happen: tables, views, and four models of one name, made without Spark.

The features are those of the flights example and, because flights lack them, an identifier beyond 2^53, a float that the client
sends, and three functions whose last bits depend on the processor. They are written into a package of their own, once as they are
and once with one function changed, so that a model of the changed code has another fingerprint. The four models combine the two
codes with two fits. Nothing here knows of faults.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from sklearn.ensemble import HistGradientBoostingClassifier

import feature_pipelines.features
from feature_pipelines.columns import take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.history_arrow import history_from_arrow
from feature_pipelines.packaged import load_reference
from jobs.runs.conf import Conf, load
from jobs.runs.tracking import connect_from
from jobs.runs.training import TrainingSet, build_training_set
from jobs.tables.flights_source import locate_files, parse_source
from jobs.tables.resample import resampled_rows
from udfs.bundle import bundle_digest, write_bundle
from udfs.registry import register
from udfs.scorer import OutputSpec

__all__ = ["CHANGED", "MODELS", "REQUESTS", "SCALED", "FlightsWorld", "make_world", "microseconds"]

HOUR = 3_600_000_000
REQUESTS, SCALED = "flights_requests", "flights_requests_scaled"
SPLIT = "2013-03-09T05:00:00Z"
"""Requests from here on are replayed, those before are learned from; the clocks change on the 10th."""

MODELS = ("reference", "older", "changed", "older_changed")
"""The fits are those of `reference` and `older`, the code is that of `reference` or `changed`; all of one name."""

CHANGED = "sched_speed_mph"
"""The feature that the changed code computes otherwise."""

_EVENTS_FROM, _LEARN_FROM, _UNTIL = "2013-02-05T00:00:00Z", "2013-03-02T05:00:00Z", "2013-03-13T05:00:00Z"
_SOURCES = {
    "plane_history": "flights_arrivals",
    "route_history": "flights_arrivals",
    "airport_congestion": "flights_departures",
}
_TOLERANCE = 1 << 60
_BEYOND_DOUBLE = 1 << 53
_CODE = {"reference": "booked_flights", "changed": "booked_flights_changed"}
_BEFORE = "distance_miles * 60.0 / sched_duration_minutes"
_AFTER = "distance_miles * 60.0 / (sched_duration_minutes + 1.0)"
_BOOKED = '''
"""Flights and what a booking adds to them."""

from __future__ import annotations

import numpy as np

from feature_pipelines.columns import Float64, Int64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema

from .flights import FEATURES as FLIGHTS
from .flights import REQUEST

__all__ = ["FEATURES"]


def booking_series(booking_id: Int64) -> Int64:
    """The booking's place in its series. Never null."""
    return booking_id % 9973


def load_tons(load_t: Float64) -> Float64:
    """What it carries, tons. Null where it is not known."""
    return load_t


def load_log(load_t: Float64) -> Float64:
    """Logarithm of the load. Null where it is. Its last bit depends on the processor."""
    return np.log1p(load_t)


def load_fading(load_t: Float64) -> Float64:
    """How little it carries. Null where the load is. Its last bit depends on the processor."""
    return np.exp(load_t * -0.11)


def load_turn(load_t: Float64) -> Float64:
    """The load in turns of a circle. Null where the load is. Its last bit depends on the processor."""
    return np.tan(load_t)


FEATURES = FeatureSet(
    name="flights",
    request=Schema(
        (
            *REQUEST,
            Field("booking_id", Int64, "identifies the booking"),
            Field("load_t", Float64, "payload, tons; null where not known"),
        )
    ),
    views=FLIGHTS.views,
    features=(*FLIGHTS.features, booking_series, load_tons, load_log, load_fading, load_turn),
    intermediates=FLIGHTS.intermediates,
    fitted=FLIGHTS.fitted,
    row_id=("flight_id",),
    as_of="sched_dep_ts",
)
'''


def microseconds(text: str) -> int:
    """Return an RFC 3339 time as microseconds since 1970."""
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


@dataclass(frozen=True)
class FlightsWorld:
    """What `make_world` made: a directory as ONESCORE_HOME.

    Args:
        root: with tables below .onescore/tables, models below models/, feature code below code/.
        from_ts, to_ts: the requests to replay, [from_ts, to_ts) microseconds.
    """

    root: Path
    from_ts: int
    to_ts: int

    def write_scaled(self, rows: int) -> None:
        """Write SCALED: the requests to replay, and copies of them under new ids until there are so many."""
        real = _between(self.rows(REQUESTS), "sched_dep_ts", self.from_ts, self.to_ts).combine_chunks()
        write_deltalake(self.table(SCALED), resampled_rows(real, 0, rows, rows=rows, seed=0))

    def register(self, *models: str, champion: str) -> None:
        """Register some of MODELS, in this order from version 1 on, and make one the champion."""
        client = connect_from(self.conf(), create=True)
        for model in models:
            facts = json.loads((self.bundle(model) / "model.json").read_text())
            with mlflow.start_run(run_name=model):
                version = register(client, "flights", self.bundle(model), [], facts)
            if model == champion:
                client.set_registered_model_alias("flights", "champion", version.version)

    def conf(self, *overrides: str) -> Conf:
        """Return the flights' configuration with this directory as its home and these features."""
        reference = f"model.feature_set={_reference('reference')}"
        return load("local", "flights", (reference, *overrides), root=self.root)

    def bundle(self, model: str) -> Path:
        """Return the directory of one of MODELS."""
        return self.root / "models" / model

    def digest(self, model: str) -> str:
        """Return its digest."""
        return bundle_digest(self.bundle(model))

    def version(self, model: str) -> str:
        """Return under which version one of MODELS serves."""
        return {"reference": "2", "older": "1", "changed": "3", "older_changed": "4"}[model]

    def table(self, name: str) -> str:
        """Return where a table is."""
        return str(self.root / ".onescore" / "tables" / name)

    def rows(self, name: str) -> pa.Table:
        """Return a table's rows."""
        return DeltaTable(self.table(name)).to_pyarrow_table()


def make_world(root: Path, hours: int = 48) -> FlightsWorld:
    """Make the tables of five weeks, learn from the week before SPLIT, and leave `hours` after it to replay.

    Args:
        root: an empty directory.
        hours: 1 to 96.
    """
    world = FlightsWorld(root, microseconds(SPLIT), microseconds(SPLIT) + hours * HOUR)
    _write_tables(world)
    with _code(root):
        _write_models(world)
    return world


def _write_tables(world: FlightsWorld) -> None:
    tables = parse_source(locate_files())
    until = microseconds(_UNTIL)
    for name in ("flights_arrivals", "flights_departures", "weather"):
        tables[name] = _between(tables[name], "event_ts", microseconds(_EVENTS_FROM), until)
    requests = _between(tables[REQUESTS], "sched_dep_ts", microseconds(_LEARN_FROM), world.to_ts)
    made = {name: tables[name] for name in ("weather", "planes", "flights_outcomes")}
    made[REQUESTS] = _booked(requests)
    for view in load_reference("feature_pipelines.features.flights:FEATURES").views:
        if view.name in _SOURCES:
            made[view.name] = history_from_arrow(view, tables[_SOURCES[view.name]])
    for name, rows in made.items():
        write_deltalake(world.table(name), rows)


def _between(rows: pa.Table, column: str, from_ts: int, to_ts: int) -> pa.Table:
    times = rows.column(column).cast(pa.int64()).to_numpy()
    return rows.filter(pa.array((times >= from_ts) & (times < to_ts)))


def _booked(requests: pa.Table) -> pa.Table:
    """Add what a booking has: an odd identifier beyond 2^53, and a load, which every seventh flight or so lacks."""
    digests = [hashlib.sha256(f.encode()).digest() for f in requests.column("flight_id").to_pylist()]
    numbers = [int.from_bytes(digest[:8], "big") for digest in digests]
    ids = [_BEYOND_DOUBLE + (number >> 3) // 2 * 2 + 1 for number in numbers]
    loads = [int.from_bytes(digest[8:15], "big") / 2**56 * 40 for digest in digests]
    without = np.array([digest[16] % 7 == 0 for digest in digests])
    requests = requests.append_column("booking_id", pa.array(ids, pa.int64()))
    return requests.append_column("load_t", pa.array(loads, pa.float64(), mask=without))


def _write_models(world: FlightsWorld) -> None:
    features = load_reference(_reference("reference"))
    data = build_training_set(world.conf(f"train.split_at={SPLIT}"), features)
    learned = np.flatnonzero(~data.held_out)
    shown = data.part(np.arange(0, len(data), max(1, len(data) // 300)))
    n_shown = len(np.arange(0, len(data), max(1, len(data) // 300)))
    for fit, rows, n_trees in (("reference", learned, 40), ("older", learned[: len(learned) // 2], 25)):
        constants, estimator = _fit(features, data, rows, n_trees)
        for code, name in (("reference", fit), ("changed", "older_changed" if fit == "older" else "changed")):
            write_bundle(
                world.bundle(name),
                name="flights",
                reference=_reference(code),
                constants=constants,
                estimator=estimator,
                output=OutputSpec("classification", 0.5),
                columns=shown,
                n_rows=n_shown,
                tolerance_ulps=_TOLERANCE,
            )


def _fit(features: FeatureSet, data: TrainingSet, rows: Any, n_trees: int) -> tuple[dict[str, Any], Any]:
    columns = {name: take(column, rows) for name, column in data.columns.items()}
    constants = fit_constants(features, columns)
    matrix = evaluate(features, columns, constants_from_json(constants), len(rows))
    estimator = HistGradientBoostingClassifier(max_iter=n_trees, max_leaf_nodes=15, random_state=n_trees)
    return constants, estimator.fit(matrix.T, data.label[rows])


def _reference(code: str) -> str:
    return f"{_CODE[code]}.booked:FEATURES"


@contextmanager
def _code(root: Path) -> Iterator[None]:
    """Write both packages of feature code, and make them importable."""
    source = Path(next(iter(feature_pipelines.features.__path__)))
    for code, package in _CODE.items():
        directory = root / "code" / package
        directory.mkdir(parents=True)
        for name in ("flights.py", "flight_history.py", "calendar.py"):
            shutil.copy(source / name, directory / name)
        (directory / "__init__.py").write_text('"""Features of booked flights."""\n')
        (directory / "booked.py").write_text(_BOOKED.lstrip())
        if code == "changed":
            text = (directory / "flights.py").read_text()
            if text.count(_BEFORE) != 1:
                raise ValueError(f"the function to change, {CHANGED}, does not read as it did")
            (directory / "flights.py").write_text(text.replace(_BEFORE, _AFTER))
    sys.path.insert(0, str(root / "code"))
    try:
        yield
    finally:
        sys.path.remove(str(root / "code"))
        for name in [name for name in sys.modules if name.partition(".")[0] in _CODE.values()]:
            del sys.modules[name]
