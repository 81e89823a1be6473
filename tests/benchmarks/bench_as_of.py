"""Measure the as-of join against its alternatives: flights joined to the weather and the planes, the same rows for all.

Each contestant is a process of its own, with the tables in its own form in memory before the clock starts (Spark reads Parquet files
within it, having no such form), and joins both views several times; the best pass counts. Every answer is compared with the
index's, bit for bit. Ends with exit code 0 if all are equal, else 1.

Then half of all requests ask for one plane and one airport: the join by shuffle as it is and with that key split, and how long the longest
and the median of its tasks ran.

    python tests/benchmarks/bench_as_of.py --rows 2000000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402 - after the path is set
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from feature_pipelines.features.flights import PLANE, WEATHER  # noqa: E402
from feature_pipelines.lookup_arrow import index_from_arrow, view_columns  # noqa: E402
from feature_pipelines.schema import Field, Schema  # noqa: E402
from feature_pipelines.schema_arrow import (  # noqa: E402
    column_from_arrow,
    column_to_arrow,
    columns_from_arrow,
)
from tests.benchmarks.publish import add_publish_arguments, entry, publish  # noqa: E402

VIEWS = (WEATHER, PLANE)
AS_OF = "sched_dep_ts"
KEYS = [name for view in VIEWS for name in view.keys.values()]
FIELDS = [field for view in VIEWS for field in view.fields]
HOUR_US = 3_600_000_000
OURS = ("kernel", "shuffle")
TASKS = "tasks.json"
HOT, SPLIT = "shuffle, hot key", "shuffle, hot key split"
SLICES_OF_THE_HOT_KEY = 16
Pass = Callable[[], Any]


# --- what is joined


def make_tables(home: Path, rows: int, *, is_hot: bool = False) -> None:
    """Write `requests` (flights drawn at random, each moved by up to 12 hours) and a table for each view.

    Args:
        home: where to.
        rows: requests.
        is_hot: give every other request the keys of one flight.
    """
    from jobs.tables.flights_source import locate_files, parse_source

    tables = parse_source(locate_files())
    rng = np.random.default_rng(rows)
    flights = tables["flights_requests"].select([*KEYS, AS_OF])
    drawn = flights.take(pa.array(rng.integers(0, flights.num_rows, rows)))
    moved = drawn[AS_OF].cast(pa.int64()).to_numpy() + rng.integers(-12, 13, rows) * HOUR_US
    position = drawn.schema.get_field_index(AS_OF)
    drawn = drawn.set_column(position, AS_OF, pa.array(moved).cast(pa.timestamp("us", "UTC")))
    for key in KEYS if is_hot else ():
        heated = pc.if_else(np.arange(rows) % 2 == 0, drawn[key].drop_null()[0], drawn[key])
        drawn = drawn.set_column(drawn.schema.get_field_index(key), key, heated)
    pq.write_table(drawn.append_column("n", pa.array(np.arange(rows))), home / "requests.parquet")
    for view, table in ((WEATHER, "weather"), (PLANE, "planes")):
        pq.write_table(tables[table].select(view_columns(view)), home / f"{view.name}.parquet")


def read(home: Path, name: str) -> pa.Table:
    return pq.read_table(home / f"{name}.parquet").combine_chunks()


# --- contestants: each returns a pass and what makes an Arrow table, with `n`, of what a pass returned


def kernel(home: Path, cores: int) -> tuple[Pass, Callable[[Any], pa.Table]]:
    """The look-up in the kernel, from Arrow to Arrow, one thread."""
    from feature_pipelines.columns import Nullable, String, Timestamp

    indexes = [index_from_arrow(view, read(home, view.name)) for view in VIEWS]
    requests = read(home, "requests")
    declared = Schema((*(Field(key, Nullable[String]) for key in KEYS), Field(AS_OF, Timestamp)))

    def run() -> pa.Table:
        batches = [joined(batch) for batch in requests.to_batches(max_chunksize=65_536)]
        return pa.Table.from_batches(batches)

    def joined(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns, _ = columns_from_arrow(declared, batch)
        as_of: Any = columns[AS_OF]
        found: dict[str, Any] = {}
        for view, index in zip(VIEWS, indexes, strict=True):
            found |= index.lookup([columns[name] for name in view.keys.values()], as_of)[0]
        arrays = [column_to_arrow(field, found[field.name]) for field in FIELDS]
        return pa.RecordBatch.from_arrays([batch["n"], *arrays], names=["n", *(f.name for f in FIELDS)])

    return run, lambda table: table


def shuffle(
    home: Path, cores: int, hot_key_rows: int | None = None
) -> tuple[Pass, Callable[[Any], pa.Table]]:
    """The join by shuffle in Spark, from Parquet files to nowhere; beside the last pass's time it leaves those of the longest stage."""
    from feature_pipelines.offline.as_of_join import as_of_join
    from jobs.runs.session import open_session
    from jobs.runs.settings import SparkSettings
    from jobs.runs.task_times import stage_times, tagged

    settings = SparkSettings(
        master=f"local[{cores}]",
        remote=None,
        app_name="as-of",
        conf={"spark.driver.memory": "2g"},
        log_level="ERROR",
    )
    spark: Any = open_session(settings, home / "spark.log")

    def frame() -> Any:
        joined = spark.read.parquet(str(home / "requests.parquet"))
        for view in VIEWS:
            rows = spark.read.parquet(str(home / f"{view.name}.parquet"))
            joined = as_of_join(joined, rows, view, as_of=AS_OF, hot_key_rows=hot_key_rows)
        return joined

    def run() -> Any:
        with tagged(spark) as tag:
            joined = frame()
            joined.write.format("noop").mode("overwrite").save()
        slowest = max(
            (stage for stage in stage_times(spark, tag) if stage.read), key=lambda stage: stage.longest
        )
        (home / TASKS).write_text(json.dumps({"longest": slowest.longest, "median": slowest.median}))
        return joined

    return run, lambda joined: joined.select("n", *(f.name for f in FIELDS)).toArrow()


