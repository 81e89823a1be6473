"""A batch scoring job as a whole: resolve, fetch, plan, score, log."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.runs.chosen_model import registered_model
from jobs.runs.conf import Conf
from jobs.runs.plan import ScorePlan, make_plan
from jobs.runs.progress import ProgressLine, say
from jobs.runs.run_summary import RunSummary
from jobs.runs.score_run import score
from jobs.runs.tracking import log_score_run

__all__ = ["plan_from", "score_table"]


def score_table(spark: Any, conf: Conf, *, new_run: bool = False) -> tuple[RunSummary, ScorePlan]:
    """Plan and score as the configuration says, log the run to MLflow, and return the summary and the plan."""
    plan = plan_from(conf, Path(conf.storage.cache), spark)
    say(
        f"scoring {plan.rows:,} rows of {plan.snapshot.source} with {plan.model.name} version {plan.model.version}"
    )
    started = datetime.now(UTC)
    with closing(ProgressLine()) as line:
        summary = score(spark, plan, new_run=new_run, progress=line)
    log_score_run(conf, plan, summary, started)
    return summary, plan


def plan_from(conf: Conf, cache: Path, spark: Any = None) -> ScorePlan:
    """Resolve the model, fetch it into the cache, and plan."""
    conf.require("model.name", "input.source", "output.scored", "output.quarantine")
    version, bundle = registered_model(conf, cache)
    return make_plan(conf, version, bundle, spark)
