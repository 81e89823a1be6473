"""Who is held out: by time, or, where there is none, a share that depends on the key alone."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.runs.conf import load
from jobs.runs.held_out import describe_split, held_out_by_share, held_out_by_time
from jobs.runs.training import build_training_set
from tests.toy.houses import FEATURES
from tests.toy.workspace import Workspace


def keys(n: int = 4_000, start: int = 0) -> pa.Table:
    return pa.table({"image_id": [f"image-{i:05d}" for i in range(start, start + n)]})


def test_about_the_share_is_held_out() -> None:
    for share in (0.05, 0.25, 0.9):
        assert held_out_by_share(keys(), share).mean() == pytest.approx(share, abs=0.03)
    assert held_out_by_share(keys(0), 0.5).tolist() == []


def test_a_request_stays_on_its_side_while_the_table_grows_and_is_cut_up_otherwise() -> None:
    whole = held_out_by_share(keys(), 0.25)
    assert held_out_by_share(keys(100, start=700), 0.25).tolist() == whole[700:800].tolist()
    pieces = pa.concat_tables([keys(1_000, start=start) for start in range(0, 4_000, 1_000)])
    assert held_out_by_share(pieces, 0.25).tolist() == whole.tolist()
    assert not (whole & ~held_out_by_share(keys(), 0.5)).any()


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"id": pa.array([1, 2, None, 4] * 50, pa.int64())}),
        pa.table({"town": ["a", "b"] * 100, "day": list(range(200))}),
        pa.table({"day": [datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(200)]}),
    ],
)
def test_keys_of_any_type_and_of_several_columns_have_a_side(table: pa.Table) -> None:
    held_out = held_out_by_share(table, 0.5)
    assert len(held_out) == table.num_rows
    assert 0 < held_out.sum() < table.num_rows


def test_by_time_the_future_is_held_out_and_what_was_not_known_is_not_used() -> None:
    settings = load("local", "flights", ["train.split_at=1970-01-01T00:00:00.000010Z"]).train
    held_out, in_time = held_out_by_time(settings, np.array([5, 9, 10, 30]), np.array([8, 10, 99, 99]))
    assert held_out.tolist() == [False, False, True, True]
    assert in_time.tolist() == [True, False, True, True]
    assert describe_split(settings) == "as of 1970-01-01 00:00:00.000010+00:00 or later"


def test_no_time_to_split_at_is_said_with_the_way_out() -> None:
    settings = load("local", "flights").train
    with pytest.raises(
        ConfigurationError, match="or train.held_out_share, the share of the requests to hold out"
    ):
        held_out_by_time(settings, None, np.zeros(1, np.int64))
    settings = load("local", "digits", ["train.held_out_share=null"]).train
    with pytest.raises(ConfigurationError, match="train.split_at: training needs a time to split at"):
        held_out_by_time(settings, np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_a_share_and_a_time_contradict_each_other() -> None:
    with pytest.raises(ConfigurationError, match="held_out_share: expected null with split_at"):
        load("local", "digits", ["train.split_at=2020-01-01T00:00:00Z"])


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_a_share_is_between_none_and_all(share: str) -> None:
    with pytest.raises(ConfigurationError, match=r"train\.held_out_share"):
        load("local", "digits", [f"train.held_out_share={share}"])


def test_a_training_set_of_a_share_needs_no_time_of_the_outcomes(workspace: Workspace) -> None:
    without_times = workspace.rows("house_prices").drop_columns(["event_ts"])
    overrides = ("train.split_at=null", "train.held_out_share=0.3", "train.outcomes=prices_without_times")
    workspace.write("prices_without_times", without_times)

    data = build_training_set(workspace.conf(*overrides), FEATURES)

    expected = held_out_by_share(workspace.rows("houses").select(["house_id"]), 0.3)
    side = dict(zip(workspace.rows("houses").column("house_id").to_pylist(), expected.tolist(), strict=True))
    assert len(data) == 2_000
    assert data.held_out.tolist() == [side[i] for i in data.columns["house_id"].tolist()]
    assert describe_split(workspace.conf(*overrides).train) == "a share of 0.3, by a hash of house_id"
    with pytest.raises(ContractError, match="has no column 'event_ts'"):
        build_training_set(workspace.conf("train.outcomes=prices_without_times"), FEATURES)
