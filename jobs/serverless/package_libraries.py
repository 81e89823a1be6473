"""Which libraries a function needs, and their files without what no function reads: tests, headers, stubs, sources of compiled code.

They are those that are installed where the package is built, so their versions are the ones that were tested together, and the bits
those of this platform. This module knows nothing of models' content.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement

from feature_pipelines.errors import ConfigurationError

__all__ = ["distributions_of", "libraries_of_model", "library_files", "needed_glibc"]

_ESTIMATORS = ("sklearn", "skops")
_NEVER_DIRECTORIES = {"tests", "test", "__pycache__", "_examples", "_pyinstaller"}
_NEVER_ENDINGS = (
    ".a",
    ".c",
    ".cpp",
    ".f",
    ".f90",
    ".h",
    ".hpp",
    ".in",
    ".lib",
    ".pxd",
    ".pxi",
    ".pyc",
    ".pyi",
    ".pyx",
    ".tp",
)
_NEVER_BELOW = (
    "numpy/_core/include/",
    "numpy/_core/lib/",
    "numpy/random/lib/",
    "sklearn/datasets/data/",
    "sklearn/datasets/descr/",
    "sklearn/datasets/images/",
)
_GLIBC = re.compile(r"manylinux_([0-9]+)_([0-9]+)_")
_OLDER_NAMES = {
    "manylinux1_": "manylinux_2_5_",
    "manylinux2010_": "manylinux_2_12_",
    "manylinux2014_": "manylinux_2_17_",
}
_KEPT_FACTS = re.compile(r"(METADATA|(licenses/|LICEN[CS]E|COPYING|NOTICE|AUTHORS).*)", re.IGNORECASE)


def libraries_of_model(model: Mapping[str, Any], features: Collection[str], *, with_redis: bool) -> list[str]:
    """Return the libraries to ship, by the names they are imported by.

    Args:
        model: the content of its model.json.
        features: what its features import.
        with_redis: whether its store may be a Redis server.
    """
    certification = model["certification"]
    estimators = (
        () if certification["evaluator"] == "trees" else (*_ESTIMATORS, *certification.get("libraries", ()))
    )
    return sorted({"numpy", *estimators, *features, *(("redis",) if with_redis else ())})


def distributions_of(libraries: Collection[str]) -> list[metadata.Distribution]:
    """Return the installed distributions of libraries and of all that these require, sorted by name.

    Raises:
        ConfigurationError: one is not installed.
    """
    providers = metadata.packages_distributions()
    found: dict[str, metadata.Distribution] = {}
    waiting = []
    for library in libraries:
        if library not in providers:
            raise ConfigurationError(f"the model needs {library}, which is not installed here")
        waiting += sorted(set(providers[library]))
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError as exc:
            raise ConfigurationError(f"the model needs {name}, which is not installed here") from exc
        for text in found[name].requires or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    return [found[name] for name in sorted(found)]


def library_files(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the files of a distribution that are shipped: their paths below the package's root, and where they are.

    Raises:
        ConfigurationError: it does not say which files are its own, as one that is installed for editing.
    """
    files = distribution.files
    name = distribution.metadata["Name"]
    if not files or any(str(file).endswith(".pth") for file in files):
        raise ConfigurationError(f"{name} is installed without its files; install it anew, from a wheel")
    for file in sorted(files, key=str):
        path = PurePosixPath(str(file))
        if ".." not in path.parts and _is_shipped(path):
            yield str(path), Path(str(distribution.locate_file(file)))


def needed_glibc(distributions: Iterable[metadata.Distribution]) -> tuple[int, int]:
    """Return the oldest C library on which all of them load, as their wheels say; (2, 0) where none is compiled."""
    return max((_glibc_of(one.read_text("WHEEL") or "") for one in distributions), default=(2, 0))


def _glibc_of(wheel: str) -> tuple[int, int]:
    """Return the oldest of the C libraries that a wheel is tagged for; its older names stand for one each."""
    text = wheel
    for name, tag in _OLDER_NAMES.items():
        text = text.replace(name, tag)
    return min(((int(a), int(b)) for a, b in _GLIBC.findall(text)), default=(2, 0))


def _is_shipped(path: PurePosixPath) -> bool:
    if path.parts[0].endswith(".dist-info"):
        return _KEPT_FACTS.fullmatch("/".join(path.parts[1:])) is not None
    text = str(path)
    return not (
        _NEVER_DIRECTORIES & set(path.parts)
        or text.endswith(_NEVER_ENDINGS)
        or text.startswith(_NEVER_BELOW)
        or path.name.startswith("conftest.")
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
