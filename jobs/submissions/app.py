"""The gateway as an ASGI application: submissions in, their state and answers out, and an error in JSON whatever a client sends.

    POST /submissions    GET /submissions  /submissions/{id}  /submissions/{id}/results.ndjson  .../results.csv    DELETE /submissions/{id}
    GET /ping  /ready  /metrics  /openapi.json

Who asks is what `authenticate` says; a submission of somebody else's is one that does not exist. The page and the dashboard are handed to
`make_app`, which knows nothing of them. No error holds data, and none a stack trace.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feature_pipelines.errors import ContractError, UnavailableError
from jobs.dashboard.browser import SAFE_METHODS, is_own
from jobs.submissions.app_routes import Gateway, make_router
from jobs.submissions.bodies import release
from jobs.submissions.briefly import Briefly
from jobs.submissions.ledger import Overview
from udfs.incidents import incident

__all__ = ["make_app"]

_LOGGER = logging.getLogger("onescore.async")
_JSON, _TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"
_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
_COUNTS_SECONDS = 1.0  # whoever asks, without a key, costs the database one count a second
_PAGE_PATHS = ("/", "/about", "/static/{name}", "/dashboard", "/dashboard/{rest:path}")
"""Not all that is left: what is no route is an error in JSON, and a wrong method 405."""


def make_app(
    gateway: Gateway,
    *,
    is_draining: Callable[[], bool] = lambda: False,
    routers: Sequence[APIRouter] = (),
    page: ASGIApp | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        gateway: what the routes work with; `gateway.authenticate` says who asks.
        is_draining: whether the server is about to end; then it is not ready.
        routers: further routes, such as the dashboard's.
        page: answers "/", "/about", "/static" and "/dashboard"; None = 404.
    """
    app = FastAPI(
        title="Onescore, asynchronous inference",
        version="1",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(make_router(gateway))
    app.include_router(_operation(gateway, is_draining, Briefly(gateway.ledger.overview, _COUNTS_SECONDS)))
    for router in routers:
        app.include_router(router)
    if page is not None:
        app.router.routes.extend(Route(path, page) for path in _PAGE_PATHS)
    app.add_exception_handler(ContractError, _refused)
    app.add_exception_handler(UnavailableError, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(_Outermost, gateway=gateway)
    return app


def _operation(gateway: Gateway, is_draining: Callable[[], bool], kept_now: Briefly[Overview]) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/ping", response_class=PlainTextResponse)
    async def ping() -> Response:
        """Answer if the process does."""
        return Response(b"\n", 200, media_type=_TEXT)

    @router.get("/ready", responses={503: {"description": "not ready; says why"}})
    async def ready() -> Response:
        """Say whether submissions should come here."""
        checks: dict[str, dict[str, Any]] = {"accepting": {"ok": not is_draining()}}
        try:
            counts = (await run_in_threadpool(kept_now)).states
            checks["database"] = {"ok": True, "queued": counts["queued"], "running": counts["running"]}
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises
            checks["database"] = {"ok": False, "raised": type(exc).__name__}
        pinned = gateway.served.now.pinned
        checks["model"] = {
            "ok": True,
            "model": pinned.name,
            "version": pinned.version,
            "digest": pinned.digest,
        }
        is_ready = all(check["ok"] for check in checks.values())
        said = orjson.dumps({"ready": is_ready, "checks": checks})
        return Response(said, 200 if is_ready else 503, media_type=_JSON)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics as Prometheus reads them."""
        said = await run_in_threadpool(lambda: gateway.metrics.render(kept_now(), time.time_ns() // 1000))
        return Response(said, 200, media_type=_TEXT)

    return router


class _Outermost:
    """Counts each request, keeps other sites' pages from sending any, and lets no exception out."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._metrics = app, gateway.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if scope["method"] not in SAFE_METHODS and not is_own(Headers(scope=scope)):
                answer = _error(403, "CROSS_SITE", "another site's page may not send this")
                await answer(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except Exception as exc:  # noqa: BLE001 - the outermost frame: a client gets an incident, not a stack trace
            message = incident(exc, _LOGGER)
            if status == 0:
                await _error(500, "INTERNAL", message)(scope, receive, sending)
        finally:
            release(scope)
        self._metrics.request(scope["method"], status, time.perf_counter() - started)


async def _refused(_request: Request, exc: Exception) -> Response:
    evidence = getattr(exc, "evidence", {})
    headers = {"retry-after": str(evidence["retry_after"])} if "retry_after" in evidence else {}
    status = int(evidence.get("status", 400))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        headers["connection"] = "close"
    return _error(status, str(evidence.get("code", "REFUSED")), str(exc), headers)


async def _unavailable(_request: Request, exc: Exception) -> Response:
    _LOGGER.error("unavailable: %s", exc)
    return _error(503, "UNAVAILABLE", "submissions cannot be kept just now; try again", {"retry-after": "1"})


async def _invalid(_request: Request, exc: Exception) -> Response:
    """Name the parameters that are wrong, not what they hold."""
    problems = exc.errors() if isinstance(exc, RequestValidationError) else []
    said = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['type']}" for one in problems[:5]
    )
    return _error(422, "BAD_PARAMETER", said or "a parameter is not as declared")


async def _http_error(_request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = dict(getattr(exc, "headers", None) or {})
    return _error(status, _CODES.get(status, "REFUSED"), "there is no such route here", headers)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return Response(body, status, headers, _JSON)
