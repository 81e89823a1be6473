"""One gateway as a process: it listens, takes submissions until it is told to end, and finishes what it has begun.

    SIGTERM, SIGINT   no new connection is taken, requests under way are answered; exit code 0
    SIGHUP            the alias is resolved anew; submissions that are in keep their version

Any number of gateways may share one database. This module knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop
from fastapi import APIRouter

from feature_pipelines.errors import ConfigurationError, OnescoreError
from jobs.online.http_server import HttpServer, drain, make_server
from jobs.online.json_logs import event
from jobs.runs.conf import Conf
from jobs.runs.settings_async import revealed_database_url
from jobs.submissions.app import make_app
from jobs.submissions.app_routes import Gateway
from jobs.submissions.bodies import BodyLimits
from jobs.submissions.database import Database
from jobs.submissions.gateway_metrics import GatewayMetrics
from jobs.submissions.intake import Intake
from jobs.submissions.keys import KeyStore, KnownKeys
from jobs.submissions.ledger import Ledger
from jobs.submissions.outbox import Outbox
from jobs.submissions.page.opening import Pages
from jobs.submissions.rate import RateLimit
from jobs.submissions.served import ServedModel, resolve_served
from jobs.submissions.targets import targets_of

__all__ = ["run_gateway"]


def run_gateway(
    conf: Conf,
    bundle: Path | None,
    listening: socket.socket,
    *,
    routers: Sequence[APIRouter] = (),
    pages: Callable[[Gateway], Pages] | None = None,
) -> int:
    """Serve until told to end; return the exit code.

    Args:
        conf: of a model.
        bundle: the model's directory; None = the registry's version.
        listening: the socket; closed at the end.
        routers: see `make_app`.
        pages: makes what people see; None = there is no page.

    Raises:
        OnescoreError: the model, the database or a setting will not do.
    """
    settings = conf.submissions
    served = ServedModel(lambda: resolve_served(conf, bundle))
    database = Database(revealed_database_url(settings))
    database.prepare()
    intake = Intake(
        database,
        _now,
        chunk_rows=settings.chunk_rows,
        batch_rows=settings.batch_rows,
        max_queued=settings.max_queued,
        max_queued_bytes=settings.max_queued_bytes,
        max_queued_share=settings.max_queued_share,
        retry_after_seconds=settings.retry_after_seconds,
    )
    limits = BodyLimits(
        settings.max_body_bytes,
        settings.body_timeout_seconds,
        settings.max_rows,
        settings.reference_root,
        settings.max_queued_share,
    )
    keys = KnownKeys(KeyStore(database))
    if not keys.are_needed and not _is_loopback(listening):
        raise ConfigurationError(
            f"submissions.host: {settings.host} is reached from other machines, and no API key was made; make one with "
            "`python -m jobs.manage_keys add NAME`, or listen on 127.0.0.1"
        )
    gateway = Gateway(
        ledger=Ledger(database, _now),
        intake=intake,
        served=served,
        limits=limits,
        page_rows=settings.page_rows,
        metrics=GatewayMetrics(),
        authenticate=keys.authenticate,
        check_rate=RateLimit(settings.max_requests_per_second).check,
        outbox=Outbox(database),
        check_notify=lambda notify: targets_of(notify, conf.notify),
    )
    ending: list[bool] = []
    shown = None if pages is None else pages(gateway)
    page = None if shown is None else shown.app
    app = make_app(gateway, is_draining=lambda: bool(ending), routers=routers, page=page)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, listening, served, ending, settings.shutdown_seconds, shown))
    keys.close()
    intake.close()
    database.close()
    event("gateway_ended")
    return 0


async def _serve(
    app: Any,
    listening: socket.socket,
    served: ServedModel,
    ending: list[bool],
    shutdown_seconds: float,
    pages: Pages | None,
) -> None:
    loop = asyncio.get_running_loop()
    server = make_server(app, shutdown_seconds)
    tasks: set[asyncio.Task[None]] = set()

    def begin(what: Any) -> None:
        task = loop.create_task(what)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def end() -> None:
        if not ending:
            ending.append(True)
            if pages is not None:  # its streams never end by themselves
                loop.run_in_executor(None, pages.close)
            event("gateway_draining")
            begin(drain(server))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: begin(_reload(served)))
    begin(_say_when_ready(server, listening, served))
    if pages is not None:
        pages.start()
    try:
        await server.serve(sockets=[listening])
    finally:
        if pages is not None:
            await asyncio.to_thread(pages.close)


async def _reload(served: ServedModel) -> None:
    try:
        found = await asyncio.get_running_loop().run_in_executor(None, served.reload)
    except OnescoreError as exc:
        event("reload_failed", reason=str(exc))
        return
    event("reloaded", model=found.pinned.name, version=found.pinned.version)


async def _say_when_ready(server: HttpServer, listening: socket.socket, served: ServedModel) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    pinned = served.now.pinned
    address = listening.getsockname()[:2]
    event("gateway_ready", address=address, model=pinned.name, version=pinned.version, digest=pinned.digest)


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def _now() -> int:
    return time.time_ns() // 1000
