"""The in-memory form of a column, and the types a feature function is annotated with.

The form depends on the declared type alone (never on the batch, the path or the session), so a feature function sees the same
thing in a Spark task and in a server:

    declared              in memory
    Float64, Float32      ndarray of that dtype; null and NaN are both the one canonical NaN
    Int64, Int32          ndarray of that dtype
    Bool                  ndarray of bool
    Timestamp             ndarray of int64: microseconds since 1970-01-01T00:00Z
    decimal(p, s)         ndarray of int64: the unscaled value, p <= 18
    String                Strings
    Binary                ndarray of object, each element bytes
    Nullable[T]           Nullable(values, valid): T's form, and an ndarray of bool (False = null)

Every array is read-only. This module knows nothing of JSON, Arrow or feature sets.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.errors import DefinitionError

__all__ = [
    "Binary",
    "Bool",
    "Column",
    "Columns",
    "DType",
    "Float32",
    "Float64",
    "Int32",
    "Int64",
    "Nullable",
    "String",
    "Strings",
    "Timestamp",
    "concat",
    "decimal",
    "declared_type",
    "freeze",
    "length",
    "take",
    "values_and_valid",
]


@dataclass(frozen=True)
class DType:
    """A declared type: its kind, and for decimals the precision and scale (digits)."""

    kind: str
    precision: int = 0
    scale: int = 0

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype of the values; strings have the dtype of their codes."""
        return _NUMPY[self.kind]

    @property
    def is_float(self) -> bool:
        """Whether null and NaN are one thing in this type."""
        return self.kind in ("float64", "float32")

    @property
    def is_numeric(self) -> bool:
        """Whether a feature of this type can be a column of the model's matrix."""
        return self.kind in ("float64", "float32", "int64", "int32", "bool")

    def __str__(self) -> str:
        return f"decimal({self.precision}, {self.scale})" if self.kind == "decimal" else self.kind


_NUMPY: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
    "timestamp": np.dtype(np.int64),
    "decimal": np.dtype(np.int64),
    "string": np.dtype(np.int32),
    "binary": np.dtype(np.object_),
}


@dataclass(frozen=True, eq=False)
class Strings:
    """A column of strings: each row's code into the distinct strings, so that work is done once per distinct string.

    Which code a string has differs from batch to batch and means nothing: use `lookup`, `encode` or `tolist`.

    Args:
        codes: int32, shape (n,), each in [0, len(categories)).
        categories: strings; may contain some that no row has.
    """

    codes: NDArray[np.int32]
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def lookup(self, table: Mapping[str, float], default: float) -> NDArray[np.float64]:
        """Return `table[s]` of each row's string s, `default` where the table has none. float64, shape (n,)."""
        return np.array([table.get(s, default) for s in self.categories], dtype=np.float64).take(self.codes)

    def encode(self, vocabulary: Sequence[str]) -> NDArray[np.int64]:
        """Return each row's position in the vocabulary; len(vocabulary) where it is unknown. int64, shape (n,)."""
        position, unknown = _positions(tuple(vocabulary)), len(vocabulary)
        return np.array([position.get(s, unknown) for s in self.categories], dtype=np.int64).take(self.codes)

    def tolist(self) -> list[str]:
        """Return the rows' strings in order."""
        return [self.categories[code] for code in self.codes.tolist()]

    @classmethod
    def of(cls, values: Iterable[str]) -> Strings:
        """Build a column from strings, in order.

        >>> Strings.of(["UA", "B6", "UA"]).tolist()
        ['UA', 'B6', 'UA']
        """
        position: dict[str, int] = {}
        codes = [position.setdefault(value, len(position)) for value in values]
        return cls(np.array(codes, dtype=np.int32), tuple(position) or ("",))


@functools.lru_cache(maxsize=256)
def _positions(vocabulary: tuple[str, ...]) -> Mapping[str, int]:
    """Return each string's position; for one row, making this anew would take longer than all else that a feature does."""
    return {s: i for i, s in enumerate(vocabulary)}


