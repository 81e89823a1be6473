"""The plan of a scoring run: everything that is decided once, before any row is read, and that a resumed run must find again.

Making a plan resolves the alias, fetches and verifies the model, pins the input and the views, and cuts the input into units and
chunks by its files and row groups (never by a shuffle). It writes nothing but the model cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ConfigurationError, ContractError, ModelIntegrityError, did_you_mean
from feature_pipelines.schema import Refused, parse_timestamp
from jobs.runs.conf import Conf
from jobs.runs.manifest import chunked
from jobs.runs.score_tables import scored_schema
from jobs.runs.views import fits_index, pin_view
from jobs.tables.delta_types import stored_type
from jobs.tables.snapshot import Snapshot, Unit, pin_snapshot, plan_units
from udfs.as_of import own_as_of
from udfs.bundle import load_bundle
from udfs.kernel import status_fields, views_to_look_up
from udfs.registry import ModelVersion
from udfs.scorer import Scorer

__all__ = ["ScorePlan", "make_plan", "require_storable"]


@dataclass(frozen=True)
class ScorePlan:
    """What a run will do.

    Args:
        conf: the configuration.
        model: the resolved version; `bundle` its directory, `scorer` the verified model.
        snapshot: the pinned input.
        views: the views to look up, with their pinned tables.
        by_shuffle: those of them that are joined to the input by shuffle, as they are too large for an index.
        units, chunks: the work; a chunk is [start, stop) of the units.
        key: the row id's fields.
        columns: input columns to read.
        repeated: input columns that the scored table repeats.
        time_range: (column, from, to) in microseconds, or None.
    """

    conf: Conf
    model: ModelVersion
    bundle: Path
    scorer: Scorer
    snapshot: Snapshot
    views: Mapping[str, tuple[FeatureView, Snapshot]]
    by_shuffle: tuple[str, ...]
    units: tuple[Unit, ...]
    chunks: tuple[tuple[int, int], ...]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    repeated: tuple[str, ...]
    time_range: tuple[str, int | None, int | None] | None

    @property
    def rows(self) -> int:
        """Rows of the planned units; with a time range some of them may not be in it."""
        return sum(unit.rows for unit in self.units)

    @property
    def scored(self) -> str:
        """Where the scored table is."""
        return self.conf.table_location(self.conf.output.scored)

    @property
    def quarantine(self) -> str:
        """Where the quarantine table is."""
        return self.conf.table_location(self.conf.output.quarantine)

    def _way(self, name: str, snapshot: Snapshot) -> str:
        way = "joined by shuffle" if name in self.by_shuffle else "looked up in the kernel"
        return f"{_named(snapshot)}, {way}"

    def group_key(self) -> dict[str, Any]:
        """Return what makes this job's place: runs of one group continue or follow each other."""
        return {
            "model": self.model.name,
            "source": self.snapshot.source,
            "scored": self.scored,
            "range": list(self.time_range or ()),
            "partitions": dict(self.conf.input.partitions),
        }

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the one it continues, in words an operator can compare."""
        return {
            "model": f"{self.model.name} version {self.model.version}",
            "model_digest": self.model.digest,
            "feature_fingerprint": self.model.feature_fingerprint,
            "configuration_digest": self.conf.digest(),
            "input": _named(self.snapshot),
            **{f"view {name}": _named(snapshot) for name, (_, snapshot) in self.views.items()},
        }

    def cut(self) -> str:
        """Return how the input is cut up, in words and a digest: a chunk's number means nothing under another cut."""
        sizes = self.conf.score
        content = [self.chunks, [[unit.file_uri, unit.row_groups, unit.first_ordinal] for unit in self.units]]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        return (
            f"{len(self.chunks)} chunks of up to {sizes.chunk_rows} rows, {len(self.units)} tasks of up to {sizes.unit_rows} "
            f"(digest {digest})"
        )

    def describe(self) -> dict[str, Any]:
        """Return the plan for people: what --dry-run prints."""
        return {
            "input": _named(self.snapshot),
            "files": len(self.snapshot.files),
            "rows": self.rows,
            "model": f"{self.model.name} version {self.model.version}"
            + (f" (alias {self.model.alias})" if self.model.alias else ""),
            "feature fingerprint": self.model.feature_fingerprint,
            "model check": self.scorer.verified,
            "evaluator": self.scorer.info["certification"]["evaluator"],
            "views": {name: self._way(name, snapshot) for name, (_, snapshot) in self.views.items()}
            or "brought by the input",
            "chunks": len(self.chunks),
            "tasks": len(self.units),
            "scored table": self.scored,
            "quarantine table": self.quarantine,
            "configuration digest": self.conf.digest(),
            "configuration files": list(self.conf.files),
        }


