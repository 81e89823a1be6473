"""Score what was submitted: a worker of asynchronous inference; start as many as you like.

python -m jobs.work_async --model flights
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.online.json_logs import log_json
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table
from jobs.submissions.served import resolve_served
from jobs.submissions.worker import adopt_moved, run_worker

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker; see --help."""
    parser = job_parser(
        "work_async",
        __doc__,
        "It takes submissions that `jobs.serve_async` took, small ones scored by its own processes, large ones by a Spark job. Workers "
        "on many machines share a PostgreSQL database; when one dies, the others take over. SIGTERM stores what is under way, gives back "
        "the rest and exits with 0.",
    )
    parser.add_argument("--scorers", type=int, help="processes that score (default: submissions.scorers)")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="score with the model in this directory; no registry is asked",
    )
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="start no worker: let the workers of this store.url have what waits for the model under another, such as after the store "
        "was moved; say how much that was",
    )
    arguments = parser.parse_args(argv)
    if arguments.scorers is not None:
        arguments.overrides.append(f"submissions.scorers={arguments.scorers}")
    conf = load_from(arguments)
    if arguments.dry_run:
        pinned = resolve_served(conf, arguments.bundle).pinned
        settings = conf.submissions
        print("plan (nothing was started)")
        print(
            table(
                {
                    "model": pinned.name,
                    "version": pinned.version or "not known",
                    "scorers": settings.scorers,
                    "database": settings.database_url,
                }
            )
        )
        return 0
    if arguments.adopt:
        print(f"adopted: {adopt_moved(conf, arguments.bundle)}")
        return 0
    log_json()
    flags = ["--env", arguments.env, "--model", arguments.model]
    flags += [part for override in arguments.overrides for part in ("--set", override)]
    return run_worker(conf, arguments.bundle, flags)


if __name__ == "__main__":
    code = run(main)
    sys.stdout.flush()
    os._exit(code)  # threads of the engine that were abandoned must not keep the process
