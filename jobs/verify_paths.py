"""Replay a model's golden rows on every path that scores, and compare what comes back bit by bit.

python -m jobs.verify_paths --model flights
python -m jobs.verify_paths --model flights --url http://scores.example:8080      after a deploy
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.proof.path_bench import Bench
from jobs.proof.path_outcome import Golden, Outcome, golden_of, outcome_table
from jobs.proof.paths import PATHS, chosen_paths, remote_paths, verified_paths
from jobs.runs.command import job_parser, run
from jobs.runs.conf import load
from jobs.runs.progress import say, table
from udfs.platform import platform_id

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    arguments = _parser().parse_args(argv)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that what was started is ended
    with ExitStack() as stack:
        cache = stack.enter_context(TemporaryDirectory(prefix="onescore-")) if arguments.dry_run else None
        bench = stack.enter_context(_bench(arguments, Path(cache) if cache else None))
        golden = golden_of(bench.golden)
        names = [name for name in (arguments.paths or "").split(",") if name]
        found = [entry for url in arguments.urls for entry in remote_paths(url, bench)]
        entries = chosen_paths(found or PATHS, names)
        facts = _facts(bench, golden, is_remote=bool(found))
        if arguments.dry_run:
            print("plan (nothing was started)")
            print(table(facts | {"paths": [f"{e.name} {e.url}".strip() for e in entries]}))
            return 0
        say(f"replaying {len(golden.rows)} golden rows on {len(entries)} paths")
        outcomes = verified_paths(entries, bench, golden, _progress)
    print(f"{table(facts)}\n\n{outcome_table(outcomes)}\n\n{_verdict(outcomes)}")
    if arguments.json is not None:
        content = {**facts, "equal": _exit_code(outcomes) == 0, "paths": [one.to_json() for one in outcomes]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return _exit_code(outcomes)


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("verify_paths", __doc__, _EPILOG)
    parser.add_argument(
        "--url",
        dest="urls",
        action="append",
        default=[],
        metavar="URL",
        help="ask this running server, such as http://127.0.0.1:8080, and start nothing; lean or MLflow's own is told by its "
        "answer; may be repeated",
    )
    parser.add_argument(
        "--paths",
        metavar="A,B",
        help=f"ask these alone: names ({', '.join(entry.name for entry in PATHS)}) or what stands before the first '-'",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="verify the model in this directory; no registry is asked"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, as JSON")
    return parser


def _bench(arguments: argparse.Namespace, cache: Path | None) -> Bench:
    flags = ["--env", arguments.env, "--model", arguments.model]
    flags += [part for override in arguments.overrides for part in ("--set", override)]
    return Bench(
        lambda more: load(arguments.env, arguments.model, [*arguments.overrides, *more]),
        flags,
        bundle=arguments.bundle,
        cache=cache,
    )


def _facts(bench: Bench, golden: Golden, *, is_remote: bool) -> dict[str, Any]:
    return {
        "model": bench.model.name,
        "version": bench.model.version,
        "digest": golden.digest,
        "golden rows": len(golden.rows),
        "logged on platform": golden.platform_id,
        "this platform": platform_id(),
        "golden rows here": "not asked" if is_remote else bench.scorer.verified,
    }


def _progress(outcome: Outcome) -> None:
    if outcome.problem:
        say(f"  {outcome.path}: {outcome.problem}")
    else:
        say(f"  {outcome.path}: {outcome.equal} of {outcome.rows} rows equal")


def _exit_code(outcomes: Sequence[Outcome]) -> int:
    if any(_is_wrong(outcome) for outcome in outcomes):
        return 1
    return 2 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _is_wrong(outcome: Outcome) -> bool:
    return bool(outcome.n_differing) or outcome.is_all_refused or outcome.status == "other model"


def _verdict(outcomes: Sequence[Outcome]) -> str:
    """Return the answer in one line; a row that was refused is named, and never counted as equal."""
    code = _exit_code(outcomes)
    asked = [outcome for outcome in outcomes if not outcome.is_unasked]
    failed = [outcome.path for outcome in outcomes if outcome.status == "failed"]
    if code == 1:
        wrong = [o.path for o in asked if _is_wrong(o)]
        return f"NOT EQUAL on {', '.join(wrong)}"
    said = f"equal in every bit: {sum(o.equal for o in asked)} answers on {len(asked)} paths"
    apart = sum(sum(outcome.cannot_carry.values()) for outcome in asked)
    if apart:
        said += f"; {apart} rows could not be said on their path, which refused them"
    return f"{said}; NOT ASKED: {', '.join(failed)}" if failed else said


_EPILOG = """\
Rows bring their stored fields, so no store is read; servers that are started listen on the loopback interface and end with the job.
Expected are the bits that were recorded when the model was logged. A path that refuses a row because it cannot carry it exactly
(CSV tells no null from an empty text) has it counted under "cannot say", never as equal. Under model.allow_tolerance the
expected bits are still those of the platform where the model was logged: a difference within the tolerance is a difference here.
With --url the rows are not replayed here, where another processor may give other bits.
Exit codes: 0 equal; 1 a bit differs, a row was refused that should not be, a path refused every row, or another model version
answers; 2 usage, configuration, the model does not reproduce its golden rows here at all, or a path could not be asked."""

if __name__ == "__main__":
    sys.exit(run(main))
