"""A streaming query by Spark itself: every source gives the batch job's bits, a restart goes on, and what differs is refused."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql.streaming.readwriter import DataStreamReader

from feature_pipelines.errors import (
    ConfigurationError,
    ContractError,
    OnescoreError,
    RunConflictError,
    TableError,
)
from jobs.online.csv_text import rows_of_csv
from jobs.runs.stream_plan import begun_query, describe_stream, pinned_model
from jobs.runs.stream_run import stream_from
from jobs.runs.stream_state import StreamState
from jobs.tables.delta import delete_rows
from tests.toy.houses import FEATURES as HOUSES
from tests.toy.runs import QUARANTINE, SCORED, content, move_alias, register_again
from tests.toy.streams import (
    FORMATS,
    KafkaLike,
    run_stream,
    running,
    source_settings,
    write_source,
)

KEPT = ("row_id", "code", "field", "message")
ONE_BATCH_EACH = "stream.options.maxFilesPerTrigger=1"


def progress_of(workspace):
    return json.loads(
        (workspace.root / ".onescore" / "streams" / "houses" / "onescore" / "progress").read_text()
    )


def until(is_true, what):
    give_up = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.1)


def quarantined(workspace):
    return sorted(map(repr, workspace.rows(QUARANTINE).select(KEPT).to_pylist()))


@pytest.mark.parametrize("format_", FORMATS)
def test_source_gives_the_bits_of_the_batch_job_and_a_restart_goes_on(spark, dirty, clean, tmp_path, format_):
    houses = dirty.rows("houses").sort_by("house_id")
    if format_ == "delta":
        dirty.write("houses", houses.slice(0, 1_200), rows_per_file=600)
    else:
        write_source(tmp_path / "in", format_, houses.slice(0, 600), "a")
        write_source(tmp_path / "in", format_, houses.slice(600, 600), "b")
    settings = [*source_settings(dirty, format_, tmp_path / "in"), ONE_BATCH_EACH]
    first = run_stream(spark, dirty, *settings)
    assert (first.state, first.batches, first.rows) == ("complete", 2, 1_200)
    assert run_stream(spark, dirty, *settings).batches == 0

    if format_ == "delta":
        write_deltalake(dirty.table("houses"), houses.slice(1_200, 800), mode="append")
    else:
        write_source(tmp_path / "in", format_, houses.slice(1_200, 800), "c")
    second = run_stream(spark, dirty, *settings)
    assert (second.query_id, second.batches, second.rows) == (first.query_id, 1, 800)
    assert (second.totals["rows"], second.totals["scored"]) == (2_000, 1_990)
    assert content(dirty, SCORED) == content(clean, SCORED)
    assert quarantined(dirty) == quarantined(clean)
    told = progress_of(dirty)
    assert (told["state"], told["rows"], told["files_behind"], told["model_version"]) == (
        "complete",
        800,
        0,
        "1",
    )
    assert told["lag_seconds"] > 0
    assert told["rows_per_second"] > 0


class Ended(Exception):
    """Stands for SIGKILL where Spark calls us: Py4J hands on an Exception alone, and waits for ever after anything else."""


def end_at(monkeypatch, point, spark, workspace, *settings):
    """Run a query that ends at its first arrival at a kill point, and see that it does."""

    def reached(place):
        if place == point:
            raise Ended(point)

    with monkeypatch.context() as patch:
        for name in ("stream_batch", "stream_run"):
            patch.setattr(f"jobs.runs.{name}.reached", reached)
        with pytest.raises(Ended):
            run_stream(spark, workspace, *settings)


def assert_rows_of_the_batch_job(workspace, clean, summary):
    """See that the rows are the batch job's as a multiset; those in quarantine but for the file, which differs."""
    assert content(workspace, SCORED) == content(clean, SCORED)
    assert quarantined(workspace) == quarantined(clean)
    assert (summary.totals["rows"], summary.totals["quarantined"]) == (2_000, 10)


