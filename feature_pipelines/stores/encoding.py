"""How keys and values are written in an online store: exact, versioned, and refused rather than misread.

A value (payload) is one blob per (view, entity):

    byte 0        version of this layout
    bytes 1-8     the view's schema digest
    then          the values, as in `packed`

A key is a typed JSON array, so that no two keys of any two views look alike. This module knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, Nullable, Strings, freeze, values_and_valid
from feature_pipelines.errors import ContractError
from feature_pipelines.packed import Layout, layout_of, pack_rows, row_digest, unpack_rows
from feature_pipelines.schema import null_value
from feature_pipelines.stores.base import Key, unreadable
from feature_pipelines.views import FeatureView

__all__ = [
    "declared_schema",
    "decode_rows",
    "encode_rows",
    "key_prefix",
    "key_text",
    "key_texts",
    "key_values",
    "payload_digest",
    "payload_head",
    "payload_schema",
    "unreadable_payload",
]

KEY_VERSION = 1
PAYLOAD_VERSION = 1

_HEAD = 9
_CODEC = "_stores_codec"
_NULLS = "_stores_nulls"


class _Codec(NamedTuple):
    """One view's layout, schema digest, and what its keys begin with."""

    layout: Layout
    schema: str
    key_prefix: str


def encode_rows(view: FeatureView, columns: Columns, n: int) -> list[bytes]:
    """Return the payload of each of n rows.

    What stands in a null's place is not kept, and every NaN is written as the one canonical NaN.

    Args:
        view: the declaration.
        columns: every field of the view, n rows each.
        n: the number of rows.
    """
    return pack_rows(_codec(view).layout, columns, n)


def payload_digest(payload: bytes) -> bytes:
    """Return the digest of the row that a payload holds: that of `packed.row_digests`."""
    return row_digest(memoryview(payload)[_HEAD:])


def decode_rows(view: FeatureView, payloads: Sequence[bytes | None]) -> dict[str, Column]:
    """Return the view's fields for payloads of `encode_rows`; a null row for None and for b"" (a tombstone's).

    Raises:
        ContractError: a payload of another version or schema (names the view and both), or one that is cut short.
    """
    if not all(payloads):
        return _with_nulls(view, payloads)
    present: Sequence[bytes] = payloads  # type: ignore[assignment]
    codec = _codec(view)
    try:
        return unpack_rows(codec.layout, present)
    except ContractError:
        head = codec.layout.head
        raise unreadable_payload(view, next((p for p in present if not p.startswith(head)), head)) from None


def declared_schema(view: FeatureView) -> str:
    """Return `view.schema_digest()`, computed once per view object."""
    return _codec(view).schema


def payload_head(view: FeatureView) -> bytes:
    """Return the 9 bytes that every payload of a view begins with: layout version and schema digest."""
    return _codec(view).layout.head


def key_prefix(view: FeatureView) -> str:
    """Return what every key of a view begins with, and no key of another view."""
    return _codec(view).key_prefix


def key_text(view: FeatureView, key: Key) -> str:
    """Return an entity's key in a store: a JSON array of the version, the view's name and the key's values.

    Strings and integers stay apart, and no two keys of any two views have the same text. ASCII only; a string is not normalised.

    >>> from feature_pipelines import Field, Float64, Schema
    >>> view = FeatureView("plane", {"tail_number": "tail_number"}, Schema((Field("age", Float64),)))
    >>> key_text(view, ("N14228",)), key_text(view, (14228,))
    ('[1,"plane","N14228"]', '[1,"plane",14228]')

    Raises:
        ContractError: another number of values than the view has key columns, or one that is neither str nor int.
    """
    return key_texts(view, (key,))[0]


def key_texts(view: FeatureView, keys: Sequence[Key]) -> list[str]:
    """Return `key_text` of each key."""
    prefix = key_prefix(view)
    return [f"{prefix}{values}]" for values in key_values(view, keys)]


