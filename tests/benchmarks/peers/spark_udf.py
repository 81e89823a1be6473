"""mlflow.pyfunc.spark_udf on the equivalent scikit-learn pipeline, Arrow on.

For workload B the stored views are joined before it, in one of two ways:
- window: requests and a view in one table, sorted per key by time, each request takes the last view row before it;
- interval: each view row is valid until the next one; the view is broadcast, cut by hour so that the join has an equality; a view
  whose rows are valid for days is joined as in `window`.
"""

import functools
import os

import mlflow
from flights_pipeline import COPIED, INPUTS, REQUEST, STORED, FlightsPipeline, Model, frame_features
from passes import read_job, run_passes
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from sklearn.preprocessing import FunctionTransformer

HOUR = 3600


def log_pipeline(model_directory: str, path: str) -> None:
    """Save the pipeline as an MLflow model; run once, outside the measurement."""
    model = Model.load(model_directory)
    transformer = FunctionTransformer(functools.partial(frame_features, constants=model.constants))
    pipeline = FlightsPipeline([("features", transformer), ("model", model.estimator)])
    mlflow.sklearn.save_model(pipeline, path, serialization_format="cloudpickle", pip_requirements=[])


def visible(view: DataFrame) -> DataFrame:
    return view.withColumn("visible_ts", F.greatest("event_ts", "created_ts"))


def window_join(requests: DataFrame, view: DataFrame, keys: list[str], ttl_us: int | None) -> DataFrame:
    fields = [name for name in view.columns if name not in (*keys, "event_ts", "created_ts")]
    asked = [name for name in requests.columns if name not in keys]
    left = requests.select(
        *keys,
        F.struct(*asked).alias("asked"),
        F.col("sched_dep_ts").alias("at"),
        F.lit(1).alias("side"),
        F.lit(None).alias("event_ts"),
        F.lit(None).alias("stored"),
    )
    right = visible(view).select(
        *keys,
        F.lit(None).alias("asked"),
        F.col("visible_ts").alias("at"),
        F.lit(0).alias("side"),
        "event_ts",
        F.struct("event_ts", *fields).alias("stored"),
    )
    before = (
        Window.partitionBy(*keys).orderBy("at", "side", "event_ts").rowsBetween(Window.unboundedPreceding, 0)
    )
    newest = F.last("stored", ignorenulls=True).over(before)
    joined = left.unionByName(right).withColumn("newest", newest).where("side = 1")
    fresh = F.lit(True) if ttl_us is None else F.col("newest.event_ts") >= F.col("at") - seconds(ttl_us)
    stored = [F.when(fresh, F.col(f"newest.{name}")).alias(name) for name in fields]
    return joined.select(*keys, "asked.*", *stored)


def interval_join(requests: DataFrame, view: DataFrame, keys: list[str], ttl_us: int | None) -> DataFrame:
    fields = [name for name in view.columns if name not in (*keys, "event_ts", "created_ts")]
    per_key = Window.partitionBy(*keys).orderBy("visible_ts", "event_ts")
    until = F.lead("visible_ts").over(per_key)
    same = [F.col(f"v.{key}") == F.col(f"r.{key}") for key in keys]
    if ttl_us is None:  # one row per key and no end: the time is a condition beside the key's equality
        valid = visible(view).withColumn("until_ts", until)
        on = same
    else:
        end = F.least(
            F.coalesce(until, F.col("event_ts") + seconds(ttl_us + 1)),
            F.col("event_ts") + seconds(ttl_us + 1),
        )
        hours = F.sequence(hour("visible_ts"), hour("until_ts"))
        valid = (
            visible(view)
            .withColumn("until_ts", end)
            .where("visible_ts < until_ts")
            .withColumn("hour", F.explode(hours))
        )
        on = [*same, F.col("v.hour") == hour("r.sched_dep_ts")]
    on += [
        F.col("r.sched_dep_ts") >= F.col("v.visible_ts"),
        F.col("v.until_ts").isNull() | (F.col("r.sched_dep_ts") < F.col("v.until_ts")),
    ]
    joined = requests.alias("r").join(
        F.broadcast(valid).alias("v"), functools.reduce(lambda a, b: a & b, on), "left"
    )
    return joined.select("r.*", *(f"v.{name}" for name in fields))


def hour(column: str) -> Column:
    return F.floor(F.unix_timestamp(column) / HOUR)


def seconds(us: int) -> Column:
    return F.make_dt_interval(secs=F.lit(us) / 1_000_000)


def score(spark: SparkSession, job: dict, udf: Column, output: str) -> None:
    requests = spark.read.parquet(*job["requests"])
    if job["workload"] == "A":
        requests = requests.select(*REQUEST, *STORED)
    else:
        requests = requests.select(*REQUEST)
        for view in job["views"]:
            is_short = (
                view["ttl_us"] or 0
            ) <= 24 * HOUR * 1_000_000  # days by the hour are too many rows to broadcast
            join = interval_join if job["join"] == "interval" and is_short else window_join
            stored = spark.read.parquet(view["path"]).withColumnsRenamed(view["keys"])
            requests = join(requests, stored, list(view["keys"].values()), view["ttl_us"])
    keys = [F.col("flight_id").alias("row_id"), F.col("sched_dep_ts").alias("as_of_ts")]
    scored = requests.select(*keys, *COPIED, udf(F.struct(*INPUTS)).alias("score"))
    scored.withColumn("label", F.col("score") >= job["threshold"]).write.mode("overwrite").parquet(output)


def session(job: dict) -> SparkSession:
    builder = SparkSession.builder.master(f"local[{job['cores']}]")
    settings = {
        "spark.driver.memory": "4g",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.local.dir": os.path.join(job["scratch"], "spark"),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.files.maxPartitionBytes": "32m",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(4 * job["cores"]),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


if __name__ == "__main__":
    job = read_job()
    spark = session(job)
    udf = mlflow.pyfunc.spark_udf(spark, job["mlflow_model"], result_type="double", env_manager="local")
    run_passes(job, lambda output: score(spark, job, udf, output))