@pytest.mark.parametrize("limit", [None, 3])
def test_table_that_grows_after_a_death_in_the_first_batch_loses_and_doubles_nothing(
    spark, dirty, clean, monkeypatch, limit
):
    """Spark noted where the first batch ends, and asks anew where it begins, when the table has another newest version."""
    houses = dirty.rows("houses").sort_by("house_id")
    dirty.write("houses", houses.slice(0, 1_500), rows_per_file=300)
    settings = [] if limit is None else [f"stream.options.maxFilesPerTrigger={limit}"]
    end_at(monkeypatch, "stream.before_score", spark, dirty, *settings)
    write_deltalake(dirty.table("houses"), houses.slice(1_500, 500), mode="append")
    assert_rows_of_the_batch_job(dirty, clean, run_stream(spark, dirty, *settings))


def test_rows_that_come_after_the_start_from_the_latest_version_are_read_whatever_dies(
    spark, dirty, clean, monkeypatch
):
    """The first death is before Spark knows of the query, the second in its first batch; what was there before is not read."""
    houses = dirty.rows("houses").sort_by("house_id")
    dirty.write("houses", houses.slice(0, 100))
    latest = "stream.options.startingVersion=latest"
    for point, start, n in (("stream.after_query", 0, 800), ("stream.before_score", 800, 1_200)):
        end_at(monkeypatch, point, spark, dirty, latest)
        write_deltalake(dirty.table("houses"), houses.slice(start, n), mode="append")
    assert_rows_of_the_batch_job(dirty, clean, run_stream(spark, dirty, latest))


OTHER = "stream.checkpoint=another"


def test_query_of_another_checkpoint_is_refused_tables_that_have_the_rows_already(spark, dirty, tmp_path):
    first = run_stream(spark, dirty)
    with pytest.raises(
        RunConflictError, match=f"already has rows of model 'houses' by query {first.query_id}"
    ):
        run_stream(spark, dirty, OTHER)
    conf = dirty.conf(OTHER)
    with pytest.raises(RunConflictError, match="--beside"):
        describe_stream(conf, *pinned_model(conf, tmp_path))
    assert describe_stream(conf, *pinned_model(conf, tmp_path), beside=True)["query"] == "new"
    assert dirty.rows(SCORED).num_rows == 1_990
    assert not (dirty.root / "another" / "onescore" / "query").exists()


def test_query_that_began_together_with_another_is_refused_before_its_first_commit(spark, dirty, monkeypatch):
    monkeypatch.setattr(
        "jobs.runs.stream_plan.require_alone", lambda *_: None
    )  # there was nothing to see then
    first = run_stream(spark, dirty)
    for _ in range(2):
        with pytest.raises(
            RunConflictError,
            match=f"has no batch yet, .* by query {first.query_id}.* Nothing of it was committed",
        ):
            run_stream(spark, dirty, OTHER)
    assert dirty.rows(SCORED).num_rows == 1_990
    assert dirty.rows(QUARANTINE).num_rows == 10


def test_query_beside_another_adds_rows_that_the_other_does_not_read_and_goes_on_without_being_told(
    spark, dirty, clean, tmp_path
):
    houses = dirty.rows("houses").sort_by("house_id")
    dirty.write("houses", houses.slice(0, 1_200))
    write_source(tmp_path / "in", "parquet", houses.slice(1_200, 400), "a")
    other = [OTHER, *source_settings(dirty, "parquet", tmp_path / "in")]
    first = run_stream(spark, dirty)
    second = stream_from(spark, dirty.conf(*other), available_now=True, beside=True)
    write_source(tmp_path / "in", "parquet", houses.slice(1_600, 400), "b")
    assert run_stream(spark, dirty, *other).query_id == second.query_id != first.query_id
    assert content(dirty, SCORED) == content(clean, SCORED)


