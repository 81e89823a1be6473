"""The prediction log: every answer once, whole files only, exact gaps after kill -9, and no prediction that fails or waits for it."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from feature_pipelines.columns import Binary, Float64, Int64, Vector
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError
from feature_pipelines.parity import differing_bits
from feature_pipelines.schema import Field, Schema
from tests.toy.house_bundle import house_wire
from tests.toy.houses import FEATURES, RATES
from tests.toy.memory_store import MemoryStore
from tests.toy.stored_rates import stored_rows
from udfs.answered import Answered, LoggedModel
from udfs.online import OnlineScorer
from udfs.platform import describe_platform
from udfs.prediction_files import Gap, gaps, read_platforms
from udfs.prediction_log import PredictionLog
from udfs.prediction_rows import SCHEMA, PiiPolicy, is_sampled
from udfs.scorer import Scorer

DAY = 86_400_000_000
EVENT = 1_577_836_800_000_000  # 2020-01-01T00:00Z
NOW = EVENT + 5 * DAY + 1
NEVER = 3_600.0
CHILD = """
import json, sys, time
from pathlib import Path
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog

log = PredictionLog(Path(sys.argv[2]), lambda: 1_578_000_000_000_000, flush_seconds=float(sys.argv[3]))
online = OnlineScorer(load_bundle(Path(sys.argv[1])), None, clock=lambda: 1_578_000_000_000_000, log=log)
rows = json.loads(sys.argv[4])
"""


class Clock:
    """Microseconds that a test moves."""

    now = NOW

    def __call__(self) -> int:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The sixth of January 2020."""
    return Clock()


@pytest.fixture
def store() -> MemoryStore:
    """A store that knows town-1."""
    store = MemoryStore()
    columns = {"rate_pct": np.array([3.0]), "rate_pct_floor": np.array([0.5])}
    store.write(RATES, [("town-1",)], stored_rows(RATES, columns, [EVENT]))
    return store


@pytest.fixture
def make_log(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., PredictionLog]]:
    """Make logs that write only when they are told to, and are closed in the end."""
    made: list[PredictionLog] = []

    def make(**settings: Any) -> PredictionLog:
        made.append(PredictionLog(tmp_path / "log", clock, **{"flush_seconds": NEVER, **settings}))
        return made[-1]

    yield make
    for log in made:
        log.close()


