"""Ingest the second worked example: scikit-learn's 1,797 handwritten digits as PNG files in a Delta table.

    python -m jobs.ingest_digits                    the real data: requests (an image each) and outcomes (which digit it is)
    python -m jobs.ingest_digits --with-unusable    and images that cannot be scored, one for each reason to refuse one

Running it again is quick and changes nothing. Then:

    python -m jobs.train_model --model digits
    python -m jobs.score_batch --model digits
    python -m jobs.show_table digits_scored --rows 2
    python -m jobs.show_table digits_quarantine
    python -m jobs.verify_paths --model digits
    python -m jobs.serve_realtime --model digits
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.tables.delta import ParquetSink, ensure_table, recorded_digest, replace_files

__all__ = ["main", "unusable_images", "write_png"]

_SCHEMAS = {
    "digits_requests": pa.schema(
        [pa.field("image_id", pa.string(), nullable=False), pa.field("image", pa.binary())]
    ),
    "digits_outcomes": pa.schema(
        [pa.field("image_id", pa.string(), nullable=False), pa.field("digit", pa.int32(), nullable=False)]
    ),
}
_DESCRIPTIONS = {
    "digits_requests": "Handwritten digits (UCI, by scikit-learn): a PNG of 8 x 8 grey pixels, bright on dark",
    "digits_outcomes": "Which digit each image shows",
}
_FULL_INK = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Ingest, print what the tables hold, and return the exit code.

    Args:
        argv: the arguments without the program's name; None: the process's.
    """
    parser = job_parser("ingest_digits", __doc__)
    parser.add_argument(
        "--with-unusable",
        action="store_true",
        help="also add images that cannot be scored, to see them refused",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    for name, table in _tables(arguments).items():
        print(f"  {name:<26} {table.num_rows:>12,} rows  {_ingest(conf, name, table, arguments.dry_run)}")
    return 0


def _tables(arguments: argparse.Namespace) -> dict[str, pa.Table]:
    images, digits = load_digits(return_X_y=True)
    drawn = (images.reshape(-1, 8, 8).astype(np.int64) * 255 + _FULL_INK // 2) // _FULL_INK
    files: dict[str, bytes | None] = {
        f"digit-{i:04d}": write_png(pixels) for i, pixels in enumerate(drawn.astype(np.uint8))
    }
    outcomes = {"image_id": list(files), "digit": digits}
    if arguments.with_unusable:
        files |= {f"unusable-{what}": image for what, image in unusable_images().items()}
    requests = {"image_id": list(files), "image": list(files.values())}
    return {
        "digits_requests": pa.table(requests, schema=_SCHEMAS["digits_requests"]),
        "digits_outcomes": pa.table(outcomes, schema=_SCHEMAS["digits_outcomes"]),
    }


def _ingest(conf: Conf, name: str, table: pa.Table, is_dry_run: bool) -> str:
    """Make a table hold these rows, and say what was done."""
    uri, digest = conf.table_location(name), _digest(table)
    if recorded_digest(uri) == digest:
        return f"were there already  {uri}"
    if is_dry_run:
        return f"would be written  {uri}"
    ensure_table(uri, table.schema, description=_DESCRIPTIONS[name])
    with ParquetSink(uri, table.schema, "ingest") as sink:
        sink.append(table)
        written = sink.close()
    replace_files(uri, [written] if written else [], digest=digest, schema=table.schema)
    return f"written  {uri}"


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256(str(table.schema).encode())
    for values in table.to_pydict().values():
        for value in values:
            data = value if isinstance(value, bytes) else str(value).encode()
            digest.update(b"-" if value is None else struct.pack(">q", len(data)) + data)
    return digest.hexdigest()


def write_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit grey PNG, uncompressed, so that its bytes depend on no version of any library.

    Args:
        pixels: shape (height, width).
    """
    height, width = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(lines, level=0)), (b"IEND", b"")])


def _png(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


def unusable_images() -> Mapping[str, bytes | None]:
    """Return images that no request may have, by what is wrong with them; None is a request without an image."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    whole = write_png(pixels)
    bomb = [
        (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1_000_000))),
        (b"IEND", b""),
    ]
    turned = Image.fromarray(pixels[::-1].copy())
    return {
        "missing": None,
        "empty": b"",
        "cut-off": whole[:-20],
        "trailing": whole + b"garbage",
        "bomb": _png(bomb),
        "small": write_png(pixels[:4]),
        "animated": _saved(pixels, "PNG", save_all=True, append_images=[turned], duration=100),
        "jpeg": _saved(pixels, "JPEG"),
        "gif": _saved(pixels, "GIF"),
        "rgb": _saved(np.stack([pixels] * 3, axis=2), "PNG"),
        "alpha": _saved(np.stack([pixels] * 4, axis=2), "PNG"),
        "16-bit": _saved(pixels.astype(np.uint16) * 257, "PNG"),
    }


def _saved(pixels: NDArray[np.generic], form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(run(main))
