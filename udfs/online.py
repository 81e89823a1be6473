"""Rows in, answers out: the one code path of everything that scores online, whichever server stands in front of it.

read the rows -> plan -> read the store -> assemble -> score_columns -> answers. It knows nothing of HTTP, MLflow or Spark, and never
raises on data: what is wrong with a row is that row's answer, what is wrong with us is an answer with an incident id.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import DType
from feature_pipelines.errors import ContractError, ModelIntegrityError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.online_lookup import Assembled, Found, Plan, assemble, plan
from feature_pipelines.reasons import Reason
from feature_pipelines.request_rows import RequestReader
from feature_pipelines.schema import RowError
from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.wire import encode
from udfs.answered import Answered, LoggedModel
from udfs.incidents import incident
from udfs.rows import ScoredRows, score_columns
from udfs.scorer import Evaluator, Scorer
from udfs.store_failures import StoreFailures

if TYPE_CHECKING:
    from udfs.prediction_log import PredictionLog

__all__ = ["OUR_FAULTS", "OnlineScorer"]

OUR_FAULTS = ("INTERNAL", "MODEL_NOT_REPRODUCED")
"""The codes of answers that say nothing about a row: something failed here, or the model's scores are not its own in this process."""

_LOGGER = logging.getLogger("onescore.online")
_TIMESTAMP, _FLOAT64 = DType("timestamp"), DType("float64")
_STATUS_NAMES = [status.name for status in Status]


