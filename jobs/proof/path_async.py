"""The paths through asynchronous inference: rows go to a gateway, a worker or its Spark job scores them, the answers are fetched."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import UnavailableError
from jobs.proof.path_answers import Answer, Row, answer_of, as_answered
from jobs.proof.path_servers import Server

__all__ = ["AsyncPath"]

_WAIT_SECONDS = 300.0
_LOOK_SECONDS = 0.05
_OPEN = ("queued", "running")


class AsyncPath:
    """Rows to a gateway, as one submission.

    Args:
        server: the gateway; workers run.
        feature_set: of the model that should answer.
    """

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, server: Server, feature_set: FeatureSet) -> None:
        self._server, self._names = server, feature_set.feature_names

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        body = json.dumps({"rows": [dict(row) for row in rows]}, allow_nan=False).encode()
        where = self._asked("POST", "/submissions", body, http.client.ACCEPTED)["status_url"]
        deadline = time.monotonic() + _WAIT_SECONDS
        found = self._asked("GET", where)
        while found["state"] in _OPEN:
            if time.monotonic() > deadline:
                raise UnavailableError(f"server {self._server.url}: a submission was not done in time")
            time.sleep(_LOOK_SECONDS)
            found = self._asked("GET", where)
        if found["state"] != "succeeded":
            why = found.get("reason", {}).get("code", "no reason")
            raise UnavailableError(f"server {self._server.url}: a submission is {found['state']}: {why}")
        said = list(found["results"])
        while found["next"] is not None:
            found = self._asked("GET", found["next"])
            said += found["results"]
        return [answer_of(one, self._names) for one in as_answered(self._server.url, said, rows)]

    def _asked(
        self, method: str, route: str, body: bytes | None = None, expected: int = http.client.OK
    ) -> dict[str, Any]:
        status, text = self._server.call(method, route, body)
        if status != expected:
            raise UnavailableError(
                f"server {self._server.url} answered {status} to {method}, and not {int(expected)}",
                url=self._server.url,
                status=status,
            )
        found: dict[str, Any] = json.loads(text)
        return found
