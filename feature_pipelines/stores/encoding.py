"""How keys and values are written in an online store: exact, versioned, and refused rather than misread.

A value (payload) is one blob per (view, entity):

    byte 0        version of this layout
    bytes 1-8     the view's schema digest
    then          float64s, int64s (also timestamps and unscaled decimals), float32s, int32s, the lengths of the strings in bytes
                  (uint32), bools, and a bool per nullable field (False = null); little-endian, each group in the fields' order
    then          the strings, UTF-8, in order

Everything before the strings has a fixed width, so that many rows are written and read as one numpy array. A key is a typed
JSON array, so that no two keys of any two views look alike. This module knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, Nullable, Strings, length, values_and_valid
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import null_value
from feature_pipelines.stores.base import Key, other_schema
from feature_pipelines.views import FeatureView

__all__ = [
    "declared_schema",
    "decode_rows",
    "encode_rows",
    "key_prefix",
    "key_text",
    "key_texts",
    "key_values",
    "payload_head",
    "payload_schema",
]

KEY_VERSION = 1
PAYLOAD_VERSION = 1

_HEAD = 9
_GROUPS = (
    ("float64", "<f8"),
    ("int64", "<i8"),
    ("float32", "<f4"),
    ("int32", "<i4"),
    ("string", "<u4"),
    ("bool", "?"),
)
_GROUP_OF_KIND = {"timestamp": "int64", "decimal": "int64"}
_CODEC = "_stores_codec"
_NULLS = "_stores_nulls"
_FIRST = np.zeros(1, dtype=np.int32)
_FIRST.flags.writeable = False


class _Codec(NamedTuple):
    """One view's layout: head, where each field stands (group, position in it), and which hold a null flag."""

    head: bytes
    schema: str
    dtype: np.dtype[Any]
    placed: tuple[tuple[str, str, str, int, int], ...]
    """Of each field: name, kind, group, position in the group, position of its null flag (-1: it has none)."""
    groups: tuple[str, ...]
    key_prefix: str


def encode_rows(view: FeatureView, columns: Columns, n: int) -> list[bytes]:
    """Return the payload of each of n rows.

    What stands in a null's place is not kept, and every NaN is written as the one canonical NaN.

    Args:
        view: the declaration.
        columns: every field of the view, n rows each.
        n: the number of rows.
    """
    codec = _codec(view)
    fixed = np.zeros(n, dtype=codec.dtype)
    fixed["head"] = np.frombuffer(codec.head, dtype="V9")
    texts: list[list[bytes]] = []
    for name, kind, group, place, flag in codec.placed:
        values, valid = values_and_valid(columns[name])
        if length(columns[name]) != n:
            raise ContractError(
                f"view {view.name!r}: column {name!r} has {length(columns[name])} rows, not {n}"
            )
        if isinstance(values, Strings):
            encoded = [text.encode() for text in values.categories]
            sizes = np.array([len(text) for text in encoded], dtype=np.uint32).take(values.codes)
            codes = values.codes if valid is None else np.where(valid, values.codes, len(encoded))
            fixed[group][:, place] = sizes if valid is None else np.where(valid, sizes, 0)
            encoded.append(b"")
            texts.append([encoded[code] for code in codes.tolist()])
        else:
            fixed[group][:, place] = _canonical(kind, values, valid)
        if flag >= 0:
            fixed["valid"][:, flag] = True if valid is None else valid
    joined, width = fixed.tobytes(), codec.dtype.itemsize
    rows = [joined[at : at + width] for at in range(0, n * width, width)]
    return [b"".join(parts) for parts in zip(rows, *texts, strict=True)] if texts else rows


def decode_rows(view: FeatureView, payloads: Sequence[bytes | None]) -> dict[str, Column]:
    """Return the view's fields for payloads of `encode_rows`; a null row for None and for b"" (a tombstone's).

    Raises:
        ContractError: a payload of another version or schema (names the view and both), or one that is cut short.
    """
    codec = _codec(view)
    if not all(payloads):
        return _with_nulls(view, payloads)
    present: Sequence[bytes] = payloads  # type: ignore[assignment]
    head, width, has_texts = codec.head, codec.dtype.itemsize, "string" in codec.groups
    for payload in present:
        size = len(payload)
        if not payload.startswith(head) or size < width or (size > width and not has_texts):
            raise _unreadable(view, codec, payload)
    fixed = np.frombuffer(b"".join([p[:width] for p in present] if has_texts else present), dtype=codec.dtype)
    blocks = {name: _locked(fixed[name].T.copy()) for name in codec.groups}
    strings = _strings(view, present, width, blocks["string"]) if has_texts else []
    valid = blocks.get("valid")
    columns: dict[str, Column] = {}
    for name, _, group, place, flag in codec.placed:
        values: Any = strings[place] if group == "string" else blocks[group][place]
        columns[name] = values if flag < 0 or valid is None else Nullable(values, valid[flag])
    return columns


