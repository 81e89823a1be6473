"""Every error the project raises on purpose, so that callers can act on a class and operators on a message.

    OnescoreError
    ├── ConfigurationError      a setting is unknown, missing or contradictory            exit 2
    ├── DefinitionError         a feature set or view does not hold together              exit 2
    ├── ContractError           data breaks the declared contract                         exit 3
    ├── ModelError              a model cannot be used: missing, incompatible             exit 2
    │   └── ModelIntegrityError its files, types or golden rows are not what was logged   exit 2
    ├── UnavailableError        registry or online store did not answer   (retryable)    exit 2
    ├── TableError              a table is missing, vacuumed or of another schema         exit 2
    ├── RunConflictError        a run differs from the one it would continue              exit 2
    └── VerificationError       a check of our own work failed                            exit 1

An error carries its evidence as attributes (`error.evidence["column"]`), so that a program need not parse the message. This
module knows nothing of Spark, MLflow or files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "ConfigurationError",
    "ContractError",
    "DefinitionError",
    "ModelError",
    "ModelIntegrityError",
    "OnescoreError",
    "RunConflictError",
    "TableError",
    "UnavailableError",
    "VerificationError",
    "did_you_mean",
]


class OnescoreError(Exception):
    """The root of all errors raised on purpose.

    Args:
        message: one sentence: what, where, got, expected, how to mend it. Never data of a row, never a secret.
        **evidence: the facts behind the message, kept as `evidence`.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.evidence = evidence


class ConfigurationError(OnescoreError):
    """A setting is unknown, missing or contradictory; the message lists the files that were read."""


class DefinitionError(OnescoreError):
    """A feature set, view or function does not hold together; the message has file:line and close matches."""


class ContractError(OnescoreError):
    """Data breaks the declared contract as a whole (a row that does so is quarantined instead)."""

    exit_code = 3


class ModelError(OnescoreError):
    """A model version cannot be used: it does not exist, or another contract version wrote it."""


class ModelIntegrityError(ModelError):
    """A model's files, types or golden rows are not what was logged."""


class UnavailableError(OnescoreError):
    """A model registry, tracking server or online store did not answer in time; trying again may help."""

    retryable = True


class TableError(OnescoreError):
    """A table is missing, has been vacuumed, or has another schema than expected."""


class RunConflictError(OnescoreError):
    """A run differs from the unfinished one that it would continue; the message names both."""


class VerificationError(OnescoreError):
    """A check of our own work failed: a count, a checksum, a certification."""

    exit_code = 1


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """Return " Did you mean 'x'? Available: a, b, x." for an unknown name, ready to append to a message.

    Args:
        name: what was asked for.
        available: what there is; listed in sorted order, all of it.

    >>> did_you_mean("plane_yr", ["plane_year", "origin"])
    " Did you mean 'plane_year'? Available: origin, plane_year."
    """
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Available: {', '.join(names) or 'nothing'}."
