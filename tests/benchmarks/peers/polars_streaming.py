"""Polars' streaming engine: scan_parquet, join_asof, map_batches, sink_parquet."""

import os

import polars as pl
from flights_pipeline import COPIED, INPUTS, REQUEST, STORED, Model
from passes import read_job, run_passes

SCHEMA = {"score": pl.Float64, "label": pl.Boolean}


def joined(requests: pl.LazyFrame, job: dict) -> pl.LazyFrame:
    """Join the newest weather by hour of origin, and the plane, as of each departure. join_asof needs sorted sides."""
    when = pl.max_horizontal("event_ts", "created_ts").alias("visible_ts")
    weather, planes = (
        pl.scan_parquet(job[view]).with_columns(when).sort("visible_ts") for view in ("weather", "planes")
    )
    times = {
        "left_on": "sched_dep_ts",
        "right_on": "visible_ts",
        "check_sortedness": False,
        "coalesce": False,
    }
    weather = weather.rename({"event_ts": "weather_ts"}).drop("created_ts")
    planes = planes.drop("event_ts", "created_ts")
    fresh = pl.col("weather_ts") >= pl.col("sched_dep_ts") - pl.duration(microseconds=job["weather_ttl_us"])
    stored = [name for name in INPUTS if name.startswith("weather_")]
    return (
        requests.sort("sched_dep_ts")
        .join_asof(weather, by="origin", **times)
        .with_columns(pl.when(fresh).then(pl.col(stored)))
        .drop("weather_ts", "visible_ts")
        .join_asof(planes, by="tailnum", **times)
        .drop("visible_ts")
    )


def score(job: dict, output: str) -> None:
    model = Model.load(job["model"])

    def score_batch(rows: pl.DataFrame) -> pl.DataFrame:
        arrow = rows.select(INPUTS).to_arrow(compat_level=pl.CompatLevel.oldest())
        scores = pl.Series("score", model.score(arrow))
        copied = [pl.col("flight_id").alias("row_id"), pl.col("sched_dep_ts").alias("as_of_ts"), *COPIED]
        return rows.select(*copied, scores, (scores >= model.threshold).alias("label"))

    requests = pl.scan_parquet(job["requests"])
    requests = (
        joined(requests.select(REQUEST), job)
        if job["workload"] == "B"
        else requests.select([*REQUEST, *STORED])
    )
    known = requests.collect_schema()
    schema = {
        "row_id": known["flight_id"],
        "as_of_ts": known["sched_dep_ts"],
        **{name: known[name] for name in COPIED},
    }
    scored = requests.map_batches(score_batch, streamable=True, schema={**schema, **SCHEMA})
    scored.sink_parquet(
        os.path.join(output, "scored.parquet"), compression="snappy", maintain_order=False, engine="streaming"
    )


if __name__ == "__main__":
    job = read_job()
    run_passes(job, lambda output: score(job, output))
