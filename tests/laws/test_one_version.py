"""L6: an alias is resolved once, what it named then is what scores, and only what was logged is ever loaded."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import yaml
from mlflow import MlflowClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.ensemble import HistGradientBoostingRegressor

from feature_pipelines.columns import take
from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.evaluate import constants_from_json, evaluate
from feature_pipelines.packaged import load_reference
from feature_pipelines.schema import build_column
from jobs.runs.batch import plan_from
from jobs.runs.score_run import score
from tests.toy.bits import bits_by_row, outcomes
from tests.toy.workspace import Workspace
from udfs.bundle import load_bundle, write_bundle
from udfs.kernel import Kernel
from udfs.registry import ModelVersion, fetch, register, resolve
from udfs.scorer import OutputSpec
from udfs.spark_udf import score_udf

TOY = Path(__file__).resolve().parents[1] / "toy"


@pytest.fixture
def client(workspace: Workspace) -> MlflowClient:
    return workspace.connect()


@pytest.fixture
def other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy's features with one function changed, importable under another name; a reference to the set."""
    package = tmp_path / "toy_of_tomorrow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = (TOY / "houses.py").read_text(encoding="utf-8")
    changed = text.replace("return area_m2 * area_m2", "return area_m2 + area_m2")
    assert changed != text
    (package / "houses.py").write_text(changed, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "toy_of_tomorrow.houses:FEATURES"
    for name in [name for name in sys.modules if name.startswith("toy_of_tomorrow")]:
        del sys.modules[name]


@pytest.fixture
def second(workspace: Workspace, client: MlflowClient, other_features: str, tmp_path: Path) -> ModelVersion:
    """Version 2 of the toy model: other feature code, another fit."""
    first = resolve("models:/houses@champion", client)
    golden = json.loads((fetch(first, tmp_path / "cache") / "golden.json").read_text())
    constants = json.loads((fetch(first, tmp_path / "cache") / "model.json").read_text())["constants"]
    feature_set = load_reference(other_features)
    columns = {f.name: build_column(f, golden["columns"][f.name])[0] for f in feature_set.sources}
    rows = np.arange(golden["rows"]).repeat(4)
    columns = {name: take(column, rows) for name, column in columns.items()}
    matrix = evaluate(feature_set, columns, constants_from_json(constants), len(rows))
    estimator = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=2).fit(matrix.T, matrix[0])
    bundle = tmp_path / "second"
    write_bundle(
        bundle,
        name="houses",
        reference=other_features,
        constants=constants,
        estimator=estimator,
        output=OutputSpec("regression"),
        columns=columns,
        n_rows=len(rows),
    )
    model = json.loads((bundle / "model.json").read_text())
    example = [{name: column[i] for name, column in golden["columns"].items()} for i in range(2)]
    mlflow.set_experiment("onescore")
    version = register(client, "houses", bundle, example, model)
    assert (version.version, version.alias) == ("2", "challenger")
    return version


def move_champion(client: MlflowClient, version: str) -> None:
    client.set_registered_model_alias("houses", "champion", version)


# One version per run


def test_alias_moved_during_a_run_changes_nothing_in_it(
    spark: SparkSession, workspace: Workspace, client: MlflowClient, second: ModelVersion
) -> None:
    clean = workspace.conf("output.scored=clean", "output.quarantine=clean_quarantine")
    score(spark, plan_from(clean, Path(clean.storage.cache)))
    conf = workspace.conf()
    moved_after: list[int] = []

    def move(done: int, rows: int, seconds: float) -> None:
        if not moved_after:
            assert done < rows
            move_champion(client, second.version)
            moved_after.append(done)

    score(spark, plan_from(conf, Path(conf.storage.cache)), progress=move)
    assert moved_after
    assert 0 < moved_after[0] < 2_000
    assert resolve("models:/houses@champion", client).version == second.version
    found = workspace.rows("houses_scored")
    assert set(found.column("model_version").to_pylist()) == {"1"}
    assert len(set(found.column("feature_fingerprint").to_pylist())) == 1
    assert bits_by_row(found) == bits_by_row(workspace.rows("clean"))

    later = workspace.conf("output.scored=later", "output.quarantine=later_quarantine")
    score(spark, plan_from(later, Path(later.storage.cache)))
    after = workspace.rows("later")
    assert set(after.column("model_version").to_pylist()) == {"2"}
    assert set(after.column("feature_fingerprint").to_pylist()) == {second.feature_fingerprint}
    assert (
        sum(a != b for a, b in zip(bits_by_row(after).values(), bits_by_row(found).values(), strict=True))
        > 1_000
    )


