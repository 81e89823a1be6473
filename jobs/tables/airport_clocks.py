"""The local clocks of airports, for columns of airport codes.

This module joins `zones`, which knows clocks, with `csv_rows`, which refuses rows; it knows nothing of flights.
"""

from __future__ import annotations

from collections.abc import Mapping
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.tables.csv_rows import CsvRows
from jobs.tables.zones import Zone

__all__ = ["UNKNOWN_TIME_ZONE", "AirportClocks"]

UNKNOWN_TIME_ZONE = "UNKNOWN_TIME_ZONE"

_Int64s = NDArray[np.int64]


class AirportClocks:
    """The local clocks of one or more airport columns; rows whose airport has none are refused.

    Args:
        rows: where rows are refused, as UNKNOWN_TIME_ZONE.
        airports: by name of the column: airport codes, n rows each.
        zones: airport code to IANA zone.
        instants: about when the clocks will be asked, shape (n,); answers reach two days beyond.
    """

    def __init__(
        self, rows: CsvRows, airports: Mapping[str, pa.Array], zones: Mapping[str, str], instants: _Int64s
    ) -> None:
        span = instants[rows.ok] if rows.ok.any() else np.zeros(1, np.int64)
        self._span = int(span.min()), int(span.max())
        self._made: dict[str, Zone | None] = {}
        self._rows: dict[str, list[tuple[Zone, _Int64s]]] = {}
        for column, codes in airports.items():
            encoded = codes.dictionary_encode()
            index = encoded.indices.to_numpy()
            positions: dict[str, list[int]] = {}
            for position, code in enumerate(encoded.dictionary.to_pylist()):
                positions.setdefault(zones.get(code, ""), []).append(position)
            self._rows[column] = []
            for name, found in positions.items():
                here, zone = np.isin(index, found), self._zone(name)
                if zone is None:
                    rows.refuse(here, UNKNOWN_TIME_ZONE, column, "no time zone is known for the airport")
                else:
                    self._rows[column].append((zone, np.flatnonzero(here & rows.ok)))

    def _zone(self, name: str) -> Zone | None:
        if name not in self._made:
            try:
                self._made[name] = Zone(name, *self._span)
            except (ZoneInfoNotFoundError, ValueError):
                self._made[name] = None
        return self._made[name]

    def offset_minutes(self, column: str, instants: _Int64s) -> NDArray[np.int32]:
        """Return local time minus UTC at the airports of a column, in minutes; 0 for a refused row."""
        result = np.zeros(len(instants), np.int32)
        for zone, index in self._rows[column]:
            result[index] = zone.offset_minutes(instants[index])
        return result

    def next_instant(self, column: str, minute_of_day: _Int64s, after: _Int64s) -> _Int64s:
        """Return the first instant after another at which each airport's clock shows a time of day (`Zone.next_instant`)."""
        result = np.zeros(len(after), np.int64)
        for zone, index in self._rows[column]:
            result[index] = zone.next_instant(minute_of_day[index], after[index])
        return result
