"""What a scraper is told, under the same names by the lean server and by `jobs.watch_serving`.

Every number comes from `Answered` (the lean server sees it pass, the watcher reads it from the log's files), so that both count the
same things. In the lean server prometheus_client keeps the numbers in files that all workers share (PROMETHEUS_MULTIPROC_DIR);
nothing here knows how many processes there are. No metric has a label whose values a client chooses.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feature_pipelines.lookup import Status
from udfs.answered import Answered
from udfs.prediction_log import PredictionLog

__all__ = ["Observed", "ServingMetrics"]

_BUCKETS = (
    *(25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2),
    *(5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
_PARTS = ("lookup", "features", "model")
_STATUS_NAMES = {int(status): status.name for status in Status}


class ServingMetrics:
    """The metrics of one model's answers; any number of threads may count.

    Args:
        registry: where they are found; not used where processes share files.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        counter, gauge = self._counter, self._gauge
        self._requests = counter("requests", "HTTP requests to /invocations, by status.", "status")
        self._rows = counter("rows", "Rows answered, refused ones included.")
        self._row_errors = counter("row_errors", "Rows refused, by code.", "code")
        self._statuses = counter("view_status", "Look-ups, by view and status.", "view", "status")
        self._latency = Histogram(
            "onescore_latency_seconds",
            "lookup, features, model: of rows scored together; total: of a request, from its body to its answer.",
            ("part",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._age = gauge(
            "view_age_seconds", "Time since W, through which the view is materialised.", ("view",)
        )
        self._store_up = gauge("store_up", "1 if the online store answered when it was last asked.")
        self._log_rows = counter("prediction_log_rows", "Rows of the prediction log, by outcome.", "outcome")
        self._log_queued = gauge("prediction_log_queued", "Rows that wait to be written.", mode="livesum")
        self._info = gauge(
            "model_info",
            "1 for each model version that answers.",
            ("model", "version", "digest", "fingerprint", "verified"),
            "livemax",
        )
        self._parts = [self._latency.labels(part) for part in _PARTS]
        self._total = self._latency.labels("total")
        self._logged: dict[str, int] = {}
        self._children: dict[tuple[str, str], Any] = {}
        self._noted: deque[Answered] = deque()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"onescore_{name}", meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = (), mode: Any = "mostrecent") -> Gauge:
        return Gauge(f"onescore_{name}", meaning, labels, registry=self._registry, multiprocess_mode=mode)

    # What the lean server or the watcher alone knows is exported by that one alone: a 0 elsewhere would be a lie.

    @cached_property
    def _server_up(self) -> Gauge:
        return self._gauge("server_up", "1 if the server answered when it was last asked.")

    @cached_property
    def _log_failures(self) -> Counter:
        meaning = "Files of the prediction log that could not be written, each try counted."
        return self._counter("prediction_log_failed_writes", meaning)

    @cached_property
    def _log_lost(self) -> Gauge:
        meaning = "Rows of the prediction log as it is now that are in no file and will not be."
        return self._gauge("prediction_log_lost_rows", meaning)

    def request(self, status: int, seconds: float) -> None:
        """Count one HTTP request that ended with a status after so many seconds, and the rows noted since the last."""
        self.count_noted()
        text = str(status)
        child = self._children.get(("", text))
        if child is None:
            child = self._children["", text] = self._requests.labels(text)
        child.inc()
        self._total.observe(seconds)

    def note(self, answered: Answered) -> None:
        """Have rows that were answered together counted when their answers are sent: that takes as long as reading the store."""
        self._noted.append(answered)

    def count_noted(self) -> None:
        """Count what was noted."""
        while True:
            try:
                answered = self._noted.popleft()
            except IndexError:
                return
            self.answered(answered)

    def answered(self, answered: Answered) -> None:
        """Count rows that were answered together."""
        codes = Tally(answer["error"]["code"] for answer in answered.answers if "error" in answer)
        statuses = {view: Tally(of_view) for view, of_view in answered.statuses.items()}
        if codes:
            refused = set(range(len(answered.rows))).difference(answered.index)
            for (
                view,
                of_view,
            ) in answered.statuses.items():  # a row that was never looked up has the first status
                statuses[view][0] -= sum(of_view[row] == 0 for row in refused)
        self.latency(answered.latency_us)
        self.rows(
            len(answered.rows),
            codes,
            {view: {_STATUS_NAMES[s]: n for s, n in of.items() if n} for view, of in statuses.items()},
        )

    def rows(self, n: int, codes: Mapping[str, int], statuses: Mapping[str, Mapping[str, int]]) -> None:
        """Count rows, and of them those refused by code, and their look-ups by view and status."""
        self._rows.inc(n)
        for code, times in codes.items():
            self._row_errors.labels(code).inc(times)
        for view, of_view in statuses.items():
            for status, times in of_view.items():
                child = self._children.get((view, status))
                if child is None:
                    child = self._children[view, status] = self._statuses.labels(view, status)
                child.inc(times)

    def latency(self, us: Sequence[int]) -> None:
        """Count the time that rows scored together took: reading the store, features, model; microseconds. All 0 = not measured."""
        if not any(us):
            return
        for part, spent in zip(self._parts, us, strict=True):
            part.observe(spent / 1e6)

    def model(self, info: Mapping[str, Any], version: str | None) -> None:
        """Say which model answers."""
        facts = (info["name"], version or "", info.get("digest", ""), info.get("feature_fingerprint", ""))
        self._info.labels(*facts, str(info.get("verified", ""))).set(1)

    def store(self, through: Mapping[str, int | None] | None, now: int) -> None:
        """Say how old each view is, microseconds of W; None = the store did not answer."""
        self._store_up.set(0 if through is None else 1)
        for view, through_ts in (through or {}).items():
            if through_ts is not None:
                self._age.labels(view).set((now - through_ts) / 1e6)

    def server(self, is_up: bool) -> None:
        """Say whether a watched server answers."""
        self._server_up.set(int(is_up))

    def log(self, counts: Mapping[str, int]) -> None:
        """Take over what a prediction log of this process has counted since its start."""
        for outcome in ("written", "dropped", "unwritable"):
            now = counts.get(outcome, 0)
            self._log_rows.labels(outcome).inc(now - self._logged.get(outcome, 0))
            self._logged[outcome] = now
        failed = counts.get("failed_writes", 0)
        self._log_failures.inc(failed - self._logged.get("failed_writes", 0))
        self._logged["failed_writes"] = failed
        self._log_queued.set(counts.get("queued", 0))

    def gaps(self, lost: int, queued: int) -> None:
        """Say how many rows a watched log lacks for good, and how many its processes may still write."""
        self._log_lost.set(lost)
        self._log_queued.set(queued)


class Observed:
    """A prediction log, or none, with the metrics before it: OnlineScorer hands both every answer."""

    def __init__(self, metrics: ServingMetrics, log: PredictionLog | None) -> None:
        self._metrics, self.log = metrics, log

    def write(self, answered: Answered) -> None:
        """Pass the answers on, and note them to be counted."""
        if self.log is not None:
            self.log.write(answered)
        self._metrics.note(answered)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()
