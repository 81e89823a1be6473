"""Images of a binary column as numbers, for feature functions: PNG, grey, 8 bits, within declared limits.

Every image is looked at before it is decoded (see png), decoded by Pillow, and averaged by exact integers and one division, so its
values have the same bits wherever it is read. An image that cannot be used refuses its own row with a reason and no other; nothing of
Pillow's settings, warnings or exceptions shows outside. This module knows nothing of features or models.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from feature_pipelines.png import Png, read_png
from feature_pipelines.reasons import Reason, Refused, RowError, RowsRefused

__all__ = ["MAX_BYTES", "MAX_PIXELS", "grey_values"]

MAX_BYTES = 1_000_000
MAX_PIXELS = 1_000_000
_MODE = "8-bit grey"


def grey_values(
    images: NDArray[np.object_],
    *,
    height: int,
    width: int,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.float64]:
    """Return the brightness of each image in a grid: 0 = black, 1 = white.

    An image of the grid's size gives its own pixels, over 255. A larger one is cut into height x width parts, as equal as whole pixels
    allow, and each gives the mean of its pixels.

    Args:
        images: bytes of a PNG each, shape (n,).
        height, width: of the grid, at least 1; no image may be smaller.
        max_bytes: of an image's file.
        max_pixels: of an image; read from its header before anything is decompressed.

    Returns:
        float64, shape (height * width, n): the grid's first line from left to right, then the next.

    Raises:
        RowsRefused: IMAGE_FORMAT (no PNG), IMAGE_BROKEN, IMAGE_ANIMATED, IMAGE_MODE (not 8-bit grey, or with transparency),
            IMAGE_TOO_LARGE, IMAGE_TOO_SMALL; for each row alone.
    """
    values = np.empty((len(images), height, width), dtype=np.float64)
    errors: list[RowError] = []
    for row, data in enumerate(images):
        try:
            png = read_png(data, max_bytes=max_bytes, max_pixels=max_pixels)
            _require(png, height, width)
            values[row] = _averaged(_decoded(png), height, width)
        except Refused as refused:
            errors.append(RowError(row, refused.code, "", str(refused)))
    if errors:
        raise RowsRefused(errors)
    return np.ascontiguousarray(values.reshape(len(images), height * width).T)


def _require(png: Png, height: int, width: int) -> None:
    if png.mode != _MODE:
        raise Refused(Reason.IMAGE_MODE, f"it is {png.mode}; only {_MODE} is read")
    if png.height < height or png.width < width:
        raise Refused(Reason.IMAGE_TOO_SMALL, f"fewer than {width} x {height} pixels")


def _decoded(png: Png) -> NDArray[np.uint8]:
    """Return the pixels. The class is called, and not PIL.Image.open, which asks settings of the process and warns."""
    try:
        with PngImageFile(io.BytesIO(png.content)) as image:
            pixels = np.frombuffer(image.tobytes(), dtype=np.uint8)
        return pixels.reshape(png.height, png.width)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever a decoder finds wrong is wrong with this image
        raise Refused(Reason.IMAGE_BROKEN, "it cannot be decoded") from None


def _averaged(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    if pixels.shape == (height, width):
        return pixels / 255.0
    rows = np.arange(height + 1) * pixels.shape[0] // height
    columns = np.arange(width + 1) * pixels.shape[1] // width
    lines = np.add.reduceat(pixels, rows[:-1], axis=0, dtype=np.int64)
    sums = np.add.reduceat(lines, columns[:-1], axis=1)
    means: NDArray[np.float64] = sums / (255 * np.outer(np.diff(rows), np.diff(columns)))
    return means
