"""What a reconciliation leaves behind: the report as data, its files, and an MLflow run with the same figures.

    <skew.directory>/<model>/<time>/{report.json, report.html, fields.parquet, differing.parquet}

The directory appears under its name when it is whole. It holds no personal data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.online.instants import shown
from jobs.proof.aggregate import Totals
from jobs.proof.causes import Cause
from jobs.proof.corrections_table import write_corrections
from jobs.proof.differing_rows import DIFFERING_SCHEMA
from jobs.proof.reconcile_plan import ReconcilePlan
from jobs.proof.reconcile_run import Compared, compare, stages
from jobs.proof.repair import Target
from jobs.proof.repair import plan as plan_repair
from jobs.proof.skew import SkewReport
from jobs.proof.worst_rows import instant_text
from jobs.reports.skew_report import write_report
from jobs.runs.conf import Conf
from jobs.runs.progress import say
from jobs.runs.skew_settings import SkewSettings
from jobs.runs.tracking import connect_from
from udfs.platform import describe_platform
from udfs.registry import asking

__all__ = ["Written", "budget_of", "comparison_of", "log_skew_run", "reconcile", "report_of"]

_MOST_CAUSES = 200
_FIELDS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        *(
            (name, pa.int64())
            for name in ("compared", "exact", "differing", "online_only_null", "offline_only_null")
        ),
        *(
            (f"{kind}_{name}", pa.float64())
            for kind in ("ulps", "absolute")
            for name in ("p50", "p90", "p99", "max")
        ),
    ]
)


@dataclass(frozen=True)
class Written:
    """A report and the directory of its files."""

    report: SkewReport
    directory: Path


def reconcile(spark: Any, plan: ReconcilePlan, directory: Path) -> Written:
    """Compare, and write the report's files.

    Args:
        spark: classic or Connect.
        plan: see make_plan.
        directory: of all reports.
    """
    created = datetime.now(UTC)
    final = directory / plan.model.name / f"{created:%Y%m%dT%H%M%S%fZ}"
    hidden = final.with_name(f".{final.name}")
    hidden.mkdir(parents=True)
    try:
        compared = compare(spark, plan, hidden / "parts")
        _write_differing(compared, hidden / "differing.parquet")
        report = report_of(plan, compared, created)
        shutil.rmtree(hidden / "parts", ignore_errors=True)
        pq.write_table(_fields_table(report), hidden / "fields.parquet")
        text = json.dumps(report.to_json(), indent=1, allow_nan=False)
        (hidden / "report.json").write_text(text + "\n", encoding="utf-8")
        write_report(report, hidden / "report.html")
        hidden.rename(final)
        if plan.asked.with_corrections:
            _correct(plan, final, created)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return Written(report, final)


def report_of(plan: ReconcilePlan, compared: Compared, created: datetime) -> SkewReport:
    """Return the report of what was found."""
    totals = compared.totals
    counts = totals.counts
    n, differing = counts["compared"], counts["differing"]
    flips = counts["flips"]
    causes = _causes(plan, compared)
    unexplained = sum(one["rows"] for one in causes if one["cause"] in ("", Cause.UNEXPLAINED))
    gaps: list[dict[str, Any]] = [
        {
            "process": gap.process,
            "first": gap.first,
            "last": gap.last,
            "missing": gap.last - gap.first + 1,
            "is_tail": gap.is_tail,
        }
        for gap in plan.log.gaps
    ]
    lost = sum(gap["missing"] for gap in gaps if not gap["is_tail"])
    names = plan.scorer.feature_set.feature_names
    return SkewReport(
        model=plan.model.name,
        reference_version=plan.model.version,
        reference_digest=plan.model.digest,
        log=str(plan.log.directory),
        created_ts=created.isoformat().replace("+00:00", "Z"),
        from_ts=None if plan.asked.from_ts is None else shown(plan.asked.from_ts),
        to_ts=None if plan.asked.to_ts is None else shown(plan.asked.to_ts),
        rows_logged=counts["logged"],
        rows_compared=n,
        rows_equal=n - differing - counts["corrected"],
        rows_differing=differing,
        rows_refused_online=counts["refused_online"],
        rows_refused_offline=counts["refused_offline"],
        requests_not_in_table=counts["not_in_table"],
        gaps=gaps,
        rows_lost=lost,
        rows_not_yet_written=sum(gap["missing"] for gap in gaps if gap["is_tail"]),
        score=totals.fields["score"].skew("score"),
        features=[totals.fields[name].skew(name) for name in names],
        decisions={
            "threshold": plan.scorer.output.threshold,
            "flips": flips,
            "to_positive": counts["to_positive"],
            "to_negative": counts["to_negative"],
            **_moves(plan, totals),
        },
        by_hour=[
            {
                "hour": instant_text(hour),
                "compared": values[0],
                "differing": values[1],
                "flips": values[2],
                "score_ulps_max": values[3],
            }
            for hour, values in sorted(totals.hours.items())
        ],
        by_version=_versions(plan, compared),
        causes=causes,
        unexplained=unexplained,
        ulps_histogram=totals.fields["score"].ulps.powers(),
        worst=[{name: value for name, value in row.items() if name != "rank"} for row in totals.worst],
        repair=plan_repair(totals, _target(plan)),
        budget=budget_of(
            plan.conf.skew,
            {
                "max_differing_share": (differing, n),
                "max_flip_share": (flips, n),
                "max_unexplained_share": (unexplained, n),
                "max_lost_share": (lost, counts["logged"] + lost),
                "max_uncompared_share": (counts["logged"] - n, counts["logged"]),
            },
        ),
        rates={
            "seconds": round(compared.seconds, 3),
            "rows_per_second": round(counts["logged"] / max(compared.seconds, 1e-9), 1),
            **{f"task_seconds.{name}": seconds for name, seconds in stages(totals).items()},
        },
        rows_duplicated=counts["duplicated"],
        rows_not_comparable=counts["not_comparable"],
        rows_corrected=counts["corrected"],
        classes=[
            totals.fields[name].skew(name)
            for name in (plan.scorer.output.score_names if plan.scorer.output.classes else ())
        ],
        unlogged=dict(sorted(totals.unlogged.items())),
    )


def budget_of(limits: SkewSettings, found: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return the limits and which of them are exceeded.

    Args:
        limits: shares that are allowed.
        found: by limit, how many rows there are of so many.
    """
    allowed = {name: float(getattr(limits, name)) for name in found}
    exceeded = [name for name, (rows, of) in found.items() if rows > allowed[name] * of]
    return {**allowed, "exceeded": exceeded}