def test_two_versions_score_side_by_side_in_one_query(
    spark: SparkSession, workspace: Workspace, client: MlflowClient, second: ModelVersion
) -> None:
    """And the UDF keeps its version when the alias moves; the module that is importable today plays no part."""
    rates = spark.createDataFrame(workspace.rows("rates"))
    requests = spark.createDataFrame(workspace.rows("houses").slice(0, 300))
    champion, challenger = (
        score_udf(spark, f"models:/houses@{alias}", views={"rates": rates})
        for alias in ("champion", "challenger")
    )

    def both() -> tuple[dict[int, str], dict[int, str]]:
        row = F.struct(*requests.columns)
        answer = requests.select("house_id", champion(row).alias("a"), challenger(row).alias("b"))
        pair = (answer.select("house_id", f"{name}.*").toArrow().to_pylist() for name in ("a", "b"))
        first, other = (outcomes(rows, "house_id") for rows in pair)
        return first, other

    before = both()
    assert sum(before[0][row] != before[1][row] for row in before[0]) > 250
    move_champion(client, second.version)
    assert both() == before
    moved = score_udf(spark, "models:/houses@champion", views={"rates": rates})
    answer = requests.select("house_id", moved(F.struct("*")).alias("s")).select("house_id", "s.*")
    assert outcomes(answer.toArrow().to_pylist(), "house_id") == before[1]


def test_two_versions_live_in_one_process(client: MlflowClient, second: ModelVersion, tmp_path: Path) -> None:
    first = resolve("models:/houses/1", client)
    scorers = [
        load_bundle(fetch(version, tmp_path / "cache"), expected_digest=version.digest)
        for version in (first, second)
    ]
    functions = [scorer.feature_set.features[0] for scorer in scorers]
    installed = importlib.import_module("tests.toy.houses").area_squared
    assert [function(np.array([3.0])).tolist() for function in functions] == [[9.0], [6.0]]
    modules = {function.__module__ for function in (*functions, installed)}
    assert len(modules) == 3
    for function, version in zip(functions, (first, second), strict=True):
        assert version.feature_fingerprint[:16] in function.__module__


# What was logged is what is loaded


Tamper = Callable[[Path, MlflowClient], None]


def changed_score(bundle: Path, client: MlflowClient) -> None:
    model = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**model, "tolerance_ulps": 10**9}))


def added_file(bundle: Path, client: MlflowClient) -> None:
    (bundle / "features" / "numpy.py").write_text("print('mine')")


def missing_file(bundle: Path, client: MlflowClient) -> None:
    (bundle / "golden.json").unlink()


def changed_feature_and_manifest(bundle: Path, client: MlflowClient) -> None:
    """A thorough forger: the manifest fits the files again, only the registry knows better."""
    from tests.toy.forgery import forge

    source = bundle / "features" / "houses.py"
    forge(
        bundle, "features/houses.py", source.read_bytes().replace(b"area_m2 * area_m2", b"area_m2 + area_m2")
    )


def changed_digest(bundle: Path, client: MlflowClient) -> None:
    client.set_model_version_tag("houses", "1", "onescore.digest", "0" * 64)
    bundle.rename(bundle.parent / ("0" * 64))


