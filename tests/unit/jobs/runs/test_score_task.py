"""One task: its unit's rows are scored or quarantined with their originals, written, read back and proven. No Spark needed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.schema import Reason
from feature_pipelines.schema_arrow import column_from_arrow
from jobs.runs.batch import plan_from
from jobs.runs.ids import IdSum, id_sum
from jobs.runs.row_json import rows_from_json
from jobs.runs.score_tables import QUARANTINE_SCHEMA, scored_schema
from jobs.runs.score_task import ScoreTask, TaskResult
from jobs.runs.views import index_view
from jobs.runs.written_ids import ids_in_files
from jobs.tables.sink import WrittenFile
from tests.toy.parcel_tables import SCHEMA, parcel_rows
from tests.toy.workspace import house_rows
from udfs import shipped
from udfs.kernel import Kernel
from udfs.platform import platform_id

ROOT = "/data/requests"
STAMPS = {
    "model_name": "toy",
    "model_version": "1",
    "feature_fingerprint": "f" * 64,
    "configuration_digest": "c" * 64,
    "run_id": "20200101T000000Z-00000000",
}


def task_of(workspace, monkeypatch, tmp_path, *overrides, model="houses", **changes):
    """The task of all units, its kernel loaded in this process, its tables two empty directories."""
    conf = workspace.conf(*overrides, model=model)
    plan = plan_from(conf, Path(conf.storage.cache))
    indexes = {name: index_view(*view) for name, view in plan.views.items()}
    monkeypatch.setitem(shipped._KERNELS, ("here", False), Kernel(plan.scorer, indexes))
    for table in ("scored", "quarantine"):
        (tmp_path / table).mkdir(parents=True, exist_ok=True)
    task = ScoreTask(
        shipped="here",
        units=plan.units,
        columns=plan.columns,
        source_schema=plan.snapshot.schema.serialize().to_pybytes(),
        key=plan.key,
        repeated=plan.repeated,
        scored_uri=str(tmp_path / "scored"),
        quarantine_uri=str(tmp_path / "quarantine"),
        stamps=STAMPS,
        source_root=plan.snapshot.source,
        file_prefix="run-000000",
        batch_rows=conf.score.batch_rows,
        time_range=plan.time_range,
        allow_tolerance=False,
    )
    return pickle.loads(pickle.dumps(replace(task, **changes)))


def rows_of(task, part):
    """The rows of a written file, as its table's schema types them."""
    uri = (
        task.scored_uri
        if part is not None and (Path(task.scored_uri) / part.path).exists()
        else task.quarantine_uri
    )
    return pq.read_table(Path(uri) / part.path)


def in_order(table):
    return table.sort_by("row_id")


# --- what is written


def test_scored_rows_hold_ids_times_repeated_columns_scores_and_provenance(
    trained_workspace, monkeypatch, tmp_path
):
    task = task_of(trained_workspace, monkeypatch, tmp_path)
    result = task.run(0)
    rows = rows_of(task, result.scored)
    kernel = shipped.load_kernel("here")
    source = pq.read_table(task.units[0].file_uri)
    schema = pa.ipc.read_schema(pa.py_buffer(task.source_schema))
    declared = scored_schema(kernel.scorer.feature_set, kernel.scorer.output, schema, task.repeated)
    assert rows.schema.names == declared.names
    assert rows.schema.names[:5] == ["row_id", "as_of_ts", "town", "area_m2", "rooms"]
    assert rows.num_rows == 200
    assert rows.column("row_id").to_pylist() == [str(i) for i in source.column("house_id").to_pylist()]
    for name, origin in {
        "as_of_ts": "asked_ts",
        "town": "town",
        "area_m2": "area_m2",
        "rooms": "rooms",
    }.items():
        assert rows.column(name).to_pylist() == source.column(origin).to_pylist()
    direct = kernel.score(source.to_batches()[0]).outputs["score"]
    assert rows.column("score").to_numpy().view(np.uint64).tolist() == direct.view(np.uint64).tolist()
    for name, value in {**STAMPS, "platform_id": platform_id(), "verified": "verified"}.items():
        assert set(rows.column(name).to_pylist()) == {value}
    assert result.quarantined is None
    assert result.ids_in == result.ids_scored == id_sum(rows.column("row_id"))
    assert (result.unit, result.positives, result.reasons) == (0, 0, {})
    assert set(result.seconds) == {"load", "read", "prove", "score", "write"}


