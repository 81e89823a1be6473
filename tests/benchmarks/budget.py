"""Where the time of a row goes: the batch job's steps one after the other, in one thread, over requests with look-ups.

The steps are the very functions that a task calls; only the clock between them is new. It counts processor time, so that what else
runs on the machine does not matter much.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from passes import read_job, run_passes
from workload import conf_of

from feature_pipelines.evaluate import evaluate
from feature_pipelines.schema import Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.batch import plan_from
from jobs.runs.ids import id_sum, row_ids
from jobs.runs.views import index_view
from jobs.runs.written_ids import ids_in_files
from jobs.tables.sink import ParquetSink
from jobs.tables.snapshot import read_unit

MAX_ROWS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.process_time()

    def add(self, step: str) -> None:
        now = time.process_time()
        self.seconds[step] += now - self.last
        self.last = now


def measure_steps(job: dict[str, Any], output: str) -> dict[str, Any]:
    """Return nanoseconds per row of each step."""
    conf = conf_of(
        Path(job["home"]),
        f"input.source={job['requests_directory']}",
        f"output.scored={output}",
        f"output.quarantine={job['scratch']}/quarantine",
    )
    plan = plan_from(conf, Path(conf.storage.cache))
    indexes = {name: index_view(*view) for name, view in plan.views.items()}
    feature_set, scorer = plan.scorer.feature_set, plan.scorer
    looked_up = {name for view, _ in plan.views.values() for name in view.fields.names}
    declared = Schema(tuple(f for f in feature_set.sources if f.name not in looked_up))
    unread = set(declared.names) - feature_set.inputs
    names = ["row_id", "as_of_ts", *plan.repeated, "score", "label"]
    rows, clock = 0, Clock()
    for number, unit in enumerate(plan.units):
        sink = None
        batch_rows = conf.score.batch_rows
        for batch in read_unit(unit, list(plan.columns), batch_rows=batch_rows, schema=plan.snapshot.schema):
            clock.add("read")
            ids = row_ids(batch, plan.key, "file", rows)
            id_sum(ids)
            clock.add("prove")
            columns, _ = columns_from_arrow(declared, batch, skip_values=unread)
            clock.add("columns")
            for view, _ in plan.views.values():
                found, _ = indexes[view.name].lookup(
                    [columns[name] for name in view.keys.values()], columns[feature_set.as_of or ""]
                )
                columns |= found
            clock.add("lookup")
            matrix = evaluate(feature_set, columns, scorer.constants, batch.num_rows)
            clock.add("features")
            scores = scorer.output.columns(scorer.evaluator.score(matrix))
            clock.add("model")
            copied = [ids, batch.column("sched_dep_ts"), *(batch.column(name) for name in plan.repeated)]
            scored = pa.record_batch([*copied, *map(pa.array, scores.values())], names=names)
            if sink is None:
                plain = [f.with_type(getattr(f.type, "value_type", f.type)) for f in scored.schema]
                sink = ParquetSink(output, pa.schema(plain), f"part-{number:05d}")
            sink.append(scored)
            rows += batch.num_rows
            clock.add("write")
        written = sink.close() if sink else None
        clock.add("write")
        ids_in_files(output, [written] if written else [])
        clock.add("prove")
        if rows >= MAX_ROWS:
            break
    return {"rows": rows, "ns_per_row": {step: round(s / rows * 1e9, 1) for step, s in clock.seconds.items()}}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    job = read_job()
    pa.set_cpu_count(1)
    run_passes(job, lambda output: measure_steps(job, output))