class _Timed:
    """An evaluator that remembers, per thread, how long it took."""

    def __init__(self, evaluator: Evaluator, timer: Callable[[], int]) -> None:
        self._evaluator, self._timer = evaluator, timer
        self.spent = threading.local()

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores; see Evaluator."""
        begun = self._timer()
        try:
            return self._evaluator.score(matrix)
        finally:
            self.spent.ns = getattr(self.spent, "ns", 0) + self._timer() - begun


class OnlineScorer:
    """Answers requests; any number of threads may call it at once.

    Args:
        scorer: the loaded model.
        store: where stored features are read; None = rows must bring them.
        clock: microseconds since 1970, UTC; read once a request. A row that does not bring `as_of_ts` is scored as of it.
        log: takes every answer; None = no log.
        model_version: the registered version; None where it is not known.
        configuration_digest: names the settings of this process, for the log.
        timer: nanoseconds from any start, for the latencies in the log.
    """

    def __init__(
        self,
        scorer: Scorer,
        store: OnlineStore | None,
        *,
        clock: Callable[[], int],
        log: PredictionLog | None = None,
        model_version: str | None = None,
        configuration_digest: str = "",
        timer: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._evaluator = _Timed(scorer.evaluator, timer)
        self.scorer = dataclasses.replace(scorer, evaluator=self._evaluator)
        self.store = store
        self.log = log
        self._clock, self._timer = clock, timer
        self._failures = StoreFailures(timer)
        self._reader = RequestReader(scorer.feature_set)
        self._model = LoggedModel.of(scorer, model_version, configuration_digest)
        self._facts = {
            "model": scorer.info["name"],
            "model_version": model_version,
            "digest": scorer.info.get("digest"),
            "fingerprint": scorer.info.get("feature_fingerprint"),
            "verified": scorer.verified,
        }

    def answer(
        self,
        rows: Sequence[Any],
        *,
        with_features: bool = False,
        refused: Sequence[RowError] = (),
        is_attempt: bool = False,
    ) -> list[dict[str, Any]]:
        """Return one answer per row, in order.

        Args:
            rows: objects in the wire form: the request's fields, `as_of_ts` (optional), any stored field (overrides the look-up).
            with_features: whether answers hold the feature values too.
            refused: errors of rows that whoever read them found already.
            is_attempt: whether the caller asks anew if this fails by our fault; then the failure is no answer, and not logged.

        Returns:
            Of a scored row its outputs, which model gave them, `as_of_ts`, per view {"status", "event_ts"}, and the stored fields it
            overrode; of any other {"error": {"code", "field", "message", "retryable"}}.
        """
        if not rows:
            return []
        try:
            return self._answer(rows, with_features, refused)
        except Exception as exc:  # noqa: BLE001 - the outermost frame: nobody's request ends in a stack trace
            return [_incident(exc)] * len(rows) if is_attempt else self.failed(exc, rows)

    def failed(self, exc: Exception, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the answers to rows that could not be asked by our fault: one incident, logged like any answer.

        Args:
            exc: what was raised.
            rows: as they came; None for what is not known.
        """
        answers = [_incident(exc)] * len(rows)
        if self.log is not None and rows:
            try:
                self.log.write(self._unasked(rows, answers))
            except Exception as unlogged:  # noqa: BLE001 - as below
                _LOGGER.error("answers were not logged: %s", type(unlogged).__name__)
        return answers

    def _unasked(self, rows: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> Answered:
        now = self._clock()
        nothing = np.empty((0, 0))
        return Answered(self._model, now, [now] * len(rows), rows, answers, nothing, [], {}, {}, (0, 0, 0))

    def close(self) -> None:
        """Write what the log has not written yet, and let go of the store."""
        if self.log is not None:
            self.log.close()
        if self.store is not None:
            self.store.close()

    def _answer(
        self, rows: Sequence[Any], with_features: bool, refused: Sequence[RowError]
    ) -> list[dict[str, Any]]:
        now = self._clock()
        requests = self._reader.read(rows)
        if refused:
            requests = requests._replace(errors=[*refused, *requests.errors])
        as_of = [now if time is None else time for time in requests.as_of]
        planned = plan(self.scorer.feature_set, requests, has_store=self.store is not None)
        begun = self._timer()
        found = self._read(planned)
        looked_up = self._timer()
        stored = assemble(planned, found, as_of)
        if stored.failures:
            self._failures.say(stored.failures)
        self._evaluator.spent.ns = 0
        started = self._timer()
        scored = score_columns(
            self.scorer,
            {**requests.columns, **stored.columns},
            [*requests.errors, *stored.errors],
            len(rows),
            with_features=with_features or self.log is not None,
        )
        model_ns = self._evaluator.spent.ns
        features_ns = self._timer() - started - model_ns
        answers = self._answers(scored, stored, as_of, with_features)
        if self.log is not None:
            spent = ((looked_up - begun) // 1000, features_ns // 1000, model_ns // 1000)
            try:
                self._write(self.log, rows, answers, scored, stored, (now, as_of, spent))
            except Exception as exc:  # noqa: BLE001 - the answers are there; what the log does decides nothing
                _LOGGER.error("answers were not logged: %s", type(exc).__name__)
        return answers

    def _read(self, planned: Plan) -> Found:
        wanted = planned.wanted()
        if self.store is None or not wanted:
            return []
        try:
            found = self.store.read(wanted)
        except (UnavailableError, ContractError) as failed:
            return failed
        return found

    def _answers(
        self,
        scored: ScoredRows,
        stored: Assembled,
        as_of: Sequence[int],
        with_features: bool,
    ) -> list[dict[str, Any]]:
        outputs = {name: values.tolist() for name, values in scored.outputs.items()}
        features: list[list[Any]] = []
        if with_features and scored.features is not None:
            features = [encode(_FLOAT64, row) for row in scored.features.T.tolist()]
        times = encode(_TIMESTAMP, list(as_of))
        statuses = {name: of_view.tolist() for name, of_view in stored.statuses.items()}
        answers: list[dict[str, Any]] = [{}] * len(as_of)
        for position, row in enumerate(scored.index.tolist()):
            answer: dict[str, Any] = {name: values[position] for name, values in outputs.items()}
            answer.update(self._facts)
            answer["as_of_ts"] = times[row]
            answer["views"] = {
                name: {
                    "status": _STATUS_NAMES[of_view[row]],
                    "event_ts": _wire_time(stored.event_ts[name][row]),
                }
                for name, of_view in statuses.items()
            }
            answer["overrides"] = stored.overrides[row]
            if features:
                answer["features"] = dict(zip(self._model.feature_names, features[position], strict=True))
            answers[row] = answer
        for error in scored.errors:
            retryable = error.code is Reason.STORE_UNAVAILABLE and error.row in stored.retryable
            answers[error.row] = _error(str(error.code), error.field, error.message, retryable)
        return answers

    def _write(
        self,
        log: PredictionLog,
        rows: Sequence[Any],
        answers: Sequence[Mapping[str, Any]],
        scored: ScoredRows,
        stored: Assembled,
        times: tuple[int, Sequence[int], tuple[int, int, int]],
    ) -> None:
        matrix = scored.features
        log.write(
            Answered(
                model=self._model,
                served_ts=times[0],
                as_of=times[1],
                rows=rows,
                answers=answers,
                features=np.empty((0, 0)) if matrix is None else matrix,
                index=scored.index.tolist(),
                statuses={name: of_view.tolist() for name, of_view in stored.statuses.items()},
                event_ts=stored.event_ts,
                latency_us=times[2],
                stored=stored.columns,
            )
        )


def _wire_time(event_ts: int | None) -> Any:
    return None if event_ts is None else encode(_TIMESTAMP, [event_ts])[0]


def _error(code: str, field: str, message: str, retryable: bool) -> dict[str, Any]:
    return {"error": {"code": code, "field": field, "message": message, "retryable": retryable}}


def _incident(exc: Exception) -> dict[str, Any]:
    """Log where a failure of our own happened, without its message, which may hold data; return the answer that names it.

    That the compiled loop, which comes into use late, does not give the golden rows is said by a code of its own, and by its message
    in the log, which holds none: this process must not score, and asking it again changes nothing.
    """
    if isinstance(exc, ModelIntegrityError):
        number = uuid.uuid4().hex[:12]
        _LOGGER.error("incident %s: %s", number, exc)
        message = f"the model does not reproduce its golden rows in this process, which scores no more; incident {number}"
        return _error("MODEL_NOT_REPRODUCED", "", message, False)
    return _error("INTERNAL", "", incident(exc, _LOGGER), True)
