"""A model on disk: what is written, and everything that loading refuses."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from feature_pipelines.columns import take
from feature_pipelines.errors import ModelError, ModelIntegrityError, VerificationError
from tests.toy.forgery import forge
from tests.toy.house_bundle import house_columns, write_house_bundle
from tests.toy.pickles import is_pickle, pickles_in
from udfs import bundle as bundle_module
from udfs import trees_switch
from udfs.bundle import FORMAT_VERSION, bundle_digest, load_bundle, read_golden
from udfs.certify import Condition
from udfs.platform import platform_id
from udfs.scorer import CONTRACT_VERSION, LibraryEvaluator, Strategy
from udfs.trees import FlatTrees
from udfs.trees_loop import load_loop

Copied = Callable[[str], Path]
FILES = ("model.json", "estimator.skops", "trees.npz", "features/houses.py", "golden.json")


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))


def change_model(bundle: Path, **changes: Any) -> None:
    """Change model.json and make the manifest fit again."""
    model = json.loads((bundle / "model.json").read_text())
    forge(bundle, "model.json", json.dumps({**model, **changes}).encode())


def change_golden(bundle: Path, key: str, change: Callable[[np.ndarray], None]) -> None:
    """Change the golden rows' scores or features and make the manifest fit again."""
    golden = json.loads((bundle / "golden.json").read_text())
    values = np.frombuffer(base64.b64decode(golden[key]), "<f8").copy()
    change(values)
    golden[key] = base64.b64encode(values.tobytes()).decode()
    forge(bundle, "golden.json", json.dumps(golden).encode())


def move_by_ulps(ulps: int) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values.view(np.int64)[3] += ulps

    return change


class Loader:
    """`load_loop` of a process that has the loop or has not, as the test says."""

    def __init__(self, info: Any, loop: Any) -> None:
        self.info, self.loop = info, loop

    def __call__(self) -> Any:
        return self.loop

    def cache_info(self) -> Any:
        return self.info


# --- what is written


def test_bundle_has_the_documented_files_and_no_other(written: dict[str, Path]) -> None:
    def names(bundle: Path) -> set[str]:
        return {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}

    beside = {"manifest.json", "measured.json"}
    assert names(written["trees"]) == {*FILES, *beside}
    assert names(written["library"]) == {*FILES, *beside} - {"trees.npz"}


def test_evaluator_is_flat_trees_where_they_were_certified(written: dict[str, Path]) -> None:
    assert isinstance(load_bundle(written["trees"]).evaluator, FlatTrees)
    library = load_bundle(written["library"])
    assert isinstance(library.evaluator, LibraryEvaluator)
    assert "DecisionTreeRegressor has no export to flat trees" in library.info["certification"]["reason"]


def test_trees_with_other_bits_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "certify_trees", lambda *_: types.SimpleNamespace(is_identical=False))
    write_house_bundle(tmp_path / "b", n_rows=60)
    assert not (tmp_path / "b" / "trees.npz").exists()
    certification = load_bundle(tmp_path / "b").info["certification"]
    assert certification["evaluator"] == "library"
    assert certification["reason"].startswith("flat trees did not give the library's bits")


@pytest.mark.parametrize("name", ["trees", "library"])
def test_loaded_model_scores_what_was_written(written: dict[str, Path], name: str) -> None:
    scorer = load_bundle(written[name], expected_digest=bundle_digest(written[name]))
    golden = json.loads((written[name] / "golden.json").read_text())
    assert scorer.verified == "verified"
    assert scorer.info["digest"] == bundle_digest(written[name])
    scores = scorer.score(house_columns(300), 300).outputs["score"]
    rows = np.unique(np.linspace(0, 299, 64).astype(np.int64))
    assert golden["rows"] == 64
    assert base64.b64decode(golden["score"]) == scores[rows].astype("<f8").tobytes()


