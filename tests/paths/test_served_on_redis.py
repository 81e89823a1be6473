"""A model served from Redis: the bits of SQLite's answers, and what a client gets while Redis is empty, hangs, or has lost everything."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest

from feature_pipelines.columns import Float64
from feature_pipelines.schema import Field, Schema
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs import materialize_features
from jobs.runs.command import run
from tests.toy.bits import bits_of
from tests.toy.houses import FEATURES, RATES
from tests.toy.processes import free_port, wait_until
from tests.toy.redis_servers import RedisServer, redis_server
from tests.toy.serving import Serving, asking, serving, write_store
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, rate_rows
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer

N = 40
TIMEOUT_MS = 250
SLACK = 1.0


@pytest.fixture
def port() -> int:
    """Where Redis is, also after it was started again."""
    return free_port()


@pytest.fixture
def served(bundle: Path, process_env: dict[str, str], tmp_path: Path, port: int) -> Iterator[Serving]:
    """A lean server whose store is a Redis that may not be there yet."""
    directory = tmp_path / "served"
    directory.mkdir()
    settings = (f"store.url=redis://127.0.0.1:{port}/0", f"store.timeout_ms={TIMEOUT_MS}")
    with serving(directory, process_env, "--bundle", str(bundle), settings=settings) as running:
        yield running


@pytest.fixture
def rows(bundle: Path, tmp_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Requests, and their answers from a SQLite file."""
    through = write_store(tmp_path / "online.db")
    asked = asking(N, through)
    with closing(open_store(f"sqlite:///{tmp_path}/online.db", timeout_ms=10_000)) as store:
        answers = OnlineScorer(load_bundle(bundle), store, clock=lambda: through).answer(asked)
    assert {a["views"]["rates"]["status"] for a in answers} >= {"PRESENT", "NOT_FOUND", "NULL"}
    return asked, answers


def codes(answers: list[dict[str, Any]]) -> set[str]:
    """Return the codes of the errors; "" stands for a score."""
    return {answer.get("error", {}).get("code", "") for answer in answers}


def unready(served: Serving, check: str) -> dict[str, Any]:
    """Wait until /ready says that a check fails, and return it; liveness is as before."""
    wait_until(lambda: not served.ready()["checks"][check]["ok"], f"/ready to say that {check} fails", 15)
    assert served.call("GET", "/ready")[0] == 503
    assert served.call("GET", "/health")[0] == 200
    found: dict[str, Any] = served.ready()["checks"][check]
    return found


def ready(served: Serving) -> None:
    wait_until(lambda: served.ready()["ready"], "/ready to say that all is well", 15)
    assert served.call("GET", "/ready")[0] == 200


def refused(answers: list[dict[str, Any]], asked: list[dict[str, Any]], what: str) -> None:
    """See that every row that needs the store is refused retryable, and says nothing of where the store is."""
    for row, answer in zip(asked, answers, strict=True):
        if row["town"] is None:
            assert "score" in answer
            continue
        error = answer["error"]
        assert (error["code"], error["field"], error["retryable"]) == ("STORE_UNAVAILABLE", "rates", True)
        assert what in error["message"]
        assert "127.0.0.1" not in error["message"]


