"""All that the dashboard knows, and every figure of it as plain data: rows go in, a snapshot comes out.

It is the sans-IO core: it reads no file and no clock, its size is bounded, and whoever gives it the same rows gets the same figures, in
whatever order they come and however often it was started anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from jobs.dashboard.alerts import Alerts
from jobs.dashboard.cell import PARTS, Cell
from jobs.dashboard.logged_rows import LoggedRows
from jobs.dashboard.recent import Recent, ShownFields
from jobs.dashboard.rules import Facts
from jobs.dashboard.windows import WINDOWS, Windows, latest, span_of
from jobs.online.log_gaps import Missing

__all__ = ["Board"]

_MOST_MODELS = 32
_MOST_PROCESSES = 32
_PRESENT = "PRESENT"


@dataclass
class _Model:
    windows: Windows
    recent: Recent
    newest_ts: int = 0
    processes: dict[str, int] = field(default_factory=dict)
    missing: Missing | None = None
    skew: dict[str, Any] | None = None
    ahead: int = 0
    unreadable: int = 0


class Board:
    """Figures of any number of models; not safe for several threads at once.

    Args:
        alerts: are judged with what comes in.
        shown: of a model, what may be shown of its requests now.
        n_recent: how many answers are kept one by one, per model.
    """

    def __init__(self, alerts: Alerts, *, shown: Callable[[str], ShownFields], n_recent: int) -> None:
        self._alerts, self._shown, self._n_recent = alerts, shown, n_recent
        self._ranges = tuple(dict.fromkeys(rule.range for rule in alerts.rules if rule.range is not None))
        self._models: dict[str, _Model] = {}

    def knows(self, model: str) -> bool:
        """Return whether there is, or still can be, such a model here: there are not more than a few dozen."""
        if model not in self._models and len(self._models) < _MOST_MODELS:
            recent = Recent(self._n_recent, partial(self._shown, model))
            self._models[model] = _Model(Windows(self._ranges), recent)
        return model in self._models

    def add(self, model: str, rows: LoggedRows, now: int) -> None:
        """Count rows of a model that is known."""
        if not len(rows):
            return
        known = self._models[model]
        known.ahead += known.windows.add(rows, now)
        served = rows.served[rows.served <= latest(now)]
        known.newest_ts = max(known.newest_ts, int(served.max()) if len(served) else 0)
        for code, process in enumerate(rows.process.names):
            mine = rows.served[rows.process.codes == code]
            known.processes[process] = max(known.processes.get(process, 0), int(mine.max()))
        while len(known.processes) > _MOST_PROCESSES:
            del known.processes[min(known.processes, key=lambda name: known.processes[name])]

    def wants_recent(self, model: str, rows: LoggedRows) -> bool:
        """Return whether some of the rows are among the newest."""
        return len(rows) > 0 and self._models[model].recent.wants(int(rows.served.max()))

    def add_recent(self, model: str, table: pa.Table) -> None:
        """Keep the newest of a table's rows; see `recent.shown_columns`."""
        self._models[model].recent.add(table)

    def note(self, model: str, *, missing: Missing | None, skew: dict[str, Any] | None) -> bool:
        """Say which rows a model's log lacks, and what its newest skew report says; return whether that is news.

        Args:
            model: which is known.
            missing: None = that cannot be told.
            skew: None = there is none.
        """
        known = self._models[model]
        before = (known.missing, known.skew)
        known.missing, known.skew = missing, skew
        return before != (missing, skew)

    def note_unreadable(self, unreadable: Mapping[str, int]) -> None:
        """Say how many files of each model's log cannot be read; of models that are not named, none."""
        for model, known in self._models.items():
            known.unreadable = unreadable.get(model, 0)

    def forget(self, now: int) -> None:
        """Drop what no window reaches any more."""
        for known in self._models.values():
            known.windows.forget(now)

    def judge(self, now: int) -> bool:
        """Judge all rules for all models; return whether a state changed."""
        changed = False
        for name, known in self._models.items():

            def cell_of(seconds: int, windows: Windows = known.windows) -> Cell:
                return windows.window(seconds, now).cell

            changed |= self._alerts.judge(name, cell_of, _facts(known, now), now)
        return changed

    @property
    def models(self) -> list[str]:
        """The models that rows came of, the one that answered last first."""
        return sorted(self._models, key=lambda name: (-self._models[name].newest_ts, name))

    def snapshot(
        self, model: str | None, seconds: int, now: int, *, with_answers: bool = True
    ) -> dict[str, Any]:
        """Return every figure of a model's window as JSON values; times are microseconds since 1970, UTC.

        Args:
            model: None = the one that answered last.
            seconds: one of WINDOWS.
            now: microseconds.
            with_answers: whether single answers may be in it, with fields of their requests; else "recent" is None.
        """
        step = WINDOWS[seconds]
        from_ts, to_ts = span_of(seconds, now, step)
        names = self.models
        name = model if model in self._models else (names[0] if names else None)
        found: dict[str, Any] = {
            "now_ts": now,
            "window": {"seconds": seconds, "step_seconds": step, "from_ts": from_ts, "to_ts": to_ts},
            "windows": list(WINDOWS),
            "models": names,
            "model": name,
            "firing": [
                {"model": one, "rule": alert.rule.name}
                for one in names
                for alert in self._alerts.of(one)
                if alert.state == "firing"
            ],
        }
        if name is None:
            return found
        known = self._models[name]
        window = known.windows.window(seconds, now, step)
        return found | {
            **_figures(window.cell, seconds),
            "series": _series(list(known.windows.steps(seconds, now, step)), step),
            "log": {
                "newest_ts": known.newest_ts or None,
                "lost_rows": None if known.missing is None else known.missing.lost,
                "queued_rows": None if known.missing is None else known.missing.queued,
                "ahead_rows": known.ahead,
                "unreadable_files": known.unreadable,
                "processes": [
                    {"process": process, "newest_ts": newest_ts, "rows": window.cell.processes[process]}
                    for process, newest_ts in sorted(known.processes.items(), key=lambda item: -item[1])
                ],
            },
            "skew": known.skew,
            "recent": known.recent.rows() if with_answers else None,
            "alerts": [
                {
                    "name": alert.rule.name,
                    "rule": alert.rule.text,
                    "state": alert.state,
                    "value": alert.value,
                    "limit": alert.rule.limit,
                    "since_ts": alert.since_ts,
                }
                for alert in self._alerts.of(name)
            ],
        }


