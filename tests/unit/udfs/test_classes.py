"""A model of several classes through one process: written, loaded, scored in any batch, answered, logged; the same bits throughout."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from feature_pipelines.errors import ModelError, ModelIntegrityError
from tests.toy.answers import NOW, score_rows
from tests.toy.bits import bits_of
from tests.toy.forgery import forge
from tests.toy.house_bundle import house_batch, house_columns, house_wire, write_house_bundle
from tests.toy.parcel_scorer import parcel_scorer, wire_parcel
from udfs import bundle as bundle_module
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.prediction_rows import SCHEMA
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer
from udfs.trees import FlatTrees
from udfs.trees_loop import load_loop

CLASSES = ("cheap", "fair", "dear")
BANDS = OutputSpec("classification", classes=CLASSES)
N = 200


@pytest.fixture(scope="module")
def written_bands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy model with three classes, as flat trees and as an estimator of the library; shared, so they must not be changed."""
    root = tmp_path_factory.mktemp("bands")
    write_house_bundle(root / "trees", output=BANDS, tolerance_ulps=4)
    tree = DecisionTreeClassifier(max_leaf_nodes=30, min_samples_leaf=9, max_features=1, random_state=0)
    write_house_bundle(root / "library", estimator=tree, output=BANDS)
    return {name: root / name for name in ("trees", "library")}


@pytest.fixture(scope="module", params=["trees", "library"])
def bands(request: pytest.FixtureRequest, written_bands: dict[str, Path]) -> Scorer:
    """Each of them, loaded."""
    return load_bundle(written_bands[request.param])


