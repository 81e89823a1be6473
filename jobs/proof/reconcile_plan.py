"""The plan of a reconciliation: what is compared with what, decided once on the driver before any row is scored.

The reference version is resolved once, the log listed once, the requests table and the views pinned; versions that answered and are
another than the reference are looked for in the registry. Nothing is written but the model cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow import MlflowClient

from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ConfigurationError, ModelError, OnescoreError, did_you_mean
from feature_pipelines.schema import Field, Schema
from jobs.online.instants import shown
from jobs.proof.log_files import LogFile, PredictionFiles, Served, files_of, in_units, survey
from jobs.proof.requests import Declared, Within, key_types
from jobs.runs.chosen_model import chosen_model
from jobs.runs.conf import Conf
from jobs.runs.tracking import connect_from
from jobs.runs.views import fits_index, pin_view
from jobs.tables.snapshot import Snapshot, Unit, pin_snapshot, plan_units
from udfs.bundle import load_bundle, read_golden
from udfs.kernel import status_fields, views_to_look_up
from udfs.registry import ModelVersion, asking, fetch, resolve
from udfs.scorer import Scorer

__all__ = ["Asked", "OtherVersion", "ReconcilePlan", "make_plan"]


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    Args:
        log: the directory of the prediction log.
        requests: the requests table; None = requests are the log's own.
        by: "served_ts" or "as_of_ts"; `from_ts`, `to_ts`: rows of [from_ts, to_ts) by it, microseconds, None = open.
        bundle: the reference in this directory; None = the registry's.
        conf_model: the model's file in conf/, for the commands of a repair.
        with_corrections: whether rows that are corrected already count as such, and the others' corrections are written.
        overrides: of the configuration, likewise for the commands; without the model's version, which they name themselves.
    """

    log: Path
    requests: str | None
    by: str = "served_ts"
    from_ts: int | None = None
    to_ts: int | None = None
    bundle: Path | None = None
    conf_model: str = ""
    with_corrections: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def within(self) -> Within:
        """The range, as `read_rows` takes it."""
        return self.by, self.from_ts, self.to_ts


@dataclass(frozen=True)
class OtherVersion:
    """A version that answered and is not the reference: its directory, or why it is not at hand."""

    served: Served
    bundle: Path | None
    missing: str = ""


@dataclass(frozen=True)
class ReconcilePlan:
    """What will be compared.

    Args:
        conf, asked: the configuration, and what was asked for.
        model: the reference; `bundle` its directory, `scorer` the verified model.
        log: the files, with their rows; `served`: rows by version; `others`: those that are not the reference.
        log_units: the files in groups, one a task.
        snapshot, request_units, columns: the pinned requests table, None and empty without one.
        declared: what is read of it.
        key: the row id's fields.
        views: the views to look up, with their pinned tables.
        by_shuffle: those of them that are joined to the logged rows by shuffle, as they are too large for an index.
    """

    conf: Conf
    asked: Asked
    model: ModelVersion
    bundle: Path
    scorer: Scorer
    log: PredictionFiles
    served: Mapping[Served, int]
    others: tuple[OtherVersion, ...]
    log_units: tuple[tuple[LogFile, ...], ...]
    snapshot: Snapshot | None
    request_units: tuple[Unit, ...]
    columns: tuple[str, ...]
    declared: Declared
    key: tuple[Field, ...]
    views: Mapping[str, tuple[FeatureView, Snapshot]]
    by_shuffle: tuple[str, ...]

    @property
    def types(self) -> pa.Schema:
        """The Arrow types of the key's fields."""
        return key_types(self.key, None if self.snapshot is None else self.snapshot.schema)

    @property
    def corrections_uri(self) -> str:
        """Where the table of corrected scores is."""
        return self.conf.table_location(self.conf.skew.corrections)

    def describe(self) -> dict[str, Any]:
        """Return the plan for people: what --dry-run prints."""
        bounds = self.asked.from_ts, self.asked.to_ts
        when = "all" if bounds == (None, None) else f"{self.asked.by} from {shown(bounds[0])} to "
        if bounds != (None, None):
            when += "now" if bounds[1] is None else shown(bounds[1])
        missing = {one.served.digest: one.missing for one in self.others}
        return {
            "log": str(self.log.directory),
            "files": len(self.log.files),
            "rows in them": sum(file.rows for file in self.log.files),
            "rows compared": when,
            "rows lost": sum(gap.last - gap.first + 1 for gap in self.log.gaps if not gap.is_tail),
            "rows not yet written": sum(gap.last - gap.first + 1 for gap in self.log.gaps if gap.is_tail),
            "reference": f"{self.model.name} version {self.model.version or '?'} (digest {self.model.digest[:16]})"
            + (f", alias {self.model.alias}" if self.model.alias else ""),
            "model check": self.scorer.verified,
            "answered by": {
                f"version {one.version or '?'} (digest {one.digest[:16]})": f"{n:,} rows{_why(missing.get(one.digest))}"
                for one, n in sorted(self.served.items(), key=lambda item: item[0].version)
            },
            "requests": "of the log" if self.snapshot is None else self.snapshot.label,
            "joined by": ", ".join(f.name for f in self.key) if self.snapshot is not None else "-",
            "views": {
                name: snapshot.label + (", joined by shuffle" if name in self.by_shuffle else "")
                for name, (_, snapshot) in self.views.items()
            }
            or "none",
            "tasks": len(self.log_units),
        }


