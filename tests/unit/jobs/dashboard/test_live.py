"""The dashboard as it follows a log: each row once, the same after a restart, whatever becomes of files meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dashboard import follower
from jobs.dashboard.live import Live
from jobs.dashboard.opening import open_live
from jobs.runs.conf import load
from tests.toy.answered_rows import MINUTE, NOW, answered, mixed_rows, write_rows
from tests.toy.houses import FEATURES
from tests.toy.workspace import Workspace
from tests.unit.jobs.reports.skew_samples import bad
from udfs.answered import Answered, LoggedModel
from udfs.prediction_log import PredictionLog


def live_of(directory: Path, now: int = NOW, *overrides: str) -> Live:
    settings = [f"skew.directory={directory}/skew", "dashboard.overdue_seconds=0.001", *overrides]
    return open_live(load(overrides=settings), directory / "log", lambda: FEATURES, clock=lambda: now)


def shown(live: Live, model: str | None = None, seconds: int = 3_600, *, polls: int = 1) -> dict[str, Any]:
    for _ in range(polls):
        live.poll()
    found: dict[str, Any] = json.loads(live.snapshot(model, seconds, with_answers=True)[1])
    return found


def write_mixed(directory: Path, kind: str, files: int = 6) -> list[dict[str, Any]]:
    rows = [row | {"process": "1-1-aa"} for row in mixed_rows(300, kind)]
    for i in range(files):
        write_rows(directory / "log", rows[i * 300 // files : (i + 1) * 300 // files])
    return rows


def test_started_anew_it_shows_the_same(tmp_path: Path) -> None:
    write_mixed(tmp_path, "two")
    first = live_of(tmp_path)
    before = shown(first)
    write_rows(tmp_path / "log", [answered(i, NOW - MINUTE) for i in range(301, 311)])
    grown = shown(first)
    assert grown["totals"]["rows"] == before["totals"]["rows"] + 10
    again = shown(live_of(tmp_path))
    for found in (grown, again):
        found["scores"]["mean"] = round(found["scores"]["mean"], 9)
        found["series"]["score_mean"] = [v and round(v, 9) for v in found["series"]["score_mean"]]
        for alert in found["alerts"]:
            del alert["since_ts"]
    assert again == grown


def test_after_a_start_the_newest_files_are_read_first_and_rules_wait_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_FILES_AT_ONCE", 2)
    write_mixed(tmp_path, "two")
    live = live_of(tmp_path, NOW, "dashboard.alerts.few=rows_per_second < 1000 over 1h")
    first = shown(live, seconds=300)
    assert (first["follows"]["is_rebuilt"], first["follows"]["files_waiting"]) == (False, 4)
    assert first["alerts"] == []
    last = shown(live, seconds=300, polls=2)
    assert (last["follows"]["is_rebuilt"], last["follows"]["files_waiting"]) == (True, 0)
    assert last["totals"] == first["totals"]
    assert "firing" in [alert["state"] for alert in last["alerts"] if alert["name"] == "few"]


def test_retention_and_broken_files_cost_nothing_but_their_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    live = live_of(tmp_path)
    assert shown(live)["follows"]["is_there"] is False
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE)])
    path = write_rows(tmp_path / "log", [answered(2, NOW - MINUTE)])
    path.with_name("part-1-1-aa-000000000003-000000000003.parquet").write_bytes(b"PAR1 half of it")
    other = path.with_name("part-1-1-aa-000000000004-000000000004.parquet")
    pq.write_table(pa.table({"x": [1]}), other)
    found = shown(live, polls=2)
    assert (found["totals"]["rows"], found["log"]["unreadable_files"]) == (2, 2)
    assert len(caplog.records) == 2
    shutil.rmtree(tmp_path / "log" / "toy")
    assert shown(live)["totals"]["rows"] == 2
    shutil.rmtree(tmp_path / "log")
    assert shown(live)["follows"]["is_there"] is False


def test_a_file_that_the_disk_does_not_give_is_read_later_and_counted_as_unreadable_only_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE)])
    live, failures = live_of(tmp_path), [OSError(5, "Input/output error")] * 2
    real = pq.ParquetFile

    def opened(path: Path) -> Any:
        if failures:
            raise failures.pop()
        return real(path)

    monkeypatch.setattr(follower.pq, "ParquetFile", opened)
    found = shown(live)
    assert found["models"] == ["toy"]
    assert (found["totals"]["rows"], found["log"]["unreadable_files"]) == (0, 1)
    found = shown(live, polls=8)
    assert (found["totals"]["rows"], found["log"]["unreadable_files"]) == (1, 0)
    assert len(caplog.records) == 1
    assert shown(live, polls=20)["totals"]["rows"] == 1


def test_a_file_that_the_disk_never_gives_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE)])
    live, asked = live_of(tmp_path), []

    def opened(path: Path) -> Any:
        asked.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(follower.pq, "ParquetFile", opened)
    monkeypatch.setattr(follower, "_MOST_TRIES", 3)
    found = shown(live, polls=40)
    assert (len(asked), found["log"]["unreadable_files"]) == (3, 1)


def test_a_disk_that_was_away_is_not_counted_twice(tmp_path: Path) -> None:
    write_mixed(tmp_path, "two")
    live = live_of(tmp_path)
    before = shown(live)["totals"]
    (tmp_path / "log").rename(tmp_path / "away")
    shown(live)
    (tmp_path / "away").rename(tmp_path / "log")
    assert shown(live)["totals"] == before


def test_only_days_that_a_window_reaches_are_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    day = tmp_path / "log" / "toy" / "date=2026-11-20"
    day.mkdir(parents=True)
    (day / "part-1-1-aa-000000000001-000000000001.parquet").write_bytes(b"never opened")
    write_rows(tmp_path / "log", [answered(2, NOW - 23 * 60 * MINUTE)])
    found = shown(live_of(tmp_path), seconds=86_400)
    assert (found["totals"]["rows"], caplog.records) == (1, [])


def test_lost_rows_are_those_of_the_logs_own_account(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "log", lambda: NOW, flush_seconds=3_600)
    model = LoggedModel("toy", "1", "d", "f", "p", "c", (), ("id",), ("id",), frozenset(), frozenset())

    def answer(n: int) -> None:
        rows, answers = [{"id": i} for i in range(n)], [{"score": 1.0}] * n
        log.write(
            Answered(model, NOW, [NOW] * n, rows, answers, np.zeros((0, n)), range(n), {}, {}, (1, 2, 3))
        )

    answer(5)
    log.flush()
    live = live_of(tmp_path, NOW, "dashboard.overdue_seconds=1000")
    assert (shown(live)["log"]["lost_rows"], shown(live)["log"]["queued_rows"]) == (0, 0)
    answer(3)  # numbered, and still in memory
    found = shown(live, polls=5)
    assert (found["totals"]["rows"], found["log"]["lost_rows"], found["log"]["queued_rows"]) == (5, 0, 3)
    lost = shown(live_of(tmp_path), polls=11)  # with no patience
    assert (lost["log"]["lost_rows"], lost["log"]["queued_rows"]) == (3, 0)
    assert [alert["state"] for alert in lost["alerts"] if alert["name"] == "lost"] == ["firing"]
    log.close()
    assert shown(live, polls=5)["log"]["lost_rows"] == 0


def test_skew_is_the_newest_reports_word(tmp_path: Path) -> None:
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE)])
    live = live_of(tmp_path)
    assert shown(live)["skew"] is None
    for name, made in (("20260101T000000000000Z", bad()), (".20260103T000000000000Z", bad())):
        directory = tmp_path / "skew" / "toy" / name
        directory.mkdir(parents=True)
        (directory / "report.json").write_text(json.dumps(made.to_json()))
    found = shown(live)["skew"]
    assert found["report"] == "20260101T000000000000Z"
    assert found["rows_differing"] == bad().rows_differing > 0
    assert "differ" in found["headline"]
    broken = tmp_path / "skew" / "toy" / "20260102T000000000000Z"
    broken.mkdir()
    (broken / "report.json").write_text("{}")
    assert shown(live)["skew"] is None


def test_models_are_told_apart_and_the_one_that_answered_last_is_shown_first(tmp_path: Path) -> None:
    write_rows(tmp_path / "log", [answered(1, NOW - 2 * MINUTE)], "one")
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE), answered(2, NOW - MINUTE)], "two%2Fx")
    live = live_of(tmp_path)
    found = shown(live)
    assert (found["models"], found["model"], found["totals"]["rows"]) == (["two/x", "one"], "two/x", 2)
    assert shown(live, "one")["totals"]["rows"] == 1
    assert shown(live, "unknown")["model"] == "two/x"


def test_fields_are_shown_of_the_configured_model_alone(tmp_path: Path) -> None:
    row = answered(1, NOW - MINUTE, request={"house_id": "7", "area_m2": "82.5"})
    for model in ("houses", "other"):
        write_rows(tmp_path / "log", [row], model)
    conf = Workspace(tmp_path).conf(f"skew.directory={tmp_path}/skew")
    live = open_live(conf, tmp_path / "log", lambda: FEATURES, clock=lambda: NOW)
    assert shown(live, "houses")["recent"][0]["id"] == {"house_id": "7"}
    assert shown(live, "other")["recent"][0]["id"] == {}


def test_a_snapshot_is_computed_once_for_all_readers_and_waiters_are_woken(tmp_path: Path) -> None:
    write_rows(tmp_path / "log", [answered(1, NOW - MINUTE)])
    live = live_of(tmp_path)
    live.poll()
    first = live.snapshot(None, 300, with_answers=True)
    live.poll()
    assert live.snapshot(None, 300, with_answers=True)[1] is first[1]

    async def wait() -> bool:
        with live.watched() as changed:
            write_rows(tmp_path / "log", [answered(2, NOW - MINUTE)])
            await asyncio.to_thread(live.poll)
            return await asyncio.wait_for(changed.wait(), 5)

    assert asyncio.run(wait())
    assert live.snapshot(None, 300, with_answers=True)[0] != first[0]


def test_the_thread_goes_on_after_a_failure_and_ends_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    live = live_of(tmp_path, NOW, "dashboard.refresh_seconds=0.01")
    polls: list[int] = []

    def failing(now: int) -> Any:
        polls.append(now)
        if len(polls) < 3:
            raise RuntimeError("secret")
        live._ending.set()
        return live._progress

    monkeypatch.setattr(live._follower, "poll", failing)
    live.start()
    live.close()
    live._thread.join(5)  # type: ignore[union-attr]
    assert not live._thread.is_alive()  # type: ignore[union-attr]
    assert "secret" not in caplog.text


def test_alerts_that_cannot_be_told_do_not_keep_a_dashboard_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further attempts come after pauses; what is told when it is closed is tried once, and no thread is left behind."""
    monkeypatch.setenv("OPS_URL", "mailto://127.0.0.1:9?from=a@example.org&to=b@example.org&mode=insecure")
    rules = ["dashboard.alerts={any: rows_per_second > 0 over 5m}", "dashboard.notify=[ops]"]
    live = live_of(tmp_path, NOW, "notify.targets={ops: 'env:OPS_URL'}", *rules)
    write_rows(tmp_path / "log", [answered(i, NOW - MINUTE) for i in range(10)])
    live.poll()
    assert any(thread.name.startswith("alerts") for thread in threading.enumerate())
    live.close()
    assert not any(thread.name.startswith("alerts") for thread in threading.enumerate())
