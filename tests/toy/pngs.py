"""PNGs made chunk by chunk, whole ones and such as a decoder should never see, and images of other kinds made by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "BAD_IMAGES",
    "GREY",
    "SIGNATURE",
    "bomb",
    "by_pillow",
    "chunk",
    "grey_png",
    "header",
    "lines",
    "png_of",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = (b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk with its CRC."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(
    width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0
) -> tuple[bytes, bytes]:
    """Return an IHDR."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a file of chunks."""
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def lines(pixels: NDArray[np.uint8], filters: Iterable[int] = (0,)) -> bytes:
    """Return raw lines, each behind a filter of type 0 (or of the types given, whatever that makes of the pixels)."""
    types = list(filters)
    return b"".join(bytes([types[i % len(types)]]) + line.tobytes() for i, line in enumerate(pixels))


def grey_png(pixels: NDArray[np.uint8], *more: tuple[bytes, bytes], filters: Iterable[int] = (0,)) -> bytes:
    """Return an 8-bit grey PNG of pixels, shape (height, width), with more chunks before its data."""
    data = zlib.compress(lines(pixels, filters))
    return png_of(header(pixels.shape[1], pixels.shape[0]), *more, (b"IDAT", data), END)


def by_pillow(
    pixels: NDArray[np.generic], mode: str | None = None, form: str = "PNG", **options: object
) -> bytes:
    """Return what Pillow writes of pixels, in a mode of its own and any form."""
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG, valid in all else, whose header says that it is so large, and whose data would inflate to 100 MB."""
    inflating = zlib.compressobj(9)
    data = b"".join([*(inflating.compress(bytes(1_000_000)) for _ in range(100)), inflating.flush()])
    return png_of(header(width, height), (b"IDAT", data), END)


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
_DATA = zlib.compress(lines(GREY))
_GOOD = grey_png(GREY)
_WRONG_CRC = bytearray(_GOOD)
_WRONG_CRC[-20] ^= 1  # in the data
_CONTROL = (b"acTL", struct.pack(">II", 2, 0))


def _changed(data: bytes) -> bytes:
    return png_of(header(8, 8), (b"IDAT", data), END)


BAD_IMAGES: dict[str, tuple[str, bytes]] = {
    "empty": ("IMAGE_BROKEN", b""),
    "signature cut off": ("IMAGE_BROKEN", SIGNATURE[:5]),
    "signature alone": ("IMAGE_BROKEN", SIGNATURE),
    "cut off in the header": ("IMAGE_BROKEN", _GOOD[:20]),
    "cut off in the data": ("IMAGE_BROKEN", _GOOD[:-30]),
    "no end": ("IMAGE_BROKEN", _GOOD[:-12]),
    "last byte missing": ("IMAGE_BROKEN", _GOOD[:-1]),
    "bytes after the end": ("IMAGE_BROKEN", _GOOD + b"\0"),
    "another image after the end": ("IMAGE_BROKEN", _GOOD + _GOOD),
    "wrong checksum": ("IMAGE_BROKEN", bytes(_WRONG_CRC)),
    "wrong checksum of the pixels": ("IMAGE_BROKEN", _changed(_DATA[:-1] + bytes([_DATA[-1] ^ 1]))),
    "data cut off inside": ("IMAGE_BROKEN", _changed(_DATA[:-8])),
    "checksum of the pixels cut off": ("IMAGE_BROKEN", _changed(_DATA[:-2])),
    "no deflate": ("IMAGE_BROKEN", _changed(b"nothing that inflates")),
    "one line too few": ("IMAGE_BROKEN", _changed(zlib.compress(lines(GREY[:7])))),
    "one byte too many": ("IMAGE_BROKEN", _changed(zlib.compress(lines(GREY) + b"\0"))),
    "bytes after the deflate stream": ("IMAGE_BROKEN", _changed(_DATA + b"\0")),
    "unknown filter": ("IMAGE_BROKEN", grey_png(GREY, filters=(0, 5))),
    "no data": ("IMAGE_BROKEN", png_of(header(8, 8), END)),
    "no header": ("IMAGE_BROKEN", png_of((b"IDAT", _DATA), END)),
    "two headers": ("IMAGE_BROKEN", grey_png(GREY, header(8, 8))),
    "zero wide": ("IMAGE_BROKEN", png_of(header(0, 8), (b"IDAT", _DATA), END)),
    "9 bits": ("IMAGE_BROKEN", png_of(header(8, 8, 9), (b"IDAT", _DATA), END)),
    "unknown colour type": ("IMAGE_BROKEN", png_of(header(8, 8, 8, 5), (b"IDAT", _DATA), END)),
    "unknown interlacing": ("IMAGE_BROKEN", png_of(header(8, 8, interlace=2), (b"IDAT", _DATA), END)),
    "short header": ("IMAGE_BROKEN", png_of((b"IHDR", header(8, 8)[1][:-1]), (b"IDAT", _DATA), END)),
    "a palette in grey": ("IMAGE_BROKEN", grey_png(GREY, (b"PLTE", bytes(6)))),
    "a chunk nobody knows": ("IMAGE_BROKEN", grey_png(GREY, (b"ABCD", b""))),
    "data in two places": (
        "IMAGE_BROKEN",
        png_of(header(8, 8), (b"IDAT", _DATA[:9]), (b"tEXt", b"a\0b"), (b"IDAT", _DATA[9:]), END),
    ),
    "a bomb in the data": ("IMAGE_BROKEN", bomb(8, 8)),
    "a bomb by its header": ("IMAGE_TOO_LARGE", bomb(50_000, 50_000)),
    "a header of 2 GB each way": (
        "IMAGE_TOO_LARGE",
        png_of(header(2**31 - 1, 2**31 - 1), (b"IDAT", _DATA), END),
    ),
    "too many bytes": ("IMAGE_TOO_LARGE", grey_png(GREY, (b"tEXt", bytes(1_000_000)))),
    "JPEG": ("IMAGE_FORMAT", by_pillow(GREY, form="JPEG")),
    "GIF": ("IMAGE_FORMAT", by_pillow(GREY, form="GIF")),
    "BMP": ("IMAGE_FORMAT", by_pillow(GREY, form="BMP")),
    "WebP": ("IMAGE_FORMAT", by_pillow(GREY, "RGB", form="WEBP")),
    "text": ("IMAGE_FORMAT", b"image.png"),
    "animated": (
        "IMAGE_ANIMATED",
        by_pillow(GREY, save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())], duration=100),
    ),
    "animated, of one frame": ("IMAGE_ANIMATED", grey_png(GREY, _CONTROL)),
    "RGB": ("IMAGE_MODE", by_pillow(GREY, "RGB")),
    "RGBA": ("IMAGE_MODE", by_pillow(GREY, "RGBA")),
    "grey with alpha": ("IMAGE_MODE", by_pillow(GREY, "LA")),
    "palette": ("IMAGE_MODE", by_pillow(GREY, "P")),
    "1 bit": ("IMAGE_MODE", by_pillow(GREY, "1")),
    "4 bits": ("IMAGE_MODE", png_of(header(16, 8, 4), (b"IDAT", _DATA), END)),
    "16 bits": ("IMAGE_MODE", by_pillow(GREY.astype(np.uint16) * 257)),
    "a transparent grey": ("IMAGE_MODE", grey_png(GREY, (b"tRNS", b"\0\4"))),
    "7 wide": ("IMAGE_TOO_SMALL", grey_png(GREY[:, :7].copy())),
    "7 high": ("IMAGE_TOO_SMALL", grey_png(GREY[:7])),
}
"""What is wrong with an image, the reason by which it is refused, and its bytes. Limits: 1,000,000 bytes or pixels, at least 8 x 8."""
