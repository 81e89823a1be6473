"""What a micro-batch is scored with: a model version and the views' tables, both changed at a batch's beginning or not at all.

A version is taken over from an alias only where the configuration says so, and only if it has the features of the one before; a view's
table is pinned anew by the policy of `stream.refresh_views_seconds`, and sent to the workers only if it has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ConfigurationError, ModelIntegrityError, OnescoreError
from jobs.runs.conf import Conf
from jobs.runs.progress import say
from jobs.runs.views import fits_index, index_view, pin_view
from jobs.tables.snapshot import Snapshot, check_snapshot
from udfs.bundle import load_bundle
from udfs.kernel import views_to_look_up
from udfs.registry import ModelVersion
from udfs.scorer import Scorer
from udfs.shipped import ship

__all__ = ["InUse", "StreamModel", "checked_scorer"]

Newer = Callable[[], tuple[ModelVersion, Path] | None]
"""Returns the version that the alias names now and its directory; None where no alias is followed."""


@dataclass(frozen=True)
class InUse:
    """What a batch is scored with.

    Args:
        model: the version.
        scorer: the model itself.
        shipped: the name by which workers find it, with its views.
        views: by view, what its table is pinned at, in words.
    """

    model: ModelVersion
    scorer: Scorer
    shipped: str
    views: Mapping[str, str]


def checked_scorer(conf: Conf, model: ModelVersion, bundle: Path) -> Scorer:
    """Return a version's model, verified.

    Raises:
        ModelIntegrityError: it is not what was registered.
    """
    scorer = load_bundle(bundle, expected_digest=model.digest, allow_tolerance=conf.model.allow_tolerance)
    if scorer.info["feature_fingerprint"] != model.feature_fingerprint:
        raise ModelIntegrityError(
            f"model {model.name!r} version {model.version}: the registry's tag has the feature fingerprint "
            f"{model.feature_fingerprint[:12]}, the model itself {scorer.info['feature_fingerprint'][:12]}; somebody changed the tag"
        )
    return scorer


class StreamModel:
    """The version and the views in use.

    Args:
        spark: the session.
        conf: the configuration.
        model, bundle: the version to begin with, and its directory.
        columns: what the source has.
        newer: asks the alias.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        spark: Any,
        conf: Conf,
        model: ModelVersion,
        bundle: Path,
        columns: Collection[str],
        newer: Newer = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spark, self._conf, self._newer, self._clock = spark, conf, newer, clock
        self._model, self._bundle = model, bundle
        self._scorer = checked_scorer(conf, model, bundle)
        self._columns = columns
        self._pinned: dict[str, Snapshot] = {}
        self._pinned_at: float | None = None
        self._in_use: InUse | None = None
        self._declined: str | None = None
        self.declined: str | None = None

    @property
    def scorer(self) -> Scorer:
        """The model in use."""
        return self._scorer

    def at_boundary(self) -> InUse:
        """Return what the batch that begins now is scored with.

        Raises:
            TableError, ContractError: a view's table is missing or lacks columns. ConfigurationError: it fits no index.
        """
        is_new = self._take_newer()
        is_new |= self._pin()
        if self._in_use is None or is_new:
            views = {view.name: view for view in self._views()}
            indexes = {}
            for name, pinned in self._pinned.items():
                check_snapshot(pinned)
                indexes[name] = index_view(views[name], pinned)
            shipped = ship(self._spark, self._bundle, indexes, [jobs])
            labels = {name: _named(pinned) for name, pinned in self._pinned.items()}
            self._in_use = InUse(self._model, self._scorer, shipped, labels)
        return self._in_use

    def _views(self) -> list[FeatureView]:
        return views_to_look_up(self._scorer.feature_set, self._columns, set(self._conf.views))

    def _take_newer(self) -> bool:
        """Take over the version that the alias names now, if it may be; a registry that does not answer changes nothing."""
        try:
            found = self._newer()
            if found is None or found[0].version == self._model.version:
                self.declined = self._declined = None
                return False
            model, bundle = found
            scorer = checked_scorer(self._conf, model, bundle)
        except OnescoreError as exc:
            self._decline(f"the alias could not be followed, version {self._model.version} stays: {exc}")
            return False
        problem = self._unlike(model, scorer)
        if problem:
            self._decline(
                f"version {model.version} is not taken over, version {self._model.version} stays: {problem}. Stop this query, and start "
                "another for that version with a checkpoint and tables of its own"
            )
            return False
        say(f"version {model.version} is taken over from version {self._model.version}")
        self._model, self._bundle, self._scorer = model, bundle, scorer
        self.declined = self._declined = None
        return True

    def _decline(self, why: str) -> None:
        """Say once why a version is not taken over; it stays in the progress."""
        self.declined = why
        if why != self._declined:
            say(why)
        self._declined = why

    def _unlike(self, model: ModelVersion, scorer: Scorer) -> str:
        """Return why a query's rows could not go on under another version, "" if they can."""
        if model.feature_fingerprint != self._model.feature_fingerprint:
            return (
                f"its feature fingerprint is {model.feature_fingerprint[:12]}, that of this query "
                f"{self._model.feature_fingerprint[:12]}"
            )
        ours, theirs = (list(s.output.fields.items()) for s in (self._scorer, scorer))
        return "" if ours == theirs else f"its outputs are {dict(theirs)}, those of this query {dict(ours)}"

    def _pin(self) -> bool:
        """Pin the views' tables anew where the policy says so, and return whether one has changed."""
        now, policy = self._clock(), self._conf.stream.refresh_views_seconds
        if self._pinned_at is not None and (policy is None or now - self._pinned_at < policy):
            return False
        pinned = {view.name: self._pinned_view(view) for view in self._views()}
        self._pinned_at = now
        is_new = {n: s.digest() for n, s in pinned.items()} != {
            n: s.digest() for n, s in self._pinned.items()
        }
        self._pinned = pinned
        return is_new

    def _pinned_view(self, view: FeatureView) -> Snapshot:
        location = self._conf.table_location(self._conf.views[view.name])
        pinned = pin_view(view, location, self._spark, version=self._conf.view_versions.get(view.name))
        if not fits_index(pinned, self._conf.score):
            raise ConfigurationError(
                f"view {view.name!r}: {location} is larger than score.max_index_rows or score.max_index_bytes allow, and a stream joins "
                "no view by shuffle: raise them, where driver and workers have the memory, or score with jobs.score_batch",
                view=view.name,
            )
        return pinned


def _named(snapshot: Snapshot) -> str:
    return (
        f"version {snapshot.version}"
        if snapshot.version is not None
        else f"{len(snapshot.files)} files, digest {snapshot.digest()[:16]}"
    )
