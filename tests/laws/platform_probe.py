"""What one process, on the platform that its environment makes of this machine, says of features, trees and models.

python -m tests.laws.platform_probe DIRECTORY      prints JSON; the directory is what `write_models` wrote
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.features.flights import FEATURES
from tests.laws.flight_rows import flight_columns, flight_constants
from tests.toy.not_portable import write_not_portable
from udfs.bundle import load_bundle, write_bundle
from udfs.online import OnlineScorer
from udfs.platform import platform_id
from udfs.scorer import OutputSpec
from udfs.trees import FlatTrees

__all__ = ["TOLERANCES", "TREES", "probe", "write_models"]

N_ROWS = 1_500
TREES = {
    "classifier": (HistGradientBoostingClassifier, OutputSpec("classification", 0.5)),
    "regressor": (HistGradientBoostingRegressor, OutputSpec("regression")),
}
TOLERANCES = {"strict": ("distance_squared", 0), "tolerant": ("decay", 16)}
"""Two models whose features are not portable: the feature that is the score, and the tolerance that is recorded."""


def write_models(directory: Path) -> None:
    """Write models of flights with flat trees, and those that are not portable."""
    columns = flight_columns(N_ROWS, seed=5)
    constants = fit_constants(FEATURES, columns)
    matrix = evaluate(FEATURES, columns, constants_from_json(constants), N_ROWS)
    truth = np.nan_to_num(matrix).sum(axis=0)
    for name, (kind, output) in TREES.items():
        target = truth > np.median(truth) if output.threshold else truth
        write_bundle(
            directory / name,
            name=name,
            reference="feature_pipelines.features.flights:FEATURES",
            constants=constants,
            estimator=kind(max_iter=20, random_state=0).fit(matrix.T, target),
            output=output,
            columns=columns,
            n_rows=N_ROWS,
        )
    for name, (scored, tolerance) in TOLERANCES.items():
        write_not_portable(directory / name, scored=scored, tolerance_ulps=tolerance)


def probe(directory: Path) -> dict[str, Any]:
    """Return digests of bits, and what loading each model gives.

    `canaries` change where numpy, the C library or the BLAS compute otherwise, which shows that there is another platform at all.
    """
    matrix = evaluate(FEATURES, flight_columns(N_ROWS, seed=5), flight_constants(), N_ROWS)
    points = np.arange(1, 100_000) / 5_000.0
    random = np.random.default_rng(0)
    found: dict[str, Any] = {
        "platform_id": platform_id(),
        "canaries": {
            "numpy": digest(np.exp(points)),
            "libm": digest(np.array([math.exp(-x) for x in points.tolist()])),
            "blas": digest(random.normal(size=(2_000, 40)) @ random.normal(size=40)),
        },
        "features": dict(zip(FEATURES.feature_names, map(digest, matrix), strict=True)),
        "margins": {},
        "scores": {},
        "loaded": {name: loaded(directory / name, False) for name in (*TREES, *TOLERANCES)},
        "allowed": {name: loaded(directory / name, True) for name in TOLERANCES},
    }
    for name in TREES:
        trees = FlatTrees.load((directory / name / "trees.npz").read_bytes())
        found["margins"][name] = digest(dataclasses.replace(trees, link="identity").score(matrix))
        found["scores"][name] = trees.score(matrix).view(np.int64).tolist()
    return found


def loaded(bundle: Path, allow_tolerance: bool) -> dict[str, Any]:
    """Return why a model is refused, or what its answers say of it."""
    try:
        scorer = load_bundle(bundle, allow_tolerance=allow_tolerance)
    except ModelIntegrityError as refused:
        return {"refused": str(refused), "features": refused.evidence["features"]}
    said = {"verified": scorer.verified}
    if bundle.name in TOLERANCES:
        (answer,) = OnlineScorer(scorer, None, clock=lambda: 0).answer([{"row": 1, "distance_km": 12.5}])
        said["answer"] = answer["verified"]
    return said


def digest(values: np.ndarray[Any, Any]) -> str:
    """Return a digest of the bits."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]))))
