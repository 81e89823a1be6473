"""A model of several classes: its log against the batch, every class's probability by bits, and what is wrong told by cause.

The frames run in this process; tests/paths/test_classes.py has one comparison on Spark.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from jobs import forget_entity, reconcile_scores, replay_online
from jobs.proof.corrections import CORRECTIONS_SCHEMA
from jobs.proof.skew import SkewReport
from jobs.runs.command import run
from tests.toy.bands import BANDS, band_rows, bands_workspace
from tests.toy.reconciled import alter, log_of, logged_files, newest_report
from tests.toy.workspace import Workspace, house_rows

pytestmark = pytest.mark.usefixtures("local")
FROM, TO = "2020-01-01T00:00:00Z", "2020-02-01T00:00:00Z"
SCORES = tuple(f"score_{name}" for name in BANDS)


def replay_bands(place: Workspace, *arguments: str) -> None:
    wanted = ["--model", "bands", "--from", FROM, "--to", TO, *arguments]
    assert run(replay_online.main, wanted) == 0


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A month of houses, asked of a model of three classes through a store; shared, so it must not be changed."""
    place = bands_workspace(tmp_path_factory.mktemp("bands"))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in place.env().items():
            patched.setenv(name, value)
        place.train_model("bands")
        replay_bands(place)
    return place


def reconcile(place: Workspace, *arguments: str) -> tuple[int, SkewReport, Path]:
    code = run(reconcile_scores.main, ["--model", "bands", "--log", str(log_of(place)), *arguments])
    return code, *newest_report(place, "bands")


def differing_of(directory: Path) -> list[dict[str, Any]]:
    return pq.read_table(directory / "differing.parquet").to_pylist()


def test_clean_replay_is_equal_in_every_bit_of_every_class(place: Workspace) -> None:
    code, report, directory = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert report.rows_compared > 500
    assert [(one.name, one.compared, one.exact) for one in report.classes] == [
        (name, report.rows_compared, report.rows_compared) for name in SCORES
    ]
    assert report.decisions == {
        "threshold": None,
        "flips": 0,
        "to_positive": 0,
        "to_negative": 0,
        "classes": list(BANDS),
        "moves": [],
    }
    assert "the highest of 3 classes decides" in (directory / "report.html").read_text()


@pytest.mark.parametrize("name", BANDS)
def test_one_bit_of_one_class_is_a_difference(place: Workspace, name: str) -> None:
    """A class that is not the row's label is altered, so that neither its score nor its label tells."""

    def other_bit(row: dict[str, Any]) -> bool:
        scores = dict(row["class_scores"])
        if name == row["class_label"]:
            return False
        scores[name] = float(np.nextafter(scores[name], 1.0))
        row["class_scores"] = list(scores.items())
        return True

    changed = alter(place, other_bit, "bands")
    assert len(changed) > 30
    code, report, directory = reconcile(place)
    assert code == 1
    assert (report.rows_differing, report.score.differing) == (len(changed), len(changed))
    assert {one.name: one.differing for one in report.classes} == {
        score: len(changed) if score == f"score_{name}" else 0 for score in SCORES
    }
    assert [(one["cause"], one["rows"]) for one in report.causes] == [("UNEXPLAINED", len(changed))]
    assert (report.decisions["flips"], report.repair["scores_to_correct"]) == (0, len(changed))
    rows = differing_of(directory)
    assert {row["ulps"] for row in rows} == {1.0}
    assert all(row["online_score"] == row["offline_score"] for row in rows)
    assert all(
        dict(row["online_class_scores"])[name] == np.nextafter(dict(row["offline_class_scores"])[name], 1.0)
        for row in rows
    )
    worst = report.worst[0]
    assert [one["name"] for one in worst["classes"]] == [name]
    assert worst["score"]["ulps"] == 1
    assert f"score of {name}" in (directory / "report.html").read_text()


