"""A query's files come back as they were written, and who holds them is told to the next."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs.conf import load
from jobs.runs.ids import IdSum
from jobs.runs.manifest import ChunkRecord
from jobs.runs.settings_stream import seconds_of
from jobs.runs.stream_state import BatchRecord, QueryManifest, StreamState, Totals, require_same
from jobs.tables.sink import WrittenFile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path):
    state = StreamState(str(tmp_path / "c"))
    state.path.mkdir(parents=True)
    return state


def record(batch):
    files = (WrittenFile("a.parquet", 3, 2, "{}"),)
    rows = ChunkRecord(
        batch, files, (), IdSum(2, 5, 6), IdSum(2, 5, 6), IdSum(), {"LATE": 1}, 1, {"score": 0.5}
    )
    return BatchRecord(rows, "digest", "3", {"rates": "version 7"}, None, 12, Totals(1, 2, 2, 0, {"LATE": 1}))


def test_record_comes_back_as_it_was_written(state):
    assert state.last_record() is None
    state.write_record(record(7))
    state.write_record(record(12))
    assert state.last_record() == record(12)
    assert state.record(7) == record(7)


def test_query_comes_back_as_it_was_begun(state):
    assert state.query() is None
    begun = state.begin(NOW, {"a": 1}, "3", {"version": 4})
    assert state.query() == begun
    assert begun.start == {"version": 4}
    assert begun.query_id.startswith("stream-20260101T000000Z-")
    state.write_query(QueryManifest(begun.query_id, {"a": 1}, "4"))
    assert state.query().version == "4"


def test_offsets_are_told_apart_by_what_they_say_of_the_source_alone(state):
    directory = state.spark / "offsets"
    directory.mkdir(parents=True)
    assert state.offsets(0) is None
    texts = ['v1\n{"batchTimestampMs":1}\n{"x":1}', 'v1\n{"batchTimestampMs":2}\n{"x":1}', 'v1\n{}\n{"x":2}']
    for number, text in enumerate(texts):
        (directory / str(number)).write_text(text.replace("\\\n", "\n"))
    first, second, third = (state.offsets(number) for number in range(3))
    assert first == second
    assert first != third


def test_other_process_is_told_who_holds_the_checkpoint(state):
    with (
        state.locked(NOW),
        pytest.raises(RunConflictError, match=f"process {os.getpid()} .* since 2026-01-01"),
        StreamState(str(state.root)).locked(NOW),
    ):
        pass
    with state.locked(NOW):
        pass


def test_directory_that_cannot_be_written_names_the_setting(tmp_path):
    (tmp_path / "c").write_text("")
    with (
        pytest.raises(ConfigurationError, match=r"^stream\.checkpoint: "),
        StreamState(f"{tmp_path}/c").locked(NOW),
    ):
        pass


def test_what_differs_is_named_with_both_values(state):
    recorded = QueryManifest("stream-1", {"a": 1, "b": 2}, "3")
    require_same(state, recorded, {"a": 1, "b": 2})
    said = "stream-1, which differs .*: b: the run has 2, now it is 3. Put .* with a checkpoint and tables of its own"
    with pytest.raises(RunConflictError, match=said):
        require_same(state, recorded, {"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("text", "seconds"), [("1 second", 1), ("90 seconds", 90), ("5 minutes", 300), ("1 day", 86_400)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "override", ["stream.trigger=10", "stream.watermark=soon", "stream.trigger=1.5 hours"]
)
def test_duration_that_is_none_is_refused(override):
    with pytest.raises(ConfigurationError, match="expected a duration such as '10 seconds'"):
        load(overrides=[override])


def test_password_of_a_source_is_a_reference(monkeypatch):
    with pytest.raises(ConfigurationError, match="password"):
        load(overrides=["stream.options.kafka.ssl.keystore.password=hunter2"])
    conf = load(overrides=["stream.options.kafka.ssl.keystore.password=env:KEYSTORE"])
    assert str(conf.stream.options["kafka.ssl.keystore.password"]) == "env:KEYSTORE"