def _why(missing: str | None) -> str:
    return f", not at hand: {missing}" if missing else ""


def make_plan(conf: Conf, asked: Asked, spark: Any = None) -> ReconcilePlan:
    """Return the plan.

    Args:
        conf: of a model.
        asked: see Asked.
        spark: needed if the requests or a view are a catalog table.

    Raises:
        ConfigurationError: no log directory, a key that requests do not carry. TableError: the log has
            nothing of this model, or a table is missing. ContractError: a file of the log, or a table, lacks columns.
        ModelError, UnavailableError: the reference cannot be had.
    """
    files = files_of(asked.log, conf.model.name, *_days(asked))
    model, bundle = _reference(conf, asked.bundle)
    scorer = load_bundle(bundle, expected_digest=model.digest, allow_tolerance=conf.model.allow_tolerance)
    log, served = survey(files, conf.model.name)
    feature_set = scorer.feature_set
    snapshot = None
    if asked.requests is not None:
        location = conf.table_location(asked.requests)
        version = conf.input.version if asked.requests == conf.input.source else None
        partitions = dict(conf.input.partitions) if asked.requests == conf.input.source else None
        snapshot = pin_snapshot(location, version=version, partitions=partitions, spark=spark)
    available = set(snapshot.schema.names) if snapshot is not None else set(feature_set.request.names)
    wanted = views_to_look_up(feature_set, available, set(conf.views))
    key = _key(conf, feature_set, snapshot)
    declared = _declared(feature_set, wanted, available)
    columns: tuple[str, ...] = ()
    if snapshot is not None:
        needed = {*(f.name for f in declared.all), *(f.name for f in key)}
        columns = tuple(name for name in snapshot.schema.names if name in needed)
    views = {view.name: (view, _pinned(conf, view, spark)) for view in wanted}
    return ReconcilePlan(
        conf=conf,
        asked=asked,
        model=model,
        bundle=bundle,
        scorer=scorer,
        log=log,
        served=served,
        others=_others(conf, served, model, asked.bundle is None),
        log_units=in_units(log.files, conf.score.unit_rows),
        snapshot=snapshot,
        request_units=tuple(plan_units(snapshot, unit_rows=conf.score.unit_rows))
        if snapshot is not None
        else (),
        columns=columns,
        declared=declared,
        key=key,
        views=views,
        by_shuffle=tuple(name for name, (_, pinned) in views.items() if not fits_index(pinned, conf.score)),
    )


