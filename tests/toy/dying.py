"""A function that kills its own process at one of its calls: for programs that tests start, and run again afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

__all__ = ["dying"]


def dying(call: Callable[..., Any], n: int) -> Callable[..., Any]:
    """Return a function that does as `call` does, and at its n-th call ends the process by SIGKILL before it does."""
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return counted
