from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMRegressor
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor, VotingRegressor
from sklearn.ensemble import RandomForestClassifier as Forest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits
from xgboost import XGBRegressor

from feature_pipelines.errors import ModelError
from feature_pipelines.evaluate import FeatureRaised
from tests.toy.houses import FEATURES
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer, Strategy, use_one_thread


class RowSum:
    """An estimator that remembers the blocks it was given."""

    def __init__(self) -> None:
        self.blocks: list[NDArray[np.float64]] = []

    def predict(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        self.blocks.append(block)
        return block.sum(axis=1)


def columns(n: int) -> dict[str, Any]:
    from feature_pipelines.columns import Nullable, Strings

    everywhere = np.ones(n, dtype=np.bool_)
    return {
        "house_id": np.arange(n),
        "asked_ts": np.zeros(n, dtype=np.int64),
        "area_m2": np.arange(n, dtype=np.float64),
        "rooms": Nullable(np.ones(n, dtype=np.int64), everywhere),
        "town": Nullable(Strings.of(["a"] * n), everywhere),
        "rate_pct": np.full(n, 2.0),
        "rate_pct_floor": np.full(n, 0.5),
    }


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1024, 1025, 3000])
def test_library_evaluator_pads_to_eight_rows_in_blocks_of_1024(n: int) -> None:
    estimator = RowSum()
    matrix = np.arange(3 * n, dtype=np.float64).reshape(3, n)
    scores = LibraryEvaluator(estimator, "regression").score(matrix)
    assert scores.tolist() == matrix.sum(axis=0).tolist()
    assert [len(block) for block in estimator.blocks] == [
        -(-min(1024, n - start) // 8) * 8 for start in range(0, n, 1024)
    ]
    assert all(block.flags.c_contiguous for block in estimator.blocks)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7])
def test_strategy_of_one_shape_fills_each_block_with_its_first_row(n: int) -> None:
    estimator = RowSum()
    matrix = np.arange(1, 3 * n + 1, dtype=np.float64).reshape(3, n)
    evaluator = LibraryEvaluator(estimator, "regression", Strategy(3, 3, "row"))
    assert evaluator.score(matrix).tolist() == matrix.sum(axis=0).tolist()
    assert [len(block) for block in estimator.blocks] == [3] * -(-n // 3)
    for i, block in enumerate(estimator.blocks):
        assert all(row.tolist() == block[0].tolist() for row in block[n - 3 * i :])


def test_strategy_of_one_thread_holds_the_native_pools_there() -> None:
    class Threads(RowSum):
        def predict(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
            self.seen = {pool["num_threads"] for pool in threadpool_info()}
            return super().predict(block)

    held, free = Threads(), Threads()
    with threadpool_limits(2):
        LibraryEvaluator(free, "regression").score(np.ones((2, 3)))
        LibraryEvaluator(held, "regression", Strategy(one_thread=True)).score(np.ones((2, 3)))
    assert 2 in free.seen
    assert held.seen == {1}


def test_strategy_is_read_as_it_was_written() -> None:
    for strategy in (Strategy(), Strategy(64, 64, "row", one_thread=True)):
        assert Strategy.from_json(json.loads(json.dumps(strategy.to_json()))) == strategy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tile_rows": 4},
            r"keys block_rows, fill, one_thread, pad_rows, tile_rows; this release knows block_rows, fill",
        ),
        ({"block_rows": 9}, r"block_rows \(9\) must be a multiple of its pad_rows \(8\)"),
        (
            {"block_rows": 0, "pad_rows": 0},
            r"block_rows \(0\) must be a multiple of its pad_rows \(0\), at least 1",
        ),
        ({"block_rows": True, "pad_rows": True}, r"block_rows \(True\) must be"),
        ({"fill": "noise"}, r"fill must be 'zero' or 'row' and one_thread a bool, not 'noise' and False"),
        ({"one_thread": 1}, r"one_thread a bool, not 'zero' and 1"),
    ],
)
def test_strategy_that_is_not_known_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Strategy.from_json({**Strategy().to_json(), **change})


def test_strategy_without_a_key_is_refused() -> None:
    with pytest.raises(ModelError, match="has the keys block_rows; this release knows"):
        Strategy.from_json({"block_rows": 8})


@pytest.mark.parametrize(
    "estimator",
    [
        LGBMRegressor(num_threads=2),
        LGBMRegressor(nthread=2, n_jobs=2),
        XGBRegressor(nthread=2),
        XGBRegressor(n_jobs=2),
    ],
)
def test_one_thread_has_several_names(estimator: Any) -> None:
    estimator.set_params(n_estimators=2, verbosity=-1 if isinstance(estimator, LGBMRegressor) else 0)
    rows = np.random.default_rng(0).normal(size=(60, 2))
    chained = make_pipeline(StandardScaler(), estimator).fit(rows, rows[:, 0])
    use_one_thread(chained)
    said = {
        name: n
        for name, n in chained[-1].get_params().items()
        if name in ("n_jobs", "nthread", "num_threads")
    }
    assert set(said.values()) == {1}
    if isinstance(estimator, XGBRegressor):
        assert '"nthread":"1"' in estimator.get_booster().save_config()


