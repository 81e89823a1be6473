"""Remove from the online store what no request can find any more: rows older than their view's ttl.

python -m jobs.purge_features --model flights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from feature_pipelines.packaged import load_reference
from feature_pipelines.stores.opening import open_store
from jobs.online.instants import instant
from jobs.online.store_conf import chosen_views, store_url
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table

__all__ = ["main"]

_FIRST = -(2**63)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser(
        "purge_features",
        __doc__,
        "Tombstones go with the rows of their age. Safe beside readers and writers. A view without ttl is left alone.",
    )
    parser.add_argument(
        "--as-of", metavar="TIME", help="RFC 3339 with an offset: what is expired then goes (default: now)"
    )
    parser.add_argument(
        "--view",
        dest="views",
        action="append",
        default=[],
        metavar="NAME",
        help="this view alone; may be repeated",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    as_of = instant("--as-of", arguments.as_of, datetime.now(UTC))
    views = chosen_views(load_reference(conf.model.feature_set), arguments.views)
    store = open_store(store_url(conf), timeout_ms=conf.store.write_timeout_ms)
    removed: dict[str, int | str] = {}
    try:
        states = store.states(views)
        for view in views:
            if view.ttl_seconds is None:
                removed[view.name] = "any age is served"
            elif states[view.name] is None:
                removed[view.name] = "not in the store"
            elif arguments.dry_run:
                removed[view.name] = f"what is older than {view.ttl_seconds} s"
            else:
                removed[view.name] = store.purge(view, max(as_of - view.ttl_seconds * 1_000_000, _FIRST))
    finally:
        store.close()
    print("plan (nothing was removed)" if arguments.dry_run else "rows removed")
    print(table(removed))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