TAMPERED: list[tuple[Tamper, str]] = [
    (changed_score, r"not those that were logged: changed: model\.json"),
    (added_file, r"not those that were logged: added: features/numpy\.py"),
    (missing_file, r"not those that were logged: missing: golden\.json"),
    (changed_feature_and_manifest, r"manifest has digest [0-9a-f]{12}, the registry holds [0-9a-f]{12}"),
    (changed_digest, r"manifest has digest [0-9a-f]{12}, the registry holds 000000000000"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERED, ids=[tamper.__name__ for tamper, _ in TAMPERED])
def test_tampered_model_is_refused_by_job_and_udf(
    spark: SparkSession, workspace: Workspace, client: MlflowClient, tamper: Tamper, message: str
) -> None:
    cache = workspace.root / ".onescore" / "cache"
    tamper(fetch(resolve("models:/houses@champion", client), cache), client)
    with pytest.raises(ModelIntegrityError, match=message):
        plan_from(workspace.conf(), cache)
    with pytest.raises(ModelIntegrityError, match=message):
        score_udf(spark, "models:/houses@champion", cache=cache)


def test_tampered_artifact_store_is_refused(every_type: Any, tmp_path: Path) -> None:
    """The files are changed where the registry keeps them, before anybody has fetched them."""
    client = every_type.connect()
    version = resolve("models:/every_type@champion", client)
    store = Path(client.get_model_version_download_uri("every_type", "1").removeprefix("file://"))
    stored = [
        path
        for path in every_type.workspace.root.rglob("artifacts/bundle/model.json")
        if "mlartifacts" in path.parts
    ]
    assert store
    assert len(stored) == 1
    before = stored[0].read_bytes()
    stored[0].write_bytes(before + b" ")
    try:
        with pytest.raises(ModelIntegrityError, match=r"changed: model\.json"):
            load_bundle(fetch(version, tmp_path / "cache"), expected_digest=version.digest)
        with pytest.raises(ModelIntegrityError, match=r"changed: model\.json"):
            mlflow.pyfunc.load_model(version.uri)
    finally:
        stored[0].write_bytes(before)
    assert mlflow.pyfunc.load_model(version.uri)


# What is in a logged model


@pytest.fixture(scope="module", params=["houses", "every_type"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of a registered model, as MLflow hands them out."""
    fixture = request.getfixturevalue("trained_workspace" if request.param == "houses" else "every_type")
    fixture.connect()
    target = tmp_path_factory.mktemp("logged")
    return Path(
        mlflow.artifacts.download_artifacts(f"models:/{request.param}@champion", dst_path=str(target))
    )


def test_no_file_of_a_logged_model_is_a_pickle(logged: Path) -> None:
    files = [path for path in logged.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert path.suffix not in {".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt"}, path
        assert not (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"), path
        for inner in inner_files(path):
            assert not (inner[:1] == b"\x80" and inner[1:2] in b"\x02\x03\x04\x05"), path


def inner_files(path: Path) -> list[bytes]:
    import zipfile

    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_scan_for_pickles_would_find_one(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "artifact").write_bytes(pickle.dumps({"a": 1}))
    for n in range(21):
        (tmp_path / f"{n}.json").write_text("{}")
    with pytest.raises(AssertionError):
        test_no_file_of_a_logged_model_is_a_pickle(tmp_path)


def test_logged_model_is_models_from_code_with_signature_example_and_exact_requirements(logged: Path) -> None:
    description = yaml.safe_load((logged / "MLmodel").read_text())
    flavor = description["flavors"]["python_function"]
    assert description["flavors"].keys() == {"python_function"}
    assert "python_model" not in flavor
    code = (logged / Path(flavor["model_code_path"]).name).read_text()
    assert code.rstrip().endswith("set_model(OnescoreModel())")
    assert description["signature"]["inputs"]
    assert json.loads((logged / "input_example.json").read_text())
    lines = [line for line in (logged / "requirements.txt").read_text().splitlines() if line]
    assert all("==" in line for line in lines), lines
    names = {line.partition("==")[0] for line in lines}
    assert {"mlflow", "numpy", "pyarrow", "scikit-learn", "skops", "numba"} <= names
    assert not {name for name in names if "spark" in name}
    assert (logged / flavor["code"] / "udfs" / "bundle.py").is_file()
    assert not list(logged.rglob("__pycache__"))


def test_tags_of_a_version_say_what_its_files_say(trained_workspace: Workspace, tmp_path: Path) -> None:
    client = trained_workspace.connect()
    version = resolve("models:/houses@champion", client)
    bundle = fetch(version, tmp_path / "cache")
    model = json.loads((bundle / "model.json").read_text())
    tags = {
        key.removeprefix("onescore."): value
        for key, value in client.get_model_version("houses", "1").tags.items()
    }
    for key in ("feature_fingerprint", "format_version", "contract_version", "platform_id"):
        assert tags[key] == str(model[key])
    assert tags["digest"] == version.digest
    scorer = load_bundle(bundle, expected_digest=version.digest)
    assert scorer.verified == "verified"
    rows = Kernel(scorer).score(pa.RecordBatch.from_pylist([], schema=_empty(scorer)))
    assert len(rows.index) == 0


def _empty(scorer: Any) -> pa.Schema:
    from feature_pipelines.schema_arrow import arrow_type

    return pa.schema([(f.name, arrow_type(f.dtype)) for f in scorer.feature_set.sources])
