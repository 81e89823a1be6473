"""The MLflow model registry: an alias is resolved once, the version's files are fetched once and checked against its digest.

Only drivers and trainers import this module (it needs MLflow); what scores loads the fetched directory with `udfs.bundle`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import feature_pipelines
import udfs
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, ModelError, UnavailableError, did_you_mean
from feature_pipelines.packaged import imported_libraries
from feature_pipelines.request_rows import AS_OF_TS
from udfs.bundle import bundle_digest, load_bundle
from udfs.sources import package_files

__all__ = ["ModelVersion", "asking", "connect", "fetch", "register", "resolve"]

_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
_RUNTIME = ("numpy", "pyarrow", "scikit-learn", "scipy", "skops", "numba")
_OPTIONAL = ("redis",)
_DISTRIBUTIONS = {"xgboost": ("xgboost", "xgboost-cpu")}
_TAG = "onescore."
_BUNDLE = "artifacts/bundle"


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a registered model.

    Args:
        name, version: as the registry names them.
        alias: through which it was found, None if by number.
        digest: the SHA-256 of its manifest, recorded when it was registered.
        feature_fingerprint: of its packaged features.
    """

    name: str
    version: str
    alias: str | None
    digest: str
    feature_fingerprint: str

    @property
    def uri(self) -> str:
        """The URI that names this version and no other."""
        return f"models:/{self.name}/{self.version}"


def connect(
    tracking_uri: str | None,
    registry_uri: str | None = None,
    *,
    timeout_seconds: int = 20,
    token: str | None = None,
    experiment: str | None = None,
    artifact_root: str | None = None,
) -> MlflowClient:
    """Point MLflow at its servers and return a client; None leaves MLflow's own setting (MLFLOW_TRACKING_URI) as it is.

    The registry is the tracking server where it has no URI of its own (on Databricks, what Databricks says it is).

    Raises:
        UnavailableError: the server does not answer in time.
    """
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    if token is not None:
        os.environ["MLFLOW_TRACKING_TOKEN"] = token
    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    registry = registry_uri or tracking_uri
    if registry is not None and (registry_uri or not registry.startswith("databricks")):
        mlflow.set_registry_uri(registry)  # else MLflow asks the Spark session, which may be gone
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
    with asking("the tracking server"):
        client = MlflowClient()
    if experiment is not None:
        with asking("the tracking server"):
            if client.get_experiment_by_name(experiment) is None:
                location = f"{artifact_root.rstrip('/')}/{experiment}" if artifact_root else None
                client.create_experiment(experiment, artifact_location=location)
            mlflow.set_experiment(experiment)
    return client


def resolve(uri: str, client: MlflowClient | None = None) -> ModelVersion:
    """Return the version that "models:/name@alias" or "models:/name/3" names now.

    Raises:
        ConfigurationError: it is no such URI.
        ModelError: there is no such model, alias or version (the message lists what there is), or another tool registered it.
        UnavailableError: the registry does not answer.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise ConfigurationError(
            f"{uri!r} is no model URI; expected models:/<name>@<alias> or models:/<name>/<version>"
        )
    name, alias, version = match["name"], match["alias"], match["version"]
    client = client or MlflowClient()
    with asking("the model registry"):
        models = {
            model.name: model for model in client.search_registered_models(filter_string=f"name = '{name}'")
        }
        if name not in models:
            available = [model.name for model in client.search_registered_models(max_results=100)]
            raise ModelError(
                f"no model {name!r} is registered.{did_you_mean(name, available)} Train it: python -m jobs.train_model"
            )
        if alias is not None:
            version = str(dict(models[name].aliases).get(alias) or "")
            if not version:
                raise ModelError(
                    f"model {name!r} has no alias {alias!r}.{did_you_mean(alias, dict(models[name].aliases))}"
                )
        versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    if version not in versions:
        raise ModelError(
            f"model {name!r} has no version {version}. Available: {', '.join(sorted(versions, key=int)) or 'none'}."
        )
    tags = versions[version].tags
    lacking = [tag for tag in (f"{_TAG}digest", f"{_TAG}feature_fingerprint") if tag not in tags]
    if lacking:
        raise ModelError(
            f"{name!r} version {version} was not registered by this project: it has no tag {lacking[0]}"
        )
    return ModelVersion(name, version, alias, tags[f"{_TAG}digest"], tags[f"{_TAG}feature_fingerprint"])


def fetch(version: ModelVersion, cache: Path) -> Path:
    """Return the local directory of a version's files, fetched into the cache unless it is there already.

    The directory is named by the digest and appears whole or not at all; its content is checked when it is loaded.

    Raises:
        UnavailableError: the files cannot be had.
    """
    target = cache / "models" / version.digest
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as scratch:
        with asking("the artifact store"):
            got = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{version.uri}/{_BUNDLE}", dst_path=scratch
            )
        try:
            os.rename(Path(got), target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def register(
    client: MlflowClient,
    name: str,
    bundle: Path,
    input_example: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
) -> ModelVersion:
    """Log a bundle into the active run as a models-from-code pyfunc and register it.

    The first version of a model becomes `champion`, each later one `challenger`, so nothing that serves changes by training.

    Args:
        client: a connected client.
        name: the registered model.
        bundle: what `write_bundle` wrote.
        input_example: rows in the wire form.
        model: the content of its model.json.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        asking("the model registry"),
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(record=True),  # MLflow's, of type hints; it sets filters of its own
    ):
        code = _code(Path(scratch))
        shutil.copytree(bundle, Path(scratch) / _BUNDLE)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(scratch) / "udfs" / "pyfunc.py"),
            artifacts={"bundle": str(Path(scratch) / _BUNDLE)},
            code_paths=code,
            input_example=list(input_example),
            pip_requirements=_requirements(model["certification"].get("libraries", ()), _imported(bundle)),
        )
        set_signature(info.model_uri, _signature(load_bundle(bundle).feature_set))
        version = str(mlflow.register_model(info.model_uri, name).version)
        tags = {
            "digest": bundle_digest(bundle),
            "feature_fingerprint": model["feature_fingerprint"],
            "format_version": model["format_version"],
            "contract_version": model["contract_version"],
            "platform_id": model["platform_id"],
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, version, f"{_TAG}{key}", str(value))
        aliases = dict(client.get_registered_model(name).aliases)
        alias = "challenger" if "champion" in aliases else "champion"
        client.set_registered_model_alias(name, alias, version)
    return ModelVersion(name, version, alias, tags["digest"], tags["feature_fingerprint"])