def _facts(known: _Model, now: int) -> Facts:
    skew = known.skew
    return Facts(
        lost_rows=None if known.missing is None else known.missing.lost,
        silent_seconds=max(0.0, (now - known.newest_ts) / 1e6) if known.newest_ts else None,
        skew_differing_rows=None if skew is None else skew["rows_differing"],
        skew_age_seconds=None if skew is None else (now - skew["created_ts"]) / 1e6,
    )


def _figures(cell: Cell, seconds: int) -> dict[str, Any]:
    return {
        "totals": {
            "rows": cell.rows,
            "scored": cell.scored,
            "refused": cell.refused.total(),
            "calls": cell.calls,
            "rows_per_second": cell.rows / seconds,
        },
        "errors": _ranked(cell.refused, "code"),
        "classes": _ranked(cell.labels, "label"),
        "versions": _ranked(cell.versions, "version"),
        "scores": {"bins": cell.scores.bins(is_share=bool(cell.labels)), **cell.scores.summary()},
        "latency_us": {
            part: {**cell.spent[part].quantiles(), "mean": cell.spent_total[part] / cell.measured}
            for part in (*PARTS, "total")
            if cell.measured
        },
        "views": [
            {
                "name": view,
                "statuses": dict(statuses.most_common()),
                "age_seconds": cell.ages[view].quantiles() if view in cell.ages else {},
                "newest_event_ts": cell.newest_event.get(view),
            }
            for view, statuses in sorted(cell.statuses.items())
        ],
    }


def _ranked(counts: Mapping[str, int], name: str) -> list[dict[str, Any]]:
    """Return counts, most rows first."""
    return [
        {name: text, "rows": n} for text, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _series(cells: Sequence[Cell], step_seconds: int) -> dict[str, Any]:
    """Return one value per step; None where there is nothing to say."""
    labels = sorted({label for cell in cells for label in cell.labels})
    views = sorted({view for cell in cells for view in cell.ages})
    return {
        "rows_per_second": [cell.rows / step_seconds for cell in cells],
        "rows": [cell.rows for cell in cells],
        "refused": [cell.refused.total() for cell in cells],
        "latency_us": {
            part: [cell.spent_total[part] / cell.measured if cell.measured else None for cell in cells]
            for part in PARTS
        },
        "latency_p99_us": [cell.spent["total"].quantiles().get("p99") for cell in cells],
        "classes": {label: [cell.labels[label] for cell in cells] for label in labels},
        "score_mean": [cell.scores.summary()["mean"] for cell in cells],
        "age_p50_seconds": {
            view: [cell.ages[view].quantiles().get("p50") if view in cell.ages else None for cell in cells]
            for view in views
        },
    }
