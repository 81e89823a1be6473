"""Taking rows out of the prediction log after they were written: an entity's rows, and whole days that are too old.

A file keeps its name, and so the numbers it stands for, also when none of its rows is left; the numbers of removed days are kept
in a small file. So `prediction_files.gaps` goes on telling what was lost from what was removed. Servers may write meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.errors import RunConflictError
from jobs.online.entity import Entity
from udfs.prediction_files import record_removed, write_file

__all__ = ["RemovedDays", "Rewritten", "forget_in_log", "places_of", "remove_days"]

_FILES = "date=*/part-*.parquet"
_LOCK = ".rewriting.lock"


@dataclass
class Rewritten:
    """Rows removed, files rewritten for it, files that could not be read; and the places, "process/sequence", of the rows."""

    rows: int = 0
    files: int = 0
    unreadable: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RemovedDays:
    """Whole days removed: their dates, files and bytes."""

    dates: tuple[str, ...]
    files: int
    bytes: int


def forget_in_log(directory: Path, entity: Entity, pii_key: bytes | None, *, dry_run: bool) -> Rewritten:
    """Remove the rows whose request has all of the entity's values, or their hashes.

    Each affected file is replaced by one that is whole and synced before it takes the name; what is done stays done if this dies.

    Args:
        directory: <log>/<model>; may be missing.
        entity: what to forget.
        pii_key: by which personal data was hashed; None = no hash is known.
        dry_run: count, and change nothing.

    Raises:
        RunConflictError: another process is rewriting this log.
    """
    done = Rewritten()
    if not directory.is_dir():
        return done
    hashes = {name: entity.hashes(name, pii_key) for name in entity.names}
    with contextlib.nullcontext() if dry_run else _only_one(directory):
        if not dry_run:
            _remove_leftovers(directory)
        seen: set[Path] = set()
        while new := sorted(set(directory.glob(_FILES)) - seen):  # files appear while others are read
            for path in new:
                _forget_in_file(path, entity, hashes, done, dry_run)
            seen.update(new)
    return done


def remove_days(directory: Path, before_ts: int, *, dry_run: bool) -> RemovedDays:
    """Remove the dates of which every moment is before a time.

    Args:
        directory: <log>/<model>; may be missing.
        before_ts: microseconds since 1970, UTC.
        dry_run: count, and change nothing.

    Raises:
        RunConflictError: another process is rewriting this log.
    """
    if not directory.is_dir():
        return RemovedDays((), 0, 0)
    first_kept = datetime.date(1970, 1, 1) + datetime.timedelta(microseconds=before_ts)
    days = [path for path in sorted(directory.glob("date=*")) if _is_before(path, first_kept)]
    with contextlib.nullcontext() if dry_run else _only_one(directory):
        files = [path for day in days for path in sorted(day.glob("part-*.parquet"))]
        size = sum(_size(path) for path in files)
        if not dry_run:
            record_removed(directory, [path.name for path in files])
            for path in (*files, *(hidden for day in days for hidden in day.glob(".part-*.tmp"))):
                path.unlink(missing_ok=True)
            for day in days:
                with contextlib.suppress(OSError):  # a server has just written an answer of that day
                    day.rmdir()
    return RemovedDays(tuple(day.name.removeprefix("date=") for day in days), len(files), size)


def _is_before(day: Path, first_kept: datetime.date) -> bool:
    try:
        return datetime.date.fromisoformat(day.name.removeprefix("date=")) < first_kept
    except ValueError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _forget_in_file(
    path: Path, entity: Entity, hashes: dict[str, frozenset[str]], done: Rewritten, dry_run: bool
) -> None:
    try:
        read = pq.read_table(path, columns=["request", "process", "sequence"], partitioning=None)
        requests = read.column("request")
        mask = np.ones(len(requests), np.bool_)
        for name in entity.names:
            mask &= _has(requests, name, partial(entity.is_text, name, hashes=hashes[name]))
        if mask.any() and not dry_run:
            table = pq.read_table(path, partitioning=None)
            write_file(path, table.filter(pa.array(~mask)))
    except FileNotFoundError:
        return  # retention was quicker
    except (OSError, pa.ArrowException, KeyError):
        done.unreadable.append(str(path))
        return
    done.rows += int(mask.sum())
    done.files += bool(mask.any())
    done.places += places_of(read.filter(pa.array(mask))).to_pylist()


def places_of(rows: pa.Table | pa.RecordBatch) -> pa.Array:
    """Return where each row is in the log: "process/sequence"."""
    texts = [rows.column("process").cast(pa.string()), rows.column("sequence").cast(pa.string())]
    return pc.binary_join_element_wise(*texts, "/")


def _has(requests: pa.ChunkedArray, name: str, is_wanted: Callable[[str | None], bool]) -> NDArray[np.bool_]:
    """Return which rows carry a field with a wanted value; each distinct text is looked at once."""
    masks = [np.zeros(0, np.bool_)]
    for chunk in requests.chunks:
        offsets = chunk.offsets.to_numpy()
        first, n = int(offsets[0]), int(offsets[-1] - offsets[0])
        owners = np.repeat(np.arange(len(chunk)), np.diff(offsets))
        is_field = pc.equal(chunk.keys.slice(first, n), name)
        texts = chunk.items.slice(first, n).filter(is_field).dictionary_encode(null_encoding="encode")
        wanted = np.array([is_wanted(text) for text in texts.dictionary.to_pylist()], np.bool_)
        mask = np.zeros(len(chunk), np.bool_)
        owners = owners[is_field.to_numpy(zero_copy_only=False)]
        mask[owners[wanted[texts.indices.to_numpy()]] if len(owners) else owners] = True
        masks.append(mask)
    return np.concatenate(masks)


def _remove_leftovers(directory: Path) -> None:
    """Remove hidden files whose visible one is there: what a rewriting that died left (a server makes each name once)."""
    for hidden in directory.glob("date=*/.part-*.parquet.tmp"):
        if hidden.with_name(hidden.name[1:].removesuffix(".tmp")).exists():
            hidden.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep other rewriters out: two of one file would each bring back what the other removed."""
    descriptor = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunConflictError(
                f"{directory}: another process is removing rows of this log; run again when it is done",
                directory=str(directory),
            ) from None
        yield
    finally:
        os.close(descriptor)