@pytest.mark.parametrize("batch_rows", [1, 7, 10_000])
def test_batch_size_changes_nothing(trained_workspace, monkeypatch, tmp_path, batch_rows):
    task = task_of(trained_workspace, monkeypatch, tmp_path)
    usual = rows_of(task, task.run(3).scored).drop_columns(["scored_at"])
    other = replace(task, batch_rows=batch_rows)
    assert rows_of(other, other.run(3).scored).drop_columns(["scored_at"]).equals(usual)


def test_row_is_scored_as_of_its_own_time_and_the_table_shows_that_one(workspace, monkeypatch, tmp_path):
    """As online: `as_of_ts` where the row has one, else the as-of field; one that cannot be read quarantines the row."""
    rows = house_rows(200)
    asked = rows.column("asked_ts").cast(pa.int64()).to_pylist()
    own = [None if i % 3 else asked[i] - 20 * 86_400_000_000 for i in range(200)]
    expected = [asked[i] if time is None else time for i, time in enumerate(own)]
    texts = [time if time is None else np.datetime_as_string(np.datetime64(time, "us")) + "Z" for time in own]
    texts[4] = "yesterday"
    shutil.rmtree(workspace.table("houses"))
    workspace.write("houses", rows.append_column("as_of_ts", pa.array(texts)), rows_per_file=200)
    task = task_of(workspace, monkeypatch, tmp_path)
    result = task.run(0)
    (found,) = rows_of(task, result.quarantined).to_pylist()
    assert (found["row_id"], found["code"], found["field"]) == ("4", "BAD_TIMESTAMP", "as_of_ts")
    scored = {row["row_id"]: row for row in rows_of(task, result.scored).to_pylist()}
    used = {i: scored[str(i)]["as_of_ts"].timestamp() * 1e6 for i in range(200) if i != 4}
    assert used == {i: time for i, time in enumerate(expected) if i != 4}
    kernel = shipped.load_kernel("here")
    keys = [
        column_from_arrow(kernel.scorer.feature_set.request["town"], rows.column("town").combine_chunks())[0]
    ]
    fields, _ = kernel.indexes["rates"].lookup(keys, np.array(expected))
    brought = rows.combine_chunks().to_batches()[0]
    for name, values in fields.items():
        brought = brought.append_column(name, pa.array(values, from_pandas=True))
    direct = kernel.score(brought).outputs["score"].tolist()
    assert [scored[str(i)]["score"] for i in range(200) if i != 4] == [
        s for i, s in enumerate(direct) if i != 4
    ]


def test_task_answers_spark_with_a_line_for_each_unit(trained_workspace, monkeypatch, tmp_path):
    task = task_of(trained_workspace, monkeypatch, tmp_path)
    lines = [out.column(0)[0].as_py() for out in task(iter([pa.RecordBatch.from_pydict({"id": [4, 2]})]))]
    results = [TaskResult.from_json(line) for line in lines]
    assert [result.unit for result in results] == [4, 2]
    assert results[0].to_json() == lines[0]
    assert all("\n" not in line for line in lines)
    assert {path.name[:16] for path in (tmp_path / "scored").iterdir()} == {
        "run-000000-00004",
        "run-000000-00002",
    }


def test_task_that_fails_half_way_leaves_no_file(trained_workspace, monkeypatch, tmp_path):
    task = task_of(trained_workspace, monkeypatch, tmp_path, "score.batch_rows=50")
    calls = Counter()

    def reached(point):
        calls[point] += 1
        if calls["task.mid_write"] == 3:
            raise OSError("disk full")

    monkeypatch.setattr("jobs.runs.score_task.reached", reached)
    with pytest.raises(OSError, match="disk full"):
        task.run(0)
    assert list((tmp_path / "scored").iterdir()) == []


# --- reading back


def test_ids_are_those_that_stand_in_the_files(trained_workspace, monkeypatch, tmp_path):
    task = task_of(trained_workspace, monkeypatch, tmp_path)
    results = [task.run(0), task.run(1)]
    files = [result.scored for result in results]
    assert ids_in_files(task.scored_uri, files) == results[0].ids_in + results[1].ids_in
    assert ids_in_files(task.scored_uri, []) == IdSum()


def test_a_sink_that_writes_other_rows_than_it_was_given_is_found_out(
    trained_workspace, monkeypatch, tmp_path
):
    task = task_of(trained_workspace, monkeypatch, tmp_path)
    kept = ScoreTask._scored

    def losing(self, *arguments):
        return kept(self, *arguments)[:-1]

    monkeypatch.setattr(ScoreTask, "_scored", losing)
    result = task.run(0)
    assert result.ids_in.count == 200
    assert result.ids_scored.count == 196  # 200 rows in 4 batches of 64 at most
    assert result.ids_scored != result.ids_in


