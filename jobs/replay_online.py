"""Serve history as it happened: feature rows and requests of a time range in the order in which they became visible.

python -m jobs.replay_online --model flights --from 2013-06-01T00:00:00Z --to 2013-06-02T00:00:00Z
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, ContractError
from feature_pipelines.packaged import load_reference
from feature_pipelines.stores.opening import open_store, safe_url
from jobs.online.instants import instant, shown
from jobs.online.materialise import plan_view
from jobs.online.replay import Replayed, Window, replay
from jobs.online.replay_ask import ScorerAsker, ServerAsker
from jobs.online.replay_source import RequestSource, ViewSource
from jobs.online.replay_store import ReplayStore, default_logs, default_store, require_other
from jobs.online.serve_conf import worker_spec
from jobs.online.store_conf import chosen_views, store_url
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.tables.snapshot import pin_snapshot
from udfs.online import OUR_FAULTS
from udfs.serving import open_scorer

__all__ = ["main"]

_OURS = ("AS_OF_BEFORE_STORE", "STORE_UNAVAILABLE", *OUR_FAULTS)
"""Refusals that are no property of the request: a replay that has one did not serve history."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    arguments = _parser().parse_args(argv)
    conf = load_from(arguments)
    conf.require("model.feature_set", "input.source")
    now = datetime.now(UTC)
    window = Window(
        instant("--from", arguments.from_time, now), instant("--to", arguments.to_time, now), arguments.rows
    )
    if window.to_ts <= window.from_ts:
        raise ConfigurationError(f"--to {arguments.to_time} is not after --from {arguments.from_time}")
    if window.rows is not None and window.rows < 1:
        raise ConfigurationError(f"--rows {window.rows}: expected at least 1")
    url = arguments.store or default_store(conf)
    require_other(url, store_url(conf))
    replay_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    logs = (Path(arguments.log) if arguments.log else default_logs(conf)) / replay_id
    if arguments.dry_run:
        return _dry_run(conf, window, url)
    asker, feature_set = _asker(arguments, conf, url, logs)
    with closing(asker), closing(open_store(url, timeout_ms=conf.store.write_timeout_ms)) as store:
        say(f"replay {replay_id} into {safe_url(url)}, {shown(window.from_ts)} to {shown(window.to_ts)}")
        mine = ReplayStore(store, url, conf, chosen_views(feature_set, ()), replay_id)
        requests = _requests(conf, feature_set)
        mine.begin(window.from_ts, reset=arguments.reset, say=say)
        views = [ViewSource(plan.view, plan.snapshot) for plan in mine.plans]
        done = replay(store, views, requests, window, asker, mine.advance, _progress)
        mine.finish()
    facts = _facts(done, views, requests) | {
        "store": safe_url(url),
        "log": "the server's own" if arguments.url else str(logs),
    }
    if not arguments.url:
        _write_summary(
            logs, facts | {"replay": replay_id, "from": arguments.from_time, "to": arguments.to_time}
        )
    print(f"replay {replay_id}\n{table(facts)}", flush=True)
    return _verdict(done, views, conf.quarantine.max_share)


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("replay_online", __doc__, _EPILOG)
    parser.add_argument(
        "--from", dest="from_time", required=True, metavar="TIME", help="RFC 3339 with an offset, inclusive"
    )
    parser.add_argument(
        "--to", dest="to_time", required=True, metavar="TIME", help="RFC 3339 with an offset, exclusive"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="ask the first N requests and stop (default: all)"
    )
    parser.add_argument(
        "--url", help="ask a running server, such as http://127.0.0.1:8080, started with store.url = --store"
    )
    parser.add_argument("--store", metavar="URL", help="default: replay.db below storage.root")
    parser.add_argument("--reset", action="store_true", help="empty the store's views first")
    parser.add_argument("--log", metavar="DIR", help="default: replays below storage.root")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="ask the model in this directory; no registry is asked"
    )
    return parser


def _asker(
    arguments: argparse.Namespace, conf: Conf, url: str, logs: Path
) -> tuple[ScorerAsker | ServerAsker, FeatureSet]:
    """Return who is asked, and the feature set whose views it looks up: the model's own copy where it is at hand."""
    if arguments.url:
        return ServerAsker(arguments.url), load_reference(conf.model.feature_set)
    spec = worker_spec(conf, arguments.bundle)
    settings = dataclasses.replace(spec.settings, store_url=url, log_directory=str(logs))
    scorer = open_scorer(
        Path(spec.bundle),
        settings,
        _now,
        model_version=spec.version,
        expected_digest=spec.digest,
        allow_tolerance=spec.allow_tolerance,
    )
    return ScorerAsker(scorer, settings.log_max_queue), scorer.scorer.feature_set


