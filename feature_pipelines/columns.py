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
    Vector[Float64, k]    ndarray of float64, shape (k, n): features only, no request or view has one

Every array is read-only. This module knows nothing of JSON, Arrow or feature sets.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_origin

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
    "Vector",
    "concat",
    "decimal",
    "declared_type",
    "freeze",
    "length",
    "take",
    "take_where",
    "values_and_valid",
]


@dataclass(frozen=True)
class DType:
    """A declared type: its kind, for decimals the precision and scale (digits), for vectors how many values a row has (else 0)."""

    kind: str
    precision: int = 0
    scale: int = 0
    size: int = 0

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

    def shape(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of n_rows rows' values."""
        return (self.size, n_rows) if self.size else (n_rows,)

    def __str__(self) -> str:
        if self.size:
            return f"vector({self.kind}, {self.size})"
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

if TYPE_CHECKING:
    from typing import Annotated as Vector
else:

    class Vector:
        """The type of a feature with several values a row: `Vector[Float64, 64]` is an array of shape (64, n), C-contiguous or not.

        In the model's matrix it has a row for each value, named `{function}_{i}`. A null value is NaN.

        Raises:
            DefinitionError: values that are no Float64, or a size that is no integer of 1 or more.
        """

        def __class_getitem__(cls, parameters: Any) -> Any:
            """Return the annotation."""
            of, size = parameters if isinstance(parameters, tuple) and len(parameters) == 2 else (None, None)
            if of != Float64 or type(size) is not int or size < 1:
                raise DefinitionError(
                    f"Vector[{parameters!r}]: expected Float64 and how many values a row has, such as Vector[Float64, 64]"
                )
            return Annotated[NDArray[np.float64], DType("float64", size=size)]


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


def take_where(
    column: Column, row: NDArray[np.int64], present: NDArray[np.bool_], everywhere: bool
) -> Column:
    """Return the rows that `row` names, read-only, and the null value where nothing is present.

    Args:
        column: n rows, or none.
        row: of each answer the position of its row; any position where nothing is present.
        present: which answers have a row; `everywhere`: whether all do.
    """
    values, valid = values_and_valid(column)
    if not len(values):
        values = _nulls(values, len(row))
        return freeze(values if valid is None else Nullable(values, np.zeros(len(row), dtype=np.bool_)))
    if isinstance(values, Strings):
        codes = values.codes[row]
        categories = values.categories
        if not everywhere:
            categories = (*categories, "")
            codes = np.where(present, codes, np.int32(len(categories) - 1))
        taken: Any = Strings(codes, categories)
    else:
        taken = values[row]
        if not everywhere:
            null = np.nan if taken.dtype.kind == "f" else taken.dtype.type(0)
            taken = np.where(present, taken, null).astype(taken.dtype, copy=False)
    return freeze(taken if valid is None else Nullable(taken, valid[row] & present))


def _nulls(values: Any, n: int) -> Any:
    if isinstance(values, Strings):
        return Strings(np.zeros(n, dtype=np.int32), ("",))
    return np.full(n, np.nan if values.dtype.kind == "f" else 0, dtype=values.dtype)


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