# --- ids


def written_as_parquet(tmp_path, names, rows_each=3):
    rows = house_rows(rows_each * len(names))
    for i, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.slice(rows_each * i, rows_each), tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.mark.parametrize(
    "names", [("day=1/part-0.parquet", "day=2/part-0.parquet"), ("a/b/0.parquet", "a/c/0.parquet")]
)
def test_files_of_one_name_in_two_directories_give_different_ids(workspace, monkeypatch, tmp_path, names):
    source = written_as_parquet(tmp_path, names)
    task = task_of(workspace, monkeypatch, tmp_path, f"input.source={source}", key=())
    ids = [one for i in (0, 1) for one in rows_of(task, task.run(i).scored).column("row_id").to_pylist()]
    assert ids == [f"{name}#{i}" for name in names for i in range(3)]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/data/requests/day=1/p.parquet", "day=1/p.parquet"),
        ("/data/requests/p.parquet", "p.parquet"),
        ("/data/requests2/day=1/h=2/p.parquet", "day=1/h=2/p.parquet"),
        ("s3://bucket/warehouse/requests/day=1/p.parquet", "day=1/p.parquet"),
        ("/elsewhere/day=1/x/p.parquet", "p.parquet"),
        ("/data/requests", "requests"),
    ],
)
def test_file_is_named_by_its_path_below_the_source_or_by_its_partitions(file, name):
    from jobs.runs.score_task import _name_below

    assert _name_below(ROOT, file) == name


def test_ids_do_not_depend_on_units_or_batches(workspace, monkeypatch, tmp_path):
    pq.write_table(house_rows(60), tmp_path / "one.parquet", row_group_size=20)
    source = f"input.source={tmp_path / 'one.parquet'}"
    whole = task_of(workspace, monkeypatch, tmp_path, source, "score.unit_rows=60", key=())
    parts = task_of(
        workspace, monkeypatch, tmp_path, source, "score.unit_rows=20", "score.batch_rows=7", key=()
    )
    assert (len(whole.units), len(parts.units)) == (1, 3)
    together = [
        one for i in range(3) for one in rows_of(parts, parts.run(i).scored).column("row_id").to_pylist()
    ]
    assert together == rows_of(whole, whole.run(0).scored).column("row_id").to_pylist()
    assert together == [f"one.parquet#{i}" for i in range(60)]


# --- a range of time


def ranged(workspace, monkeypatch, tmp_path, *overrides, column="asked_ts"):
    rows = house_rows(5)
    times = pa.array([0, 10, 20, None, 30], pa.timestamp("us", tz="UTC"))
    pq.write_table(rows.set_column(1, "asked_ts", times), tmp_path / "t.parquet")
    source = f"input.source={tmp_path / 't.parquet'}"
    task = task_of(workspace, monkeypatch, tmp_path, source, "score.batch_rows=2", *overrides)
    result = task.run(0)
    scored = rows_of(task, result.scored).column("row_id").to_pylist() if result.scored else []
    names = ["row_id", "code", "field", "source_ordinal"]
    quarantined = rows_of(task, result.quarantined).select(names).to_pylist() if result.quarantined else []
    assert result.ids_in == result.ids_scored + result.ids_quarantined
    return scored, quarantined


@pytest.mark.parametrize(
    ("overrides", "inside"),
    [
        (["input.range_from=10"], ["1", "2", "4"]),
        (["input.range_to=10"], ["0"]),
        (["input.range_from=10", "input.range_to=30"], ["1", "2"]),
        (["input.range_from=10", "input.range_to=31"], ["1", "2", "4"]),
        (["input.range_from=1000"], []),
    ],
)
def test_range_includes_its_beginning_and_not_its_end(workspace, monkeypatch, tmp_path, overrides, inside):
    scored, quarantined = ranged(workspace, monkeypatch, tmp_path, *overrides)
    assert scored == inside
    without_time = {"row_id": "3", "code": "NULL_NOT_ALLOWED", "field": "asked_ts", "source_ordinal": 3}
    assert quarantined == ([without_time] if overrides == ["input.range_to=10"] else [])