def test_equal_models_have_one_digest_whenever_and_wherever_they_are_written(
    written: dict[str, Path], tmp_path: Path, process_env: dict[str, str]
) -> None:
    """In another process too, where all has other addresses and sets another order."""
    program = "import sys; from pathlib import Path; from tests.toy.house_bundle import write_house_bundle as write; "
    program += "write(Path(sys.argv[1]), tolerance_ulps=4)"
    environment = {**process_env, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, str(tmp_path / "again")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (written["trees"] / name).read_bytes(), name
    assert bundle_digest(tmp_path / "again") == bundle_digest(written["trees"])


def test_the_threads_of_the_process_that_trained_are_no_part_of_a_model(tmp_path: Path) -> None:
    """scikit-learn's histogram boosting keeps how many OpenMP gave it."""
    for n in (1, 2):
        with threadpool_limits(n):
            write_house_bundle(tmp_path / str(n))
    one, two = ((tmp_path / str(n) / "estimator.skops").read_bytes() for n in (1, 2))
    assert one == two


def test_what_was_measured_decides_nothing(copied: Copied) -> None:
    bundle = copied("trees")
    digest = bundle_digest(bundle)
    wanted = load_bundle(bundle, expected_digest=digest).info["certification"]
    forged = {"evaluator": "library", "invariant": False, "seconds": 7.0}
    (bundle / "measured.json").write_text(json.dumps(forged))
    found = load_bundle(bundle, expected_digest=digest)
    assert isinstance(found.evaluator, FlatTrees)
    assert found.info["certification"]["seconds"] == 7.0
    assert found.info["certification"]["invariant"] is True
    for content in ("no JSON", "[]"):
        (bundle / "measured.json").write_text(content)
        assert "seconds" not in load_bundle(bundle, expected_digest=digest).info["certification"]
    (bundle / "measured.json").unlink()
    left = load_bundle(bundle, expected_digest=digest).info["certification"]
    assert left == {name: value for name, value in wanted.items() if name in left}
    assert {"evaluator", "invariant", "libraries"} <= left.keys()


# --- what certification finds

CONDITIONS = [
    "again",
    "alone",
    "batches of 2 to 33",
    "batches of 127 to 129",
    "10,000 rows",
    "permuted",
    "beside nulls",
    "strided, reversed and Fortran order",
    "2 to 4 native threads",
    "two Python threads at once",
    "JSON and Arrow",
]


@pytest.mark.parametrize("name", ["trees", "library"])
def test_certification_is_recorded(written: dict[str, Path], name: str) -> None:
    info = load_bundle(written[name]).info
    certification = info["certification"]
    assert (certification["evaluator"], certification["rows"]) == (name, 300)
    assert certification["invariant"] is True
    assert [one["name"] for one in certification["conditions"]] == CONDITIONS
    assert {one["differing"] for one in certification["conditions"]} == {0}
    assert all(one["rows"] for one in certification["conditions"])
    assert certification["seconds"] > 0
    assert {"rows_per_second", "library_rows_per_second", "ratio", "row_microseconds"} <= set(
        certification["cost"]
    )
    assert certification["libraries"] == []
    assert info["format_version"] == FORMAT_VERSION
    assert certification.get("strategy") == (None if name == "trees" else Strategy().to_json())


def depends_on_the_shape(monkeypatch: pytest.MonkeyPatch, right: int) -> None:
    """Make a tree's scores right in calls of so many rows alone."""
    predict = DecisionTreeRegressor.predict

    def shaped(self: Any, rows: Any, check_input: bool = True) -> Any:
        return predict(self, rows) + (0.0 if len(rows) == right else 1e-9 * np.arange(len(rows)))

    monkeypatch.setattr(DecisionTreeRegressor, "predict", shaped)


def test_scores_that_depend_on_the_batch_are_asked_for_in_blocks_of_one_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depends_on_the_shape(monkeypatch, 64)
    write_house_bundle(tmp_path / "b", estimator=DecisionTreeRegressor(max_depth=2), n_rows=60)
    scorer = load_bundle(tmp_path / "b")
    wanted = Strategy(64, 64, "row", one_thread=True)
    assert isinstance(scorer.evaluator, LibraryEvaluator)
    assert scorer.evaluator.strategy == wanted
    certification = scorer.info["certification"]
    assert certification["strategy"] == wanted.to_json()
    assert [one["strategy"]["block_rows"] for one in certification["rejected"]] == [1024, 1024, 256]
    assert certification["rejected"][0]["condition"]["differing"] > 0
    columns = house_columns(60)
    whole = scorer.score(columns, 60).outputs["score"]
    for row in range(60):
        alone = {name: take(column, np.array([row])) for name, column in columns.items()}
        assert scorer.score(alone, 1).outputs["score"].tobytes() == whole[row].tobytes()


def test_scores_that_no_strategy_keeps_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, main = DecisionTreeRegressor.predict, threading.main_thread()

    def shared(self: Any, rows: Any, check_input: bool = True) -> Any:
        scores = predict(self, rows)
        return scores if threading.current_thread() is main else np.nextafter(scores, np.inf)

    monkeypatch.setattr(DecisionTreeRegressor, "predict", shared)
    message = r"under every strategy: 60 of 60 scores .*worst by 1 ULP \(row \d+ of the certification rows"
    with pytest.raises(VerificationError, match=message):
        write_house_bundle(tmp_path / "b", estimator=DecisionTreeRegressor(max_depth=2), n_rows=60)


def test_estimator_that_changes_by_being_stored_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dump(path: Path, estimator: Any) -> Any:
        path.write_bytes(b"")
        return DecisionTreeRegressor(max_depth=1).fit(np.zeros((4, 5)), [1.0, 2.0, 3.0, 5.0])

    monkeypatch.setattr(bundle_module, "dump_estimator", dump)
    with pytest.raises(VerificationError, match=r"other bits after it was written and read: 60 of 60 rows"):
        write_house_bundle(tmp_path / "b", estimator=DecisionTreeRegressor(max_depth=2), n_rows=60)


def test_features_that_differ_between_json_and_arrow_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Condition("JSON and Arrow", 60, 1, 2, 7, "feature area_squared from JSON")
    monkeypatch.setattr(bundle_module, "certify_forms", lambda *_: found)
    message = (
        r"as JSON and as Arrow: feature area_squared from JSON has other bits, worst by 2 ULP \(row 7 of"
    )
    with pytest.raises(VerificationError, match=message):
        write_house_bundle(tmp_path / "b", n_rows=60)


def test_scores_that_differ_from_call_to_call_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, rng = DecisionTreeRegressor.predict, np.random.default_rng(0)
    monkeypatch.setattr(
        DecisionTreeRegressor, "predict", lambda self, x: predict(self, x) + rng.random(len(x))
    )
    with pytest.raises(VerificationError, match=r"differ from call to call: 60 of 60 scores had other bits"):
        write_house_bundle(tmp_path / "b", estimator=DecisionTreeRegressor(max_depth=2), n_rows=60)


def test_forest_fitted_on_two_threads_is_written_with_one(tmp_path: Path) -> None:
    forest = RandomForestRegressor(5, n_jobs=2, random_state=0)
    write_house_bundle(tmp_path / "b", estimator=forest)
    assert json_of(tmp_path / "b" / "estimator.skops")["n_jobs"] == 1
    assert load_bundle(tmp_path / "b").verified == "verified"


def test_forest_that_was_written_with_two_threads_is_loaded_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_export(_: Any) -> FlatTrees:
        raise ModelError("no flat trees here")

    monkeypatch.setattr(bundle_module, "export_trees", no_export)
    write_house_bundle(tmp_path / "b", estimator=RandomForestRegressor(5, random_state=0))
    forest = skops.io.load(tmp_path / "b" / "estimator.skops", trusted=["sklearn.tree._tree.Tree"])
    forge(tmp_path / "b", "estimator.skops", skops.io.dumps(forest.set_params(n_jobs=2)))
    assert json_of(tmp_path / "b" / "estimator.skops")["n_jobs"] == 2

    evaluator = load_bundle(tmp_path / "b").evaluator

    assert isinstance(evaluator, LibraryEvaluator)
    assert evaluator.estimator.n_jobs == 1


def json_of(estimator: Path) -> dict[str, Any]:
    """Return the plain numbers among an estimator's attributes, as its file has them."""
    with zipfile.ZipFile(estimator) as archive:
        content = json.loads(archive.read("schema.json"))["content"]["content"]
    return {n: json.loads(v["content"]) for n, v in content.items() if v["__loader__"] == "JsonNode"}


# --- files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.5, 1])
def test_one_flipped_bit_is_refused_and_the_file_named(copied: Copied, name: str, at: float) -> None:
    bundle = copied("trees")
    flip_a_bit(bundle / name, at)
    with pytest.raises(ModelIntegrityError, match=rf"not those that were logged: changed: {name}$") as caught:
        load_bundle(bundle)
    assert caught.value.evidence["files"] == [name]


def test_flipped_bit_in_the_manifest_is_refused_by_the_digest(copied: Copied) -> None:
    bundle = copied("trees")
    digest = bundle_digest(bundle)
    flip_a_bit(bundle / "manifest.json")
    with pytest.raises(
        ModelIntegrityError, match=rf"manifest has digest \w{{12}}, the registry holds {digest[:12]}"
    ):
        load_bundle(bundle, expected_digest=digest)


def test_forged_manifest_is_refused_by_the_digest_alone(copied: Copied) -> None:
    bundle = copied("trees")
    digest = bundle_digest(bundle)
    change_model(bundle, tolerance_ulps=1_000)
    assert load_bundle(bundle).verified == "verified"  # nothing but the registry's digest can tell
    with pytest.raises(ModelIntegrityError, match="the registry holds"):
        load_bundle(bundle, expected_digest=digest)


def test_manifest_that_is_not_json_is_refused_without_a_digest(copied: Copied) -> None:
    bundle = copied("trees")
    flip_a_bit(bundle / "manifest.json", 0)
    with pytest.raises(ModelIntegrityError, match=r"manifest\.json"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_and_named(copied: Copied, name: str) -> None:
    bundle = copied("trees")
    (bundle / name).unlink()
    with pytest.raises(ModelIntegrityError, match=rf"missing: {name}$"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["note.txt", "features/extra.py", ".hidden"])
def test_extra_file_is_refused_and_named(copied: Copied, name: str) -> None:
    bundle = copied("trees")
    (bundle / name).write_text("")
    with pytest.raises(ModelIntegrityError, match=rf"added: {name}$"):
        load_bundle(bundle)


def test_all_that_is_wrong_is_said_at_once(copied: Copied) -> None:
    bundle = copied("trees")
    flip_a_bit(bundle / "trees.npz")
    (bundle / "golden.json").rename(bundle / "gilded.json")
    with pytest.raises(
        ModelIntegrityError, match=r"changed: trees.npz; missing: golden.json; added: gilded.json"
    ):
        load_bundle(bundle)


def test_bytecode_that_an_import_left_is_no_extra_file(copied: Copied) -> None:
    bundle = copied("trees")
    (bundle / "features" / "__pycache__").mkdir()
    (bundle / "features" / "__pycache__" / "houses.cpython-311.pyc").write_bytes(b"")
    assert load_bundle(bundle).verified == "verified"


def test_directory_without_a_manifest_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ModelError, match=r"photos is no model directory: it has no manifest\.json"):
        load_bundle(tmp_path / "photos")


# --- versions, features, types


@pytest.mark.parametrize(
    ("format_version", "contract_version"),
    [
        (FORMAT_VERSION + 1, CONTRACT_VERSION),
        (1, CONTRACT_VERSION + 1),
        (1, CONTRACT_VERSION - 1),
    ],
)
def test_other_version_is_refused_and_both_sides_named(
    copied: Copied, format_version: int, contract_version: int
) -> None:
    bundle = copied("trees")
    wanted = {"format_version": format_version, "contract_version": contract_version}
    model = json.loads((bundle / "model.json").read_text())
    changes = {name: value for name, value in wanted.items() if model[name] != value}
    change_model(bundle, **changes)
    message = (
        f"model 'houses' was written with contract_version {contract_version} and format_version {format_version}; this "
        f"release runs contract_version {CONTRACT_VERSION} and format_version up to {FORMAT_VERSION}"
    )
    with pytest.raises(ModelError, match=message) as caught:
        load_bundle(bundle)
    assert not isinstance(caught.value, ModelIntegrityError)


def test_other_features_than_recorded_are_refused(copied: Copied) -> None:
    bundle = copied("trees")
    source = (bundle / "features" / "houses.py").read_text()
    changed = source.replace("return area_m2 * area_m2", "return area_m2 * area_m2 * 1.0")
    forge(bundle, "features/houses.py", changed.encode())
    with pytest.raises(
        ModelIntegrityError, match=r"packaged features have fingerprint \w{12}, it recorded \w{12}"
    ):
        load_bundle(bundle)


def test_untrusted_type_is_refused_and_named(copied: Copied) -> None:
    bundle = copied("library")
    estimator = skops.io.load(bundle / "estimator.skops", trusted=["sklearn.tree._tree.Tree"])
    estimator.note_ = types.SimpleNamespace()
    forge(bundle, "estimator.skops", skops.io.dumps(estimator))
    with pytest.raises(
        ModelIntegrityError, match=r"contains 1 type\(s\) .*not on the list .*: types\.SimpleNamespace"
    ) as caught:
        load_bundle(bundle)
    assert caught.value.evidence["untrusted"] == ["types.SimpleNamespace"]


def test_strategy_that_this_release_does_not_know_is_refused(copied: Copied) -> None:
    """Leaving out what it does not know, it would score other bits."""
    bundle = copied("library")
    certification = json.loads((bundle / "model.json").read_text())["certification"]
    certification["strategy"]["tile_rows"] = 4
    change_model(bundle, certification=certification)
    with pytest.raises(ModelError, match=r"strategy has the keys .*tile_rows; this release knows block_rows"):
        load_bundle(bundle)


def test_model_of_the_first_format_has_no_strategy_and_is_asked_as_then(copied: Copied) -> None:
    bundle = copied("library")
    model = json.loads((bundle / "model.json").read_text())
    old = {name: model["certification"][name] for name in ("rows", "estimator", "evaluator", "reason")}
    change_model(bundle, certification=old)
    evaluator = load_bundle(bundle).evaluator
    assert isinstance(evaluator, LibraryEvaluator)
    assert evaluator.strategy == Strategy(1024, 8, "zero", one_thread=False)


def test_untrusted_type_is_not_written_either(tmp_path: Path) -> None:
    estimator = DecisionTreeRegressor(max_depth=2)
    estimator.note_ = types.SimpleNamespace()
    with pytest.raises(ModelIntegrityError, match=r"types\.SimpleNamespace"):
        write_house_bundle(tmp_path / "b", estimator=estimator, n_rows=60)


# --- golden rows


@pytest.mark.parametrize("name", ["trees", "library"])
def test_golden_score_one_ulp_off_is_refused(copied: Copied, name: str) -> None:
    bundle = copied(name)
    change_golden(bundle, "score", move_by_ulps(1))
    message = r"does not reproduce .*: 1 of 64 scores differ \(worst by 1 ULP, .*features that differ: none"
    with pytest.raises(ModelIntegrityError, match=message) as caught:
        load_bundle(bundle)
    assert caught.value.evidence["worst_ulps"] == 1


def test_golden_feature_one_ulp_off_is_refused_and_named(copied: Copied) -> None:
    bundle = copied("trees")
    change_golden(bundle, "features", move_by_ulps(1))
    with pytest.raises(
        ModelIntegrityError,
        match=r"0 of 64 scores differ .*features that differ: area_squared \(worst by 1 ULP\)\.",
    ):
        load_bundle(bundle)


def test_platform_is_named_where_golden_rows_differ(copied: Copied) -> None:
    bundle = copied("trees")
    change_golden(bundle, "score", move_by_ulps(1))
    change_model(bundle, platform_id="another-platform")
    with pytest.raises(
        ModelIntegrityError, match=rf"logged on platform another-platform, this is {platform_id()}"
    ):
        load_bundle(bundle)


def test_other_platform_with_the_same_bits_is_verified(copied: Copied) -> None:
    bundle = copied("trees")
    change_model(bundle, platform_id="another-platform")
    assert load_bundle(bundle).verified == "verified"


@pytest.mark.parametrize("ulps", [1, -4, 4])
def test_score_within_the_recorded_tolerance_will_do_where_allowed(copied: Copied, ulps: int) -> None:
    bundle = copied("trees")
    change_golden(bundle, "score", move_by_ulps(ulps))
    assert load_bundle(bundle, allow_tolerance=True).verified == "tolerance"
    with pytest.raises(ModelIntegrityError, match="recorded tolerance 4"):
        load_bundle(bundle)


def test_score_beyond_the_recorded_tolerance_is_refused_even_where_allowed(copied: Copied) -> None:
    bundle = copied("trees")
    change_golden(bundle, "score", move_by_ulps(5))
    with pytest.raises(ModelIntegrityError, match=r"worst by 5 ULP, recorded tolerance 4"):
        load_bundle(bundle, allow_tolerance=True)


def test_no_tolerance_is_recorded_unless_asked_for(copied: Copied) -> None:
    bundle = copied("library")
    change_golden(bundle, "score", move_by_ulps(1))
    with pytest.raises(ModelIntegrityError, match=r"worst by 1 ULP, recorded tolerance 0"):
        load_bundle(bundle, allow_tolerance=True)


def test_same_bits_are_verified_where_a_tolerance_is_allowed(written: dict[str, Path]) -> None:
    assert load_bundle(written["trees"], allow_tolerance=True).verified == "verified"


@pytest.mark.parametrize("ulps", [4, 5])
def test_features_too_must_be_within_the_tolerance(copied: Copied, ulps: int) -> None:
    bundle = copied("trees")
    change_golden(bundle, "features", move_by_ulps(ulps))
    if ulps == 4:
        assert load_bundle(bundle, allow_tolerance=True).verified == "tolerance"
        return
    with pytest.raises(ModelIntegrityError, match=r"0 of 64 scores .*area_squared \(worst by 5 ULP\)"):
        load_bundle(bundle, allow_tolerance=True)


def test_missing_feature_is_within_no_tolerance_of_a_number(copied: Copied) -> None:
    bundle = copied("trees")
    change_model(bundle, tolerance_ulps=2**63)

    def lose(values: np.ndarray) -> None:
        values[3] = np.nan

    change_golden(bundle, "features", lose)
    with pytest.raises(ModelIntegrityError, match=r"area_squared \(worst by NaN against a number\)"):
        load_bundle(bundle, allow_tolerance=True)


@pytest.mark.parametrize("place", ["alone", "in reverse order"])
def test_scores_that_depend_on_the_batch_here_are_not_verified(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A strategy that was certified on another machine may not hold on this one's BLAS."""
    true = LibraryEvaluator.score

    def depends(self: LibraryEvaluator, matrix: np.ndarray) -> np.ndarray:
        scores = true(self, matrix)
        is_off = matrix.shape[1] == 1 if place == "alone" else matrix[0, 0] != first[0]
        return (
            np.nextafter(scores, np.inf) if is_off and (place == "alone" or matrix.shape[1] > 1) else scores
        )

    first = read_golden(written["library"]).matrix[0]
    assert first[0] != first[-1]
    monkeypatch.setattr(LibraryEvaluator, "score", depends)
    with pytest.raises(ModelIntegrityError, match=r"(8|64) of 64 scores differ \(worst by 1 ULP"):
        load_bundle(written["library"])


def test_compiled_loop_that_comes_later_must_reproduce_the_golden_rows_too(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading replays them by whatever the process has by then, which may be the interpreted evaluation."""
    later = types.SimpleNamespace(currsize=0)
    loop = load_loop()
    monkeypatch.setattr(trees_switch, "load_loop", Loader(later, loop))
    scorer = load_bundle(written["trees"])
    expected = scorer.score(house_columns(5), 5).outputs["score"]
    true = FlatTrees._score_compiled
    calls: list[int] = []

    def off(self: FlatTrees, matrix: np.ndarray, loop: Any) -> np.ndarray:
        calls.append(matrix.shape[1])
        return np.nextafter(true(self, matrix, loop), np.inf)

    later.currsize = 1
    monkeypatch.setattr(FlatTrees, "_score_compiled", off)
    for _ in range(2):
        with pytest.raises(ModelIntegrityError, match=r"compiled loop .*: 64 of 64 scores differ"):
            scorer.score(house_columns(5), 5)
    assert calls == [64, 64]
    monkeypatch.setattr(FlatTrees, "_score_compiled", true)
    assert scorer.score(house_columns(5), 5).outputs["score"].tobytes() == expected.tobytes()


# --- what a model says of itself without being asked


def test_golden_rows_are_read_where_the_model_scores_otherwise(copied: Copied) -> None:
    bundle = copied("trees")
    change_golden(bundle, "score", move_by_ulps(1))
    golden = read_golden(bundle, bundle_digest(bundle))
    recorded = json.loads((bundle / "golden.json").read_text())
    assert golden.score.astype("<f8").tobytes() == base64.b64decode(recorded["score"])
    assert golden.matrix.astype("<f8").tobytes() == base64.b64decode(recorded["features"])
    assert golden.columns == recorded["columns"]
    assert golden.info["digest"] == bundle_digest(bundle)


def test_golden_rows_of_a_changed_directory_are_not_read(copied: Copied) -> None:
    bundle = copied("trees")
    with pytest.raises(ModelIntegrityError, match="the registry holds 000000000000"):
        read_golden(bundle, "0" * 64)
    flip_a_bit(bundle / "golden.json")
    with pytest.raises(ModelIntegrityError, match=r"changed: golden\.json"):
        read_golden(bundle)


# --- no pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_would_be_found(protocol: int) -> None:
    assert is_pickle(pickle.dumps({"a": DecisionTreeRegressor}, protocol))


def test_no_pickle_in_a_registered_model(trained_workspace: Any) -> None:
    (described,) = (trained_workspace.root / ".onescore").rglob("MLmodel")
    files = {path.name for path in described.parent.rglob("*")}
    assert {"manifest.json", "estimator.skops", "trees.npz", "pyfunc.py"} <= files
    assert pickles_in(described.parent) == []
    assert "cloudpickle" not in (described.parent / "requirements.txt").read_text()
    assert "python_model.pkl" not in described.read_text()


@pytest.mark.parametrize("name", ["note.bin", "note.pkl"])
def test_a_pickle_in_a_directory_would_be_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps([1]) if name == "note.bin" else b"")
    assert pickles_in(tmp_path) == [str(tmp_path / name)]


def test_no_array_of_objects_in_the_trees(written: dict[str, Path]) -> None:
    with np.load(written["trees"] / "trees.npz", allow_pickle=False) as file:
        assert not [name for name in file.files if file[name].dtype.hasobject]


@pytest.mark.parametrize("name", ["trees", "library"])
def test_estimator_is_a_schema_and_arrays(written: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(written[name] / "estimator.skops") as archive:
        names = archive.namelist()
    assert "schema.json" in names
    assert [n for n in names if n != "schema.json" and not n.endswith(".npy")] == []
