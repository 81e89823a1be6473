"""L8, for features: the same bits with and without the processor's vector instructions.

The built-in features use + - * /, comparisons, table look-ups and exact integers alone, so numpy may dispatch as it likes and no
libm takes part. `np.exp` in the same process shows that the switch does switch something.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_pipelines.evaluate import evaluate
from feature_pipelines.features import calendar, flights
from feature_pipelines.features.flights import FEATURES
from tests.laws.flight_rows import flight_columns, flight_constants

ROOT = Path(__file__).resolve().parents[2]
N_ROWS = 3_000

SCRIPT = """
from tests.laws.test_portable_bits import probe
print(probe())
"""
NOT_PORTABLE = {
    "sin",
    "cos",
    "tan",
    "exp",
    "log",
    "log1p",
    "expm1",
    "power",
    "hypot",
    "arctan2",
    "dot",
    "matmul",
    "sum",
    "mean",
    "std",
}


def probe() -> str:
    """Return digests: of every feature's bits, of a function that does depend on dispatch, and what numpy dispatches to."""
    matrix = evaluate(FEATURES, flight_columns(N_ROWS, seed=5), flight_constants(), N_ROWS)
    features = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in matrix]
    canary = hashlib.sha256(np.exp(np.arange(1, 100_000) / 5_000.0).tobytes()).hexdigest()[:16]
    return " ".join([canary, *features])


def dispatched_features() -> list[str]:
    """Return the instruction sets beyond numpy's baseline that this processor has and this build of numpy uses."""
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index,call-overload]
    return found


def probe_without(instruction_sets: list[str]) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NPY_DISABLE_CPU_FEATURES": " ".join(instruction_sets)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split()


@pytest.mark.skipif(
    not dispatched_features(), reason="numpy uses no instructions beyond its baseline on this processor"
)
def test_features_have_the_same_bits_without_vector_instructions() -> None:
    here = probe().split()
    without = probe_without(dispatched_features())
    differing = [
        name for name, a, b in zip(FEATURES.feature_names, here[1:], without[1:], strict=True) if a != b
    ]
    assert differing == []


@pytest.mark.skipif(
    "AVX512_SKX" not in dispatched_features() and "X86_V4" not in dispatched_features(),
    reason="needs AVX-512",
)
def test_the_probe_would_notice_another_dispatch() -> None:
    assert probe().split()[0] != probe_without(dispatched_features())[0]


@pytest.mark.parametrize("module", [flights, calendar], ids=lambda m: m.__name__.rpartition(".")[2])
def test_feature_modules_call_nothing_whose_bits_differ_between_machines(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert called & NOT_PORTABLE == set()
    assert imported <= {"numpy"}
