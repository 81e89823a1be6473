"""Features that kill or hold up whoever evaluates them on certain rows, for tests of what such a row costs others."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression

from feature_pipelines.columns import Float64, Int64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import constants_from_json, evaluate
from feature_pipelines.schema import Field, Schema

__all__ = ["DEADLY", "FEATURES", "HANGING", "SLOW", "STUCK", "write_poison_bundle"]

DEADLY, HANGING, SLOW, STUCK = 666.0, 777.0, 555.0, 888.0


def doubled(dose: Float64) -> Float64:
    """Twice the dose; 666 ends the process, 777 takes an hour, 888 as well without ever letting go of
    the interpreter, and 555 half a second. Null where it is."""
    if (dose == 666.0).any():
        os.kill(os.getpid(), signal.SIGKILL)
    if (dose == 777.0).any():
        time.sleep(3_600)
    if (dose == 888.0).any():
        re.match(r"(a+)+$", "a" * 60 + "b")
    if (dose == 555.0).any():
        time.sleep(0.5)
    return dose * 2


FEATURES = FeatureSet(
    name="poison",
    request=Schema((Field("id", Int64, "identifies the row"), Field("dose", Float64, "how much"))),
    features=(doubled,),
    row_id=("id",),
)


def write_poison_bundle(directory: Path) -> None:
    """Write a model of these features."""
    from udfs.bundle import write_bundle
    from udfs.scorer import OutputSpec

    n = 50
    columns = {"id": np.arange(n), "dose": np.linspace(1, 50, n)}
    matrix = evaluate(FEATURES, columns, constants_from_json({}), n)
    write_bundle(
        directory,
        name="poison",
        reference="tests.toy.poison:FEATURES",
        constants={},
        estimator=LinearRegression().fit(matrix.T, matrix[0]),
        output=OutputSpec("regression"),
        columns=columns,
        n_rows=n,
    )
