"""Why a row is refused: the codes that quarantine tables, answers and metrics carry, and the errors that carry them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

__all__ = ["Reason", "Refused", "RowError", "RowsRefused"]


class Reason(StrEnum):
    """Why a row is refused or quarantined; the code that a quarantine table, an answer and a metric carry."""

    NULL_NOT_ALLOWED = "NULL_NOT_ALLOWED"
    WRONG_TYPE = "WRONG_TYPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    INTEGER_OVERFLOW = "INTEGER_OVERFLOW"
    NOT_FINITE = "NOT_FINITE"
    BAD_TIMESTAMP = "BAD_TIMESTAMP"
    BAD_VALUE = "BAD_VALUE"
    PRECISION_LOST = "PRECISION_LOST"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    UNREADABLE_ROW = "UNREADABLE_ROW"
    STORED_FEATURES_MISSING = "STORED_FEATURES_MISSING"
    AS_OF_BEFORE_STORE = "AS_OF_BEFORE_STORE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    STORED_VALUE_UNREADABLE = "STORED_VALUE_UNREADABLE"
    IMAGE_FORMAT = "IMAGE_FORMAT"
    IMAGE_BROKEN = "IMAGE_BROKEN"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    IMAGE_TOO_SMALL = "IMAGE_TOO_SMALL"
    IMAGE_ANIMATED = "IMAGE_ANIMATED"
    IMAGE_MODE = "IMAGE_MODE"
    FEATURE_ERROR = "FEATURE_ERROR"
    MODEL_ERROR = "MODEL_ERROR"
    NON_FINITE_SCORE = "NON_FINITE_SCORE"


class RowError(NamedTuple):
    """One row's breach: its position in the batch, the reason, the field ("" for the whole row), and a message without data."""

    row: int
    code: Reason
    field: str
    message: str


class Refused(Exception):
    """One value that the contract refuses, with its reason; it becomes a RowError and never leaves this package."""

    def __init__(self, code: Reason, message: str) -> None:
        super().__init__(message)
        self.code = code


class RowsRefused(Exception):
    """A feature function refuses single rows: they get their code, the rows beside them are evaluated without them.

    Whether a row is refused must depend on that row alone. A function looks at all its rows before it raises.

    Args:
        errors: by the rows' positions in the columns that the function was given, one each, at least one; a field of "" becomes
            the column that the function reads, or the function itself where it reads several.
    """

    def __init__(self, errors: Iterable[RowError]) -> None:
        self.errors = list(errors)
        super().__init__(f"{len(self.errors)} row(s) refused")
