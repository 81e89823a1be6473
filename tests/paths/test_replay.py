"""History replayed online against the batch kernel: each answer has the bits of the as-of join at the request's own time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.history_arrow import history_from_arrow
from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.schema import build_column
from feature_pipelines.stores.opening import open_store
from jobs import replay_online
from jobs.online import replay as merging
from jobs.runs.command import run
from tests.toy import depots, houses
from tests.toy.bits import bits_of
from tests.toy.redis_servers import RedisServer
from tests.toy.serving import serving
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, house_rows, rate_rows
from udfs.bundle import load_bundle, write_bundle
from udfs.kernel import Kernel
from udfs.scorer import OutputSpec

UTC = pa.timestamp("us", tz="UTC")
DAY, HOUR = 86_400_000_000, 3_600_000_000
START = 1_577_836_800_000_000  # 2020-01-01T00:00Z
FROM, TO = "2020-01-10T00:00:00Z", "2020-02-20T00:00:00Z"
DIES = """
import sys
import jobs.online.replay as merging
import jobs.replay_online as job
from jobs.online.replay_store import ReplayStore
from tests.toy.dying import dying

place, n = sys.argv.pop(1), int(sys.argv.pop(1))
owner, name = {
    "filling": (ReplayStore, "_advance"), "merging": (merging, "_write"), "ending": (ReplayStore, "finish")
}[place]
setattr(owner, name, dying(getattr(owner, name), n))
sys.exit(job.run(job.main))
"""


def rates_with_ties() -> pa.Table:
    """Return the toy rates, late ones among them, and for a third of them a row of equal times and other values."""
    rates = rate_rows()
    again = rates.slice(0, 70)
    for name in ("rate_pct", "rate_pct_floor"):
        at = rates.schema.get_field_index(name)
        again = again.set_column(at, name, pa.array(again.column(name).to_numpy() * 1.25))
    return pa.concat_tables([rates, again])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with requests and rates, both in files whose rows are in no order."""
    made = Workspace(tmp_path / "home")
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    made.write("houses", house_rows(1_200, bad=[3, 500]), rows_per_file=400)
    made.write("rates", rates_with_ties(), rows_per_file=100)
    return made


@pytest.fixture
def store_url(request: pytest.FixtureRequest, place: Workspace) -> str:
    """An empty store of the kind that the test names."""
    if request.param == "sqlite":
        return f"sqlite:///{place.root}/.onescore/replay.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


def options(
    bundle: Path, *arguments: str, model: str = "houses", since: str = FROM, until: str = TO
) -> list[str]:
    return ["--model", model, "--bundle", str(bundle), "--from", since, "--to", until, *arguments]


def replay(bundle: Path, *arguments: str, **changes: str) -> int:
    return run(replay_online.main, options(bundle, *arguments, **changes))


def logs(place: Workspace) -> list[Path]:
    return sorted((place.root / ".onescore" / "replays").glob("*"))


def logged(directory: Path, model: str = "houses") -> list[dict[str, Any]]:
    files = (directory / model).glob("date=*/part-*.parquet")
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def joined(
    bundle: Path, features: FeatureSet, requests: pa.Table, view: pa.Table
) -> list[tuple[str, dict[str, str]]]:
    """Return each request's score as bits, or its error, and the statuses of its views, by the batch kernel."""
    index = {features.views[0].name: index_from_arrow(features.views[0], view)}
    scored = Kernel(load_bundle(bundle), index).score(requests.combine_chunks().to_batches()[0])
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for position, row in enumerate(scored.index.tolist()):
        statuses = {name: Status(int(codes[position])).name for name, codes in scored.statuses.items()}
        found[row] = bits_of(float(scored.outputs["score"][position])), statuses
    found |= {error.row: (str(error.code), {}) for error in scored.errors}
    return [found[i] for i in range(requests.num_rows)]


def said_by_house(directory: Path) -> dict[int, tuple[str, dict[str, str]]]:
    """Return what a log says of each request, none of which it says twice."""
    rows = logged(directory)
    found = {json.loads(dict(row["request"])["house_id"]): said(row) for row in rows}
    assert len(found) == len(rows)
    return found


