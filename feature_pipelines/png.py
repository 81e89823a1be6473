"""Is it a whole PNG, how large, and of what kind? Read from its chunks, before a single pixel is decompressed.

A PNG is a signature and chunks, each with length, type and CRC. Everything that a decoder could be led astray by is refused here
with a reason, so that what remains is one still image of known size whose data inflates to exactly that size. What is handed on is
the chunks that make the pixels, and none of the rest (texts, profiles, times). This module knows nothing of Pillow or numpy.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from feature_pipelines.reasons import Reason, Refused

__all__ = ["Png", "read_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIXED = 12  # bytes of a chunk beside its content: length, type, CRC
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_LAST_FILTER = 4


@dataclass(frozen=True)
class Png:
    """A still image that is whole.

    Args:
        width, height: pixels, each at least 1.
        mode: bits of a sample and what a pixel is, such as "8-bit grey" or "16-bit RGB with alpha".
        content: a PNG of the same pixels without the chunks that make none.
    """

    width: int
    height: int
    mode: str
    content: bytes


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int
    is_interlaced: bool


def read_png(data: bytes, *, max_bytes: int, max_pixels: int) -> Png:
    """Return what a PNG is.

    Args:
        data: the file's bytes.
        max_bytes: how many bytes are looked at at all.
        max_pixels: width times height, checked before anything is decompressed.

    Raises:
        Refused: IMAGE_TOO_LARGE, IMAGE_FORMAT (no PNG), IMAGE_ANIMATED, or IMAGE_BROKEN: cut off, a wrong CRC, bytes after its end,
            data that is too long or too short for its size, or chunks in a forbidden order.
    """
    if len(data) > max_bytes:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"more than {max_bytes} bytes")
    if not data.startswith(_SIGNATURE):
        if _SIGNATURE.startswith(data):
            raise _broken("it is cut off, or empty")
        raise Refused(Reason.IMAGE_FORMAT, "it is no PNG")
    chunks = _chunks(data)
    kind, start, stop = next(chunks)
    header = _header(kind, data[start:stop])
    if header.width * header.height > max_pixels:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"more than {max_pixels} pixels")
    making, compressed, has_transparency = _content(data, chunks, header)
    _check_pixels(header, compressed)
    ihdr = data[len(_SIGNATURE) : stop + 4]
    mode = f"{header.depth}-bit {_COLOURS[header.colour]}{' with transparency' if has_transparency else ''}"
    return Png(header.width, header.height, mode, b"".join([_SIGNATURE, ihdr, *making]))


def _broken(why: str) -> Refused:
    return Refused(Reason.IMAGE_BROKEN, why)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each chunk and where its content starts and stops; the last is IEND, and ends the data."""
    at = len(_SIGNATURE)
    while at + _FIXED <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        start, stop = at + 8, at + 8 + size
        if stop + 4 > len(data):
            break
        kind = data[at + 4 : start]
        if struct.unpack_from(">I", data, stop) != (zlib.crc32(memoryview(data)[at + 4 : stop]),):
            raise _broken("a checksum is wrong")
        at = stop + 4
        if kind == b"IEND" and at < len(data):
            raise _broken("bytes stand after its end")
        yield kind, start, stop
        if kind == b"IEND":
            return
    raise _broken("it is cut off")


def _header(kind: bytes, content: bytes) -> _Header:
    if kind != b"IHDR" or len(content) != 13:
        raise _broken("it does not begin with a header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", content)
    is_known = depth in _DEPTHS.get(colour, ()) and (compression, filtering) == (0, 0) and interlace in (0, 1)
    if not (is_known and 0 < width < 2**31 and 0 < height < 2**31):
        raise _broken("its header says what no PNG is")
    return _Header(width, height, depth, colour, bool(interlace))


def _content(
    data: bytes, chunks: Iterator[tuple[bytes, int, int]], header: _Header
) -> tuple[list[bytes], bytes, bool]:
    """Return the chunks that make the pixels, their compressed data, and whether there is transparency beside them."""
    making: list[bytes] = []
    compressed: list[bytes] = []
    palettes = 0
    has_transparency = False
    previous = b"IHDR"
    for kind, start, stop in chunks:
        if kind in _ANIMATION:
            raise Refused(Reason.IMAGE_ANIMATED, "it is animated")
        if kind == b"IDAT":
            if compressed and previous != b"IDAT":
                raise _broken("its data is not in one piece")
            compressed.append(data[start:stop])
        elif kind == b"PLTE":
            palettes += 1
            if header.colour in (0, 4) or compressed or palettes > 1:
                raise _broken("it has a palette where there must be none")
        elif kind == b"tRNS":
            has_transparency = True
        elif kind == b"IHDR" or (kind != b"IEND" and not kind[0] & 0x20):
            raise _broken("it has a chunk that no decoder may pass over")
        if kind in (b"IDAT", b"PLTE", b"tRNS", b"IEND"):
            making.append(data[start - 8 : stop + 4])
        previous = kind
    if not compressed or (header.colour == 3 and not palettes):
        raise _broken("it has no data, or no palette")
    return making, b"".join(compressed), has_transparency


def _check_pixels(header: _Header, compressed: bytes) -> None:
    """Refuse data that inflates to anything but the header's size; no more than that is ever inflated."""
    passes = [
        (width, height)
        for x, y, dx, dy in (_ADAM7 if header.is_interlaced else ((0, 0, 1, 1),))
        if (width := -(-(header.width - x) // dx)) > 0 and (height := -(-(header.height - y) // dy)) > 0
    ]
    bits = header.depth * _SAMPLES[header.colour]
    lines = [(1 + (width * bits + 7) // 8, height) for width, height in passes]
    expected = sum(length * n for length, n in lines)
    inflating = zlib.decompressobj()
    try:
        raw = inflating.decompress(compressed, expected + 1)
    except zlib.error:
        raise _broken("its data cannot be inflated") from None
    if len(raw) != expected or not inflating.eof or inflating.unused_data:
        raise _broken("its data is too short or too long for its size")
    at = 0
    for length, n in lines:
        if max(raw[at : at + length * n : length]) > _LAST_FILTER:
            raise _broken("a line has an unknown filter")
        at += length * n
