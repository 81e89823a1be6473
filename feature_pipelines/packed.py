"""Rows as bytes: each value at a place that the declaration fixes, so that equal rows are equal bytes on every machine.

    head          whatever the caller puts before every row, may be empty
    then          float64s, int64s (also timestamps and unscaled decimals), float32s, int32s, the lengths of texts in bytes
                  (uint32), bools, and a bool per nullable field (False = null); little-endian, each group in the fields' order
    then          the texts (strings in UTF-8, binaries), in order

Everything before the texts has a fixed width, so that many rows are written and read as one numpy array. What stands in a null's
place is zero, and every NaN is the one canonical NaN. A digest of these bytes is the last word on the order of rows whose times are
equal. This module knows nothing of views or stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, Nullable, Strings, freeze, length, values_and_valid
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Schema

__all__ = [
    "TOMBSTONE",
    "Layout",
    "digest_ranks",
    "layout_of",
    "pack_rows",
    "row_digest",
    "row_digests",
    "unpack_rows",
]

_GROUPS = (
    ("float64", "<f8"),
    ("int64", "<i8"),
    ("float32", "<f4"),
    ("int32", "<i4"),
    ("text", "<u4"),
    ("bool", "?"),
)
_GROUP_OF_KIND = {"timestamp": "int64", "decimal": "int64", "string": "text", "binary": "text"}


class Layout(NamedTuple):
    """Where each field stands.

    Args:
        head: begins every row.
        dtype: of the head and the part of fixed width.
        placed: of each field: name, kind, group, position in the group, position of its null flag (-1: it has none).
        groups: the groups there are, each with the dtype of its values and where it begins and ends.
        has_texts: whether a row has a part behind that of fixed width.
    """

    head: bytes
    dtype: np.dtype[Any]
    placed: tuple[tuple[str, str, str, int, int], ...]
    groups: tuple[tuple[str, np.dtype[Any], int, int], ...]
    has_texts: bool


def layout_of(fields: Schema, head: bytes = b"") -> Layout:
    """Return the layout of rows of these fields."""
    sizes = dict.fromkeys((name for name, _ in _GROUPS), 0)
    flags = 0
    placed = []
    for f in fields:
        group = _GROUP_OF_KIND.get(f.dtype.kind, f.dtype.kind)
        placed.append((f.name, f.dtype.kind, group, sizes[group], flags if f.nullable else -1))
        sizes[group] += 1
        flags += f.nullable
    parts: list[Any] = [(name, code, (sizes[name],)) for name, code in _GROUPS if sizes[name]]
    parts += [("valid", "?", (flags,))] if flags else []
    whole = [("head", f"V{len(head)}"), *parts] if head else parts
    dtype = np.dtype(whole)
    groups = []
    for name, code, shape in parts:
        at = _offset(dtype, name)
        groups.append((name, np.dtype(code), at, at + np.dtype(code).itemsize * shape[0]))
    return Layout(head, dtype, tuple(placed), tuple(groups), sizes["text"] > 0)


def _offset(dtype: np.dtype[Any], name: str) -> int:
    return 0 if dtype.fields is None else dtype.fields[name][1]


def pack_rows(layout: Layout, columns: Columns, n: int) -> list[bytes]:
    """Return each of n rows as bytes.

    Args:
        layout: of the fields.
        columns: every field, n rows each.
        n: the number of rows.

    Raises:
        ContractError: a column has another number of rows.
    """
    fixed = np.zeros(n, dtype=layout.dtype)
    if layout.head:
        fixed["head"] = np.frombuffer(layout.head, dtype=f"V{len(layout.head)}")
    texts: list[list[bytes]] = []
    for name, kind, group, place, flag in layout.placed:
        values, valid = values_and_valid(columns[name])
        if length(columns[name]) != n:
            raise ContractError(f"column {name!r} has {length(columns[name])} rows, not {n}")
        if group == "text":
            held = _texts(values, valid)
            fixed[group][:, place] = [len(text) for text in held]
            texts.append(held)
        else:
            fixed[group][:, place] = _canonical(kind, values, valid)
        if flag >= 0:
            fixed["valid"][:, flag] = True if valid is None else valid
    joined, width = fixed.tobytes(), layout.dtype.itemsize
    rows = [joined[at : at + width] for at in range(0, n * width, width)] if width else [b""] * n
    return [b"".join(parts) for parts in zip(rows, *texts, strict=True)] if texts else rows


def unpack_rows(layout: Layout, rows: Sequence[bytes]) -> dict[str, Column]:
    """Return the fields of rows of `pack_rows`; none of them binary.

    Raises:
        ContractError: a row has another head, is cut short, or has bytes that are no text.
    """
    head, width = layout.head, layout.dtype.itemsize
    has_texts = layout.has_texts
    for row in rows:
        size = len(row)
        if not row.startswith(head) or size < width or (size > width and not has_texts):
            raise _broken()
    blocks = _blocks(layout, rows, has_texts)
    strings = _strings(rows, width, blocks["text"]) if has_texts else []
    valid = blocks.get("valid")
    columns: dict[str, Column] = {}
    for name, _, group, place, flag in layout.placed:
        values: Any = strings[place] if group == "text" else blocks[group][place]
        columns[name] = values if flag < 0 or valid is None else Nullable(values, valid[flag])
    return columns


def _blocks(layout: Layout, rows: Sequence[bytes], has_texts: bool) -> dict[str, NDArray[Any]]:
    """Return each group's values, read-only: a row per field, a column per row."""
    if len(rows) == 1:  # what a request reads of a view: no copy but that of the bytes, which aligns them
        row = rows[0]
        return {
            name: np.frombuffer(row[at:end], dtype=dtype).reshape(-1, 1)
            for name, dtype, at, end in layout.groups
        }
    width = layout.dtype.itemsize
    fixed = np.frombuffer(b"".join([row[:width] for row in rows] if has_texts else rows), dtype=layout.dtype)
    return {name: freeze(fixed[name].T.copy()) for name, *_ in layout.groups}


