"""Which of this project's modules a function needs: those that its entry points reach, and none that needs a library left out.

Imports are followed wherever they stand, in functions too, and so are names of modules in strings, by which backends are opened. A
module whose own top imports a library that is not shipped cannot be imported there, so it is left out, and all that cannot be imported
without it. This module runs where a package is built; it imports nothing of what it looks at.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from feature_pipelines.errors import VerificationError

__all__ = ["libraries_of_sources", "needed_modules", "sources_by_module"]

_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?::[A-Za-z_]\w*)?")


@dataclass(frozen=True)
class _Imports:
    """What a source imports: `always` when it is imported itself, `ever` at any time; dotted names, of whichever kind."""

    always: frozenset[str]
    ever: frozenset[str]


def sources_by_module(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return Python files by the dotted names of their modules; packages by their own."""
    found = {}
    for path, content in files.items():
        if path.endswith(".py"):
            name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            found[name] = content.decode()
    return found


def needed_modules(
    sources: Mapping[str, str],
    entry_points: Collection[str],
    features: Collection[str],
    shipped: Collection[str],
) -> list[str]:
    """Return the modules to ship, sorted, packages that hold them included.

    Args:
        sources: of this project's modules, by name.
        entry_points: modules that are started.
        features: sources of the model's own copy of its features.
        shipped: libraries that are there, by the names they are imported by.

    Raises:
        VerificationError: an entry point, or what the features import, needs a library that is not shipped.
    """
    imports = {name: _imports(source) for name, source in sources.items()}
    available = {*sys.stdlib_module_names, *shipped, *{name.partition(".")[0] for name in sources}}
    needed_by_features = {
        name for text in features for name in _modules(_imports(text).ever, sources, available)
    }
    roots = {*entry_points, *needed_by_features}
    reached = set()
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [*_modules(imports[name].ever, sources, available), *_parents(name, sources)]
    left_out = _without_library(reached, imports, sources, available)
    if roots & left_out.keys():
        name = min(roots & left_out.keys())
        raise VerificationError(f"module {name} needs {left_out[name]}, which the package is not to contain")
    return sorted(reached - left_out.keys())


def libraries_of_sources(features: Collection[str], sources: Mapping[str, str]) -> set[str]:
    """Return the libraries that features need when they are imported, by the names they are imported by.

    Args:
        features: sources of the model's own copy of its features.
        sources: of this project's modules, of which features may import some.
    """
    own = {name.partition(".")[0] for name in sources}
    waiting = [_imports(text).always for text in features]
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        for name in waiting.pop():
            top = name.partition(".")[0]
            if top not in own:
                found.add(top)
            elif name in sources and name not in seen:
                seen.add(name)
                waiting.append(_imports(sources[name]).always)
    return found - set(sys.stdlib_module_names)


def _without_library(
    reached: set[str], imports: Mapping[str, _Imports], sources: Mapping[str, str], available: Collection[str]
) -> dict[str, str]:
    """Return the modules that cannot be imported, and the library that each lacks."""
    lacking = {}
    for name in reached:
        missing = {top for one in imports[name].always if (top := one.partition(".")[0]) not in available}
        if missing:
            lacking[name] = min(missing)
    while True:
        more = {
            name: lacking[one]
            for name in reached - lacking.keys()
            for one in _modules(imports[name].always, sources, available)
            if one in lacking
        }
        if not more:
            return lacking
        lacking |= more


def _modules(names: Collection[str], sources: Mapping[str, str], available: Collection[str]) -> Iterator[str]:
    """Yield those of the names that are modules of this project."""
    yield from sorted(name for name in names if name in sources)


def _parents(name: str, sources: Mapping[str, str]) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in sources:
            yield name


def _imports(source: str) -> _Imports:
    tree = ast.parse(source)
    always: set[str] = set()
    for statement in tree.body:
        always |= _named(statement)
    ever = set(always)
    for node in ast.walk(tree):
        ever |= _named(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            reference = _REFERENCE.fullmatch(node.value)
            ever |= {reference[1]} if reference else set()
    typing_only = {name for node in ast.walk(tree) if _is_for_types(node) for name in _below(node)}
    return _Imports(frozenset(always), frozenset(ever - (typing_only - always)))


def _named(node: ast.AST) -> set[str]:
    """Return what an import statement names: of `from a import b` both a and a.b, which may be a module."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return set()


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _below(node: ast.AST) -> set[str]:
    return {name for one in ast.walk(node) for name in _named(one)}
