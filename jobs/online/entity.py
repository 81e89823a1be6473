"""An entity that is to be forgotten: the values of the request fields that name it, and how they are told in what was kept of requests.

A value was kept as its caller wrote it (JSON text in the prediction log, a JSON row in quarantine) or as a keyed hash of that text,
so equality is that of the declared type, not of the text. This module knows nothing of stores, files or tables.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feature_pipelines.columns import DType
from feature_pipelines.errors import ConfigurationError, did_you_mean
from feature_pipelines.reasons import Refused
from feature_pipelines.schema import Schema
from feature_pipelines.wire import parse

__all__ = ["Entity", "parse_entity"]

_KINDS = ("string", "int64", "int32")


@dataclass(frozen=True)
class Entity:
    """What names it: all of these values together.

    Args:
        values: by request field.
        types: of the same fields: string, int64 or int32.
    """

    values: Mapping[str, str | int]
    types: Mapping[str, DType]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in the order given."""
        return tuple(self.values)

    def is_value(self, name: str, value: Any) -> bool:
        """Return whether a JSON value that a row has for a field is the entity's; one that breaks the contract is compared as text."""
        wanted = self.values[name]
        if value is None:
            return False
        try:
            return bool(parse(self.types[name], value) == wanted)
        except Refused:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return (is_number and value == wanted) or str(value).strip() == str(wanted)

    def is_text(self, name: str, text: str | None, hashes: frozenset[str]) -> bool:
        """Return whether what the prediction log has for a field is the entity's: JSON text, or one of the hashes."""
        if text is None or text in hashes:
            return text is not None
        try:
            return self.is_value(name, json.loads(text))
        except (ValueError, RecursionError):  # a hash, or no value at all
            return False

    def is_row(self, row: str) -> bool:
        """Return whether a JSON object has all of the entity's values."""
        parsed = json.loads(row)
        return all(self.is_value(name, parsed.get(name)) for name in self.values)

    def hashes(self, name: str, key: bytes | None) -> frozenset[str]:
        """Return the hashes by which the prediction log may hold a field's value: of the value, and of an integer as a string.

        An integer that a caller wrote in yet another way ("007") has a hash that cannot be named.
        """
        if key is None:
            return frozenset()
        value = self.values[name]
        texts = {json.dumps(value), json.dumps(str(value))}
        return frozenset(hmac.new(key, text.encode(), hashlib.sha256).hexdigest() for text in texts)


def parse_entity(request: Schema, texts: Sequence[str]) -> Entity:
    """Return the entity that options COLUMN=VALUE name.

    Args:
        request: the request's fields.
        texts: one option each; a field at most once.

    Raises:
        ConfigurationError: no "=", no such field (with close matches), a field of a type that names no entity, given twice, or a
            value that is not of its declared type.
    """
    values: dict[str, str | int] = {}
    types: dict[str, DType] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--key {text}: expected COLUMN=VALUE")
        if name not in request:
            raise ConfigurationError(
                f"--key {name}: no such request field.{did_you_mean(name, request.names)}", column=name
            )
        dtype = request[name].dtype
        if dtype.kind not in _KINDS:
            raise ConfigurationError(
                f"--key {name}: the field is {dtype}; an entity is named by fields of {', '.join(_KINDS)}"
            )
        if name in values:
            raise ConfigurationError(f"--key {name}: given twice; run the job once for each value")
        try:
            values[name], types[name] = parse(dtype, value), dtype
        except Refused as exc:
            raise ConfigurationError(f"--key {name}: the value is not of its type: {exc}") from None
    if not values:
        raise ConfigurationError("no --key was given")
    return Entity(values, types)