def materialise(url: str, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill a store as the job does."""
    for name, value in place.env().items():
        monkeypatch.setenv(name, value)
    assert run(materialize_features.main, ["--model", "houses", "--set", f"store.url={url}"]) == 0


def test_lean_server_on_redis_through_all_that_befalls_it(
    served: Serving,
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    port: int,
    tmp_path: Path,
    spark: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is never started again, and at no time does a client get a default for a row that was there."""
    asked, expected = rows
    place = Workspace(tmp_path / "home")
    place.write("rates", rate_rows())
    refused(served.predictions({"inputs": asked}), asked, "did not answer")
    unready(served, "store")

    with redis_server(tmp_path, port=port) as redis:
        refused(served.predictions({"inputs": asked}), asked, "never materialised")
        wait_until(lambda: served.ready()["checks"]["store"]["ok"], "the store answers", 15)
        assert unready(served, "views")["never_materialised"] == ["rates"]

        materialise(redis.url, place, monkeypatch)
        assert served.predictions({"inputs": asked}) == expected
        assert [served.predictions({"inputs": [row]})[0] for row in asked[:5]] == expected[:5]
        ready(served)

        with redis.stopped():
            begun = time.perf_counter()
            answers = served.predictions({"inputs": asked})
            assert time.perf_counter() - begun < TIMEOUT_MS / 1000 + SLACK
            refused(answers, asked, "did not answer")
            unready(served, "store")
        assert served.predictions({"inputs": asked}) == expected
        ready(served)
        redis.kill()
        refused(served.predictions({"inputs": asked}), asked, "did not answer")

    with redis_server(tmp_path, port=port) as redis:  # without persistence, so it is empty
        for _ in range(5):
            refused(served.predictions({"inputs": asked}), asked, "never materialised")
        assert unready(served, "views")["never_materialised"] == ["rates"]
        materialise(redis.url, place, monkeypatch)
        assert served.predictions({"inputs": asked}) == expected
        ready(served)
        assert served.process.poll() is None
        said = served.output.read_text()
        assert f"redis://127.0.0.1:{port}/0" in said, "the log says which store it is"
        assert "never materialised" in said


def test_view_whose_policy_is_defaults_gets_them_named_while_redis_is_away(
    bundle: Path, tmp_path: Path
) -> None:
    view = dataclasses.replace(RATES, unavailable="missing", missing="defaults", defaults={"rate_pct": 2.5})
    scorer = load_bundle(bundle)
    features = dataclasses.replace(FEATURES, views=(view,))
    with redis_server(tmp_path) as redis, closing(open_store(redis.url, timeout_ms=TIMEOUT_MS)) as store:
        through = write_rates(store, rate_rows())
        online = OnlineScorer(dataclasses.replace(scorer, feature_set=features), store, clock=lambda: through)
        row = asking(1, through)[0] | {"town": "town-1"}
        (well,) = online.answer([row])
        assert well["views"]["rates"]["status"] in ("PRESENT", "EXPIRED")
        (default,) = online.answer([row | {"rate_pct": 2.5, "rate_pct_floor": None}])
        with redis.stopped():
            hung = online.answer([row])
        redis.flush()
        for (answer,) in (hung, online.answer([row])):
            assert answer["views"]["rates"] == {"status": "UNAVAILABLE", "event_ts": None}
            assert bits_of(answer["score"]) == bits_of(default["score"])


def test_one_torn_value_in_redis_refuses_its_row_alone(
    bundle: Path, redis_server: RedisServer, rows: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    from redis import Redis

    asked, expected = rows
    redis_server.flush()
    with closing(open_store(redis_server.url, timeout_ms=10_000)) as store:
        through = write_rates(store, rate_rows())
        online = OnlineScorer(load_bundle(bundle), store, clock=lambda: through)
        assert online.answer(asked) == expected
        with Redis(port=redis_server.port) as client:
            name = 'onescore:row:"rates":{["town-1"]}'
            held = client.get(name)
            assert isinstance(held, bytes)
            client.set(name, held[:-3])
        for row, answer, before in zip(asked, online.answer(asked), expected, strict=True):
            if row["town"] == "town-1":
                assert answer["error"]["code"] == "STORED_VALUE_UNREADABLE"
            else:
                assert answer == before
        assert "STORED_VALUE_UNREADABLE" in codes(online.answer(asked))


def test_model_of_before_a_schema_change_is_refused_by_name_and_never_served_the_new_columns(
    bundle: Path, redis_server: RedisServer, rows: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    """The store holds a view once: under one name a challenger's schema turns the champion away; a second name leaves both."""
    asked, expected = rows
    changed = FeatureView(
        "rates", RATES.keys, Schema((Field("rate_pct_floor", Float64), Field("rate_pct", Float64)))
    )
    redis_server.flush()
    with closing(open_store(redis_server.url, timeout_ms=10_000)) as store:
        through = write_rates(store, rate_rows())
        online = OnlineScorer(load_bundle(bundle), store, clock=lambda: through)
        store.reset(dataclasses.replace(changed, name="rates_v2"))
        assert online.answer(asked) == expected
        store.reset(changed)
        store.advance(changed, through)
        for row, answer in zip(asked, online.answer(asked), strict=True):
            if row["town"] is not None:
                assert (answer["error"]["code"], answer["error"]["retryable"]) == ("STORE_UNAVAILABLE", False)
                assert changed.schema_digest() in answer["error"]["message"]
        store.reset(RATES)
        write_rates(store, rate_rows())
        assert online.answer(asked) == expected, "roll back: the model of before, and a rebuild for it"


def test_logged_model_reads_redis_with_the_same_bits(
    trained_workspace: Workspace, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (described,) = (trained_workspace.root / ".onescore").rglob("MLmodel")
    redis_server.flush()
    with closing(open_store(redis_server.url, timeout_ms=10_000)) as store:
        through = write_rates(store, rate_rows())
    write_store(tmp_path / "online.db")
    asked = asking(N, through)
    answers = []
    for url in (f"sqlite:///{tmp_path}/online.db", redis_server.url):
        monkeypatch.setenv("ONESCORE_STORE_URL", url)
        answers.append(mlflow.pyfunc.load_model(str(described.parent)).predict(asked))
    assert answers[0] == answers[1]
    assert {a["views"]["rates"]["status"] for a in answers[1]} >= {"PRESENT", "NOT_FOUND"}
    redis_server.flush()
    assert codes(mlflow.pyfunc.load_model(str(described.parent)).predict(asked)) == {"STORE_UNAVAILABLE", ""}
