"""The package of one model version: its files, the code and the libraries that score it, a store if it brings one, and how to start it.

    function.zip                   AWS Lambda, handler jobs.serve_lambda.handler
    context/Dockerfile             the same as an image for Lambda, with a C library as new as the libraries need
    context/Dockerfile.functions   the same as an image for Google Cloud Run functions
    context/app/                   what both contain

Equal inputs give equal bytes. This module knows no registry; it reads the store that it is to copy.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import feature_pipelines
import jobs
import udfs
from feature_pipelines.errors import ConfigurationError, VerificationError
from feature_pipelines.stores.sqlite_snapshot import write_snapshot
from feature_pipelines.views import FeatureView
from jobs.serverless.function import runtime_name
from jobs.serverless.package_code import libraries_of_sources, needed_modules, sources_by_module
from jobs.serverless.package_libraries import (
    distributions_of,
    libraries_of_model,
    library_files,
    needed_glibc,
)
from jobs.serverless.package_tree import compile_tree, tree_bytes
from jobs.serverless.settings import FORMAT_VERSION, MANIFEST, MODEL, SNAPSHOT, FunctionSettings
from udfs.sources import package_files

__all__ = [
    "MOST_BYTES",
    "Packaged",
    "add_code",
    "describe_package",
    "largest_parts",
    "write_context",
    "write_model",
    "zip_runtime",
]

MOST_BYTES = 262_144_000
"""What Lambda unzips at most: 250 MB."""
_MOST_BYTES_OF_NUMPY = 100_000_000
"""Of code and libraries, where numpy is the only one."""
_ENTRY_POINTS = ("jobs.serve_lambda", "jobs.serve_function")
_ESTIMATOR = "estimator.skops"
_PROVIDED = ("boto3", "botocore")  # by AWS's runtimes
_MAIN = '''"""The functions of this package, where Google's functions-framework looks for them."""

from jobs.serve_function import score, uploaded

