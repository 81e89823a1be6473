"""What changes the fingerprint of a feature set, and what must not."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import feature_pipelines
from feature_pipelines.columns import Float64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import DefinitionError
from feature_pipelines.features.flights import FEATURES as FLIGHTS
from feature_pipelines.fingerprint import fingerprint, module_source, reach
from feature_pipelines.schema import Field, Schema

Toy = Callable[[Mapping[str, tuple[str, str]]], tuple[str, FeatureSet]]

NOTHING_CHANGES: dict[str, dict[str, tuple[str, str]]] = {
    "a docstring": {"features": ('"""Rate of the airline."""', '"""Another text."""')},
    "a docstring that goes": {"tables": ('    """Cap it."""\n', "")},
    "a module docstring": {"features": ('"""Features of a toy."""', "")},
    "a comment": {"features": ("  # a comment", "")},
    "spaces": {"features": ("return value / 2", "return (value\n            /   2)")},
    "another spelling of a number": {"features": ("SCALE = 2.0", "SCALE = 20e-1")},
    "another spelling of a string": {"tables": ('RATES = {"UA": 1.5}', "RATES = {'UA': 1.5}")},
    "a feature that the set does not list": {
        "features": ("", "\n\ndef more(speed: Float64) -> Float64:\n    return speed\n")
    },
    "a feature with the name of a parameter": {
        "features": ("", "\n\ndef carrier(speed: Float64) -> Float64:\n    return speed\n")
    },
    "a function of the other module that nobody calls": {"tables": ("speed * 3", "speed * 4")},
    "a table that nobody reads": {"tables": ('OTHER = {"UA": 2.5}', 'OTHER = {"UA": 9.9}')},
    "an import that nobody uses": {"features": ("import numpy as np\n", "import math\nimport numpy as np\n")},
    "the order of definitions": {"tables": ('OTHER = {"UA": 2.5}\n', "")},
}

CHANGES: dict[str, dict[str, tuple[str, str]]] = {
    "the body of a feature": {"features": ("lookup(RATES, SCALE)", "lookup(RATES, -SCALE)")},
    "a constant that a feature reads": {"features": ("SCALE = 2.0", "SCALE = 2.5")},
    "a helper that a feature calls": {"features": ("value / 2", "value / 3")},
    "a table in another module": {"tables": ('RATES = {"UA": 1.5}', 'RATES = {"UA": 1.25}')},
    "a function in another module": {"tables": ("np.minimum", "np.maximum")},
    "a statement that changes a table": {"tables": ("LIMITS.append(250.0)", "LIMITS.append(300.0)")},
    "a statement that changes a table later": {"tables": ("", '\nRATES["UA"] = 7.0\n')},
    "the first value of a table that is changed later": {"tables": ("LIMITS = []", "LIMITS = [100.0]")},
    "a loop that fills a table": {"tables": ("", "\nfor i in range(3):\n    RATES[str(i)] = float(i)\n")},
    "a second definition": {
        "features": ("\n\ndef mean_of", "\n\ndef _half(value):\n    return value\n\n\ndef mean_of")
    },
    "a definition under a condition": {
        "features": (
            "\n\ndef mean_of",
            "\n\nif SCALE:\n    def _half(value):\n        return value\n\n\ndef mean_of",
        )
    },
    "the fitting function": {"features": ("np.mean(speed)", "np.median(speed)")},
    "a default": {"features": ("def _half(value: Float64)", "def _half(value: Float64 = SCALE)")},
    "where a helper is imported from": {"features": ("import numpy as np", "import math as np")},
    "a type": {"features": ("def _half(value: Float64)", "def _half(value: String)")},
    "the order of features": {"features": ("(carrier_rate, speed_share)", "(speed_share, carrier_rate)")},
    "a feature less": {"features": ("(carrier_rate, speed_share)", "(speed_share,)")},
    "a request field": {"features": ('Field("speed", Float64)', 'Field("speed", Float64, minimum=0)')},
    "a fitted constant's columns": {"features": ('mean_of, ("speed",)', 'mean_of, ("year",)')},
    "the row id": {"features": ('name="toy",', 'name="toy", row_id=("carrier",),')},
    "a view's ttl": {"features": ("ttl_seconds=60", "ttl_seconds=61")},
    "a view's key": {"features": ('{"code": "carrier"}', '{"carrier": "carrier"}')},
    "a view's field": {"features": ('Field("year", Float64)', 'Field("year", Float64, maximum=2100)')},
    "the name": {"features": ('name="toy"', 'name="joy"')},
}


@pytest.mark.parametrize("changes", NOTHING_CHANGES.values(), ids=NOTHING_CHANGES)
def test_fingerprint_does_not_change_with(changes: dict[str, tuple[str, str]], toy: Toy) -> None:
    (_, before), (_, after) = toy({}), toy(changes)
    assert fingerprint(after) == fingerprint(before)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_fingerprint_changes_with(changes: dict[str, tuple[str, str]], toy: Toy) -> None:
    (_, before), (_, after) = toy({}), toy(changes)
    assert fingerprint(after) != fingerprint(before)


def test_fingerprint_is_a_sha256_and_repeatable() -> None:
    assert len(fingerprint(FLIGHTS)) == 64
    assert fingerprint(FLIGHTS) == fingerprint(FLIGHTS)


def test_fingerprint_is_the_same_under_another_hash_seed_and_directory(tmp_path: Path) -> None:
    code = (
        "from feature_pipelines.features.flights import FEATURES; from feature_pipelines.fingerprint import fingerprint; "
        "print(fingerprint(FEATURES))"
    )
    root = Path(feature_pipelines.__file__).resolve().parents[1]
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == fingerprint(FLIGHTS)


def test_reach_names_what_is_used_and_nothing_else(toy: Toy) -> None:
    _, feature_set = toy({})
    reached = reach(feature_set).definitions
    assert {name for module, name in reached if module == "tables"} == {
        "RATES",
        "LIMITS",
        "capped",
        "np",
        "Float64",
    }
    assert {"carrier_rate", "speed_share", "_half", "mean_of", "SCALE"} <= {
        name for module, name in reached if module == "features"
    }
    assert ("features", "TOY") not in reached
    assert reached["features", "RATES"] == "from tables:RATES"


def test_reach_of_flights_has_its_tables() -> None:
    reached = reach(FLIGHTS).definitions
    assert {
        ("calendar", "WEEKDAY"),
        ("calendar", "circle"),
        ("calendar", "_pi"),
        ("flights", "_ACROSS"),
    } <= set(reached)
    assert not {name for _, name in reached} & {"FEATURES", "REQUEST", "__all__"}


def test_a_function_that_is_not_at_the_top_level_has_no_fingerprint() -> None:
    def inner(x: Float64) -> Float64:
        return x

    feature_set = FeatureSet("toy", Schema((Field("x", Float64),)), (inner,))
    with pytest.raises(
        DefinitionError, match=r"<locals>.inner: features and fits must be functions at the top level of"
    ):
        fingerprint(feature_set)


def test_a_function_that_only_shares_its_name_with_a_top_level_one_has_no_fingerprint(toy: Toy) -> None:
    inner = "def carrier_rate(carrier: String) -> Float64:\n        return carrier.lookup({}, 0.0)"
    package, feature_set = toy({"features": ("", f"\n\ndef make():\n    {inner}\n    return carrier_rate\n")})
    impostor = sys.modules[f"{package}.features"].make()
    other = FeatureSet("toy", Schema((feature_set.request["carrier"],)), (impostor,))
    with pytest.raises(
        DefinitionError, match=r"<locals>.carrier_rate: features and fits must be functions at the top level"
    ):
        fingerprint(other)


def test_functions_of_two_packages_have_no_fingerprint(toy: Toy) -> None:
    (first, one), (_, other) = toy({}), toy({})
    mixed = FeatureSet(
        "toy",
        one.request,
        (one.features[0], other.features[1]),
        views=one.views,
        as_of="t",
        fitted=one.fitted,
    )
    with pytest.raises(
        DefinitionError, match=f"speed_share: features and fits .* of modules in the package '{first}'"
    ):
        fingerprint(mixed)


def test_an_import_that_hides_what_is_used_is_refused(toy: Toy) -> None:
    change = (
        "from .tables import RATES, capped",
        "from . import tables\nfrom .tables import capped\nRATES = tables.RATES",
    )
    _, feature_set = toy({"features": change})
    with pytest.raises(
        DefinitionError, match=r"'from . import tables' hides what is used; write 'from .tables import ...'"
    ):
        fingerprint(feature_set)


def test_module_source_of_a_module_without_source_is_refused() -> None:
    with pytest.raises(DefinitionError, match="the source of made_up cannot be read; a model packages it"):
        module_source(types.ModuleType("made_up"))
