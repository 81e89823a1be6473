"""Images of a binary column as numbers: exact values, a reason for each image that cannot be used, and no trace of the decoder."""

from __future__ import annotations

import logging
import warnings
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from feature_pipelines import images
from feature_pipelines.images import grey_values
from feature_pipelines.reasons import RowError, RowsRefused
from tests.toy.pngs import BAD_IMAGES, GREY, by_pillow, grey_png, header, lines, png_of


def column(*data: bytes) -> NDArray[np.object_]:
    values = np.empty(len(data), dtype=np.object_)
    values[:] = data
    values.setflags(write=False)
    return values


def values_of(*data: bytes, **limits: Any) -> NDArray[np.float64]:
    return grey_values(column(*data), height=8, width=8, **limits)


def errors_of(*data: bytes, **limits: Any) -> list[RowError]:
    with pytest.raises(RowsRefused) as refused:
        values_of(*data, **limits)
    return refused.value.errors


def test_an_image_of_the_grids_size_gives_its_own_pixels() -> None:
    found = values_of(grey_png(GREY), grey_png(255 - GREY))
    assert found.shape == (64, 2)
    assert found.flags.c_contiguous
    assert found[:, 0].tolist() == [value / 255 for value in GREY.ravel().tolist()]
    assert found[:, 1].tolist() == [(255 - value) / 255 for value in GREY.ravel().tolist()]
    assert values_of().shape == (64, 0)


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}, {"dpi": (300, 300)}])
def test_how_a_png_was_written_makes_no_difference(options: dict[str, Any]) -> None:
    assert np.array_equal(values_of(by_pillow(GREY, **options)), values_of(grey_png(GREY)))


def test_an_interlaced_image_is_the_same_image() -> None:
    starts_and_steps = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    raw = b"".join(lines(GREY[y::dy, x::dx]) for y, x, dy, dx in starts_and_steps)
    interlaced = png_of(header(8, 8, interlace=1), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    assert np.array_equal(values_of(interlaced), values_of(grey_png(GREY)))


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 2**32 - 1))
def test_a_larger_image_gives_exact_means_of_its_parts(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    found = values_of(by_pillow(pixels))[:, 0].reshape(8, 8)
    for i in range(8):
        for j in range(8):
            part = pixels[i * height // 8 : (i + 1) * height // 8, j * width // 8 : (j + 1) * width // 8]
            assert found[i, j] == float(Fraction(int(part.astype(int).sum()), 255 * part.size))


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_an_image_that_cannot_be_used_is_refused_with_its_reason(what: str) -> None:
    code, data = BAD_IMAGES[what]
    (error,) = errors_of(data)
    assert (error.row, error.code, error.field) == (0, code, "")


def test_each_bad_image_is_refused_for_itself() -> None:
    data = [content for _, content in BAD_IMAGES.values()]
    good = grey_png(GREY)
    errors = errors_of(good, *data, good)
    assert [(e.row, str(e.code)) for e in errors] == [
        (i + 1, code) for i, (code, _) in enumerate(BAD_IMAGES.values())
    ]
    assert errors == [e._replace(row=i + 1) for i, content in enumerate(data) for e in errors_of(content)]


def test_the_limits_are_the_callers() -> None:
    large = by_pillow(np.zeros((40, 40), np.uint8))
    assert [e.message for e in errors_of(large, max_pixels=1_599)] == ["more than 1599 pixels"]
    assert [e.message for e in errors_of(large, max_bytes=50)] == ["more than 50 bytes"]
    assert values_of(large, max_pixels=1_600).shape == (64, 1)


def test_messages_say_what_is_read() -> None:
    assert errors_of(BAD_IMAGES["16 bits"][1])[0].message == "it is 16-bit grey; only 8-bit grey is read"
    assert (
        errors_of(BAD_IMAGES["RGBA"][1])[0].message == "it is 8-bit RGB with alpha; only 8-bit grey is read"
    )
    assert errors_of(BAD_IMAGES["7 wide"][1])[0].message == "fewer than 8 x 8 pixels"


def test_settings_of_the_process_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow tolerates what is cut off, and warns of large images, as a whole process says."""
    data = [grey_png(GREY), by_pillow(np.zeros((100, 100), np.uint8))]
    expected = values_of(*data), errors_of(*(content for _, content in BAD_IMAGES.values()))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert np.array_equal(values_of(*data), expected[0])
    assert errors_of(*(content for _, content in BAD_IMAGES.values())) == expected[1]


def test_no_warning_and_no_log_line_of_the_decoder_shows(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        errors_of(*(content for _, content in BAD_IMAGES.values()))
        values_of(grey_png(GREY))
    assert caught == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_what_a_decoder_raises_is_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises:
        def __init__(self, file: Any) -> None:
            raise SyntaxError("broken PNG file (chunk b'secret')")

    monkeypatch.setattr(images, "PngImageFile", Raises)
    (error,) = errors_of(grey_png(GREY))
    assert (error.code, error.message) == ("IMAGE_BROKEN", "it cannot be decoded")

    class IsFull:
        def __init__(self, file: Any) -> None:
            raise MemoryError

    monkeypatch.setattr(images, "PngImageFile", IsFull)
    with pytest.raises(MemoryError):
        values_of(grey_png(GREY))
