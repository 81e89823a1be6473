"""Estimators are stored as arrays and plain values, boosters in their library's own format, and nothing else is constructed."""

from __future__ import annotations

import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from xgboost import XGBClassifier, XGBRegressor

from feature_pipelines.errors import ModelIntegrityError
from tests.toy.measurements import real_rows
from tests.toy.pickles import pickles_in
from udfs.stored_estimator import _TRUSTED_TYPES, dump_estimator, libraries_of, load_estimator

SMALL = {"n_estimators": 8, "n_jobs": 1}
BOOSTED = {
    "lightgbm classifier": LGBMClassifier(**SMALL, verbosity=-1),
    "lightgbm regressor": LGBMRegressor(**SMALL, verbosity=-1),
    "lightgbm in a pipeline": make_pipeline(StandardScaler(), LGBMClassifier(**SMALL, verbosity=-1)),
    "xgboost classifier": XGBClassifier(**SMALL),
    "xgboost regressor": XGBRegressor(**SMALL),
    "xgboost calibrated": CalibratedClassifierCV(XGBClassifier(**SMALL), cv=2),
}


def answer(estimator: Any, rows: Any) -> bytes:
    ask = getattr(estimator, "predict_proba", estimator.predict)
    return bytes(np.ascontiguousarray(ask(rows)).tobytes())


@pytest.mark.parametrize("name", BOOSTED)
def test_boosted_trees_come_back_with_their_bits_and_without_a_pickle(name: str, tmp_path: Path) -> None:
    rows, label = real_rows("regression" if "regressor" in name else "classification")
    rows[::9, 2] = np.nan
    estimator = BOOSTED[name].fit(rows, label)
    before = answer(estimator, rows)

    loaded = dump_estimator(tmp_path / "estimator.skops", estimator)

    assert type(loaded) is type(estimator)
    assert answer(loaded, rows) == before
    assert answer(load_estimator((tmp_path / "estimator.skops").read_bytes()), rows) == before
    assert answer(estimator, rows) == before  # its boosters were put back
    assert libraries_of(loaded) == libraries_of(estimator) == [name.partition(" ")[0]]
    assert pickles_in(tmp_path) == []
    with zipfile.ZipFile(tmp_path / "estimator.skops") as archive:
        assert all(n == "schema.json" or n.endswith(".npy") for n in archive.namelist())
        assert "Booster" not in {
            part["__class__"] for part in nodes(archive.read("schema.json")) if "__class__" in part
        }


def nodes(schema: bytes) -> list[dict[str, Any]]:
    """Return every object of a schema."""
    import json

    found: list[dict[str, Any]] = []
    json.loads(schema, object_hook=lambda part: found.append(part) or part)
    return found


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_the_best_iteration_of_early_stopping_comes_back(library: str, tmp_path: Path) -> None:
    rows, label = real_rows("classification")
    rows = np.random.default_rng(0).permutation(rows.T).T + np.random.default_rng(1).normal(0, 20, rows.shape)
    settings: dict[str, Any] = {"n_estimators": 80, "n_jobs": 1, "early_stopping_rounds": 3}
    if library == "lightgbm":
        estimator: Any = LGBMClassifier(**settings, verbosity=-1)
        estimator.fit(rows[:250], label[:250], eval_set=[(rows[250:], label[250:])])
        best = estimator.best_iteration_
    else:
        estimator = XGBClassifier(**settings)
        estimator.fit(rows[:250], label[:250], eval_set=[(rows[250:], label[250:])], verbose=False)
        best = estimator.best_iteration
    assert best < 70  # it did stop early
    loaded = dump_estimator(tmp_path / "e", estimator)
    assert answer(loaded, rows) == answer(estimator, rows)


def test_scikit_learn_alone_needs_no_other_library() -> None:
    assert libraries_of(LinearRegression()) == []


@pytest.mark.parametrize("booster", ["nothing", "floats", "nonsense"])
@pytest.mark.parametrize("kind", [LGBMRegressor, XGBRegressor])
def test_what_is_no_booster_is_refused(kind: Any, booster: str) -> None:
    rows, label = real_rows("regression")
    estimator = kind(**SMALL, **({"verbosity": -1} if kind is LGBMRegressor else {})).fit(rows, label)
    estimator._Booster = {
        "nothing": None,
        "floats": np.ones(3),
        "nonsense": np.frombuffer(b"nonsense\n" * 9, np.uint8),
    }[booster]
    wanted = "cannot read the model's booster" if booster == "nonsense" else "holds no booster in"
    with pytest.raises(ModelIntegrityError, match=wanted):
        load_estimator(skops.io.dumps(estimator))


def test_an_objective_of_ones_own_is_not_stored(tmp_path: Path) -> None:
    """It would be code, and the model runs code of its features alone."""
    rows, label = real_rows("regression")

    estimator = XGBRegressor(**SMALL).fit(rows, label)
    estimator.objective = types.SimpleNamespace()
    with pytest.raises(ModelIntegrityError, match=r"trusted types: types\.SimpleNamespace"):
        dump_estimator(tmp_path / "e", estimator)
    assert answer(estimator, rows)  # its booster was put back


def test_the_libraries_own_booster_classes_are_not_trusted() -> None:
    rows, label = real_rows("regression")
    for estimator in (LGBMRegressor(**SMALL, verbosity=-1), XGBRegressor(**SMALL)):
        content = skops.io.dumps(estimator.fit(rows, label))
        with pytest.raises(ModelIntegrityError, match=r"(lightgbm\.basic|xgboost\.core)\.Booster"):
            load_estimator(content)


def test_each_trusted_type_exists() -> None:
    import importlib

    for name in _TRUSTED_TYPES:
        module, _, kind = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), kind), type)


def test_what_lies_between_the_fields_of_a_trees_nodes_is_not_stored(tmp_path: Path) -> None:
    rows, outcome = real_rows("regression")
    written = []
    for seed in (1, 2):
        estimator = DecisionTreeRegressor(max_depth=3, random_state=0).fit(rows[:200], outcome[:200])
        state = estimator.tree_.__getstate__()
        nodes = state["nodes"]
        noisy = np.frombuffer(
            np.random.default_rng(seed).bytes(nodes.nbytes), dtype=nodes.dtype, count=len(nodes)
        ).copy()
        for name in nodes.dtype.names:
            noisy[name] = nodes[name]
        estimator.tree_.__setstate__({**state, "nodes": noisy})
        loaded = dump_estimator(tmp_path / "estimator.skops", estimator)
        written.append((tmp_path / "estimator.skops").read_bytes())
        assert np.array_equal(loaded.predict(rows), estimator.predict(rows))
    assert written[0] == written[1]
