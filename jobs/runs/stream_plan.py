"""What a streaming query is, before it runs: its checkpoint, the version that it is pinned to, and whether it may go on.

A query is the directory of its checkpoint. What it is stands there since its first start; a restart shares it, or is refused by a
message that names each difference. Nothing here starts Spark.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_pipelines.errors import ConfigurationError
from jobs.runs.chosen_model import registered_model
from jobs.runs.conf import Conf, defaults
from jobs.runs.stream_beside import require_alone
from jobs.runs.stream_model import checked_scorer
from jobs.runs.stream_progress import last_process
from jobs.runs.stream_source import options_that_count, source_identity, source_place, source_start
from jobs.runs.stream_state import QueryManifest, StreamState, require_same
from udfs.registry import ModelVersion

__all__ = ["begun_query", "checkpoint_of", "describe_stream", "pinned_model", "require_streamable"]

_OF_A_PART = ("input.version", "input.partitions", "input.range_from", "input.range_to")
_UNUSED = {*_OF_A_PART, "input.source", "input.range_column", "model.feature_set"}
"""Digested keys that no stream reads: where the source is, is in `stream.source`; the features are in their fingerprint."""


def checkpoint_of(conf: Conf) -> str:
    """Return where the query's state is."""
    return conf.stream.checkpoint or f"{conf.storage.root.rstrip('/')}/streams/{conf.model.name}"


def pinned_model(conf: Conf, cache: Path | None = None) -> tuple[ModelVersion, Path]:
    """Return the version that the query is pinned to, and its directory; that of model.version or the alias where it has none yet.

    Args:
        conf: of a model.
        cache: where versions are fetched to; None = storage.cache.

    Raises:
        ModelError, UnavailableError: see `registered_model`.
    """
    recorded = StreamState(checkpoint_of(conf)).query()
    if recorded is None or conf.model.version is not None:
        return registered_model(conf, cache)
    pinned = conf.model.model_copy(update={"version": int(recorded.version)})
    return registered_model(conf.model_copy(update={"model": pinned}), cache)


def require_streamable(conf: Conf) -> None:
    """Refuse settings that a stream cannot follow.

    Raises:
        ConfigurationError: an alias is to be followed and a version is named, or a part of input.source is asked for; names each key.
    """
    if conf.stream.follow_alias and conf.model.version is not None:
        raise ConfigurationError(
            f"stream.follow_alias: model.version is {conf.model.version}, so there is no alias to follow; set one of the two"
        )
    reads_input = conf.stream.source is None and source_place(conf) is not None
    settings = conf.input.model_dump()
    asked = [key for key in _OF_A_PART if settings[key.partition(".")[2]] not in (None, {})]
    if reads_input and asked:
        raise ConfigurationError(
            f"{', '.join(asked)}: a stream reads the whole of input.source and what comes to it. Unset them (jobs.score_batch takes "
            "--from, --to and --partition), or name what is to be read in stream.source, which these keys do not concern",
            keys=asked,
        )


def begun_query(
    state: StreamState, conf: Conf, model: ModelVersion, now: datetime, *, beside: bool = False
) -> QueryManifest:
    """Return the query that the checkpoint is of, or note a new one.

    Args:
        state: its files, locked.
        conf: the configuration.
        model: the version to score with.
        now: when a new one begins.
        beside: whether a new one may add to tables that have rows of another.

    Raises:
        RunConflictError: the checkpoint's query differs from what is asked for; or see `require_alone`.
        ConfigurationError, TableError: see `source_start`.
    """
    recorded = state.query()
    if recorded is None:
        if not beside:
            require_alone(conf, str(state.root))
        return state.begin(now, _identity(conf, model), model.version, source_start(conf))
    _require_same(state, recorded, conf, model)
    return recorded


def describe_stream(conf: Conf, model: ModelVersion, bundle: Path, *, beside: bool = False) -> dict[str, Any]:
    """Return what a query would do, for people: what --dry-run prints. Starts nothing, and refuses what a start would refuse."""
    require_streamable(conf)
    state = StreamState(checkpoint_of(conf))
    recorded = state.query()
    scorer = checked_scorer(conf, model, bundle)
    last = state.last_record() if recorded is not None else None
    settings = conf.stream
    policy = settings.refresh_views_seconds
    if recorded is not None:
        _require_same(state, recorded, conf, model)
    elif not beside:
        require_alone(conf, str(state.root))
    return {
        "query": f"{recorded.query_id}, continued" if recorded is not None else "new",
        "checkpoint": str(state.root),
        "batches so far": last.totals.batches if last is not None else 0,
        "last process": last_process(state),
        "source": {name.partition(".")[2]: value for name, value in source_identity(conf).items() if value},
        "model": f"{model.name} version {model.version}"
        + (f", follows alias {conf.model.alias}" if settings.follow_alias else ", pinned"),
        "feature fingerprint": model.feature_fingerprint,
        "model check": scorer.verified,
        "views": {name: conf.table_location(table) for name, table in conf.views.items()} or "none",
        "views are pinned": "when the query starts"
        if policy is None
        else "at each batch"
        if policy == 0
        else f"at a batch, every {policy} s at most",
        "watermark": settings.watermark or "none",
        "scored table": conf.table_location(conf.output.scored),
        "quarantine table": conf.table_location(conf.output.quarantine),
        "configuration digest": conf.digest(),
        "configuration files": list(conf.files),
    }


def _identity(conf: Conf, model: ModelVersion) -> dict[str, Any]:
    """Return what a restart must share; the version has a place of its own, as an alias that is followed changes it."""
    return {
        **{name: value for name, value in conf.digested().items() if name not in _UNUSED},
        **source_identity(conf),
        "feature_fingerprint": model.feature_fingerprint,
    }


def _require_same(state: StreamState, recorded: QueryManifest, conf: Conf, model: ModelVersion) -> None:
    """Compare what both sides know: a key that is gone by now counts no more, a newer one had its default."""
    wanted = _identity(conf, model)
    known = {**wanted, **defaults(), **recorded.identity}
    known["stream.options"] = options_that_count(known["stream.format"], known["stream.options"])
    recorded = replace(recorded, identity={name: known[name] for name in wanted})
    if not conf.stream.follow_alias:
        wanted["model.version"] = model.version
        recorded = replace(recorded, identity={**recorded.identity, "model.version": recorded.version})
    require_same(state, recorded, wanted)