def larger_houses(place: Workspace) -> list[int]:
    """The batch has another area for some houses than what was asked; return their ids."""
    houses = place.rows("houses")
    ids = np.arange(0, 2_000, 7)
    larger = pc.multiply(houses.column("area_m2"), 1.5)
    is_larger = pc.is_in(houses.column("house_id"), pa.array(ids))
    area = pc.if_else(is_larger, larger, houses.column("area_m2"))
    at = houses.schema.get_field_index("area_m2")
    shutil.rmtree(place.table("houses"))
    place.write("houses", houses.set_column(at, "area_m2", area), rows_per_file=200)
    return ids.tolist()


def test_a_flip_is_another_class_and_its_cause_is_found_by_swapping(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = larger_houses(place)
    code, report, directory = reconcile(place)
    assert code == 1
    rows = differing_of(directory)
    assert {int(row["row_id"]) for row in rows} <= set(ids)
    assert {(one["cause"], one["where"]) for one in report.causes} == {("EXTRACTED", "area_m2")}
    flipped = [row for row in rows if row["is_flip"]]
    assert len(flipped) > 10
    moves = Counter((row["online_class_label"], row["offline_class_label"]) for row in flipped)
    assert {(one["from"], one["to"]): one["rows"] for one in report.decisions["moves"]} == moves
    assert ("fair", "dear") in moves
    assert all(online != offline for online, offline in moves)
    assert report.decisions["flips"] == report.repair["decisions"]["flips"] == len(flipped)
    assert (report.decisions["to_positive"], report.decisions["to_negative"]) == (0, 0)
    assert sum(one["flips"] for one in report.causes) == len(flipped)
    assert {tuple(row["label"]) for row in report.worst} <= moves.keys()
    page = (directory / "report.html").read_text()
    assert "decisions that the correction moves to another class" in page
    assert "Decisions that went to one class and belong to another" in page
    assert f"{len(flipped)} decisions moved to another class" in capsys.readouterr().out


def test_corrections_hold_each_class_and_make_the_rows_right(place: Workspace) -> None:
    larger_houses(place)
    older = CORRECTIONS_SCHEMA.names[:-4]
    first = pa.table(
        {f.name: pa.array([_any(f.type)], f.type) for f in CORRECTIONS_SCHEMA if f.name in older}
    )
    schema = pa.schema([CORRECTIONS_SCHEMA.field(name) for name in older])
    write_deltalake(place.table("score_corrections"), first.cast(schema))  # as an older version made it
    code, report, directory = reconcile(place, "--corrections")
    assert code == 1
    rows = differing_of(directory)
    written = place.rows("score_corrections")
    assert written.schema.names == CORRECTIONS_SCHEMA.names
    assert written.num_rows == len(rows) + 1
    by_number = {(row["process"], row["sequence"]): row for row in written.to_pylist()}
    for row in rows:
        correction = by_number[row["process"], row["sequence"]]
        assert correction["class_label"] == row["offline_class_label"]
        assert correction["class_scores"] == row["offline_class_scores"]
        assert correction["served_class_scores"] == row["online_class_scores"]
    code, report, _ = reconcile(place, "--corrections")
    assert (code, report.rows_differing, report.rows_corrected) == (0, 0, len(rows))


def _any(kind: pa.DataType) -> Any:
    return {"timestamp[us, tz=UTC]": 0, "int64": 0, "double": 0.5, "bool": True}.get(str(kind), "x")


def test_correction_of_one_class_that_the_batch_no_longer_gives_is_none(place: Workspace) -> None:
    larger_houses(place)
    _, report, _ = reconcile(place, "--corrections")
    written = place.rows("score_corrections").to_pylist()
    scores = dict(written[0]["class_scores"])
    lowest = min(scores, key=scores.__getitem__)
    scores[lowest] = float(np.nextafter(scores[lowest], 1.0))
    written[0]["class_scores"] = list(scores.items())
    shutil.rmtree(place.table("score_corrections"))
    write_deltalake(place.table("score_corrections"), pa.Table.from_pylist(written, CORRECTIONS_SCHEMA))
    _, again, directory = reconcile(place, "--corrections")
    assert (again.rows_differing, again.rows_corrected) == (1, report.rows_differing - 1)
    assert differing_of(directory)[0]["sequence"] == written[0]["sequence"]


def test_rows_of_a_version_with_other_classes_are_that_versions(place: Workspace) -> None:
    bands = band_rows(house_rows())
    renamed = pc.replace_substring(bands.column("band"), "fair", "usual")
    write_deltalake(
        place.table("house_bands"),
        bands.set_column(bands.schema.get_field_index("band"), "band", renamed),
        mode="overwrite",
    )
    assert place.train_model("bands").model["output"]["classes"] == ["cheap", "dear", "usual"]
    first = log_of(place)
    store = f"sqlite:///{place.root}/other.db"
    replay_bands(place, "--set", "model.version=2", "--store", store)
    (other,) = [path for path in (place.root / ".onescore" / "replays").iterdir() if path != first]
    shutil.copytree(other / "bands", first / "bands", dirs_exist_ok=True)
    shutil.rmtree(other)
    code, report, directory = reconcile(place)
    assert code == 1
    one, two = report.by_version
    assert (one["version"], one["differing"]) == ("1", 0)
    assert (two["version"], two["differing"]) == ("2", two["compared"])
    assert {(c["cause"], c["where"]) for c in report.causes} == {("MODEL_VERSION", "version 2")}
    usual = [row for row in differing_of(directory) if row["online_class_label"] == "usual"]
    assert usual
    assert all(row["is_flip"] for row in usual)


def test_rows_that_were_refused_and_labels_that_no_score_gives_are_told(place: Workspace) -> None:
    def other_answer(row: dict[str, Any]) -> bool:
        if row["sequence"] == 3:
            row |= {"score": None, "class_label": None, "class_scores": None, "features": []}
            row["error_code"] = "INTERNAL"
        elif row["sequence"] == 4:
            row["class_label"] = next(name for name in BANDS if name != row["class_label"])
        return row["sequence"] in (3, 4)

    alter(place, other_answer, "bands")
    code, report, directory = reconcile(place)
    assert code == 1
    assert (report.rows_differing, report.rows_refused_online, report.decisions["flips"]) == (2, 1, 1)
    assert {one["cause"] for one in report.causes} == {"UNEXPLAINED"}
    refused, mislabelled = sorted(differing_of(directory), key=lambda row: row["sequence"])
    assert (refused["online_class_label"], refused["online_class_scores"]) == (None, None)
    assert refused["offline_class_label"] in BANDS
    assert mislabelled["online_class_scores"] == mislabelled["offline_class_scores"]
    assert report.repair["scores_to_correct"] == 2


def test_file_of_an_older_version_has_no_classes_and_is_compared_as_such(place: Workspace) -> None:
    """Rows of a time when the model had no classes, or of a release that did not log them: they differ, and nothing breaks."""
    file, *others = logged_files(place, "bands")
    n = pq.read_metadata(file).num_rows
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["class_label", "class_scores"]), file)
    code, report, _ = reconcile(place, "--set", "score.batch_rows=100000")
    assert code == 1
    assert report.rows_differing == n
    assert report.rows_compared == n + sum(pq.read_metadata(one).num_rows for one in others)


@pytest.mark.parametrize(
    "is_older", [False, True], ids=["this version's report", "an older version's report"]
)
def test_forgotten_entity_leaves_corrections_and_reports_of_classes_too(
    place: Workspace, is_older: bool
) -> None:
    larger_houses(place)
    _, report, directory = reconcile(place, "--corrections")
    file = directory / "differing.parquet"
    if is_older:
        names = [name for name in pq.read_schema(file).names if "class" not in name]
        pq.write_table(pq.read_table(file).select(names), file)
    gone = differing_of(directory)[0]["row_id"]
    arguments = ["--model", "bands", "--log", str(log_of(place)), "--key", f"house_id={gone}"]
    assert run(forget_entity.main, arguments) == 0
    kept = {row["row_id"] for row in differing_of(directory)}
    written = place.rows("score_corrections").to_pylist()
    assert kept == {row["row_id"] for row in written} == {row["row_id"] for row in written} - {gone}
    assert len(written) == report.rows_differing - 1
    assert all(len(row["class_scores"]) == 3 for row in written)
