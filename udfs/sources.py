"""A package's own source files, wherever it was imported from: a directory, an editable install, a wheel or a zip."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from types import ModuleType

__all__ = ["package_files"]

_MADE = ("__pycache__", ".pyc", ".nbi", ".nbc")


def package_files(package: ModuleType) -> dict[str, bytes]:
    """Return the content of every file of a package by its path, which begins with the package's name; nothing that runs made.

    >>> import udfs
    >>> "udfs/sources.py" in package_files(udfs)
    True
    """
    return dict(sorted(_below(resources.files(package), package.__name__.replace(".", "/"))))


def _below(directory: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        if entry.name.endswith(_MADE):
            continue
        if entry.is_dir():
            yield from _below(entry, f"{path}/{entry.name}")
        else:
            yield f"{path}/{entry.name}", entry.read_bytes()
