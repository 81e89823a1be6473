"""Images on every path: the same bits of ten probabilities, and the same reason for each image that cannot be scored.

The tables are those of `jobs.ingest_digits --with-unusable`: 1,797 images, and one for each way of being unusable.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from sklearn.datasets import load_digits

from jobs import ingest_digits, reconcile_scores, score_batch, score_stream, train_model
from jobs.ingest_digits import unusable_images
from jobs.proof.paths import PATHS
from jobs.proof.skew import SkewReport
from jobs.runs.command import run
from jobs.runs.conf import load
from tests.toy.bits import bits_of
from tests.toy.local_frames import local_session
from tests.toy.serving import serving
from tests.toy.stock_server import mlflow_env, stock_server
from tests.toy.verified import verified

ROOT = Path(__file__).resolve().parents[2]
N_IMAGES = 1_797
MODEL = ["--model", "digits"]
SCORES = ["score", *(f"score_{digit}" for digit in range(10))]
PARQUET = "application/vnd.apache.parquet"
REASONS = {
    "missing": "NULL_NOT_ALLOWED",
    "empty": "IMAGE_BROKEN",
    "cut-off": "IMAGE_BROKEN",
    "trailing": "IMAGE_BROKEN",
    "bomb": "IMAGE_TOO_LARGE",
    "small": "IMAGE_TOO_SMALL",
    "animated": "IMAGE_ANIMATED",
    "jpeg": "IMAGE_FORMAT",
    "gif": "IMAGE_FORMAT",
    "rgb": "IMAGE_MODE",
    "alpha": "IMAGE_MODE",
    "16-bit": "IMAGE_MODE",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the tables and a small model; shared."""
    directory = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ONESCORE_HOME", str(directory))
        patched.chdir(directory)
        assert run(ingest_digits.main, ["--with-unusable"]) == 0
        assert run(train_model.main, [*MODEL, "--set", "train.params.n_estimators=20"]) == 0
    return directory


@pytest.fixture(scope="module")
def batch(place: Path, spark: Any) -> Mapping[str, pa.Table]:
    """What the batch job made of the table of images."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ONESCORE_HOME", str(place))
        assert run(score_batch.main, MODEL) == 0
    tables = place / ".onescore" / "tables"
    return {
        name: DeltaTable(str(tables / f"digits_{name}")).to_pyarrow_table()
        for name in ("scored", "quarantine")
    }


@pytest.fixture(autouse=True)
def _at_home(place: Path, process_env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**process_env, "ONESCORE_HOME": str(place)}.items():
        monkeypatch.setenv(name, value)


def requests_of(place: Path) -> pa.Table:
    return DeltaTable(str(place / ".onescore/tables/digits_requests")).to_pyarrow_table()


def as_json(requests: pa.Table) -> list[dict[str, Any]]:
    return [
        {**row, "image": None if row["image"] is None else base64.b64encode(row["image"]).decode()}
        for row in requests.to_pylist()
    ]


def as_parquet(requests: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(requests, file)
    return file.getvalue()


def verdicts_of_batch(batch: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Return by id the bits of the scores and the label, or the reason with its field."""
    found = {
        row["row_id"]: [*(bits_of(row[name]) for name in SCORES), row["label"]]
        for row in batch["scored"].to_pylist()
    }
    return found | {row["row_id"]: [row["code"], row["field"]] for row in batch["quarantine"].to_pylist()}


