"""The engine alone: a worker of DBOS whose workflow does nothing, in a process of its own.

    python tests/benchmarks/peers/dbos_noop.py DATABASE_URL

It says "ready" when it takes work, and ends with its input.
"""

from __future__ import annotations

import os
import sys

from dbos import DBOS


def main() -> None:
    """Work until the input ends."""
    DBOS(
        config={
            "name": "onescore-noop",
            "system_database_url": sys.argv[1],
            "application_version": "1",
            "executor_id": "noop",
            "log_level": "ERROR",
        }
    )

    @DBOS.workflow(name="noop")
    def noop(_text: str) -> None:
        return None

    DBOS.launch()
    DBOS.register_queue("noop", worker_concurrency=8, polling_interval_sec=0.02, on_conflict="always_update")
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
