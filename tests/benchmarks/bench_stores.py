"""Measure the online stores against Feast's SDK on SQLite, and Redis against its own client's MGET, on the same data.

    python -m tests.benchmarks.bench_stores

Materialise: one view, a row for each of many entities, from a table into an empty SQLite store; whole calls of both. Reads: all
views of the flights, of one request and of a hundred, as of one moment (`flights_store.NOW`); Feast is given the rows that were
visible then, and returns a dictionary. Ours is measured three times: "store alone" is the read, from keys to stored rows; "look-up" is
what Feast's call does, from keys to typed values, with the as-of rule, statuses and missing keys besides; "request" is that and
reading the request's ten fields by the contract, all that the served model does before its features. What both find must be
equal. A ratio above 1: ours is better.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "peers")]

import numpy as np  # noqa: E402 - after the path is set
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from deltalake import write_deltalake  # noqa: E402
from passes import median_seconds  # noqa: E402
from peer_venv import feast_python  # noqa: E402
from redis import Redis  # noqa: E402

from feature_pipelines.columns import values_and_valid  # noqa: E402
from feature_pipelines.features.flight_history import PLANE_HISTORY  # noqa: E402
from feature_pipelines.features.flights import FEATURES  # noqa: E402
from feature_pipelines.lookup import Status  # noqa: E402
from feature_pipelines.online_lookup import Assembled, assemble, plan  # noqa: E402
from feature_pipelines.request_rows import RequestReader, Requests  # noqa: E402
from feature_pipelines.stores.base import OnlineStore  # noqa: E402
from feature_pipelines.stores.encoding import key_texts  # noqa: E402
from feature_pipelines.stores.opening import open_store  # noqa: E402
from jobs.runs.conf import Conf  # noqa: E402
from jobs.runs.session import spark_session  # noqa: E402
from jobs.tables.resample import read_all  # noqa: E402
from jobs.tables.snapshot import pin_snapshot  # noqa: E402
from tests.benchmarks.flights_store import NOW, fill, fill_view, requests_of  # noqa: E402
from tests.benchmarks.publish import add_publish_arguments, entry, publish, table  # noqa: E402
from tests.benchmarks.workload import QUICK_ROWS, conf_of, make_workload  # noqa: E402
from tests.toy.redis_servers import redis_server  # noqa: E402

ENTITIES = 100_000
N_MANY = 100
END = 1_420_070_400_000_000
"""2015-01-01, when every row is visible."""
READER = RequestReader(FEATURES)
REPEAT = ((1, 1_000), (N_MANY, 100))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--entities", type=int, default=ENTITIES, help="to materialise (default: %(default)s)"
    )
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onescore-stores-") as scratch:
        records = measure_all(arguments.home.resolve(), Path(scratch), arguments.entities)
    publish("stores", records, table(records), arguments)
    return 0


def measure_all(home: Path, scratch: Path, entities: int) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}.

    Raises:
        SystemExit: Feast and we do not find the same.
    """
    make_workload(home, QUICK_ROWS, 2)
    conf = conf_of(home, f"views.{PLANE_HISTORY.name}={scratch}/many")
    _write_many(home, scratch, entities)
    requests = requests_of(home, N_MANY)
    peer = _feast(home, scratch, requests)
    with spark_session(conf.spark, scratch / "spark.log") as spark:
        materialised = _materialise(spark, conf, scratch)
        urls = {"sqlite": f"sqlite:///{scratch}/all.db"}
        with redis_server(scratch) as server:
            urls["redis"] = server.url
            for url in urls.values():
                fill(spark, conf_of(home), url)
            sqlite, redis = (open_store(url, timeout_ms=5_000) for url in urls.values())
            _require_equal(ask(sqlite, requests), peer["answers"])
            found = {n: _reads(sqlite, requests[:n], repeat) for n, repeat in REPEAT}
            raw = Redis.from_url(server.url)
            pairs = {n: _round_trips(redis, raw, requests[:n]) for n in (1, N_MANY)}
    name = f"stores/materialise {entities:,} entities, SQLite"
    records = [entry(name, entities / materialised, entities / peer["materialise"], "rows/s", entities)]
    for n, key in ((1, "one"), (N_MANY, "hundred")):
        for what, seconds in found[n].items():
            title = f"stores/{n} request(s), all views, SQLite: {what}"
            records.append(entry(title, seconds * 1e3, peer[key] * 1e3, "ms", n))
    for n, (ours, raw_seconds) in pairs.items():
        title = f"stores/{n} request(s), all views, Redis against MGET: store alone"
        records.append(entry(title, ours * 1e3, raw_seconds * 1e3, "ms", n))
    return records


def ask(store: OnlineStore, requests: Sequence[Mapping[str, Any]]) -> Assembled:
    """Return the stored features of requests, as the served model does."""
    return _look_up(store, READER.read(requests))


def _look_up(store: OnlineStore, read: Requests) -> Assembled:
    planned = plan(FEATURES, read, has_store=True)
    return assemble(planned, store.read(planned.wanted()), [NOW] * len(read.rows))


