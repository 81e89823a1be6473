"""The gateway's pages over HTTP: what is served to whom, and what people are told of the model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from feature_pipelines.columns import Binary, Float64, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, Schema
from jobs.dashboard.browser import PAGE_HEADERS
from jobs.submissions.page.app import described_model, pages_app
from tests.toy.asgi import call
from tests.toy.houses import FEATURES


def size(image: Binary) -> Float64:
    """Bytes of the image. Never null."""
    raise NotImplementedError


IMAGES = FeatureSet(
    name="pictures",
    request=Schema((Field("image_id", String, "names the picture"), Field("image", Binary, "a PNG"))),
    features=(size,),
    row_id=("image_id",),
)


def about(feature_set: FeatureSet = FEATURES) -> dict[str, Any]:
    return described_model(feature_set, model="houses", version="3", max_rows=10, max_body_bytes=1_000)


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


def test_a_model_of_pictures_takes_images() -> None:
    assert about(IMAGES)["takes_images"] is True


async def _dashboard(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_the_dashboard_is_below_its_path() -> None:
    app = pages_app(about, lambda _: None, dashboard=_dashboard)
    assert call(app, "/dashboard/data").status == 200
    assert call(app, "/about").json["dashboard"] == "/dashboard/"
