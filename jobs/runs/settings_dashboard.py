"""The section of the configuration that is about the live dashboard; see `settings` for what a section is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from jobs.dashboard.rules import parse_rule
from jobs.runs.secret_refs import SecretRef
from jobs.runs.settings import Section, setting

__all__ = ["DashboardSettings"]


def _rules(texts: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Refuse what is no rule; all problems at once."""
    problems = []
    for name, text in texts.items():
        try:
            if text is not None:
                parse_rule(name, text)
        except ValueError as exc:
            problems.append(f"{name}: {exc}")
    if problems:
        raise ValueError("; ".join(problems))
    return texts


class DashboardSettings(Section):
    """The live dashboard of what the prediction log says."""

    host: str = setting(
        "where `jobs.serve_dashboard` listens; beyond the loopback interface only with a key", min_length=1
    )
    port: int = setting("where it listens; 0: any free port", ge=0, le=65535)
    key: SecretRef | None = setting(
        "key that a reader must send (`Authorization: Bearer`), as a reference `env:NAME` or `file:PATH`; null: none is asked for"
    )
    refresh_seconds: float = setting("how often the prediction log is looked at", "s", gt=0)
    overdue_seconds: float = setting(
        "how long numbered answers may be in no file until they count as lost; above serve.log_flush_seconds",
        "s",
        gt=0,
    )
    recent_rows: int = setting(
        'newest answers that are shown one by one; fields tagged "pii" never', "rows", ge=0, le=1000
    )
    alerts: Annotated[dict[str, str | None], AfterValidator(_rules)] = setting(
        "rules by name, such as `error_share > 0.05 over 5m from 100 rows`; measures: error_share[.CODE], score_share[LOW..HIGH], "
        "class_share.LABEL, latency_ms.PART.FIGURE, age_seconds.VIEW.FIGURE, status_share.VIEW.STATUS, rows_per_second, and without "
        "`over` lost_rows, silent_seconds, skew_differing_rows, skew_age_seconds; null: no such rule"
    )
    notify: list[str] = setting("names of `notify.targets` that are told of alerts, besides the log")
    alert_repeat_seconds: float = setting(
        "how long until somebody is told again of what still holds", "s", gt=0
    )
