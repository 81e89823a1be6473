"""The paths through a function: AWS's events to the Lambda handler under AWS's own client, and Google's framework with the HTTP target.

The handlers run from this code and the model's own files; what a package leaves out is `jobs.package_serverless`'s to prove.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import UnavailableError
from jobs.proof.lambda_runtime import LambdaRuntime
from jobs.proof.path_answers import Answer, Row, answer_of, as_answered
from jobs.proof.path_servers import JSON, started_process

__all__ = [
    "DirectPath",
    "Gateway",
    "LambdaFunction",
    "QueuePath",
    "function_environment",
    "gateway_event",
    "lambda_function",
    "require_installed",
]

_CODE = Path(__file__).resolve().parents[2]
_START_SECONDS = 60
_MESSAGE_ROWS = 50


@dataclass(frozen=True)
class LambdaFunction:
    """A handler that answers events.

    Args:
        runtime: AWS's side.
        sink: the directory of its results.
    """

    runtime: LambdaRuntime
    sink: Path

    def answers_to(self, event: Any) -> Any:
        """Return what the handler returns.

        Raises:
            UnavailableError: it raised, or did not answer.
        """
        invoked = self.runtime.invoke(event)
        if invoked.is_error:
            raise UnavailableError(f"the Lambda function failed: {invoked.content.get('errorType')}")
        return invoked.content


@dataclass(frozen=True)
class Gateway:
    """API Gateway, or a function URL, before a Lambda function: HTTP requests as events of its version.

    Args:
        function: that answers.
        version: 1 (REST APIs) or 2 (HTTP APIs and function URLs).
    """

    function: LambdaFunction
    version: int

    @property
    def url(self) -> str:
        """See Asked."""
        return f"lambda-v{self.version}"

    def call(
        self, method: str, route: str, body: bytes | None = None, content_type: str = JSON
    ) -> tuple[int, bytes]:
        """See Asked."""
        reply = self.function.answers_to(gateway_event(self.version, method, route, body, content_type))
        return int(reply["statusCode"]), str(reply["body"]).encode()


def gateway_event(
    version: int, method: str, route: str, body: bytes | None = None, content_type: str = JSON
) -> dict[str, Any]:
    """Return the event of an HTTP request, below a stage as it is deployed.

    Args:
        version: of the payload: 1 or 2.
        method, route, body, content_type: of the request; a question mark in the route begins the query.
    """
    path, _, query = route.partition("?")
    common = {"body": None if body is None else body.decode(), "isBase64Encoded": False}
    headers = {"Content-Type": content_type, "Accept": "*/*"}
    if version == 1:
        pairs = dict(part.split("=", 1) for part in query.split("&")) if query else None
        return {
            "resource": "/{proxy+}",
            "path": path,
            "httpMethod": method,
            "headers": headers,
            "multiValueHeaders": {name: [value] for name, value in headers.items()},
            "queryStringParameters": pairs,
            "requestContext": {"stage": "prod", "httpMethod": method, "path": f"/prod{path}"},
            **common,
        }
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": f"/prod{path}",
        "rawQueryString": query,
        "headers": {name.lower(): value for name, value in headers.items()},
        "requestContext": {"stage": "prod", "http": {"method": method, "path": f"/prod{path}"}},
        **common,
    }


class DirectPath:
    """Rows as the event of a direct invocation."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, function: LambdaFunction, feature_set: FeatureSet) -> None:
        self._function, self._names = function, feature_set.feature_names

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        event = {"inputs": [dict(row) for row in rows], "params": {"features": True}}
        said = self._function.answers_to(event)
        if "predictions" not in said:
            raise UnavailableError(f"the Lambda function refused the rows: {said['error']['code']}")
        return [answer_of(one, self._names) for one in as_answered("lambda", said["predictions"], rows)]


class QueuePath:
    """Rows as messages of a queue, some in each, whose results are read from the sink."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, function: LambdaFunction, feature_set: FeatureSet) -> None:
        self._function, self._names = function, feature_set.feature_names

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        messages = {}
        for at in range(0, len(rows), _MESSAGE_ROWS):
            part = [dict(row) for row in rows[at : at + _MESSAGE_ROWS]]
            messages[str(uuid.uuid4())] = json.dumps({"inputs": part, "params": {"features": True}})
        records = [
            {"messageId": number, "body": body, "eventSource": "aws:sqs"} for number, body in messages.items()
        ]
        failed = self._function.answers_to({"Records": records})["batchItemFailures"]
        if failed:
            raise UnavailableError(f"the Lambda function failed {len(failed)} of {len(records)} messages")
        said = []
        for number in messages:
            content = json.loads((self._function.sink / "sqs" / f"{number}.json").read_bytes())
            said += content["predictions"]
        return [answer_of(one, self._names) for one in as_answered("lambda-sqs", said, rows)]


def function_environment(package: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a function's process: this code, a package, and none of the settings of whoever starts it.

    Args:
        package: its directory.
        environment: of this process.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith(("ONESCORE_", "AWS_", "FUNCTION_"))}
    path = os.pathsep.join(filter(None, [str(_CODE), environment.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, "ONESCORE_PACKAGE": str(package), "OMP_NUM_THREADS": "1"}


def require_installed(module: str, extra: str) -> None:
    """Raise UnavailableError where a platform's client is not installed."""
    if find_spec(module) is None:
        raise UnavailableError(f"{module} is not installed; pip install 'onescore[{extra}]'")


@contextlib.contextmanager
def lambda_function(
    package: Path,
    sink: Path,
    directory: Path,
    environment: Mapping[str, str] = os.environ,
    variables: Mapping[str, str] | None = None,
) -> Iterator[LambdaFunction]:
    """Run the handler under AWS's own client until it waits for its first event.

    Args:
        package: the directory of its package.
        sink: the directory of its results, unless ONESCORE_SINK is among the variables.
        directory: where its output goes.
        environment: of this process; its settings of functions, stores and AWS are not passed on.
        variables: of the function besides.

    Raises:
        UnavailableError: awslambdaric is not installed, or the handler could not be loaded; the message has the end of its output.
    """
    require_installed("awslambdaric", "lambda")
    with LambdaRuntime() as runtime:
        started_with = {
            **function_environment(package, environment),
            "ONESCORE_SINK": f"file://{sink}",
            "AWS_LAMBDA_FUNCTION_NAME": "onescore",
            **(variables or {}),
            "AWS_LAMBDA_RUNTIME_API": runtime.address,
        }
        command = [sys.executable, "-m", "awslambdaric", "jobs.serve_lambda.handler"]
        log = directory / "function.log"

        def address() -> LambdaRuntime | None:
            return runtime if runtime.n_polls else None

        with started_process(
            command, started_with, log, "the Lambda function", _START_SECONDS, address
        ) as ready:
            yield LambdaFunction(ready, sink)
