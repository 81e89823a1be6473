"""Polars' streaming engine: scan_parquet, join_asof, map_batches, sink_parquet."""

import os

import polars as pl
from flights_pipeline import COPIED, INPUTS, REQUEST, STORED, Model
from passes import read_job, run_passes

SCHEMA = {"score": pl.Float64, "label": pl.Boolean}


def joined(requests: pl.LazyFrame, job: dict) -> pl.LazyFrame:
    """Join each view's newest row as of each departure. join_asof needs sorted sides."""
    requests = requests.sort("sched_dep_ts")
    for view in job["views"]:
        keys, ttl_us = view["keys"], view["ttl_us"]
        when = pl.max_horizontal("event_ts", "created_ts").alias("visible_ts")
        # among rows that became visible at once the newest comes last, and join_asof takes the last
        stored = pl.scan_parquet(view["path"]).with_columns(when).sort("visible_ts", "event_ts", "created_ts")
        fields = [
            n for n in stored.collect_schema() if n not in (*keys, "event_ts", "created_ts", "visible_ts")
        ]
        requests = requests.join_asof(
            stored.drop("created_ts").rename({"event_ts": "stored_ts"}),
            left_on="sched_dep_ts",
            right_on="visible_ts",
            by_left=list(keys.values()),
            by_right=list(keys),
            check_sortedness=False,
            coalesce=False,
        )
        if ttl_us is not None:
            fresh = pl.col("stored_ts") >= pl.col("sched_dep_ts") - pl.duration(microseconds=ttl_us)
            requests = requests.with_columns(pl.when(fresh).then(pl.col(fields)))
        requests = requests.drop("stored_ts", "visible_ts")
    return requests


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
