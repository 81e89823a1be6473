"""One bench for all that is asked of paths: the model that digests every type, on Spark and on servers that start once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jobs.proof.path_bench import Bench


@pytest.fixture(scope="session")
def bench(every_type: Any, spark: Any, process_env: dict[str, str]) -> Iterator[Bench]:
    """The model `every_type`; a server is started by the first path that needs it, and ended with the session."""
    environment = {**process_env, **every_type.workspace.env()}
    flags = ["--model", "every_type"]
    with Bench(lambda more: every_type.conf(*more), flags, environment=environment) as opened:
        yield opened
