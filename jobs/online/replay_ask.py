"""Who answers a replay: the scorer in this process, as a server would open it, or a server that runs already."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from feature_pipelines.errors import ConfigurationError, UnavailableError
from udfs.online import OnlineScorer

__all__ = ["ScorerAsker", "ServerAsker"]

_TIMEOUT_SECONDS = 60
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class ScorerAsker:
    """Asks a scorer in this process; its log is written before it drops anything, so a replay loses no row of it."""

    def __init__(self, scorer: OnlineScorer, max_queue: int) -> None:
        self._scorer, self._max_queue = scorer, max_queue

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return one answer a row."""
        log = self._scorer.log
        if log is not None and (
            log.is_half_full() or log.metrics()["queued"] + len(rows) > self._max_queue // 2
        ):
            log.flush()
        return self._scorer.answer(rows)

    def close(self) -> None:
        """Write what the log has not written yet."""
        self._scorer.close()


class ServerAsker:
    """Asks a running server over one connection.

    Args:
        url: such as http://127.0.0.1:8080.

    Raises:
        ConfigurationError: no http or https URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"--url {url}: expected http://host:port")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}"
        self._path = f"{parts.path.rstrip('/')}/invocations"
        self._connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return one answer a row.

        Raises:
            UnavailableError: the server cannot be reached, or does not answer with predictions.
        """
        body = json.dumps({"inputs": list(rows)}).encode()
        try:
            try:
                status, text = self._post(body)
            except _STALE:  # a connection that was idle for long; asking twice gives the same answer
                self._connection.close()
                status, text = self._post(body)
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            raise UnavailableError(f"server {self._url}: {type(exc).__name__}", url=self._url) from exc
        answers: Any = None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            answers = json.loads(text)["predictions"]
        if status != http.HTTPStatus.OK or not isinstance(answers, list) or len(answers) != len(rows):
            raise UnavailableError(
                f"server {self._url}: answered {status}, and not with one prediction for each of {len(rows)} rows",
                url=self._url,
                status=status,
            )
        return answers

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", self._path, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()