def row_digest(packed: bytes | memoryview) -> bytes:
    """Return the digest of a row packed without head, 32 bytes."""
    return hashlib.sha256(packed).digest()


TOMBSTONE = hashlib.sha256(b"tombstone").digest()
"""The digest of every row that deletes: its values do not count."""


def row_digests(fields: Schema, columns: Columns, is_deleted: Sequence[bool] | None = None) -> list[bytes]:
    """Return the last word on the order of rows whose times are equal: 32 bytes each, compared as bytes.

    Args:
        fields: the view's fields, in order.
        columns: each field's values, n rows.
        is_deleted: which rows are tombstones; None = none.
    """
    n = len(is_deleted) if is_deleted is not None else length(columns[fields.names[0]])
    digests = [row_digest(row) for row in pack_rows(layout_of(fields), columns, n)]
    if is_deleted is None:
        return digests
    return [TOMBSTONE if deleted else digest for deleted, digest in zip(is_deleted, digests, strict=True)]


def digest_ranks(
    fields: Schema, columns: Columns, is_deleted: Sequence[bool] | None = None
) -> NDArray[np.int64]:
    """Return each row's place among the distinct `row_digests`, from 0; equal digests have one place."""
    digests = np.array(row_digests(fields, columns, is_deleted), dtype="S32")
    return np.unique(digests, return_inverse=True)[1]


def _texts(values: Any, valid: NDArray[np.bool_] | None) -> list[bytes]:
    """Return each row's text, b"" for a null."""
    if not isinstance(values, Strings):
        held = values.tolist()
        return held if valid is None else [v if ok else b"" for v, ok in zip(held, valid, strict=True)]
    encoded = [*(text.encode() for text in values.categories), b""]
    codes = values.codes if valid is None else np.where(valid, values.codes, len(encoded) - 1)
    return [encoded[code] for code in codes.tolist()]


def _canonical(kind: str, values: Any, valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    if kind in ("float64", "float32"):
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    canonical: NDArray[Any] = values if valid is None else np.where(valid, values, values.dtype.type(0))
    return canonical


def _strings(rows: Sequence[bytes], width: int, sizes: NDArray[Any]) -> list[Strings]:
    """Return the string columns: `sizes` is uint32, shape (string fields, rows)."""
    if len(rows) == 1:
        return _strings_of_one(rows[0], width, sizes[:, 0].tolist())
    ends = np.cumsum(sizes.astype(np.int64), axis=0) + width
    if [len(row) for row in rows] != ends[-1].tolist():
        raise _broken()
    starts = ends - sizes
    columns = []
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        try:
            texts = [row[a:b].decode() for row, a, b in zip(rows, first, last, strict=True)]
        except UnicodeDecodeError:
            raise _broken() from None
        column = Strings.of(texts)
        freeze(column)
        columns.append(column)
    return columns


def _strings_of_one(row: bytes, at: int, sizes: list[int]) -> list[Strings]:
    if len(row) != at + sum(sizes):
        raise _broken()
    columns = []
    for size in sizes:
        try:
            columns.append(Strings.of([row[at : at + size].decode()]))
        except UnicodeDecodeError:
            raise _broken() from None
        at += size
    return columns


def _broken() -> ContractError:
    return ContractError("a packed row is not as its layout says: its length, or the bytes of a string")
