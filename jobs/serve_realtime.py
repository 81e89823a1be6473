"""Serve the registered model over HTTP: MLflow's protocol, stored features looked up, every answer logged.

python -m jobs.serve_realtime --model flights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.online.json_logs import log_json
from jobs.online.serve_conf import worker_spec
from jobs.online.supervisor import Supervisor, listen
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; see --help."""
    parser = job_parser(
        "serve_realtime",
        __doc__,
        "The alias is resolved once, when the server starts; SIGHUP resolves it again, and new workers take over when they "
        "answer. SIGTERM finishes the requests under way, writes the log and exits with 0. Routes: POST /invocations; GET /ping, "
        "/health, /version, /ready, /metrics.",
    )
    parser.add_argument("--host", help="where to listen (default: serve.host)")
    parser.add_argument("--port", type=int, help="where to listen; 0: any free port (default: serve.port)")
    parser.add_argument("--workers", type=int, help="processes that answer (default: serve.workers)")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="serve the model in this directory; no registry is asked"
    )
    arguments = parser.parse_args(argv)
    for name in ("host", "port", "workers"):
        if getattr(arguments, name) is not None:
            arguments.overrides.append(f"serve.{name}={getattr(arguments, name)}")
    conf = load_from(arguments)
    settings = conf.serve
    if arguments.dry_run:
        spec = worker_spec(conf, arguments.bundle)
        print("plan (nothing was started)")
        print(
            table({"model": spec.bundle, "version": spec.version or "not known", "workers": settings.workers})
        )
        return 0
    log_json()
    listening = listen(settings.host, settings.port, "serve")
    return Supervisor(lambda: worker_spec(conf, arguments.bundle), listening, settings.workers).run()


if __name__ == "__main__":
    sys.exit(run(main))