def _requests(conf: Conf, feature_set: FeatureSet) -> RequestSource:
    partitions = dict(conf.input.partitions)
    return RequestSource(
        feature_set, pin_snapshot(conf.input_location, version=conf.input.version, partitions=partitions)
    )


def _dry_run(conf: Conf, window: Window, url: str) -> int:
    feature_set = load_reference(conf.model.feature_set)
    bounds = window.from_ts, window.to_ts - 1
    facts: dict[str, Any] = {}
    for view in chosen_views(feature_set, ()):
        plan = plan_view(conf, view, window.from_ts, None)
        times = ViewSource(view, plan.snapshot).times(*bounds)
        facts[f"feature rows of {view.name}"] = len(times)
    asked = len(_requests(conf, feature_set).times(bounds[0] - 1, bounds[1]))
    facts["requests"] = asked if window.rows is None else min(asked, window.rows)
    print("plan (nothing was written)")
    print(table({"from": shown(window.from_ts), "to": shown(window.to_ts), "store": safe_url(url)} | facts))
    return 0


def _facts(done: Replayed, views: Sequence[ViewSource], requests: RequestSource) -> dict[str, Any]:
    broken = {source.view.name: source.broken for source in views if source.broken}
    facts = {
        "requests asked": done.asked,
        "answered": done.answered,
        "refused": done.asked - done.answered,
        "refused by code": dict(done.refused),
        "requests without an as-of time, not asked": requests.timeless,
        "feature rows written": done.written.total(),
        "of view": dict(done.written),
        "of these the newest when they came": done.changed,
        "feature rows that break the contract, not written": broken,
        "statuses": {view: dict(found) for view, found in sorted(done.statuses.items())},
        "PRESENT": f"{done.present_share:.2%} of the look-ups",
        "seconds": f"{done.seconds:.1f}",
        "requests per second": int(done.asked / done.seconds) if done.seconds else 0,
    }
    return {name: value for name, value in facts.items() if value not in ({}, 0) or name == "requests asked"}


def _verdict(done: Replayed, views: Sequence[ViewSource], limit: float) -> int:
    for source in views:
        rows = done.written[source.view.name] + source.broken
        if source.broken and source.broken / rows > limit:
            raise ContractError(
                f"view {source.view.name!r}: {source.broken} of {rows} rows of the window break the contract, more than "
                f"quarantine.max_share allows, and were left out: {dict(source.reasons.most_common(5))}",
                view=source.view.name,
            )
    return 1 if any(done.refused[code] for code in _OURS) else 0


def _write_summary(logs: Path, facts: dict[str, Any]) -> None:
    """Write what says that the replay ended; a log without it is of an aborted attempt."""
    logs.mkdir(parents=True, exist_ok=True)
    hidden = logs / ".replay.json.tmp"
    hidden.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    hidden.rename(logs / "replay.json")


def _progress(done: int, total: int, seconds: float) -> None:
    share = done / total if total else 1.0
    say(
        f"  asked {done:>12,} of {total:,} requests ({share:4.0%})  {done / max(seconds, 1e-9):>11,.0f} rows/s"
    )


def _now() -> int:
    return time.time_ns() // 1000


_EPILOG = """\
At equal time the feature row comes first. Each request is asked as of its own as-of field, through the store, the model and the
prediction log. Store and log are the replay's own: production's are not touched. Every replay logs into a directory of its own, below
--log; the file replay.json there says that it ended. After a replay that was killed, the same command starts over; after one that
ended, the store is beyond --from, and --reset or another --store is needed. A replay that begins where the last one ended
continues with its store. Times alone are kept for the whole window (some 16 bytes a row); tables of a Spark catalog cannot be read.
Exit codes: 0 done; 1 a request was refused for want of the store (AS_OF_BEFORE_STORE, STORE_UNAVAILABLE) or by a defect; 2 usage,
configuration, or the server or store does not answer; 3 the data breaks the contract."""

if __name__ == "__main__":
    sys.exit(run(main))