def _code(scratch: Path) -> list[str]:
    """Copy the two packages that a served model needs, sources alone, and return their paths."""
    for package in (feature_pipelines, udfs):
        for name, content in package_files(package).items():
            file = scratch / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return [str(scratch / package.__name__) for package in (feature_pipelines, udfs)]


def _imported(bundle: Path) -> frozenset[str]:
    """Return what the model's features import."""
    return imported_libraries({file.name: file.read_bytes() for file in (bundle / "features").iterdir()})


def _requirements(libraries: Iterable[str] = (), imported: Iterable[str] = ()) -> list[str]:
    """Return exact pins of what a served model imports: no Spark, a store's client where there is one here, the libraries of its
    estimator and of its features.

    Args:
        libraries: the estimator's beside scikit-learn, as they are imported.
        imported: the features', as they are imported.

    Raises:
        ModelError: one of them was not installed from a distribution that is known here.
    """
    owners = metadata.packages_distributions()
    of_features = sorted({owner.lower() for name in imported for owner in owners.get(name, ())} - {*_RUNTIME})
    pins = [f"{name}=={metadata.version(name)}" for name in ("mlflow", *_RUNTIME, *of_features)]
    for name in _OPTIONAL:
        with suppress(metadata.PackageNotFoundError):
            pins.append(f"{name}=={metadata.version(name)}")
    for library in libraries:
        for name in _DISTRIBUTIONS.get(library, (library,)):
            with suppress(metadata.PackageNotFoundError):
                pins.append(f"{name}=={metadata.version(name)}")
                break
        else:
            raise ModelError(
                f"the model needs {library}, of which no installed distribution says its version"
            )
    return pins


def _signature(feature_set: FeatureSet) -> ModelSignature:
    """Return a signature under which MLflow's server hands over JSON as it came, and CSV as text.

    Every field is named as a string, so that pandas, which reads CSV for MLflow, converts none: its float parser misses the nearest
    double for about a third of those with 17 digits. As MLflow believes the signature to be a type hint's, it leaves JSON alone.
    """
    names = dict.fromkeys((*feature_set.sources.names, AS_OF_TS))
    anything: Any = AnyType
    signature = ModelSignature(
        Schema([ColSpec("string", name, required=False) for name in names]),
        Schema([ColSpec(anything())]),
        ParamSchema([ParamSpec("features", "boolean", False)]),
    )
    signature._is_signature_from_type_hint = True
    return signature


@contextmanager
def asking(whom: str) -> Iterator[None]:
    """Turn what MLflow, a database driver or an HTTP client raises for an absent server into a UnavailableError."""
    try:
        yield
    except MlflowException as exc:
        if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ModelError(f"{whom} refused: {_first_line(exc)}") from exc
        raise UnavailableError(
            f"{whom} at {_where()} did not answer: {_first_line(exc)}. Is it running?"
        ) from exc
    except (OSError, ImportError) as exc:
        raise UnavailableError(
            f"{whom} at {_where()} cannot be reached: {type(exc).__name__}: {_first_line(exc)}"
        ) from exc
    except Exception as exc:
        if type(exc).__module__.startswith(("sqlalchemy", "requests", "urllib3")):
            raise UnavailableError(
                f"{whom} at {_where()} cannot be reached: {type(exc).__name__}: {_first_line(exc)}"
            ) from exc
        raise


def _where() -> str:
    return str(mlflow.get_registry_uri() or mlflow.get_tracking_uri())


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0][:300]
