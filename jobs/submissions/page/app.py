"""The pages of a gateway as one ASGI application, below everything that is not its API.

    GET /            the page of submissions; it works with the API as any other client does
        /static/...  its files
        /about       what the model takes: name, version, fields; limits; who may be told
        /dashboard/  see jobs.dashboard.app

The page and its files hold nothing and need no key. This module keeps and scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from jobs.dashboard.assets import Assets
from jobs.dashboard.browser import Protected
from jobs.runs.settings_notify import NotifySettings

__all__ = ["described_model", "pages_app"]

_SHARED = ("theme.css", "page.js", "icon.svg")
_OWN = ("submissions.html", "submissions.js", "submissions.css", "answers.js", "sending.js")


def pages_app(
    about: Callable[[], Mapping[str, Any]],
    check: Callable[[Request], object],
    *,
    dashboard: ASGIApp | None = None,
    loopback_only: bool = False,
) -> Any:
    """Return the application.

    Args:
        about: what /about says; see `described_model`.
        check: raises ContractError with the evidence `status` for who may not ask.
        dashboard: is mounted at /dashboard; None = there is none.
        loopback_only: see `Protected`.
    """
    assets = Assets(dict.fromkeys(_SHARED, "jobs.dashboard") | dict.fromkeys(_OWN, "jobs.submissions.page"))

    async def page(request: Request) -> Response:
        return assets.answer(request, "submissions.html")

    async def static(request: Request) -> Response:
        return assets.answer(request, request.path_params["name"])

    async def model(request: Request) -> Response:
        try:
            check(request)
        except ContractError as refused:
            error = {"code": refused.evidence.get("code", "REFUSED"), "message": str(refused)}
            after = refused.evidence.get("retry_after")
            headers = {} if after is None else {"retry-after": str(after)}
            return JSONResponse({"error": error}, int(refused.evidence.get("status", 400)), headers)
        said = {**about(), "dashboard": None if dashboard is None else "/dashboard/"}
        return JSONResponse(said, headers={"cache-control": "no-store"})

    routes: list[BaseRoute] = [Route("/", page), Route("/static/{name}", static), Route("/about", model)]
    if dashboard is not None:
        routes.append(Mount("/dashboard", dashboard))
    return Protected(Starlette(routes=routes), loopback_only=loopback_only)


def described_model(
    feature_set: FeatureSet,
    *,
    model: str,
    version: str | None,
    max_rows: int,
    max_body_bytes: int,
    notify: NotifySettings,
) -> dict[str, Any]:
    """Return what a person needs to know to make a file for a model.

    Args:
        feature_set: of the version that is served.
        model, version: of it; None = not known.
        max_rows, max_body_bytes: of a submission.
        notify: who may be told that one has ended.
    """
    binary = [declared.name for declared in feature_set.request if declared.dtype.kind == "binary"]
    by_name = [name for name in feature_set.row_id if feature_set.request[name].dtype.kind == "string"]
    return {
        "model": model,
        "version": version,
        "row_id": list(feature_set.row_id),
        "takes_images": len(binary) == len(by_name) == len(feature_set.row_id) == 1,
        "fields": [
            {
                "name": declared.name,
                "type": str(declared.dtype),
                "doc": declared.doc,
                "may_be_null": declared.accepts_null,
            }
            for declared in feature_set.request
        ],
        "max_rows": max_rows,
        "max_body_bytes": max_body_bytes,
        "tells": {
            "webhook": notify.webhook_secret is not None,
            "email_domains": list(notify.email_domains) if notify.email is not None else [],
        },
    }
