"""A process that scores for a worker, one submission at a time; whatever a submission does to it, it does to nobody else.

    python -m jobs.submissions.scorer_process FD        started by `scorer_pool` alone; FD is where it answers

Messages come by its input, which a thread of its own reads: when it ends, what others were answered is logged at once and this process
ends, whatever it is at. It never imports MLflow nor the database.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from feature_pipelines.errors import OnescoreError
from jobs.online.json_logs import log_json
from jobs.submissions.frames import Ended, read_frame, write_frame
from jobs.submissions.payload import KeptRows, read_kept
from jobs.submissions.scoring import Model, Scorers
from udfs.serving import ServingSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Answer messages until there are no more, then end the process."""
    log_json()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the worker answers
    told = int((sys.argv[1:] if argv is None else argv)[0])
    spec, _ = read_frame(0)
    scorers = Scorers(ServingSettings(**spec["settings"]), spec["max_versions"])
    asks: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(scorers, asks), name="listener", daemon=True)
    listener.start()
    kept = KeptRows((), ())
    with contextlib.suppress(Ended):  # then the input has ended too
        while True:
            asked, body = asks.get()
            if body:
                kept = KeptRows((), ())
            try:
                if body:
                    kept = read_kept(body)
                said, answers = _answer(scorers, asked, kept)
            except OnescoreError as exc:
                said, answers = (
                    {"refused": type(exc).__name__, "message": str(exc), "retryable": exc.retryable},
                    b"",
                )
            write_frame(told, said, answers)
    listener.join()


def _listen(scorers: Scorers, asks: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Hand on what is asked; settle what was answered, which is never while something is asked; end the process with its input."""
    try:
        while True:
            asked, body = read_frame(0)
            if asked["op"] == "settle":
                scorers.settle(asked["is_taken"])
            else:
                asks.put((asked, body))
    except Ended:
        scorers.close()
    finally:
        sys.stdout.flush()
        os._exit(
            0
        )  # neither what is under way nor libraries' threads must keep a process whose worker is gone


def _answer(scorers: Scorers, asked: Mapping[str, Any], kept: KeptRows) -> tuple[dict[str, Any], bytes]:
    model = Model(**asked["model"])
    if asked["op"] == "load":
        online = scorers.load(model)
        return {"verified": online.scorer.verified}, b""
    first, last = asked["first_row"], asked["first_row"] + asked["n_rows"]
    refused = [error._replace(row=error.row - first) for error in kept.refused if first <= error.row < last]
    found = scorers.answer(model, asked["as_of"], kept.rows[first:last], refused, is_last=asked["is_last"])
    counts = asdict(found)
    body, ids = counts.pop("body"), counts.pop("ids")
    return {**counts, "ids": len(ids)}, ids + body


if __name__ == "__main__":
    main()