def test_query_takes_the_place_of_one_whose_rows_were_taken_back(spark, dirty, clean):
    first = run_stream(spark, dirty)
    for table in (SCORED, QUARANTINE):
        assert delete_rows(dirty.table(table), "run_id", first.query_id)
    assert run_stream(spark, dirty, OTHER).query_id != first.query_id
    assert content(dirty, SCORED) == content(clean, SCORED)


def test_start_with_nothing_new_reports_and_logs_what_the_query_has_come_to(spark, dirty):
    first = run_stream(spark, dirty)
    told = progress_of(dirty)
    second = run_stream(spark, dirty)
    assert (second.batches, second.rows, second.totals, second.version) == (0, 0, first.totals, "1")
    again = progress_of(dirty)
    for name in ("batch", "at", "rows", "seconds", "files_behind", "latest_event_time", "totals"):
        assert again[name] == told[name]
    client = dirty.connect()
    experiment = client.get_experiment_by_name(dirty.conf().mlflow.experiment)
    runs = client.search_runs([experiment.experiment_id], "tags.`onescore.job` = 'score_stream'")
    assert [run.data.metrics["total.rows"] for run in runs] == [2_000, 2_000]
    assert sorted(run.data.metrics["rows"] for run in runs) == [0, 2_000]


def test_heart_beats_while_the_last_batch_is_still_finished(spark, dirty, monkeypatch):
    monkeypatch.setattr("jobs.runs.stream_progress._STEP_SECONDS", 0.01)
    monkeypatch.setattr("jobs.runs.stream_progress._BEAT_SECONDS", 0.01)
    state, heard = StreamState(str(dirty.root / ".onescore" / "streams" / "houses")), set()

    def recover(self):
        until(lambda: heard.add(state.progress()["heartbeat"]) or len(heard) > 2, "beats")
        raise TableError("seen")

    monkeypatch.setattr("jobs.runs.stream_batch.BatchScorer.recover", recover)
    with pytest.raises(TableError, match="seen"):
        run_stream(spark, dirty)
    assert (state.progress()["state"], state.progress()["error"]) == ("failed", "seen")


def test_rows_without_a_key_are_known_by_file_and_place_as_in_the_batch_job(spark, dirty, tmp_path):
    from jobs.runs.batch import score_table

    houses = dirty.rows("houses")
    write_source(tmp_path / "in", "parquet", houses.slice(0, 300), "a")
    write_source(tmp_path / "in", "parquet", houses.slice(300, 300), "b")
    place = json.dumps(str(tmp_path / "in"))
    same = [f"input.source={place}", "input.row_id=[]", "output.quarantine=q"]
    run_stream(spark, dirty, *same, "stream.format=parquet", "output.scored=by_stream")
    score_table(spark, dirty.conf(*same, "output.scored=by_batch"))
    ids = [sorted(dirty.rows(f"by_{way}").column("row_id").to_pylist()) for way in ("stream", "batch")]
    assert ids[0] == ids[1]
    assert {name.partition("#")[0] for name in ids[0]} == {"a.parquet", "b.parquet"}


def test_line_that_is_no_row_is_quarantined_with_its_text(spark, dirty, tmp_path):
    (tmp_path / "in").mkdir()
    good = {"house_id": 1, "asked_ts": "2020-01-05T00:00:00Z", "area_m2": 50.5, "rooms": 2, "town": "town-1"}
    bad = [
        "no json",
        '{"house_id": 2, "house_id": 3}',
        json.dumps({**good, "house_id": 4, "asked_ts": "2020-01-05"}),
    ]
    lines = [json.dumps(good), *bad, json.dumps({**good, "house_id": 5, "colour": "red"})]
    (tmp_path / "in" / "a.json").write_text("\n".join(lines))
    summary = run_stream(spark, dirty, *source_settings(dirty, "json", tmp_path / "in"))
    assert (summary.rows, summary.quarantined) == (5, 4)
    rows = {row["source_ordinal"]: row for row in dirty.rows(QUARANTINE).to_pylist()}
    assert [rows[i]["code"] for i in sorted(rows)] == [
        "UNREADABLE_ROW",
        "UNREADABLE_ROW",
        "BAD_TIMESTAMP",
        "UNKNOWN_FIELD",
    ]
    assert json.loads(rows[1]["row"]) == {"value": "no json"}
    assert rows[1]["source_file"].endswith("/in/a.json")
    assert rows[1]["row_id"] == f"{summary.query_id}/0/0#1"
    assert dirty.rows(SCORED).column("row_id").to_pylist() == ["1"]


