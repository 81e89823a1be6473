"""Whether there is a pickle in a model's files, by content and by name."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path

__all__ = ["is_pickle", "pickles_in"]


def is_pickle(content: bytes) -> bool:
    """Return whether a file's content is a whole pickle, of any protocol."""
    try:
        return bool(list(pickletools.genops(content)))
    except (ValueError, struct.error):
        return False


def pickles_in(directory: Path) -> list[str]:
    """Return every file below a directory, and every member of a zip there, that is a pickle or is named like one."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    named = [str(path) for path in files if path.suffix in (".pkl", ".pickle", ".joblib", ".dill")]
    return named + [name for path in files for name, content in _contents(path) if is_pickle(content)]


def _contents(path: Path) -> list[tuple[str, bytes]]:
    """Return a file's content, or that of each member if it is a zip."""
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return [(str(path), content)]
    with zipfile.ZipFile(path) as archive:
        return [(f"{path}:{name}", archive.read(name)) for name in archive.namelist()]
