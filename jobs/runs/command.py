"""What every job has in common on the command line: the shared flags, and how it ends.

    0 ok    1 a check failed    2 usage or configuration    3 data contract broken    70 a defect of ours    130 interrupted

A job's module ends with `sys.exit(run(main))`. This module knows nothing of what a job does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feature_pipelines.errors import OnescoreError
from jobs.runs.conf import ENVIRONMENTS, Conf, load
from jobs.runs.secret_refs import mask

__all__ = ["EXIT_DEFECT", "EXIT_INTERRUPTED", "job_parser", "load_from", "run"]

EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130


def job_parser(job: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of a job, with --env, --model, --set and --dry-run; a job adds its own flags.

    What it parses has `env`, `model`, `overrides` (list of key=value) and `dry_run`; `load_from` reads them.

    Args:
        job: its module's name below `jobs`.
        description, epilog: of --help, their lines kept as they are.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{job}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("shared by all jobs")
    group.add_argument(
        "--env",
        default="local",
        help=f"environment, a file of conf/: {', '.join(ENVIRONMENTS)} (default: %(default)s)",
    )
    group.add_argument("--model", default="flights", help="model, a file of conf/ (default: %(default)s)")
    group.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for example score.chunk_rows=500000; may be repeated; conf/README.md lists all keys",
    )
    group.add_argument("--dry-run", action="store_true", help="print what would be done, and write nothing")
    return parser


def load_from(arguments: argparse.Namespace) -> Conf:
    """Return the configuration that the shared flags ask for."""
    return load(arguments.env, arguments.model, arguments.overrides)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Return the exit code of a job, having turned whatever went wrong into one line on stderr.

    An OnescoreError gives its message and its own code. Anything else is a defect: a short line and the path of a log with
    the traceback, secrets masked, below `.onescore/logs` of ONESCORE_HOME or the working directory.

    Args:
        main: parses `argv` (None: the process's) and returns an exit code.
        argv: the arguments without the program's name.
    """
    try:
        return main(argv)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except OnescoreError as exc:
        _say(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        _say("interrupted; running the same command again continues where a run stopped")
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - the outermost frame: whatever it is, a person gets one line
        log = _write_traceback(traceback.format_exc())
        _say(f"unexpected {type(exc).__name__}: {_first_line(exc)} (traceback in {log})")
        return EXIT_DEFECT


def _say(message: str) -> None:
    print(f"error: {mask(' '.join(message.split()))}", file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"


def _write_traceback(text: str) -> Path:
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    directory = Path(os.environ.get("ONESCORE_HOME", "")) / ".onescore" / "logs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        log = directory.resolve() / name
        log.write_text(mask(text), encoding="utf-8")
    except OSError:
        log = Path(tempfile.mkdtemp(prefix="onescore-")) / name
        log.write_text(mask(text), encoding="utf-8")
    return log
