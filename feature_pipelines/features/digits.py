"""The features of the second worked example: which digit is drawn in an image?

An image is a PNG, 8-bit grey, at least 8 x 8 pixels, the stroke bright on a dark ground. Sums are written out as additions in one
order: `sum` adds in another order for one image than for many, and so gives other bits.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Binary, Float64, String, Vector
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.images import grey_values
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES", "REQUEST"]

_SIDE = 8
_HALF = _SIDE // 2
_PLACES = np.arange(_SIDE, dtype=np.float64)[:, np.newaxis]
_MAX_BYTES = 65_536
_MAX_PIXELS = 16_384

REQUEST = Schema(
    (
        Field("image_id", String, "identifies the image"),
        Field("image", Binary, "one digit, bright on dark: a PNG, 8-bit grey, 8 x 8 to 128 x 128 pixels"),
    )
)


def pixels(image: Binary) -> Vector[Float64, 64]:
    """Brightness in 8 x 8 parts of the image, line by line, 0 to 1. Never null: an image that cannot be read is refused."""
    return grey_values(image, height=_SIDE, width=_SIDE, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS)


def row_ink(pixels: Vector[Float64, 64]) -> Vector[Float64, 8]:
    """Sum of the brightness in each line, 0 to 8. Never null."""
    return _added(_lines(pixels).swapaxes(0, 1))


def column_ink(pixels: Vector[Float64, 64]) -> Vector[Float64, 8]:
    """Sum of the brightness in each column, 0 to 8. Never null."""
    return _added(_lines(pixels))


def ink(row_ink: Vector[Float64, 8]) -> Float64:
    """Sum of the brightness, 0 to 64. Never null."""
    return _added(row_ink)


def centre_row(row_ink: Vector[Float64, 8], ink: Float64) -> Float64:
    """Line of the centre of mass, 0 (top) to 7. Null where nothing is drawn."""
    return _added(_PLACES * row_ink) / ink


def centre_column(column_ink: Vector[Float64, 8], ink: Float64) -> Float64:
    """Column of the centre of mass, 0 (left) to 7. Null where nothing is drawn."""
    return _added(_PLACES * column_ink) / ink


def mirrored_share(pixels: Vector[Float64, 64], ink: Float64) -> Float64:
    """Which share of the brightness would move if left and right were exchanged, 0 to 1. Null where nothing is drawn."""
    lines = _lines(pixels)
    return _added(_added(np.abs(lines[:, :_HALF] - lines[:, : _HALF - 1 : -1]))) / ink


def turned_share(pixels: Vector[Float64, 64], ink: Float64) -> Float64:
    """Which share of the brightness would move if top and bottom were exchanged, 0 to 1. Null where nothing is drawn."""
    lines = _lines(pixels)
    return _added(_added(np.abs(lines[:_HALF] - lines[: _HALF - 1 : -1]))) / ink


def _lines(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return pixels.reshape(_SIDE, _SIDE, -1)


def _added(parts: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of the parts (of an array, along its first axis), added from first to last."""
    return functools.reduce(operator.add, parts)


FEATURES = FeatureSet(
    name="digits",
    request=REQUEST,
    features=(
        pixels,
        row_ink,
        column_ink,
        ink,
        centre_row,
        centre_column,
        mirrored_share,
        turned_share,
    ),
    row_id=("image_id",),
)