def make_plan(conf: Conf, model: ModelVersion, bundle: Path, spark: Any = None) -> ScorePlan:
    """Return the plan of a run.

    Args:
        conf: the configuration of a model.
        model, bundle: the resolved version and its fetched directory.
        spark: needed if the source or a view is a catalog table.

    Raises:
        TableError: the input or a view is missing. ContractError: it lacks columns. ModelIntegrityError: the model is not what
            was logged.
    """
    scorer = load_bundle(bundle, expected_digest=model.digest, allow_tolerance=conf.model.allow_tolerance)
    if scorer.info["feature_fingerprint"] != model.feature_fingerprint:
        raise ModelIntegrityError(
            f"model {model.name!r} version {model.version}: the registry's tag has the feature fingerprint "
            f"{model.feature_fingerprint[:12]}, the model itself {scorer.info['feature_fingerprint'][:12]}; somebody changed the tag"
        )
    feature_set = scorer.feature_set
    source = conf.table_location(conf.input.source)
    snapshot = pin_snapshot(
        source, version=conf.input.version, partitions=dict(conf.input.partitions), spark=spark
    )
    available = snapshot.schema.names
    wanted = views_to_look_up(feature_set, available, set(conf.views))
    views = {view.name: (view, _pinned_view(conf, view, spark)) for view in wanted}
    key = tuple(feature_set.row_id if conf.input.row_id is None else conf.input.row_id)
    keys = [name for view in feature_set.views for name in view.keys.values()]
    repeated = tuple(dict.fromkeys(name for name in [*keys, *conf.output.pass_through] if name in available))
    unknown = [name for name in (*key, *conf.output.pass_through) if name not in available]
    if unknown:
        raise ContractError(
            f"the input has no column {unknown[0]!r}.{did_you_mean(unknown[0], available)}", missing=unknown
        )
    require_storable(scorer, snapshot.schema, repeated)
    time_range = _time_range(conf, feature_set.as_of, snapshot.schema)
    looked_up = {name for view in wanted for name in view.fields.names}
    needed = [f.name for f in (*feature_set.sources, *status_fields(feature_set)) if f.name not in looked_up]
    own = own_as_of(feature_set)
    extra = [*key, *repeated, *([time_range[0]] if time_range else []), *([own.name] if own else [])]
    columns = tuple(name for name in available if name in {*needed, *extra})
    units = plan_units(
        snapshot,
        unit_rows=conf.score.unit_rows,
        time_column=time_range[0] if time_range else None,
        time_from_us=time_range[1] if time_range else None,
        time_to_us=time_range[2] if time_range else None,
    )
    return ScorePlan(
        conf=conf,
        model=model,
        bundle=bundle,
        scorer=scorer,
        snapshot=snapshot,
        views=views,
        by_shuffle=tuple(name for name, (_, pinned) in views.items() if not fits_index(pinned, conf.score)),
        units=tuple(units),
        chunks=tuple(chunked([unit.rows for unit in units], conf.score.chunk_rows)),
        key=key,
        columns=columns,
        repeated=repeated,
        time_range=time_range,
    )


def require_storable(scorer: Scorer, schema: pa.Schema, repeated: tuple[str, ...]) -> None:
    """Refuse input columns that the scored table cannot repeat.

    Raises:
        ContractError: Delta has no such type. ConfigurationError: the table has a column of that name already.
    """
    unstorable = [name for name in repeated if stored_type(schema.field(name).type) is None]
    if unstorable:
        raise ContractError(
            f"input column {unstorable[0]!r} is {schema.field(unstorable[0]).type}, which the scored table cannot hold; "
            "leave it out of output.pass_through, or convert it in the input",
            columns=unstorable,
        )
    written = scored_schema(scorer.feature_set, scorer.output, schema, repeated).names
    twice = sorted({name for name in written if written.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"output.pass_through: the scored table has a column {twice[0]!r} of its own"
        )


def _pinned_view(conf: Conf, view: FeatureView, spark: Any) -> Snapshot:
    location, version = conf.table_location(conf.views[view.name]), conf.view_versions.get(view.name)
    return pin_view(view, location, spark, version=version)


def _named(snapshot: Snapshot) -> str:
    version = f" version {snapshot.version}" if snapshot.version is not None else ""
    return f"{snapshot.source}{version} ({snapshot.format}, digest {snapshot.digest()[:16]})"


def _time_range(
    conf: Conf, as_of: str | None, schema: pa.Schema
) -> tuple[str, int | None, int | None] | None:
    bounds = [conf.input.range_from, conf.input.range_to]
    if bounds == [None, None]:
        return None
    column = conf.input.range_column or as_of
    if column is None or column not in schema.names:
        hint = did_you_mean(column or "", schema.names)
        raise ConfigurationError(f"input.range_column: {column!r} is no column of the input.{hint}")
    type_ = schema.field(column).type
    if not (
        pa.types.is_integer(type_) or pa.types.is_string(type_) or getattr(type_, "tz", None) is not None
    ):
        raise ConfigurationError(
            f"input.range_column: {column!r} is {type_}; a range needs a timestamp with a time zone, integer microseconds, or "
            "RFC 3339 text"
        )
    start, stop = (_microseconds(bound) for bound in bounds)
    if start is not None and stop is not None and start >= stop:
        raise ConfigurationError(f"the range is empty: from {bounds[0]} is not before to {bounds[1]}")
    return column, start, stop


def _microseconds(bound: str | int | None) -> int | None:
    if bound is None or isinstance(bound, int):
        return bound
    text = f"{bound}T00:00:00Z" if len(bound) == 10 else bound
    try:
        return parse_timestamp(text)
    except Refused as exc:
        raise ConfigurationError(f"range bound {bound!r}: {exc}") from exc
