"""The `skew` section of the configuration: what comparing the prediction log with the batch may find.

It stands apart from `settings` for its size alone; like all of it, it does not know where values come from.
"""

from __future__ import annotations

from jobs.runs.settings import Location, Section, setting

__all__ = ["SkewSettings"]


class SkewSettings(Section):
    """What a comparison of the prediction log with the batch may find, and where its reports are."""

    directory: Location = setting(
        "reports of `jobs.reconcile_scores`, `<directory>/<model>/<time>/`; driver and workers must reach it by this path",
        min_length=1,
    )
    corrections: Location = setting(
        "table of corrected scores that `jobs.reconcile_scores --corrections` writes and honours",
        min_length=1,
    )
    max_differing_share: float = setting(
        "share of the compared rows that may differ; more: exit 1", "0 to 1", ge=0, le=1
    )
    max_flip_share: float = setting("share of them whose decision may differ; likewise", "0 to 1", ge=0, le=1)
    max_unexplained_share: float = setting(
        "share of them that may differ for no cause that was found; likewise", "0 to 1", ge=0, le=1
    )
    max_lost_share: float = setting(
        "share of the answered rows the log may lack; likewise", "0 to 1", ge=0, le=1
    )
    max_uncompared_share: float = setting("share of the logged rows left out; likewise", "0 to 1", ge=0, le=1)
