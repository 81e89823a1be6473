"""Train a model on requests with known outcomes, certify it, and register it with everything that serving it needs.

python -m jobs.train_model --model flights
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from feature_pipelines.packaged import load_reference
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table
from jobs.runs.session import session_for, spark_log
from jobs.runs.train_run import describe_training, train, training_sources
from jobs.runs.training import build_training_set

__all__ = ["main"]

_MOST_CLASSES = 20  # printed; the run in MLflow has them all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("train_model", __doc__, _EPILOG)
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    conf.require("model.name", "model.feature_set", "train.requests", "train.outcomes", "train.label_column")
    if arguments.dry_run:
        feature_set = load_reference(conf.model.feature_set)
        with session_for(conf, training_sources(conf), spark_log(conf)) as spark:
            data = build_training_set(conf, feature_set, spark)
        print("plan (nothing was written)")
        print(table(describe_training(conf, feature_set, data)))
        return 0
    trained = train(conf)
    facts = {
        "model": f"{trained.version.name} version {trained.version.version} (alias {trained.version.alias})",
        "feature fingerprint": trained.version.feature_fingerprint,
        "rows trained on": trained.rows_trained,
        "rows held out": trained.rows_held_out,
        "evaluator": _evaluator(trained.model["certification"]),
        "certified": _certified(trained.model["certification"]),
        "held-out metrics": {name: f"{value:.4f}" for name, value in trained.metrics.items()},
    }
    if trained.classes:
        shown = sorted(trained.classes, key=lambda one: -one["rows"])[:_MOST_CLASSES]
        facts["held-out classes"] = {one["class"]: _told_apart(one) for one in shown}
    print(table(facts))
    return 0


def _evaluator(certification: Mapping[str, Any]) -> str:
    """Return what scores, and of a library how it is asked."""
    name = str(certification["evaluator"])
    if name != "library":
        return name
    strategy = certification["strategy"]
    threads = ", one native thread" if strategy["one_thread"] else ""
    return f"library, blocks of {strategy['block_rows']} rows filled up to {strategy['pad_rows']}{threads}"


def _told_apart(one: Mapping[str, Any]) -> str:
    """Return how well a class is told from the others, in a line."""
    known = [f"{name} {one[name]:.4f}" for name in ("recall", "precision", "auc") if one[name] is not None]
    return ", ".join([f"{one['rows']:,} rows", *known])


def _certified(certification: Mapping[str, Any]) -> str:
    cost = certification["cost"]
    measured = [one for one in certification["conditions"] if one["rows"]]
    return (
        f"same bits under {len(measured)} conditions, measured in {certification['seconds']:.1f} s; "
        f"{cost['rows_per_second']:,} rows/s ({cost['ratio']:.2f} times the library's own), one row {cost['row_microseconds']:,.0f} us"
    )


_EPILOG = """\
The first version of a model gets the alias `champion`, each later one `challenger`.
Metrics, plots and the configuration are in the MLflow run; conf/README.md lists every key that --set takes."""

if __name__ == "__main__":
    sys.exit(run(main))
