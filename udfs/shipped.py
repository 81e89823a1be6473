"""A model and its indexed views on their way to Spark's workers: one archive, loaded and verified once per worker process.

The same calls serve classic Spark and Spark Connect; nothing needs a SparkContext. Arrays are stored uncompressed, so that the
workers of a machine map the same unpacked files into memory.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from pyspark import SparkFiles

import feature_pipelines
import udfs
from feature_pipelines.lookup import AsOfIndex
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.sources import package_files

__all__ = ["is_remote", "load_kernel", "model_directory", "ship", "ship_code"]

_KERNELS: dict[tuple[str, bool], Kernel] = {}
_KEPT = 4
_SENT: set[tuple[str, str]] = set()


def ship(
    spark: Any, bundle: Path, indexes: Mapping[str, AsOfIndex], packages: Sequence[ModuleType] = ()
) -> str:
    """Send a model, its indexed views and this code to every worker, and return the name by which `load_kernel` finds them.

    Workers run the driver's own copy of the code, whatever is or is not installed there; those of a local session whose
    PYTHONPATH has the source tree share its files.

    Args:
        spark: a classic or Connect session.
        bundle: the model's directory.
        indexes: by view name.
        packages: what the tasks import of this project besides feature_pipelines and udfs.
    """
    ship_code(spark, packages)
    scratch = Path(_scratch().name)
    views = scratch / f"views-{uuid.uuid4().hex}"
    for name, index in indexes.items():
        index.save(views / name)
    partial = views.with_suffix(".zip")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "model", bundle)
        _add(archive, "views", views)
    shutil.rmtree(views, ignore_errors=True)
    name = f"onescore-{hashlib.sha256(partial.read_bytes()).hexdigest()[:16]}"
    zipped = partial.rename(scratch / f"{name}.zip")
    if is_remote(spark):
        spark.addArtifacts(f"{zipped}#{name}", archive=True)
    else:
        spark.sparkContext.addArchive(f"{zipped}#{name}")
    return name


@functools.cache
def _scratch() -> TemporaryDirectory[str]:
    """Return a directory that lives as long as this process: executors fetch the archive when their first task starts."""
    return TemporaryDirectory(prefix="onescore-")


def ship_code(spark: Any, packages: Sequence[ModuleType] = ()) -> None:
    """Send this code to every worker, as a zip that goes onto its path; once per session, and not where workers have it.

    Args:
        spark: a classic or Connect session.
        packages: what tasks import of this project besides feature_pipelines and udfs.
    """
    packages = (feature_pipelines, udfs, *packages)
    if not is_remote(spark) and _shares_files(spark, packages):
        return
    files = {name: content for package in packages for name, content in package_files(package).items()}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    zipped = Path(_scratch().name) / f"onescore-code-{digest.hexdigest()[:16]}.zip"
    key = (spark.session_id if is_remote(spark) else spark.sparkContext.applicationId, zipped.name)
    if key in _SENT:
        return
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    if is_remote(spark):
        spark.addArtifacts(str(zipped), pyfile=True)
    else:
        spark.sparkContext.addPyFile(str(zipped))
    _SENT.add(key)


def _shares_files(spark: Any, packages: Sequence[ModuleType]) -> bool:
    """Return whether the workers are this machine's and inherited the directories from which the packages were imported."""
    roots = [Path(package.__path__[0]).resolve().parent for package in packages]
    inherited = {Path(path).resolve() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    is_local = spark.sparkContext.master.startswith("local")
    return is_local and all(root.is_dir() and root in inherited for root in roots)


def is_remote(spark: Any) -> bool:
    """Return whether the session is a Spark Connect client, which has no SparkContext."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def load_kernel(name: str, allow_tolerance: bool = False) -> Kernel:
    """Return, inside a task, the kernel of what `ship` sent; loaded and verified once per process, the last few used stay in memory.

    Raises:
        FileNotFoundError: it did not arrive; the task fails and Spark tries it again.
        ModelIntegrityError: this worker does not reproduce the model's golden rows.
    """
    key = (name, allow_tolerance)
    kept = _KERNELS.pop(key, None)
    if kept is not None:
        _KERNELS[key] = kept
    else:
        directory = _located(name)
        scorer = load_bundle(directory / "model", allow_tolerance=allow_tolerance)
        indexes = {
            view.name: AsOfIndex.load(view, directory / "views" / view.name)
            for view in scorer.feature_set.views
            if (directory / "views" / view.name).is_dir()
        }
        _KERNELS[key] = Kernel(scorer, indexes)
        while len(_KERNELS) > _KEPT:  # a stream sends its views again and again
            del _KERNELS[next(iter(_KERNELS))]
    return _KERNELS[key]


def model_directory(name: str) -> Path:
    """Return, inside a task, the directory of the model that `ship` sent.

    Raises:
        FileNotFoundError: it did not arrive.
    """
    return _located(name) / "model"


def _add(archive: zipfile.ZipFile, name: str, directory: Path) -> None:
    """Add a directory's files in a fixed order and with a fixed time, so that equal content has an equal name."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(directory).as_posix()}")
            archive.writestr(entry, path.read_bytes())


def _located(name: str) -> Path:
    places = [Path(SparkFiles.getRootDirectory()) / name, Path.cwd() / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{name} did not reach this worker; looked in {', '.join(map(str, places))}")
