"""Rows in the wire form that a path may get wrong: a table by hand, one value at a time, and rows that hypothesis makes up."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.toy.every_type_rows import hard_rows, wire_of

__all__ = ["NASTY", "conformance_rows"]

MISSING = object()
_PLAIN = {
    "asked_ts": "2020-02-29T12:00:00Z",
    "seen_ts": 1_600_000_000_000_000,
    "big": 12,
    "small": 7,
    "wide": 0.25,
    "narrow": 0.5,
    "flag": True,
    "name": "a",
    "amount": "12.34",
    "payload": "YWJj",
}
_FIRST_NS, _LAST_NS = -(2**63) // 1000 + 1, 2**63 // 1000 - 1


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_VALUES: dict[str, tuple[Any, ...]] = {
    "big": (
        *(0, -1, 2**53 - 1, 2**53, str(2**53 + 1), 2**53 + 1, str(-(2**53) - 1), str(2**63 - 1), 2**63 - 1),
        *(str(-(2**63)), -(2**63), "1234567890123456789", None, MISSING),
    ),
    "small": (0, -1, 2**31 - 1, -(2**31), "-5", None, MISSING),
    "wide": (
        *(0.0, -0.0, 1, -3, 0.1, 1 / 3, 1e22, 2**53 + 1, 5e-324, -5e-324, 2.2250738585072011e-308),
        *(2.2250738585072014e-308, 1.7976931348623157e308, "Infinity", "-Infinity", "NaN", None, MISSING),
    ),
    "narrow": (
        *(0.0, -0.0, 0.1, 1e-45, -1e-45, 1.1754942e-38, 3.4028234663852886e38, 1e39, 16_777_217),
        *(1 + 2**-24, 1 + 2**-24 + 2**-52, "Infinity", "-Infinity", "NaN", None, MISSING),
    ),
    "flag": (True, False, None, MISSING),
    "name": (
        *(
            "",
            None,
            MISSING,
            "a",
            "unknown to the model",
            "\u00e9",
            "e\u0301",
            "\u1e9b\u0323",
            "\u212b",
            "\U0001f600",
        ),
        *(
            "NaN",
            "NA",
            "null",
            "None",
            "n/a",
            "true",
            "0",
            "1e3",
            "1.0",
            " a ",
            "\ta",
            "'",
            'say "x", y',
            "a\nb",
        ),
        *("a\r\nb", "a\u0000b", "\ufeffa", "\u2028", "x" * 300, "#", "-"),
    ),
    "amount": (
        *("0", "-0", "0.0001", "-0.0001", "99999999999999.9999", "-99999999999999.9999", "0012.3400"),
        *("12345678901234.5678", None, MISSING),
    ),
    "payload": (
        *(
            _base64(value)
            for value in (b"", b"\x00", b"\xff\xfe", bytes(range(256)), bytes(range(256)) * 270)
        ),
        *("null", "NULL", "1234", "true", None, MISSING),  # each of these is base64
    ),
    "asked_ts": (
        *("2013-11-03T01:30:00-04:00", "2013-11-03T01:30:00-05:00", "2013-03-10T02:30:00+00:00"),
        *("2013-03-10T01:59:59.999999-05:00", "2013-03-10T03:00:00-04:00", "2020-01-01T00:00:00.5+05:45"),
        *("1969-12-31T23:59:59.999999Z", 0, -1, "1883-11-18T12:03:58-04:56", "1900-01-01T00:00:00Z"),
        *("2038-01-19T03:14:08Z", "2041-07-01T12:00:00-04:00", _FIRST_NS, _LAST_NS, "0001-01-01T00:00:00Z"),
        *(
            "1582-10-04T00:00:00Z",
            "1582-10-15T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            2**40,
            None,
            MISSING,
        ),
    ),
    "seen_ts": (
        "2013-11-03T06:30:00Z",
        "1969-07-20T20:17:40.123457Z",
        -1,
        0,
        "9999-12-31T23:59:59Z",
        None,
        MISSING,
    ),
}


def _changed(field: str, value: Any) -> dict[str, Any]:
    row = {**_PLAIN, field: value}
    return {name: cell for name, cell in row.items() if cell is not MISSING}


def _named(field: str, value: Any) -> str:
    said = "missing" if value is MISSING else repr(value)
    return f"{field}={said if len(said) < 40 else f'{said[:30]}... of {len(said)}'}"


NASTY = {_named(f, value): _changed(f, value) for f, values in _VALUES.items() for value in values}
"""By what is odd about it, a row that is plain but for one field."""

_TIMES = st.integers(_FIRST_NS, _LAST_NS)
_BIG = st.integers(-(2**63), 2**63 - 1)
_FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["NaN", "Infinity", "-Infinity"])
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "seen_ts": _TIMES,
    "big": st.one_of(_BIG, _BIG.map(str)),
    "small": st.integers(-(2**31), 2**31 - 1),
    "wide": _FLOATS,
    "narrow": st.one_of(_FLOATS, st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "flag": st.booleans(),
    "name": st.text(st.characters(codec="utf-8"), max_size=20),
    "amount": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: format(Decimal(n).scaleb(-4), "f")),
    "payload": st.binary(max_size=40).map(_base64),
}
_ROWS = st.fixed_dictionaries(
    {"asked_ts": _TIMES}, optional={name: st.none() | values for name, values in _FIELDS.items()}
)


def _generated(n: int) -> list[dict[str, Any]]:
    """Return n rows, the same on every run: one batch, so that a path is asked once and not once an example."""
    rows: list[dict[str, Any]] = []

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_ROWS)
    def collect(row: dict[str, Any]) -> None:
        rows.append(row)

    collect()
    return rows


def conformance_rows() -> dict[str, dict[str, Any]]:
    """Return every row that a path is tried with, by a name to find it again; each has its position as its id."""
    rows = dict(NASTY)
    rows |= {f"combination {i}": row for i, row in enumerate(wire_of(hard_rows(100)))}
    rows |= {f"generated {i}": row for i, row in enumerate(_generated(150))}
    return {name: {**row, "row": i} for i, (name, row) in enumerate(rows.items())}
