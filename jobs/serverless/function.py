"""The one scorer behind every event: opened once a process, asked for rows within a deadline, its answers as those of the server.

Rows are scored some at a time, so that a large request ends with its time and not after it; by the laws no cut changes a bit. The
clock stands still within a request, so all of its rows have one as-of. What cannot be answered as a whole is a ContractError with
`status` and `code`, as in `jobs.online.protocol`; a status of 429 and more than 499 means that the same request may be asked again.
This module knows no platform, no event and no sink.
"""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_pipelines.columns import DType
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, ContractError
from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.wire import encode
from jobs.online.protocol import Asked, refuse
from jobs.serverless.deadline import Deadline, Pace
from jobs.serverless.log_lines import LineLog
from jobs.serverless.settings import MODEL, SNAPSHOT, FunctionSettings, PackageFacts, read_package
from udfs.bundle import load_bundle
from udfs.incidents import incident
from udfs.online import OUR_FAULTS, OnlineScorer
from udfs.prediction_rows import PiiPolicy

__all__ = ["Function", "open_function", "runtime_name"]

_ROWS_AT_ONCE = 1_000
_TIMESTAMP = DType("timestamp")
_CODE = Path(__file__).resolve().parents[2]
"""Where the package is, if the environment does not say: this code lies in it."""


class _HeldClock:
    """A clock that stands still, per thread, while a request is answered."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock, self._held = clock, threading.local()

    def __call__(self) -> int:
        held: int | None = getattr(self._held, "now", None)
        return self._clock() if held is None else held

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held.now = self._clock()
        try:
            yield
        finally:
            self._held.now = None


class Function:
    """Answers rows; any number of threads may ask at once, and as many as the settings say are answered.

    Args:
        online: the loaded model, its store and its log; made with `clock`.
        clock: what it was made with.
        settings: limits.
        version: the registered version; None where it is not known.
        through: W of each view of a store that is shipped with the model; it is in every answer. None = the store is elsewhere.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        online: OnlineScorer,
        clock: _HeldClock,
        settings: FunctionSettings,
        version: str | None,
        through: Mapping[str, int] | None,
        timer: Callable[[], float],
    ) -> None:
        self.online, self.settings, self._version = online, settings, version
        self._clock, self._timer = clock, timer
        self._free = threading.BoundedSemaphore(settings.max_concurrent)
        self._pace = Pace(_ROWS_AT_ONCE)
        self._stamp: dict[str, Any] = {}
        if through is not None:
            times = {name: encode(_TIMESTAMP, [w])[0] for name, w in sorted(through.items())}
            self._stamp = {"materialised_through": times}

    @property
    def feature_set(self) -> FeatureSet:
        """The model's features."""
        return self.online.scorer.feature_set

    def facts(self) -> dict[str, Any]:
        """Return what names the model that answers."""
        info = self.online.scorer.info
        return {
            "model": info["name"],
            "model_version": self._version,
            "digest": info["digest"],
            "fingerprint": info["feature_fingerprint"],
            "verified": self.online.scorer.verified,
            **self._stamp,
        }

    def answer(self, asked: Asked, deadline: Deadline) -> list[dict[str, Any]]:
        """Return one answer per row, in order; see `OnlineScorer.answer`.

        Args:
            asked: the rows.
            deadline: of the invocation.

        Raises:
            ContractError: status 503: as many requests as may are being answered, or the time is over; 500: a defect of ours.
        """
        if not self._free.acquire(blocking=False):
            refuse(503, "OVERLOADED", "too many requests are being answered; try again later")
        try:
            with self._clock.held():
                return self._answer(asked, deadline)
        except ContractError:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost frame: a caller gets an incident, not a stack trace
            refuse(500, "INTERNAL", incident(exc))
        finally:
            self._free.release()

    def _answer(self, asked: Asked, deadline: Deadline) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for at in range(0, len(asked.rows), _ROWS_AT_ONCE):
            rows = asked.rows[at : at + _ROWS_AT_ONCE]
            self._pace.require(len(rows), deadline)
            began = self._timer()
            refused = [e._replace(row=e.row - at) for e in asked.refused if at <= e.row < at + len(rows)]
            found = self.online.answer(rows, with_features=asked.with_features, refused=refused)
            self._pace.took(len(rows), (self._timer() - began) * 1000)
            _require_none_of_ours(found)
            answers += found
        return [{**answer, **self._stamp} for answer in answers] if self._stamp else answers

    def close(self) -> None:
        """Let go of the store and the log."""
        self.online.close()


def open_function(
    environment: Mapping[str, str],
    clock: Callable[[], int],
    timer: Callable[[], float],
) -> Function:
    """Load the packaged model, replay its golden rows, and return what answers.

    Args:
        environment: see `settings`.
        clock: microseconds since 1970, UTC.
        timer: monotonic seconds.

    Raises:
        ModelError: see `load_bundle`. ConfigurationError: a setting makes no sense, or the package is of another Python or machine.
        UnavailableError: the shipped store cannot be read.
    """
    facts = read_package(Path(environment.get("ONESCORE_PACKAGE") or _CODE))
    here = runtime_name()
    if facts.runtime != here:
        raise ConfigurationError(
            f"the package is built for {facts.runtime}, and this is {here}: choose that runtime, or package the model under this one"
        )
    settings = facts.settings.with_environment(environment)
    held = _HeldClock(clock)
    scorer = load_bundle(
        facts.directory / MODEL,
        expected_digest=facts.digest,
        allow_tolerance=settings.allow_tolerance,
        is_partial=True,
    )
    store, through = _store(facts, settings, scorer.feature_set)
    log: Any = None
    if settings.log == "stdout" and settings.log_sample_share > 0:
        key = settings.log_pii_key.encode() if settings.log_pii_key else None
        log = LineLog(sys.stdout, clock, settings.log_sample_share, PiiPolicy(settings.log_pii, key))
    online = OnlineScorer(
        scorer,
        store,
        clock=held,
        log=log,
        model_version=facts.model_version,
        configuration_digest=settings.digest(),
    )
    return Function(online, held, settings, facts.model_version, through, timer)


def _require_none_of_ours(answers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the request of which a row could not be answered by a fault of ours."""
    for answer in answers:
        failed = answer.get("error")
        if failed is not None and failed["code"] in OUR_FAULTS:
            refuse(500, failed["code"], failed["message"])


def runtime_name() -> str:
    """Return the Python and the machine that compiled libraries depend on."""
    return f"{sys.implementation.cache_tag} {platform.machine()}"


def _store(
    facts: PackageFacts, settings: FunctionSettings, feature_set: FeatureSet
) -> tuple[OnlineStore | None, dict[str, int] | None]:
    """Return the store, and W of its views where it is shipped with the model and so stands still."""
    if settings.store_url:
        return open_store(settings.store_url, timeout_ms=settings.store_timeout_ms), None
    views: Sequence[Any] = feature_set.views
    if not facts.has_snapshot or not views:
        return None, None
    store = open_store(
        f"sqlite:///{facts.directory.resolve() / SNAPSHOT}", timeout_ms=settings.store_timeout_ms
    )
    return store, {name: w for name, w in store.through(views).items() if w is not None}
