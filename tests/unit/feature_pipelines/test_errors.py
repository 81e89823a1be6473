"""Errors carry evidence, exit codes and close matches."""

from __future__ import annotations

import pytest

from feature_pipelines import errors
from feature_pipelines.errors import ContractError, OnescoreError, UnavailableError, did_you_mean


def test_every_error_is_an_onescore_error_and_drawn_in_the_tree() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert all(issubclass(cls, OnescoreError) for cls in classes)
    assert errors.__doc__ is not None
    for cls in classes:
        assert cls.__name__ in errors.__doc__
    assert len(classes) <= 10


@pytest.mark.parametrize(
    "name", [name for name in errors.__all__ if name.endswith("Error") and name != "OnescoreError"]
)
def test_exit_code_and_retryable_are_those_of_the_tree(name: str) -> None:
    assert errors.__doc__ is not None
    cls = getattr(errors, name)
    (line,) = [line for line in errors.__doc__.splitlines() if f" {name} " in line]
    assert line.rstrip().endswith(f"exit {cls.exit_code}")
    assert ("(retryable)" in line) == cls.retryable


def test_evidence_is_kept_beside_the_message() -> None:
    error = ContractError("3 rows are broken", column="origin", rows=3)
    assert str(error) == "3 rows are broken"
    assert error.evidence == {"column": "origin", "rows": 3}
    assert (ContractError.exit_code, UnavailableError.retryable, ContractError.retryable) == (3, True, False)


def test_did_you_mean_names_the_closest_and_all() -> None:
    assert (
        did_you_mean("orign", {"origin": 1, "dest": 2}) == " Did you mean 'origin'? Available: dest, origin."
    )
    assert did_you_mean("zzz", ["b", "a"]) == " Available: a, b."
    assert did_you_mean("x", []) == " Available: nothing."
