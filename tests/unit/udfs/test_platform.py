from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from udfs import platform as platform_module
from udfs.platform import describe_platform, platform_id

PROGRAM = "import json; from udfs.platform import *; print(json.dumps([platform_id(), describe_platform()]))"


def in_another_process(environment: dict[str, str], root: Path) -> tuple[str, dict[str, object]]:
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    identity, description = json.loads(answer.stdout)
    return identity, description


def test_description_names_what_can_change_the_last_bit() -> None:
    description = describe_platform()
    assert description.keys() == {"machine", "libc", "libm", "numpy_dispatch", "blas", "libraries"}
    assert description["libraries"]["numpy"] == np.__version__
    assert "scikit-learn" in description["libraries"]
    assert description["numpy_dispatch"] == sorted(description["numpy_dispatch"])
    assert description["blas"]
    assert description["blas"] != ["unknown"]


def test_boosters_are_named_as_they_were_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of XGBoost there are two distributions of one library, each built in its own way."""
    for installed in ("xgboost", "xgboost-cpu", "lightgbm"):
        versions = {"numpy": np.__version__, installed: "3.2.0"}
        monkeypatch.setattr(platform_module, "_version", versions.get)
        assert describe_platform()["libraries"] == versions


def test_id_is_the_same_in_every_process_of_a_machine(process_env: dict[str, str], root: Path) -> None:
    identity, description = in_another_process({**process_env, "OMP_NUM_THREADS": "1"}, root)
    assert identity == platform_id()
    assert description == describe_platform()
    assert len(identity) == 16


def test_id_does_not_depend_on_what_was_imported_before(process_env: dict[str, str], root: Path) -> None:
    """A worker without scikit-learn in memory stands on the same platform as a driver with it."""
    command = [sys.executable, "-c", "import sklearn.linear_model, scipy.linalg; " + PROGRAM]
    answer = subprocess.run(command, cwd=root, env=process_env, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)[0] == in_another_process(process_env, root)[0]


def test_id_differs_where_numpy_may_not_use_a_cpu_feature(process_env: dict[str, str], root: Path) -> None:
    usable = [
        name
        for name in ("AVX512_SKX", "X86_V4", "AVX512F", "AVX2", "X86_V3", "FMA3")
        if name in describe_platform()["numpy_dispatch"]
    ]
    for name in usable:
        try:
            identity, _ = in_another_process({**process_env, "NPY_DISABLE_CPU_FEATURES": name}, root)
        except subprocess.CalledProcessError:
            continue  # this numpy was built for that feature and cannot do without
        if identity != platform_id():
            return
    if usable:
        pytest.fail(f"no change of {usable} changed the id")
    pytest.skip("numpy dispatches on none of the features that this test switches off")
