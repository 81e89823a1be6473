"""What all contestants score: two request tables with the same rows, the stored views, the fitted model, a reference to judge by.

    requests_b-<rows>/   requests alone (workload B: stored fields are looked up as of each request)
    requests_a-<rows>/   the same rows with the stored fields as columns (workload A)
    views/               the stored views as plain Parquet, for the peers
    peer_model/          the estimator and the fitted constants; mlflow_model/ the same as a logged scikit-learn pipeline

Everything is made once per home and number of rows. Rows are the project's own resampling of the real flights.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_pipelines.errors import ModelError
from feature_pipelines.features.flights import FEATURES
from feature_pipelines.fingerprint import fingerprint
from feature_pipelines.lookup_arrow import view_columns
from feature_pipelines.schema_arrow import column_from_arrow, column_to_arrow
from jobs.runs.build_run import build_views
from jobs.runs.conf import Conf, load
from jobs.runs.session import spark_log, spark_session
from jobs.runs.tracking import connect_from
from jobs.runs.train_run import train
from jobs.runs.views import index_view, pin_view
from jobs.tables.flights_ingest import ingest
from jobs.tables.flights_schemas import SCHEMAS
from jobs.tables.flights_source import locate_files
from jobs.tables.resample import FILE_ROWS, read_all, resampled_rows
from jobs.tables.sink import ROW_GROUP_ROWS
from jobs.tables.snapshot import pin_snapshot
from udfs.registry import ModelVersion, fetch, resolve

PEERS = Path(__file__).parent / "peers"
REFERENCE_ROWS = 20_000
QUICK_ROWS = 300_000


@dataclass(frozen=True)
class Reference:
    """Row ids and the scores that scikit-learn gives them."""

    row_id: pa.Array
    score: np.ndarray


@dataclass(frozen=True)
class Workload:
    """One request table in its two forms."""

    home: Path
    rows: int
    version: ModelVersion

    def requests(self, name: str) -> Path:
        return self.home / f"requests_{name.lower()}-{self.rows}"

    def files(self, name: str) -> list[str]:
        return [str(path) for path in sorted(self.requests(name).glob("*.parquet"))]

    def job(self) -> dict[str, Any]:
        """Return what every contestant is told about the model and the views."""
        facts = json.loads((self.home / "peer_model" / "model.json").read_text())
        return {
            "model": str(self.home / "peer_model"),
            "mlflow_model": str(self.home / "mlflow_model"),
            "threshold": facts["threshold"],
            "views": [
                {
                    "name": view.name,
                    "path": str(self.home / "views" / f"{view.name}.parquet"),
                    "keys": dict(view.keys),
                    "ttl_us": None if view.ttl_seconds is None else view.ttl_seconds * 1_000_000,
                }
                for view in FEATURES.views
            ],
        }

    def reference(self) -> Reference:
        """Return the scikit-learn scores of rows drawn from the first and the last file."""
        sys.path.insert(0, str(PEERS))
        from flights_pipeline import INPUTS, Model

        model = Model.load(str(self.home / "peer_model"))
        files = self.files("A")
        rng = np.random.default_rng(self.rows)
        drawn = []
        for file in dict.fromkeys([files[0], files[-1]]):
            table = pq.read_table(file, columns=list(dict.fromkeys(["flight_id", *INPUTS])))
            chosen = rng.permutation(table.num_rows)[:REFERENCE_ROWS]
            drawn.append(table.take(pa.array(np.sort(chosen))))
        rows = pa.concat_tables(drawn)
        return Reference(rows["flight_id"].combine_chunks(), model.score(rows))


def conf_of(home: Path, *overrides: str) -> Conf:
    """Return the flights configuration with everything below the benchmark's home."""
    return load("local", "flights", [f"storage.root={home}", *overrides])


def make_workload(home: Path, rows: int, cores: int) -> Workload:
    """Make what is missing: tables, model, requests."""
    conf = conf_of(home)
    ingest(locate_files(), {name: conf.table_location(name) for name in SCHEMAS})
    with spark_session(conf.spark, spark_log(conf)) as spark:
        build_views(spark, conf, FEATURES)
    workload = Workload(home, rows, _model(conf))
    _write_views(conf, home / "views")
    _write_peer_model(conf, workload.version, home)
    _write_requests(home, workload, cores)
    return workload


def _model(conf: Conf) -> ModelVersion:
    try:
        version = resolve(f"models:/{conf.model.name}@{conf.model.alias}", connect_from(conf))
    except ModelError:
        return train(conf).version
    return version if version.feature_fingerprint == fingerprint(FEATURES) else train(conf).version