def key_values(view: FeatureView, keys: Sequence[Key]) -> list[str]:
    """Return each key's values alone, as they stand in the array."""
    parts = len(view.keys)
    texts = []
    for key in keys:
        if len(key) != parts:
            raise ContractError(f"view {view.name!r}: a key of {len(key)} values, expected {parts}")
        first = key[0]
        if parts == 1:
            texts.append(encode_basestring_ascii(first) if type(first) is str else _key_part(view, first))
        else:
            texts.append(",".join([_key_part(view, value) for value in key]))
    return texts


def _key_part(view: FeatureView, value: str | int) -> str:
    if type(value) is str:
        return encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    raise ContractError(
        f"view {view.name!r}: a key value must be str or int, not {type(value).__name__}", view=view.name
    )


def payload_schema(payload: bytes) -> str:
    """Return the schema digest a payload was written under."""
    return payload[1:_HEAD].hex()


def unreadable_payload(view: FeatureView, payload: bytes, url: str = "") -> ContractError:
    """Return the error for a payload that does not begin as the view's do, or (one that does) for one beyond its beginning.

    Args:
        view: the declaration.
        payload: what a store holds.
        url: the store's, for the log.
    """
    if payload and payload[0] != PAYLOAD_VERSION:
        problem = f"is of layout version {payload[0]}, this code reads {PAYLOAD_VERSION}"
    elif len(payload) >= _HEAD and not payload.startswith(payload_head(view)):
        problem = f"is of schema {payload_schema(payload)}, declared is {declared_schema(view)}; another version wrote it"
    else:
        problem = "is not as its schema says (its length, or bytes of a string); it was cut or overwritten"
    return unreadable(view, problem, url)


def _codec(view: FeatureView) -> _Codec:
    """Return the layout, made once per view object (a view cannot be hashed, and its digest takes longer than a look-up)."""
    held: _Codec | None = view.__dict__.get(_CODEC)
    if held is None:
        held = view.__dict__[_CODEC] = _layout(view)
    return held


def _layout(view: FeatureView) -> _Codec:
    schema = view.schema_digest()
    head = bytes([PAYLOAD_VERSION]) + bytes.fromhex(schema)
    return _Codec(
        layout_of(view.fields, head), schema, f"[{KEY_VERSION},{encode_basestring_ascii(view.name)},"
    )


def _with_nulls(view: FeatureView, payloads: Sequence[bytes | None]) -> dict[str, Column]:
    """Decode the payloads there are, and put null rows where there are none."""
    n = len(payloads)
    if n == 1:  # one request that finds nothing: the columns are made once
        nulls: dict[str, Column] | None = view.__dict__.get(_NULLS)
        if nulls is None:
            nulls = view.__dict__[_NULLS] = _spread(view, 1, np.zeros(1, dtype=np.bool_), [])
        return dict(nulls)
    where = np.array([bool(payload) for payload in payloads], dtype=np.bool_)
    return _spread(view, n, where, [payload for payload in payloads if payload])


def _spread(
    view: FeatureView, n: int, where: NDArray[np.bool_], present: Sequence[bytes]
) -> dict[str, Column]:
    found = decode_rows(view, present)
    columns: dict[str, Column] = {}
    for f in view.fields:
        values, valid = values_and_valid(found[f.name])
        spread: Any
        if isinstance(values, Strings):
            codes = np.full(n, len(values.categories), dtype=np.int32)
            codes[where] = values.codes
            spread = Strings(freeze(codes), (*values.categories, ""))
        else:
            spread = np.full(n, null_value(f.dtype), dtype=f.dtype.numpy)
            spread[where] = values
            freeze(spread)
        if valid is None:
            columns[f.name] = spread
        else:
            flags = np.zeros(n, dtype=np.bool_)
            flags[where] = valid
            columns[f.name] = Nullable(spread, freeze(flags))
    return columns
