"""A script: pyarrow reads and writes, scikit-learn predicts with all its threads."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
from asof import views
from flights_pipeline import REQUEST, STORED, Model
from passes import read_job, run_passes

BATCH_ROWS = 131_072


def score(job: dict, output: str) -> None:
    model, stored = Model.load(job["model"]), views(job)
    columns = REQUEST if stored else [*REQUEST, *STORED]
    writer = None
    for file in job["requests"]:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns):
            rows = pa.Table.from_batches([batch])
            for view in stored:
                rows = view.join(rows)
            scored = model.scored(rows)
            writer = writer or pq.ParquetWriter(os.path.join(output, "scored.parquet"), scored.schema)
            writer.write_table(scored)
    writer.close()


if __name__ == "__main__":
    job = read_job()
    pa.set_cpu_count(job["cores"])
    run_passes(job, lambda output: score(job, output))
