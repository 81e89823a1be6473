"""What a handler works with, made once a process: the packaged model, verified, and where objects come from and go to."""

from __future__ import annotations

import functools
import os
import time

from jobs.online.json_logs import event as log_event
from jobs.online.json_logs import log_json
from jobs.serverless.aws_events import Objects
from jobs.serverless.function import Function, open_function
from jobs.serverless.objects import open_objects, open_sink

__all__ = ["opened"]


@functools.cache
def opened() -> tuple[Function, Objects]:
    """Return the function and its objects; the first call loads the model.

    Raises:
        OnescoreError: see `open_function`.
    """
    log_json()
    function = open_function(os.environ, _now, time.monotonic)
    log_event("function_ready", **function.facts())
    return function, Objects(open_sink, open_objects, function.settings.sink)


def _now() -> int:
    return time.time_ns() // 1000
