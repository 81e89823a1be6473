"""The typed sections of the configuration: every key there is, with its meaning, unit and limits.

Defaults are not here: conf/base.yaml states each key once, so there is one place to read a value and one place to read what
it means. A key marked `digest` can change a score or the content of a table and is part of `Conf.digest()`. This module does
not know where values come from.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from feature_pipelines.errors import ConfigurationError
from jobs.runs.secret_refs import SecretRef
from jobs.runs.secret_rules import holds_secret, is_secret_key

__all__ = [
    "BuildSettings",
    "InputSettings",
    "Location",
    "MlflowSettings",
    "ModelSettings",
    "OutputSettings",
    "QuarantineSettings",
    "ScoreSettings",
    "Section",
    "ServeSettings",
    "SparkSettings",
    "StorageSettings",
    "StoreSettings",
    "TrainSettings",
    "setting",
]

_REFERENCES = ("env:", "file:")
_CONNECT_URL = re.compile(r"sc://[^/?#;\s]+(?:/(?:;[^=;\s]+=[^;\s]*)*;?)?")


def setting(meaning: str, unit: str = "", *, digest: bool = False, **limits: Any) -> Any:
    """Return the declaration of one key: meaning, unit, limits, and whether it belongs to the digest."""
    return Field(description=meaning, json_schema_extra={"unit": unit, "digest": digest}, **limits)


def _without_secret(instead: str) -> AfterValidator:
    """Return the one check of every URI and location; `instead` says where such a secret belongs."""

    def check(text: str) -> str:
        if holds_secret(text):
            raise ValueError(f"a value that holds a secret is refused (not shown); {instead}")
        return text

    return AfterValidator(check)


def _remote(value: Any) -> Any:
    """Turn a reference into a SecretRef; refuse a URL with a token, and what is no Connect URL."""
    if not isinstance(value, str):
        return value
    if value.startswith(_REFERENCES):
        return SecretRef(value)
    if holds_secret(value):
        raise ValueError(
            "a URL with a token is refused (not shown); keep the whole URL in a variable or a file and refer to it, env:NAME or "
            "file:PATH, or set SPARK_REMOTE"
        )
    if not _CONNECT_URL.fullmatch(value):
        raise ValueError(
            "expected a Spark Connect URL sc://host:port or sc://host:port/;name=value, or a reference"
        )
    return value


def _spark_conf(values: Any) -> Any:
    """Turn YAML's booleans and numbers into Spark's text, and references into SecretRef; refuse a literal secret."""
    if not isinstance(values, dict):
        return values
    settings: dict[str, str | SecretRef] = {}
    problems = []
    for key, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else value
        if not isinstance(text, str | int | float | SecretRef):
            problems.append(f"{key}: expected text, a number or true/false")
        elif isinstance(text, SecretRef) or is_secret_key(key) or str(text).startswith(_REFERENCES):
            try:
                settings[key] = SecretRef(str(text))
            except ValueError as exc:
                problems.append(f"{key}: {exc}")
        elif holds_secret(str(text)):
            problems.append(
                f"{key}: a value that holds a secret is refused (not shown); refer to the whole value, env:NAME or file:PATH"
            )
        else:
            settings[key] = str(text)
    if problems:
        raise ValueError("; ".join(problems))
    return settings


def _bound(value: Any) -> Any:
    """YAML turns dates into objects; a bound is compared by Spark, which reads their ISO text."""
    return value.isoformat() if isinstance(value, date) else value


Location = Annotated[
    str,
    _without_secret(
        "give a storage's credentials to the environment, the platform or spark.conf (as references), not in a location"
    ),
]
Uri = Annotated[
    str,
    _without_secret(
        "use mlflow.token: env:NAME or file:PATH, or leave the URI null and set MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI)"
    ),
]
StoreUrl = Annotated[
    str, _without_secret("set ONESCORE_STORE_PASSWORD, or refer to the whole URL by env:NAME or file:PATH")
]
Remote = Annotated[str | SecretRef, BeforeValidator(_remote)]
SparkConf = Annotated[dict[str, str | SecretRef], BeforeValidator(_spark_conf)]
Reference = Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")]
Bound = Annotated[str | int, BeforeValidator(_bound)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]*$")]


class Section(BaseModel):
    """A group of keys: unknown keys are refused, values cannot be changed once loaded."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, hide_input_in_errors=True
    )


class StorageSettings(Section):
    """Where runs keep what they make. `{root}` in any path below stands for storage.root."""

    root: Location = setting(
        "directory or URI under which everything is kept, unless a key below says otherwise", min_length=1
    )
    tables: Location = setting("where tables are: a table `x` is the Delta table `<tables>/x`", min_length=1)
    runs: Location = setting("manifests of scoring runs, by which an interrupted run continues", min_length=1)
    cache: Location = setting("local copies of models and views; may be deleted at any time", min_length=1)


