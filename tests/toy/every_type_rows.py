"""Rows with the values that storage, sessions and data frames like to change, and a registry with the model that digests them."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

from feature_pipelines.evaluate import fit_constants
from feature_pipelines.schema import to_wire
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.conf import Conf
from jobs.runs.tracking import connect_from
from tests.toy.every_type import FEATURES
from tests.toy.workspace import Workspace
from udfs.bundle import write_bundle
from udfs.registry import ModelVersion, register
from udfs.scorer import OutputSpec

__all__ = ["NEW_YORK_FOLD", "EveryType", "hard_rows", "microseconds", "wire_of"]

UTC_TIME = pa.timestamp("us", tz="UTC")


def microseconds(text: str) -> int:
    """Return microseconds since 1970-01-01T00:00Z of an ISO time with an offset."""
    since = datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(microseconds=1)


NEW_YORK_FOLD = tuple(
    microseconds(f"2013-11-03T{time}+00:00") for time in ("05:30:00", "06:30:00", "06:59:59.999999")
)
"""Times whose local time in New York occurs twice: 01:30 in summer time, 01:30 and 01:59:59.999999 in winter time."""

_TIMES = (
    0,
    -1,
    1,
    microseconds("1969-07-20T20:17:40.123457+00:00"),
    microseconds("1883-11-18T16:00:00+00:00"),  # four minutes before New York had a time zone
    microseconds("1900-01-01T00:00:00+00:00"),
    microseconds("1677-09-22T00:00:00.000001+00:00"),
    microseconds("2262-04-10T23:59:59.999999+00:00"),
    microseconds("2041-07-01T12:00:00+00:00"),  # summer time that only a rule, not a table, knows of
    microseconds("2013-03-10T06:59:59.999999+00:00"),  # the last microsecond before summer time
    microseconds("2013-03-10T07:00:00+00:00"),
    microseconds("2013-11-03T04:59:59.999999+00:00"),  # just before the hour that comes twice
    microseconds("2013-11-03T07:00:00+00:00"),  # just after it
    *NEW_YORK_FOLD,
)
_BIG = (
    0,
    -1,
    1,
    2**53 - 1,
    2**53 + 1,
    9_007_199_254_740_993,
    -(2**53) - 1,
    2**63 - 1,
    -(2**63),
    None,
    1_234_567_890_123_456_789,
)
_SMALL = (0, None, -1, 2**31 - 1, -(2**31), None, 7)
_TINY = 5e-324
_WIDE = (
    0.0,
    -0.0,
    None,
    float("nan"),
    float("inf"),
    float("-inf"),
    _TINY,
    -_TINY,
    0.1,
    1 / 3,
    1.7976931348623157e308,
    2.2250738585072011e-308,
)
_NARROW = (0.0, -0.0, None, float("nan"), float("inf"), 1e-45, 0.1, 3.4028234663852886e38, 1.1754942e-38)
_FLAG = (True, None, False)
_NAME = (
    "",
    None,
    "a",
    "\u00e9",
    "e\u0301",
    "ä\u0301",
    "NaN",
    "null",
    "x" * 300,
    "\U0001f600",
    " a ",
    "a\u0000b",
    "0",
)
_AMOUNT = ("0", None, "0.0001", "-0.0001", "99999999999999.9999", "-99999999999999.9999", "12.34", "1e3")
_PAYLOAD = (b"", None, b"\x00", bytes(range(256)), b"abc")


def hard_rows(n: int = 200, *, times: tuple[int, ...] = _TIMES) -> pa.Table:
    """Return n rows that go through every hard value of every column, in combinations that do not repeat soon."""

    def cycled(values: tuple[Any, ...], skip: int = 0) -> list[Any]:
        return [values[(i * (skip + 1) + i // len(values)) % len(values)] for i in range(n)]

    amounts = [None if text is None else Decimal(text) for text in cycled(_AMOUNT)]
    return pa.table(
        {
            "row": pa.array(range(n), pa.int64()),
            "asked_ts": pa.array(cycled(times), pa.int64()).cast(UTC_TIME),
            "seen_ts": pa.array(cycled((*times[::-1], None)), pa.int64()).cast(UTC_TIME),
            "big": pa.array(cycled(_BIG), pa.int64()),
            "small": pa.array(cycled(_SMALL), pa.int32()),
            "wide": pa.array(cycled(_WIDE), pa.float64(), from_pandas=False),
            "narrow": pa.array(
                [None if v is None else np.float32(v) for v in cycled(_NARROW)],
                pa.float32(),
                from_pandas=False,
            ),
            "flag": pa.array(cycled(_FLAG), pa.bool_()),
            "name": pa.array(cycled(_NAME), pa.string()),
            "amount": pa.array(amounts, pa.decimal128(18, 4)),
            "payload": pa.array(cycled(_PAYLOAD), pa.binary()),
        }
    )


def wire_of(rows: pa.Table) -> list[dict[str, Any]]:
    """Return such rows in the wire form.

    Raises:
        ValueError: one breaks the contract.
    """
    columns, errors = columns_from_arrow(FEATURES.request, rows.combine_chunks().to_batches()[0])
    if errors:
        raise ValueError(errors[0])
    wire = {f.name: to_wire(f, columns[f.name]) for f in FEATURES.request}
    return [{name: values[i] for name, values in wire.items()} for i in range(rows.num_rows)]


class EveryType:
    """One directory as ONESCORE_HOME with the model `every_type` in a registry of its own."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.version = self._register()

    def conf(self, *overrides: str) -> Conf:
        """Return the model's configuration with this directory as its home."""
        return self.workspace.conf(*overrides, model="every_type")

    def connect(self) -> MlflowClient:
        """Point MLflow at this directory's registry."""
        return connect_from(self.conf())

    def _register(self) -> ModelVersion:
        rows = hard_rows()
        columns, errors = columns_from_arrow(FEATURES.request, rows.combine_chunks().to_batches()[0])
        if errors:
            raise ValueError(errors[0])
        bundle = self.workspace.root / "bundle"
        write_bundle(
            bundle,
            name="every_type",
            reference="tests.toy.every_type:FEATURES",
            constants=fit_constants(FEATURES, columns),
            estimator=last_feature(len(FEATURES.features)),
            output=OutputSpec("regression"),
            columns=columns,
            n_rows=rows.num_rows,
        )
        wire = wire_of(rows)
        example = [wire[i] for i in (3, 7)]
        client = connect_from(self.conf(), create=True)
        return register(
            client, "every_type", bundle, example, json.loads((bundle / "model.json").read_text())
        )


def last_feature(n_features: int) -> LinearRegression:
    """Return an estimator whose prediction is the last feature, exactly: 1 times it, plus zeros."""
    estimator = LinearRegression().fit(np.eye(n_features), np.zeros(n_features))
    estimator.coef_ = np.eye(n_features)[-1]
    estimator.intercept_ = 0.0
    return estimator
