"""The dashboard over HTTP: who may see what, what a browser is told to allow, and streams that end."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from feature_pipelines.errors import ContractError
from jobs.dashboard.app import Access, by_key, dashboard_app
from jobs.dashboard.browser import PAGE_HEADERS, Protected
from jobs.dashboard.live import Live
from jobs.dashboard.opening import open_live
from tests.toy.answered_rows import MINUTE, NOW, answered, write_rows
from tests.toy.asgi import call
from tests.toy.houses import FEATURES
from tests.toy.workspace import Workspace


@pytest.fixture
def live(tmp_path: Path) -> Live:
    row = answered(1, NOW - MINUTE, request={"house_id": "7", "area_m2": "82.5"})
    write_rows(tmp_path / "log", [row], "houses")
    found = open_live(Workspace(tmp_path).conf(), tmp_path / "log", lambda: FEATURES, clock=lambda: NOW)
    found.poll()
    return found


def test_page_and_files_are_served_with_every_protection_and_hold_nothing_inline(live: Live) -> None:
    app = dashboard_app(live, by_key("k"))
    page = call(app, "/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    linked = re.findall(r'(?:href|src)="(static/[^"]+)"', text)
    assert len(linked) >= 4
    for path in linked:
        assert call(app, f"/{path}").status == 200
    for name in (
        "dashboard.js",
        "charts.js",
        "panels.js",
        "page.js",
        "stream.js",
        "dashboard.css",
        "theme.css",
        "icon.svg",
    ):
        answer = call(app, f"/static/{name}")
        assert answer.status == 200
        assert {k: answer.headers[k] for k in PAGE_HEADERS} == PAGE_HEADERS
        again = call(app, f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|javascript:|\son\w+=", text)
    assert not re.findall(r"https?://", text)


def test_pages_load_nothing_from_elsewhere_and_make_no_markup_of_text() -> None:
    for package in ("jobs.dashboard", "jobs.submissions.page"):
        for file in files(package).joinpath("static").iterdir():
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.findall(
                r"https?://|innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", text
            )


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/..%2fapp.py", "/static/", "/static/app.py", "/x"]
)
def test_no_path_leads_to_other_files(live: Live, path: str) -> None:
    assert call(dashboard_app(live, by_key(None)), path).status == 404


@pytest.mark.parametrize("path", ["/data", "/events"])
@pytest.mark.parametrize(
    "sent", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}, {"authorization": "Basic k"}]
)
def test_figures_need_the_key(live: Live, path: str, sent: dict[str, str]) -> None:
    answer = call(dashboard_app(live, by_key("right")), path, headers=sent)
    assert (answer.status, answer.json["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "sent", [{"authorization": "Bearer right"}, {"authorization": "bearer right"}, {"x-api-key": "right"}]
)
def test_the_key_is_taken_in_either_header(live: Live, sent: dict[str, str]) -> None:
    answer = call(dashboard_app(live, by_key("right")), "/data", headers=sent)
    assert answer.json["recent"][0]["id"] == {"house_id": "7"}
    assert answer.headers["cache-control"] == "no-store"


def test_who_may_see_figures_alone_gets_no_single_answer(live: Live) -> None:
    answer = call(dashboard_app(live, lambda _: Access.FIGURES), "/data")
    assert (answer.json["totals"]["rows"], answer.json["recent"]) == (1, None)
    assert b"82.5" not in answer.body


@pytest.mark.parametrize("query", ["window=7", "window=x", "window=300&y=1"])
@pytest.mark.parametrize("path", ["/data", "/events"])
def test_other_parameters_are_refused(live: Live, path: str, query: str) -> None:
    answer = call(dashboard_app(live, by_key(None)), f"{path}?{query}")
    assert (answer.status, answer.json["error"]["code"]) == (422, "BAD_PARAMS")


def test_events_begin_with_a_snapshot_and_end_when_the_dashboard_does(live: Live) -> None:
    app = dashboard_app(live, by_key(None))
    answer = call(app, "/events?window=300", until=b"data: ")
    assert answer.headers["content-type"].startswith("text/event-stream")
    [message] = [part for part in answer.body.decode().split("\n\n") if "event: snapshot" in part]
    assert json.loads(message.partition("data: ")[2])["totals"]["rows"] == 1
    threading.Timer(0.3, live.close).start()
    assert b"event: snapshot" in call(app, "/events").body


def test_streams_are_not_without_number(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.app._MOST_STREAMS", 0)
    answer = call(dashboard_app(live, by_key(None)), "/events")
    assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (
        503,
        "OVERLOADED",
        "10",
    )


def test_a_stream_ends_when_its_key_is_revoked_and_asks_with_its_one_request_until_then(live: Live) -> None:
    asked = list[Any]()

    def guard(request: Request) -> Access:
        asked.append(request.scope)
        if len(asked) == 3:
            raise ContractError("no", status=401, code="NO")
        return Access.FIGURES

    answer = call(dashboard_app(live, guard), "/events")
    assert answer.body.count(b"event: snapshot") == 1
    assert len(asked) == 3
    assert all(scope is asked[0] for scope in asked)


def test_streams_of_one_caller_leave_others_some(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.app._MOST_OF_ONE", 1)
    app = dashboard_app(live, lambda _: Access.FIGURES)

    async def asked() -> list[int]:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(asyncio.to_thread(call, app, "/events", headers={"x-api-key": "a"}))
            while not live._waiting:
                await asyncio.sleep(0.01)
            found = [
                await asyncio.to_thread(call, app, "/events", headers=sent, until=b"data: ")
                for sent in ({"x-api-key": "a"}, {"x-api-key": "b"})
            ]
            await asyncio.to_thread(live.close)
        return [one.status for one in (*found, first.result())]

    assert asyncio.run(asked()) == [503, 200, 200]


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-security-policy", b"own")]}
    )
    await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:81"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_what_changes_something_is_refused_to_pages_of_other_origins(
    sent: dict[str, str], status: int
) -> None:
    assert call(Protected(_echo), "/", method="POST", headers=sent).status == status
    assert call(Protected(_echo), "/", method="DELETE", headers=sent).status == status
    assert call(Protected(_echo), "/", headers=sent).status == 200


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8091", 200), ("[::1]:80", 200), ("rebound.example", 403), ("", 403)]
)
def test_without_a_key_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    assert call(Protected(_echo, loopback_only=True), "/", headers={"host": host}).status == status
    assert call(Protected(_echo), "/", headers={"host": host}).status == 200


def test_headers_that_an_answer_has_are_kept() -> None:
    answer = call(Protected(_echo), "/")
    assert answer.headers["content-security-policy"] == "own"
    assert answer.headers["x-frame-options"] == "DENY"
