"""From a URL to a store, without what the URL does not need."""

from __future__ import annotations

import subprocess
import sys

from feature_pipelines.stores.opening import safe_url

_PROGRAM = """
import sys
sys.modules["redis"] = None  # as if it were not installed
from feature_pipelines.errors import ConfigurationError
from feature_pipelines.stores.opening import open_store
open_store("sqlite:///somewhere.db").close()
try:
    open_store("redis://:hidden@host/0")
except ConfigurationError as error:
    print(error)
"""


def test_a_missing_redis_package_is_named_when_it_is_needed_and_only_then(
    process_env: dict[str, str],
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=process_env, capture_output=True, text=True, check=True
    )
    assert "pip install 'onescore[redis]'" in answer.stdout
    assert "hidden" not in answer.stdout


def test_a_url_is_shown_without_its_secrets() -> None:
    assert (
        safe_url("rediss://me:pw@h:1/0?ssl_ca_certs=x&password=pw")
        == "rediss://***@h:1/0?ssl_ca_certs=x&password=***"
    )
    assert safe_url("redis://h/0?username=me&db=1") == "redis://h/0?username=***&db=1"
    assert safe_url("sqlite:////a/b.db") == "sqlite:////a/b.db"
