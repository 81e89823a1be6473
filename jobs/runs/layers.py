"""Layers of settings: one YAML text or one --set each, flattened by the declared keys, merged key by key, errors explained.

A layer is checked for unknown keys before it is merged, so that an error names the file that is wrong. Nothing of a value
that may be a secret appears in a message. This module does not know which files there are, nor what a key means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.runs.secret_refs import mask
from jobs.runs.secret_rules import is_secret_key
from jobs.runs.settings import Section

__all__ = [
    "Fields",
    "Layer",
    "Path",
    "declared_keys",
    "explain",
    "merge",
    "nest",
    "parse_file",
    "parse_override",
]

Path = tuple[str, ...]
Fields = Mapping[str, FieldInfo]
_LONGEST_SHOWN = 60
_NEVER_SHOWN = ("spark.conf", "spark.remote", "store.url")
_KEY = re.compile(r"[\w./\-]+")


@dataclass(frozen=True)
class Layer:
    """What one source sets, by path of the key, and what is wrong with it."""

    name: str
    values: dict[Path, Any]
    problems: tuple[str, ...]


def parse_file(name: str, text: str, fields: Fields) -> Layer:
    """Return the layer of a YAML text.

    Raises:
        ConfigurationError: it is not YAML, or a key is written twice; names the line, never its text.
    """
    return _flattened(name, _parse_yaml(name, text), fields)


def parse_override(text: str, fields: Fields) -> Layer:
    """Return the layer of one `section.key=value`; below an open mapping the rest is one key, dots included.

    Raises:
        ConfigurationError: there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not _KEY.fullmatch(key):
        raise ConfigurationError(
            "--set: expected section.key=value, got a text that begins with no key (not shown)."
        )
    if not equals:
        raise ConfigurationError(f"--set {key}: expected section.key=value.", key=key)
    name = f"--set {key}"
    parts = key.split(".")
    top = fields.get(parts[0])
    depth = 1 if top is not None and _is_open(top) else 2
    path = parts[:depth] + ([".".join(parts[depth:])] if parts[depth:] else [])
    content: Any = _parse_yaml(name, value)
    for part in reversed(path):
        content = {part: content}
    return _flattened(name, content, fields)


def merge(layers: Sequence[Layer], fields: Fields) -> tuple[dict[Path, Any], dict[Path, str]]:
    """Return the values by path, later layers winning key by key, and the name of the layer that each came from."""
    values: dict[Path, Any] = {path: {} for path, field in declared_keys(fields) if _is_open(field)}
    origins: dict[Path, str] = {}
    for layer in layers:
        values.update(layer.values)
        origins.update(dict.fromkeys(layer.values, layer.name))
    return values, origins


def nest(values: Mapping[Path, Any]) -> dict[str, Any]:
    """Return the values as nested mappings."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        level = nested
        for part in path[:-1]:
            level = level.setdefault(part, {})
        level[path[-1]] = value
    return nested


def declared_keys(fields: Fields) -> Iterator[tuple[Path, FieldInfo]]:
    """Yield (path, declaration) of every key, in the order of the sections."""
    for name, field in fields.items():
        section = _section(field)
        if section is None:
            yield (name,), field
        else:
            yield from (((name, inner), declared) for inner, declared in section.model_fields.items())


def explain(error: ValidationError, origins: Mapping[Path, str], fields: Fields) -> Iterator[str]:
    """Yield one sentence per wrong key: the key, where its value came from, what was expected, what was got."""
    declared = {path for path, _ in declared_keys(fields)}
    told: set[Path] = set()
    for item in error.errors(include_url=False):
        location = tuple(str(part) for part in item["loc"])
        key = next((location[:size] for size in (2, 1) if location[:size] in declared), location[:1])
        if key in told:
            continue
        told.add(key)
        if item["type"] == "missing":
            yield f"{'.'.join(key)}: not set in any file"
            continue
        sources = sorted(
            {name for path, name in origins.items() if path[: len(key)] == key} if key in declared else ()
        )
        where = f" ({', '.join(sources)})" if sources else ""
        got = "" if item["type"] == "value_error" else f", got {_shown(key, item['input'])}"
        yield f"{'.'.join(key)}{where}: {item['msg'].removeprefix('Value error, ').rstrip('.')}{got}"


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(name: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, only stricter
    except (yaml.YAMLError, TypeError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(exc, "problem", None) or "not valid YAML"
        raise ConfigurationError(f"{name}{line}: {problem}.", file=name) from None


def _flattened(name: str, content: Any, fields: Fields) -> Layer:
    values: dict[Path, Any] = {}
    problems: list[str] = []

    def walk(known: Fields, mapping: Any, path: Path) -> None:
        if not isinstance(mapping, Mapping):
            where = ".".join(path) or "the whole"
            problems.append(f"{name}: {where}: expected a mapping of keys, got {_shown(path, mapping)}")
            return
        for key, value in mapping.items():
            here = (*path, str(key))
            field = known.get(str(key))
            if field is None:
                hint = did_you_mean(str(key), known).rstrip(".")
                problems.append(f"{name}: unknown key '{'.'.join(here)}'.{hint}")
            elif (section := _section(field)) is not None:
                walk(section.model_fields, {} if value is None else value, here)
            elif not _is_open(field):
                values[here] = value
            elif isinstance(value, Mapping):
                values.update({(*here, str(entry)): inner for entry, inner in value.items()})
            else:
                problems.append(f"{name}: {'.'.join(here)}: expected a mapping, got {_shown(here, value)}")

    walk(fields, {} if content is None else content, ())
    return Layer(name, values, tuple(problems))


def _shown(path: Iterable[str], value: Any) -> str:
    """Return a value for a message, unless its key says that it may be a secret."""
    key = ".".join(path)
    if is_secret_key(key) or key.startswith(_NEVER_SHOWN):
        return "a value that is not shown"
    text = mask(repr(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Section) else None


def _is_open(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict
