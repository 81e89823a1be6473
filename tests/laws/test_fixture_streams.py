"""A query that an earlier release began goes on in this one: what is in its checkpoint is read, and is no reason to refuse it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from feature_pipelines.errors import RunConflictError
from jobs.runs.stream_plan import begun_query, checkpoint_of, pinned_model
from jobs.runs.stream_progress import last_process
from jobs.runs.stream_state import BatchRecord, QueryManifest, StreamState
from tests.toy.runs import SCORED, content
from tests.toy.streams import run_stream
from tests.toy.workspace import Workspace

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "stream_1"
STORED = json.loads((FIXTURE / "query").read_text())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WATERMARK = "stream.watermark=400 days"


@pytest.fixture
def state(dirty: Workspace) -> StreamState:
    """The checkpoint as it was left, of a query that has no batch yet."""
    conf = dirty.conf(WATERMARK)
    model, _ = pinned_model(conf)
    places = {
        "{root}": str(dirty.root),
        "{feature_fingerprint}": model.feature_fingerprint,
        '"{source_version}"': str(DeltaTable(dirty.table("houses")).version()),
    }
    text = (FIXTURE / "query").read_text()
    for name, value in places.items():
        text = text.replace(name, value)
    state = StreamState(checkpoint_of(conf))
    state.path.mkdir(parents=True)
    (state.path / "query").write_text(text)
    return state


def begun(workspace: Workspace, state: StreamState, *overrides: str) -> QueryManifest:
    conf = workspace.conf(WATERMARK, *overrides)
    return begun_query(state, conf, pinned_model(conf)[0], NOW)


def without(state: StreamState, key: str) -> None:
    """Take a key out of the stored identity, as if its release had not known it."""
    query = json.loads((state.path / "query").read_text())
    del query["identity"][key]
    (state.path / "query").write_text(json.dumps(query))


def test_stored_query_is_continued(dirty: Workspace, state: StreamState) -> None:
    assert begun(dirty, state).query_id == STORED["query_id"]


@pytest.mark.parametrize("key", STORED["identity"])
def test_key_that_the_stored_query_does_not_know_is_compared_with_its_default(
    dirty: Workspace, state: StreamState, key: str
) -> None:
    without(state, key)
    if key not in ("views", "output.pass_through", "stream.source", "stream.watermark"):
        begun(dirty, state)
        return
    with pytest.raises(RunConflictError, match=rf"{key}: the run has (None|{{}}|\[\]), now it is"):
        begun(dirty, state)


def test_key_that_this_release_does_not_know_is_passed_over(dirty: Workspace, state: StreamState) -> None:
    query = json.loads((state.path / "query").read_text())
    query["identity"]["stream.of_yesterday"] = 3
    (state.path / "query").write_text(json.dumps(query))
    begun(dirty, state)


def test_what_no_stream_reads_may_change(dirty: Workspace, state: StreamState) -> None:
    place = json.dumps(dirty.table("houses"))
    begun(dirty, state, "input.range_column=asked_ts", "model.feature_set=tests.toy.houses:NEVER_NULL")
    begun(
        dirty,
        state,
        "input.source=elsewhere",
        f"stream.source={place}",
        "input.range_to=2020-01-05T00:00:00Z",
    )


def test_stored_query_scores_its_rows(
    spark: Any, dirty: Workspace, clean: Workspace, state: StreamState
) -> None:
    run_stream(spark, dirty, WATERMARK)
    assert content(dirty, SCORED) == content(clean, SCORED)
    query = state.query()
    assert query is not None
    assert set(dirty.rows(SCORED).column("run_id").to_pylist()) == {query.query_id}


def test_stored_record_of_a_batch_is_read(tmp_path: Path) -> None:
    stored = json.loads((FIXTURE / "batch-000000001").read_text())
    record = BatchRecord.from_json(stored)
    assert (record.batch, record.totals.rows, record.totals.scored) == (1, 2_000, 1_990)
    assert stored.items() <= json.loads(json.dumps(record.to_json())).items()


def test_stored_progress_is_read(tmp_path: Path) -> None:
    state = StreamState(str(tmp_path))
    state.path.mkdir()
    for told in ({"state": "complete"}, {"state": "failed", "ended": "t"}, {"state": "running"}):
        stored = json.loads((FIXTURE / "progress").read_text())
        state.write_progress(stored | told)
        assert last_process(state) is None
