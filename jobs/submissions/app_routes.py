"""The routes of the gateway: each reads a request, asks the ledger or the intake in a thread, and says what came of it.

This module does not know who may ask; it is handed a function that says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from jobs.online.protocol import refuse
from jobs.submissions.app_models import (
    ErrorAnswer,
    Listed,
    ReferenceBody,
    RowsBody,
    State,
    Status,
    StatusPage,
    Ticket,
    inlined,
)
from jobs.submissions.bodies import BodyLimits, cost_of, read_limited, reckon, to_payload
from jobs.submissions.gateway_metrics import GatewayMetrics
from jobs.submissions.intake import Intake
from jobs.submissions.keys import Authenticate, Caller
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.outbox import Outbox
from jobs.submissions.results import csv_lines, described, json_lines, page_of
from jobs.submissions.served import ServedModel

__all__ = ["Gateway", "make_router"]

_JSON = "application/json"
_COUNTED = "onescore.counted"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LIST_MOST = 1000
_MOST = 2**53
_SMALL = 65_536  # bytes that are looked through sooner than a thread begins
_Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="of the submission")]
_SCHEMA = {"anyOf": [inlined(RowsBody), inlined(ReferenceBody)]}
_LINKS = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("submission", "cancel", "as_csv", "as_json_lines")
}
_BODY = {
    "required": True,
    "content": {
        _JSON: {"schema": _SCHEMA},
        "text/csv": {"schema": {"type": "string"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "notify": {"type": "string", "description": "a JSON object; see the other forms"},
                },
            }
        },
    },
}


@dataclass(frozen=True)
class Gateway:
    """What the routes work with.

    Args:
        ledger, intake: of the submissions.
        served: the version that new ones are pinned to.
        limits: of a body.
        page_rows: most answers of one page.
        metrics: counts.
        authenticate: says who asks.
        check_rate: counts a caller's request; raises ContractError if it comes too early.
        outbox: knows who was told.
        check_notify: raises ContractError for who cannot be told.
    """

    ledger: Ledger
    intake: Intake
    served: ServedModel
    limits: BodyLimits
    page_rows: int
    metrics: GatewayMetrics
    authenticate: Authenticate
    check_rate: Callable[[str], object]
    outbox: Outbox
    check_notify: Callable[[Mapping[str, Any]], object]

    def caller(self, request: Request) -> Caller:
        """Return who asks; raises what `authenticate` and `check_rate` raise. A request counts once, however often it is asked of here."""
        peer = None if request.client is None else request.client.host
        if request.scope["http_version"] == "1.0":
            peer = None  # as proxies pass requests on: whose it is is not known
        caller = self.authenticate(request.headers, peer)
        if _COUNTED not in request.scope:
            self.check_rate(caller.key_id)
            request.scope[_COUNTED] = True
        return caller

    async def mine(self, request: Request, id_: str) -> Submission:
        """Return one of the caller's submissions; raises ContractError 404 for any other."""
        caller = self.caller(request)
        found = await run_in_threadpool(self.ledger.get, id_, caller.key_id)
        return found if found is not None else refuse(404, "NOT_FOUND", "there is no such submission")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": "refused"} for status in (400, 401, *statuses)}


def make_router(gateway: Gateway) -> APIRouter:
    """Return the routes of a gateway."""
    keys = [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]
    router = APIRouter(
        tags=["submissions"], dependencies=keys
    )  # said in the description; `authenticate` judges
    _add_submit(router, gateway)
    _add_lists(router, gateway)
    _add_downloads(router, gateway)
    return router


def _add_submit(router: APIRouter, gateway: Gateway) -> None:
    @router.post(
        "/submissions",
        status_code=202,
        responses={
            **_errors(403, 408, 409, 413, 415, 422, 429, 503),
            202: {
                "model": Ticket,
                "description": "taken; it survives whatever happens to this server",
                "links": _LINKS,
            },
            200: {
                "model": Ticket,
                "description": "the same Idempotency-Key and payload came before; that one is done",
            },
        },
        openapi_extra={
            "requestBody": _BODY,
            "parameters": [
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "description": "the same payload with it gives the first submission again, another payload 409",
                    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
                },
                {
                    "name": "Onescore-Notify",
                    "in": "header",
                    "required": False,
                    "description": "who is to be told, a JSON object; a body that says it too must say the same",
                    "schema": {"type": "string"},
                },
            ],
        },
    )
    async def submit(request: Request) -> Response:
        """Take rows, files or a reference to be scored; answers at once."""
        caller = gateway.caller(request)
        key = request.headers.get("idempotency-key")
        if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
            refuse(
                422, "IDEMPOTENCY_KEY", "an Idempotency-Key has 1 to 255 printable ASCII characters, no space"
            )
        body = await read_limited(request, gateway.limits, caller.key_id)
        pinned, feature_set = gateway.served.now
        looking = body, request.headers, feature_set
        cost = cost_of(*looking) if len(body) <= _SMALL else await run_in_threadpool(cost_of, *looking)
        reckon(request.scope, cost, gateway.limits, caller.key_id)

        def is_known(payload_hash: str) -> bool:
            return key is not None and gateway.ledger.has(caller.key_id, key, payload_hash)

        payload = await run_in_threadpool(
            to_payload, body, request.headers, feature_set, gateway.limits, is_known
        )
        if payload.notify is not None:
            gateway.check_notify(payload.notify)
        taken = await run_in_threadpool(gateway.intake.take, payload, caller.key_id, pinned, key)
        found = await asyncio.shield(asyncio.wrap_future(taken))
        submission = found.submission
        if found.is_new:
            gateway.metrics.taken(payload.kind, payload.n_rows)
        said = {name: described(submission)[name] for name in ("id", "state", "rows", "status_url")}
        headers = {"location": said["status_url"]}
        return Response(orjson.dumps(said), 202 if submission.is_open else 200, headers, _JSON)


