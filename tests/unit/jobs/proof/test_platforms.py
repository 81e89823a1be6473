"""A platform whose kernels alone are others is had in a subprocess; any other is not, and nothing stands in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from jobs.proof.causes import Cause, explain
from jobs.proof.pairs import Pairs, Side
from jobs.proof.platforms import SubprocessReplay, environment
from jobs.proof.worlds import World
from udfs.bundle import load_bundle, write_bundle
from udfs.platform import describe_platform
from udfs.scorer import OutputSpec

HERE = describe_platform()
WIDEST = next((name for name in ("X86_V4", "AVX512_SKX") if name in HERE["numpy_dispatch"]), None)
N = 2_000


def other(**changes: Any) -> dict[str, Any]:
    return {**HERE, **changes}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("exponents") / "model"
    rate = np.random.default_rng(3).uniform(0, 3, 300)
    matrix = np.exp(rate)[:, None]
    write_bundle(
        directory,
        name="exponents",
        reference="tests.toy.exponents:FEATURES",
        constants={},
        estimator=DecisionTreeRegressor(max_depth=6, random_state=0).fit(matrix, rate),
        output=OutputSpec("regression"),
        columns={"row": np.arange(300), "rate": rate},
        n_rows=300,
        tolerance_ulps=100,
    )
    return World.of(load_bundle(directory), "1", directory)


def pairs_of(
    world: World, online: tuple[Any, Any], offline: tuple[Any, Any], columns: Any, platform: str
) -> Pairs:
    def side(matrix: Any, score: Any) -> Side:
        return Side(columns, matrix, score, None, {}, {}, np.full(N, None, dtype=np.object_))

    same = [world.version], [world.digest], [world.fingerprint], ["c"], [platform]
    of_rows = [value * N for value in same]
    times = np.zeros(N, dtype=np.int64)
    rows = [str(i) for i in range(N)]
    known = np.ones(N, dtype=np.bool_)
    return Pairs(
        rows, times, times, side(*online), side(*offline), *of_rows, known, {}, ["p"] * N, np.arange(N)
    )


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    return {"row": np.arange(N), "rate": np.random.default_rng(8).uniform(0, 3, N)}


@pytest.fixture(scope="module")
def there(world: World, columns: dict[str, Any]) -> tuple[Any, Any]:
    """What an older CPU's kernels give."""
    if WIDEST is None:
        pytest.skip("this CPU has no AVX-512, so numpy has no second kernel to replay")
    older = [name for name in HERE["numpy_dispatch"] if not name.startswith(("AVX512", "X86_V4"))]
    found = SubprocessReplay({"older": other(numpy_dispatch=older)})(world, "older", columns, N)
    assert found is not None
    return found


def replay_of(found: tuple[Any, Any], columns: dict[str, Any]) -> Any:
    """A replay that has its answers already."""

    def replay(world: World, platform: str, asked: Any, n_rows: int) -> tuple[Any, Any]:
        at = np.argsort(columns["rate"])
        rows = at[np.searchsorted(columns["rate"], asked["rate"], sorter=at)]
        assert (platform, n_rows) == ("older", len(rows))
        return found[0][:, rows], found[1][rows]

    return replay


def test_kernels_of_an_older_cpu_are_replayed_and_explain_the_rows(
    world: World, columns: dict[str, Any], there: tuple[Any, Any]
) -> None:
    scored = world.scorer.score(columns, N)
    here = scored.matrix, scored.outputs["score"]
    differs = (there[0] != here[0]).any(axis=0)
    assert 10 < differs.sum() < N / 2
    pairs = pairs_of(world, there, here, columns, "older")
    for replay, detail in ((replay_of(there, columns), "replayed"), (None, "not replayed")):
        found = explain(pairs, world, None, replay)
        assert {found.cause[i] for i in np.flatnonzero(differs)} == {Cause.PLATFORM}
        assert {found.where[i] for i in np.flatnonzero(differs)} == {"growth"}
        assert {found.detail[i] for i in np.flatnonzero(differs)} == {detail}
        assert all(found.cause[i] is None for i in np.flatnonzero(~differs))


def test_features_that_the_replayed_platform_does_not_give_are_other_code(
    world: World, columns: dict[str, Any], there: tuple[Any, Any]
) -> None:
    scored = world.scorer.score(columns, N)
    moved = np.nextafter(np.nextafter(np.nextafter(scored.matrix, 9e9), 9e9), 9e9)
    online = moved, world.scorer.evaluator.score(moved)
    pairs = pairs_of(world, online, (scored.matrix, scored.outputs["score"]), columns, "older")
    assert set(explain(pairs, world, None).cause) == {Cause.PLATFORM}
    assert set(explain(pairs, world, None, replay_of(there, columns)).cause) == {Cause.FEATURE_CODE}


def test_variables_are_found_from_two_descriptions() -> None:
    openblas = ["openblas 0.3.31 SkylakeX"]
    here = other(numpy_dispatch=["X86_V3", "X86_V4", "SSE"], blas=openblas)
    assert environment(here, here) == {}
    assert environment(here, {**here, "numpy_dispatch": ["X86_V3"]}) == {"NPY_DISABLE_CPU_FEATURES": "X86_V4"}
    assert environment(here, {**here, "numpy_dispatch": ["SSE", "X86_V3", "X86_V4", "LZCNT"]}) == {}
    haswell = {**here, "blas": ["openblas 0.3.31 Haswell"]}
    assert environment(here, haswell) == {"OPENBLAS_CORETYPE": "Haswell"}


@pytest.mark.parametrize(
    "there",
    [
        {"machine": "aarch64"},
        {"libc": "musl 1.2"},
        {"libraries": {"numpy": "1.26.4"}},
        {"numpy_dispatch": ["X86_V3", "X86_V4", "AVX512_SPR"]},
        {"blas": ["openblas 0.3.20 Haswell"]},
        {"blas": ["mkl 2024 Haswell"]},
        {"blas": ["openblas 0.3.31 Haswell", "openblas 0.3.30 Haswell"]},
    ],
    ids=["machine", "libc", "libraries", "newer cpu", "other openblas", "mkl", "two"],
)
def test_another_machine_is_not_to_be_had(there: dict[str, Any]) -> None:
    here = other(numpy_dispatch=["X86_V3", "X86_V4"], blas=["openblas 0.3.31 SkylakeX"])
    assert environment(here, {**here, **there}) is None


def test_nothing_is_replayed_without_description_bundle_or_a_process_that_scores(
    world: World, tmp_path: Path
) -> None:
    columns = {"row": np.arange(3), "rate": np.ones(3)}
    assert SubprocessReplay({})(world, "unknown", columns, 3) is None
    replay = SubprocessReplay({"same": HERE})
    without = World(world.scorer, "1", world.digest, world.fingerprint, world.platform_id)
    assert replay(without, "same", columns, 3) is None
    broken = World(world.scorer, "1", world.digest, world.fingerprint, world.platform_id, tmp_path)
    assert replay(broken, "same", columns, 3) is None
    found = replay(world, "same", columns, 3)
    assert found is not None
    assert found[1].tolist() == world.scorer.score(columns, 3).outputs["score"].tolist()
