"""The model version that new submissions are pinned to: the alias is resolved once, and again when the gateway is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from feature_pipelines.definitions import FeatureSet
from jobs.online.store_conf import store_identity, store_url
from jobs.runs.chosen_model import chosen_model
from jobs.runs.conf import Conf
from jobs.submissions.intake import PinnedModel
from udfs.bundle import read_golden
from udfs.scorer import OutputSpec

__all__ = ["Served", "ServedModel", "resolve_served"]


class Served(NamedTuple):
    """A version, and the features that say how its rows are read."""

    pinned: PinnedModel
    feature_set: FeatureSet


class ServedModel:
    """Which version is served now.

    Args:
        resolve: asks the registry; raises what `resolve_served` raises.
    """

    def __init__(self, resolve: Callable[[], Served]) -> None:
        self._resolve = resolve
        self.now = resolve()

    def reload(self) -> Served:
        """Resolve the alias anew; submissions that are in keep their version."""
        self.now = self._resolve()
        return self.now


def resolve_served(conf: Conf, bundle: Path | None) -> Served:
    """Return the version that the configuration names now; the estimator is not loaded.

    Args:
        conf: of a model.
        bundle: the model's directory; None = resolve the alias (or the version), which needs MLflow.

    Raises:
        ModelError, UnavailableError, ConfigurationError: see `chosen_model` and `read_golden`.
    """
    found, directory = chosen_model(conf, bundle)
    golden = read_golden(directory, None if found is None else found.digest)
    info, feature_set = golden.info, golden.feature_set
    outputs = tuple(OutputSpec.from_json(info["output"]).fields)
    version = None if found is None else found.version
    store = store_identity(store_url(conf)) if feature_set.views else ""
    pinned = PinnedModel(info["name"], version, info["digest"], feature_set.row_id, outputs, store)
    return Served(pinned, feature_set)
