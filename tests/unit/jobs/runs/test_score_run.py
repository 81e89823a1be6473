"""A run as the driver sees it: continued, refused, repeated or started over; limits; what is checked before and after commits."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.errors import PySparkException

from feature_pipelines.errors import (
    ConfigurationError,
    ContractError,
    ModelIntegrityError,
    RunConflictError,
    TableError,
    VerificationError,
)
from jobs.runs import score_run
from jobs.runs.batch import plan_from
from jobs.runs.manifest import RunGroup
from jobs.runs.score_run import score
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.delta import ensure_table, orphans
from tests.toy.runs import (
    QUARANTINE,
    SCORED,
    InThisProcess,
    content,
    dies_at,
    directory_tree,
    latest_run,
    move_alias,
    register_again,
)
from tests.toy.workspace import house_rows, rate_rows


@pytest.fixture
def session(spark):
    return InThisProcess(spark)


def planned(workspace, *overrides):
    conf = workspace.conf(*overrides)
    return plan_from(conf, Path(conf.storage.cache))


def run_ids(workspace, table=SCORED):
    return set(workspace.rows(table).column("run_id").to_pylist())


def row_ids(workspace, table=SCORED):
    return sorted(workspace.rows(table).column("row_id").to_pylist(), key=int)


# --- how a run ends


def test_summary_counts_what_is_in_the_tables(workspace, session):
    workspace.write("houses", house_rows(bad=(5, 6)), rows_per_file=200)
    told = []
    summary = score(session, planned(workspace), progress=lambda *state: told.append(state))
    assert (summary.rows_in, summary.rows_scored, summary.rows_quarantined) == (2_000, 1_998, 2)
    assert summary.reasons == {"NULL_NOT_ALLOWED": 2}
    assert (summary.resumed, summary.did_nothing, summary.positives) == (False, False, 0)
    assert summary.rows_per_second > 0
    assert set(summary.stages) == {"load", "read", "prove", "score", "write"}
    assert (workspace.rows(SCORED).num_rows, workspace.rows(QUARANTINE).num_rows) == (1_998, 2)
    assert [done for done, _, _ in told] == [600, 1_200, 1_800, 2_000]
    assert {total for _, total, _ in told} == {2_000}
    assert latest_run(workspace).completed() == summary.__dict__


def test_progress_of_a_range_ends_with_all_rows_done(workspace, session):
    """Rows that the range leaves out are done when their chunk is: else a backfill would stop at a few percent, with time left."""
    told = []
    plan = planned(workspace, "input.range_from=2020-03-01")
    summary = score(session, plan, progress=lambda *state: told.append(state))
    assert 0 < summary.rows_in < plan.rows == 2_000
    assert [done for done, _, _ in told] == [600, 1_200, 1_800, 2_000]
    assert {total for _, total, _ in told} == {2_000}


def test_each_chunk_is_one_transaction_per_table_named_by_run_and_chunk(workspace, session):
    summary = score(session, planned(workspace))
    for name, table in (("scored", SCORED), ("quarantine", QUARANTINE)):
        delta = DeltaTable(workspace.table(table))
        assert delta.version() == 4  # the table's creation and four chunks
        assert [
            delta.transaction_version(f"onescore/{summary.run_id}/{name}/{chunk}") for chunk in range(5)
        ] == [1, 1, 1, 1, None]
        assert [entry.get("onescore.run_id") for entry in delta.history()] == [summary.run_id] * 4 + [None]


def test_manifest_says_what_the_run_is_made_of(workspace, session):
    plan = planned(workspace)
    summary = score(session, plan)
    manifest = latest_run(workspace).manifest()
    assert manifest["run_id"] == summary.run_id
    assert manifest["identity"] == json.loads(json.dumps(plan.identity()))
    assert manifest["settings"] == plan.conf.digested()
    assert manifest["cut"] == plan.cut()
    assert manifest["chunks"] == [list(chunk) for chunk in plan.chunks]


@pytest.mark.parametrize("files", [0, 1], ids=["no file", "a file without rows"])
def test_empty_input_is_a_committed_empty_result(workspace, session, files):
    source = workspace.table("nobody")
    if files:
        write_deltalake(source, house_rows(0))
    else:
        ensure_table(source, house_rows(0).schema)
    summary = score(session, planned(workspace, "input.source=nobody"))
    assert (summary.rows_in, summary.rows_scored, summary.rows_quarantined) == (0, 0, 0)
    assert latest_run(workspace).completed() is not None
    for table in (SCORED, QUARANTINE):
        assert workspace.rows(table).num_rows == 0
        assert DeltaTable(workspace.table(table)).version() == 1
    assert score(session, planned(workspace, "input.source=nobody")).did_nothing


def test_range_without_rows_is_an_empty_result_too(workspace, session):
    summary = score(
        session,
        planned(
            workspace,
            "input.range_from=2020-01-05T00:00:00.000001Z",
            "input.range_to=2020-01-05T00:00:00.000002Z",
        ),
    )
    assert (summary.rows_in, summary.rows_scored) == (0, 0)


def test_complete_run_is_not_repeated(workspace, session):
    first = score(session, planned(workspace))
    before = directory_tree(workspace.root / ".onescore")
    again = score(session, planned(workspace))
    assert again.did_nothing
    assert again.run_id == first.run_id
    after = directory_tree(workspace.root / ".onescore")
    assert {name for name in after if after[name] != before.get(name)} <= {
        name for name in after if name.endswith("/lock")
    }


def test_complete_run_with_another_cut_is_not_repeated(workspace, session):
    score(session, planned(workspace))
    assert score(session, planned(workspace, "score.chunk_rows=100")).did_nothing


def test_new_data_after_a_complete_run_is_a_new_run(workspace, session):
    first = score(session, planned(workspace))
    write_deltalake(workspace.table("houses"), house_rows(2_005).slice(2_000), mode="append")
    second = score(session, planned(workspace))
    assert not second.did_nothing
    assert (second.rows_in, second.resumed) == (2_005, False)
    assert run_ids(workspace) == {first.run_id, second.run_id}


def test_new_run_scores_a_complete_one_again(workspace, session):
    first = score(session, planned(workspace))
    second = score(session, planned(workspace), new_run=True)
    assert second.run_id != first.run_id
    assert workspace.rows(SCORED).num_rows == 4_000


def test_ranges_side_by_side_score_every_row_once(workspace, session):
    for bounds in (
        ["input.range_to=2020-02-01"],
        ["input.range_from=2020-02-01", "input.range_to=2020-03-01"],
        ["input.range_from=2020-03-01"],
    ):
        score(session, planned(workspace, *bounds))
    assert row_ids(workspace) == list(map(str, range(2_000)))


# --- what cannot be continued


def unfinished(workspace, session, monkeypatch):
    with dies_at(monkeypatch, "chunk.after_scored_commit"):
        score(session, planned(workspace))
    return latest_run(workspace).run_id


CHANGES = {
    "input": (
        lambda w: write_deltalake(w.table("houses"), house_rows(2_001).slice(2_000), mode="append"),
        [],
        r"input: the run has '.*houses version 9 .*digest \w+\)', now it is '.*houses version 10 ",
    ),
    "view": (
        lambda w: write_deltalake(w.table("rates"), rate_rows(1), mode="append"),
        [],
        r"view rates: the run has '.*rates version 0 .*now it is '.*rates version 1 ",
    ),
    "version": (
        lambda w: move_alias(w, register_again(w)),
        [],
        r"model: the run has 'houses version 1', now it is 'houses version 2'",
    ),
    "configuration": (
        lambda w: None,
        ["output.pass_through=[rooms]"],
        r"configuration_digest: .*output.pass_through: the run has \['area_m2', 'rooms'\], now it is \['rooms'\]",
    ),
    "key": (
        lambda w: None,
        ["input.row_id=[town, house_id]"],
        r"input.row_id: the run has None, now it is \['town', 'house_id'\]",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_unfinished_run_of_another_identity_is_refused_and_new_run_starts_over(
    workspace, session, monkeypatch, what
):
    change, overrides, message = CHANGES[what]
    first = unfinished(workspace, session, monkeypatch)
    change(workspace)
    with pytest.raises(RunConflictError, match=message) as caught:
        score(session, planned(workspace, *overrides))
    assert first in str(caught.value)
    assert "--new-run" in str(caught.value)
    assert run_ids(workspace) == {first}
    second = score(session, planned(workspace, "output.scored=over", *overrides), new_run=True)
    assert second.run_id != first
    assert workspace.rows("over").num_rows == second.rows_scored


def test_new_run_takes_back_what_an_unfinished_one_committed(workspace, session, monkeypatch):
    unfinished(workspace, session, monkeypatch)
    assert 0 < workspace.rows(SCORED).num_rows < 2_000
    second = score(session, planned(workspace), new_run=True)
    assert row_ids(workspace) == list(map(str, range(2_000)))
    assert run_ids(workspace) == {second.run_id}
    assert orphans(workspace.table(SCORED), "") == []
    assert score(session, planned(workspace)).did_nothing


def test_new_run_takes_rows_back_from_the_tables_of_the_run_that_wrote_them(workspace, session, monkeypatch):
    bad = range(5, 2_000, 200)  # one in each file: whichever comes first
    workspace.write("houses", house_rows(bad=bad), rows_per_file=200)
    unfinished(workspace, session, monkeypatch)
    assert workspace.rows(QUARANTINE).num_rows > 0
    score(session, planned(workspace, "output.quarantine=elsewhere"), new_run=True)
    assert workspace.rows(QUARANTINE).num_rows == 0
    assert row_ids(workspace, "elsewhere") == [str(row) for row in bad]


# --- ids that repeat


@pytest.mark.parametrize("n_committed", [0, 1])
def test_rows_that_share_an_id_end_the_run(workspace, session, n_committed):
    """In one chunk before its commit; in two chunks before the run is complete."""
    rows = house_rows(400)
    again = house_rows(200).slice(6, 1)
    parts = [again, rows] if n_committed == 0 else [rows, again]
    workspace.write("houses", pa.concat_tables(parts), rows_per_file=200)
    chunk_rows = "score.chunk_rows=600" if n_committed == 0 else "score.chunk_rows=200"
    with pytest.raises(
        ContractError, match=r"1 row id\(s\) occur more than once, such as '6' \(2 times\)"
    ) as caught:
        score(session, planned(workspace, chunk_rows))
    assert caught.value.evidence == {"n_ids": 1}
    assert latest_run(workspace).completed() is None
    assert workspace.rows(SCORED).num_rows == (401 if n_committed else 0)
    summary = score(session, planned(workspace, chunk_rows, "input.row_id=[]"), new_run=True)
    assert (summary.rows_scored, workspace.rows(SCORED).num_rows) == (401, 401)


def test_new_run_that_died_while_it_took_rows_back_is_started_over(workspace, session, monkeypatch):
    first = unfinished(workspace, session, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(RunGroup, "new", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            score(session, planned(workspace), new_run=True)
    assert workspace.rows(SCORED).num_rows == 0
    summary = score(session, planned(workspace))
    assert summary.run_id != first
    assert not summary.resumed
    assert row_ids(workspace) == list(map(str, range(2_000)))


def test_new_run_leaves_the_rows_of_a_complete_one(workspace, session):
    first = score(session, planned(workspace)).run_id
    second = score(session, planned(workspace), new_run=True).run_id
    assert run_ids(workspace) == {first, second}
    assert workspace.rows(SCORED).num_rows == 4_000


@pytest.mark.parametrize("table", [SCORED, QUARANTINE])
def test_complete_run_whose_table_is_gone_is_scored_again(workspace, session, table, capsys):
    first = score(session, planned(workspace)).run_id
    shutil.rmtree(workspace.table(table))
    summary = score(session, planned(workspace))
    assert not summary.did_nothing
    assert summary.run_id != first
    assert f"run {first} is complete, but" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "rows", "back"),
    [("houses", house_rows(1), "input.version=0"), ("rates", rate_rows(), "view_versions.rates=0")],
)
def test_run_goes_on_when_it_is_put_back_on_the_versions_that_it_began_with(
    workspace, session, monkeypatch, table, rows, back
):
    version = DeltaTable(workspace.table(table)).version()
    back = back.replace("=0", f"={version}")
    first = unfinished(workspace, session, monkeypatch)
    write_deltalake(workspace.table(table), rows, mode="append")
    with pytest.raises(RunConflictError, match=r"view_versions\.<view> name a version"):
        score(session, planned(workspace))
    summary = score(session, planned(workspace, back))
    assert (summary.run_id, summary.resumed) == (first, True)
    assert row_ids(workspace) == list(map(str, range(2_000)))


def test_putting_things_back_lets_a_run_go_on(workspace, session, monkeypatch):
    first = unfinished(workspace, session, monkeypatch)
    with pytest.raises(RunConflictError):
        score(session, planned(workspace, "output.pass_through=[rooms]"))
    assert score(session, planned(workspace)).run_id == first
    assert row_ids(workspace) == list(map(str, range(2_000)))


def data_files(workspace, table):
    return sorted(Path(uri) for uri in DeltaTable(workspace.table(table)).file_uris())


def test_resume_on_a_vacuumed_snapshot_is_refused(workspace, session, monkeypatch):
    pinned = f"input.version={DeltaTable(workspace.table('houses')).version()}"
    with dies_at(monkeypatch, "chunk.after_scored_commit"):
        score(session, planned(workspace, pinned))
    workspace.write("houses", house_rows(10))
    DeltaTable(workspace.table("houses")).vacuum(0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(TableError, match="deleted or vacuumed"):
        score(session, planned(workspace, pinned))


@pytest.mark.parametrize("what", ["deleted", "overwritten"])
def test_file_that_changes_between_plan_and_start_is_found_before_anything_is_scored(
    workspace, session, what
):
    plan = planned(workspace)
    file = Path(plan.units[4].file_uri)
    if what == "deleted":
        file.unlink()
    else:
        pq.write_table(house_rows(150), file)
    with pytest.raises(
        TableError, match=rf"houses at version 9 is no longer what was pinned: 1 of 10 files.*{file.name}"
    ):
        score(session, plan)
    assert not Path(workspace.table(SCORED)).exists()


# --- errors of a task


def test_error_of_ours_in_a_worker_arrives_as_such(workspace, spark, monkeypatch):
    """A file that vanishes while a run is under way; by a real worker, whose error Spark brings back as text."""
    plan = planned(workspace)
    lost = Path(plan.units[2].file_uri)
    monkeypatch.setattr(
        score_run, "ship", lambda *arguments, ship=score_run.ship: (ship(*arguments), lost.unlink())[0]
    )
    with pytest.raises(
        TableError, match=rf"{lost.name}: missing; it was deleted or vacuumed after the input was pinned"
    ):
        score(spark, plan)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Traceback ...\n  File x\nfeature_pipelines.errors.ModelIntegrityError: golden rows differ",
            ModelIntegrityError,
        ),
        (
            "  feature_pipelines.errors.TableError: first\n  feature_pipelines.errors.ContractError: second\nat java",
            ContractError,
        ),
        ("ValueError: feature_pipelines.errors.TableError: quoted", PySparkException),
        ("feature_pipelines.errors.Unheard: x", PySparkException),
        ("feature_pipelines.errors.Any: x", PySparkException),
        ("java.lang.OutOfMemoryError", PySparkException),
    ],
)
def test_only_an_error_of_ours_is_turned_back_into_one(text, expected):
    with pytest.raises(expected) as caught, errors_of_workers():
        raise PySparkException(text)
    assert type(caught.value) is expected


def test_other_error_of_a_worker_stays_what_it_is(workspace, session, monkeypatch):
    plan = planned(workspace)
    monkeypatch.setattr(
        "jobs.runs.score_task.load_kernel", lambda *_: (_ for _ in ()).throw(FileNotFoundError("not shipped"))
    )
    with pytest.raises(FileNotFoundError, match="not shipped"):
        score(session, plan)


def test_lock_is_not_given_back_while_a_task_is_still_running(workspace, session, monkeypatch):
    """The next run would otherwise clean up, and finish, while an old task still writes."""
    workspace.write("houses", house_rows(bad=range(0, 2_000, 3)), rows_per_file=200)
    failing, slow, held_at_end = threading.Event(), [], []
    original = score_run._Run._score

    def scoring(run, chunk):
        if chunk:
            failing.wait(30)
            threading.Event().wait(0.3)
            slow.append(chunk)
        return original(run, chunk)

    check = score_run._Run._check_limit
    monkeypatch.setattr(score_run._Run, "_score", scoring)
    monkeypatch.setattr(
        score_run._Run, "_check_limit", lambda run, records: (failing.set(), check(run, records))
    )
    locked = RunGroup.locked

    class Watched(RunGroup):
        def locked(self, *terms, **more):
            held = locked(self, *terms, **more)

            class Held:
                def __enter__(self):
                    return held.__enter__()

                def __exit__(self, *error):
                    held_at_end.extend(slow)
                    return held.__exit__(*error)

            return Held()

    monkeypatch.setattr(score_run, "RunGroup", Watched)
    with pytest.raises(ContractError):
        score(session, planned(workspace))
    assert held_at_end
    threading.Event().wait(0.5)
    assert slow == held_at_end


# --- too many bad rows


@pytest.fixture
def with_bad_files(workspace):
    """A source of plain files in a known order: 1 bad row in the first chunk, 60 in the second."""
    directory = workspace.root / "requests"
    directory.mkdir()
    rows = house_rows(bad=(1, *range(700, 760)))
    for i in range(10):
        pq.write_table(rows.slice(200 * i, 200), directory / f"{i}.parquet")
    return workspace, f"input.source={directory}"


def test_share_above_the_limit_fails_and_commits_nothing_more(with_bad_files, session):
    workspace, source = with_bad_files
    with pytest.raises(
        ContractError,
        match=r"61 of 2000 rows break the contract \(3.05%, the limit is 1.00%\): NULL_NOT_ALLOWED 61",
    ) as caught:
        score(session, planned(workspace, source))
    assert "Nothing more was committed" in str(caught.value)
    assert caught.value.evidence == {"rows": 2_000, "quarantined": 61}
    assert (workspace.rows(SCORED).num_rows, workspace.rows(QUARANTINE).num_rows) == (599, 1)
    run = latest_run(workspace)
    assert run.completed() is None
    assert run.record(1) is None


def test_bad_rows_at_the_beginning_are_judged_as_a_share_of_all(with_bad_files, session):
    workspace, source = with_bad_files
    rows = house_rows(bad=range(20))  # 3.3 % of the first chunk, 1 % of all
    pq.write_table(rows.slice(0, 200), workspace.root / "requests" / "0.parquet")
    for i in range(1, 10):
        pq.write_table(rows.slice(200 * i, 200), workspace.root / "requests" / f"{i}.parquet")
    assert score(session, planned(workspace, source)).rows_quarantined == 20


@pytest.mark.parametrize("column", ["town", "note", "key"])
def test_text_that_is_not_utf_8_is_one_bad_row_and_no_dead_run(workspace, session, column):
    broken = pa.array([b"\xff\xfe" if i == 7 else b"town-1" for i in range(20)], pa.binary())
    text = broken.cast(options=pa.compute.CastOptions(pa.string(), allow_invalid_utf8=True))
    rows = house_rows(20, bad=(11,))
    if column == "town":
        rows = rows.drop_columns("town")
    rows = rows.append_column(column, text)
    overrides = ["output.pass_through=[note]"] if column == "note" else []
    if column == "key":
        rows = rows.append_column("part", pa.array(range(20)))
        overrides = ["input.row_id=[key, part]"]
    directory = workspace.root / "texts"
    directory.mkdir()
    pq.write_table(rows, directory / "0.parquet")
    summary = score(
        session, planned(workspace, f"input.source={directory}", "quarantine.max_share=1", *overrides)
    )
    refused = {
        json.loads(row["row"])["house_id"]: (row["code"], row["field"])
        for row in workspace.rows(QUARANTINE).to_pylist()
    }
    expected = {11: ("NULL_NOT_ALLOWED", "area_m2")}
    if column != "note":  # what is only passed through is passed through as it is
        expected[7] = ("BAD_VALUE", column)
    assert refused == expected
    assert summary.rows_scored == 20 - len(expected)


def test_raising_the_limit_lets_the_same_run_go_on(with_bad_files, session):
    workspace, source = with_bad_files
    with pytest.raises(ContractError):
        score(session, planned(workspace, source))
    first = latest_run(workspace).run_id
    summary = score(session, planned(workspace, source, "quarantine.max_share=0.1"))
    assert (summary.run_id, summary.resumed) == (first, True)
    assert (summary.rows_scored, summary.rows_quarantined) == (1_939, 61)
    assert sorted(row_ids(workspace) + row_ids(workspace, QUARANTINE), key=int) == list(
        map(str, range(2_000))
    )
    for table in (SCORED, QUARANTINE):
        assert orphans(workspace.table(table), "") == []


@pytest.mark.parametrize(
    ("limit", "passes"), [("0.0305", True), ("0.0304", False), ("1", True), ("0", False)]
)
def test_limit_is_the_highest_share_that_passes(with_bad_files, session, limit, passes):
    workspace, source = with_bad_files
    overrides = (source, "score.chunk_rows=2000", f"quarantine.max_share={limit}")
    if passes:
        assert score(session, planned(workspace, *overrides)).rows_quarantined == 61
    else:
        with pytest.raises(ContractError):
            score(session, planned(workspace, *overrides))
        assert workspace.rows(SCORED).num_rows == 0


# --- what an interruption left is not taken on trust


def interrupted(workspace, session, monkeypatch, point="chunk.after_record"):
    with dies_at(monkeypatch, point, arrival=2):
        score(session, planned(workspace))
    return latest_run(workspace)


def change_record(run, chunk, change):
    path = run.record_path(chunk)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


TAMPERING = {
    "ids read": (lambda record: record["ids"][0].__setitem__(0, 601), "chunk 1: read 601 ids"),
    "checksum": (lambda record: record["ids"][1].__setitem__(1, "0" * 16), "chunk 1: read 600 ids"),
    "a file left out": (
        lambda record: record["scored"].pop(),
        "chunk 1: 2 files for .* hold 400 rows, expected 600 ids",
    ),
    "a file twice": (
        lambda record: record["scored"].append(record["scored"][0]),
        "chunk 1: 4 files for .* hold 800 rows",
    ),
    "another chunk's file": (
        lambda record: record["scored"].__setitem__(0, record["scored"][1]),
        r"chunk 1: the files written for .* are lost or changed: recorded 600 ids.* found 600 ids",
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampered_record_is_found_before_anything_is_committed(workspace, session, monkeypatch, how):
    change, message = TAMPERING[how]
    run = interrupted(workspace, session, monkeypatch)
    change_record(run, 1, change)
    before = content(workspace, SCORED)
    with pytest.raises(VerificationError, match=message):
        score(session, planned(workspace))
    assert content(workspace, SCORED) == before


def written_files(workspace, run, chunk, table=SCORED):
    return sorted(Path(workspace.table(table)).glob(f"{run.run_id}-{chunk:06d}-*.parquet"))


def lose(file):
    file.unlink()


def truncate(file):
    file.write_bytes(file.read_bytes()[:100])


def change_a_row(file):
    table = pq.read_table(file)
    ids = ["changed", *table.column("row_id").to_pylist()[1:]]
    pq.write_table(table.set_column(0, table.schema.field(0), [ids]), file)


@pytest.mark.parametrize("damage", [lose, truncate, change_a_row])
def test_file_lost_or_changed_before_its_commit_is_found_and_its_chunk_can_be_scored_again(
    workspace, session, monkeypatch, damage
):
    run = interrupted(workspace, session, monkeypatch)
    damage(written_files(workspace, run, 1)[0])
    with pytest.raises(
        VerificationError,
        match=r"chunk 1: the files written for .* before the interruption are lost or changed",
    ) as caught:
        score(session, planned(workspace))
    assert workspace.rows(SCORED).num_rows == 600
    assert f"delete {run.record_path(1)} and run again" in str(caught.value)
    run.record_path(1).unlink()
    assert score(session, planned(workspace)).run_id == run.run_id
    assert row_ids(workspace) == list(map(str, range(2_000)))
    assert orphans(workspace.table(SCORED), "") == []


def test_files_compacted_and_vacuumed_after_their_commit_do_not_stop_a_run(workspace, session, monkeypatch):
    run = interrupted(workspace, session, monkeypatch, "chunk.after_scored_commit")
    before = written_files(workspace, run, 0)
    table = DeltaTable(workspace.table(SCORED))
    table.optimize.compact()
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert not any(file.exists() for file in before)
    assert score(session, planned(workspace)).run_id == run.run_id
    assert row_ids(workspace) == list(map(str, range(2_000)))


def test_commit_that_is_not_in_the_log_is_missed(workspace, session, monkeypatch):
    monkeypatch.setattr(score_run, "commit_files", lambda *_, **__: True)
    with pytest.raises(
        VerificationError, match=r"table .*houses_scored lacks the commits of chunks \[0, 1, 2, 3\]"
    ):
        score(session, planned(workspace))
    assert latest_run(workspace).completed() is None


def test_files_of_other_runs_are_left_alone(workspace, session):
    score(session, planned(workspace))
    foreign = Path(workspace.table(SCORED)) / "20130101T000000Z-ffffffff-000000-00000-x.parquet"
    foreign.write_text("another run is writing this")
    score(session, planned(workspace), new_run=True)
    assert orphans(workspace.table(SCORED), "") == [foreign.name]


# --- where things are


def test_runs_on_storage_without_locks_are_refused(workspace, session):
    with pytest.raises(ConfigurationError, match=r"storage.runs: s3://bucket/runs cannot be locked"):
        score(session, planned(workspace, "storage.runs=s3://bucket/runs"))


def test_table_of_another_schema_is_refused_with_what_differs(workspace, session):
    ensure_table(workspace.table(SCORED), pa.schema([pa.field("row_id", pa.string(), nullable=False)]))
    with pytest.raises(TableError, match=r"another schema.*score: the table has no such column"):
        score(session, planned(workspace))
