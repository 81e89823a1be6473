"""A plan follows from model, input and configuration alone; what cannot be planned is said before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import ConfigurationError, ContractError, ModelError, TableError
from jobs.runs.batch import plan_from
from tests.toy.runs import move_alias, register_again
from tests.toy.workspace import house_rows, rate_rows

DAY_US = 86_400_000_000
START_US = 1_577_836_800_000_000


def planned(workspace, *overrides):
    conf = workspace.conf(*overrides)
    return plan_from(conf, Path(conf.storage.cache))


# --- the work follows from the snapshot


def test_work_is_cut_by_files_and_row_groups(trained_workspace):
    plan = planned(trained_workspace)
    assert plan.rows == 2_000
    assert [unit.rows for unit in plan.units] == [200] * 10
    assert plan.chunks == ((0, 3), (3, 6), (6, 9), (9, 10))


def test_same_snapshot_gives_same_plan_however_many_machines_there_are(trained_workspace):
    one = planned(trained_workspace, "spark.master=local[1]")
    many = planned(
        trained_workspace, "spark.master=spark://cluster:7077", "spark.conf.spark.default.parallelism=500"
    )
    assert one.units == many.units
    assert one.chunks == many.chunks
    assert one.cut() == many.cut()
    assert one.identity() == many.identity()
    assert one.group_key() == many.group_key()


def test_sizes_change_the_cut_and_nothing_else(trained_workspace):
    plan, other = (
        planned(trained_workspace),
        planned(trained_workspace, "score.chunk_rows=200", "score.batch_rows=7"),
    )
    assert len(other.chunks) == 10
    assert plan.cut() != other.cut()
    assert plan.identity() == other.identity()
    assert plan.group_key() == other.group_key()


def test_cut_tells_equal_counts_of_other_rows_apart(trained_workspace):
    """Other row groups or files behind the same numbers are another cut."""
    plan = planned(trained_workspace)
    moved = planned(trained_workspace)
    units = (moved.units[1], moved.units[0], *moved.units[2:])
    object.__setattr__(moved, "units", units)
    assert len(moved.units) == len(plan.units)
    assert moved.cut() != plan.cut()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: write_deltalake(w.table("houses"), house_rows(1), mode="append"),
        lambda w: write_deltalake(w.table("rates"), rate_rows(1), mode="append"),
        lambda w: move_alias(w, register_again(w)),
    ],
    ids=["input", "view", "version"],
)
def test_identity_changes_with_what_can_change_a_score(workspace, change):
    before = planned(workspace)
    change(workspace)
    after = planned(workspace)
    assert before.identity() != after.identity()
    assert before.group_key() == after.group_key()


def test_identity_changes_with_the_configuration(trained_workspace):
    assert (
        planned(trained_workspace).identity()
        != planned(trained_workspace, "output.pass_through=[rooms]").identity()
    )


@pytest.mark.parametrize("override", ["input.range_from=2020-02-01", "output.scored=elsewhere"])
def test_other_ranges_and_tables_are_other_groups(trained_workspace, override):
    assert planned(trained_workspace).group_key() != planned(trained_workspace, override).group_key()


def test_only_columns_that_somebody_needs_are_read(workspace):
    rows = house_rows(10).append_column("wide_text", pa.array(["x" * 1000] * 10))
    workspace.write("wide", rows)
    assert planned(workspace, "input.source=wide").columns == (
        "house_id",
        "asked_ts",
        "area_m2",
        "rooms",
        "town",
    )
    assert "wide_text" in planned(workspace, "input.source=wide", "output.pass_through=[wide_text]").columns


def test_view_that_the_input_brings_is_not_looked_up(workspace):
    rows = house_rows(10)
    for name in ("rate_pct", "rate_pct_floor"):
        rows = rows.append_column(name, pa.array([1.0] * 10))
    workspace.write("wide", rows)
    plan = planned(workspace, "input.source=wide")
    assert plan.views == {}
    assert plan.describe()["views"] == "brought by the input"


def test_description_names_what_matters_in_words(trained_workspace):
    facts = planned(trained_workspace).describe()
    assert "houses version 9 (delta" in facts["input"]
    assert facts["model"] == "houses version 1 (alias champion)"
    assert (facts["files"], facts["rows"], facts["chunks"], facts["tasks"]) == (10, 2_000, 4, 10)
    assert facts["model check"] == "verified"
    assert facts["scored table"].endswith("houses_scored")
    assert json.dumps(facts)


# --- a range of time


def bounds(workspace, start, stop):
    texts = [
        f"input.range_{side}='{value}'"
        for side, value in (("from", start), ("to", stop))
        if value is not None
    ]
    return planned(workspace, *texts).time_range


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        ("2020-01-02", None, (START_US + DAY_US, None)),
        (None, "2020-01-02T00:00:00Z", (None, START_US + DAY_US)),
        ("2020-01-01T05:30:00+05:30", "2020-01-01T00:00:00.000001Z", (START_US, START_US + 1)),
    ],
)
def test_range_is_of_the_as_of_field_in_microseconds(trained_workspace, start, stop, expected):
    assert bounds(trained_workspace, start, stop) == ("asked_ts", *expected)


def test_range_may_be_given_in_microseconds(trained_workspace):
    plan = planned(trained_workspace, f"input.range_from={START_US}")
    assert plan.time_range == ("asked_ts", START_US, None)


def test_without_bounds_there_is_no_range(trained_workspace):
    assert planned(trained_workspace, "input.range_column=asked_ts").time_range is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input.range_from='2020-02-01'", "input.range_to='2020-02-01'"], "range is empty"),
        (["input.range_from='2020-02-30'"], "range bound '2020-02-30': no such date"),
        (["input.range_from='2020-02-01T00:00:00'"], "add 'Z' or an offset"),
        (["input.range_from='February'"], "expected RFC 3339"),
        (["input.range_from='2020-02-01'", "input.range_column=asked_t"], "Did you mean 'asked_ts'"),
        (
            ["input.range_from='2020-02-01'", "input.range_column=area_m2"],
            "'area_m2' is double; a range needs a timestamp",
        ),
    ],
)
def test_range_that_cannot_be_is_refused(trained_workspace, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        planned(trained_workspace, *overrides)


@pytest.mark.parametrize("type_", [pa.date32(), pa.timestamp("us")], ids=str)
def test_range_of_a_column_that_is_no_instant_is_refused(workspace, type_):
    """Each of its rows would be unreadable as an instant, hence in every range."""
    rows = house_rows(10)
    workspace.write("wide", rows.append_column("day", rows.column("asked_ts").cast(type_)))
    with pytest.raises(ConfigurationError, match=r"'day' is .*a range needs a timestamp with a time zone"):
        planned(workspace, "input.source=wide", "input.range_from=2020-02-01", "input.range_column=day")


# --- partitions


@pytest.fixture
def by_month(workspace):
    """The houses in partitions of text that YAML would take for numbers and dates."""
    rows = house_rows(30)
    for name, values in {"month": ["01", "02", "03"] * 10, "day": ["2020-01-01", "2020-01-02"] * 15}.items():
        rows = rows.append_column(name, pa.array(values))
    write_deltalake(workspace.table("by_month"), rows, partition_by=["month", "day"])
    return workspace


def test_partitions_choose_files(by_month):
    plan = planned(by_month, "input.source=by_month", "input.partitions.month='03'")
    assert plan.rows == 10
    assert {file.partition_values["month"] for file in plan.snapshot.files} == {"03"}


def test_a_partition_that_does_not_exist_is_empty_and_an_unknown_column_is_not(by_month):
    assert planned(by_month, "input.source=by_month", "input.partitions.month='13'").units == ()
    with pytest.raises(TableError, match=r"'mnth' is not a partition column. Did you mean 'month'"):
        planned(by_month, "input.source=by_month", "input.partitions.mnth='03'")


# --- what cannot be planned


def test_missing_table_says_what_was_tried(trained_workspace):
    with pytest.raises(
        TableError, match=r"no such input. Tried: a Delta table at .*housez; Parquet files at .*housez"
    ):
        planned(trained_workspace, "input.source=housez")


def test_missing_view_table_is_named(trained_workspace):
    with pytest.raises(TableError, match="ratez: no such input"):
        planned(trained_workspace, "views.rates=ratez")


def test_view_without_a_table_says_which_key_to_set(trained_workspace):
    conf = trained_workspace.conf()
    object.__setattr__(conf, "views", {})
    with pytest.raises(ContractError, match=r"view 'rates': .* set views.rates"):
        plan_from(conf, Path(conf.storage.cache))


def test_missing_request_columns_are_named_with_what_there_is(workspace):
    rows = house_rows(10)
    workspace.write("bad", rows.rename_columns(["house_id", "asked_ts", "area", "rooms", "town"]))
    with pytest.raises(
        ContractError,
        match=r"lacks 1 required column\(s\): area_m2.*Did you mean 'area'\? Available: area, asked_ts",
    ):
        planned(workspace, "input.source=bad")


def test_missing_view_columns_are_named_with_what_there_is(workspace):
    workspace.write("bad", rate_rows().drop_columns(["rate_pct_floor"]))
    with pytest.raises(
        ContractError, match=r"view 'rates': table .* lacks rate_pct_floor. It has: town, event_ts"
    ):
        planned(workspace, "views.rates=bad")


@pytest.mark.parametrize("key", ["input.row_id", "output.pass_through"])
def test_unknown_columns_of_the_configuration_are_named(trained_workspace, key):
    with pytest.raises(ContractError, match=r"the input has no column 'houseid'. Did you mean 'house_id'"):
        planned(trained_workspace, f"{key}=[houseid]")


@pytest.mark.parametrize("name", ["row_id", "score", "run_id", "as_of_ts", "scored_at"])
def test_request_column_named_as_one_of_ours_cannot_be_repeated(workspace, name):
    workspace.write("wide", house_rows(10).append_column(name, pa.array(["x"] * 10)))
    planned(workspace, "input.source=wide")
    with pytest.raises(
        ConfigurationError, match=f"output.pass_through: the scored table has a column '{name}' of its own"
    ):
        planned(workspace, "input.source=wide", f"output.pass_through=[{name}]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.alias=champ", r"no alias 'champ'.* Did you mean 'champion'"),
        ("model.version=7", r"no version 7. Available: 1\."),
        ("model.name=house", r"no model 'house' is registered. Did you mean 'houses'"),
    ],
)
def test_unknown_model_says_what_there_is(trained_workspace, override, message):
    with pytest.raises(ModelError, match=message):
        planned(trained_workspace, override)


def test_a_file_that_a_pinned_version_lost_is_named(workspace):
    version = DeltaTable(workspace.table("houses")).version()
    workspace.write("houses", house_rows(10))
    DeltaTable(workspace.table("houses")).vacuum(0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(TableError, match="missing; it was deleted or vacuumed"):
        planned(workspace, f"input.version={version}")


def test_parquet_source_is_planned_like_a_table(workspace, tmp_path):
    rows = house_rows(30)
    for i, day in enumerate(("day=1", "day=2")):
        (tmp_path / "in" / day).mkdir(parents=True)
        pq.write_table(rows.slice(15 * i, 15), tmp_path / "in" / day / "part-0.parquet", row_group_size=5)
    plan = planned(workspace, f"input.source={tmp_path / 'in'}", "score.unit_rows=10")
    assert [(unit.row_groups, unit.first_ordinal, unit.rows) for unit in plan.units] == [
        ((0, 1), 0, 10),
        ((2,), 10, 5),
    ] * 2
