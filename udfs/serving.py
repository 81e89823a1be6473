"""What a process that serves a model is told by its environment, and the scorer it makes of that. No MLflow, no HTTP.

    ONESCORE_STORE_URL                      where stored features are read (see feature_pipelines.stores.opening); unset: rows bring them
    ONESCORE_STORE_TIMEOUT_MS               deadline of one read, milliseconds; 250
    ONESCORE_PREDICTION_LOG                 a directory for the prediction log; unset: no log
    ONESCORE_PREDICTION_LOG_FLUSH_SECONDS   how long an answer waits at most to be written; 5
    ONESCORE_PREDICTION_LOG_SAMPLE_SHARE    which share of the rows is logged, 0 to 1, by a hash of the row's id; 1
    ONESCORE_PREDICTION_LOG_PII             what becomes of fields tagged "pii": drop, hash or keep; drop
    ONESCORE_PREDICTION_LOG_PII_KEY         the key for hash
    ONESCORE_PREDICTION_LOG_MAX_QUEUE       how many rows may wait in memory; 100000
    ONESCORE_PREDICTION_LOG_MAX_QUEUE_BYTES how many bytes their binary fields may have; 268435456

A store that is down is no reason not to start: it is connected to when it is read. A setting that makes no sense is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.stores.opening import open_store, safe_url
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer

__all__ = ["ServingSettings", "open_scorer"]

_PREFIX = "ONESCORE_PREDICTION_LOG"


@dataclass(frozen=True)
class ServingSettings:
    """The variables above, read once."""

    store_url: str | None = None
    store_timeout_ms: int = 250
    log_directory: str | None = None
    log_flush_seconds: float = 5.0
    log_sample_share: float = 1.0
    log_pii: str = "drop"
    log_pii_key: str | None = None
    log_max_queue: int = 100_000
    log_max_queue_bytes: int = 268_435_456

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> ServingSettings:
        """Return the settings of an environment.

        Raises:
            ConfigurationError: a variable is no number where one is expected.
        """
        return cls(
            store_url=environment.get("ONESCORE_STORE_URL") or None,
            store_timeout_ms=int(_number(environment, "ONESCORE_STORE_TIMEOUT_MS", 250)),
            log_directory=environment.get(_PREFIX) or None,
            log_flush_seconds=_number(environment, f"{_PREFIX}_FLUSH_SECONDS", 5.0),
            log_sample_share=_number(environment, f"{_PREFIX}_SAMPLE_SHARE", 1.0),
            log_pii=environment.get(f"{_PREFIX}_PII") or "drop",
            log_pii_key=environment.get(f"{_PREFIX}_PII_KEY") or None,
            log_max_queue=int(_number(environment, f"{_PREFIX}_MAX_QUEUE", 100_000)),
            log_max_queue_bytes=int(_number(environment, f"{_PREFIX}_MAX_QUEUE_BYTES", 268_435_456)),
        )

    def digest(self) -> str:
        """Return 16 hex digits that name the settings; secrets are no part of them."""
        said = {
            "store_url": safe_url(self.store_url) if self.store_url else None,
            "store_timeout_ms": self.store_timeout_ms,
            "log": [self.log_flush_seconds, self.log_sample_share, self.log_pii, self.log_max_queue],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        return float(text)
    except ValueError as exc:
        raise ConfigurationError(f"{name}={text!r} is not a number") from exc


def open_scorer(
    bundle: Path,
    settings: ServingSettings,
    clock: Callable[[], int],
    *,
    model_version: str | None = None,
    expected_digest: str | None = None,
    allow_tolerance: bool = False,
    log_clock: Callable[[], int] | None = None,
) -> OnlineScorer:
    """Load and verify a model, and return what answers requests with it.

    Args:
        bundle: the model's directory.
        settings: the store and the log.
        clock: microseconds since 1970, UTC.
        model_version: the registered version; None where it is not known.
        expected_digest, allow_tolerance: see `load_bundle`.
        log_clock: names the start of this process in the log, where `clock` says when requests came that are answered later.

    Raises:
        ModelError: see `load_bundle`. ConfigurationError: a setting makes no sense.
    """
    scorer = load_bundle(bundle, expected_digest=expected_digest, allow_tolerance=allow_tolerance)
    store = (
        open_store(settings.store_url, timeout_ms=settings.store_timeout_ms) if settings.store_url else None
    )
    log = None
    if settings.log_directory:
        from udfs.prediction_log import PredictionLog  # pyarrow, only where there is a log
        from udfs.prediction_rows import PiiPolicy

        key = settings.log_pii_key.encode() if settings.log_pii_key else None
        log = PredictionLog(
            Path(settings.log_directory),
            log_clock or clock,
            flush_seconds=settings.log_flush_seconds,
            sample_share=settings.log_sample_share,
            pii=PiiPolicy(settings.log_pii, key),
            max_queue=settings.log_max_queue,
            max_queue_bytes=settings.log_max_queue_bytes,
        )
    return OnlineScorer(
        scorer,
        store,
        clock=clock,
        log=log,
        model_version=model_version,
        configuration_digest=settings.digest(),
    )
