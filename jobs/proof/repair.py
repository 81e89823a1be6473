"""From differing rows and their causes to a plan: what to mend where requests are answered, what to score again, what to correct.

The batch is the reference: a store, a client or a server that answered otherwise is what gets mended. Where the batch's own side
could not score a row, its tables are. Reads rows and writes nothing; corrections_table writes the corrected scores.

How a job uses it: `plan` on the files of differing rows gives the report's section; with --corrections it calls `write_corrections`
on the same files, and from then on passes each batch of pairs through `corrections.corrected`: rows that are corrected count as
such and no longer as differing, so that the same command, run again, shows zero.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.online.instants import shown
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


@dataclass
class _Tally:
    rows: int = 0
    flips: int = 0
    to_positive: int = 0
    to_negative: int = 0
    scores: int = 0
    refused_offline: int = 0
    not_in_table: int = 0
    causes: Counter[tuple[str, str, tuple[str, ...]]] = field(default_factory=Counter)
    flipped: Counter[tuple[str, str, tuple[str, ...]]] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)


def plan(differing: Iterable[pa.Table], target: Target) -> dict[str, Any]:
    """Return what to do about differing rows, as JSON values.

    Args:
        differing: rows as a reconciliation writes them, a part at a time; each is read once.
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
    tally = _Tally()
    for part in differing:
        _count(part, tally)
    steps = _steps(tally, target)
    backfill = _backfill(tally, target)
    commands = list(dict.fromkeys(step["command"] for step in steps if step["command"]))
    commands += [one["command"] for one in backfill if one["command"]]
    notes = [_BACKFILL_NEEDS_VERSION] if backfill and not target.version else []
    if tally.rows:
        verify = target.command("reconcile_scores", *target.comparison, "--corrections")
        commands.append(verify)
        if target.corrections is None:
            commands.append(verify)
            notes.append(_TWICE)
    return {
        "rows": tally.rows,
        "scores_to_correct": tally.scores,
        "corrections": target.corrections,
        "decisions": {
            "flips": tally.flips,
            "to_positive": tally.to_positive,
            "to_negative": tally.to_negative,
            "net": tally.to_positive - tally.to_negative,
        },
        "steps": steps,
        "backfill": backfill,
        "refused_offline": tally.refused_offline,
        "not_in_table": tally.not_in_table,
        "commands": commands,
        "notes": notes,
    }


def _count(part: pa.Table, tally: _Tally) -> None:
    online, offline = part.column("online_label").to_pylist(), part.column("offline_label").to_pylist()
    flips = np.array(
        [a is not None and b is not None and a != b for a, b in zip(online, offline, strict=True)]
    )
    positive = np.array([bool(label) for label in offline], dtype=np.bool_)
    wrong = _differs(part, "score") | _differs(part, "label") | _differs(part, "error")
    in_table = part.column("request_in_table").to_numpy()
    refused = np.array(
        [code is not None for code in part.column("offline_error").to_pylist()], dtype=np.bool_
    )
    flips = flips.astype(np.bool_)
    tally.rows += part.num_rows
    tally.flips += int(flips.sum())
    tally.to_positive += int((flips & positive).sum())
    tally.to_negative += int((flips & ~positive).sum())
    tally.scores += int(wrong.sum())
    tally.refused_offline += int(refused.sum())
    tally.not_in_table += int((wrong & ~in_table).sum())
    keys = [
        (str(cause), where or "", tuple(parts or ()))
        for cause, where, parts in zip(
            *(part.column(name).to_pylist() for name in ("cause", "where", "parts")), strict=True
        )
    ]
    tally.causes.update(keys)
    tally.flipped.update(key for key, flip in zip(keys, flips.tolist(), strict=True) if flip)
    days = part.column("as_of_ts").cast(pa.int64()).to_numpy() // _DAY_US
    values, counts = np.unique(days[wrong & in_table], return_counts=True)
    tally.days.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _differs(part: pa.Table, what: str) -> Any:
    """Where the two sides' values differ, of scores by bits; a value and none differ."""
    online, offline = part.column(f"online_{what}"), part.column(f"offline_{what}")
    if what == "score":
        sides = [
            np.asarray(side.fill_null(np.nan).to_numpy(), dtype=np.float64) for side in (online, offline)
        ]
        return sides[0].view(np.uint64) != sides[1].view(np.uint64)
    equal = pc.equal(online, offline).fill_null(False).to_numpy()
    both_null = pc.and_(pc.is_null(online), pc.is_null(offline)).to_numpy()
    return ~(equal | both_null)


def _steps(tally: _Tally, target: Target) -> list[dict[str, Any]]:
    steps = []
    for key, rows in sorted(tally.causes.items(), key=lambda item: (-item[1], item[0])):
        cause, where, parts = key
        named = Cause(cause)
        command = _command(named, where, tuple(Cause(part) for part in parts), target)
        is_lacking = command is None and Cause.MODEL_VERSION in (named, *parts)
        step = {
            "cause": cause,
            "where": where,
            "parts": list(parts),
            "rows": rows,
            "flips": tally.flipped[key],
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


def _backfill(tally: _Tally, target: Target) -> list[dict[str, Any]]:
    """Return the ranges of whole days with rows to write again; of too many, those with the smallest gaps are joined."""
    if not tally.days or not target.has_as_of:
        return []
    days = sorted(tally.days)
    ranges = [[day, day + 1] for day in days]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(days))
    allowed = 1 if len(gaps) < _MOST_RANGES else gaps[-_MOST_RANGES]
    merged: list[list[int]] = []
    for low, high in ranges:
        if merged and low - (merged[-1][1] - 1) <= allowed:
            merged[-1][1] = high
        else:
            merged.append([low, high])
    return [_range(low, high, tally, target) for low, high in merged]


def _range(low: int, high: int, tally: _Tally, target: Target) -> dict[str, Any]:
    begin, end = shown(low * _DAY_US), shown(high * _DAY_US)
    version = ("--set", f"model.version={target.version}")
    return {
        "from": begin,
        "to": end,
        "rows": sum(rows for day, rows in tally.days.items() if low <= day < high),
        "command": target.command("score_batch", *version, "--from", begin, "--to", end)
        if target.version
        else None,
    }
