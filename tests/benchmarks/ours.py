"""The project's own contestants: the batch job, and the UDF in a plain Spark query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow
from flights_pipeline import COPIED, INPUTS, REQUEST, STORED
from passes import read_job, run_passes
from pyspark.sql import functions as F
from workload import conf_of

from jobs.runs.batch import score_table
from jobs.runs.conf import Conf
from jobs.runs.session import spark_session
from udfs.spark_udf import score_udf

_SPARK = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.files.maxPartitionBytes": "32m",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


def settings(job: dict[str, Any], output: str) -> Conf:
    """Return the flights configuration for one pass, which writes into a place of its own."""
    return conf_of(
        Path(job["home"]),
        f"spark.master=local[{job['cores']},4]",
        f"storage.runs={job['scratch']}/runs",
        f"input.source={job['requests_directory']}",
        f"output.scored={output}",
        f"output.quarantine={job['scratch']}/quarantine",
        *job.get("overrides", []),
    )


def run_batch(job: dict[str, Any]) -> None:
    """Score as `python -m jobs.score_batch` does."""
    conf = settings(job, job["output"])
    with spark_session(conf.spark, Path(job["scratch"]) / "spark.log") as spark:

        def score(output: str) -> dict[str, Any]:
            summary, _ = score_table(spark, settings(job, output), new_run=True)
            return {"stages": summary.stages, "job_seconds": summary.seconds, "rows": summary.rows_in}

        run_passes(job, score)


def run_udf(job: dict[str, Any]) -> None:
    """Score with score_udf in a DataFrame query: Spark reads and writes."""
    conf = settings(job, job["output"])
    mlflow.set_tracking_uri(conf.mlflow.tracking_uri)
    with spark_session(conf.spark, Path(job["scratch"]) / "spark.log") as spark:
        for key, value in _SPARK.items():
            spark.conf.set(key, value)
        looked_up = job["views"] if job["workload"] == "B" else []
        views = {view["name"]: spark.read.parquet(view["path"]) for view in looked_up}
        udf = score_udf(
            spark, f"models:/{conf.model.name}@{conf.model.alias}", views=views, cache=conf.storage.cache
        )
        asked = dict.fromkeys([*REQUEST, *INPUTS])
        asked = [name for name in asked if name not in STORED or job["workload"] == "A"]

        def score(output: str) -> None:
            scored = spark.read.parquet(*job["requests"]).select(
                F.col("flight_id").alias("row_id"),
                F.col("sched_dep_ts").alias("as_of_ts"),
                *COPIED,
                udf(F.struct(*asked)).alias("s"),
            )
            kept = scored.select("row_id", "as_of_ts", *COPIED, "s.score", "s.label")
            kept.write.mode("overwrite").parquet(output)

        run_passes(job, score)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asked_for = sys.argv.pop(1)
    {"batch": run_batch, "udf": run_udf}[asked_for](read_job())