V = TypeVar("V")


class Nullable(NamedTuple, Generic[V]):
    """Values and where they are valid (False = null). What stands in a null's place is fixed per type (0, "", b"")."""

    values: V
    valid: NDArray[np.bool_]


Float64 = Annotated[NDArray[np.float64], DType("float64")]
Float32 = Annotated[NDArray[np.float32], DType("float32")]
Int64 = Annotated[NDArray[np.int64], DType("int64")]
Int32 = Annotated[NDArray[np.int32], DType("int32")]
Bool = Annotated[NDArray[np.bool_], DType("bool")]
Timestamp = Annotated[NDArray[np.int64], DType("timestamp")]
String = Annotated[Strings, DType("string")]
Binary = Annotated[NDArray[np.object_], DType("binary")]

Column = NDArray[Any] | Strings | Nullable[Any]
Columns = Mapping[str, Column]
C = TypeVar("C", bound=Column)


def decimal(precision: int, scale: int) -> DType:
    """Return the type of exact decimals, for use as `Money = Annotated[NDArray[np.int64], decimal(12, 2)]`.

    Args:
        precision: digits in all, 1 to 18 (the unscaled value is an int64).
        scale: digits behind the point, 0 to precision.

    Raises:
        DefinitionError: outside these bounds.
    """
    if not (1 <= precision <= 18 and 0 <= scale <= precision):
        raise DefinitionError(
            f"decimal({precision}, {scale}): precision must be 1 to 18 and scale 0 to precision, "
            "because the value is held in an int64"
        )
    return DType("decimal", precision, scale)


def declared_type(annotation: Any) -> tuple[DType, bool] | None:
    """Return (type, nullable) of an annotation such as `Float64` or `Nullable[Int32]`; None if it is neither."""
    nullable = get_origin(annotation) is Nullable
    if nullable:
        (annotation,) = get_args(annotation)
    if isinstance(annotation, DType):
        return annotation, nullable
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, DType):
            return extra, nullable
    return None


def length(column: Column) -> int:
    """Return the number of rows."""
    return len(column.valid) if isinstance(column, Nullable) else len(column)


def values_and_valid(column: Column) -> tuple[NDArray[Any] | Strings, NDArray[np.bool_] | None]:
    """Return the values, and where they are valid (None: everywhere)."""
    return (column.values, column.valid) if isinstance(column, Nullable) else (column, None)


def take(column: Column, index: NDArray[Any]) -> Column:
    """Return the rows that `index` (integers or a mask) selects, in its order, read-only."""
    if isinstance(column, Nullable):
        return Nullable(take(column.values, index), _locked(column.valid[index]))
    if isinstance(column, Strings):
        return Strings(_locked(column.codes[index]), column.categories)
    return _locked(column[index])


def concat(parts: Sequence[Column]) -> Column:
    """Return the rows of all parts (of one declared type, at least one part) one after the other, read-only."""
    first = parts[0]
    if isinstance(first, Nullable):
        pairs = [part for part in parts if isinstance(part, Nullable)]
        return Nullable(concat([p.values for p in pairs]), _locked(np.concatenate([p.valid for p in pairs])))
    if isinstance(first, Strings):
        position: dict[str, int] = {}
        codes = []
        for part in parts:
            if isinstance(part, Strings):
                new = [position.setdefault(category, len(position)) for category in part.categories]
                codes.append(np.array(new, dtype=np.int32)[part.codes])
        return freeze(Strings(np.concatenate(codes), tuple(position)))
    return _locked(np.concatenate([np.asarray(part) for part in parts]))


def freeze(column: C) -> C:
    """Make the column's arrays read-only in place, and return it."""
    if isinstance(column, Nullable):
        freeze(column.values)
        _locked(column.valid)
    elif isinstance(column, Strings):
        _locked(column.codes)
    else:
        _locked(column)
    return column


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