class MlflowSettings(Section):
    """The tracking server and the model registry."""

    tracking_uri: Uri | None = setting(
        "tracking server; null: what MLFLOW_TRACKING_URI or the platform says, and refused if neither does"
    )
    registry_uri: Uri | None = setting("model registry; null: the tracking server")
    artifact_root: Location | None = setting("where new experiments keep artifacts; null: the server decides")
    experiment: str = setting("experiment that receives the runs", min_length=1)
    token: SecretRef | None = setting("access token, as a reference `env:NAME` or `file:PATH`; null: none")
    timeout_seconds: int = setting("how long to wait for one answer of the server", "s", gt=0)


class StoreSettings(Section):
    """The online store."""

    url: StoreUrl = setting(
        "online store: `sqlite:///PATH`, `redis://HOST:PORT/DB`, `rediss://...` (TLS), or a reference such as "
        "`env:ONESCORE_STORE_URL`; the password is that of ONESCORE_STORE_PASSWORD",
        min_length=1,
    )
    timeout_ms: int = setting("deadline of one read", "ms", gt=0)
    write_timeout_ms: int = setting("how long a job waits for one step of a write", "ms", gt=0)


class SparkSettings(Section):
    """How a job gets its Spark session."""

    master: Location | None = setting("Spark master; null: what spark-submit or the platform says")
    remote: Remote | None = setting(
        "Spark Connect URL, `sc://host:port`, or a reference `env:NAME` or `file:PATH` to one that holds a token; wins over "
        "master; null: classic Spark"
    )
    app_name: str = setting("name shown in Spark's UI", min_length=1)
    conf: SparkConf = setting("further Spark settings; secrets as references `env:NAME` or `file:PATH`")
    log_level: Literal["ALL", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "OFF"] = setting(
        "log level of the JVM"
    )

    def revealed_remote(self) -> str | None:
        """Return the Connect URL, read now if it is a reference; pass it on, never print it.

        Raises:
            ConfigurationError: the reference leads nowhere, or to something else than a Connect URL; names the reference only.
        """
        if not isinstance(self.remote, SecretRef):
            return self.remote
        url = self.remote.reveal()
        if not _CONNECT_URL.fullmatch(url):
            raise ConfigurationError(
                f"spark.remote: {self.remote} holds no Spark Connect URL sc://host:port/;token=...",
                key="spark.remote",
            )
        return url

    def revealed_conf(self) -> dict[str, str]:
        """Return the Spark settings with secrets read now; pass it on, never print it."""
        return {key: v.reveal() if isinstance(v, SecretRef) else v for key, v in self.conf.items()}


class ModelSettings(Section):
    """Which model, and which features it was made of."""

    name: Name = setting("registered model name", digest=True)
    alias: Name = setting("alias to score with; resolved to a version once per run", min_length=1)
    version: int | None = setting("version to score with, instead of the alias; null: the alias's", ge=1)
    feature_set: Reference = setting("feature set as `module:NAME`", digest=True)
    allow_tolerance: bool = setting(
        "on a platform where golden rows differ in the last bits: true scores within the recorded tolerance, false refuses",
        digest=True,
    )


class TrainSettings(Section):
    """How a model is trained. Nothing here is in the digest: a trained model is a version of its own."""

    requests: Location = setting("table of scoring requests to learn from")
    outcomes: Location = setting("table of what happened, one row per request at most")
    join_on: list[str] = setting("columns that join outcomes to requests", min_length=1)
    label_column: str = setting("column of outcomes to predict; rows where it is null are not learned from")
    task: Literal["classification", "multiclass", "regression"] = setting(
        "what is predicted: the probability of one of two classes, of each of several (`label_column` holds strings or integers), or "
        "the value itself"
    )
    label_above: float | None = setting(
        "classification: the label is `label_column > label_above`", "unit of label_column"
    )
    split_at: AwareDatetime | None = setting(
        "requests as of this time or later are held out of training", "UTC"
    )
    held_out_share: float | None = setting(
        "where requests have no time: hold out this share of them, chosen by a hash of `join_on`; outcomes then need no event_ts",
        "0 to 1",
        gt=0,
        lt=1,
    )
    seed: int = setting("seed of every random choice", ge=0, le=2**32 - 1)
    max_rows: int | None = setting("learn from at most so many rows, chosen by seed; null: all", "rows", gt=0)
    estimator: Reference | None = setting(
        "estimator as `module:CLASS`; null: scikit-learn's histogram gradient boosting for the task"
    )
    params: dict[str, Any] = setting(
        "arguments of the estimator; one that is null is left out where the estimator does not have it"
    )
    decision_threshold: float = setting(
        "classification: a score of this or more is labelled positive", "0 to 1", ge=0, le=1
    )
    tolerance_ulps: int = setting(
        "how far a score may be off on another platform, where model.allow_tolerance allows it", "ULP", ge=0
    )

    @model_validator(mode="after")
    def _label_fits_task(self) -> TrainSettings:
        if self.label_column and (self.task == "classification") != (self.label_above is not None):
            raise ValueError(
                "label_above: expected a number with task: classification, and null with task: multiclass or regression"
            )
        if self.held_out_share is not None and self.split_at is not None:
            raise ValueError(
                "held_out_share: expected null with split_at, which says what is held out; set one of them"
            )
        return self


