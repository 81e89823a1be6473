"""Seeded faults prove the explanations: each fault alone and pairs of them, served beside a good process, told apart by replay.

Explanations see two logs and the models, and no fault's name. They were developed on one half of the pairs; here they are judged on
the other half (see `pair_halves`), and with `make test-full` on all and on more rows. Traffic, faults and the truth are in traffic,
faults and worlds beside this file.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.proof.causes import World, explain
from tests.laws.test_portable_bits import dispatched_features
from tests.proof.faults import FAULTS, PLATFORM, pair_halves
from tests.proof.judged import Judged, described, judge
from tests.proof.paired import logged_rows, pairs_of
from tests.proof.traffic import (
    CLEAN,
    NOTHING,
    Served,
    TruthRow,
    on_other_platform,
    serve,
    serve_elsewhere,
    variant_name,
)
from tests.proof.worlds import MODELS, FlightsWorld
from udfs.bundle import load_bundle

ELSEWHERE = "other_platform"
SEED = 1
REQUESTS = 400
LEAST_RIGHT = 0.99
LEAST_ROWS = 10
Faults = tuple[str, ...]


@dataclass(frozen=True)
class Passes:
    """What was served here and on the other platform, and the truth, by variant and row."""

    here: Served
    there: Served | None
    truth: Mapping[str, Mapping[str, TruthRow]]

    def log(self, variant: str) -> Path:
        """Return a variant's log."""
        faults = variant.split("+")
        if ELSEWHERE not in faults or self.there is None:
            return self.here.log(variant)
        return self.there.log(variant_name([fault for fault in faults if fault != ELSEWHERE]))


def serve_all(
    world: FlightsWorld,
    variants: Iterable[Faults],
    out: Path,
    environment: Mapping[str, str],
    rows: int | None = None,
) -> Passes:
    """Serve variants, those of another platform in a process that does without vector instructions."""
    wanted = list(dict.fromkeys(variants))
    elsewhere = [tuple(f for f in faults if f != ELSEWHERE) for faults in wanted if ELSEWHERE in faults]
    plain = dict.fromkeys([(), *(faults for faults in wanted if ELSEWHERE not in faults), *elsewhere])
    here = serve(world, list(plain), out / "here", seed=SEED, rows=rows)
    truth = {name: of for name, of in _by_variant(here).items() if tuple(name.split("+")) in wanted}
    if not elsewhere or not dispatched_features():
        return Passes(here, None, truth)
    environment = {**environment, "NPY_DISABLE_CPU_FEATURES": " ".join(dispatched_features())}
    there = serve_elsewhere(
        world, [(), *elsewhere], out / "there", seed=SEED, rows=rows, environment=environment
    )
    of_here, of_there = _by_variant(here), _by_variant(there)
    for faults in dict.fromkeys(elsewhere):
        served, name = variant_name(faults), variant_name(_in_order((*faults, ELSEWHERE)))
        truth[name] = {
            row: on_other_platform(
                name,
                of_here[served][row],
                of_there[served][row],
                of_here[NOTHING][row].outcome,
                of_there[NOTHING][row].outcome,
            )
            for row in of_there[served]
        }
    return Passes(here, there, truth)


def _by_variant(served: Served) -> dict[str, dict[str, TruthRow]]:
    found: dict[str, dict[str, TruthRow]] = defaultdict(dict)
    for row in served.truth():
        found[row.variant][row.row_id] = row
    return found


def _in_order(faults: Sequence[str]) -> Faults:
    return tuple(sorted(faults, key=FAULTS.index))


def judged_by_replay(world: FlightsWorld, passes: Passes) -> Judged:
    """Explain every row of every variant from the logs and the models alone, then hold it against the truth."""
    worlds = {
        model: World.of(
            load_bundle(world.bundle(model), allow_tolerance=True), world.version(model), world.bundle(model)
        )
        for model in MODELS
    }
    by_digest = {one.digest: one for one in worlds.values()}
    reference = worlds["reference"]
    good = logged_rows(passes.here.log(CLEAN))
    judged = Judged()
    for variant, truth in passes.truth.items():
        pairs = pairs_of(reference.scorer.feature_set, logged_rows(passes.log(variant)), good)
        found = explain(pairs, reference, by_digest[pairs.digest[0]])
        judge(judged, variant, pairs, truth, found)
    return judged


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


def test_causes_of_single_faults_are_right(judged: Judged) -> None:
    right, rows = (sum(counts[i] for counts in alone(judged).values()) for i in (0, 1))
    print(shown(judged))
    assert right >= LEAST_RIGHT * rows, shown(judged)
    assert all(counts[0] >= 0.95 * counts[1] for counts in alone(judged).values()), shown(judged)


def test_causes_of_held_out_pairs_are_right(judged: Judged) -> None:
    right, rows = (sum(counts[i] for counts in in_pairs(judged).values()) for i in (0, 1))
    assert right >= LEAST_RIGHT * rows, shown(judged)


@pytest.mark.skipif(
    not dispatched_features(), reason="numpy uses no instructions beyond its baseline on this processor"
)
def test_other_platform_is_another_to_the_log(passes: Passes) -> None:
    ids = {
        row["platform_id"] for name in (ELSEWHERE, NOTHING) for row in logged_rows(passes.log(name)).values()
    }
    assert len(ids) == 2
    assert any(PLATFORM in part for row in passes.truth[ELSEWHERE].values() for part in row.needed)


@pytest.mark.slow
def test_causes_of_all_pairs_are_right_over_two_days(
    flights_world: FlightsWorld, tmp_path: Path, process_env: dict[str, str]
) -> None:
    variants = [*((fault,) for fault in FAULTS), *itertools.combinations(FAULTS, 2)]
    judged = judged_by_replay(flights_world, serve_all(flights_world, variants, tmp_path, process_env))
    print(shown(judged))
    assert (judged.undetected, judged.invented) == (0, 0)
    assert judged.share_right >= LEAST_RIGHT, shown(judged)