def declared_schema(view: FeatureView) -> str:
    """Return `view.schema_digest()`, computed once per view object."""
    return _codec(view).schema


def payload_head(view: FeatureView) -> bytes:
    """Return the 9 bytes that every payload of a view begins with: layout version and schema digest."""
    return _codec(view).head


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


def _codec(view: FeatureView) -> _Codec:
    """Return the layout, made once per view object (a view cannot be hashed, and its digest takes longer than a look-up)."""
    held: _Codec | None = view.__dict__.get(_CODEC)
    if held is None:
        held = view.__dict__[_CODEC] = _layout(view)
    return held


def _layout(view: FeatureView) -> _Codec:
    sizes = dict.fromkeys((name for name, _ in _GROUPS), 0)
    flags = 0
    placed = []
    for f in view.fields:
        group = _GROUP_OF_KIND.get(f.dtype.kind, f.dtype.kind)
        placed.append((f.name, f.dtype.kind, group, sizes[group], flags if f.nullable else -1))
        sizes[group] += 1
        flags += f.nullable
    parts: list[Any] = [("head", "V9")]
    parts += [(name, code, (sizes[name],)) for name, code in _GROUPS if sizes[name]]
    parts += [("valid", "?", (flags,))] if flags else []
    schema = view.schema_digest()
    return _Codec(
        bytes([PAYLOAD_VERSION]) + bytes.fromhex(schema),
        schema,
        np.dtype(parts),
        tuple(placed),
        tuple(part[0] for part in parts[1:]),
        f"[{KEY_VERSION},{encode_basestring_ascii(view.name)},",
    )


def _canonical(kind: str, values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    if kind in ("float64", "float32"):
        return np.where(np.isnan(values), values.dtype.type(np.nan), values)
    return values if valid is None else np.where(valid, values, values.dtype.type(0))


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
            spread = Strings(_locked(codes), (*values.categories, ""))
        else:
            spread = np.full(n, null_value(f.dtype), dtype=f.dtype.numpy)
            spread[where] = values
            _locked(spread)
        if valid is None:
            columns[f.name] = spread
        else:
            flags = np.zeros(n, dtype=np.bool_)
            flags[where] = valid
            columns[f.name] = Nullable(spread, _locked(flags))
    return columns


def _strings(view: FeatureView, payloads: Sequence[bytes], width: int, sizes: NDArray[Any]) -> list[Strings]:
    """Return the string columns: `sizes` is uint32, shape (string fields, rows)."""
    if len(payloads) == 1:
        return _strings_of_one(view, payloads[0], width, sizes[:, 0].tolist())
    ends = np.cumsum(sizes.astype(np.int64), axis=0) + width
    if [len(payload) for payload in payloads] != ends[-1].tolist():
        raise _broken(view)
    starts = ends - sizes
    columns = []
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        try:
            texts = [payload[a:b].decode() for payload, a, b in zip(payloads, first, last, strict=True)]
        except UnicodeDecodeError:
            raise _broken(view) from None
        column = Strings.of(texts)
        _locked(column.codes)
        columns.append(column)
    return columns


def _strings_of_one(view: FeatureView, payload: bytes, at: int, sizes: list[int]) -> list[Strings]:
    if len(payload) != at + sum(sizes):
        raise _broken(view)
    columns = []
    for size in sizes:
        try:
            columns.append(Strings(_FIRST, (payload[at : at + size].decode(),)))
        except UnicodeDecodeError:
            raise _broken(view) from None
        at += size
    return columns


def _unreadable(view: FeatureView, codec: _Codec, payload: bytes) -> ContractError:
    if payload[:1] != codec.head[:1]:
        return ContractError(
            f"view {view.name!r}: a stored value of layout version {payload[0]}, this code reads {PAYLOAD_VERSION}",
            view=view.name,
            held=payload[0],
            declared=PAYLOAD_VERSION,
        )
    if len(payload) >= _HEAD and payload[:_HEAD] != codec.head:
        return other_schema(view, payload_schema(payload), codec.schema, "")
    return _broken(view)


def _broken(view: FeatureView) -> ContractError:
    return ContractError(
        f"view {view.name!r}: a stored value is not as its schema says (its length, or bytes of a string); it was cut or overwritten",
        view=view.name,
    )


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