def shuffle_split(home: Path, cores: int) -> tuple[Pass, Callable[[Any], pa.Table]]:
    """The same with the hot key in slices by time."""
    rows = pq.read_metadata(home / "requests.parquet").num_rows
    return shuffle(home, cores, max(rows // 2 // SLICES_OF_THE_HOT_KEY, 1))


def pandas_merge_asof(home: Path, cores: int) -> tuple[Pass, Callable[[Any], pa.Table]]:
    """pandas.merge_asof, one thread; both sides sorted by time within the pass, as it demands."""
    import pandas as pd

    requests = read(home, "requests").to_pandas()
    stored = {view.name: read(home, view.name).to_pandas() for view in VIEWS}

    def run() -> Any:
        joined = requests.sort_values(AS_OF)
        for view in VIEWS:
            ((key, field),) = view.keys.items()
            right = stored[view.name].rename(columns={key: field})
            right["visible_ts"] = right[["event_ts", "created_ts"]].max(axis=1)
            right = right.sort_values(["visible_ts", "event_ts", "created_ts"]).drop(columns="created_ts")
            joined = pd.merge_asof(joined, right, left_on=AS_OF, right_on="visible_ts", by=field)
            if view.ttl_seconds is not None:
                expired = joined["event_ts"] < joined[AS_OF] - pd.Timedelta(seconds=view.ttl_seconds)
                joined.loc[expired, view.fields.names] = None
            joined = joined.drop(columns=["event_ts", "visible_ts"])
        return joined

    def to_arrow(joined: Any) -> pa.Table:
        return pa.Table.from_pandas(joined[["n", *(f.name for f in FIELDS)]], preserve_index=False)

    return run, to_arrow


def duckdb_asof_join(home: Path, cores: int) -> tuple[Pass, Callable[[Any], pa.Table]]:
    """DuckDB's ASOF JOIN over its own tables, all cores, into Arrow."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {cores}")
    for name in ("requests", *(view.name for view in VIEWS)):
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM '{home / name}.parquet'")
    joins, columns = [], ["n"]
    for view in VIEWS:
        ((key, field),) = view.keys.items()
        visible = f"(SELECT *, greatest(event_ts, created_ts) AS visible_ts FROM {view.name})"
        joins.append(
            f"ASOF LEFT JOIN {visible} AS {view.name} ON requests.{field} = {view.name}.{key} "
            f"AND requests.{AS_OF} >= {view.name}.visible_ts"
        )
        fresh = (
            f"{view.name}.event_ts >= {AS_OF} - to_seconds({view.ttl_seconds})"
            if view.ttl_seconds
            else "true"
        )
        columns += [f"CASE WHEN {fresh} THEN {view.name}.{f.name} END AS {f.name}" for f in view.fields]
    query = f"SELECT {', '.join(columns)} FROM requests {' '.join(joins)}"
    return lambda: connection.sql(query).to_arrow_table(), lambda table: table


CONTESTANTS = {
    "kernel": kernel,
    "shuffle": shuffle,
    "pandas merge_asof": pandas_merge_asof,
    "DuckDB ASOF JOIN": duckdb_asof_join,
}
WITH_A_HOT_KEY = {"kernel": kernel, HOT: shuffle, SPLIT: shuffle_split}


# --- measuring


def measure_here(name: str, home: Path, cores: int, passes: int) -> None:
    """Run a contestant in this process; write its answer and its best time."""
    run, to_arrow = (CONTESTANTS | WITH_A_HOT_KEY)[name](home, cores)
    seconds, answer = [], None
    for _ in range(passes + 1):  # the first warms up
        started = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - started)
    pq.write_table(canonical(to_arrow(answer)), home / f"answer-{slug(name)}.parquet")
    (home / f"seconds-{slug(name)}.json").write_text(json.dumps(min(seconds[1:])))


def canonical(table: pa.Table) -> pa.Table:
    """Return an answer in the order of the requests, in the form in which bits are compared: null and NaN are one."""
    table = table.sort_by("n").combine_chunks()
    columns = {"n": table["n"].combine_chunks().cast(pa.int64())}
    for field in FIELDS:
        column, errors = column_from_arrow(field, table[field.name].combine_chunks())
        if errors:
            raise SystemExit(f"{field.name}: {errors[0]}")
        columns[field.name] = column_to_arrow(field, column)
    return pa.table(columns)


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-").lower()


def is_equal(one: pa.Table, other: pa.Table) -> bool:
    """Compare by bits: NaN equals NaN, 0.0 is not -0.0."""
    return one.schema == other.schema and all(
        bits(one[name]) == bits(other[name]) for name in one.schema.names
    )


def bits(column: pa.ChunkedArray) -> Any:
    whole = column.combine_chunks()
    return whole.to_numpy().tobytes() if pa.types.is_floating(whole.type) else whole.to_pylist()


def records(rates: dict[str, float], rows: int) -> list[dict[str, Any]]:
    """Return {name, ours, peer, ratio, unit, rows} of ours against each peer."""
    pairs = [(ours, peer) for ours in OURS for peer in rates if peer not in OURS and ours in rates]
    return [entry(f"as_of/{ours} / {peer}", rates[ours], rates[peer], "rows/s", rows) for ours, peer in pairs]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000, help="requests (default: %(default)s)")
    parser.add_argument(
        "--cores", type=int, default=2, help="cores for each contestant (default: %(default)s)"
    )
    parser.add_argument(
        "--passes", type=int, default=3, help="timed passes, the best counts (default: %(default)s)"
    )
    parser.add_argument(
        "--hot-key",
        choices=["yes", "no", "only"],
        default="yes",
        help="the case of one key with half of the requests",
    )
    parser.add_argument("--only", nargs="+", choices=[*CONTESTANTS], default=[*CONTESTANTS])
    add_publish_arguments(parser)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "HOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, home = arguments.measure
        measure_here(name, Path(home), arguments.cores, arguments.passes)
        return 0
    with TemporaryDirectory(prefix="onescore-as-of-") as scratch:
        cases = [] if arguments.hot_key == "only" else [compare(Path(scratch), arguments)]
        cases += (
            [] if arguments.hot_key == "no" else [compare_with_a_hot_key(Path(scratch) / "hot", arguments)]
        )
    publish("as_of", [r for case in cases for r in case.records], "\n".join(c.text for c in cases), arguments)
    return 0 if all(case.is_equal for case in cases) else 1


def measure(name: str, home: Path, arguments: argparse.Namespace) -> float:
    """Run a contestant in a process of its own, and return the rows per second of its best pass."""
    print(f"measuring {name}", file=sys.stderr, flush=True)
    options = [f"--cores={arguments.cores}", f"--passes={arguments.passes}", "--measure", name, str(home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, __file__, *options], check=True, env=environment, timeout=3_600)
    return float(arguments.rows / json.loads((home / f"seconds-{slug(name)}.json").read_text()))


def equal_to_the_first(home: Path, names: Iterable[str]) -> dict[str, bool]:
    """Return whose answer has the bits of the first one's."""
    answers = {name: pq.read_table(home / f"answer-{slug(name)}.parquet") for name in names}
    first = next(iter(answers.values()))
    return {name: is_equal(first, answer) for name, answer in answers.items()}


class Case(NamedTuple):
    """What was measured on one set of requests: as README shows it, for bench.json, and whether all bits are equal."""

    text: str
    records: list[dict[str, Any]]
    is_equal: bool


def compare(home: Path, arguments: argparse.Namespace) -> Case:
    """Measure all."""
    make_tables(home, arguments.rows)
    rates = {name: measure(name, home, arguments) for name in arguments.only}
    equal = equal_to_the_first(home, rates)
    lines = [
        f"| {arguments.rows:,} requests, both views | rows/s | equal bits | kernel is | shuffle is |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        ratios = [f"{rates[ours] / rate:.2f}x" if ours in rates else "-" for ours in OURS]
        lines.append(f"| {name} | {rate:,.0f} | {'yes' if equal[name] else 'NO'} | {' | '.join(ratios)} |")
    return Case("\n".join(lines) + "\n", records(rates, arguments.rows), all(equal.values()))


def compare_with_a_hot_key(home: Path, arguments: argparse.Namespace) -> Case:
    """Do so where half of all requests have one key, and say how long the tasks of the slowest stage ran."""
    home.mkdir()
    make_tables(home, arguments.rows, is_hot=True)
    rates: dict[str, float] = {}
    tasks: dict[str, dict[str, float]] = {}
    for name in WITH_A_HOT_KEY:
        rates[name] = measure(name, home, arguments)
        if (home / TASKS).exists():
            tasks[name] = json.loads((home / TASKS).read_text())
            (home / TASKS).unlink()
    equal = equal_to_the_first(home, rates)
    lines = [
        f"| {arguments.rows:,} requests, half of one key | rows/s | equal bits | longest task, s | median task, s |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        seconds = [f"{tasks[name][kind]:.2f}" if name in tasks else "-" for kind in ("longest", "median")]
        lines.append(f"| {name} | {rate:,.0f} | {'yes' if equal[name] else 'NO'} | {' | '.join(seconds)} |")
    split, whole = (tasks[name]["longest"] / max(tasks[name]["median"], 0.001) for name in (SPLIT, HOT))
    name = "as_of/hot key, the longest task over the median one: split / whole"
    return Case(
        "\n".join(lines) + "\n", [entry(name, split, whole, "ratio", arguments.rows)], all(equal.values())
    )


if __name__ == "__main__":
    sys.exit(main())
