"""The tables of the toy parcels: most columns are text, as in a table loaded from CSV, so that anything can stand in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.toy.workspace import Workspace

__all__ = ["SCHEMA", "parcel", "parcel_rows", "parcels_workspace"]

SCHEMA = pa.schema(
    [
        ("parcel_id", pa.string()),
        ("asked_ts", pa.string()),
        ("weight_kg", pa.float64()),
        ("n_items", pa.string()),
        ("insured_eur", pa.float64()),
        ("surcharge_eur", pa.float64()),
        ("declared_eur", pa.string()),
        ("is_fragile", pa.bool_()),
        ("zone", pa.string()),
        ("label_png", pa.string()),
        ("remark", pa.list_(pa.string())),
    ]
)
_START = datetime(2020, 1, 1, tzinfo=UTC)


def parcel(i: int, **changes: Any) -> dict[str, Any]:
    """Return the i-th parcel, of which nothing is wrong but what is changed."""
    row = {
        "parcel_id": f"p{i:04d}",
        "asked_ts": (_START + timedelta(hours=7 * i)).isoformat(),
        "weight_kg": 1.0 + i % 7,
        "n_items": str(1 + i % 4),
        "insured_eur": 10.0 * (i % 11),
        "surcharge_eur": 0.5 * (i % 5),
        "declared_eur": f"{i % 13}.25",
        "is_fragile": i % 2 == 0,
        "zone": f"zone-{i % 3}",
        "label_png": None,
        "remark": ["no feature reads this", None] if i % 5 else None,
    }
    return row | changes


def parcel_rows(changes: dict[int, dict[str, Any]], n: int = 300) -> pa.Table:
    """Return n parcels, some of them changed."""
    return pa.Table.from_pylist([parcel(i, **changes.get(i, {})) for i in range(n)], SCHEMA)


def parcels_workspace(root: Path) -> Workspace:
    """Make the tables: parcels and parcels_past (300 rows without fault), their costs, three zones."""
    workspace = Workspace(root)
    rows = parcel_rows({})
    for table in ("parcels", "parcels_past"):
        workspace.write(table, rows)
    past = rows.to_pylist()
    known = [datetime.fromisoformat(row["asked_ts"]) for row in past]
    cost = [
        2 * row["weight_kg"] + 0.01 * row["insured_eur"] + 4 * row["surcharge_eur"] + int(row["n_items"])
        for row in past
    ]
    workspace.write(
        "parcels_cost",
        pa.table(
            {
                "parcel_id": rows.column("parcel_id"),
                "event_ts": pa.array(known, pa.timestamp("us", tz="UTC")),
                "cost_eur": pa.array(cost),
            }
        ),
    )
    begin = pa.array([_START - timedelta(days=1)] * 3, pa.timestamp("us", tz="UTC"))
    zones = {
        "zone": [f"zone-{i}" for i in range(3)],
        "event_ts": begin,
        "created_ts": begin,
        "zone_rate_eur": [1.0, 2.0, 3.0],
    }
    workspace.write("zones", pa.table(zones))
    return workspace
