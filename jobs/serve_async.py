"""Take submissions over HTTP and keep them until they are scored: the gateway of asynchronous inference.

python -m jobs.serve_async --model flights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.online.json_logs import log_json
from jobs.online.supervisor import listen
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table
from jobs.submissions.gateway import run_gateway
from jobs.submissions.page.opening import Pages
from jobs.submissions.served import resolve_served

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a gateway; see --help."""
    parser = job_parser(
        "serve_async",
        __doc__,
        "A submission that was answered with 202 is scored, whatever happens to this process; `jobs.work_async` starts who scores "
        "it. The alias is resolved once, and again by SIGHUP; a submission keeps its version. SIGTERM finishes the requests under way "
        "and exits with 0. GET / is a page for people, /dashboard/ shows the prediction log live; GET /openapi.json describes the routes.",
    )
    parser.add_argument("--host", help="where to listen (default: submissions.host)")
    parser.add_argument(
        "--port", type=int, help="where to listen; 0: any free port (default: submissions.port)"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="serve the model in this directory; no registry is asked"
    )
    arguments = parser.parse_args(argv)
    for name in ("host", "port"):
        if getattr(arguments, name) is not None:
            arguments.overrides.append(f"submissions.{name}={getattr(arguments, name)}")
    conf = load_from(arguments)
    settings = conf.submissions
    if arguments.dry_run:
        pinned = resolve_served(conf, arguments.bundle).pinned
        print("plan (nothing was started)")
        print(
            table(
                {
                    "model": pinned.name,
                    "version": pinned.version or "not known",
                    "listens": f"{settings.host}:{settings.port}",
                    "database": settings.database_url,
                }
            )
        )
        return 0
    log_json()
    listening = listen(settings.host, settings.port, "submissions")
    return run_gateway(conf, arguments.bundle, listening, pages=lambda gateway: Pages(conf, gateway))


if __name__ == "__main__":
    sys.exit(run(main))
