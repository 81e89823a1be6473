"""The gateway's pages over HTTP: what is served to whom, and what people are told of the model."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from feature_pipelines.columns import Binary, Float64, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, Schema
from jobs.dashboard.browser import PAGE_HEADERS
from jobs.runs.conf import load
from jobs.submissions.keys import Caller
from jobs.submissions.page.app import described_model, pages_app
from jobs.submissions.page.opening import Pages
from jobs.submissions.served import Served
from tests.toy.answered_rows import answered, write_rows
from tests.toy.asgi import call
from tests.toy.houses import FEATURES
from tests.toy.processes import wait_until
from tests.toy.workspace import Workspace


def size(image: Binary) -> Float64:
    """Bytes of the image. Never null."""
    raise NotImplementedError


IMAGES = FeatureSet(
    name="pictures",
    request=Schema((Field("image_id", String, "names the picture"), Field("image", Binary, "a PNG"))),
    features=(size,),
    row_id=("image_id",),
)


def about(feature_set: FeatureSet = FEATURES, *overrides: str) -> dict[str, Any]:
    notify = load(overrides=list(overrides)).notify
    return described_model(
        feature_set, model="houses", version="3", max_rows=10, max_body_bytes=1_000, notify=notify
    )


def denied(_: Request) -> None:
    raise ContractError("show a key", status=401, code="UNAUTHENTICATED")


def test_page_and_files_are_served_to_anybody_with_every_protection() -> None:
    app = pages_app(about, denied)
    for path in (
        "/",
        *(f"/static/{n}" for n in ("submissions.js", "sending.js", "answers.js", "page.js", "theme.css")),
    ):
        answer = call(app, path)
        assert answer.status == 200
        assert {name: answer.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    assert call(app, "/dashboard/").status == 404


def test_what_the_model_takes_is_told_to_who_may_ask() -> None:
    answer = call(pages_app(about, denied), "/about")
    assert (answer.status, answer.json) == (
        401,
        {"error": {"code": "UNAUTHENTICATED", "message": "show a key"}},
    )
    found = call(pages_app(about, lambda _: None), "/about").json
    assert (found["model"], found["version"], found["row_id"], found["dashboard"]) == (
        "houses",
        "3",
        ["house_id"],
        None,
    )
    assert found["takes_images"] is False
    assert found["fields"][0] == {
        "name": "house_id",
        "type": "int64",
        "doc": "identifies the house",
        "may_be_null": False,
    }
    assert [field["may_be_null"] for field in found["fields"]] == [False, False, False, True, True]


def test_who_may_be_told_is_what_the_configuration_allows() -> None:
    assert about()["tells"] == {"webhook": False, "email_domains": []}
    assert about(FEATURES, "notify.email_domains=[example.org]")["tells"]["email_domains"] == []
    allowed = ["notify.webhook_secret=env:S", "notify.email=env:M", "notify.email_domains=[example.org]"]
    assert about(FEATURES, *allowed)["tells"] == {"webhook": True, "email_domains": ["example.org"]}


def test_a_model_of_pictures_takes_images() -> None:
    assert about(IMAGES)["takes_images"] is True


async def _dashboard(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_the_dashboard_is_below_its_path() -> None:
    app = pages_app(about, lambda _: None, dashboard=_dashboard)
    assert call(app, "/dashboard/data").status == 200
    assert call(app, "/about").json["dashboard"] == "/dashboard/"


def pages_of(tmp_path: Path, key_id: str | None, *overrides: str) -> Pages:
    """Return the pages of a gateway at which somebody with this key asks, over a log of one answer."""
    row = answered(1, time.time_ns() // 1000, request={"house_id": "7"})
    write_rows(tmp_path / ".onescore" / "prediction_log", [row], "houses")

    def caller(_: Request) -> Caller:
        if key_id is None:
            raise ContractError("show a key", status=401, code="UNAUTHENTICATED")
        return Caller(key_id)

    pinned: Any = SimpleNamespace(name="houses", version="3")
    served = SimpleNamespace(now=Served(pinned, FEATURES))
    gateway: Any = SimpleNamespace(
        caller=caller, served=served, limits=SimpleNamespace(max_rows=10, max_body_bytes=99)
    )
    return Pages(Workspace(tmp_path).conf(*overrides), gateway)


@pytest.mark.parametrize(("key_id", "n_single"), [("loopback", 1), ("key-of-somebody", None), (None, -1)])
def test_single_answers_are_for_the_one_caller_there_is_and_figures_for_who_may_submit(
    tmp_path: Path, key_id: str | None, n_single: int | None
) -> None:
    pages = pages_of(tmp_path, key_id)
    pages.start()
    try:
        wait_until(lambda: is_read(pages), "the log", 10)
        answer = call(pages.app, "/dashboard/data")
        if n_single == -1:
            assert answer.status == 401
            return
        found = answer.json
        assert found["totals"]["rows"] == 1
        assert (found["recent"] if n_single is None else len(found["recent"])) == n_single
        assert call(pages.app, "/about").json["dashboard"] == "/dashboard/"
        assert call(pages.app, "/dashboard/links").json == {"home": "/"}
    finally:
        pages.close()


def test_what_a_version_tags_that_is_loaded_later_is_shown_no_more(tmp_path: Path) -> None:
    pages = pages_of(tmp_path, "loopback")
    pages.start()
    try:
        wait_until(lambda: is_read(pages), "the log", 10)
        assert call(pages.app, "/dashboard/data").json["recent"][0]["id"] == {"house_id": "7"}
        tagged = [replace(one, tags=("pii",)) if one.name == "house_id" else one for one in FEATURES.request]
        later = replace(FEATURES, request=Schema(tuple(tagged)))
        gateway: Any = pages._gateway
        gateway.served.now = Served(gateway.served.now.pinned, later)
        found = call(pages.app, "/dashboard/data?window=300").json["recent"]
        assert found[0]["id"] == {}
        assert '"7"' not in json.dumps(found)
    finally:
        pages.close()


def is_read(pages: Pages) -> bool:
    live: Any = pages._live
    return b'"is_rebuilt":true' in live.snapshot(None, 300, with_answers=False)[1]


def test_a_gateways_other_refusals_are_the_dashboards_too(tmp_path: Path) -> None:
    def too_many(_: Request) -> None:
        raise ContractError("too many requests", status=429, code="RATE", retry_after=3)

    pages = pages_of(tmp_path, "loopback")
    pages._gateway.caller = too_many  # type: ignore[method-assign, assignment]
    for path in ("/dashboard/data", "/dashboard/events"):
        answer = call(pages.app, path)
        assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (
            429,
            "RATE",
            "3",
        )


def test_the_dashboards_own_key_is_then_the_only_one_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHBOARD_KEY", "right")
    pages = pages_of(tmp_path, "loopback", "dashboard.key=env:DASHBOARD_KEY")
    assert call(pages.app, "/dashboard/data").status == 401
    assert call(pages.app, "/dashboard/data", headers={"x-api-key": "right"}).status == 200
    assert call(pages.app, "/about").status == 200


def test_without_a_prediction_log_there_is_no_dashboard(tmp_path: Path) -> None:
    pages = pages_of(tmp_path, "loopback", "serve.log_directory=null")
    pages.start()
    assert call(pages.app, "/dashboard/").status == 404
    assert call(pages.app, "/about").json["dashboard"] is None
    pages.close()
