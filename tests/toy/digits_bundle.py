"""The digits example as a bundle, without tables, Spark or MLflow: real pictures for what shows pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.features.digits import FEATURES
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.ingest_digits import write_png
from udfs.bundle import write_bundle
from udfs.scorer import OutputSpec

__all__ = ["digit_files", "write_digits_bundle"]


def digit_files(n: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Return n handwritten digits as (name, PNG), from one on in the order of scikit-learn."""
    images = load_digits().images[start : start + n]
    bright = (images * (255 / 16)).round().astype(np.uint8)
    return [(f"digit-{start + i:04d}.png", write_png(image)) for i, image in enumerate(bright)]


def write_digits_bundle(directory: Path, n: int = 400) -> None:
    """Fit a few trees on n digits and write the bundle."""
    files = digit_files(n)
    batch = pa.record_batch(
        {"image_id": [name for name, _ in files], "image": pa.array([png for _, png in files], pa.binary())}
    )
    columns, errors = columns_from_arrow(FEATURES.sources, batch)
    if errors:
        raise ValueError(errors[0])
    constants = fit_constants(FEATURES, columns)
    matrix = evaluate(FEATURES, columns, constants_from_json(constants), n)
    labels = load_digits().target[:n].astype(str)
    write_bundle(
        directory,
        name="digits",
        reference="feature_pipelines.features.digits:FEATURES",
        constants=constants,
        estimator=ExtraTreesClassifier(n_estimators=20, random_state=0).fit(matrix.T, labels),
        output=OutputSpec("classification", classes=tuple(map(str, range(10)))),
        columns=columns,
        n_rows=n,
    )
