"""L4 and L8 of images: a row's vectors, and whether it is refused and why, depend on that row alone, on every way in.

A sum over a vector is where numpy breaks this: `sum` adds one row's values in another order than those of many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, Float64, Vector, take
from feature_pipelines.errors import DefinitionError
from feature_pipelines.evaluate import check_row_local, evaluate
from feature_pipelines.features.digits import FEATURES, pixels
from feature_pipelines.reasons import RowsRefused
from feature_pipelines.schema import to_wire
from feature_pipelines.schema_arrow import columns_from_arrow
from tests.toy.pngs import BAD_IMAGES, by_pillow, grey_png

N_ROWS = 1_200
_RNG = np.random.default_rng(6)


def _images(n: int) -> list[bytes]:
    """Small and large ones, dense and empty ones, of two encoders."""
    images = []
    for i in range(n):
        size = (8, 8) if i % 3 else tuple(_RNG.integers(8, 30, 2))
        drawn = _RNG.integers(0, 256, size, dtype=np.uint8) * np.uint8(i % 7 != 0)
        images.append(by_pillow(drawn) if i % 2 else grey_png(drawn))
    return images


def _columns(images: list[bytes]) -> dict[str, Any]:
    column = np.empty(len(images), dtype=np.object_)
    column[:] = images
    column.setflags(write=False)
    return {"image": column}


IMAGES = _images(N_ROWS)
COLUMNS = _columns(IMAGES)


def bits(columns: Columns, n_rows: int) -> NDArray[np.uint64]:
    return evaluate(FEATURES, columns, {}, n_rows).view(np.uint64)


WHOLE = bits(COLUMNS, N_ROWS)


def test_the_features_of_images_are_row_local() -> None:
    check_row_local(FEATURES, COLUMNS, {}, N_ROWS)
    assert [
        name for name, row in zip(FEATURES.feature_names, WHOLE, strict=True) if len(np.unique(row)) < 3
    ] == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, N_ROWS - 1), max_size=30))
def test_any_choice_of_images_has_the_bits_of_those_images(index: list[int]) -> None:
    rows = np.array(index, dtype=np.int64)
    assert (bits({"image": take(COLUMNS["image"], rows)}, len(rows)) == WHOLE[:, rows]).all()


@pytest.mark.parametrize("size", [1, 7, 1_024, 1_025])
def test_batches_of_json_and_arrow_have_the_bits_of_the_whole(size: int) -> None:
    n = 60 if size == 1 else N_ROWS
    wire = [
        {"image_id": str(i), "image": image}
        for i, image in enumerate(to_wire(FEATURES.request["image"], COLUMNS["image"])[:n])
    ]
    for start in range(0, n, size):
        rows = wire[start : start + size]
        expected = WHOLE[:, start : start + len(rows)]
        columns, errors = FEATURES.sources.from_rows(rows)
        assert errors == []
        assert (bits(columns, len(rows)) == expected).all()
        batch = pa.record_batch(
            {
                "image_id": pa.array([row["image_id"] for row in rows]),
                "image": pa.array(IMAGES[start : start + len(rows)], pa.binary()),
            }
        )
        columns, errors = columns_from_arrow(FEATURES.sources, batch)
        assert errors == []
        assert (bits(columns, len(rows)) == expected).all()


def _refused(images: list[bytes]) -> Mapping[int, tuple[str, str]]:
    try:
        bits(_columns(images), len(images))
    except RowsRefused as exc:
        return {error.row: (str(error.code), error.message) for error in exc.errors}
    return {}


BAD = [image for _, image in BAD_IMAGES.values()]
ALONE = [_refused([image])[0] for image in BAD]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(BAD) + 20), max_size=30))
def test_why_an_image_is_refused_depends_on_it_alone(chosen: list[int]) -> None:
    images = [BAD[i] if i < len(BAD) else IMAGES[i] for i in chosen]
    assert _refused(images) == {at: ALONE[i] for at, i in enumerate(chosen) if i < len(BAD)}


def summed(pixels: Vector[Float64, 64]) -> Float64:
    total: NDArray[np.float64] = pixels.sum(axis=0)
    return total


def test_a_sum_that_numpy_orders_as_it_likes_is_found() -> None:
    with pytest.raises(
        DefinitionError, match="feature 'summed' is not row-local: a row evaluated alone has other bits"
    ):
        check_row_local(replace(FEATURES, features=(pixels, summed)), COLUMNS, {}, N_ROWS)
