"""From the counts of differing rows to a plan: what to mend where requests are answered, what to score again, what to correct.

The batch is the reference: a store, a client or a server that answered otherwise is what gets mended. Where the batch's own side
could not score a row, its tables are. Reads no row and writes nothing; corrections_table writes the corrected scores.

How a job uses it: `plan` on the totals of all tasks gives the report's section; with --corrections it calls `write_corrections` on
the file of differing rows, and from then on passes each batch of pairs through `corrections.corrected`: rows that are corrected
count as such and no longer as differing, so that the same command, run again, shows zero.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.online.instants import shown
from jobs.proof.aggregate import Totals
from jobs.proof.causes import Cause

__all__ = ["Target", "plan"]

_DAY_US: Final = 86_400_000_000
_MOST_RANGES: Final = 20
_STORED: Final = (Cause.MISSING, Cause.STALE, Cause.EXPIRED)

_DO: Final = {
    Cause.MODEL_VERSION: "Serve the version that the batch scores with, or score with the served one.",
    Cause.FEATURE_CODE: "Serve the model's packaged features; register a changed function as a new version, under its own fingerprint.",
    Cause.MISSING: "Bring the store up to date; if rows are still missing, build the view's table or find why the store does not answer.",
    Cause.STALE: "Bring the store up to date, and materialise more often than rows become visible.",
    Cause.FUTURE: "Ask as of a time that the store has reached: leave as_of_ts out, or take it from one clock.",
    Cause.EXPIRED: "Bring the store up to date: its newest row was older than the view's ttl.",
    Cause.DATA_TYPE: "Send the field as the contract has it: numbers in full, times with their offset, text as it is stored.",
    Cause.NULL_FILL: "Send null where there is no value: the features have a rule for it, and clients have others.",
    Cause.EXTRACTED: "Take the field from where the batch takes it: the values are others, not written otherwise.",
    Cause.CONFIGURATION: "Use one threshold and one policy for missing rows on both sides.",
    Cause.PLATFORM: "Serve on the platform that the batch runs on, or use features and models whose bits are portable.",
    Cause.INTERACTION: "Mend each part.",
    Cause.UNEXPLAINED: "Look at the worst rows: no single swap and no set of swaps closes the gap.",
}
_NEEDS_VERSION: Final = "That takes a registered version, and the reference is none: register it first."
_BACKFILL_NEEDS_VERSION: Final = (
    "Scoring the days again takes a registered version, and the reference is none: register it, then run jobs.score_batch with "
    "--set model.version=N over each range."
)
_TWICE: Final = "The last command stands there twice: the first run writes the corrections, the second shows that no row differs any more."


@dataclass(frozen=True)
class Target:
    """What the commands of a plan are about.

    Args:
        model: its file in conf/.
        version: the reference, as a number of the registry; "" = it is registered under none, as one of a directory may be.
        environment: of conf/, None = the default.
        views: that are stored, by name.
        has_as_of: whether rows of the requests table have a time by which they can be chosen.
        corrections: where corrected scores are written, None = nowhere yet.
        overrides: of the configuration, KEY=VALUE each, that every command is given.
        comparison: the arguments of the comparison that was asked for, so that the same can be asked again.
    """

    model: str
    version: str
    environment: str | None = None
    views: tuple[str, ...] = ()
    has_as_of: bool = True
    corrections: str | None = None
    overrides: tuple[str, ...] = ()
    comparison: tuple[str, ...] = ()

    def command(self, job: str, *arguments: str) -> str:
        """Return the command line of a job of this model.

        >>> Target("flights", "3").command("materialize_features", "--view", "plane")
        'python -m jobs.materialize_features --model flights --view plane'
        """
        env = () if self.environment is None else ("--env", self.environment)
        changed = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["python", "-m", f"jobs.{job}", "--model", self.model, *env, *changed, *arguments])


def plan(totals: Totals, target: Target) -> dict[str, Any]:
    """Return what to do about differing rows, as JSON values.

    Args:
        totals: of all tasks.
        target: what the commands are about.

    Returns:
        rows: how many differ. scores_to_correct: of how many the score, label or refusal does (the rest differ in features that no
        tree looked at). corrections: where those are kept. decisions: {"flips", "to_positive", "to_negative", "net"}: what
        correcting does to decisions; net is the change in the number of positive ones. steps: {"cause", "where", "parts", "rows",
        "flips", "do", "command"} each, most rows first. backfill: {"from", "to", "rows", "command"}: ranges of as-of time, whole
        UTC days, `from` inclusive and `to` exclusive, whose scores the batch writes again. not_in_table: rows whose request the
        batch does not have, so that only a correction mends them. commands: what to run, in order; the last shows whether
        all is well: the comparison that was asked for, and unless that has written the corrections, once more before to write
        them. notes: what else must be known of the commands, sentences.
    """
    counts = totals.counts
    rows, to_positive, to_negative = (counts[name] for name in ("differing", "to_positive", "to_negative"))
    steps = _steps(totals, target)
    backfill = _backfill(totals.days, target)
    commands = list(dict.fromkeys(step["command"] for step in steps if step["command"]))
    commands += [one["command"] for one in backfill if one["command"]]
    notes = [_BACKFILL_NEEDS_VERSION] if backfill and not target.version else []
    if rows:
        verify = target.command("reconcile_scores", *target.comparison, "--corrections")
        commands.append(verify)
        if target.corrections is None:
            commands.append(verify)
            notes.append(_TWICE)
    return {
        "rows": rows,
        "scores_to_correct": counts["to_correct"],
        "corrections": target.corrections,
        "decisions": {
            "flips": counts["flips"],
            "to_positive": to_positive,
            "to_negative": to_negative,
            "net": to_positive - to_negative,
        },
        "steps": steps,
        "backfill": backfill,
        "refused_offline": counts["differing_refused_offline"],
        "not_in_table": counts["to_correct_not_in_table"],
        "commands": commands,
        "notes": notes,
    }


def _steps(totals: Totals, target: Target) -> list[dict[str, Any]]:
    steps = []
    for (cause, where, joined), (rows, flips) in sorted(
        totals.causes.items(), key=lambda item: (-item[1][0], item[0])
    ):
        named, parts = Cause(cause), [Cause(part) for part in joined.split(" + ") if part]
        command = _command(named, where, parts, target)
        is_lacking = command is None and Cause.MODEL_VERSION in (named, *parts)
        step = {
            "cause": cause,
            "where": where,
            "parts": [str(part) for part in parts],
            "rows": rows,
            "flips": flips,
            "do": f"{_DO[named]} {_NEEDS_VERSION}" if is_lacking else _DO[named],
            "command": command,
        }
        steps.append(step)
    return steps


def _command(cause: Cause, where: str, parts: Sequence[Cause], target: Target) -> str | None:
    causes = parts or (cause,)
    views = [name for name in where.split(", ") if name in target.views]
    if views and any(one in _STORED for one in causes):
        return target.command("materialize_features", *(text for view in views for text in ("--view", view)))
    if Cause.MODEL_VERSION in causes and target.version:
        return target.command("serve_realtime", "--set", f"model.version={target.version}")
    return None


def _backfill(rows_of: Mapping[int, int], target: Target) -> list[dict[str, Any]]:
    """Return the ranges of whole days with rows to write again; of too many, those with the smallest gaps are joined."""
    if not rows_of or not target.has_as_of:
        return []
    days = sorted(rows_of)
    ranges = [[day, day + 1] for day in days]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(days))
    allowed = 1 if len(gaps) < _MOST_RANGES else gaps[-_MOST_RANGES]
    merged: list[list[int]] = []
    for low, high in ranges:
        if merged and low - (merged[-1][1] - 1) <= allowed:
            merged[-1][1] = high
        else:
            merged.append([low, high])
    return [_range(low, high, rows_of, target) for low, high in merged]


def _range(low: int, high: int, rows_of: Mapping[int, int], target: Target) -> dict[str, Any]:
    begin, end = shown(low * _DAY_US), shown(high * _DAY_US)
    version = ("--set", f"model.version={target.version}")
    return {
        "from": begin,
        "to": end,
        "rows": sum(rows for day, rows in rows_of.items() if low <= day < high),
        "command": target.command("score_batch", *version, "--from", begin, "--to", end)
        if target.version
        else None,
    }
