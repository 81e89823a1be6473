"""A chunk's answers: those of the real-time scorer at the time when it came, logged once somebody takes them."""

from __future__ import annotations

import json

import pytest

from feature_pipelines.reasons import Reason, RowError
from jobs.submissions.scoring import Model, Scorers, wire_lines
from tests.toy.serving import asking, write_store
from udfs.bundle import bundle_digest
from udfs.serving import ServingSettings, open_scorer


@pytest.fixture
def model(bundle):
    return Model(str(bundle), "7", bundle_digest(bundle))


@pytest.fixture
def opened(tmp_path):
    """Scorers with a store that is filled, and one that is not there, both with a log."""
    through = write_store(tmp_path / "online.db")
    urls = {"filled": f"sqlite:///{tmp_path}/online.db", "empty": f"sqlite:///{tmp_path}/nix.db"}
    found = {
        name: Scorers(ServingSettings(url, 5_000, str(tmp_path / name), log_flush_seconds=0.05), 1)
        for name, url in urls.items()
    }
    yield found, through
    for scorers in found.values():
        scorers.close()


def logged(scorers, model):
    return scorers.load(model).log._log.metrics()


def test_answers_and_ids_stand_a_line_each_and_are_those_of_the_real_time_scorer(
    opened, model, bundle, tmp_path
):
    scorers, through = opened
    rows = [{k: v for k, v in row.items() if k != "as_of_ts"} for row in asking(9, through)]
    rows[2] = "no object"
    refused = [RowError(4, Reason.BAD_VALUE, "town", "broken before")]
    found = scorers["filled"].answer(model, through, rows, refused, is_last=False)
    online = open_scorer(
        bundle, ServingSettings(f"sqlite:///{tmp_path}/online.db"), lambda: through, model_version="7"
    )
    assert found.body == wire_lines(online.answer(rows, refused=refused))
    online.close()
    ids = [json.loads(line) for line in found.ids.split(b"\n")]
    assert ids == [[None] if i == 2 else [rows[i]["house_id"]] for i in range(9)]
    assert (found.n_retryable, found.n_refused) == (0, 2)


def test_what_was_taken_is_logged_once_and_what_was_not_is_not(opened, model):
    scorers, through = opened
    rows = asking(9, through)
    found = scorers["empty"].answer(model, through, rows, [], is_last=False)
    assert found.n_retryable > 0
    scorers["empty"].settle(False)
    assert logged(scorers["empty"], model)["queued"] == 0
    scorers["empty"].answer(model, through, rows, [], is_last=True)
    scorers["empty"].answer(model, through, rows, [], is_last=True)  # nobody said that the first were taken
    scorers["empty"].settle(True)
    scorers["empty"].settle(True)
    counts = logged(scorers["empty"], model)
    assert counts["queued"] + counts["written"] == 9


def test_versions_beyond_the_limit_are_closed_the_longest_unused_first(opened, model):
    scorers, through = opened
    first = scorers["filled"].load(model)
    other = Model(model.directory, "8", model.digest)
    assert scorers["filled"].load(model) is first
    scorers["filled"].load(other)
    assert scorers["filled"].load(model) is not first
    rows = asking(1, through)
    said = [
        json.loads(scorers["filled"].answer(m, through, rows, [], is_last=False).body) for m in (model, other)
    ]
    assert [one["model_version"] for one in said] == ["7", "8"]


def test_numbers_keep_their_bits_and_texts_that_are_no_unicode_pass():
    values = [{"x": 0.1 + 0.2}, {"x": 2**70}, {"x": "\ud800"}]
    assert [json.loads(line) for line in wire_lines(values).split(b"\n")] == values
