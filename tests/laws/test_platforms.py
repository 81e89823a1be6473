"""L8 across platforms: what keeps its bits where numpy, the C library or the BLAS compute otherwise, and what becomes of what does not.

Each platform is this machine with some of its instructions switched off, in a process of its own. Features and trees are compared
with this process; a canary shows that the switch does switch something, and where it does not, the test says so by skipping.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.laws.platform_probe import TREES, probe, write_models
from tests.toy.processors import dispatched_features

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ("NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES")
NOT_PORTABLE = {"decay", "decay_slow", "log_distance"}


PLATFORMS: dict[str, tuple[str, dict[str, str]]] = {
    "numpy's baseline": ("numpy", {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched_features())}),
    "numpy without AVX-512": (
        "numpy",
        {
            "NPY_DISABLE_CPU_FEATURES": " ".join(
                n for n in dispatched_features() if n not in ("X86_V3", "AVX2", "FMA3")
            )
        },
    ),
    "another BLAS kernel": ("blas", {"OPENBLAS_CORETYPE": "Nehalem"}),
    "libm without FMA": (
        "libm",
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable"},
    ),
}
"""By name, the canary that should change and the environment that makes the platform."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that were logged in this process, with all instructions."""
    directory = tmp_path_factory.mktemp("models")
    write_models(directory)
    return directory


@pytest.fixture(scope="module")
def here(models: Path) -> dict[str, Any]:
    """This process."""
    found: dict[str, Any] = json.loads(json.dumps(probe(models)))
    return found


@pytest.fixture(scope="module", params=PLATFORMS)
def there(request: pytest.FixtureRequest, models: Path, here: dict[str, Any]) -> dict[str, Any]:
    """Another platform, with the name of the canary that it changed as `changed`."""
    canary, environment = PLATFORMS[request.param]
    if not all(environment.values()):
        pytest.skip("numpy uses no instructions beyond its baseline on this processor")
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.platform_probe", str(models)],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    changed = {name for name, bits in found["canaries"].items() if bits != here["canaries"][name]}
    if canary not in changed:
        pytest.skip(f"{environment} changes no bit of {canary} on this processor")
    assert changed == {canary}
    return found | {"changed": canary}


def test_models_are_what_the_test_is_about(here: dict[str, Any], models: Path) -> None:
    for name in TREES:
        model = json.loads((models / name / "model.json").read_text())
        assert model["certification"]["evaluator"] == "trees"
        assert len(set(here["scores"][name])) > 100
    assert {loaded["verified"] for loaded in here["loaded"].values()} == {"verified"}


def test_platform_has_an_id_of_its_own(here: dict[str, Any], there: dict[str, Any]) -> None:
    assert there["platform_id"] != here["platform_id"]


def test_built_in_features_keep_every_bit(here: dict[str, Any], there: dict[str, Any]) -> None:
    assert there["features"] == here["features"]


def test_sums_of_flat_trees_keep_every_bit(here: dict[str, Any], there: dict[str, Any]) -> None:
    assert there["margins"] == here["margins"]


def test_scores_of_flat_trees_keep_every_bit_but_those_that_the_c_library_makes_of_a_margin(
    here: dict[str, Any], there: dict[str, Any]
) -> None:
    """A probability is 1 / (1 + exp(-margin)), by the exp of the library's own platform: all else is additions."""
    assert there["scores"]["regressor"] == here["scores"]["regressor"]
    if there["changed"] != "libm":
        assert there["scores"]["classifier"] == here["scores"]["classifier"]
    ours, theirs = (np.array(found["scores"]["classifier"]) for found in (here, there))
    assert np.abs(ours - theirs).max() <= 1  # of units in the last place
    assert (ours != theirs).mean() < 0.01


def test_flat_trees_are_verified_by_the_golden_rows(there: dict[str, Any]) -> None:
    assert there["loaded"]["regressor"] == {"verified": "verified"}
    if there["changed"] != "libm":
        assert there["loaded"]["classifier"] == {"verified": "verified"}


def test_feature_that_is_not_portable_is_caught_when_the_model_is_loaded(there: dict[str, Any]) -> None:
    if there["changed"] != "numpy":  # its functions are numpy's own
        assert {loaded["verified"] for name, loaded in there["loaded"].items() if name not in TREES} == {
            "verified"
        }
        return
    for name in ("strict", "tolerant"):
        refused = there["loaded"][name]
        assert "does not reproduce its golden rows here" in refused["refused"]
        assert set(refused["features"]) <= NOT_PORTABLE
        assert refused["features"]


def test_tolerance_is_taken_only_where_one_was_recorded_and_is_named_in_every_answer(
    there: dict[str, Any],
) -> None:
    """A model of which none was recorded is refused all the same, even if the scores of its golden rows happen to be equal."""
    if there["changed"] != "numpy":
        assert {loaded["verified"] for loaded in there["allowed"].values()} == {"verified"}
        return
    assert there["allowed"]["tolerant"] == {"verified": "tolerance", "answer": "tolerance"}
    assert "recorded tolerance 0" in there["allowed"]["strict"]["refused"]


def test_where_bits_are_equal_a_tolerance_changes_nothing(here: dict[str, Any]) -> None:
    assert here["allowed"]["tolerant"] == {"verified": "verified", "answer": "verified"}
