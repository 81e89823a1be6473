"""The identity of a feature set's code: a SHA-256 over what its functions are and reach, and nothing else.

Read from source alone: the syntax trees (no comments, docstrings or formatting) of every listed and fitting function, of every
name they reach in the feature package, and the declarations. Adding a feature elsewhere changes nothing; changing a table that
a listed function reads does. The environment and fitted values are not part of it (the model's manifest has those).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from feature_pipelines.definitions import FeatureSet, Function
from feature_pipelines.errors import DefinitionError

__all__ = ["Reached", "fingerprint", "module_source", "reach"]


@dataclass
class Reached:
    """What a feature set's functions reach: canonical definitions by (module, name).

    Module names are relative to the feature package (the package of the first listed function), so that the packaged copy of
    a model, imported under another name, has the same fingerprint.
    """

    definitions: dict[tuple[str, str], str] = field(default_factory=dict)


def fingerprint(feature_set: FeatureSet) -> str:
    """Return the feature set's fingerprint, 64 hex digits."""
    payload = {
        "name": feature_set.name,
        "request": [f.describe() for f in feature_set.request],
        "views": [view.describe() for view in feature_set.views],
        "features": list(feature_set.feature_names),
        "intermediates": sorted(f.__name__ for f in feature_set.intermediates),
        "fitted": [[f.name, f.fit.__name__, list(f.columns)] for f in feature_set.fitted],
        "row_id": list(feature_set.row_id),
        "as_of": feature_set.as_of,
        "code": sorted(
            [module, name, text] for (module, name), text in reach(feature_set).definitions.items()
        ),
    }
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def reach(feature_set: FeatureSet) -> Reached:
    """Return everything that the set's functions reach in their own package.

    Raises:
        DefinitionError: a function that is not at the top level of a module with source, or comes from another package.
    """
    functions = [*feature_set.functions, *(f.fit for f in feature_set.fitted)]
    package = _package_of(functions[0])
    reached = Reached()
    for function in functions:
        module = inspect.getmodule(function)
        if (
            module is None
            or module.__package__ != package
            or getattr(module, function.__name__, None) is not function
        ):
            raise DefinitionError(
                f"{function.__module__}.{function.__qualname__}: features and fits must be functions at the top level of "
                f"modules in the package {package!r}, under their own name"
            )
        _Walk(package, reached).visit(module.__name__, function.__name__)
    return reached


def _package_of(function: Function) -> str:
    module = inspect.getmodule(function)
    return module.__package__ or "" if module else ""


class _Walk:
    """Follows names from definition to definition, inside one package."""

    def __init__(self, package: str, reached: Reached) -> None:
        self.package = package
        self.reached = reached

    def visit(self, module_name: str, name: str) -> None:
        module = importlib.import_module(module_name)
        relative = module_name.removeprefix(self.package).lstrip(".")
        if (relative, name) in self.reached.definitions:
            return
        bindings = _bindings(module_source(module))
        if name not in bindings:
            return
        self.reached.definitions[(relative, name)] = ""
        texts = []
        for node in bindings[name]:
            if isinstance(node, ast.ImportFrom | ast.Import):
                texts.append(self._visit_import(module, name, node))
                continue
            texts.append(json.dumps(_canonical(node)))
            for used in sorted(_names_read(node) - {name}):
                self.visit(module_name, used)
        self.reached.definitions[(relative, name)] = "\n".join(texts)

    def _visit_import(self, module: ModuleType, name: str, node: ast.ImportFrom | ast.Import) -> str:
        """An import from inside the package is followed; any other is part of the code by its text."""
        inside = isinstance(node, ast.ImportFrom) and (
            node.level == 1 or (node.module or "").startswith(self.package + ".")
        )
        if not inside or not isinstance(node, ast.ImportFrom):
            alias = next(a for a in node.names if (a.asname or a.name).split(".")[0] == name)
            origin = node.module if isinstance(node, ast.ImportFrom) else ""
            return f"import {origin}:{alias.name}"
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        target = (node.module or "").removeprefix(self.package).lstrip(".")
        if not target:
            raise DefinitionError(
                f"{module.__name__}: 'from . import {original}' hides what is used; write 'from .{original} import ...'"
            )
        self.visit(f"{self.package}.{target}", original)
        return f"from {target}:{original}"


def module_source(module: ModuleType) -> str:
    """Return a module's source text; a DefinitionError where there is none (a model packages it)."""
    loader: Any = getattr(module.__spec__, "loader", None)
    source: str | None = loader.get_source(module.__name__) if hasattr(loader, "get_source") else None
    if source is None:
        raise DefinitionError(f"the source of {module.__name__} cannot be read; a model packages it")
    return source


@functools.lru_cache(maxsize=64)
def _bindings(source: str) -> dict[str, list[ast.stmt]]:
    """Return the top-level statements that bind each name of a module or, like `TABLE.append(3)`, may change its value."""
    body = ast.parse(source).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
    bound: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = {node.name}
        elif isinstance(node, ast.Assign):
            names = {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        else:
            names = _names(node) - imported
        for name in names:
            bound.setdefault(name, []).append(node)
    return bound


def _names(node: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def _names_read(node: ast.stmt) -> set[str]:
    """Return the names a statement reads; a function's parameters hide the module's names in its body."""
    if not isinstance(node, ast.FunctionDef):
        return _names(node)
    parameters = {n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)}
    inside = {name for part in node.body for name in _names(part)}
    outside = {
        name for part in (node.args, node.returns, *node.decorator_list) if part for name in _names(part)
    }
    return (inside - parameters) | outside


def _canonical(node: Any) -> Any:
    """Return a syntax tree as JSON, without docstrings and position; the same under every version of Python that parses it."""
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {
        name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name != "ctx"
    }
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and _is_docstring(node.body[0]):
        fields["body"] = node.body[1:]
    return [type(node).__name__, {name: _canonical(value) for name, value in fields.items()}]


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
