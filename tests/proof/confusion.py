"""The confusion matrix of seeded faults: which causes were said of rows that each fault, and each held-out pair of faults, had changed.

    python -m tests.proof.confusion [--write]

serves two days of flights as `test_seeded_faults` does, with every request, and prints what `--write` puts into confusion.md beside
this file. Ends with exit code 1 if a changed row was not found, one was found that had not changed, or a share of right causes is below
its floor.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.proof.causes import World, explain
from tests.proof.faults import FAULTS, pair_halves
from tests.proof.judged import Judged, judge
from tests.proof.paired import logged_rows, pairs_of
from tests.proof.passes import Passes, serve_all
from tests.proof.traffic import CLEAN
from tests.proof.worlds import MODELS, FlightsWorld, make_world
from udfs.bundle import load_bundle

__all__ = ["LEAST_OF_A_FAULT", "LEAST_OF_A_PAIR", "judged_by_replay", "least_right", "markdown", "worlds_of"]

LEAST_OF_A_FAULT, LEAST_OF_A_PAIR = 0.99, 0.98
"""Of each fault alone, and of each pair, so many causes are right at least; of all pairs together as many as of a fault."""
TABLE = Path(__file__).with_name("confusion.md")


def least_right(variant: str) -> float:
    """Return the floor of a variant's share of right causes."""
    return LEAST_OF_A_PAIR if "+" in variant else LEAST_OF_A_FAULT


def worlds_of(world: FlightsWorld) -> dict[str, World]:
    """Load the models, by digest."""
    found = {}
    for model in MODELS:
        scorer = load_bundle(world.bundle(model), allow_tolerance=True)
        one = World.of(scorer, world.version(model), world.bundle(model))
        found[one.digest] = one
    return found


def judged_by_replay(world: FlightsWorld, passes: Passes) -> Judged:
    """Explain every row of every variant from the logs and the models alone, then hold it against the truth."""
    worlds = worlds_of(world)
    reference = worlds[world.digest("reference")]
    good = logged_rows(passes.here.log(CLEAN))
    judged = Judged()
    for variant, truth in passes.truth.items():
        pairs = pairs_of(reference.scorer.feature_set, logged_rows(passes.log(variant)), good)
        judge(judged, variant, pairs, truth, explain(pairs, reference, worlds[pairs.digest[0]]))
    return judged


def markdown(judged: Judged) -> str:
    """Return the matrices as a page."""
    alone = [name for name in judged.by_variant if "+" not in name]
    pairs = [name for name in judged.by_variant if "+" in name]
    undetected, invented = judged.undetected, judged.invented
    return "\n".join(
        [
            "# Seeded faults and the causes that were said of them",
            "",
            "Made by `python -m tests.proof.confusion --write`. Rows are those that a fault changed, in a feature, the score or the",
            f"decision. Changed rows that were not found: {undetected}; found ones that had not changed: {invented}. Right are at least",
            f"{LEAST_OF_A_FAULT:.0%} of each fault and {LEAST_OF_A_PAIR:.0%} of each pair, which tests demand. Two true causes with a",
            "slash between them met in one part of serving, where either will do.",
            "",
            "## Each fault alone",
            "",
            *_by_variant(judged, alone),
            "",
            "## Pairs that nobody looked at while explanations were written",
            "",
            *_by_variant(judged, pairs),
            "",
            "## True causes and those that were said, all of these rows",
            "",
            *_by_cause(judged),
            "",
        ]
    )


def _by_variant(judged: Judged, names: list[str]) -> list[str]:
    lines = ["| fault | rows | right | said |", "|---|---:|---:|---|"]
    for name in names:
        right, rows = judged.by_variant[name]
        said = Counter({said: n for (variant, said), n in judged.said.items() if variant == name})
        lines.append(f"| {name.replace('+', ' + ')} | {rows:,} | {_share(right, rows)} | {_listed(said)} |")
    right, rows = (sum(judged.by_variant[name][i] for name in names) for i in (0, 1))
    return [*lines, f"| all | {rows:,} | {_share(right, rows)} | |"]


def _by_cause(judged: Judged) -> list[str]:
    lines = ["| true | rows | said |", "|---|---:|---|"]
    for true in sorted({true for true, _ in judged.matrix}):
        said = Counter({said: n for (of, said), n in judged.matrix.items() if of == true})
        lines.append(f"| {true.replace('+', ' + ')} | {said.total():,} | {_listed(said)} |")
    return lines


def _share(right: int, rows: int) -> str:
    return f"{100 * right / max(rows, 1):.2f} %"


def _listed(said: Counter[str]) -> str:
    ordered = sorted(said.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name.replace('+', ' + ')} {n:,}" for name, n in ordered)


def main() -> int:
    """Do it; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"put the page into {TABLE.name}")
    arguments = parser.parse_args()
    variants = [*((fault,) for fault in FAULTS), *pair_halves()[1]]
    with TemporaryDirectory() as scratch:
        world = make_world(Path(scratch) / "world")
        judged = judged_by_replay(world, serve_all(world, variants, Path(scratch) / "served", os.environ))
    page = markdown(judged)
    print(page)
    if arguments.write:
        TABLE.write_text(page, encoding="utf-8")
    wrong = judged.below(least_right)
    for name, found in wrong.items():
        print(f"FAILED: {name}: {found} causes are right", file=sys.stderr)
    return 1 if wrong or judged.undetected or judged.invented else 0


if __name__ == "__main__":
    sys.exit(main())
