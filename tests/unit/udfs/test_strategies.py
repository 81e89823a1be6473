"""The cheapest strategy under which an estimator keeps each row's bits is found, or none and the worst row named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from feature_pipelines.errors import ModelError, VerificationError
from udfs.scorer import LibraryEvaluator, Strategy
from udfs.strategies import STRATEGIES, choose_strategy, measure_cost

Rows = NDArray[np.float64]
ROOT = Path(__file__).resolve().parents[3]
ONE_SHAPE = {s.block_rows: s for s in STRATEGIES if s.block_rows == s.pad_rows}


class Estimator:
    """Predicts from each row alone, but for a fault that moves scores by some units in the last place."""

    def __init__(self, fault: Callable[[Rows], Any] = lambda rows: 0) -> None:
        self.fault = fault
        self.shapes: set[int] = set()

    def predict(self, rows: Rows) -> Rows:
        self.shapes.add(len(rows))
        scores = np.ascontiguousarray(2.0 + rows[:, 0])
        scores.view(np.int64)[:] += np.broadcast_to(self.fault(rows), scores.shape)
        return scores


def matrix(n: int = 200) -> Rows:
    return np.random.default_rng(0).uniform(1, 2, (2, n))


def test_estimator_that_depends_on_nothing_is_asked_as_before() -> None:
    chosen = choose_strategy(Estimator(), "regression", matrix())
    assert chosen.evaluator.strategy == Strategy() == Strategy(1024, 8, "zero", False)
    assert chosen.rejected == []
    assert chosen.certificate.is_invariant


@pytest.mark.parametrize("size", [256, 64, 24, 8, 1])
def test_estimator_whose_bits_depend_on_the_shape_gets_blocks_of_one_shape(size: int) -> None:
    """Right at up to `size` rows, as a BLAS is that has another kernel for larger ones, in which the place counts."""

    def fault(rows: Rows) -> Any:
        return 0 if len(rows) == size else np.arange(len(rows)) % 5 * (len(rows) % 7 + 1)

    estimator = Estimator(fault)
    chosen = choose_strategy(estimator, "regression", matrix())
    assert chosen.evaluator.strategy == Strategy(size, size, "row", one_thread=True)
    assert [one["strategy"] for one in chosen.rejected] == [
        s.to_json() for s in STRATEGIES[: STRATEGIES.index(chosen.evaluator.strategy)]
    ]
    assert all(one["condition"]["differing"] > 0 for one in chosen.rejected if "condition" in one)
    estimator.shapes.clear()
    few = matrix(10)
    alone = [chosen.evaluator.score(np.ascontiguousarray(few[:, i : i + 1])) for i in range(10)]
    assert np.concatenate(alone).tolist() == chosen.evaluator.score(few).tolist() == (2.0 + few[0]).tolist()
    assert estimator.shapes == {size}


def test_estimator_whose_bits_depend_on_native_threads_is_held_at_one() -> None:
    def fault(rows: Rows) -> int:
        return int(any(pool["num_threads"] > 1 for pool in threadpool_info()))

    with threadpool_limits(1):
        chosen = choose_strategy(Estimator(fault), "regression", matrix(20))
        assert chosen.evaluator.strategy == Strategy(one_thread=True)
        assert chosen.rejected[0]["condition"]["name"] == "2 to 4 native threads"
        with threadpool_limits(2):
            assert chosen.evaluator.score(matrix(3)).tolist() == (2.0 + matrix(3)[0]).tolist()


def test_estimator_that_refuses_zeros_gets_blocks_filled_with_a_row() -> None:
    class NoZeros(Estimator):
        def predict(self, rows: Rows) -> Rows:
            if (rows == 0).any():
                raise ValueError("Input X contains infinity: log(0)")
            return super().predict(rows)

    chosen = choose_strategy(NoZeros(), "regression", matrix())
    assert chosen.evaluator.strategy == ONE_SHAPE[256]
    assert [one["raised"] for one in chosen.rejected] == ["ValueError", "ValueError"]


def test_strategy_that_costs_one_row_too_much_is_passed_over() -> None:
    class Slow(Estimator):
        def predict(self, rows: Rows) -> Rows:
            time.sleep(len(rows) * 2e-5)
            return super().predict(rows)

    def fault(rows: Rows) -> int:
        return 0 if len(rows) in ONE_SHAPE else len(rows)

    chosen = choose_strategy(Slow(fault), "regression", matrix(40))
    assert chosen.evaluator.strategy.block_rows < 256
    (passed,) = [one for one in chosen.rejected if one["strategy"]["block_rows"] == 256]
    assert passed["row_costs"] > 3


def test_estimator_that_no_strategy_keeps_is_refused_and_the_worst_row_named() -> None:
    rows = matrix(30)
    ulps = {float(rows[0, 11]): 4, float(rows[0, 20]): 1}

    def fault(block: Rows) -> Any:
        """As an estimator does that shares a buffer among Python threads: no shape of a call mends it."""
        alone = threading.current_thread() is threading.main_thread()
        return [0 if alone else ulps.get(float(row[0]), 0) for row in block]

    estimator = Estimator(fault)
    message = (
        r"depend on how it is asked, under every strategy: 2 of 30 scores have other bits .* worst by 4 ULP \(row 11 of the "
        r"certification rows, while another thread scores\)"
    )
    with pytest.raises(VerificationError, match=message) as caught:
        choose_strategy(estimator, "regression", rows)
    assert caught.value.evidence == {
        "condition": "two Python threads at once",
        "rows": 2,
        "worst_ulps": 4,
        "row": 11,
    }
    assert {1, 8, 24, 64, 256} <= estimator.shapes


def test_scores_that_change_from_call_to_call_are_refused_at_once() -> None:
    rng = np.random.default_rng(0)
    estimator = Estimator(lambda rows: rng.integers(0, 100, len(rows)))
    with pytest.raises(VerificationError, match=r"differ from call to call: \d+ of 60 scores had other bits"):
        choose_strategy(estimator, "regression", matrix(60))
    assert estimator.shapes == {64}  # one strategy was tried


def test_what_the_estimator_raises_under_every_strategy_is_raised() -> None:
    class Broken(Estimator):
        def predict(self, rows: Rows) -> Rows:
            raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        choose_strategy(Broken(), "regression", matrix())


def test_three_classes_are_refused() -> None:
    class Three:
        def predict_proba(self, rows: Rows) -> Rows:
            return np.full((len(rows), 3), 1 / 3)

    with pytest.raises(ModelError, match="the classifier has 3 classes; this output is for two"):
        choose_strategy(Three(), "classification", matrix())


def test_cost_is_measured_against_one_plain_call() -> None:
    class Slow(Estimator):
        def predict(self, rows: Rows) -> Rows:
            time.sleep(0.0005)
            return super().predict(rows)

    library = LibraryEvaluator(Slow(), "regression")
    cost = measure_cost(LibraryEvaluator(Slow(), "regression", ONE_SHAPE[8]), library, matrix(300))
    assert set(cost) == {
        "rows",
        "rows_per_second",
        "library_rows_per_second",
        "ratio",
        "row_microseconds",
        "library_row_microseconds",
    }
    assert 64 <= cost["rows"] <= 10_000
    assert cost["ratio"] < 1
    assert cost["row_microseconds"] > 500


# --- real BLAS

_KERNEL = """
import json, sys
import numpy as np
from sklearn.neural_network import MLPRegressor
from udfs.strategies import STRATEGIES, choose_strategy
rng = np.random.default_rng(0)
rows = rng.normal(size=(2_000, 30))
network = MLPRegressor(hidden_layer_sizes=(300,), max_iter=2, tol=1.0, random_state=0, n_iter_no_change=1)
network.fit(rows[:300], rows[:300, 0])
chosen = choose_strategy(network, "regression", np.ascontiguousarray(rows.T))
whole = chosen.evaluator.score(rows.T)
alone = np.concatenate([chosen.evaluator.score(rows[i : i + 1].T) for i in range(100)])
plain = [network.predict(rows[i : i + 1])[0] for i in range(100)]
print(json.dumps({
    "strategy": chosen.evaluator.strategy.to_json(),
    "alone": bool((alone == whole[:100]).all()),
    "plain": bool((np.array(plain) == network.predict(rows)[:100]).all()),
}))
"""


@pytest.mark.parametrize("kernel", ["SkylakeX", "Haswell"])
def test_network_keeps_its_bits_on_each_kernel_of_blas(kernel: str, process_env: dict[str, str]) -> None:
    """On the AVX512 kernel of OpenBLAS the long padded blocks do not do, with two threads or with one."""
    from numpy._core._multiarray_umath import __cpu_features__

    needed = {"SkylakeX": "AVX512_SKX", "Haswell": "AVX2"}[kernel]
    if not __cpu_features__.get(needed):
        pytest.skip(f"this processor has no {needed}")
    env = {**process_env, "OPENBLAS_CORETYPE": kernel, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", _KERNEL], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["alone"]
    assert not found["plain"]  # the library itself gives one row alone other bits
    if kernel == "SkylakeX":
        assert found["strategy"]["one_thread"]
        assert found["strategy"] != Strategy(one_thread=True).to_json()
