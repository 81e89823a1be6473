"""Which files a model's prediction log has, which rows stand in two of them, and which numbers are in none.

Files are looked at, never changed; a server may write meanwhile: what appears later is not part of the comparison. This module
knows nothing of Spark, nor of what a row holds beyond who answered it.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from feature_pipelines.errors import ConfigurationError, ContractError, TableError, did_you_mean
from udfs.prediction_files import FILE_NAME, Gap, ended, gaps
from udfs.prediction_rows import SCHEMA

__all__ = ["LogFile", "PredictionFiles", "Served", "files_of", "in_units", "survey"]

_OPTIONAL = frozenset({"stored", "class_label", "class_scores"})
_ANSWERED = ("model", "model_version", "model_digest", "feature_fingerprint")
_THREADS = 8
_DAY_US = 86_400_000_000
_Numbered = tuple[int, int, int]  # the first and last number of a file, and when its day begins


@dataclass(frozen=True)
class Served:
    """A version that answered rows of a log: as logged; "" where the process did not know it."""

    version: str
    digest: str
    fingerprint: str


@dataclass(frozen=True)
class LogFile:
    """One file.

    Args:
        path: absolute.
        skip: [first, last] of the numbers that an earlier file of the process holds already.
        rows: how many the file has; -1 = not looked at yet.
    """

    path: str
    skip: tuple[tuple[int, int], ...] = ()
    rows: int = -1

    @property
    def process(self) -> str:
        """Who wrote it: the process of all its rows."""
        match = FILE_NAME.fullmatch(Path(self.path).name)
        return "" if match is None else match["process"]


@dataclass(frozen=True)
class PredictionFiles:
    """The log of one model.

    Args:
        directory: <log>/<model>.
        files: in the order of process and number.
        gaps: numbers in no file, but for those that the days of their neighbours show to be out of the range. `is_tail`: the last
            ones of a process that has not said that it ended, so that they may yet be written.
    """

    directory: Path
    files: tuple[LogFile, ...]
    gaps: tuple[Gap, ...]


def files_of(log: Path, model: str, from_ts: int | None = None, to_ts: int | None = None) -> PredictionFiles:
    """Return the files of a model's log.

    Args:
        log: the directory that `serve.log_directory` names, or a replay's own.
        model: the registered name.
        from_ts, to_ts: only days that have a part in [from_ts, to_ts), by when rows were served, microseconds; None = open.

    Raises:
        ConfigurationError: no such directory. TableError: it has no log of this model (lists whose there are, or the replays of which it
            has logs), or no file.
    """
    if not log.is_dir():
        raise ConfigurationError(
            f"prediction log {log}: there is no such directory. Give --log DIR, or serve.log_directory; servers write it when it is set",
            log=str(log),
        )
    directory = log / quote(model, safe="")
    if not directory.is_dir():
        inner = sorted(path.name for path in log.iterdir() if (path / directory.name).is_dir())
        if inner:
            raise TableError(
                f"prediction log {log}: it holds {len(inner)} log(s) of replays, and one is compared at a time: --log {log / inner[-1]}"
                + (f". Others: {', '.join(inner[-2:-7:-1])}" if inner[1:] else ""),
                log=str(log),
                logs=inner,
            )
        others = [unquote(path.name) for path in sorted(log.iterdir()) if any(path.glob("date=*"))]
        raise TableError(
            f"prediction log {log}: no row of model {model!r} is in it.{did_you_mean(model, others)}",
            log=str(log),
        )
    closed = ended(directory)  # before the files are listed: who had ended then writes none later
    listed = sorted(directory.glob("date=*/part-*.parquet"))
    found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    days: dict[str, list[_Numbered]] = defaultdict(list)
    for path in listed:
        match, day = FILE_NAME.fullmatch(path.name), _day(path.parent.name)
        if match is None or day is None:
            continue
        first, last = int(match["first"]), int(match["last"])
        days[match["process"]].append((first, last, day))
        if _may_hold(day, day, from_ts, to_ts):
            found[match["process"]].append((first, -last, str(path.absolute())))
    files = tuple(file for process in sorted(found) for file in _without_overlaps(sorted(found[process])))
    if not files:
        when = "" if from_ts is None and to_ts is None else " of the days asked for"
        raise TableError(
            f"prediction log {directory}: it has no file{when}; nothing can be compared", log=str(directory)
        )
    missing = tuple(
        gap._replace(is_tail=gap.is_tail and gap.process not in closed)
        for gap in gaps(directory, [path.name for path in listed])
        if _may_hold(*_between(gap, days[gap.process]), from_ts, to_ts)
    )
    return PredictionFiles(directory, files, missing)


def survey(log: PredictionFiles, model: str) -> tuple[PredictionFiles, dict[Served, int]]:
    """Return the files with their numbers of rows, and how many rows each version answered, as far as footers and columns say.

    Raises:
        ContractError: a file cannot be read, lacks columns, or holds another model's rows; names the first five.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        looked_at = list(pool.map(lambda file: _look(file, model), log.files))
    problems = [said for _, _, said in looked_at if said]
    if problems:
        raise ContractError(
            f"prediction log {log.directory}: {len(problems)} of {len(log.files)} files cannot be compared: "
            f"{'; '.join(problems[:5])}. Move them away, or leave their days out with --from and --to",
            n_files=len(problems),
        )
    served: dict[Served, int] = defaultdict(int)
    for _, of_file, _ in looked_at:
        for one, n in of_file.items():
            served[one] += n
    return PredictionFiles(log.directory, tuple(file for file, _, _ in looked_at), log.gaps), dict(served)


