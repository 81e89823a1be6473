"""The toy model with three classes: whether a house is cheap, fair or dear. Its tables are those of the houses, and one of bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.toy.workspace import Workspace, house_rows, price_rows
from udfs.scorer import OutputSpec

__all__ = ["BANDS", "OUTPUT", "band_rows", "bands_workspace"]

BANDS = ("cheap", "dear", "fair")
"""Sorted, as a trained model has them."""

OUTPUT = OutputSpec("classification", classes=BANDS)
_ABOVE = (300.0, 700.0)


def band_rows(houses: pa.Table) -> pa.Table:
    """Return the outcome of each request: the band of its price."""
    prices = price_rows(houses)
    band = np.array(["cheap", "fair", "dear"])[np.searchsorted(_ABOVE, prices.column("price").to_numpy())]
    return prices.drop_columns("price").append_column("band", pa.array(band))


def bands_workspace(root: Path) -> Workspace:
    """Make the tables: those of the houses, and house_bands."""
    workspace = Workspace.create(root)
    workspace.write("house_bands", band_rows(house_rows()))
    return workspace