class Taken:
    """A log's double that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Answered] = []

    def write(self, answered: Answered) -> None:
        """Keep it."""
        self.taken.append(answered)


def rows_of(directory: Path, model: str = "houses") -> list[dict[str, Any]]:
    """Return what the log of a model holds, by process and number."""
    files = sorted((directory / model).glob("date=*/*.parquet"))
    if not files:
        return []
    table = ds.dataset(files, schema=SCHEMA).to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["process"], row["sequence"]))


def asking(i: int = 1, **changes: Any) -> dict[str, Any]:
    row = {name: value for name, value in house_wire(i + 1)[i].items() if not name.startswith("rate_")}
    return row | {"town": "town-1"} | changes


def online_with(houses: Scorer, store: MemoryStore | None, log: PredictionLog, clock: Clock) -> OnlineScorer:
    return OnlineScorer(houses, store, clock=clock, log=log, model_version="7", configuration_digest="c0ffee")


def test_every_answer_is_a_row_with_all_that_made_it(
    houses: Scorer, store: MemoryStore, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, store, log, clock)
    rows = [asking(rate_pct=9.0), asking(area_m2=-1.0), asking(as_of_ts=EVENT), 5]
    answers = online.answer(rows, with_features=True)
    log.flush()
    written = rows_of(tmp_path / "log")
    assert [row["sequence"] for row in written] == [1, 2, 3, 4]
    first, bad, past, no_object = written
    assert first["score"] == answers[0]["score"]
    assert dict(first["features"]) == answers[0]["features"]
    assert dict(first["request"]) == {name: json.dumps(value) for name, value in rows[0].items()}
    assert dict(first["statuses"]) == {"rates": "PRESENT"}
    assert first["event_ts"][0][0] == "rates"
    assert first["event_ts"][0][1].timestamp() * 1e6 == EVENT
    assert first["overrides"] == ["rate_pct"]
    assert dict(first["stored"]) == {"rate_pct": "9.0", "rate_pct_floor": "0.5"}
    assert dict(past["stored"]) == {"rate_pct": "3.0", "rate_pct_floor": "0.5"}
    assert dict(no_object["stored"]) == {"rate_pct": "null", "rate_pct_floor": "null"}
    assert (first["model"], first["model_version"]) == ("houses", "7")
    assert first["model_digest"] == houses.info["digest"]
    assert first["feature_fingerprint"] == houses.info["feature_fingerprint"]
    assert (first["configuration_digest"], first["platform_id"]) == ("c0ffee", houses.info["platform_id"])
    assert first["served_ts"].timestamp() * 1e6 == first["as_of_ts"].timestamp() * 1e6 == NOW
    assert past["as_of_ts"].timestamp() * 1e6 == EVENT
    assert min(first["lookup_us"], first["features_us"], first["model_us"]) >= 0
    assert first["lookup_us"] + first["features_us"] + first["model_us"] > 0
    assert first["request_rows"] == 4
    assert (bad["score"], bad["error_code"], bad["error_field"]) == (None, "OUT_OF_RANGE", "area_m2")
    assert bad["features"] == []
    assert (no_object["error_code"], no_object["request"]) == ("UNREADABLE_ROW", [])


def test_files_lie_by_the_day_they_were_served_and_name_what_they_hold(
    houses: Scorer, store: MemoryStore, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, store, log, clock)
    online.answer([asking(), asking()])
    clock.now += DAY
    online.answer([asking()])
    log.flush()
    names = sorted(p.relative_to(tmp_path / "log" / "houses") for p in (tmp_path / "log").rglob("*.parquet"))
    assert [name.parts[0] for name in names] == ["date=2020-01-06", "date=2020-01-07"]
    assert [name.name[-33:] for name in names] == [
        "-000000000001-000000000002.parquet"[-33:],
        "-000000000003-000000000003.parquet"[-33:],
    ]
    assert gaps(tmp_path / "log" / "houses") == []


def test_platform_is_described_once_beside_the_rows_that_name_it(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, None, log, clock)
    online.answer(house_wire(3))
    assert read_platforms(tmp_path / "log" / "houses") == {}
    log.flush()
    directory = tmp_path / "log" / "houses"
    assert read_platforms(directory) == {houses.info["platform_id"]: describe_platform()}
    (file,) = directory.glob("_platform-*")
    file.write_text('{"machine": "as it was"}')
    other = make_log()
    online_with(houses, None, other, clock).answer(house_wire(3))
    other.flush()
    assert read_platforms(directory) == {houses.info["platform_id"]: {"machine": "as it was"}}
    assert not list(directory.glob(".*.tmp"))


def test_row_whose_features_were_logged_gives_them_again_from_what_was_logged(
    houses: Scorer, store: MemoryStore, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online_with(houses, store, log, clock).answer([asking(i) for i in range(5)] + [asking(town=None)])
    log.flush()
    for row in rows_of(tmp_path / "log"):
        sent = {name: json.loads(text) for name, text in (row["request"] + row["stored"])}
        columns, errors = houses.feature_set.sources.from_rows([sent])
        assert errors == []
        scores = houses.score(columns, 1)
        assert scores.outputs["score"].tolist() == [row["score"]]
        features = [dict(row["features"])[name] for name in houses.feature_set.feature_names]
        assert not differing_bits(scores.matrix[:, 0], np.array(features)).any()


def test_thread_writes_within_flush_seconds(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log(flush_seconds=0.2)
    online_with(houses, None, log, clock).answer(house_wire(3))
    deadline = time.monotonic() + 10
    while log.metrics()["written"] < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(rows_of(tmp_path / "log")) == 3
    assert not list((tmp_path / "log").rglob(".*.tmp"))


def test_spark_reads_it(
    spark: Any,
    houses: Scorer,
    store: MemoryStore,
    make_log: Callable[..., PredictionLog],
    clock: Clock,
    tmp_path: Path,
) -> None:
    log = make_log()
    online = online_with(houses, store, log, clock)
    answers = online.answer([asking(), asking(as_of_ts=1), asking(town=None)])
    log.flush()
    frame = spark.read.parquet(str(tmp_path / "log" / "houses"))
    found = (
        frame.orderBy("sequence")
        .selectExpr(
            "score",
            "error_code",
            "statuses['rates'] AS status",
            "request['house_id'] AS id",
            "date",
            "unix_micros(event_ts['rates']) AS event_ts",
            "features['area_squared'] AS area_squared",
        )
        .collect()
    )
    assert [row.score for row in found] == [answers[0]["score"], None, answers[2]["score"]]
    assert [row.status for row in found] == ["PRESENT", "FUTURE", "NULL"]
    assert [row.event_ts for row in found] == [EVENT, EVENT, None]
    assert found[1].error_code == "AS_OF_BEFORE_STORE"
    assert {str(row.date) for row in found} == {"2020-01-06"}
    assert found[0].id == str(asking()["house_id"])
    assert found[0].area_squared == asking()["area_m2"] ** 2


# --- what is lost


@contextmanager
def child(written: Path, log: Path, program: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that serves, and logs when it is told to."""
    rows = json.dumps(house_wire(10))
    command = [sys.executable, "-c", CHILD + program, str(written), str(log), str(NEVER), rows]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        yield process


