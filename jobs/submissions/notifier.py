"""Delivers what the outbox holds, from within each worker: tried again a little later each time, until it was tried often enough.

For one key, and to one place, few are sent at once, and who has the fewest under way comes first: receivers that do not answer hold up
messages of their own key, and others at most until one of those that are being sent has its time out. This module knows nothing of how
a submission is scored.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import sqlalchemy as sa

from feature_pipelines.errors import OnescoreError
from jobs.online.json_logs import event, failure
from jobs.online.sending import Sender
from jobs.runs.settings_notify import NotifySettings
from jobs.submissions.database import Database
from jobs.submissions.ledger import Ledger
from jobs.submissions.messages import as_json, as_text
from jobs.submissions.outbox import Delivery, Outbox
from jobs.submissions.webhook import post_webhook, secret_bytes, secret_of_caller, signed_headers

__all__ = ["Notifier"]

_LOOK_EVERY_SECONDS = 0.25
_VAIN_LOOK_PAUSES = 20.0  # so they take about a twentieth of the time
_LONGEST_VAIN_PAUSE_SECONDS = 5.0
_AT_ONCE = 16
_OF_ONE_AT_ONCE = 4
_SECOND_US = 1_000_000
_LEASE_MORE_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 3600.0
_GONE = "HTTP_410"
_NOT_CONFIGURED = "NOT_CONFIGURED"
_NOT_CONFIGURED_SECONDS = 10
_CUT_OFF = "WORKER_ENDED"


class Notifier:
    """Delivers until it is closed; any number of processes may.

    Args:
        database: of the submissions.
        settings: how, and how often.
        clock: microseconds since 1970, UTC.

    Raises:
        ConfigurationError: the secret of webhooks will not do.
    """

    def __init__(self, database: Database, settings: NotifySettings, clock: Callable[[], int]) -> None:
        self._outbox, self._ledger = Outbox(database), Ledger(database, clock)
        self._settings, self._clock = settings, clock
        self._secret = None if settings.webhook_secret is None else settings.webhook_secret.reveal()
        if self._secret is not None:
            secret_bytes(self._secret)
        self._sender = Sender(settings)
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="notify")
        self._sending: dict[Future[None], Delivery] = {}
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Claim nothing more, and give what is being sent so long; what does not make it is due at once for whoever lives."""
        deadline = time.monotonic() + seconds
        self._closing.set()
        self._thread.join(seconds)
        unsent = wait(list(self._sending), max(0.0, deadline - time.monotonic())).not_done
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in unsent:
            with contextlib.suppress(sa.exc.SQLAlchemyError):  # then it is due when its time has come
                self._outbox.give_back(self._sending[future].id, self._clock(), _CUT_OFF)

    def _begin(self) -> int:
        """Begin to send what is due, as much as may be sent at once; return how much that is."""
        self._sending = {future: one for future, one in self._sending.items() if not future.done()}
        lease = round((self._settings.timeout_seconds + _LEASE_MORE_SECONDS) * _SECOND_US)
        n = 0
        while (free := _AT_ONCE - len(self._sending)) and not self._closing.is_set():
            sending = list(self._sending.values())
            claimed = self._outbox.claim(self._clock(), lease, sending, _OF_ONE_AT_ONCE, free)
            if not claimed:
                break
            self._sending |= {self._pool.submit(self._deliver, one): one for one in claimed}
            n += len(claimed)
        return n

    def _run(self) -> None:
        while not self._closing.is_set():
            n, since = 0, time.monotonic()
            try:
                n = self._begin()
            except Exception as exc:  # noqa: BLE001 - a database that is away comes back
                event("notifier_failed", raised=type(exc).__name__)
            self._closing.wait(_pause(n, time.monotonic() - since))

    def _deliver(self, delivery: Delivery) -> None:
        try:
            failed = self._tried(delivery)
        except OnescoreError:
            failed = _NOT_CONFIGURED
        except Exception as exc:  # noqa: BLE001 - whatever a library raises is one attempt that failed
            failed = type(exc).__name__[:64]
        facts = {"id": delivery.id, "submission": delivery.submission_id, "kind": delivery.kind}
        if failed is None:
            self._outbox.settle(delivery.id, "sent")
            event("notified", attempts=delivery.attempts, **facts)
        elif (
            failed == _NOT_CONFIGURED
        ):  # by this process, which says nothing of the others or of the receiver
            self._outbox.give_back(delivery.id, self._clock() + _NOT_CONFIGURED_SECONDS * _SECOND_US, failed)
            failure("notification_not_configured", **facts)
        elif failed == _GONE or delivery.attempts >= self._settings.max_attempts:
            self._outbox.settle(delivery.id, "failed", failed)
            failure("notification_failed", reason=failed, attempts=delivery.attempts, **facts)
        else:
            pause = min(
                self._settings.retry_seconds * 2 ** min(delivery.attempts - 1, 16), _LONGEST_PAUSE_SECONDS
            )
            self._outbox.again(delivery.id, self._clock() + round(pause * _SECOND_US), failed)

    def _tried(self, delivery: Delivery) -> str | None:
        """Return None when it was taken, else a code of why not."""
        submission = self._ledger.get(delivery.submission_id)
        if submission is None:
            return _GONE
        settings = self._settings
        if delivery.kind == "webhook":
            if self._secret is None:
                return _NOT_CONFIGURED
            key = secret_bytes(secret_of_caller(self._secret, submission.key_id))
            body = as_json(submission, settings.public_url)
            headers = signed_headers(key, delivery.id, self._clock() // _SECOND_US, body)
            return post_webhook(
                delivery.where,
                body,
                headers,
                timeout_seconds=settings.timeout_seconds,
                allow_private=settings.webhook_private,
            )
        title, text = as_text(submission, settings.public_url)
        send = self._sender.to_target if delivery.kind == "target" else self._sender.to_email
        return None if send(delivery.where, title, text) else "NOT_TAKEN"


def _pause(n_begun: int, seconds: float) -> float:
    """Return how long to wait after a look that took so long: one in vain, through much that is due and may not be sent yet, is rarer."""
    if n_begun:
        return _LOOK_EVERY_SECONDS
    return min(max(_LOOK_EVERY_SECONDS, _VAIN_LOOK_PAUSES * seconds), _LONGEST_VAIN_PAUSE_SECONDS)