@pytest.fixture
def copied_bands(written_bands: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the flat trees for one test alone."""
    return Path(shutil.copytree(written_bands["trees"], tmp_path / "copy"))


def bits_of_outputs(outputs: Any) -> list[list[str]]:
    """Return of each row the bits of its scores and its label."""
    columns = [
        values.tolist() if values.dtype == object else [bits_of(value) for value in values]
        for values in outputs.values()
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def test_model_of_several_classes_is_of_the_third_format_and_verified(bands: Scorer) -> None:
    assert bands.info["format_version"] == 3  # an earlier release knows no classes, so it must refuse
    assert (bands.output, bands.verified) == (BANDS, "verified")
    assert bands.info["certification"]["invariant"] is True


def test_evaluators_are_what_the_names_say(written_bands: dict[str, Path]) -> None:
    assert isinstance(load_bundle(written_bands["trees"]).evaluator, FlatTrees)
    assert isinstance(load_bundle(written_bands["library"]).evaluator, LibraryEvaluator)


def test_row_keeps_the_bits_of_every_class_in_any_batch(bands: Scorer) -> None:
    kernel = Kernel(bands)
    batch = house_batch(N)
    whole = bits_of_outputs(kernel.score(batch).outputs)
    assert {row[1] for row in whole} == set(CLASSES)
    assert len({row[4] for row in whole}) > 5
    for size in (1, 7, 64):
        parts = [kernel.score(batch.slice(start, size)).outputs for start in range(0, N, size)]
        assert [row for part in parts for row in bits_of_outputs(part)] == whole


def test_compiled_loop_gives_the_bits_of_every_class(written_bands: dict[str, Path]) -> None:
    trees: Any = load_bundle(written_bands["trees"]).evaluator
    loop = load_loop()
    if loop is None:
        pytest.skip("numba is not installed")
    matrix = np.random.default_rng(0).normal(size=(5, 300)) * 100
    plain, compiled = trees._score_interpreted(matrix), trees._score_compiled(matrix, loop)
    assert plain.shape == (300, 3)
    assert compiled.tobytes() == plain.tobytes()


def test_online_answer_has_the_score_of_each_class(bands: Scorer) -> None:
    answers = score_rows(bands, [*house_wire(5), {**house_wire(1)[0], "area_m2": None}])
    columns = bands.score(house_columns(5), 5).outputs
    assert answers[5]["error"]["code"] == "NULL_NOT_ALLOWED"
    for i, answer in enumerate(answers[:5]):
        assert list(answer)[:5] == ["score", "label", "score_cheap", "score_fair", "score_dear"]
        assert {name: answer[name] for name in columns} == {
            name: values[i] for name, values in columns.items()
        }
        assert answer["score"] == max(answer[f"score_{c}"] for c in CLASSES)
        assert type(answer["label"]) is str
    json.dumps(answers)


def test_log_has_the_label_and_each_score_in_typed_columns(bands: Scorer, tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, lambda: NOW, flush_seconds=3_600.0)
    online = OnlineScorer(bands, None, clock=lambda: NOW, log=log)
    answers = online.answer([*house_wire(5), {**house_wire(1)[0], "area_m2": None}])
    online.close()
    (file,) = tmp_path.rglob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert [row["label"] for row in rows] == [None] * 6
    assert [row["class_label"] for row in rows] == [answer.get("label") for answer in answers]
    for row, answer in zip(rows[:5], answers, strict=False):
        assert row["class_scores"] == [(c, answer[f"score_{c}"]) for c in CLASSES]
        assert row["score"] == answer["score"]
    assert (rows[5]["score"], rows[5]["class_scores"]) == (None, None)


def test_log_of_a_model_of_one_score_has_no_classes_and_older_files_are_read_beside_it(
    tmp_path: Path,
) -> None:
    log = PredictionLog(tmp_path, lambda: NOW, flush_seconds=3_600.0)
    online = OnlineScorer(parcel_scorer(), None, clock=lambda: NOW, log=log)
    online.answer([wire_parcel(0)])
    online.close()
    (file,) = tmp_path.rglob("*.parquet")
    table = pq.read_table(file)
    assert table.column("class_label").to_pylist() == table.column("class_scores").to_pylist() == [None]
    older = file.with_name("older.parquet")
    pq.write_table(table.drop_columns(["class_label", "class_scores"]), older)
    both = ds.dataset([file, older], schema=SCHEMA).to_table()
    assert both.column("class_scores").to_pylist() == [None, None]


class Gives:
    """An evaluator that gives the scores that a test says."""

    def __init__(self, *scores: list[float]) -> None:
        self.scores = np.array(scores)

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """Return them, as many as there are rows."""
        return self.scores[: matrix.shape[1]]


@pytest.mark.parametrize(
    "broken",
    [[0.2, float("nan"), 0.8], [float("-inf"), 0.4, 0.6], [float("inf"), 0.0, 0.0], [0.9, 0.1, float("nan")]],
)
def test_row_with_any_class_that_is_not_finite_is_refused(broken: list[float]) -> None:
    scorer = dataclasses.replace(parcel_scorer(), output=BANDS, evaluator=Gives([0.2, 0.2, 0.6], broken))
    good, bad = score_rows(scorer, [wire_parcel(0), wire_parcel(1)])
    assert (good["label"], good["score"]) == ("dear", 0.6)
    assert (bad["error"]["code"], bad["error"]["field"]) == ("NON_FINITE_SCORE", "score")


def test_rows_that_raise_are_refused_and_those_beside_them_keep_each_class() -> None:
    class Picky(Gives):
        def score(self, matrix: np.ndarray) -> np.ndarray:
            if np.isnan(matrix).any():
                raise ValueError
            return np.column_stack([matrix[0], 2 * matrix[0], 0 * matrix[0]])

    scorer = dataclasses.replace(parcel_scorer(), output=BANDS, evaluator=Picky())
    rows = [wire_parcel(i, **({"insured_eur": None} if i % 2 else {})) for i in range(6)]
    answers = score_rows(scorer, rows)
    assert [a["error"]["code"] if "error" in a else a["label"] for a in answers] == [
        "fair",
        "MODEL_ERROR",
    ] * 3
    assert [answers[i]["score_cheap"] for i in (0, 2, 4)] == [1000.0, 3000.0, 5000.0]
    none = score_rows(scorer, rows[1:2])
    assert none[0]["error"]["code"] == "MODEL_ERROR"


def test_estimator_whose_classes_are_not_the_outputs_is_not_written(tmp_path: Path) -> None:
    class Swapped(DecisionTreeClassifier):
        def fit(self, rows: Any, target: Any) -> Any:
            return super().fit(rows, np.array(["fair", "cheap", "dear"])[target])

    with pytest.raises(
        ModelError, match=r"has the classes cheap, dear, fair \(3\), the output cheap, fair, dear"
    ):
        write_house_bundle(tmp_path / "m", estimator=Swapped(), output=BANDS)
    four = OutputSpec("classification", classes=("a", "b", "c", "d"))
    named = DecisionTreeClassifier().fit([[0.0], [1.0], [2.0]], [0, 1, 2])
    with pytest.raises(ModelError, match=r"has the classes 0, 1, 2 \(3\), the output a, b, c, d \(4\)"):
        bundle_module._check_classes(named, four)
    with pytest.raises(ModelError, match=r"has the classes none \(0\)"):
        bundle_module._check_classes(object(), four)


def test_estimator_may_name_its_classes_or_number_them() -> None:
    rows = [[0.0], [1.0], [2.0]]
    for target in (["cheap", "dear", "fair"], [0, 1, 2], [0.0, 1.0, 2.0]):
        named = DecisionTreeClassifier().fit(rows, target)
        bundle_module._check_classes(named, OutputSpec("classification", classes=("cheap", "dear", "fair")))


@pytest.mark.parametrize("place", [0, 100, 191])
def test_golden_score_of_any_class_one_ulp_off_is_refused(copied_bands: Path, place: int) -> None:
    golden = json.loads((copied_bands / "golden.json").read_text())
    scores = np.frombuffer(base64.b64decode(golden["score"]), "<i8").copy()
    assert len(scores) == 3 * golden["rows"] == 192
    scores[place] += 1
    golden["score"] = base64.b64encode(scores.tobytes()).decode()
    forge(copied_bands, "golden.json", json.dumps(golden).encode())
    with pytest.raises(
        ModelIntegrityError, match=r"1 of 64 scores differ \(worst by 1 ULP, recorded tolerance 4\)"
    ):
        load_bundle(copied_bands)
    assert load_bundle(copied_bands, allow_tolerance=True).verified == "tolerance"


def test_compiled_loop_that_gives_one_class_otherwise_is_refused(written_bands: dict[str, Path]) -> None:
    trees: Any = load_bundle(written_bands["trees"]).evaluator
    if load_loop() is None:
        pytest.skip("numba is not installed")
    matrix = np.random.default_rng(0).normal(size=(5, 40))
    scores = trees.score(matrix).copy()
    scores[17, 2] = np.nextafter(scores[17, 2], 1.0)
    trees.prove_loop_on([(matrix, scores)])
    with pytest.raises(ModelIntegrityError, match=r"1 of 40 scores differ \(worst by 1 ULP\)"):
        trees.score(matrix)


def test_strategies_are_measured_on_every_class(tmp_path: Path) -> None:
    """A classifier one class of which depends on the batch is asked in blocks of one shape."""

    class Uneven(DecisionTreeClassifier):
        def predict_proba(self, rows: Any, check_input: bool = True) -> Any:
            found = super().predict_proba(rows).copy()
            if len(rows) % 24:
                found[:, 2] = np.nextafter(found[:, 2], 2.0)
            return found

    matrix = np.random.default_rng(0).normal(size=(2, 200))
    estimator = Uneven(max_depth=3).fit(matrix.T, np.arange(200) % 3)
    chosen = bundle_module.choose_strategy(estimator, "classification", matrix, n_classes=3)
    assert chosen.evaluator.strategy.pad_rows > 8
    assert {one["condition"]["worst_ulps"] for one in chosen.rejected if "condition" in one} == {1}


def test_logistic_regression_of_several_classes_keeps_its_bits_under_the_strategy_that_was_chosen() -> None:
    matrix = np.random.default_rng(0).normal(size=(4, 300))
    estimator = LogisticRegression().fit(matrix.T, np.arange(300) % 3)
    chosen = bundle_module.choose_strategy(estimator, "classification", matrix, n_classes=3)
    assert chosen.certificate.is_invariant
    whole = chosen.evaluator.score(matrix)
    assert whole.shape == (300, 3)
    for row in range(0, 300, 37):
        alone = chosen.evaluator.score(np.ascontiguousarray(matrix[:, row : row + 1]))
        assert alone.tobytes() == whole[row : row + 1].tobytes()