def _write_views(conf: Conf, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for view in FEATURES.views:
        table = read_all(pin_snapshot(conf.table_location(conf.views[view.name]))).select(view_columns(view))
        for field in view.fields:
            values, _ = column_from_arrow(field, table.column(field.name).combine_chunks())
            i = table.schema.get_field_index(field.name)
            table = table.set_column(i, field.name, column_to_arrow(field, values))
        pq.write_table(_decoded(table), directory / f"{view.name}.parquet")


def _write_peer_model(conf: Conf, version: ModelVersion, home: Path) -> None:
    """Unpack the registered model for the peers, and log it as a scikit-learn pipeline in a process of its own."""
    marker = home / "peer_model" / "digest"
    if marker.exists() and marker.read_text() == version.digest:
        return
    import joblib
    import skops.io

    for name in ("peer_model", "mlflow_model"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "peer_model").mkdir()
    bundle = fetch(version, Path(conf.storage.cache))
    file = bundle / "estimator.skops"
    estimator = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    joblib.dump(estimator, home / "peer_model" / "estimator.joblib")
    model = json.loads((bundle / "model.json").read_text())
    facts = {"constants": model["constants"], "threshold": model["output"]["threshold"]}
    (home / "peer_model" / "model.json").write_text(json.dumps(facts))
    program = "import sys; from spark_udf import log_pipeline; log_pipeline(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", program, str(home / "peer_model"), str(home / "mlflow_model")]
    subprocess.run(command, check=True, env=environment(), capture_output=True, text=True)
    marker.write_text(version.digest)


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of every measured process: this interpreter, this source tree, nothing of the user's settings."""
    import os

    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("ONESCORE_", "MLFLOW_", "SPARK_", "PYSPARK_"))
    }
    paths = [str(Path(__file__).resolve().parents[2]), str(PEERS)]
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    return {**kept, **python, "PYTHONPATH": os.pathsep.join(paths), "TZ": "UTC", **variables}


def _write_requests(home: Path, workload: Workload, cores: int) -> None:
    directories = [workload.requests("A"), workload.requests("B")]
    if all((directory / "_done").exists() for directory in directories):
        return
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    n_files = -(-workload.rows // FILE_ROWS)
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        task = functools.partial(_write_file, str(home), workload.rows, *map(str, directories))
        written = sum(pool.map(task, range(n_files)))
    if written != workload.rows:
        raise RuntimeError(f"wrote {written} requests, expected {workload.rows}")
    for directory in directories:
        (directory / "_done").touch()


def _write_file(home: str, rows: int, with_views: str, alone: str, number: int) -> int:
    """Write one file of requests, with and without the stored fields, in the same order."""
    real, indexes = _sources(home)
    first, last = number * FILE_ROWS, min((number + 1) * FILE_ROWS, rows)
    writers: dict[str, pq.ParquetWriter] = {}
    for start in range(first, last, ROW_GROUP_ROWS):
        stop = min(start + ROW_GROUP_ROWS, last)
        table = _decoded(resampled_rows(real, start, stop, rows=rows, seed=0)).drop_columns("is_resampled")
        for directory, part in ((alone, table), (with_views, _with_stored_fields(table, indexes))):
            if directory not in writers:
                path = f"{directory}/part-{number:05d}.parquet"
                plain = [name for name in part.schema.names if name != "flight_id"]
                writers[directory] = pq.ParquetWriter(
                    path, part.schema, use_dictionary=plain, store_schema=False
                )
            writers[directory].write_table(part, row_group_size=ROW_GROUP_ROWS)
    for writer in writers.values():
        writer.close()
    return last - first


@functools.cache
def _sources(home: str) -> tuple[pa.Table, dict[str, Any]]:
    conf = conf_of(Path(home))
    indexes = {}
    for view in FEATURES.views:
        indexes[view.name] = index_view(view, pin_view(view, conf.table_location(conf.views[view.name])))
    return read_all(pin_snapshot(conf.table_location("flights_requests"))), indexes


def _with_stored_fields(table: pa.Table, indexes: dict[str, Any]) -> pa.Table:
    as_of = table["sched_dep_ts"].cast(pa.int64()).to_numpy()
    for view in FEATURES.views:
        keys = [
            column_from_arrow(FEATURES.sources[name], table[name].combine_chunks())[0]
            for name in view.keys.values()
        ]
        found, _ = indexes[view.name].lookup(keys, as_of)
        for field in view.fields:
            table = table.append_column(field.name, column_to_arrow(field, found[field.name]))
    return table


def _decoded(table: pa.Table) -> pa.Table:
    """Return the table with plain strings."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table.replace_schema_metadata()
