"""Which model a job is about: the configured version, resolved once and fetched, or a directory that --bundle names.

MLflow is imported where the registry is asked, and nowhere else: a server of a directory does without it. Nothing is loaded here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from feature_pipelines.errors import ConfigurationError
from jobs.runs.conf import Conf

if TYPE_CHECKING:
    from udfs.registry import ModelVersion

__all__ = ["chosen_model", "registered_model"]


def chosen_model(
    conf: Conf, bundle: Path | None, cache: Path | None = None
) -> tuple[ModelVersion | None, Path]:
    """Return the registered version, None where a directory is named, and the model's directory.

    Args:
        conf: of a model.
        bundle: the directory that --bundle names; None = the registry's version.
        cache: see `registered_model`.

    Raises:
        ModelError, UnavailableError: see `udfs.registry.resolve` and `fetch`.
        ConfigurationError: the directory is no model's, or another model's than the configuration's.
    """
    if bundle is None:
        return registered_model(conf, cache)
    if not (bundle / "model.json").is_file():
        raise ConfigurationError(f"--bundle {bundle}: there is no model.json in it", bundle=str(bundle))
    try:
        name = json.loads((bundle / "model.json").read_bytes())["name"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(
            f"--bundle {bundle}: its model.json is damaged: {type(exc).__name__}", bundle=str(bundle)
        ) from exc
    if name != conf.model.name:
        raise ConfigurationError(
            f"--bundle {bundle}: it is of model {name!r}, not of {conf.model.name!r}. Name the model that it is of: --model, or "
            f"--set model.name={name}",
            bundle=str(bundle),
        )
    return None, bundle.resolve()


def registered_model(conf: Conf, cache: Path | None = None) -> tuple[ModelVersion, Path]:
    """Return the version that the configuration names by number or by alias, and its fetched directory.

    Args:
        conf: of a model.
        cache: where versions are fetched to; None = storage.cache.

    Raises:
        ModelError, UnavailableError: see `udfs.registry.resolve` and `fetch`.
    """
    from jobs.runs.tracking import connect_from
    from udfs.registry import fetch, resolve

    wanted = f"@{conf.model.alias}" if conf.model.version is None else f"/{conf.model.version}"
    version = resolve(f"models:/{conf.model.name}{wanted}", connect_from(conf))
    return version, fetch(version, cache or Path(conf.storage.cache))