def _moves(plan: ReconcilePlan, totals: Totals) -> dict[str, Any]:
    """Return the classes, and how many rows go from which to which; nothing of a model of other than several classes."""
    classes = plan.scorer.output.classes
    if not classes:
        return {}
    moves = sorted(totals.moves.items(), key=lambda item: (-item[1], item[0]))
    return {"classes": list(classes), "moves": [{"from": a, "to": b, "rows": n} for (a, b), n in moves]}


def _causes(plan: ReconcilePlan, compared: Compared) -> list[dict[str, Any]]:
    """Return causes by rows, descending; of the rarest places only the sum of each cause."""
    found = sorted(compared.totals.causes.items(), key=lambda item: (-item[1][0], item[0]))
    rest: dict[tuple[str, str, str], list[int]] = {}
    for (cause, _, parts), (rows, flips) in found[_MOST_CAUSES:]:
        held = rest.setdefault((cause, "", parts), [0, 0])
        rest[cause, "", parts] = [held[0] + rows, held[1] + flips]
    differing = max(compared.totals.counts["differing"], 1)
    listed = sorted([*found[:_MOST_CAUSES], *rest.items()], key=lambda item: (-item[1][0], item[0]))
    causes = []
    for (cause, where, parts), (rows, flips) in listed:
        one: dict[str, Any] = {"cause": cause, "where": where, "rows": rows, "flips": flips}
        causes.append(one | {"share": rows / differing} | ({"parts": parts.split(" + ")} if parts else {}))
    return causes


def _versions(plan: ReconcilePlan, compared: Compared) -> list[dict[str, Any]]:
    missing = {one.served.digest: one.missing for one in plan.others if one.missing}
    return [
        {
            "version": version,
            "digest": digest,
            "compared": values[0],
            "differing": values[1],
            "flips": values[2],
        }
        | ({"missing": missing[digest]} if digest in missing else {})
        for (version, digest), values in sorted(compared.totals.versions.items())
    ]


def _fields_table(report: SkewReport) -> pa.Table:
    rows = []
    for one in (report.score, *report.classes, *report.features):
        row: dict[str, Any] = {name: getattr(one, name) for name in _FIELDS_SCHEMA.names[:6]}
        for kind in ("ulps", "absolute"):
            figures: Mapping[str, float] = getattr(one, kind)
            row |= {f"{kind}_{name}": value for name, value in figures.items()}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_FIELDS_SCHEMA)