def in_units(files: Sequence[LogFile], unit_rows: int) -> tuple[tuple[LogFile, ...], ...]:
    """Return the files in groups of about so many rows, in order; a file is never cut."""
    units: list[tuple[LogFile, ...]] = []
    held: list[LogFile] = []
    for file in files:
        if held and sum(one.rows for one in held) + file.rows > unit_rows:
            units.append(tuple(held))
            held = []
        held.append(file)
    return (*units, tuple(held)) if held else tuple(units)


def _day(name: str) -> int | None:
    """Return when the day of a directory begins, microseconds; None: it is no day's."""
    try:
        date = datetime.date.fromisoformat(name.removeprefix("date="))
    except ValueError:
        return None
    return (date - datetime.date(1970, 1, 1)) // datetime.timedelta(microseconds=1)


def _may_hold(first: int | None, last: int | None, from_ts: int | None, to_ts: int | None) -> bool:
    """Return whether days from `first` to `last`, both inclusive, None = not known, have a part in [from_ts, to_ts)."""
    begins_before = first is None or to_ts is None or first < to_ts
    return begins_before and (last is None or from_ts is None or last + _DAY_US > from_ts)


def _between(gap: Gap, files: Sequence[_Numbered]) -> tuple[int | None, int | None]:
    """Return the days between which a gap's rows were served: a process numbers rows as it answers them."""
    before = [day for _, last, day in files if last < gap.first]
    after = [day for first, _, day in files if first > gap.last]
    return max(before, default=None), min(after, default=None)


def _without_overlaps(ranges: list[tuple[int, int, str]]) -> list[LogFile]:
    """Return the files of a process; a number that two hold is the first one's."""
    files: list[LogFile] = []
    covered = 0
    for first, negative, path in ranges:
        skip = ((first, min(covered, -negative)),) if first <= covered else ()
        files.append(LogFile(path, skip))
        covered = max(covered, -negative)
    return files


def _look(file: LogFile, model: str) -> tuple[LogFile, dict[Served, int], str]:
    name = "/".join(Path(file.path).parts[-2:])
    try:
        with pq.ParquetFile(file.path) as parquet:
            schema = parquet.schema_arrow
            wrong = [
                f.name
                for f in SCHEMA
                if (f.name not in schema.names and f.name not in _OPTIONAL)
                or (f.name in schema.names and not schema.field(f.name).type.equals(f.type))
            ]
            if wrong:
                return file, {}, f"{name} lacks, or has of another type, {', '.join(wrong[:5])}"
            rows = parquet.metadata.num_rows
            table = parquet.read(columns=list(_ANSWERED), use_threads=False)
    except (OSError, pa.ArrowException) as exc:
        return file, {}, f"{name} cannot be read ({type(exc).__name__})"
    counted = table.group_by(list(_ANSWERED)).aggregate([([], "count_all")]).to_pylist()
    others = sorted({str(row["model"]) for row in counted} - {model})
    if others:
        return file, {}, f"{name} has rows of model {others[0]!r}"
    served = {
        Served(row["model_version"] or "", row["model_digest"] or "", row["feature_fingerprint"] or ""): row[
            "count_all"
        ]
        for row in counted
    }
    return LogFile(file.path, file.skip, rows), served, ""
