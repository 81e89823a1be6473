"""Ray Data: read, map_batches, write. A function with a cached model, not an actor, so that Ray fuses the three into one task."""

import pyarrow as pa
import ray
from asof import views
from flights_pipeline import REQUEST, STORED, Model
from passes import read_job, run_passes

BATCH_ROWS = 131_072
_LOADED: dict = {}


def score_batch(rows: pa.Table, job: dict) -> pa.Table:
    if not _LOADED:
        _LOADED.update(model=Model.load(job["model"]), views=views(job))
    for view in _LOADED["views"]:
        rows = view.join(rows)
    return _LOADED["model"].scored(rows)


def score(job: dict, output: str) -> None:
    columns = REQUEST if job["workload"] == "B" else [*REQUEST, *STORED]
    requests = ray.data.read_parquet(job["requests"], columns=columns)
    scored = requests.map_batches(
        score_batch,
        fn_kwargs={"job": job},
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        zero_copy_batch=True,
    )
    scored.write_parquet(output)


if __name__ == "__main__":
    job = read_job()
    ray.init(num_cpus=job["cores"], include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    run_passes(job, lambda output: score(job, output))