def _write_differing(compared: Compared, path: Path) -> None:
    """Put the tasks' files into one, a row group at a time."""
    with pq.ParquetWriter(path, DIFFERING_SCHEMA) as writer:
        for name in compared.files:
            with pq.ParquetFile(compared.parts / name) as part:
                for group in range(part.num_row_groups):
                    writer.write_table(part.read_row_group(group).cast(DIFFERING_SCHEMA))


def _parts_of(path: Path) -> Iterator[pa.Table]:
    """Yield differing rows, some at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch])


def _target(plan: ReconcilePlan) -> Target:
    feature_set, asked = plan.scorer.feature_set, plan.asked
    names = plan.snapshot.schema.names if plan.snapshot is not None else []
    return Target(
        model=asked.conf_model or plan.model.name,
        version=plan.model.version,
        environment=None if plan.conf.env == "local" else plan.conf.env,
        views=tuple(plan.views),
        has_as_of=feature_set.as_of in names,
        corrections=plan.corrections_uri if asked.with_corrections else None,
        overrides=asked.overrides,
        comparison=comparison_of(plan),
    )


def comparison_of(plan: ReconcilePlan) -> tuple[str, ...]:
    """Return the arguments of jobs.reconcile_scores that ask for the same comparison again, of the version that was resolved."""
    asked, conf = plan.asked, plan.conf
    given = {
        "--bundle": None if asked.bundle is None else str(asked.bundle),
        "--model-version": plan.model.version or None,
        "--log": None if str(asked.log) == conf.serve.log_directory else str(asked.log),
        "--requests": None if asked.requests == conf.input.source else asked.requests or "none",
        "--by": None if asked.by == "served_ts" else "as-of",
        "--from": None if asked.from_ts is None else shown(asked.from_ts),
        "--to": None if asked.to_ts is None else shown(asked.to_ts),
    }
    return tuple(word for name, value in given.items() if value is not None for word in (name, value))


def _correct(plan: ReconcilePlan, directory: Path, created: datetime) -> None:
    """Write the corrections of the differing rows."""
    n = write_corrections(
        plan.corrections_uri,
        _parts_of(directory / "differing.parquet"),
        report_id=directory.name,
        model=plan.model.name,
        version=plan.model.version,
        digest=plan.model.digest,
        corrected_ts=int(created.timestamp() * 1_000_000),
    )
    say(f"wrote {n:,} corrected scores to {plan.corrections_uri}")


def log_skew_run(conf: Conf, plan: ReconcilePlan, written: Written) -> str:
    """Log the figures and files of a report to MLflow; return the run's id."""
    connect_from(conf, create=True)
    report = written.report
    with (
        asking("the tracking server"),
        mlflow.start_run(run_name=f"reconcile {report.model} {written.directory.name}") as run,
    ):
        mlflow.set_tags({"onescore.job": "reconcile_scores", "onescore.equal": str(report.is_equal)})
        mlflow.log_params({key: str(value)[:500] for key, value in plan.describe().items()})
        mlflow.log_metrics(_metrics(report))
        mlflow.log_dict(conf.resolved(), "configuration.json")
        mlflow.log_dict(describe_platform(), "platform.json")
        mlflow.log_artifacts(str(written.directory), "skew")
        return str(run.info.run_id)


def _metrics(report: SkewReport) -> dict[str, float]:
    compared = max(report.rows_compared, 1)
    names = (
        "rows_logged",
        "rows_compared",
        "rows_equal",
        "rows_differing",
        "rows_refused_online",
        "rows_refused_offline",
        "requests_not_in_table",
        "rows_not_comparable",
        "rows_duplicated",
        "rows_lost",
        "rows_not_yet_written",
        "rows_corrected",
        "unexplained",
    )
    found = {name: float(getattr(report, name)) for name in names}
    found |= {
        "flips": float(report.decisions["flips"]),
        "differing_share": report.rows_differing / compared,
        "flip_share": report.decisions["flips"] / compared,
        "unexplained_share": report.unexplained / compared,
        "score_ulps_max": report.score.ulps.get("max", 0.0),
        "rows_per_second": report.rates["rows_per_second"],
    }
    for one in report.causes:
        found[f"cause.{one['cause']}"] = found.get(f"cause.{one['cause']}", 0.0) + one["rows"]
    return found