def test_library_evaluator_takes_the_positive_class() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 200))
    estimator = HistGradientBoostingClassifier(max_iter=3).fit(matrix.T, matrix[0] > 0)
    scores = LibraryEvaluator(estimator, "classification").score(matrix)
    assert scores.tolist() == estimator.predict_proba(matrix.T)[:, 1].tolist()


def three_classes() -> tuple[np.ndarray, LogisticRegression]:
    matrix = np.random.default_rng(1).normal(size=(2, 60))
    return matrix, LogisticRegression().fit(matrix.T, np.arange(60) % 3)


def test_library_evaluator_gives_a_score_for_each_of_several_classes() -> None:
    matrix, estimator = three_classes()
    scores = LibraryEvaluator(estimator, "classification", Strategy(24, 24, "row"), 3).score(matrix)
    assert scores.shape == (60, 3)
    np.testing.assert_allclose(scores, estimator.predict_proba(matrix.T), rtol=1e-12)
    assert LibraryEvaluator(estimator, "classification", n_classes=3).score(matrix[:, :0]).shape == (0, 3)


@pytest.mark.parametrize(("n_classes", "said"), [(2, "two"), (4, "4")])
def test_library_evaluator_refuses_another_number_of_classes(n_classes: int, said: str) -> None:
    matrix, estimator = three_classes()
    with pytest.raises(ModelError, match=rf"the classifier has 3 classes; this output is for {said}"):
        LibraryEvaluator(estimator, "classification", n_classes=n_classes).score(matrix)


def test_forest_fitted_on_two_threads_scores_in_the_order_of_its_trees() -> None:
    """Left at n_jobs=2, the last bits of some rows differ from call to call."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 2_000))
    forests = [
        RandomForestRegressor(20, random_state=0, n_jobs=n).fit(matrix[:, :400].T, matrix[0, :400])
        for n in (1, 2)
    ]
    expected = np.zeros(2_000)
    for tree in forests[0].estimators_:
        expected += tree.predict(matrix.T)
    expected /= 20

    evaluator = LibraryEvaluator(forests[1], "regression")

    assert forests[1].n_jobs == 1
    for _ in range(3):
        assert evaluator.score(matrix).tolist() == expected.tolist()


def test_one_thread_reaches_every_part_of_an_estimator() -> None:
    """Also the fitted copies, of which get_params knows nothing."""
    rows = np.random.default_rng(0).normal(size=(60, 2))
    label = rows[:, 0] > 0
    calibrated = CalibratedClassifierCV(Forest(2, n_jobs=2), cv=2).fit(rows, label).set_params(n_jobs=2)
    chained = make_pipeline(StandardScaler(), KNeighborsClassifier(n_jobs=2)).fit(rows, label)
    voting = VotingRegressor([("forest", RandomForestRegressor(2, n_jobs=2))]).fit(rows, rows[:, 0])

    for estimator in (calibrated, chained, voting):
        use_one_thread(estimator)

    parts = [one.estimator for one in calibrated.calibrated_classifiers_]
    parts += [calibrated, calibrated.estimator, chained[-1], *voting.estimators_, voting.estimators[0][1]]
    assert len(parts) == 7
    assert {part.n_jobs for part in parts} == {1}
    assert voting.n_jobs == 1


def test_one_thread_leaves_an_estimator_without_n_jobs_as_it_is() -> None:
    estimator = Ridge(alpha=2)
    estimator.itself = [estimator]
    before = dict(vars(estimator))
    use_one_thread(estimator)
    assert vars(estimator) == before


def test_scorer_returns_matrix_and_outputs_of_each_row() -> None:
    scorer = Scorer(
        FEATURES, {"towns": ("a",)}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    scores = scorer.score(columns(3), 3)
    assert scores.matrix.tolist() == [[0, 1, 4], [0, 0, 0], [1, 1, 1], [1.5] * 3, [0, 0, 0]]
    assert scores.outputs["score"].tolist() == [2.5, 3.5, 6.5]
    assert scorer.verified == "unverified"


def test_scorer_takes_no_rows() -> None:
    scorer = Scorer(
        FEATURES, {"towns": ("a",)}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    scores = scorer.score(columns(0), 0)
    assert scores.matrix.shape == (5, 0)
    assert scores.outputs["score"].shape == (0,)


def test_scorer_names_the_feature_that_raised() -> None:
    scorer = Scorer(
        FEATURES, {"towns": 3}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    with pytest.raises(FeatureRaised, match="feature 'town_code' raised"):
        scorer.score(columns(1), 1)