def _add_lists(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/submissions", responses={**_errors(422), 200: {"model": Listed}})
    async def submissions(
        request: Request,
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=_LIST_MOST)] = 100,
        after: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    ) -> Response:
        """List one's submissions, newest first."""
        caller = gateway.caller(request)
        last = None if after is None else (int(after[:14], 16), after)
        found = await run_in_threadpool(
            gateway.ledger.listed, caller.key_id, state=state, limit=limit + 1, after=last
        )
        query = f"limit={limit}" + (f"&state={state}" if state is not None else "")
        following = f"/submissions?{query}&after={found[limit - 1].id}" if len(found) > limit else None
        said = {"submissions": [described(one) for one in found[:limit]], "next": following}
        return Response(orjson.dumps(said), 200, media_type=_JSON)

    @router.get(
        "/submissions/{id}",
        operation_id="submission",
        responses={**_errors(404, 422), 200: {"model": StatusPage}},
    )
    async def submission(
        request: Request,
        id: _Id,
        offset: Annotated[int, Query(ge=0, le=_MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 1000,
    ) -> Response:
        """Say how far a submission is, with a page of its answers once it has succeeded."""
        found = await gateway.mine(request, id)
        most = min(limit, gateway.page_rows)

        def page() -> bytes:
            told = None if found.notify is None else gateway.outbox.of(found.id)
            return page_of(gateway.ledger, found, offset, most, told)

        return Response(await run_in_threadpool(page), 200, media_type=_JSON)

    @router.delete(
        "/submissions/{id}",
        operation_id="cancel",
        responses={**_errors(403, 404, 409, 422), 200: {"model": Status}},
    )
    async def cancel(request: Request, id: _Id) -> Response:
        """Cancel a submission: what was scored of it is thrown away."""
        found = await gateway.mine(request, id)
        if not await run_in_threadpool(gateway.ledger.end, found.id, "cancelled"):
            refuse(409, "FINISHED", "the submission has ended already")
        await run_in_threadpool(gateway.intake.withdraw, found.id)
        now = await run_in_threadpool(gateway.ledger.get, found.id)
        said = described(now or dataclasses.replace(found, state="cancelled"))
        return Response(orjson.dumps(said), 200, media_type=_JSON)


def _add_downloads(router: APIRouter, gateway: Gateway) -> None:
    async def succeeded(request: Request, id_: str) -> Submission:
        found = await gateway.mine(request, id_)
        if found.state != "succeeded":
            refuse(
                409, "NO_RESULTS", f"the submission is {found.state}; there are results when it has succeeded"
            )
        return found

    def download(stream: Any, media_type: str, name: str) -> Response:
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(stream, 200, headers, media_type)

    lines = {
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        "description": "an answer a line",
    }

    @router.get(
        "/submissions/{id}/results.ndjson",
        operation_id="as_json_lines",
        responses={**_errors(404, 409, 422), 200: lines},
    )
    async def as_json_lines(request: Request, id: _Id) -> Response:
        """Download the answers as JSON, one a line."""
        found = await succeeded(request, id)
        return download(json_lines(gateway.ledger, found), "application/x-ndjson", f"{id}.ndjson")

    table = {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "an answer a line"}

    @router.get(
        "/submissions/{id}/results.csv",
        operation_id="as_csv",
        responses={**_errors(404, 409, 422), 200: table},
    )
    async def as_csv(request: Request, id: _Id) -> Response:
        """Download the answers as CSV, each beside what identifies its row; texts are as they came, so import them as text."""
        found = await succeeded(request, id)
        return download(csv_lines(gateway.ledger, found), "text/csv", f"{id}.csv")