def test_of_ranges_that_follow_each_other_one_takes_the_rows_without_a_time(workspace, monkeypatch, tmp_path):
    rows = house_rows(4).append_column(
        "seen", pa.array(["1970-01-01T00:00:00Z", "soon", None, "1970-01-01T00:00:09Z"])
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    common = [f"input.source={tmp_path / 't.parquet'}", "input.range_column=seen"]
    ranges = [["input.range_to=5"], ["input.range_from=5", "input.range_to=7"], ["input.range_from=7"]]
    found = []
    for i, bounds in enumerate(ranges):
        task = task_of(workspace, monkeypatch, tmp_path / str(i), *common, *bounds)
        result = task.run(0)
        parts = [rows_of(task, part) for part in (result.scored, result.quarantined) if part is not None]
        found.append([row["row_id"] for part in parts for row in part.select(["row_id"]).to_pylist()])
    assert found == [["0", "1", "2"], [], ["3"]]


# --- quarantine

FAULTS = {
    3: ({"weight_kg": None}, Reason.NULL_NOT_ALLOWED, "weight_kg"),
    4: ({"weight_kg": float("nan")}, Reason.NULL_NOT_ALLOWED, "weight_kg"),
    7: ({"asked_ts": None}, Reason.NULL_NOT_ALLOWED, "asked_ts"),
    16: ({"n_items": "two"}, Reason.WRONG_TYPE, "n_items"),
    17: ({"n_items": "2.0"}, Reason.WRONG_TYPE, "n_items"),
    18: ({"weight_kg": -0.5}, Reason.OUT_OF_RANGE, "weight_kg"),
    19: ({"weight_kg": 1000.5}, Reason.OUT_OF_RANGE, "weight_kg"),
    20: ({"n_items": "-1"}, Reason.OUT_OF_RANGE, "n_items"),
    31: ({"n_items": "2147483648"}, Reason.INTEGER_OVERFLOW, "n_items"),
    32: ({"n_items": "9" * 30}, Reason.INTEGER_OVERFLOW, "n_items"),
    33: ({"weight_kg": float("inf")}, Reason.NOT_FINITE, "weight_kg"),
    34: ({"surcharge_eur": float("-inf")}, Reason.NOT_FINITE, "surcharge_eur"),
    35: ({"asked_ts": "yesterday"}, Reason.BAD_TIMESTAMP, "asked_ts"),
    36: ({"asked_ts": "2020-01-01T00:00:00"}, Reason.BAD_TIMESTAMP, "asked_ts"),
    37: ({"asked_ts": "2020-02-30T00:00:00Z"}, Reason.BAD_TIMESTAMP, "asked_ts"),
    38: ({"label_png": "not base64!"}, Reason.BAD_VALUE, "label_png"),
    39: ({"declared_eur": "1.005"}, Reason.PRECISION_LOST, "declared_eur"),
    40: ({"declared_eur": "12345678.00"}, Reason.OUT_OF_RANGE, "declared_eur"),
    41: ({"zone": "nowhere"}, Reason.STORED_FEATURES_MISSING, "zones"),
    42: ({"zone": None}, Reason.STORED_FEATURES_MISSING, "zones"),
    43: ({"n_items": "5"}, Reason.FEATURE_ERROR, "handling_fee"),
    44: ({"n_items": "2000000000"}, Reason.FEATURE_ERROR, "handling_fee"),
    46: ({"insured_eur": None}, Reason.MODEL_ERROR, ""),
    47: ({"surcharge_eur": 1.7e308}, Reason.NON_FINITE_SCORE, "score"),
    49: ({"weight_kg": None, "asked_ts": "never", "n_items": "x"}, Reason.BAD_TIMESTAMP, "asked_ts"),
}
ONLY_IN_JSON = {Reason.UNKNOWN_FIELD, Reason.UNREADABLE_ROW}
ONLY_IN_STREAMS = {Reason.LATE}
ONLY_OF_IMAGES = {reason for reason in Reason if reason.startswith("IMAGE_")}
ONLY_ONLINE = {Reason.AS_OF_BEFORE_STORE, Reason.STORE_UNAVAILABLE, Reason.STORED_VALUE_UNREADABLE}


overflows = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # an error here only


@pytest.fixture
def faulty(parcels, monkeypatch, tmp_path):
    """The first 50 parcels, half of them with a fault each, scored by one task in batches of 16."""
    parcels.write("parcels", parcel_rows({i: changes for i, (changes, _, _) in FAULTS.items()}, n=50))
    task = task_of(parcels, monkeypatch, tmp_path, model="parcels")
    return task, task.run(0)


def test_every_reason_that_a_table_can_give_is_tried():
    elsewhere = ONLY_IN_JSON | ONLY_IN_STREAMS | ONLY_OF_IMAGES | ONLY_ONLINE
    assert {reason for _, reason, _ in FAULTS.values()} == set(Reason) - elsewhere


@overflows
def test_guilty_rows_and_no_others_are_quarantined_each_with_its_reason(faulty):
    task, result = faulty
    rows = rows_of(task, result.quarantined)
    found = {row["row_id"]: (row["code"], row["field"]) for row in rows.to_pylist()}
    assert found == {f"p{i:04d}": (reason, field) for i, (_, reason, field) in FAULTS.items()}
    assert rows_of(task, result.scored).column("row_id").to_pylist() == [
        f"p{i:04d}" for i in range(50) if i not in FAULTS
    ]
    assert result.reasons == Counter(str(reason) for _, reason, _ in FAULTS.values())
    assert result.ids_in == result.ids_scored + result.ids_quarantined


@overflows
def test_neighbours_of_a_guilty_row_keep_their_bits(faulty, parcels, monkeypatch, tmp_path):
    task, result = faulty
    (tmp_path / "again").mkdir()
    parcels.write("parcels", parcel_rows({}, n=50))
    clean = task_of(parcels, monkeypatch, tmp_path / "again", model="parcels")
    scores = rows_of(clean, clean.run(0).scored).select(["row_id", "score"]).to_pylist()
    expected = {row["row_id"]: row["score"].hex() for row in scores}
    found = {row["row_id"]: row["score"].hex() for row in rows_of(task, result.scored).to_pylist()}
    assert found == {name: expected[name] for name in found}


@overflows
def test_quarantined_row_is_the_whole_original_and_comes_back_exactly(faulty):
    task, result = faulty
    kept = rows_of(task, result.quarantined)
    restored = pa.Table.from_batches([rows_from_json(kept.column("row").to_pylist(), SCHEMA)])
    originals = parcel_rows({i: changes for i, (changes, _, _) in FAULTS.items()}, n=50).take(list(FAULTS))
    assert "remark" not in task.columns
    for name in SCHEMA.names:
        ours, theirs = (repr(table.column(name).to_pylist()) for table in (restored, originals))
        assert ours == theirs


@overflows
def test_quarantined_row_says_where_it_stood_and_which_model_refused_it(faulty):
    task, result = faulty
    rows = rows_of(task, result.quarantined)
    assert rows.schema.names == QUARANTINE_SCHEMA.names
    assert rows.column("source_ordinal").to_pylist() == list(FAULTS)
    assert set(rows.column("source_file").to_pylist()) == {task.units[0].file_uri}
    for name in ("model_name", "model_version", "run_id"):
        assert set(rows.column(name).to_pylist()) == {STAMPS[name]}


@overflows
def test_messages_hold_no_data(faulty):
    task, result = faulty
    said = json.dumps(rows_of(task, result.quarantined).column("message").to_pylist())
    for value in ("yesterday", "not base64", "nowhere", "2147483648", "12345678", "1.005"):
        assert value not in said


def test_row_without_an_id_is_named_by_its_place(parcels, monkeypatch, tmp_path):
    parcels.write("parcels", parcel_rows({1: {"parcel_id": None}, 2: {"weight_kg": None}}, n=4))
    task = task_of(parcels, monkeypatch, tmp_path, model="parcels")
    result = task.run(0)
    (nameless, weightless) = rows_of(task, result.quarantined).to_pylist()
    assert nameless["row_id"].endswith(".parquet#1")
    assert (nameless["code"], nameless["field"]) == ("NULL_NOT_ALLOWED", "parcel_id")
    assert weightless["row_id"] == "p0002"


def test_a_whole_column_of_another_type_is_a_fault_of_every_row(parcels, monkeypatch, tmp_path):
    rows = parcel_rows({}, n=20)
    rows = rows.set_column(3, "n_items", pa.array([1.0, None] * 10))
    pq.write_table(rows, tmp_path / "wrong.parquet")
    task = task_of(
        parcels, monkeypatch, tmp_path, f"input.source={tmp_path / 'wrong.parquet'}", model="parcels"
    )
    result = task.run(0)
    assert result.scored is None
    assert result.reasons == {"WRONG_TYPE": 10, "NULL_NOT_ALLOWED": 10}


def test_result_without_files_survives_json():
    empty = TaskResult(0, None, None, IdSum(), IdSum(), IdSum(), {}, 0, {"read": 0.5})
    assert TaskResult.from_json(empty.to_json()) == empty
    full = replace(
        empty, quarantined=WrittenFile("a", 1, 1, "{}"), ids_quarantined=IdSum(1, 2, 3), reasons={"A": 1}
    )
    assert TaskResult.from_json(full.to_json()) == full
