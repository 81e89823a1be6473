"""Passes over the traffic for all variants, those of another platform in a process that does without vector instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.proof.faults import FAULTS
from tests.proof.traffic import (
    NOTHING,
    Served,
    TruthRow,
    on_other_platform,
    serve,
    serve_elsewhere,
    variant_name,
)
from tests.proof.worlds import FlightsWorld
from tests.toy.processors import dispatched_features

__all__ = ["ELSEWHERE", "Passes", "serve_all"]

ELSEWHERE = "other_platform"
SEED = 1
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
