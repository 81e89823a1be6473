"""What a deployed function is told: by the file that its package brings, and by the environment, which wins.

    ONESCORE_PACKAGE                        the directory of onescore.json; unset: the one in which this code lies
    ONESCORE_STORE_URL                      where stored features are read; wins over a snapshot in the package
    ONESCORE_STORE_TIMEOUT_MS               deadline of one read, milliseconds
    ONESCORE_STORE_PASSWORD                 of a Redis store
    ONESCORE_SINK                           where results of queues and uploads go: s3://bucket/prefix, gs://bucket/prefix, file:///dir
    ONESCORE_PREDICTION_LOG                 stdout: a line of JSON for each logged row; none
    ONESCORE_PREDICTION_LOG_SAMPLE_SHARE    which share of the rows is logged, 0 to 1
    ONESCORE_PREDICTION_LOG_PII, _PII_KEY   what becomes of fields tagged "pii": drop, hash or keep; the key for hash

Every other setting is the package's. This module reads no file of configuration: YAML and pydantic are not deployed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.stores.opening import safe_url
from jobs.serverless.objects import require_sink

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "MODEL",
    "SNAPSHOT",
    "FunctionSettings",
    "PackageFacts",
    "read_package",
]

FORMAT_VERSION = 1
MANIFEST, MODEL, SNAPSHOT = "onescore.json", "model", "store.db"
_LOG = "ONESCORE_PREDICTION_LOG"


@dataclass(frozen=True)
class FunctionSettings:
    """The limits of a function, and where it reads and writes; conf/README.md has the meaning of each under `serverless`."""

    store_url: str | None = None
    store_timeout_ms: int = 250
    sink: str | None = None
    max_body_bytes: int = 6_291_456
    max_answer_bytes: int = 6_291_456
    max_rows: int = 50_000
    max_object_bytes: int = 67_108_864
    max_concurrent: int = 8
    timeout_seconds: float = 60.0
    reserve_ms: float = 500.0
    log: str = "stdout"
    log_sample_share: float = 0.01
    log_pii: str = "drop"
    log_pii_key: str | None = None
    allow_tolerance: bool = False

    def with_environment(self, environment: Mapping[str, str]) -> FunctionSettings:
        """Return the settings with what an environment says instead.

        Raises:
            ConfigurationError: a variable makes no sense.
        """
        given = {
            "store_url": environment.get("ONESCORE_STORE_URL"),
            "store_timeout_ms": _number(environment, "ONESCORE_STORE_TIMEOUT_MS"),
            "sink": environment.get("ONESCORE_SINK"),
            "log": environment.get(_LOG),
            "log_sample_share": _number(environment, f"{_LOG}_SAMPLE_SHARE"),
            "log_pii": environment.get(f"{_LOG}_PII"),
            "log_pii_key": environment.get(f"{_LOG}_PII_KEY"),
        }
        values = {**asdict(self), **{name: value for name, value in given.items() if value not in (None, "")}}
        values["store_timeout_ms"] = int(values["store_timeout_ms"])
        found = FunctionSettings(**values)
        if found.store_timeout_ms <= 0:
            raise ConfigurationError(
                f"ONESCORE_STORE_TIMEOUT_MS: expected 1 ms or more, got {found.store_timeout_ms}"
            )
        if found.sink is not None:
            require_sink(found.sink)
        if found.log not in ("stdout", "none") or not 0 <= found.log_sample_share <= 1:
            raise ConfigurationError(
                f"{_LOG} must be stdout or none and {_LOG}_SAMPLE_SHARE 0 to 1, got {found.log!r} and {found.log_sample_share}"
            )
        return found

    def digest(self) -> str:
        """Return 16 hex digits that name the settings; secrets are no part of them."""
        said = {**asdict(self), "log_pii_key": None, "store_url": safe_url(self.store_url or "")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PackageFacts:
    """What a package says of itself.

    Args:
        directory: of the package.
        model_version: the registered version; None where the model came from a directory.
        digest: of the model.
        has_snapshot: whether a read-only store is in it.
        runtime: the Python and machine that its libraries are built for, such as "cpython-311 x86_64".
        settings: the packaged ones.
    """

    directory: Path
    model_version: str | None
    digest: str
    has_snapshot: bool
    runtime: str
    settings: FunctionSettings


def read_package(directory: Path) -> PackageFacts:
    """Return what a package's onescore.json says.

    Raises:
        ConfigurationError: there is none, it is damaged, or a later release wrote it.
    """
    file = directory / MANIFEST
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise ConfigurationError(
                f"{file}: format_version {version}; this release reads up to {FORMAT_VERSION}. Package the model again"
            )
        given = content["settings"]
        known = {field.name for field in fields(FunctionSettings)}
        return PackageFacts(
            directory=directory,
            model_version=content["model_version"],
            digest=content["digest"],
            has_snapshot=content["has_snapshot"],
            runtime=content["runtime"],
            settings=FunctionSettings(**{name: value for name, value in given.items() if name in known}),
        )
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"{file}: there is no package. Build one with python -m jobs.package_serverless, or set ONESCORE_PACKAGE to its directory"
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{file} is damaged: {type(exc).__name__}") from exc


def _number(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(f"{name}={text!r} is not a number")
    return value
