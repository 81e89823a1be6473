"""Seeded faults prove the explanations: each fault alone and pairs of them, served beside a good process, told apart by replay.

Explanations see two logs and the models, and no fault's name. They were developed on one half of the pairs; here they are judged on
the other half (see `pair_halves`), and with `make test-full` on all and on more rows; confusion.md shows what came of it. Traffic,
faults and the truth are in traffic, faults and worlds beside this file.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from jobs.proof.causes import Cause, explain
from jobs.proof.platforms import SubprocessReplay
from tests.proof.confusion import (
    LEAST_OF_A_FAULT,
    TABLE,
    judged_by_replay,
    least_right,
    worlds_of,
)
from tests.proof.faults import FAULTS, PLATFORM, pair_halves
from tests.proof.judged import Judged, described
from tests.proof.paired import logged_rows, pairs_of
from tests.proof.passes import ELSEWHERE, Passes, serve_all
from tests.proof.traffic import CLEAN
from tests.proof.worlds import FlightsWorld
from tests.toy.processors import dispatched_features
from udfs.prediction_files import read_platforms

REQUESTS = 400
LEAST_ROWS = 10


@pytest.fixture(scope="module")
def passes(
    flights_world: FlightsWorld, tmp_path_factory: pytest.TempPathFactory, process_env: dict[str, str]
) -> Passes:
    """Each fault alone, and the half of the pairs that nobody looked at."""
    variants = [*((fault,) for fault in FAULTS), *pair_halves()[1]]
    return serve_all(flights_world, variants, tmp_path_factory.mktemp("served"), process_env, REQUESTS)


@pytest.fixture(scope="module")
def judged(flights_world: FlightsWorld, passes: Passes) -> Judged:
    """What the explanations of all these rows were worth."""
    return judged_by_replay(flights_world, passes)


def alone(judged: Judged) -> dict[str, list[int]]:
    return {name: counts for name, counts in judged.by_variant.items() if "+" not in name}


def in_pairs(judged: Judged) -> dict[str, list[int]]:
    return {name: counts for name, counts in judged.by_variant.items() if "+" in name}


def shown(judged: Judged) -> str:
    return f"{judged.table()}\n\n{described(judged.wrong)}"


def test_both_halves_hold_each_fault_and_no_pair_twice() -> None:
    seen, held_out = pair_halves()
    assert sorted([*seen, *held_out]) == sorted(itertools.combinations(FAULTS, 2))
    assert {fault for pair in held_out for fault in pair} == set(FAULTS)


def test_every_fault_that_this_machine_can_have_changes_some_rows(judged: Judged) -> None:
    rows = {name: counts[1] for name, counts in alone(judged).items()}
    possible = [fault for fault in FAULTS if fault != ELSEWHERE or dispatched_features()]
    assert set(rows) == set(possible)
    assert min(rows.values()) >= LEAST_ROWS, rows


def test_every_changed_row_is_found_and_no_other(judged: Judged) -> None:
    assert sum(counts[1] for counts in judged.by_variant.values()) > 4_000
    assert (judged.undetected, judged.invented) == (0, 0)


def test_causes_of_each_fault_and_of_each_held_out_pair_are_right(judged: Judged) -> None:
    print(shown(judged))
    assert judged.below(least_right) == {}, shown(judged)
    right, rows = (sum(counts[i] for counts in in_pairs(judged).values()) for i in (0, 1))
    assert right >= LEAST_OF_A_FAULT * rows, shown(judged)


def test_share_below_its_floor_is_named() -> None:
    judged = Judged(by_variant={"a": [98, 100], "b": [99, 100], "a+b": [98, 100], "b+c": [97, 100]})
    assert judged.below(least_right) == {"a": "98 of 100", "b+c": "97 of 100"}


def test_published_matrix_has_each_fault_and_each_held_out_pair_at_its_floor() -> None:
    page = TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+(?: \+ \w+)?) \| ([\d,]+) \| ([\d.]+) % \|", page, re.MULTILINE)
    shares = {name: float(share) / 100 for name, _, share in rows if name != "all"}
    assert set(shares) == {*FAULTS, *(" + ".join(pair) for pair in pair_halves()[1])}
    assert all(share >= least_right(name) for name, share in shares.items())
    assert "not found: 0; found ones that had not changed: 0" in page


@pytest.mark.skipif(
    not dispatched_features(), reason="numpy uses no instructions beyond its baseline on this processor"
)
def test_other_platform_is_replayed_for_real_where_the_log_describes_it(
    flights_world: FlightsWorld, passes: Passes
) -> None:
    worlds = worlds_of(flights_world)
    reference = worlds[flights_world.digest("reference")]
    faulty, good = (logged_rows(passes.log(name)) for name in (ELSEWHERE, CLEAN))
    pairs = pairs_of(reference.scorer.feature_set, faulty, good)
    assert set(pairs.platform) != {reference.platform_id}
    described_there = read_platforms(passes.log(ELSEWHERE) / "flights")
    found = explain(pairs, reference, None, SubprocessReplay(described_there))
    rows = [row for row in passes.truth[ELSEWHERE].values() if row.differs]
    assert [row.needed for row in rows] == [[[PLATFORM]]] * len(rows)
    assert found.cause.count(Cause.PLATFORM) == len(rows) >= LEAST_ROWS
    assert set(found.detail) == {"", "replayed"}


@pytest.mark.slow
def test_causes_of_all_pairs_are_right_over_two_days(
    flights_world: FlightsWorld, tmp_path: Path, process_env: dict[str, str]
) -> None:
    variants = [*((fault,) for fault in FAULTS), *itertools.combinations(FAULTS, 2)]
    judged = judged_by_replay(flights_world, serve_all(flights_world, variants, tmp_path, process_env))
    print(shown(judged))
    assert (judged.undetected, judged.invented) == (0, 0)
    assert judged.below(least_right) == {}, shown(judged)
    assert judged.share_right >= LEAST_OF_A_FAULT, shown(judged)
