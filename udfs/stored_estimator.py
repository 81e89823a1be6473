"""A fitted estimator in a file: skops's schema and arrays, no pickle, and only types that a list names.

The boosters of LightGBM and XGBoost are put in as arrays of bytes in those libraries' own model formats (LightGBM's text, XGBoost's
UBJSON), which later versions of them read; what skops would store of XGBoost is its memory, which only the same version reads. So
their Booster classes are not on the list: the bytes go to the library's own reader. It knows nothing of bundles.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.errors import ModelIntegrityError
from udfs.scorer import parts_of

__all__ = ["dump_estimator", "libraries_of", "load_estimator"]

_TRUSTED_TYPES = frozenset(
    {
        # what LightGBM's wrapper keeps its best scores in
        "collections.OrderedDict",
        # wrappers: their parameters and classes; the boosters in them are bytes here
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
        # the fitted members of voting and stacking, by name: a dict
        "sklearn.utils._bunch.Bunch",
        # the fitted copies in a CalibratedClassifierCV, and their sigmoid
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        # trees: arrays of nodes
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
        # nearest neighbours' index and its metric
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._kd_tree.KDTree",
        # what a multilayer perceptron was fitted by: numbers that predict does not read
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)
"""Types beside those that skops itself trusts: public estimators of scikit-learn, numpy and plain Python. Each is constructed from
plain values and arrays alone, and none calls what it is given."""

_BOOSTERS = ("lightgbm", "xgboost")
_SCHEMA = "schema.json"


def dump_estimator(path: Path, estimator: Any) -> Any:
    """Write a fitted estimator and return it as `load_estimator` gives it back, for the caller to compare.

    Equal estimators give equal bytes.

    Args:
        path: of the file.
        estimator: comes out as it went in.

    Raises:
        ModelIntegrityError: it contains a type that is not on the list.
    """
    import skops.io

    with _boosters_as_bytes(estimator):
        content = _stable(skops.io.dumps(estimator))
    path.write_bytes(content)
    return load_estimator(content)


def _stable(content: bytes) -> bytes:
    """Return skops's archive without the time of writing and what lies between fields, and with numbers in the order of the schema where
    it has addresses in memory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: _without_padding(name, archive.read(name)) for name in archive.namelist()}
    schema = json.loads(files.pop(_SCHEMA))
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left.extend(reversed(node))
        elif isinstance(node, dict):
            if "__id__" in node:
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(node.get("file"), str) and node["file"] in files:
                suffix = node["file"].rpartition(".")[2]
                node["file"] = names.setdefault(node["file"], f"{len(names)}.{suffix}")
            left.extend(reversed(node.values()))
    renamed = {new: files[old] for old, new in names.items()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, part in {**renamed, _SCHEMA: json.dumps(schema, indent=2).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), part)  # of 1980
    return written.getvalue()


def _without_padding(name: str, content: bytes) -> bytes:
    """Return a file with zeros between the fields of an array's records, where a tree's nodes have whatever the memory had."""
    if not name.endswith(".npy"):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    written = io.BytesIO()
    np.save(written, clean, allow_pickle=False)
    return written.getvalue()


def load_estimator(content: bytes) -> Any:
    """Load an estimator of types that skops trusts or that our own list names; nothing else is ever constructed.

    Raises:
        ModelIntegrityError: another type is in it, or a booster that its library cannot read.
    """
    import skops.io

    untrusted = set(skops.io.get_untrusted_types(data=content)) - _TRUSTED_TYPES
    if untrusted:
        raise ModelIntegrityError(
            f"the model's estimator contains {len(untrusted)} type(s) that are not on the list of trusted types: "
            f"{', '.join(sorted(untrusted)[:5])}",
            untrusted=sorted(untrusted),
        )
    estimator = skops.io.loads(content, trusted=sorted(_TRUSTED_TYPES))
    given = _given_members(estimator)
    for part in _boosted_parts(estimator):
        library = _library(part)
        stored = part._Booster
        if stored is None and id(part) in given:
            continue
        if not (isinstance(stored, np.ndarray) and stored.dtype == np.uint8):
            raise ModelIntegrityError(
                f"the model's {type(part).__name__} holds no booster in {library}'s format"
            )
        try:
            part._Booster = _READERS[library](part, stored)
        except Exception as exc:  # each library has an error class of its own
            said = str(exc).partition("\n")[0][:200]
            raise ModelIntegrityError(f"{library} cannot read the model's booster: {said}") from exc
    return estimator


def libraries_of(estimator: Any) -> list[str]:
    """Return the libraries beside scikit-learn that an estimator or a part of it comes from, sorted: "lightgbm", "xgboost"."""
    return sorted({_library(part) for part in parts_of(estimator)} & set(_BOOSTERS))


def _library(part: Any) -> str:
    return type(part).__module__.partition(".")[0]


def _boosted_parts(estimator: Any) -> list[Any]:
    return [part for part in parts_of(estimator) if _library(part) in _BOOSTERS and "_Booster" in vars(part)]


def _given_members(estimator: Any) -> set[int]:
    """Return the ids of what voting and stacking were given, of which they fitted copies."""
    ensembles = [part for part in parts_of(estimator) if {"estimators", "estimators_"} <= vars(part).keys()]
    given = [[one.estimators, getattr(one, "final_estimator", None)] for one in ensembles]
    return {id(part) for part in parts_of(given)}


@contextmanager
def _boosters_as_bytes(estimator: Any) -> Iterator[None]:
    """Put arrays of bytes in the place of boosters, for a time; of an estimator that nobody else uses meanwhile."""
    kept = [(part, part._Booster) for part in _boosted_parts(estimator) if part._Booster is not None]
    try:
        for part, booster in kept:
            part._Booster = np.frombuffer(_WRITERS[_library(part)](booster), dtype=np.uint8)
        yield
    finally:
        for part, booster in kept:
            part._Booster = booster


def _write_lightgbm(booster: Any) -> bytes:
    text: str = booster.model_to_string(num_iteration=-1)
    return text.encode()


def _write_xgboost(booster: Any) -> bytes:
    return bytes(booster.save_raw("ubj"))


def _read_lightgbm(part: Any, stored: NDArray[np.uint8]) -> Any:
    import lightgbm

    booster = lightgbm.Booster(model_str=stored.tobytes().decode())
    booster.best_iteration = part._best_iteration  # the text does not hold it
    return booster


def _read_xgboost(part: Any, stored: NDArray[np.uint8]) -> Any:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(stored.tobytes()))
    return booster


_WRITERS: dict[str, Callable[[Any], bytes]] = {"lightgbm": _write_lightgbm, "xgboost": _write_xgboost}
_READERS: dict[str, Callable[[Any, NDArray[np.uint8]], Any]] = {
    "lightgbm": _read_lightgbm,
    "xgboost": _read_xgboost,
}
