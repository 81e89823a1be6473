"""What a stream cannot follow is refused by name before it starts; the identity of one that goes on is tested with streams and fixtures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs.stream_plan import begun_query, describe_stream, pinned_model, require_streamable
from jobs.runs.stream_state import StreamState

FROM = "input.range_from=2020-01-05T00:00:00Z"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["input.partitions.town=town-1"], r"input\.partitions: "),
        ([FROM, "input.range_to=2020-01-06T00:00:00Z"], r"input\.range_from, input\.range_to: "),
        (["input.version=3"], r"input\.version: "),
        (["input.version=0", "stream.format=parquet"], r"input\.version: "),
    ],
)
def test_part_of_the_input_is_refused_by_the_names_of_its_keys(trained_workspace, overrides, named):
    with pytest.raises(
        ConfigurationError, match=f"^{named}a stream reads the whole of input.source .* stream.source"
    ):
        require_streamable(trained_workspace.conf(*overrides))


def test_plan_is_refused_likewise(trained_workspace, tmp_path):
    conf = trained_workspace.conf(FROM)
    with pytest.raises(ConfigurationError, match=r"^input\.range_from: "):
        describe_stream(conf, *pinned_model(conf, tmp_path))


@pytest.mark.parametrize("source", ["stream.source=elsewhere", "stream.format=rate"])
def test_part_of_the_input_does_not_concern_another_source(trained_workspace, source):
    require_streamable(trained_workspace.conf(FROM, "input.partitions.town=town-1", source))


def test_column_of_a_range_alone_asks_for_no_part(trained_workspace):
    require_streamable(trained_workspace.conf("input.range_column=asked_ts"))


def test_query_of_csv_goes_on_without_the_options_that_older_releases_had(trained_workspace, tmp_path):
    state, now = StreamState(str(tmp_path / "c")), datetime(2026, 1, 1, tzinfo=UTC)
    state.path.mkdir(parents=True)
    of_csv = ["stream.format=csv", f"stream.source={tmp_path}", "stream.options.pathGlobFilter=a.csv"]
    conf = trained_workspace.conf(*of_csv)
    model, _ = pinned_model(conf, tmp_path)
    begun = begun_query(state, conf, model, now)
    older = {"pathGlobFilter": "a.csv", "header": "true", "sep": ","}
    recorded = replace(begun, identity={**begun.identity, "stream.options": older})
    state.write_query(recorded)
    assert begun_query(state, conf, model, now) == recorded
    with pytest.raises(RunConflictError, match=r"stream\.options: the run has {'pathGlobFilter': 'a\.csv'}"):
        begun_query(state, trained_workspace.conf(*of_csv[:2]), model, now)
