"""The online path against the batch kernel: rows looked up in a real SQLite file have the bits of rows joined as of the same time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.wire import parse_timestamp
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_wire
from tests.toy.houses import FEATURES, RATES
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import house_rows, rate_rows
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.scorer import Scorer

N = 300
DAY = 86_400_000_000


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    """The toy model."""
    return load_bundle(bundle)


@pytest.fixture(params=["in order", "reversed", "twice"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    """A SQLite file with all rates, written in some order: the newest wins in any."""
    store = open_store(f"sqlite:///{tmp_path}/online.db")
    rates = rate_rows()
    order = np.arange(rates.num_rows)
    orders = {"in order": [order], "reversed": [order[::-1]], "twice": [order, order]}[request.param]
    for index in orders:
        write_rates(store, rates.take(pa.array(index)))
    yield store
    store.close()


def requests_at(as_of: int) -> list[dict[str, Any]]:
    """Return the requests without stored fields, all asked at one time."""
    rows = house_wire(N)
    return [{n: v for n, v in row.items() if not n.startswith("rate_")} | {"asked_ts": as_of} for row in rows]


def batch_at(as_of: int) -> pa.RecordBatch:
    """Return the same requests as a batch of rows that are to be looked up."""
    table = house_rows(N)
    asked = pa.array([as_of] * N).cast(pa.timestamp("us", tz="UTC"))
    table = table.set_column(table.schema.get_field_index("asked_ts"), "asked_ts", asked)
    return table.combine_chunks().to_batches()[0]


@pytest.mark.parametrize("days_after", [0, 3, 24, 60])
def test_online_answer_has_the_bits_of_the_as_of_join_at_the_same_time(
    scorer: Scorer, store: OnlineStore, days_after: int
) -> None:
    rates = rate_rows()
    seen = [rates.column(name).cast(pa.int64()).to_numpy().max() for name in ("event_ts", "created_ts")]
    as_of = int(max(seen)) + days_after * DAY
    kernel = Kernel(scorer, {"rates": index_from_arrow(RATES, rates)})
    batch = kernel.score(batch_at(as_of))
    expected = [bits_of(score) for score in batch.outputs["score"].tolist()]
    assert len(expected) == N

    online = OnlineScorer(scorer, store, clock=lambda: as_of)
    rows = requests_at(as_of)
    answers = online.answer(rows)
    assert [bits_of(answer["score"]) for answer in answers] == expected
    assert [bits_of(online.answer([row])[0]["score"]) for row in rows[:50]] == expected[:50]
    later = OnlineScorer(scorer, store, clock=lambda: as_of + 1_000 * DAY)  # each row says its own time
    answers = later.answer([row | {"as_of_ts": as_of} for row in rows])
    assert [bits_of(answer["score"]) for answer in answers] == expected
    found = {answer["views"]["rates"]["status"] for answer in answers}
    assert "PRESENT" in found or days_after > 3
    assert "EXPIRED" in found or days_after < 60


def test_row_asked_before_the_stores_row_was_visible_is_refused_where_the_batch_knows_the_answer(
    scorer: Scorer, store: OnlineStore
) -> None:
    early = parse_timestamp("2020-01-15T00:00:00Z")
    rows = [row | {"town": "town-1"} for row in requests_at(early)[:3]]
    answers = OnlineScorer(scorer, store, clock=lambda: early).answer(rows)
    assert [answer["error"]["code"] for answer in answers] == ["AS_OF_BEFORE_STORE"] * 3


POLICIES: dict[str, dict[str, Any]] = {
    "null": {},
    "defaults": {"missing": "defaults", "defaults": {"rate_pct": 2.5, "rate_pct_floor": 0.25}},
    "reject": {"missing": "reject"},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_where_there_is_no_row_both_do_what_the_view_says(
    scorer: Scorer, store: OnlineStore, policy: str
) -> None:
    view = dataclasses.replace(RATES, **POLICIES[policy])
    scorer = dataclasses.replace(scorer, feature_set=dataclasses.replace(FEATURES, views=(view,)))
    rates = rate_rows()
    as_of = int(rates.column("created_ts").cast(pa.int64()).to_numpy().max()) + 24 * DAY
    scored = Kernel(scorer, {"rates": index_from_arrow(view, rates)}).score(batch_at(as_of))
    expected = dict(zip(scored.index.tolist(), map(bits_of, scored.outputs["score"].tolist()), strict=True))
    expected |= {error.row: str(error.code) for error in scored.errors}
    answers = OnlineScorer(scorer, store, clock=lambda: as_of).answer(requests_at(as_of))
    found = {i: bits_of(a["score"]) if "score" in a else a["error"]["code"] for i, a in enumerate(answers)}
    assert found == expected
    refused = {code for code in found.values() if code == "STORED_FEATURES_MISSING"}
    assert bool(refused) == (policy == "reject")
    if policy == "defaults":
        gaps = {
            a["features"]["rate_pct_gap"]
            for a in OnlineScorer(scorer, store, clock=lambda: as_of).answer(
                requests_at(as_of), with_features=True
            )
            if a["views"]["rates"]["status"] != "PRESENT"
        }
        assert gaps == {2.25}


def test_model_reads_no_field_that_the_test_does_not_look_up() -> None:
    assert {f.name for view in FEATURES.views for f in view.fields} == {"rate_pct", "rate_pct_floor"}


class _Sum:
    def score(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sum of the features that are not null."""
        return np.asarray(np.nansum(matrix, axis=0))


def test_as_of_ts_column_of_a_batch_means_what_it_means_in_a_request(
    scorer: Scorer, store: OnlineStore
) -> None:
    """Rows of a log or a scored table, whose as-of time is not their as-of field, have their online scores again."""
    scorer = dataclasses.replace(scorer, evaluator=_Sum())  # of every feature, the stored ones among them
    rates = rate_rows()
    through = max(rates.column(n).cast(pa.int64()).to_numpy().max() for n in ("event_ts", "created_ts"))
    as_of = [None if i % 5 == 0 else int(through) + (i % 4) * 20 * DAY for i in range(N)]
    plain = house_rows(N).combine_chunks().to_batches()[0]
    kernel = Kernel(scorer, {"rates": index_from_arrow(RATES, rates)})
    asked = kernel.score(plain)
    timed = kernel.score(plain.append_column("as_of_ts", pa.array(as_of, pa.timestamp("us", tz="UTC"))))
    fields = plain.column("asked_ts").cast(pa.int64()).to_pylist()
    used = [fields[i] if time is None else time for i, time in enumerate(as_of)]
    assert timed.as_of is not None
    assert timed.as_of.tolist() == used
    online = OnlineScorer(scorer, store, clock=lambda: int(through))
    rows = [{n: v for n, v in row.items() if not n.startswith("rate_")} for row in house_wire(N)]
    answers = online.answer(
        [row | {"as_of_ts": time} for row, time in zip(rows, as_of, strict=True) if time is not None]
    )
    batch, unmoved = timed.outputs["score"].tolist(), asked.outputs["score"].tolist()
    named = [i for i, time in enumerate(as_of) if time is not None]
    assert [bits_of(batch[i]) for i in named] == [bits_of(answer["score"]) for answer in answers]
    assert [batch[i] for i in range(0, N, 5)] == [unmoved[i] for i in range(0, N, 5)]
    assert sum(batch[i] != unmoved[i] for i in named) > N / 4
    statuses = [answer["views"]["rates"]["status"] for answer in answers]
    assert [Status(s).name for s in timed.statuses["rates"][named].tolist()] == statuses
    assert set(statuses) >= {"PRESENT", "EXPIRED"}
