"""The features of an image by hand, and against the same sums in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_pipelines.evaluate import evaluate
from feature_pipelines.features.digits import FEATURES
from feature_pipelines.reasons import RowsRefused
from tests.toy.pngs import bomb, by_pillow, grey_png


def features_of(*images: bytes) -> dict[str, list[float]]:
    column = np.empty(len(images), dtype=np.object_)
    column[:] = images
    column.setflags(write=False)
    matrix = evaluate(FEATURES, {"image": column}, {}, len(images))
    return dict(zip(FEATURES.feature_names, matrix.tolist(), strict=True))


def drawn(*points: tuple[int, int], value: int = 255) -> NDArray[np.uint8]:
    pixels = np.zeros((8, 8), np.uint8)
    for row, column in points:
        pixels[row, column] = value
    return pixels


def test_the_matrix_has_a_row_for_each_pixel_line_and_column() -> None:
    assert len(FEATURES.feature_names) == 64 + 8 + 8 + 5
    assert FEATURES.feature_names[:2] == ("pixels_0", "pixels_1")
    assert FEATURES.feature_names[63:66] == ("pixels_63", "row_ink_0", "row_ink_1")
    assert FEATURES.feature_names[-3:] == ("centre_column", "mirrored_share", "turned_share")


def test_a_stroke_is_where_it_is_drawn() -> None:
    found = features_of(grey_png(drawn((1, 2), (1, 3), (5, 2))), grey_png(drawn((0, 7), value=51)))

    assert [found[f"pixels_{i}"] for i in (8 + 2, 8 + 3, 5 * 8 + 2, 7)] == [[1, 0], [1, 0], [1, 0], [0, 0.2]]
    assert [found[f"row_ink_{i}"] for i in (0, 1, 5)] == [[0, 0.2], [2, 0], [1, 0]]
    assert [found[f"column_ink_{i}"] for i in (2, 3, 7)] == [[2, 0], [1, 0], [0, 0.2]]
    assert found["ink"] == [3, 0.2]
    assert found["centre_row"] == [(1 + 1 + 5) / 3, 0]
    assert found["centre_column"] == [(2 + 3 + 2) / 3, 7]
    assert found["mirrored_share"] == [1, 1]
    assert found["turned_share"] == [1, 1]


def test_what_is_the_same_on_both_sides_would_not_move() -> None:
    found = features_of(
        grey_png(drawn((1, 0), (1, 7), (3, 3), (4, 3))), grey_png(drawn((2, 1), (5, 1), (5, 6)))
    )
    assert found["mirrored_share"] == [2 / 4, 1 / 3]
    assert found["turned_share"] == [2 / 4, 1 / 3]


def test_an_empty_image_has_no_centre() -> None:
    found = features_of(grey_png(np.zeros((8, 8), np.uint8)))
    assert found["ink"] == [0]
    without = {name for name, (value,) in found.items() if np.isnan(value)}
    assert without == {"centre_row", "centre_column", "mirrored_share", "turned_share"}


def test_sums_are_within_their_last_bits_of_the_exact_ones() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8), dtype=np.uint8)
    found = {name: Fraction(value) for name, (value,) in features_of(grey_png(pixels)).items()}
    whole = pixels.astype(int)
    ink = Fraction(int(whole.sum()), 255)
    exact = {f"row_ink_{i}": Fraction(int(whole[i].sum()), 255) for i in range(8)}
    exact |= {f"column_ink_{i}": Fraction(int(whole[:, i].sum()), 255) for i in range(8)}
    exact |= {
        "ink": ink,
        "centre_row": Fraction(int((whole * np.arange(8)[:, None]).sum()), 255) / ink,
        "centre_column": Fraction(int((whole * np.arange(8)).sum()), 255) / ink,
        "mirrored_share": Fraction(int(np.abs(whole - whole[:, ::-1]).sum()), 2 * 255) / ink,
        "turned_share": Fraction(int(np.abs(whole - whole[::-1]).sum()), 2 * 255) / ink,
    }
    for name, value in exact.items():
        assert abs(found[name] - value) <= value * Fraction(1, 2**48), name


def test_a_larger_image_is_the_same_digit() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    assert features_of(by_pillow(np.kron(pixels, np.ones((4, 4), np.uint8)))) == features_of(grey_png(pixels))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (bomb(129, 128), "IMAGE_TOO_LARGE"),
        (by_pillow(np.zeros((128, 129), np.uint8)), "IMAGE_TOO_LARGE"),
        (grey_png(drawn(), (b"tEXt", bytes(70_000))), "IMAGE_TOO_LARGE"),
        (by_pillow(np.zeros((7, 8), np.uint8)), "IMAGE_TOO_SMALL"),
    ],
)
def test_images_beyond_the_declared_limits_are_refused(image: bytes, code: str) -> None:
    with pytest.raises(RowsRefused) as refused:
        features_of(grey_png(drawn()), image)
    assert [(e.row, str(e.code), e.field) for e in refused.value.errors] == [(1, code, "image")]
    assert features_of(by_pillow(np.zeros((128, 128), np.uint8)))["ink"] == [0]
