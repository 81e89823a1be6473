"""What the newest skew report of a model says, in a few figures and words. It compares nothing: `jobs.reconcile_scores` does."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.proof.skew import SkewReport
from jobs.reports import skew_words as words

__all__ = ["SkewWatch"]

_LOGGER = logging.getLogger("onescore.dashboard")
_MOST_CAUSES = 4


class SkewWatch:
    """Reads a report when there is a newer one.

    Args:
        directory: skew.directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, tuple[str, dict[str, Any] | None]] = {}

    def newest(self, model: str) -> dict[str, Any] | None:
        """Return what a model's newest report says; None where there is none, or it cannot be read."""
        if "/" in model or model.startswith("."):
            return None  # what a directory's name stands for is no path
        try:
            names = [
                path.name for path in (self._directory / model).iterdir() if not path.name.startswith(".")
            ]
        except (OSError, ValueError):
            return None
        if not names:
            return None
        name = max(names)
        read = self._read.get(model)
        if read is None or read[0] != name:
            read = self._read[model] = (name, _said(self._directory / model / name / "report.json"))
        return read[1]


def _said(path: Path) -> dict[str, Any] | None:
    try:
        report = SkewReport.from_json(json.loads(path.read_text(encoding="utf-8")))
        verdict = words.verdict(report)
        return {
            "created_ts": round(datetime.fromisoformat(report.created_ts).timestamp() * 1_000_000),
            "report": path.parent.name,
            "state": verdict.state,
            "headline": verdict.headline,
            "detail": verdict.detail,
            "version": report.reference_version,
            "rows_compared": report.rows_compared,
            "rows_differing": report.rows_differing,
            "flips": int(report.decisions["flips"]),
            "rows_lost": report.rows_lost,
            "exceeded": list(report.budget.get("exceeded", ())),
            "causes": [
                {
                    "cause": words.short_cause(str(one["cause"])),
                    "where": str(one["where"]),
                    "rows": one["rows"],
                }
                for one in report.causes[:_MOST_CAUSES]
            ],
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        _LOGGER.error("the skew report %s cannot be read: %s", path.parent.name, type(exc).__name__)
        return None