def test_line_of_csv_with_too_many_cells_is_quarantined(spark, dirty, tmp_path):
    write_source(tmp_path / "in", "csv", dirty.rows("houses").slice(1, 2), "a")
    with (tmp_path / "in" / "a.csv").open("a") as file:
        file.write("7,2020-01-05T00:00:00Z,50.5,2,town-1,and,more\n")
        file.write("8,2020-01-05T00:00:00Z,large,2,town-1\n")
    run_stream(spark, dirty, *source_settings(dirty, "csv", tmp_path / "in"))
    rows = {row["row_id"]: row for row in dirty.rows(QUARANTINE).to_pylist()}
    reasons = {name: (row["code"], row["field"]) for name, row in rows.items()}
    assert reasons == {"a.csv#2": ("UNREADABLE_ROW", ""), "8": ("WRONG_TYPE", "area_m2")}
    whole = json.loads(rows["a.csv#2"]["row"])["_corrupt_record"]
    assert whole == "7,2020-01-05T00:00:00Z,50.5,2,town-1,and,more"


def test_csv_is_read_as_an_upload_is_whatever_its_quotes_and_the_order_of_its_columns(spark, dirty, tmp_path):
    content = (
        b"town,asked_ts,house_id,rooms,area_m2\r\n"
        b'"say ""hi""",2020-01-05T00:00:00Z,1,2,50.5\r\n"",2020-01-05T00:00:00Z,2,2,50.5\r\n'
        b',2020-01-05T00:00:00Z,3,2,50.5\r\n"ends with \\",2020-01-05T00:00:00Z,4,2,50.5\r\n'
        b'"x ""y"", z\nand more",2020-01-05T00:00:00Z,5,2,50.5\r\n'
    )
    latin = "caf\u00e9,2020-01-05T00:00:00Z,6,2,50.5\r\n".encode("latin-1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_bytes(content + latin)
    run_stream(spark, dirty, *source_settings(dirty, "csv", tmp_path / "in"), "output.pass_through=[town]")
    uploaded = rows_of_csv(content, HOUSES, max_rows=10).rows
    towns = {row["row_id"]: row["town"] for row in dirty.rows(SCORED).to_pylist()}
    refused = {row["row_id"]: row for row in dirty.rows(QUARANTINE).to_pylist()}
    assert towns == {row["house_id"]: row["town"] for row in uploaded if row["house_id"] not in refused}
    assert {"1", "2", "4", "5"} <= set(towns)
    (row,) = [row for row in refused.values() if row["code"] == "UNREADABLE_ROW"]
    assert (row["row_id"], row["message"]) == ("a.csv#5", "the row is not UTF-8")
    kept = json.loads(row["row"])["_corrupt_record"]["base64"]
    assert base64.b64decode(kept) + b"\r\n" == latin


def test_line_that_is_not_utf_8_is_quarantined_with_its_bytes_and_a_blank_one_is_none(spark, dirty, tmp_path):
    good = {"house_id": 1, "asked_ts": "2020-01-05T00:00:00Z", "area_m2": 50.5, "rooms": 2, "town": "town-1"}
    bad = b'{"house_id": 2, "town": "caf\xe9"}'
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes(b"\n".join([json.dumps(good).encode(), b"", bad, b" \t", b""]))
    summary = run_stream(spark, dirty, *source_settings(dirty, "json", tmp_path / "in"))
    assert (summary.rows, summary.quarantined) == (2, 1)
    (row,) = dirty.rows(QUARANTINE).to_pylist()
    assert row["code"] == "UNREADABLE_ROW"
    assert base64.b64decode(json.loads(row["row"])["value"]["base64"]) == bad


@pytest.mark.parametrize("trouble", ["damaged", "other types"])
def test_file_that_spark_cannot_read_is_named(spark, dirty, tmp_path, trouble):
    write_source(tmp_path / "in", "parquet", dirty.rows("houses").slice(0, 100), "a")
    file = tmp_path / "in" / "a.parquet"
    if trouble == "damaged":
        file.write_bytes(file.read_bytes()[:200])
    else:
        pq.write_table(pa.table({"house_id": ["one"]}), file)
    with pytest.raises(TableError, match=r"in/a\.parquet: Spark cannot read the file"):
        run_stream(spark, dirty, *source_settings(dirty, "parquet", tmp_path / "in"))


def test_columns_of_csv_can_be_made_of_others(spark, dirty, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text('n,t,area,rooms\n1,2020-01-05T00:00:00Z,50.5,2\n2,"\n')
    select = json.dumps(["n AS house_id", "t AS asked_ts", "area AS area_m2", "rooms", "'town-1' AS town"])
    run_stream(
        spark,
        dirty,
        *source_settings(dirty, "csv", tmp_path / "in"),
        "stream.columns=n string, t string, area string",
        f"stream.select={select}",
    )
    assert dirty.rows(SCORED).select(["row_id", "area_m2", "town"]).to_pylist() == [
        {"row_id": "1", "area_m2": 50.5, "town": "town-1"}
    ]
    assert dirty.rows(QUARANTINE).column("code").to_pylist() == ["UNREADABLE_ROW"]


def test_table_that_was_dropped_and_made_anew_is_refused_and_none_of_it_is_read(spark, dirty):
    houses = dirty.rows("houses").sort_by("house_id")
    run_stream(spark, dirty)
    before = dirty.rows(SCORED).num_rows
    shutil.rmtree(dirty.table("houses"))
    for start in range(0, 500, 100):
        write_deltalake(dirty.table("houses"), houses.slice(start, 100), mode="append")
    with pytest.raises(TableError, match="dropped and made anew"):
        run_stream(spark, dirty)
    assert dirty.rows(SCORED).num_rows == before


RATE = [
    "stream.format=rate",
    "stream.options.rowsPerSecond=50",
    "stream.trigger=1 seconds",
    'stream.select=["value AS house_id", "timestamp AS asked_ts", "10.5D + value AS area_m2", "value % 7 AS rooms", '
    "\"concat('town-', value % 6) AS town\"]",
]


def test_rate_source_runs_until_it_is_told_to_stop_and_goes_on_after(spark, dirty):
    with running(spark, dirty, *RATE) as ended:
        until(
            lambda: ended or (dirty.root / ".onescore/streams/houses/onescore/batch-000000002").exists(),
            "batches",
        )
    (summary,) = ended
    assert (summary.state, summary.rows) == ("stopped", summary.totals["rows"])
    assert summary.rows > 0
    before = dirty.rows(SCORED).num_rows
    with running(spark, dirty, *RATE) as ended:
        until(lambda: ended or dirty.rows(SCORED).num_rows > before, "rows of the second process")
    ids = sorted(int(row) for row in dirty.rows(SCORED).column("row_id").to_pylist())
    assert ids == list(range(len(ids)))
    assert ended[0].query_id == summary.query_id
    assert ended[0].totals["batches"] == summary.batches + ended[0].batches


def test_two_queries_on_one_checkpoint_are_refused(spark, dirty):
    with running(spark, dirty, *RATE) as ended:
        until(lambda: ended or (dirty.root / ".onescore/streams/houses/onescore/query").exists(), "the query")
        with pytest.raises(RunConflictError, match="is in use: process .* runs a query on it since"):
            run_stream(spark, dirty, *RATE)
    assert ended[0].state == "stopped"


@pytest.mark.slow
def test_version_is_pinned_by_the_checkpoint_and_not_by_the_alias(spark, dirty):
    run_stream(spark, dirty)
    move_alias(dirty, register_again(dirty))
    more = dirty.rows("houses").sort_by("house_id").slice(1, 10)
    write_deltalake(dirty.table("houses"), more, mode="append")
    assert run_stream(spark, dirty).version == "1"
    with pytest.raises(RunConflictError, match=r"model\.version: the run has '1', now it is '2'"):
        run_stream(spark, dirty, "model.version=2")
    write_deltalake(dirty.table("houses"), more, mode="append")
    assert run_stream(spark, dirty, "stream.follow_alias=true").version == "2"
    versions = dirty.rows(SCORED).column("model_version").to_pylist()
    assert {v: versions.count(v) for v in set(versions)} == {"1": 2_000, "2": 10}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "output.pass_through=[area_m2]",
            r"output\.pass_through: .*'area_m2', 'rooms'.*now it is \['area_m2'\]",
        ),
        ("stream.watermark=1 day", r"stream\.watermark: the run has None, now it is '1 day'"),
        ("stream.format=parquet", r"stream\.format: the run has 'delta', now it is 'parquet'"),
        ("model.allow_tolerance=true", r"model\.allow_tolerance"),
        (
            "stream.options.skipChangeCommits=true",
            r"stream\.options: .* now it is {'skipChangeCommits': 'true'}",
        ),
    ],
)
def test_changed_configuration_is_refused_on_a_checkpoint_and_names_both(dirty, override, expected):
    state = StreamState(str(dirty.root / ".onescore" / "streams" / "houses"))
    conf = dirty.conf()
    model, _ = pinned_model(conf)
    state.path.mkdir(parents=True)
    begun = begun_query(state, conf, model, datetime.now(UTC))
    assert begun_query(state, dirty.conf(ONE_BATCH_EACH), model, datetime.now(UTC)) == begun
    with pytest.raises(RunConflictError, match=expected) as refused:
        begun_query(state, dirty.conf(override), model, datetime.now(UTC))
    assert begun.query_id in str(refused.value)