class InputSettings(Section):
    """What is scored."""

    source: Location = setting(
        "table name, path or URI (Delta, or a directory of Parquet), or `catalog:db.table`", digest=True
    )
    row_id: list[str] | None = setting(
        "columns that identify a row, no two rows alike (exit 3 otherwise); null: those of the feature set; "
        "`[]`: file and position in it",
        digest=True,
    )
    version: int | None = setting("version of a Delta source; null: the latest when the run starts", ge=0)
    partitions: dict[str, str] = setting(
        "partitions to score, `input.partitions.<column>: <value>`; {}: all", digest=True
    )
    range_column: str | None = setting(
        "column that a range is bounded by; null: the feature set's as-of field", digest=True
    )
    range_from: Bound | None = setting("lower bound, inclusive; null: none", "as the column", digest=True)
    range_to: Bound | None = setting("upper bound, exclusive; null: none", "as the column", digest=True)


class OutputSettings(Section):
    """What a scoring run writes."""

    scored: Location = setting("table of scored rows", digest=True)
    quarantine: Location = setting("table of rows that could not be scored, with the reason", digest=True)
    pass_through: list[str] = setting("request columns repeated in the table of scored rows", digest=True)


class ScoreSettings(Section):
    """How a scoring run is cut up. By the laws no size here changes a score."""

    chunk_rows: int = setting(
        "rows committed together; an interrupted run repeats at most one chunk", "rows", gt=0
    )
    unit_rows: int = setting("rows of one Spark task, at most", "rows", gt=0)
    batch_rows: int = setting("rows in memory at once, per task", "rows", gt=0)
    max_index_rows: int = setting(
        "a view with more rows is not looked up in memory but joined by shuffle, before scoring; the bits are the same",
        "rows",
        ge=0,
    )
    max_index_bytes: int = setting("a view whose files are larger likewise", "bytes", ge=0)
    hot_key_rows: int = setting(
        "join by shuffle: a key with more rows is split by time into slices of about so many", "rows", gt=0
    )


class BuildSettings(Section):
    """How stored views with history are computed."""

    quarantine: Location = setting(
        "table of source rows that break a view's contract, with the reason", min_length=1
    )
    partition_rows: int = setting(
        "source rows of one Spark task, about; all rows of a key are in one task", "rows", gt=0
    )


class QuarantineSettings(Section):
    """When bad rows stop a run."""

    max_share: float = setting(
        "share of quarantined rows above which a run fails; with `--replay` only what `--set` says",
        "0 to 1",
        ge=0,
        le=1,
    )


class ServeSettings(Section):
    """The real-time server."""

    host: str = setting("where `jobs.serve_realtime` listens", min_length=1)
    port: int = setting("where it listens; 0: any free port", ge=0, le=65_535)
    workers: int = setting("processes that answer", "processes", gt=0, le=256)
    max_body_bytes: int = setting("a larger request is refused (413)", "bytes", gt=0)
    max_rows: int = setting("a request of more rows is refused (413)", "rows", gt=0)
    max_waiting: int = setting(
        "requests that may wait, per worker; further ones are refused (503)", "requests", gt=0
    )
    body_timeout_seconds: float = setting("how long a client may take to send a request's body", "s", gt=0)
    shutdown_seconds: float = setting("how long requests under way may take after SIGTERM", "s", gt=0)
    max_staleness_seconds: float | None = setting(
        "not ready while a view's W is older than this; null: not checked", "s", gt=0
    )
    log_directory: Location | None = setting("where the prediction log is written; null: no log")
    log_flush_seconds: float = setting(
        "how long an answer waits at most to be written; what kill -9 may lose", "s", gt=0
    )
    log_sample_share: float = setting(
        "share of the rows that is logged, chosen by a hash of the row's id", "0 to 1", ge=0, le=1
    )
    log_pii: Literal["drop", "hash", "keep"] = setting(
        'what becomes of fields tagged "pii" in the prediction log'
    )
    log_pii_key: SecretRef | None = setting("key for hash, as a reference `env:NAME` or `file:PATH`")
    log_retention_days: int | None = setting(
        "`jobs.purge_predictions` removes whole days of the prediction log that are older; null: all are kept",
        "days",
        gt=0,
    )
    log_max_queue: int = setting("rows that may wait to be written; further ones are dropped", "rows", gt=0)
    log_max_queue_bytes: int = setting(
        "how large the images and other binary fields of these rows may be; likewise", "bytes", gt=0
    )
