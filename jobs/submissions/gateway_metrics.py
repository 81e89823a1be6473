"""What a scraper is told by a gateway: requests, submissions, rows, how many submissions are in which state, and how long they wait.

No metric has a label whose values a client chooses. States and ages are those of the database, so every gateway says the same; they
count what is kept, so they fall when history is deleted.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jobs.submissions.ledger import Overview

__all__ = ["GatewayMetrics"]

_BUCKETS = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics:
    """The metrics of one gateway; any number of threads may count."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "onescore_async_requests",
            "HTTP requests, by method and status.",
            ("method", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "onescore_async_request_seconds",
            "From a request's headers to its answer, by method.",
            ("method",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._taken = Counter(
            "onescore_async_submissions",
            "Submissions taken, by what was sent.",
            ("kind",),
            registry=self._registry,
        )
        self._rows = Counter("onescore_async_rows", "Rows of the submissions taken.", registry=self._registry)
        self._states = Gauge(
            "onescore_async_in_state", "Submissions kept, by state.", ("state",), registry=self._registry
        )

        self._reasons = Gauge(
            "onescore_async_failed",
            "Failed submissions kept, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._oldest = Gauge(
            "onescore_async_oldest_queued_seconds",
            "How long the submission has waited that came first and is not begun; 0 if none waits.",
            registry=self._registry,
        )
        self._notifications = Gauge(
            "onescore_async_notifications",
            "Notifications kept, by state.",
            ("state",),
            registry=self._registry,
        )

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count one HTTP request."""
        known = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self._requests.labels(known, str(status)).inc()
        self._latency.labels(known).observe(seconds)

    def taken(self, kind: str, rows: int) -> None:
        """Count one submission."""
        self._taken.labels(kind).inc()
        self._rows.inc(rows)

    def render(self, kept: Overview, now: int) -> bytes:
        """Return the text of /metrics.

        Args:
            kept: what the database holds.
            now: microseconds since 1970, UTC.
        """
        self._reasons.clear()
        for gauge, counts in ((self._states, kept.states), (self._reasons, kept.reasons)):
            for name, n in counts.items():
                gauge.labels(name).set(n)
        for name in ("pending", "sent", "failed"):
            self._notifications.labels(name).set(kept.notifications.get(name, 0))
        self._oldest.set(0 if kept.oldest_queued_ts is None else (now - kept.oldest_queued_ts) / 1e6)
        return generate_latest(self._registry)
