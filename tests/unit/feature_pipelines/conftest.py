"""A feature package written to disk, so that tests can change its source and import it again."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from feature_pipelines.definitions import FeatureSet

TABLES = '''"""Tables."""
import numpy as np

from feature_pipelines.columns import Float64

RATES = {"UA": 1.5}
OTHER = {"UA": 2.5}
LIMITS = []
LIMITS.append(250.0)


def capped(speed: Float64) -> Float64:
    """Cap it."""
    return np.minimum(speed, LIMITS[0])


def unused(speed: Float64) -> Float64:
    return speed * 3
'''

FEATURES = '''"""Features of a toy."""
import numpy as np

from feature_pipelines.columns import Float64, String, Timestamp
from feature_pipelines.definitions import FeatureSet, FeatureView, Fitted
from feature_pipelines.schema import Field, Schema

from .tables import RATES, capped

SCALE = 2.0


def carrier_rate(carrier: String) -> Float64:
    """Rate of the airline."""
    return carrier.lookup(RATES, SCALE)  # a comment


def speed_share(speed: Float64, *, mean_speed: float) -> Float64:
    return _half(capped(speed)) / mean_speed


def _half(value: Float64) -> Float64:
    return value / 2


def mean_of(speed: Float64) -> float:
    return float(np.mean(speed))


TOY = FeatureSet(
    name="toy",
    request=Schema((Field("carrier", String), Field("speed", Float64), Field("t", Timestamp))),
    views=(FeatureView("plane", {"code": "carrier"}, Schema((Field("year", Float64),)), ttl_seconds=60),),
    as_of="t",
    features=(carrier_rate, speed_share),
    fitted=(Fitted("mean_speed", mean_of, ("speed",)),),
)
'''

Toy = Callable[[Mapping[str, tuple[str, str]]], tuple[str, FeatureSet]]
_NUMBER = itertools.count()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """Write the package under a new name, with a replacement in each named module, and import it: (name, feature set)."""
    made = []

    def make(changes: Mapping[str, tuple[str, str]]) -> tuple[str, FeatureSet]:
        package = f"toy_features_{next(_NUMBER)}"
        directory = tmp_path / "src" / package
        directory.mkdir(parents=True)
        made.append(package)
        (directory / "__init__.py").write_text("")
        for name, source in {"tables": TABLES, "features": FEATURES}.items():
            old, new = changes.get(name, ("", ""))
            if old not in source:
                raise LookupError(old)
            (directory / f"{name}.py").write_text(source.replace(old, new, 1) if old else source + new)
        monkeypatch.syspath_prepend(str(tmp_path / "src"))
        importlib.invalidate_caches()
        return package, importlib.import_module(f"{package}.features").TOY

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] in made]:
        del sys.modules[name]
