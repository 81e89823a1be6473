"""Which libraries are shipped, and of their files only what a function reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.serverless.package_libraries import (
    _glibc_of,
    distributions_of,
    libraries_of_model,
    library_files,
    needed_glibc,
)


def names(*libraries: str) -> list[str]:
    return [one.metadata["Name"].lower() for one in distributions_of(libraries)]


def test_flat_trees_need_numpy_alone_and_an_estimator_its_libraries() -> None:
    trees = {"certification": {"evaluator": "trees", "libraries": ["lightgbm"]}}
    library = {"certification": {"evaluator": "library", "libraries": ["xgboost"]}}
    assert libraries_of_model(trees, [], with_redis=False) == ["numpy"]
    assert libraries_of_model(trees, ["PIL"], with_redis=True) == ["PIL", "numpy", "redis"]
    assert libraries_of_model(library, [], with_redis=False) == ["numpy", "sklearn", "skops", "xgboost"]


def test_what_a_library_requires_comes_with_it() -> None:
    assert names("numpy") == ["numpy"]
    assert set(names("sklearn", "skops")) >= {
        "joblib",
        "numpy",
        "scikit-learn",
        "scipy",
        "skops",
        "threadpoolctl",
    }
    assert not set(names("sklearn", "skops")) & {"pandas", "pyarrow", "mlflow"}
    with pytest.raises(ConfigurationError, match="the model needs no_such_library, which is not installed"):
        names("no_such_library")


def test_tests_headers_and_stubs_are_left_out_and_licences_kept() -> None:
    (numpy,) = distributions_of(["numpy"])
    found = {name for name, _ in library_files(numpy)}
    assert {"numpy/__init__.py", "numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so"} & found
    assert not [name for name in found if "/tests/" in name or name.endswith((".pyi", ".h", ".a", ".pyc"))]
    facts = [name for name in found if ".dist-info/" in name]
    assert any(name.endswith("/METADATA") for name in facts)
    assert any("licen" in name.lower() for name in facts)
    assert not any(name.endswith(("RECORD", "INSTALLER", "direct_url.json")) for name in facts)


def test_oldest_c_library_is_the_one_that_every_wheel_takes() -> None:
    assert _glibc_of("Tag: cp311-cp311-manylinux2014_x86_64\nTag: cp311-cp311-manylinux_2_28_x86_64\n") == (
        2,
        17,
    )
    assert _glibc_of("Tag: py3-none-any\n") == (2, 0)
    assert needed_glibc(distributions_of(["numpy", "redis"])) >= (2, 17)


def test_distribution_that_does_not_say_its_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "silent-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1.0\n")
    with pytest.raises(ConfigurationError, match="silent is installed without its files"):
        list(library_files(metadata.PathDistribution(folder)))