__all__ = ["score", "uploaded"]
'''
_LAMBDA_IMAGE = """\
FROM python:{python}-slim
RUN pip install --no-cache-dir awslambdaric=={awslambdaric} boto3=={boto3}
COPY app/ /var/task/
WORKDIR /var/task
ENTRYPOINT ["python", "-m", "awslambdaric"]
CMD ["jobs.serve_lambda.handler"]
"""
_GOOGLE_IMAGE = """\
FROM python:{python}-slim
RUN pip install --no-cache-dir functions-framework=={functions-framework}
COPY app/ /app/
WORKDIR /app
ENV PORT=8080
CMD ["functions-framework", "--source=main.py", "--target=score"]
"""
_CLIENTS = {"awslambdaric": "4.2.2", "boto3": "1.44.8", "functions-framework": "3.10.2"}
_GLIBC_OF_LAMBDA = {(3, 11): (2, 26)}
"""Lambda's own Python runtimes up to 3.11 are of Amazon Linux 2; later ones of Amazon Linux 2023."""
_GLIBC_OF_LATER = (2, 34)


@dataclass(frozen=True)
class Packaged:
    """What a package contains.

    Args:
        unzipped_bytes: of all files; with more than MOST_BYTES it is for a container alone.
        libraries: name and version of each.
        modules: of this project's code.
        through: W of each view of the snapshot, microseconds; empty without one.
    """

    unzipped_bytes: int
    libraries: Mapping[str, str]
    modules: Sequence[str]
    through: Mapping[str, int]


def write_model(
    target: Path,
    bundle: Path,
    settings: FunctionSettings,
    *,
    version: str | None,
    digest: str,
    views: Sequence[FeatureView] = (),
    snapshot_of: Path | None = None,
) -> dict[str, int]:
    """Write the model's files, the snapshot and onescore.json, which is all that the code needs to serve; return W of the snapshot.

    Args:
        target: a directory, made.
        bundle: the model's directory.
        settings: of the function.
        version, digest: of the model.
        views: of the model.
        snapshot_of: the SQLite store to copy them from; None = no snapshot.

    Raises:
        UnavailableError, ContractError: see `write_snapshot`.
    """
    target.mkdir(parents=True, exist_ok=True)
    has_trees = (bundle / "trees.npz").is_file()
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        if path.is_file() and "__pycache__" not in name.parts and not (has_trees and str(name) == _ESTIMATOR):
            (target / MODEL / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / MODEL / name)
    has_snapshot = snapshot_of is not None and bool(views)
    through = write_snapshot(snapshot_of, target / SNAPSHOT, views) if snapshot_of and views else {}
    facts = {
        "format_version": FORMAT_VERSION,
        "model_version": version,
        "digest": digest,
        "has_snapshot": has_snapshot,
        "materialised_through": through,
        "runtime": runtime_name(),
        "settings": asdict(settings),
    }
    (target / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return through


def add_code(target: Path, bundle: Path, *, with_redis: bool) -> tuple[list[str], dict[str, str]]:
    """Add this project's code, the libraries, and both compiled; return the modules, and the libraries with their versions.

    Args:
        target: of `write_model`.
        bundle: the model's directory.
        with_redis: whether the store may be a Redis server.

    Raises:
        ConfigurationError: this machine is not what functions run on, or a library is not installed.
        VerificationError: the code would need a library that the package is not to contain.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(
            f"libraries are copied from this machine, which is {sys.platform}; functions run on Linux: package the model there, such "
            "as in a container"
        )
    files = {
        path: content
        for package in (feature_pipelines, udfs, jobs)
        for path, content in package_files(package).items()
    }
    sources = sources_by_module(files)
    features = [path.read_text(encoding="utf-8") for path in sorted((bundle / "features").glob("*.py"))]
    model = json.loads((bundle / "model.json").read_bytes())
    libraries = libraries_of_model(model, libraries_of_sources(features, sources), with_redis=with_redis)
    modules = needed_modules(sources, _ENTRY_POINTS, features, {*libraries, *_PROVIDED})
    paths = {name.replace(".", "/") for name in modules}
    for path, content in files.items():
        if path.removesuffix(".py").removesuffix("/__init__") in paths and path.endswith(".py"):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)
    (target / "main.py").write_text(_MAIN)
    shipped = {}
    for distribution in distributions_of(libraries):
        shipped[distribution.metadata["Name"]] = distribution.version
        for name, found in library_files(distribution):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, target / name)
    compile_tree(target)
    return modules, shipped


def describe_package(
    target: Path, modules: Sequence[str], libraries: Mapping[str, str], through: Mapping[str, int]
) -> Packaged:
    """Return what was packaged.

    Raises:
        VerificationError: the libraries are numpy alone, and they and the code are larger than those should be.
    """
    size = tree_bytes(target)
    of_model = tree_bytes(target / MODEL) + tree_bytes(target / SNAPSHOT)
    if set(libraries) == {"numpy"} and size - of_model > _MOST_BYTES_OF_NUMPY:
        raise VerificationError(
            f"code and libraries have {(size - of_model) / 1e6:.0f} MB, expected {_MOST_BYTES_OF_NUMPY / 1e6:.0f} MB at most with numpy "
            f"alone; largest: {largest_parts(target)}"
        )
    return Packaged(size, dict(libraries), list(modules), dict(through))


def largest_parts(target: Path) -> str:
    """Return the five largest files and directories of a package in words."""
    sizes = sorted(((tree_bytes(path), path.name) for path in target.iterdir()), reverse=True)
    return ", ".join(f"{name} {n / 1e6:.0f} MB" for n, name in sizes[:5])


def write_context(directory: Path) -> None:
    """Write the Dockerfiles beside `app`."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions = {name: _installed(name) or version for name, version in _CLIENTS.items()}
    (directory / "Dockerfile").write_text(_LAMBDA_IMAGE.format(python=python, **versions))
    (directory / "Dockerfile.functions").write_text(_GOOGLE_IMAGE.format(python=python, **versions))


def zip_runtime(libraries: Mapping[str, str]) -> str:
    """Return in words where the zip runs: Lambda's runtime of this Python, if its C library is not older than the libraries need.

    Args:
        libraries: name and version of each that is shipped.
    """
    version = sys.version_info[:2]
    has = _GLIBC_OF_LAMBDA.get(version, _GLIBC_OF_LATER)
    needs = needed_glibc(metadata.distribution(name) for name in libraries)
    name = f"Lambda's python{version[0]}.{version[1]}"
    if needs <= has:
        return name
    return (
        f"not on {name}, which has glibc {has[0]}.{has[1]}, and the libraries need {needs[0]}.{needs[1]}: deploy the container, or "
        "package under Python 3.12 or later"
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
