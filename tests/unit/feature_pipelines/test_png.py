"""Which bytes are a whole, still PNG, and that nothing is inflated beyond what its header promises."""

from __future__ import annotations

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feature_pipelines.png import Png, read_png
from feature_pipelines.reasons import Reason, Refused
from tests.toy.pngs import BAD_IMAGES, GREY, SIGNATURE, bomb, by_pillow, chunk, grey_png, header, png_of


def read(data: bytes) -> Png:
    return read_png(data, max_bytes=1_000_000, max_pixels=1_000_000)


def test_a_png_says_how_large_it_is_and_of_which_kind() -> None:
    png = read(grey_png(np.zeros((9, 11), np.uint8)))
    assert (png.width, png.height, png.mode) == (11, 9, "8-bit grey")


def test_chunks_that_make_no_pixels_are_left_behind() -> None:
    bare = grey_png(GREY)
    more = grey_png(
        GREY, (b"tEXt", b"Comment\0" + bytes(5_000)), (b"zTXt", b"c\0\0" + zlib.compress(bytes(10**7)))
    )
    assert len(more) > len(bare)
    assert read(more).content == read(bare).content == bare


def test_data_in_several_chunks_is_one_image() -> None:
    data = zlib.compress(bytes(72))
    parts = [(b"IDAT", data[i : i + 3]) for i in range(0, len(data), 3)]
    content = png_of(header(8, 8), *parts, (b"IDAT", b""), (b"IEND", b""))
    assert read(content).content == content


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (17, 5), (64, 33)])
def test_what_pillow_writes_is_whole_in_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    data = by_pillow(pixels, mode)
    png = read(data)
    assert (png.height, png.width) == size
    with Image.open(io.BytesIO(png.content)) as bare, Image.open(io.BytesIO(data)) as whole:
        assert np.array_equal(np.asarray(bare.convert("RGBA")), np.asarray(whole.convert("RGBA")))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 5), (8, 8), (9, 3), (2, 31)])
def test_interlaced_images_have_the_size_of_seven_passes(size: tuple[int, int]) -> None:
    height, width = size
    starts_and_steps = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    shapes = [(len(range(y, height, dy)), len(range(x, width, dx))) for x, y, dx, dy in starts_and_steps]
    raw = b"".join(bytes(h * (1 + w)) for h, w in shapes if h and w)
    for data, is_whole in ((raw, True), (raw[:-1], False), (raw + b"\0", False)):
        content = png_of(header(width, height, interlace=1), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
        if is_whole:
            assert (read(content).width, read(content).height) == (width, height)
        else:
            with pytest.raises(Refused, match="too short or too long"):
                read(content)


NOT_FOR_GREY_ONLY = {"IMAGE_MODE", "IMAGE_TOO_SMALL"}


@pytest.mark.parametrize(
    "what", [name for name, (code, _) in BAD_IMAGES.items() if code not in NOT_FOR_GREY_ONLY]
)
def test_what_is_no_whole_still_png_is_refused(what: str) -> None:
    code, data = BAD_IMAGES[what]
    with pytest.raises(Refused) as refused:
        read(data)
    assert refused.value.code == code
    assert not any(word in str(refused.value) for word in ("zlib", "Error", "IDAT", "struct"))


@pytest.mark.parametrize("width_and_height", [(50_000, 50_000), (8, 8)])
def test_a_bomb_is_not_inflated(width_and_height: tuple[int, int]) -> None:
    data = bomb(*width_and_height)
    assert len(data) < 120_000
    tracemalloc.start()
    with pytest.raises(Refused):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_limits_are_inclusive() -> None:
    data = grey_png(GREY)
    assert read_png(data, max_bytes=len(data), max_pixels=64).width == 8
    for limits, said in (
        ({"max_bytes": len(data) - 1, "max_pixels": 64}, rf"more than {len(data) - 1} bytes"),
        ({"max_bytes": len(data), "max_pixels": 63}, "more than 63 pixels"),
    ):
        with pytest.raises(Refused, match=said) as refused:
            read_png(data, **limits)
        assert refused.value.code is Reason.IMAGE_TOO_LARGE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_of_a_png_raises_anything_else(data: st.DataObject) -> None:
    content = bytearray(grey_png(GREY, (b"gAMA", b"\0\0\1\0")))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        found = read(bytes(content)).content
    except Refused as refused:
        found = refused.code.encode()
    assert found in (
        grey_png(GREY),
        b"IMAGE_BROKEN",
        b"IMAGE_FORMAT",
        b"IMAGE_TOO_LARGE",
        b"IMAGE_ANIMATED",
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"IHDR", b"IDAT", b"PLTE", b"IEND", b"tRNS", b"fcTL", b"abcd"]),
            st.binary(max_size=20),
        )
    )
)
def test_no_order_of_chunks_raises_anything_else(chunks: list[tuple[bytes, bytes]]) -> None:
    for start in (SIGNATURE, SIGNATURE + chunk(*header(8, 8))):
        with pytest.raises(Refused):
            read(start + b"".join(chunk(kind, content) for kind, content in chunks))
