"""A package as a directory, and that directory as a zip whose bytes depend on its content alone.

Compiled code is shipped beside the sources, or every cold start would compile them anew on a disk that cannot be written: compiled
in one process with a fixed seed of hashes, to be believed without looking at times. This module knows nothing of models.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

from feature_pipelines.errors import VerificationError

__all__ = ["compile_tree", "tree_bytes", "write_zip"]

_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_LEVEL = 6


def compile_tree(directory: Path) -> None:
    """Compile every source of a directory for the running Python.

    Raises:
        VerificationError: one does not compile.
    """
    command = [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(directory), str(directory)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerificationError(f"the package does not compile: {done.stdout.strip().splitlines()[-1:]}")


def tree_bytes(directory: Path) -> int:
    """Return the size of all files, as a platform counts a package unzipped; of a file, its own."""
    return sum(path.stat().st_size for path in (directory, *directory.rglob("*")) if path.is_file())


def write_zip(directory: Path, target: Path) -> str:
    """Write a directory's files as a zip, in the order of their names, and return its SHA-256.

    Args:
        directory: its files may be read by all afterwards, and those that are compiled be executed.
        target: the zip.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as file:
        for path in sorted(directory.rglob("*"), key=lambda path: path.relative_to(directory).as_posix()):
            if not path.is_file():
                continue
            facts = zipfile.ZipInfo(path.relative_to(directory).as_posix(), _TIME)
            facts.create_system = _UNIX
            facts.external_attr = (stat.S_IFREG | (0o755 if ".so" in path.suffixes else 0o644)) << 16
            facts.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(facts, path.read_bytes(), compresslevel=_LEVEL)
    return hashlib.sha256(target.read_bytes()).hexdigest()
