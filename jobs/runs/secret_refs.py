"""References to secrets, so that configuration, plans, runs and errors can be shown to anyone.

Configuration never holds a secret, only where to find it: `env:NAME` (an environment variable) or `file:PATH` (a file,
such as a mounted secret). The value is read at the moment of use and is not kept on the object. This module knows nothing of
what the secrets are for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from feature_pipelines.errors import ConfigurationError
from jobs.runs.secret_rules import MASK, masked_parameters

__all__ = ["SecretRef", "mask", "remember"]

_REFERENCE = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*)")
_URI_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")
_SHORTEST_MASKED = 4

_known_references: set[SecretRef] = set()
_revealed_values: set[str] = set()


class SecretRef:
    """Where a secret is to be found: `env:NAME` or `file:PATH`; every way to print it shows the reference.

    Args:
        reference: the reference; anything else is refused without being repeated in the error.

    Raises:
        ValueError: the text is not a reference (it may be the secret itself, so it is not shown).

    >>> str(SecretRef("env:MLFLOW_TRACKING_TOKEN"))
    'env:MLFLOW_TRACKING_TOKEN'
    """

    __slots__ = ("_reference",)

    def __init__(self, reference: object) -> None:
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise ValueError("expected a reference env:NAME or file:PATH, got a literal value (not shown)")
        self._reference = reference
        _known_references.add(self)

    def reveal(self) -> str:
        """Return the secret, read now; a file's trailing line break is not part of it.

        Raises:
            ConfigurationError: the variable is not set, the file cannot be read, or it is empty; names the reference only.
        """
        kind, _, where = self._reference.partition(":")
        value = os.environ.get(where, "") if kind == "env" else _read_secret_file(where, self._reference)
        if not value:
            problem = "the variable is not set" if kind == "env" else "the file is empty"
            raise ConfigurationError(f"secret {self._reference}: {problem}.", reference=self._reference)
        _revealed_values.add(value)
        return value

    def __str__(self) -> str:
        return self._reference

    def __repr__(self) -> str:
        return f"SecretRef({self._reference!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and other._reference == self._reference

    def __hash__(self) -> int:
        return hash(self._reference)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def remember(secret: str) -> None:
    """Let `mask` hide a secret that came by another way than a reference, such as a part of one or a variable of Spark's own."""
    _revealed_values.add(secret)


def mask(text: str) -> str:
    """Return the text with every secret this process refers to, `user:password@` and secret parameters of a URI replaced by ***.

    Values shorter than 4 characters are left alone: masking them would only tear the text apart.
    """
    values = set(_revealed_values)
    for reference in _known_references:
        try:
            values.add(reference.reveal())
        except ConfigurationError:
            continue
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST_MASKED:
            text = text.replace(value, MASK)
    return masked_parameters(_URI_CREDENTIALS.sub(MASK, text))


def _read_secret_file(where: str, reference: str) -> str:
    path = Path(os.environ.get("ONESCORE_HOME", "")) / Path(where).expanduser()
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"secret {reference}: {reason}.", reference=reference) from None