def _days(asked: Asked) -> tuple[int | None, int | None]:
    """Files lie by the day they were served: of as-of times they say nothing."""
    return (asked.from_ts, asked.to_ts) if asked.by == "served_ts" else (None, None)


def _reference(conf: Conf, bundle: Path | None) -> tuple[ModelVersion, Path]:
    version, directory = chosen_model(conf, bundle)
    if version is not None:
        return version, directory
    info = read_golden(directory).info
    number = "" if conf.model.version is None else str(conf.model.version)
    found = ModelVersion(info["name"], number, None, info["digest"], info["feature_fingerprint"])
    return found, directory


def _key(conf: Conf, feature_set: FeatureSet, snapshot: Snapshot | None) -> tuple[Field, ...]:
    names = tuple(feature_set.row_id if conf.input.row_id is None else conf.input.row_id)
    unknown = [name for name in names if name not in feature_set.request]
    if snapshot is None:
        return tuple(feature_set.request[name] for name in names if name not in unknown)
    if not names or unknown:
        said = f"{unknown[0]!r} is no field of a request" if unknown else "no column identifies a row"
        raise ConfigurationError(
            f"input.row_id: {said}, so a logged row cannot be found in {snapshot.label}. Name request fields that identify a row "
            f"({', '.join(feature_set.request.names)}), or compare the log's own requests: --requests none",
            key="input.row_id",
        )
    lacking = [name for name in names if name not in snapshot.schema.names]
    if lacking:
        raise ConfigurationError(
            f"input.row_id: {snapshot.label} has no column {lacking[0]!r}.{did_you_mean(lacking[0], snapshot.schema.names)}"
        )
    return tuple(feature_set.request[name] for name in names)


def _declared(feature_set: FeatureSet, wanted: list[FeatureView], available: set[str]) -> Declared:
    looked_up = {name for view in wanted for name in view.fields.names}
    fields = Schema(tuple(f for f in feature_set.sources if f.name not in looked_up))
    brought = {view.name for view in feature_set.views} - {view.name for view in wanted}
    statuses = [
        status
        for view, status in zip(feature_set.views, status_fields(feature_set), strict=True)
        if view.name in brought and status.name in available
    ]
    return Declared(fields, Schema(tuple(statuses)))


def _pinned(conf: Conf, view: FeatureView, spark: Any) -> Snapshot:
    location = conf.table_location(conf.views[view.name])
    return pin_view(view, location, spark, version=conf.view_versions.get(view.name))


def _others(
    conf: Conf, served: Mapping[Served, int], model: ModelVersion, has_registry: bool
) -> tuple[OtherVersion, ...]:
    """Return the versions that answered and are not the reference, each once a digest."""
    found: dict[str, OtherVersion] = {}
    client = connect_from(conf) if has_registry else None
    for one in sorted(served, key=lambda one: (one.version, one.digest)):
        if one.digest in (model.digest, *found):
            continue
        if client is None:
            found[one.digest] = OtherVersion(one, None, "no registry is asked with --bundle")
            continue
        try:
            bundle = fetch(_registered(client, model.name, one), Path(conf.storage.cache))
            load_bundle(bundle, expected_digest=one.digest, allow_tolerance=conf.model.allow_tolerance)
            found[one.digest] = OtherVersion(one, bundle)
        except OnescoreError as exc:
            found[one.digest] = OtherVersion(one, None, str(exc))
    return tuple(found.values())


def _registered(client: MlflowClient, name: str, served: Served) -> ModelVersion:
    """Return the registered version of a digest: by its number, or by what all versions say of themselves."""
    with asking("the model registry"):
        versions = client.search_model_versions(f"name = '{name}'")
    for one in versions:
        if one.tags.get("onescore.digest") == served.digest:
            return resolve(f"models:/{name}/{one.version}", client)
    raise ModelError(f"no version of model {name!r} has the digest {served.digest[:16]} any more")
