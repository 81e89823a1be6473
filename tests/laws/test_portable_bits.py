"""L8, for features: the modules of built-in features call nothing whose last bit depends on the machine.

They use + - * /, comparisons, table look-ups and exact integers alone, so numpy may dispatch as it likes and no libm takes part;
test_platforms shows what that is worth.
"""

from __future__ import annotations

import ast
import inspect

import pytest

from feature_pipelines.features import calendar, flights

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


@pytest.mark.parametrize("module", [flights, calendar], ids=lambda m: m.__name__.rpartition(".")[2])
def test_feature_modules_call_nothing_whose_bits_differ_between_machines(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert called & NOT_PORTABLE == set()
    assert imported <= {"numpy"}
