"""What the package says about itself is true: examples run, public names are listed and documented."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import feature_pipelines
import feature_pipelines.features

NAMES = [
    module.name
    for package in (feature_pipelines, feature_pipelines.features)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    if not module.ispkg
]


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_docstring_examples_run(module: ModuleType) -> None:
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_all_lists_names_that_exist_and_are_documented(module: ModuleType) -> None:
    public = {name: getattr(module, name) for name in module.__all__}
    undocumented = [
        name for name, item in public.items() if inspect.isroutine(item) and not inspect.getdoc(item)
    ]
    undocumented += [
        name for name, item in public.items() if inspect.isclass(item) and not vars(item).get("__doc__")
    ]
    assert not undocumented


def test_package_exports_what_all_lists() -> None:
    public = {
        name
        for name, value in vars(feature_pipelines).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(feature_pipelines.__all__)


def test_package_does_not_hide_its_modules_behind_functions() -> None:
    for name in NAMES:
        parent, _, last = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(parent), last), ModuleType), name