def said(row: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return what a row of the log says, in the form of `joined`."""
    return (row["error_code"], {}) if row["score"] is None else (bits_of(row["score"]), dict(row["statuses"]))


def inside(requests: pa.Table, since_days: int, until_days: int) -> pa.Table:
    asked = requests.column("asked_ts").cast(pa.int64()).to_numpy()
    return requests.filter(pa.array((asked >= START + since_days * DAY) & (asked < START + until_days * DAY)))


@pytest.mark.parametrize(("interval_rows", "until_days"), [(1, 12), (37, 50), (200_000, 50)])
def test_replayed_answers_are_those_of_the_as_of_join(
    place: Workspace, bundle: Path, monkeypatch: pytest.MonkeyPatch, interval_rows: int, until_days: int
) -> None:
    window = merging.Window
    monkeypatch.setattr(replay_online, "Window", lambda *a: window(*a, interval_rows=interval_rows))
    assert replay(bundle, until="2020-01-13T00:00:00Z" if until_days == 12 else TO) == 0
    (directory,) = logs(place)
    rows = {json.loads(dict(row["request"])["house_id"]): row for row in logged(directory)}
    requests = inside(place.rows("houses"), 9, until_days)
    expected = joined(bundle, houses.FEATURES, requests, place.rows("rates"))
    ids = requests.column("house_id").to_pylist()
    assert sorted(rows) == sorted(ids)
    assert {house: said(rows[house]) for house in ids} == dict(zip(ids, expected, strict=True))
    statuses = Counter(status for _, of_row in expected for status in of_row.values())
    assert statuses["PRESENT"] > 20
    if until_days == 50:
        assert statuses["NULL"] > 10
        assert statuses["NOT_FOUND"] > 10
        assert sum(answer == "NULL_NOT_ALLOWED" for answer, _ in expected) == 2
        summary = json.loads((directory / "replay.json").read_text())
        assert summary["requests asked"] == len(ids)
        assert summary["statuses"]["rates"] == dict(statuses)
        assert summary["refused by code"] == {"NULL_NOT_ALLOWED": 2}


def test_a_feature_row_of_the_requests_own_time_comes_first(place: Workspace, bundle: Path) -> None:
    """Ten requests of ten towns a microsecond before half of the towns get a first row, late ones too, and ten at that time."""
    times = np.array([START + 10 * DAY] * 5)
    event = times - np.array([0, 0, 0, DAY, 2 * DAY])
    rates = pa.table(
        {
            "town": [f"town-{i}" for i in range(5)],
            "event_ts": pa.array(event, UTC),
            "created_ts": pa.array(times, UTC),
            "rate_pct": np.arange(5.0),
            "rate_pct_floor": np.zeros(5),
        }
    )
    asked = [START + 10 * DAY - 1] * 10 + [START + 10 * DAY] * 10
    requests = pa.table(
        {
            "house_id": np.arange(20),
            "asked_ts": pa.array(asked, UTC),
            "area_m2": np.full(20, 50.0),
            "rooms": pa.array([2] * 20),
            "town": [f"town-{i % 10}" for i in range(20)],
        }
    )
    place.write("rates", rates)
    place.write("houses", requests)
    assert replay(bundle) == 0
    (directory,) = logs(place)
    rows = sorted(logged(directory), key=lambda row: json.loads(dict(row["request"])["house_id"]))
    found = [dict(row["statuses"])["rates"] for row in rows]
    assert found == ["NOT_FOUND"] * 10 + ["PRESENT"] * 5 + ["NOT_FOUND"] * 5
    assert [said(row) for row in rows] == joined(bundle, houses.FEATURES, requests, rates)


def test_the_last_of_equal_times_is_the_one_of_the_greater_digest_whatever_the_order(
    place: Workspace, bundle: Path
) -> None:
    rates = rates_with_ties()
    scores = []
    for order in (np.arange(rates.num_rows), np.arange(rates.num_rows)[::-1]):
        place.write("rates", rates.take(pa.array(order)))
        assert replay(bundle, "--reset") == 0
        by_id = {json.loads(dict(row["request"])["house_id"]): said(row) for row in logged(logs(place)[-1])}
        scores.append(by_id)
        for directory in logs(place):
            directory.rename(directory.parent.parent / f"seen-{directory.name}")
    assert scores[0] == scores[1]


def test_first_n_requests_alone_are_asked(place: Workspace, bundle: Path) -> None:
    assert replay(bundle, "--rows", "25") == 0
    rows = logged(logs(place)[0])
    asked = sorted(inside(place.rows("houses"), 9, 50).column("asked_ts").cast(pa.int64()).to_pylist())
    times = sorted(int(row["as_of_ts"].timestamp()) * 1_000_000 for row in rows)
    assert times == asked[:25]


def test_interrupted_replay_ends_with_130(
    place: Workspace, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return write(*arguments)

    write = merging._write
    monkeypatch.setattr(merging, "_write", fails)
    assert replay(bundle) == 130
    (directory,) = logs(place)
    assert not (directory / "replay.json").exists()


@pytest.mark.parametrize(
    ("store_url", "where", "n"),
    [("sqlite", "filling", 1), ("sqlite", "merging", 9), ("redis", "merging", 9), ("sqlite", "ending", 1)],
    indirect=["store_url"],
)
def test_replay_that_was_killed_and_is_run_again_equals_a_clean_one(
    place: Workspace,
    bundle: Path,
    tmp_path: Path,
    process_env: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    store_url: str,
    where: str,
    n: int,
) -> None:
    """Killed by SIGKILL, after which nothing of the process runs; the second one logs into a directory of its own."""
    command = [sys.executable, "-c", DIES, where, str(n), *options(bundle, "--store", store_url)]
    died = subprocess.run(
        command, env={**process_env, **place.env()}, cwd=place.root, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    aborted = logs(place)
    assert not any((directory / "replay.json").exists() for directory in aborted)
    assert replay(bundle, "--store", store_url) == 0
    assert ("starting over" in capsys.readouterr().err) == (where != "filling")
    (again,) = set(logs(place)) - set(aborted)
    assert (again / "replay.json").exists()

    clean_url = f"sqlite:///{tmp_path}/clean.db"
    assert replay(bundle, "--store", clean_url, "--log", str(tmp_path / "clean")) == 0
    (clean,) = (tmp_path / "clean").iterdir()
    assert said_by_house(again) == said_by_house(clean)
    assert len(said_by_house(again)) == inside(place.rows("houses"), 9, 50).num_rows
    assert held(store_url) == held(clean_url)


def held(url: str) -> tuple[Any, Any, Any]:
    """Return a store's rows, W, and what it says W was read from."""
    keys = [(f"town-{i}",) for i in range(6)]
    with closing(open_store(url, timeout_ms=10_000)) as store:
        state = store.states([houses.RATES])["rates"]
        assert state is not None
        return store.read([(houses.RATES, keys)]), state.through_ts, state.source


def test_store_that_is_served_from_is_not_emptied(
    place: Workspace, bundle: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its URL is written otherwise: without a password, or by the other name of the machine."""
    redis_server.flush()
    with closing(open_store(redis_server.url, timeout_ms=10_000)) as store:
        write_rates(store, place.rows("rates"))
    before = held(redis_server.url)
    monkeypatch.setenv("ONESCORE_STORE_PASSWORD", "s3cret")
    production = f"store.url={redis_server.url}"
    for url in (redis_server.url, f"redis://localhost:{redis_server.port}"):
        assert replay(bundle, "--reset", "--store", url, "--set", production) == 2
    monkeypatch.delenv("ONESCORE_STORE_PASSWORD")
    assert held(redis_server.url) == before


def test_store_beyond_the_beginning_is_refused_unless_reset_and_one_before_it_is_continued(
    place: Workspace, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(bundle, until="2020-02-01T00:00:00Z") == 0
    assert replay(bundle) == 2
    assert (
        "view 'rates' is at 2020-01-31T23:59:59.999999Z, beyond --from 2020-01-10T00:00:00Z"
        in capsys.readouterr().err
    )
    assert len(logs(place)) == 1
    assert replay(bundle, since="2020-02-01T00:00:00Z") == 0
    assert replay(bundle, "--reset") == 0
    with closing(open_store(f"sqlite:///{place.root}/.onescore/replay.db")) as store:
        assert store.through([houses.RATES]) == {"rates": START + 50 * DAY - 1}
    url = f"sqlite:///{place.root}/.onescore/../.onescore/online.db"
    assert replay(bundle, "--store", url) == 2
    assert "is store.url, which is served from" in capsys.readouterr().err
    assert not (place.root / ".onescore" / "online.db").exists()


def test_dry_run_counts_and_writes_nothing(
    place: Workspace, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(bundle, "--dry-run") == 0
    n = inside(place.rows("houses"), 9, 50).num_rows
    assert f"requests                {n}" in capsys.readouterr().out
    assert not (place.root / ".onescore" / "replay.db").exists()
    assert not logs(place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "2020-01-10T00:00:00Z"], "is not after --from"),
        (["--rows", "0"], "--rows 0: expected at least 1"),
        (["--url", "ftp://here"], "--url ftp://here: expected http://host:port"),
        (["--url", "http://127.0.0.1:9"], "server http://127.0.0.1:9: ConnectionRefusedError"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    place: Workspace, bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert replay(bundle, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_running_server_gives_the_same_answers(place: Workspace, bundle: Path, tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    with serving(directory, {}, "--bundle", str(bundle)) as server:
        store = f"sqlite:///{server.store}"
        assert replay(bundle, "--url", f"http://127.0.0.1:{server.port}", "--store", store) == 0
    requests = inside(place.rows("houses"), 9, 50)
    expected = joined(bundle, houses.FEATURES, requests, place.rows("rates"))
    ids = requests.column("house_id").to_pylist()
    found = {json.loads(dict(row["request"])["house_id"]): said(row) for row in logged(server.log)}
    assert found == dict(zip(ids, expected, strict=True))
    assert not logs(place)


def test_view_with_history_whose_rows_come_late_in_several_versions(place: Workspace, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 600
    events = depots.event_rows()
    view = history_from_arrow(depots.VIEW, events)
    requests = pa.table(
        {
            "asked_ts": pa.array(depots.START + rng.integers(24, 240, n) * HOUR, UTC),
            "depot": pa.array([f"depot-{i}" for i in rng.integers(0, 4, n)], mask=rng.random(n) < 0.05),
            "lane": pa.array(rng.integers(1, 3, n)),
        }
    )
    place.write("depot_history", view, rows_per_file=300)
    place.write("depot_requests", requests)
    bundle = tmp_path / "depots"
    write_depots(bundle, rng.integers(0, 100, 100).tolist())
    assert replay(bundle, model="depots", since="2020-01-03T00:00:00Z", until="2020-01-09T00:00:00Z") == 0
    rows = logged(logs(place)[0], "depots")
    asked = inside(requests, 2, 8)
    expected = joined(bundle, depots.FEATURES, asked, view)

    def name(time: int, depot: str | None, lane: int) -> str:
        return f"{time} {depot} {lane}"

    by_name = {
        name(time, depot, lane): one
        for time, depot, lane, one in zip(
            asked.column("asked_ts").cast(pa.int64()).to_pylist(),
            asked.column("depot").to_pylist(),
            asked.column("lane").to_pylist(),
            expected,
            strict=True,
        )
    }
    found = {}
    for row in rows:
        sent = {key: json.loads(text) for key, text in row["request"]}
        found[name(sent["as_of_ts"], sent["depot"], sent["lane"])] = said(row)
    assert len(rows) == asked.num_rows
    assert found == by_name
    assert {status for _, statuses in expected for status in statuses.values()} >= {"PRESENT", "NOT_FOUND"}


def write_depots(directory: Path, parcels: list[int]) -> None:
    """Fit a model of the toy depots on parcels at random, and write its bundle."""
    n = len(parcels)
    columns = {}
    for declared in depots.FEATURES.sources:
        values: list[Any] = [None] * n
        if declared.name == "asked_ts":
            values = [START] * n
        if declared.name == "n_parcels_sum_3h":
            values = parcels
        columns[declared.name], errors = build_column(declared, values)
        assert not errors, errors
    estimator = HistGradientBoostingRegressor(max_iter=5, random_state=0)
    write_bundle(
        directory,
        name="depots",
        reference="tests.toy.depots:FEATURES",
        constants={},
        estimator=estimator.fit(np.array([parcels], float).T, np.array(parcels) * 2.0),
        output=OutputSpec("regression"),
        columns=columns,
        n_rows=n,
    )