def _reads(store: OnlineStore, requests: Sequence[Mapping[str, Any]], repeat: int) -> dict[str, float]:
    """Return the median seconds of a read, and of what stands around it."""
    read = READER.read(requests)
    wanted = plan(FEATURES, read, has_store=True).wanted()
    calls: dict[str, Callable[[], Any]] = {
        "store alone": lambda: store.read(wanted),
        "look-up": lambda: _look_up(store, read),
        "request": lambda: ask(store, requests),
    }
    return {what: median_seconds(call, repeat) for what, call in calls.items()}


def _round_trips(store: OnlineStore, raw: Any, requests: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the median seconds of a read of our store and of one MGET of the same keys by the plain client."""
    wanted = plan(FEATURES, READER.read(requests), has_store=True).wanted()
    names = [f"raw:{text}" for view, keys in wanted for text in key_texts(view, keys)]
    rows = store.read(wanted)
    payloads = [row.payload if row else b"" for part in rows for row in part]
    raw.mset(dict(zip(names, payloads, strict=True)))
    return median_seconds(lambda: store.read(wanted), 2_000), median_seconds(lambda: raw.mget(names), 2_000)


def _write_many(home: Path, scratch: Path, entities: int) -> None:
    """Write a row of PLANE_HISTORY for each of many entities: real rows, each under a key of its own."""
    conf = conf_of(home)
    real = read_all(pin_snapshot(conf.table_location(conf.views[PLANE_HISTORY.name])))
    drawn = real.take(pa.array(np.random.default_rng(0).integers(0, real.num_rows, entities)))
    (key,) = PLANE_HISTORY.keys
    named = pa.array([f"N{i:06d}" for i in range(entities)])
    drawn = drawn.set_column(drawn.schema.get_field_index(key), key, named)
    write_deltalake(str(scratch / "many"), drawn)
    pq.write_table(_for_feast(PLANE_HISTORY, drawn), scratch / "many.parquet")


def _for_feast(view: Any, rows: pa.Table) -> pa.Table:
    """Return a view's table with its keys named as requests name them, without what is ours alone."""
    names = [*view.keys, "event_ts", "created_ts", *view.fields.names]
    return rows.select(names).rename_columns([view.keys.get(name, name) for name in names])


def _materialise(spark: Any, conf: Conf, scratch: Path) -> float:
    """Return the better of two materialisations into a new store."""
    seconds = []
    for number in range(2):
        url = f"sqlite:///{scratch}/many-{number}.db"
        seconds.append(fill_view(spark, conf, url, PLANE_HISTORY, END))
    return min(seconds)


def _feast(home: Path, scratch: Path, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the peer measured and found."""
    views = []
    for view in FEATURES.views:
        path = scratch / f"{view.name}.parquet"
        stored = pq.read_table(home / "views" / f"{view.name}.parquet")
        seen = [pc.less_equal(stored[name].cast(pa.int64()), NOW) for name in ("event_ts", "created_ts")]
        pq.write_table(_for_feast(view, stored.filter(pc.and_(*seen))), path)
        views.append(_described(view, path))
    keys = list(dict.fromkeys(key for view in FEATURES.views for key in view.keys.values()))
    job = {
        "home": str(scratch / "feast"),
        "many": _described(PLANE_HISTORY, scratch / "many.parquet"),
        "views": views,
        "keys": keys,
        "requests": requests,
        "report": str(scratch / "feast.json"),
    }
    (scratch / "job.json").write_text(json.dumps(job))
    shutil.rmtree(scratch / "feast", ignore_errors=True)
    command = [feast_python(), str(HERE / "peers" / "feast_store.py"), str(scratch / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3_600)
    if done.returncode:
        raise SystemExit(f"feast failed:\n{done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads((scratch / "feast.json").read_text())
    return found


def _described(view: Any, path: Path) -> dict[str, Any]:
    fields = [[field.name, field.dtype.kind] for field in view.fields]
    return {"name": view.name, "keys": list(view.keys.values()), "path": str(path), "fields": fields}


def _require_equal(ours: Assembled, peer: Mapping[str, list[Any]]) -> None:
    """Refuse to compare stores that find different values; what has expired by our rule is not compared."""
    compared = 0
    for view in FEATURES.views:
        for field in view.fields:
            values, valid = values_and_valid(ours.columns[field.name])
            for i, (value, theirs) in enumerate(zip(values.tolist(), peer[field.name], strict=True)):
                if ours.statuses[view.name][i] != Status.PRESENT:
                    continue
                is_null = (valid is not None and not valid[i]) or _is_nan(value)
                if (None if is_null else value) != (None if _is_nan(theirs) else theirs):
                    raise SystemExit(f"{field.name} of request {i}: we find {value}, feast {theirs}")
                compared += 1
    if compared < N_MANY:
        raise SystemExit(f"only {compared} values could be compared")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


if __name__ == "__main__":
    sys.exit(main())
