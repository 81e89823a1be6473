"""What names an entity on the command line, and how its values are told in JSON that callers wrote."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.online.entity import parse_entity
from tests.toy.houses import REQUEST


def test_values_are_of_the_declared_type() -> None:
    entity = parse_entity(REQUEST, ["house_id=007", "town=a=b"])
    assert entity.values == {"house_id": 7, "town": "a=b"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["hous_id=1"], "no such request field. Did you mean 'house_id'?"),
        (["house_id=1.0"], "--key house_id: the value is not of its type: expected int64"),
        (["house_id=9223372036854775808"], "beyond int64"),
        (["area_m2=3"], "an entity is named by fields of string, int64, int32"),
        (["house_id"], "expected COLUMN=VALUE"),
        (["town=a", "town=b"], "given twice"),
        ([], "no --key"),
    ],
)
def test_what_names_no_entity_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_entity(REQUEST, options)
    assert said in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "is_it"),
    [
        ("house_id", 7, True),
        ("house_id", "7", True),
        ("house_id", "007", True),
        ("house_id", 7.0, True),  # refused by the contract, and yet it is the entity's
        ("house_id", " 7", True),
        ("house_id", 70, False),
        ("house_id", True, False),
        ("house_id", None, False),
        ("house_id", [7], False),
        ("town", "7", True),
        ("town", 7, True),
        ("town", "77", False),
    ],
)
def test_values_are_equal_by_type_and_broken_ones_by_text(name: str, value: Any, is_it: bool) -> None:
    entity = parse_entity(REQUEST, ["house_id=7", "town=7"])
    assert entity.is_value(name, value) is is_it
    assert entity.is_text(name, json.dumps(value), frozenset()) is is_it


def test_hashes_are_of_the_text_that_callers_write() -> None:
    entity = parse_entity(REQUEST, ["house_id=7", "town=Łódź"])

    def hashed(value: Any) -> str:
        return hmac.new(b"k", json.dumps(value).encode(), hashlib.sha256).hexdigest()

    assert entity.hashes("house_id", b"k") == {hashed(7), hashed("7")}
    assert entity.hashes("town", b"k") == {hashed("Łódź")}
    assert entity.hashes("town", None) == frozenset()
    assert entity.is_text("town", hashed("Łódź"), entity.hashes("town", b"k"))
    assert not entity.is_text("town", hashed("Łódź"), entity.hashes("town", b"other"))
    assert not entity.is_text("town", None, frozenset())


def test_row_needs_all_of_the_values() -> None:
    entity = parse_entity(REQUEST, ["house_id=7", "town=a"])
    assert entity.is_row('{"house_id": "7", "town": "a"}')
    assert not entity.is_row('{"house_id": 7, "town": "b"}')
    assert not entity.is_row('{"house_id": 7}')
