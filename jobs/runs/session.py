"""The Spark session of a job, classic or Connect.

A session that exists already (a notebook, Databricks, spark-submit) is used as it is. This module knows nothing of models.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyspark.sql import SparkSession

from feature_pipelines.errors import ConfigurationError
from jobs.runs.conf import Conf
from jobs.runs.secret_refs import mask, remember
from jobs.runs.secret_rules import secret_values
from jobs.runs.settings import SparkSettings
from jobs.tables.snapshot import CATALOG
from udfs.shipped import is_remote

__all__ = ["open_session", "session_for", "spark_log", "spark_session"]

_LOG = logging.getLogger(__name__)
_CONNECT_PORT = 15002
_STOP_SECONDS = 60
_DEFAULTS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.session.timeZone": "UTC",
    "spark.python.worker.reuse": "true",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
}


def open_session(settings: SparkSettings, log: Path | None = None) -> SparkSession:
    """Return the active Spark session, or a new one as the settings say.

    Args:
        settings: `remote` (Spark Connect) wins over `master`; under spark-submit its own master holds. SPARK_REMOTE, Spark's
            own variable, is what `remote` is if that is null.
        log: file that receives what the JVM and the workers say; None = stderr.

    Raises:
        ConfigurationError: Spark cannot start or the server cannot be reached.
    """
    existing = SparkSession.getActiveSession()
    if existing is not None:
        return existing
    logging.getLogger("py4j").setLevel(logging.ERROR)
    logging.getLogger("pyspark").setLevel(logging.ERROR)
    builder: Any = SparkSession.builder.appName(settings.app_name)
    remote = settings.revealed_remote() or os.environ.get("SPARK_REMOTE")
    if remote:
        for secret in secret_values(remote):
            remember(secret)
        _require_server(remote)
        builder = builder.remote(remote)
    else:
        _prepare_environment()
        if "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit has set these, and it wins
            builder = builder.master(settings.master) if settings.master else builder
            for key, value in _DEFAULTS.items():
                builder = builder.config(key, value)
    for key, value in settings.revealed_conf().items():
        builder = builder.config(key, value)
    try:
        with _stderr_to(log):
            session: SparkSession = builder.getOrCreate()
    except Exception as exc:
        first = mask(str(exc).strip().partition("\n")[0])[:300]
        where = _address(remote) if remote else settings.master or "the platform's master"
        raise ConfigurationError(
            f"Spark cannot start on {where}: {type(exc).__name__}: {first}. `python -m jobs.doctor` checks Java and the rest"
            + (f"; Spark's own log is {log}" if log else "")
        ) from exc
    if not is_remote(session):
        session.sparkContext.setLogLevel(settings.log_level)
    return session


@contextmanager
def spark_session(settings: SparkSettings, log: Path | None = None) -> Iterator[SparkSession]:
    """Open a session as `open_session` does, and stop it at the end unless somebody else had opened it."""
    existing = SparkSession.getActiveSession()
    session = open_session(settings, log)
    try:
        yield session
    finally:
        if existing is None:
            _stop(session)


@contextmanager
def session_for(conf: Conf, sources: Iterable[str], log: Path | None) -> Iterator[SparkSession | None]:
    """Open a session if one of the sources is a table of a catalog, which is Spark's; else yield None."""
    if not any(source.startswith(CATALOG) for source in sources):
        yield None
        return
    with spark_session(conf.spark, log) as session:
        yield session


def _stop(session: SparkSession) -> None:
    """Stop Spark; that it died before it was told to, or does not answer, does not change what the job did.

    A Connect client asks a server that is gone again and again, for many minutes, before it gives up.
    """

    def stop() -> None:
        try:
            session.stop()
        except Exception as exc:  # noqa: BLE001 - py4j and gRPC raise many kinds
            _LOG.warning("Spark did not stop in order (%s: %s)", type(exc).__name__, mask(str(exc)))

    stopping = threading.Thread(target=stop, name="onescore-stop-spark", daemon=True)
    stopping.start()
    stopping.join(_STOP_SECONDS)
    if stopping.is_alive():
        _LOG.warning("Spark did not stop within %d s and is left behind", _STOP_SECONDS)


def spark_log(conf: Conf) -> Path | None:
    """Return the file for what Spark says, below the job's storage; None where that is no local directory."""
    root = Path(conf.storage.root)
    return root / "logs" / "spark.log" if root.is_absolute() else None


def _require_server(remote: str) -> None:
    """Refuse a Connect URL at which nothing listens: gRPC would try again for ten minutes without a word."""
    if any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return
    try:
        where = urlsplit(remote)
        socket.create_connection((where.hostname or "", where.port or _CONNECT_PORT), timeout=10).close()
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"Spark cannot start on {_address(remote)}: no Connect server answers there ({mask(str(exc))}); spark.remote names it"
        ) from exc


def _address(remote: str) -> str:
    """Return a Connect URL without its parameters and without a user, for messages."""
    scheme, separator, rest = remote.partition(";")[0].rpartition("://")
    return scheme + separator + rest.rpartition("@")[2].rstrip("/")


def _prepare_environment() -> None:
    """Make workers use this interpreter, and see this source tree or wheel."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    here = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, paths)])


@contextmanager
def _stderr_to(log: Path | None) -> Iterator[None]:
    """Let the JVM that starts inside inherit a log file as its stderr, so that a person's terminal stays readable."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    saved = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
