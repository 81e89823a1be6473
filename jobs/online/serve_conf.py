"""What a configuration tells a worker of the server: the model's version, resolved once, and every limit."""

from __future__ import annotations

from pathlib import Path

from jobs.online.store_conf import store_url
from jobs.online.worker import WorkerSpec
from jobs.runs.chosen_model import chosen_model
from jobs.runs.conf import Conf
from udfs.serving import ServingSettings

__all__ = ["serving_settings", "worker_spec"]


def serving_settings(conf: Conf) -> ServingSettings:
    """Return the store and the log that a configuration names; it may hold the store's password."""
    settings = conf.serve
    return ServingSettings(
        store_url=store_url(conf),
        store_timeout_ms=conf.store.timeout_ms,
        log_directory=settings.log_directory,
        log_flush_seconds=settings.log_flush_seconds,
        log_sample_share=settings.log_sample_share,
        log_pii=settings.log_pii,
        log_pii_key=settings.log_pii_key.reveal() if settings.log_pii_key is not None else None,
        log_max_queue=settings.log_max_queue,
        log_max_queue_bytes=settings.log_max_queue_bytes,
    )


def worker_spec(conf: Conf, bundle: Path | None) -> WorkerSpec:
    """Return what workers are told.

    Args:
        conf: the configuration.
        bundle: the model's directory; None = resolve the alias (or the version) and fetch the model, which needs MLflow.

    Raises:
        ModelError, UnavailableError, ConfigurationError: see `chosen_model`.
    """
    found, directory = chosen_model(conf, bundle)
    settings = conf.serve
    return WorkerSpec(
        socket_fd=-1,
        ready_fd=-1,
        bundle=str(directory.resolve()),
        digest=None if found is None else found.digest,
        version=None if found is None else found.version,
        alias=None if found is None else found.alias,
        allow_tolerance=conf.model.allow_tolerance,
        settings=serving_settings(conf),
        max_body_bytes=settings.max_body_bytes,
        max_rows=settings.max_rows,
        max_waiting=settings.max_waiting,
        body_timeout_seconds=settings.body_timeout_seconds,
        max_staleness_seconds=settings.max_staleness_seconds,
        shutdown_seconds=settings.shutdown_seconds,
    )