def test_kill_9_loses_only_what_was_not_flushed_and_gaps_say_what(
    written: dict[str, Path], process_env: dict[str, str], tmp_path: Path
) -> None:
    program = """
online.answer(rows)
log.flush()
online.answer(rows[:7])
print("ready", flush=True)
time.sleep(60)
"""
    with child(written["trees"], tmp_path, program, process_env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert [row["sequence"] for row in rows_of(tmp_path)] == list(range(1, 11))
    (gap,) = gaps(tmp_path / "houses")
    assert (gap.first, gap.last, gap.is_tail) == (11, 17, True)
    assert gap.process.startswith(f"{process.pid}-")


def test_process_that_ends_by_itself_loses_nothing(
    written: dict[str, Path], process_env: dict[str, str], tmp_path: Path
) -> None:
    with child(written["trees"], tmp_path, "online.answer(rows)\n", process_env) as process:
        assert process.wait(60) == 0
    assert len(rows_of(tmp_path)) == 10
    assert gaps(tmp_path / "houses") == []


def test_child_after_fork_has_a_sequence_of_its_own(
    written: dict[str, Path], process_env: dict[str, str], tmp_path: Path
) -> None:
    program = """
import os
online.answer(rows)
if os.fork() == 0:
    online.answer(rows[:4])
    log.close()
    os._exit(0)
os.wait()
"""
    with child(written["trees"], tmp_path, program, process_env) as process:
        assert process.wait(60) == 0
    by_process: dict[str, list[int]] = {}
    for row in rows_of(tmp_path):
        by_process.setdefault(row["process"], []).append(row["sequence"])
    assert sorted(by_process.values(), key=len) == [list(range(1, 5)), list(range(1, 11))]
    assert gaps(tmp_path / "houses") == []


def test_full_disk_costs_log_rows_and_no_answer(houses: Scorer, clock: Clock, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a file system of 64 KiB cannot be mounted here")
    try:
        (disk / "ballast").write_bytes(b"x" * 48 * 1024)
        log = PredictionLog(disk / "log", clock, flush_seconds=NEVER)
        online = online_with(houses, None, log, clock)
        assert all("score" in answer for answer in online.answer(house_wire(40)))
        log.flush()
        metrics = log.metrics()
        assert (metrics["failed_writes"], metrics["queued"], metrics["written"]) == (1, 40, 0)
        assert not list(disk.rglob(".*.tmp"))
        (disk / "ballast").unlink()
        log.flush()
        assert (log.metrics()["written"], log.metrics()["queued"]) == (40, 0)
        log.close()
        assert gaps(disk / "log" / "houses") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_disk_that_stays_full_drops_rows_after_some_attempts_and_counts_them(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, None, log, clock)
    online.answer(house_wire(3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for _ in range(5):
            log.flush()
        online.answer(house_wire(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.flush()
    metrics = log.metrics()
    assert (metrics["dropped"], metrics["written"], metrics["failed_writes"]) == (3, 2, 5)
    (gap,) = gaps(tmp_path / "log" / "houses")
    assert (gap.first, gap.last, gap.is_tail) == (1, 3, False)


def test_full_queue_drops_and_counts_and_the_gap_is_seen(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log(max_queue=10)
    log._flushing.acquire()  # a disk that does not answer
    online = online_with(houses, None, log, clock)
    for n in (4, 5, 3, 1):
        assert len(online.answer(house_wire(n))) == n
    assert (log.metrics()["dropped"], log.metrics()["queued"]) == (3, 10)
    log._flushing.release()
    log.flush()
    (gap,) = gaps(tmp_path / "log" / "houses")
    assert (gap.first, gap.last, gap.is_tail) == (10, 12, False)
    assert [row["sequence"] for row in rows_of(tmp_path / "log")] == [*range(1, 10), 13]


def test_images_that_wait_are_bounded_by_their_bytes(
    make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    images = LoggedModel(
        "faces", "1", "", "", "p", "", (), ("id", "face"), ("id",), frozenset(), frozenset(), binary=("face",)
    )

    def asked(*sizes: int | None) -> Answered:
        rows = [{"id": i, "face": None if size is None else "A" * size} for i, size in enumerate(sizes)]
        n = len(rows)
        return Answered(images, clock(), [0] * n, rows, [{}] * n, np.empty((0, 0)), [], {}, {}, (0, 0, 0))

    log = make_log(max_queue_bytes=1_000)
    with log._flushing:  # a disk that does not answer
        for sizes in ((400, None), (600,), (1,), (None,)):
            log.write(asked(*sizes))
        assert log.is_half_full()
        assert (log.metrics()["queued"], log.metrics()["dropped"]) == (4, 1)
    log.flush()
    assert not log.is_half_full()
    log.write(asked(1_000))
    log.flush()
    assert (log.metrics()["written"], log.metrics()["dropped"]) == (5, 1)
    (gap,) = gaps(tmp_path / "log" / "faces")
    assert (gap.first, gap.last) == (4, 4)
    lengths = [len(dict(row["request"])["face"]) - 2 for row in rows_of(tmp_path / "log", "faces")]
    assert sorted(lengths) == [2, 2, 400, 600, 1_000]  # null is 4 characters


def test_directory_that_cannot_be_made_costs_no_answer(houses: Scorer, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    log = PredictionLog(tmp_path / "file" / "log", clock, flush_seconds=NEVER)
    assert "score" in online_with(houses, None, log, clock).answer(house_wire(1))[0]
    log.flush()
    assert log.metrics()["failed_writes"] == 1
    log.close()
    assert log.metrics()["dropped"] == 1


def test_gap_at_the_front_and_between_is_named_by_process(tmp_path: Path) -> None:
    day = tmp_path / "date=2020-01-06"
    day.mkdir()
    for process, first, last in (("1-5-aa", 3, 4), ("1-5-aa", 8, 9), ("2-5-bb", 1, 2)):
        (day / f"part-{process}-{first:012d}-{last:012d}.parquet").touch()
    (tmp_path / ".sequence-2-5-bb").write_text("000000000002 1\n")
    assert gaps(tmp_path) == [Gap("1-5-aa", 1, 2, False), Gap("1-5-aa", 5, 7, False)]


def test_answer_that_cannot_be_written_holds_up_no_other(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log, taken = make_log(), Taken()
    online_with(houses, None, taken, clock).answer(house_wire(1))  # type: ignore[arg-type]
    (answered,) = taken.taken
    for one in (answered, dataclasses.replace(answered, as_of=["no time"]), answered):  # type: ignore[list-item]
        log.write(one)
    log.flush()
    assert log.metrics()["unwritable"] == 1
    assert [row["sequence"] for row in rows_of(tmp_path / "log")] == [1, 3]
    (gap,) = gaps(tmp_path / "log" / "houses")
    assert (gap.first, gap.last) == (2, 2)


def test_whatever_a_caller_sends_its_answer_is_logged(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, None, log, clock)
    loop: list[Any] = []
    loop.append(loop)  # JSON cannot write it
    row = house_wire(1)[0]
    online.answer([row | {"town": loop}, row | {"town": object()}, row | {"town": {"a": [1, (2,)]}}, row])
    online.answer([row | {"\ud800": 1}])  # half of a surrogate pair, which UTF-8 has no bytes for
    log.flush()
    assert log.metrics()["unwritable"] == 0
    written = rows_of(tmp_path / "log")
    towns = [dict(one["request"])["town"] for one in written]
    assert towns == [
        '"<list>"',
        '"<object>"',
        '{"a": [1, [2]]}',
        json.dumps(row["town"]),
        json.dumps(row["town"]),
    ]
    assert [one["error_code"] for one in written] == [*["WRONG_TYPE"] * 3, None, "UNKNOWN_FIELD"]
    assert written[4]["error_field"] == "?"


def test_log_is_of_what_was_asked_and_answered_whatever_the_caller_does_with_it(
    houses: Scorer, store: MemoryStore, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, store, log, clock)
    town = ["a", "list"]
    rows = [asking(rate_pct=9.0), asking(area_m2=-1.0), asking(town=town)]
    sent = [{name: json.dumps(value) for name, value in row.items()} for row in rows]
    answers = online.answer(rows)
    score = answers[0]["score"]
    for row in rows:
        row |= {"house_id": 999, "town": "elsewhere"}
    town.append("more")
    rows.clear()
    answers[0]["score"] = answers[0]["label"] = None
    answers[0]["overrides"].append("rate_pct_floor")
    answers[1]["error"]["code"] = "CHANGED"
    answers[2].clear()
    answers.pop()
    log.flush()
    written = rows_of(tmp_path / "log")
    assert [dict(row["request"]) for row in written] == sent
    assert (written[0]["score"], written[0]["overrides"]) == (score, ["rate_pct"])
    assert [row["error_code"] for row in written] == [None, "OUT_OF_RANGE", "WRONG_TYPE"]


def test_our_own_failure_is_a_row_of_the_log(
    houses: Scorer, store: MemoryStore, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    class Failing:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            raise MemoryError

    log = make_log()
    failing = dataclasses.replace(houses, evaluator=Failing())
    online_with(failing, store, log, clock).answer([asking(), 5])
    log.flush()
    first, second = rows_of(tmp_path / "log")
    assert (first["error_code"], second["error_code"]) == ("INTERNAL", "INTERNAL")
    assert dict(first["request"])["house_id"] == str(asking()["house_id"])
    assert (first["features"], first["statuses"], first["score"]) == ([], [], None)
    assert first["as_of_ts"] == first["served_ts"]
    assert (first["model_version"], first["request_rows"]) == ("7", 2)
    assert gaps(tmp_path / "log" / "houses") == []


# --- personal data and sampling


def model(**changes: Any) -> LoggedModel:
    facts: dict[str, Any] = {
        "name": "m",
        "version": "",
        "digest": "",
        "fingerprint": "",
        "platform_id": "",
        "configuration_digest": "",
        "feature_names": ("age", "rooms"),
        "fields": ("id", "birthday", "rooms"),
        "row_id": ("id",),
        "pii_fields": frozenset({"birthday"}),
        "pii_features": frozenset({"age"}),
    }
    return LoggedModel(**facts | changes)


ROW = {"id": 1, "birthday": "1970-01-01", "rooms": 3, "unknown": "never written", "as_of_ts": 5}


def test_personal_data_is_dropped_unless_told_otherwise() -> None:
    pii = PiiPolicy()
    assert dict(pii.request(model(), ROW)) == {"id": "1", "rooms": "3", "as_of_ts": "5"}
    assert pii.features(model(), [50.0, 3.0]) == [("rooms", 3.0)]


def test_personal_data_is_hashed_under_a_key_so_that_equal_values_stay_equal() -> None:
    one, other = (PiiPolicy("hash", key) for key in (b"key", b"another key"))
    hashed = dict(one.request(model(), ROW))["birthday"]
    assert len(hashed) == 64
    assert dict(one.request(model(), ROW | {"id": 2}))["birthday"] == hashed
    assert dict(other.request(model(), ROW))["birthday"] != hashed
    assert one.features(model(), [50.0, 3.0]) == [("rooms", 3.0)]


def test_personal_data_is_kept_where_it_is_said() -> None:
    pii = PiiPolicy("keep")
    assert dict(pii.request(model(), ROW))["birthday"] == '"1970-01-01"'
    assert pii.features(model(), [50.0, 3.0]) == [("age", 50.0), ("rooms", 3.0)]


def test_features_computed_from_personal_data_are_personal_data(houses: Scorer) -> None:
    tagged = dataclasses.replace(RATES.fields["rate_pct"], tags=("pii",))
    view = dataclasses.replace(RATES, fields=Schema((tagged, RATES.fields["rate_pct_floor"])))
    scorer = dataclasses.replace(houses, feature_set=dataclasses.replace(FEATURES, views=(view,)))
    facts = LoggedModel.of(scorer, None, "")
    assert (facts.pii_fields, facts.pii_features) == ({"rate_pct"}, {"rate_pct_gap"})


def test_each_value_of_a_vector_computed_from_personal_data_is_personal_data(houses: Scorer) -> None:
    def outline(face: Binary) -> Vector[Float64, 2]:
        raise NotImplementedError

    feature_set = FeatureSet("faces", Schema((Field("face", Binary, tags=("pii",)),)), (outline,))
    facts = LoggedModel.of(dataclasses.replace(houses, feature_set=feature_set), None, "")
    assert facts.pii_features == {"outline_0", "outline_1"}


def test_stored_fields_are_personal_data_too() -> None:
    declared = (Field("birthday", Int64), Field("rooms", Float64))
    columns = {"birthday": np.array([7, 7, 2**60]), "rooms": np.array([0.1, np.nan, np.inf])}
    facts = model(stored=declared)
    rooms = [[("rooms", "0.1")], [("rooms", '"Infinity"')]]
    assert PiiPolicy().stored(facts, columns, [0, 2]) == rooms
    kept = PiiPolicy("keep").stored(facts, columns, [0, 1, 2])
    assert [of_row[0][1] for of_row in kept] == ["7", "7", f'"{2**60}"']
    assert kept[1][1] == ("rooms", "null")
    hashed = [
        dict(of_row)["birthday"] for of_row in PiiPolicy("hash", b"k").stored(facts, columns, [0, 1, 2])
    ]
    assert hashed[0] == hashed[1] == dict(PiiPolicy("hash", b"k").request(facts, {"birthday": 7}))["birthday"]
    assert hashed[2] != hashed[0]


@pytest.mark.parametrize(("policy", "key", "match"), [("hash", None, "no key"), ("blur", b"k", "'blur'")])
def test_policy_that_makes_no_sense_is_refused(policy: str, key: bytes | None, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        PiiPolicy(policy, key)


@pytest.mark.parametrize(
    "settings", [{"flush_seconds": 0}, {"sample_share": 1.5}, {"max_queue": 0}, {"max_queue_bytes": 0}]
)
def test_setting_out_of_its_bounds_is_refused(settings: dict[str, Any], clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sample_share"):
        PredictionLog(tmp_path, clock, **settings)


def test_sampling_takes_about_its_share_always_the_same_rows_and_more_of_a_larger_share() -> None:
    rows = [{"id": i, "rooms": i % 3} for i in range(4_000)]
    chosen = {share: {r["id"] for r in rows if is_sampled(model(), r, share)} for share in (0, 0.1, 0.3, 1)}
    assert (len(chosen[0]), len(chosen[1])) == (0, 4_000)
    assert 300 < len(chosen[0.1]) < 500
    assert chosen[0.1] < chosen[0.3]
    assert all(is_sampled(model(), {"id": i, "rooms": 9}, 0.1) for i in chosen[0.1])  # by the id alone


def test_rows_not_sampled_are_no_gap(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log(sample_share=0.5)
    online_with(houses, None, log, clock).answer(house_wire(100))
    log.flush()
    found = rows_of(tmp_path / "log")
    assert 25 < len(found) < 75
    assert [row["sequence"] for row in found] == list(range(1, len(found) + 1))
    assert gaps(tmp_path / "log" / "houses") == []


def test_schema_of_the_files_is_the_declared_one(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online_with(houses, None, log, clock).answer(house_wire(1))
    log.flush()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    assert pq.read_schema(path).equals(SCHEMA)


def test_log_that_drains_writes_every_answer_at_once(
    houses: Scorer, make_log: Callable[..., PredictionLog], clock: Clock, tmp_path: Path
) -> None:
    log = make_log()
    online = online_with(houses, None, log, clock)
    online.answer(house_wire(2))
    log.drain()
    assert len(rows_of(tmp_path / "log")) == 2
    online.answer(house_wire(1))
    assert len(rows_of(tmp_path / "log")) == 3