def verdicts_of_answers(requests: pa.Table, answers: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = [
        [answer["error"]["code"], answer["error"]["field"]]
        if "error" in answer
        else [*(bits_of(answer[name]) for name in SCORES), answer["label"]]
        for answer in answers
    ]
    return dict(zip(requests.column("image_id").to_pylist(), verdicts, strict=True))


def test_batch_scores_every_image_and_quarantines_each_unusable_one_with_its_reason(
    batch: Mapping[str, pa.Table],
) -> None:
    scored, quarantine = batch["scored"].to_pylist(), batch["quarantine"].to_pylist()

    assert {row["row_id"]: row["code"] for row in quarantine} == {
        f"unusable-{k}": v for k, v in REASONS.items()
    }
    assert {row["field"] for row in quarantine} == {"image"}
    assert sorted(row["row_id"] for row in scored) == [f"digit-{i:04d}" for i in range(N_IMAGES)]
    digit = {f"digit-{i:04d}": str(digit) for i, digit in enumerate(load_digits().target)}
    assert sum(row["label"] == digit[row["row_id"]] for row in scored) > 0.97 * N_IMAGES
    for row in scored[::50]:
        each = [row[f"score_{i}"] for i in range(10)]
        assert row["score"] == max(each) == row[f"score_{row['label']}"]
        assert sum(each) == pytest.approx(1)


def test_stream_gives_each_image_the_verdict_of_the_batch_and_keeps_the_same_bytes(
    place: Path, batch: Mapping[str, pa.Table], spark: Any
) -> None:
    names = {"scored": "streamed", "quarantine": "streamed_quarantine"}
    settings = [text for name, table in names.items() for text in ("--set", f"output.{name}={table}")]
    assert run(score_stream.main, [*MODEL, "--available-now", *settings]) == 0
    streamed = {
        name: DeltaTable(str(place / ".onescore" / "tables" / table)).to_pyarrow_table()
        for name, table in names.items()
    }
    assert {name: rows.num_rows for name, rows in streamed.items()} == {
        "scored": N_IMAGES,
        "quarantine": len(REASONS),
    }
    assert verdicts_of_batch(streamed) == verdicts_of_batch(batch)
    kept = [
        sorted(map(repr, tables["quarantine"].select(["row_id", "row"]).to_pylist()))
        for tables in (streamed, batch)
    ]
    assert kept[0] == kept[1]


def test_a_quarantined_image_is_kept_byte_by_byte(batch: Mapping[str, pa.Table]) -> None:
    kept = {row["row_id"]: json.loads(row["row"])["image"] for row in batch["quarantine"].to_pylist()}
    assert {
        name: None if text is None else base64.b64decode(text, validate=True) for name, text in kept.items()
    } == {f"unusable-{what}": image for what, image in unusable_images().items()}


def test_lean_server_answers_as_the_batch_and_its_log_reconciles(
    place: Path,
    batch: Mapping[str, pa.Table],
    process_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = requests_of(place)
    env = {**process_env, "ONESCORE_HOME": str(place), "ONESCORE_CONF_DIR": str(ROOT / "conf")}
    with serving(tmp_path, env, *MODEL) as server:
        answers = server.predictions({"inputs": as_json(requests)})
        alone = [server.predictions({"inputs": [row]})[0] for row in as_json(requests.slice(N_IMAGES - 2))]

    expected = verdicts_of_batch(batch)
    assert verdicts_of_answers(requests, answers) == expected
    last = requests.slice(N_IMAGES - 2)
    assert verdicts_of_answers(last, alone) == {
        name: expected[name] for name in last.column("image_id").to_pylist()
    }

    with local_session(tmp_path / "archives") as session:
        monkeypatch.setattr(reconcile_scores, "spark_session", lambda *_: contextlib.nullcontext(session))
        assert run(reconcile_scores.main, [*MODEL, "--log", str(tmp_path / "prediction_log")]) == 0
    (directory,) = (place / ".onescore" / "skew" / "digits").iterdir()
    report = SkewReport.from_json(json.loads((directory / "report.json").read_text()))
    n_rows = requests.num_rows + len(alone)
    assert (report.rows_logged, report.rows_equal, report.rows_differing) == (n_rows, n_rows, 0)
    assert report.rows_refused_online == report.rows_refused_offline == 2 * len(REASONS)
    assert report.requests_not_in_table == report.unexplained == 0
    assert len(report.features) == 85


def test_golden_rows_are_equal_on_every_path_of_this_process_and_on_the_lean_server(
    spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {entry.name.partition("-")[0] for entry in PATHS} - {"stock"}
    code, lines, said = verified(capsys, "--paths", ",".join(sorted(groups)), model="digits")
    assert code == 0, said
    assert list(lines) == [entry.name for entry in PATHS if not entry.name.startswith("stock")]
    assert {tuple(line[1:5]) for line in lines.values()} == {("64", "64", "0", "0")}


@pytest.fixture
def stock(place: Path, process_env: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """MLflow's own server with the registered model."""
    uri = load("local", "digits", root=place).mlflow.tracking_uri
    env = mlflow_env(process_env) | {"MLFLOW_TRACKING_URI": uri}
    with stock_server("models:/digits@champion", env, tmp_path) as server:
        yield server


@pytest.mark.slow
def test_stock_server_answers_as_the_batch(place: Path, batch: Mapping[str, pa.Table], stock: Any) -> None:
    requests, expected = requests_of(place), verdicts_of_batch(batch)
    assert verdicts_of_answers(requests, stock.predictions({"inputs": as_json(requests)})) == expected
    assert verdicts_of_answers(requests, stock.predictions(as_parquet(requests), PARQUET)) == expected
    assert Counter(len(verdict) for verdict in expected.values()) == {12: N_IMAGES, 2: len(REASONS)}
