"""A feature set's own source, packaged with a model and imported again under a private name.

The private name contains the fingerprint and a digest of the files, so several versions of the same features live in one
process and none of them is the module that happens to be importable today. This module knows nothing of registries.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import DefinitionError, ModelIntegrityError, did_you_mean
from feature_pipelines.fingerprint import fingerprint, module_source

__all__ = ["import_packaged", "imported_libraries", "load_reference", "package_sources"]

_IMPORTING = threading.RLock()
_PACKAGES: dict[str, Mapping[str, str]] = {}


def load_reference(reference: str) -> FeatureSet:
    """Return the feature set that "package.module:NAME" names.

    Raises:
        DefinitionError: the module or the name does not exist, or it is not a FeatureSet.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        raise DefinitionError(f"feature set {reference!r}: no module {exc.name!r}") from exc
    return _attribute(module, name or "FEATURES", reference)


def package_sources(reference: str) -> dict[str, bytes]:
    """Return the source files, by file name, that importing the feature set's module needs from its own package."""
    module_name = reference.partition(":")[0]
    package = importlib.import_module(module_name).__package__ or ""
    files: dict[str, bytes] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        file_name = name.rpartition(".")[2] + ".py"
        if file_name in files:
            continue
        source = module_source(importlib.import_module(name))
        files[file_name] = source.encode()
        waiting.extend(_imported_from(package, source))
    return files


def imported_libraries(files: Mapping[str, bytes]) -> frozenset[str]:
    """Return what packaged features need installed: the top-level packages that their sources import outside the standard library.

    Also through this package's modules (feature_pipelines.images imports PIL), as far as those are imported when it is.

    Args:
        files: the packaged source files' content by file name.
    """
    waiting, seen, found = list(files.values()), set(), set()
    while waiting:
        for name in _imported_at_top(ast.parse(waiting.pop())):
            top = name.partition(".")[0]
            if top != __package__:
                found.add(top)
            elif name not in seen:
                seen.add(name)
                waiting.append(module_source(importlib.import_module(name)).encode())
    return frozenset(found - sys.stdlib_module_names)


def _imported_at_top(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of the modules that a source's own statements import, not those inside of functions or conditions."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def _imported_from(package: str, source: str) -> list[str]:
    """Return the modules of the package that a source imports; refuse an import that a model's own copy could not follow."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        problem = _problem(package, node, is_at_top=node in tree.body)
        if problem is not None:
            raise DefinitionError(problem)
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.append(f"{package}.{node.module}")
    return found


def _problem(package: str, node: ast.Import | ast.ImportFrom, *, is_at_top: bool) -> str | None:
    """Return why an import would not be part of a packaged model or of its fingerprint, None if it is or need not be."""
    said = ast.unparse(node)
    if isinstance(node, ast.Import):
        inside = [alias.name for alias in node.names if f"{alias.name}.".startswith(f"{package}.")]
        return (
            f"{said!r} ties features to the installed package; write 'from .{_last(inside[0])} import ...'"
            if inside
            else None
        )
    if node.level > 1:
        return f"{said!r} leaves the package {package!r}, and a model has that package alone; write the other package's full name"
    module = node.module or ""
    if node.level == 0:
        parent, _, last = package.rpartition(".")
        names = {alias.name for alias in node.names}
        if f"{module}.".startswith(f"{package}.") or (parent and module == parent and last in names):
            return (
                f"{said!r} ties features to the installed package; write 'from .{_last(module)} import ...', so that a model's "
                "own copy finds its own copy"
            )
        return None
    if not module:
        return f"{said!r} hides what is used; write 'from .{node.names[0].name} import ...'"
    if any(alias.name == "*" for alias in node.names):
        return f"{said!r} hides what is used; name it"
    if not is_at_top:
        return f"{said!r} stands inside a function, where its code escapes the fingerprint; move it to the top of the module"
    return None


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def import_packaged(
    files: Mapping[str, bytes], module: str, name: str, expected_fingerprint: str
) -> FeatureSet:
    """Import a packaged feature set under its private name, once per process, and return it.

    Args:
        files: the packaged source files' content by file name: what was checked is what runs.
        module: the file to import, without ".py".
        name: the FeatureSet in it.
        expected_fingerprint: what the model recorded.

    Raises:
        ModelIntegrityError: the code cannot be imported, has no such feature set, or has another fingerprint.
    """
    package = f"_onescore_{expected_fingerprint[:16]}_{_digest(files)[:8]}"
    with _IMPORTING:
        if package not in _PACKAGES:
            _PACKAGES[package] = {
                name.removesuffix(".py"): content.decode() for name, content in files.items()
            }
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.append(_Finder())
        try:
            feature_set = _attribute(importlib.import_module(f"{package}.{module}"), name, f"{module}:{name}")
        except Exception as exc:
            missing = isinstance(exc, ModuleNotFoundError) and (exc.name or "").partition(".")[0] != package
            hint = ". Install what the model's features import wherever it runs" if missing else ""
            raise ModelIntegrityError(
                f"the model's packaged features cannot be imported: {exc}{hint}"
            ) from exc
    actual = fingerprint(feature_set)
    if actual != expected_fingerprint:
        raise ModelIntegrityError(
            f"the model's packaged features have fingerprint {actual[:12]}, it recorded {expected_fingerprint[:12]}",
            actual=actual,
            expected=expected_fingerprint,
        )
    return feature_set


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the private packages, from the sources held in memory: the directory may be gone, or changed, by now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a private package or of a module in it."""
        package, _, module = fullname.partition(".")
        sources = _PACKAGES.get(package)
        if sources is None or (module and module not in sources):
            return None
        loader = _Loader(sources.get(module, ""), f"{package}/{module or '__init__'}.py")
        return importlib.util.spec_from_loader(fullname, loader, is_package=not module)


class _Loader(importlib.abc.InspectLoader):
    """Runs one module from its source text."""

    def __init__(self, source: str, path: str) -> None:
        self.source = source
        self.path = path

    def get_source(self, fullname: str) -> str:
        """Return the source text."""
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled source; tracebacks show the packaged file's name."""
        return self.source_to_code(self.source, self.path)


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _attribute(module: ModuleType, name: str, reference: str) -> FeatureSet:
    value = getattr(module, name, None)
    if not isinstance(value, FeatureSet):
        sets = [key for key, item in vars(module).items() if isinstance(item, FeatureSet)]
        raise DefinitionError(f"{reference!r} is not a FeatureSet.{did_you_mean(name, sets)}")
    return value
