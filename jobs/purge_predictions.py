"""Remove from a model's prediction log the days that are older than serve.log_retention_days.

python -m jobs.purge_predictions --model flights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from jobs.online.forgetting import log_directory
from jobs.online.instants import instant, shown
from jobs.online.log_rewriting import remove_days
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table

__all__ = ["main"]

_DAY_US = 86_400_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser(
        "purge_predictions",
        __doc__,
        "Whole days in UTC, by the time of the answer. Safe beside servers, watchers and readers.",
    )
    parser.add_argument("--log", metavar="DIR", help="the prediction log (default: serve.log_directory)")
    parser.add_argument(
        "--before",
        metavar="TIME",
        help="RFC 3339 with an offset: days that end by then go (default: serve.log_retention_days ago)",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    directory, days = log_directory(conf, arguments.log), conf.serve.log_retention_days
    if directory is None or (arguments.before is None and days is None):
        print("nothing to do: " + ("no log is configured" if directory is None else "every day is kept"))
        return 0
    now = instant("--before", arguments.before, datetime.now(UTC))
    before = now if arguments.before is not None else now - (days or 0) * _DAY_US
    removed = remove_days(directory, before, dry_run=arguments.dry_run)
    print("plan (nothing was removed)" if arguments.dry_run else "removed")
    print(
        table(
            {
                "log": str(directory),
                "before": shown(before),
                "days": removed.dates,
                "files": removed.files,
                "bytes": removed.bytes,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