@pytest.mark.slow
def test_changed_features_are_refused_on_a_checkpoint_and_both_are_named(spark, dirty):
    run_stream(spark, dirty)
    dirty.train("model.feature_set=tests.toy.houses:NEVER_NULL")
    with pytest.raises(
        RunConflictError, match="feature_fingerprint: the run has '[0-9a-f]{64}', now it is '[0-9a-f]{64}'"
    ):
        run_stream(spark, dirty, "model.version=2")


@pytest.mark.parametrize(
    ("overrides", "kind", "expected"),
    [
        (
            ["stream.format=json", 'stream.select=["1 AS house_id"]'],
            ConfigurationError,
            "have no columns to select from",
        ),
        (["stream.columns=shop strange"], ConfigurationError, "is no Spark DDL"),
        (["stream.source=nowhere"], TableError, "no Delta table there"),
        (["stream.format=rate"], ContractError, "the stream has no column 'house_id'"),
        (["stream.event_time=seen_ts"], ContractError, "the stream has no column 'seen_ts'"),
        (["stream.event_time=rooms"], ContractError, "the column 'rooms' is .*, which says no instant"),
        (
            ["stream.format=parquet", "stream.columns=seen_ts timestamp_ntz", "stream.event_time=seen_ts"],
            ContractError,
            "stream.event_time: the column 'seen_ts' is timestamp",
        ),
        (
            ["stream.format=parquet", "stream.columns=seen_ts bigint", "stream.event_time=seen_ts"],
            ContractError,
            "the column 'seen_ts' is int64, which says no instant",
        ),
        (
            ["stream.format=csv", "stream.options.sep=;"],
            ConfigurationError,
            r"stream\.options\.sep: csv has one form",
        ),
        (["stream.checkpoint=s3://bucket/x"], ConfigurationError, "cannot be locked"),
        (["stream.follow_alias=true", "model.version=1"], ConfigurationError, "there is no alias to follow"),
        (["stream.format=csv", "stream.source=/no/such"], TableError, "there is no directory /no/such"),
        (["stream.format=json", f"stream.source={__file__}"], TableError, "is a file; expected a directory"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(spark, dirty, overrides, kind, expected):
    with pytest.raises(kind, match=expected):
        run_stream(spark, dirty, *overrides)
    assert not (dirty.root / ".onescore" / "streams").exists()
    assert not Path(dirty.table(SCORED)).exists()


def test_error_of_a_batch_is_the_one_that_was_raised_and_the_next_start_goes_on(
    spark, dirty, clean, monkeypatch, capsys, tmp_path
):
    import jobs.runs.stream_batch as module

    def failing(*_, **__):
        raise TableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "commit_files", failing)
        with pytest.raises(OnescoreError, match="the disk is full"):
            run_stream(spark, dirty)
    told = progress_of(dirty)
    assert (told["state"], told["error"]) == ("failed", "the disk is full")
    conf = dirty.conf()
    assert describe_stream(conf, *pinned_model(conf, tmp_path))["last process"].endswith(": the disk is full")
    run_stream(spark, dirty)
    said = capsys.readouterr().err
    assert (
        f"the last process of query {told['query_id']}: failed at {told['ended']}: the disk is full" in said
    )
    assert progress_of(dirty)["error"] is None
    assert content(dirty, SCORED) == content(clean, SCORED)


@pytest.mark.slow
def test_other_writers_of_the_tables_are_tolerated(spark, dirty, clean):
    """A thread compacts both tables again and again while batches are committed."""
    stop, compactions = threading.Event(), []

    def compact() -> None:
        while not stop.is_set():
            for table in (SCORED, QUARANTINE):
                try:
                    DeltaTable(dirty.table(table)).optimize.compact()
                    compactions.append(table)
                except Exception:  # noqa: BLE001 - it lost a race, or there is no table yet
                    pass

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        run_stream(spark, dirty, ONE_BATCH_EACH)
    finally:
        stop.set()
        thread.join()
    assert compactions
    assert content(dirty, SCORED) == content(clean, SCORED)


def test_plan_says_what_would_be_done_and_writes_nothing(dirty, tmp_path):
    conf = dirty.conf("stream.watermark=2 hours", "stream.refresh_views_seconds=60")
    described = describe_stream(conf, *pinned_model(conf, tmp_path))
    assert described["query"] == "new"
    assert described["source"]["format"] == "delta"
    assert described["views are pinned"] == "at a batch, every 60 s at most"
    assert described["model"] == "houses version 1, pinned"
    assert not (dirty.root / ".onescore" / "streams").exists()


def test_mlflow_run_has_what_a_process_did(spark, dirty):
    summary = run_stream(spark, dirty)
    client = dirty.connect()
    experiment = client.get_experiment_by_name(dirty.conf().mlflow.experiment)
    (run,) = client.search_runs([experiment.experiment_id], "tags.`onescore.job` = 'score_stream'")
    assert run.data.tags["onescore.run_id"] == summary.query_id
    assert (run.data.metrics["rows"], run.data.metrics["total.quarantined.NULL_NOT_ALLOWED"]) == (2_000, 10)
    assert run.data.params["stream.format"] == "delta"


@pytest.mark.slow
def test_process_without_a_stop_reads_what_comes_while_it_runs(spark, dirty):
    rows = dirty.rows("houses")
    with running(spark, dirty, "stream.trigger=1 second") as ended:
        until(
            lambda: ended or (Path(dirty.table(SCORED)).exists() and dirty.rows(SCORED).num_rows == 1_990),
            "the snapshot",
        )
        write_deltalake(dirty.table("houses"), rows.slice(0, 100), mode="append")
        DeltaTable(dirty.table("houses")).optimize.compact()
        write_deltalake(dirty.table("houses"), rows.slice(100, 100), mode="append")
        until(lambda: ended or dirty.rows(SCORED).num_rows == 1_990 + 199, "what was added")
    assert (ended[0].state, ended[0].rows) == ("stopped", 2_200)


@pytest.mark.slow
def test_commit_that_takes_rows_out_of_the_source_is_refused(spark, dirty):
    run_stream(spark, dirty)
    DeltaTable(dirty.table("houses")).delete("house_id < 10")
    totals = progress_of(dirty)["totals"]
    with pytest.raises(TableError, match="takes rows out .*skipChangeCommits"):
        run_stream(spark, dirty)
    told = progress_of(dirty)
    assert "version 20 takes rows out (DELETE" in told["error"]
    assert (told["state"], told["totals"]) == ("failed", totals)
    write_deltalake(dirty.table("houses"), pa.table(dirty.rows("houses").slice(0, 5)), mode="append")


def test_stop_before_the_first_batch_ends_in_order(spark, dirty):
    stop = threading.Event()
    stop.set()
    summary = stream_from(spark, dirty.conf(*RATE), stop=stop)
    assert (summary.state, summary.batches) == ("stopped", 0)


def test_quarantined_rows_of_a_stream_are_scored_again_by_the_batch_job(spark, dirty, monkeypatch):
    from jobs.runs.command import run
    from jobs.score_batch import main

    summary = run_stream(spark, dirty)
    for name, value in dirty.env().items():
        monkeypatch.setenv(name, value)
    before = sorted(dirty.rows(QUARANTINE).column("row_id").to_pylist())
    assert run(main, ["--model", "houses", "--replay", summary.query_id]) == 0
    runs = dirty.rows(QUARANTINE).group_by("run_id").aggregate([("row_id", "list")]).to_pylist()
    assert [sorted(of_run["row_id_list"]) for of_run in runs] == [before, before]


def test_messages_of_kafka_are_rows_named_by_topic_partition_and_offset(
    spark, dirty, clean, tmp_path, monkeypatch
):
    """Kafka's jars are not here: a source with its columns stands for it, so what is tested is what we make of them."""
    spark.dataSource.register(KafkaLike)
    kept = DataStreamReader.format
    like = {"kafka": KafkaLike.name()}
    monkeypatch.setattr(DataStreamReader, "format", lambda self, name: kept(self, like.get(name, name)))
    write_source(tmp_path, "json", dirty.rows("houses").sort_by("house_id"), "topic")
    broker = tmp_path / "topic.json"
    with broker.open("ab") as file:
        file.write(b'{"house_id": \xff}\n')
    settings = ["stream.format=kafka", f"stream.options.broker={broker}", "stream.options.subscribe=houses"]
    with running(spark, dirty, *settings, "stream.trigger=1 second") as ended:
        until(lambda: ended or (Path(dirty.table(SCORED)).exists() and dirty.rows(SCORED).num_rows), "rows")
    assert ended[0].rows == 2_001
    assert content(dirty, SCORED) == content(clean, SCORED)
    (bad,) = [row for row in dirty.rows(QUARANTINE).to_pylist() if row["code"] == "UNREADABLE_ROW"]
    assert (bad["row_id"], bad["source_file"], bad["source_ordinal"]) == ("houses/0#2000", "houses/0", 2_000)
    assert json.loads(bad["row"])["topic"] == "houses"
