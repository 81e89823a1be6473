"""What the gateway's own description of its routes promises, tried with generated requests, good and bad, by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.submissions.keys import KeyStore
from tests.toy.serving import write_store
from tests.toy.submitting import open_async

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method"
)


@pytest.mark.parametrize("shown", ["none is needed", "right", "wrong"])
def test_no_generated_request_gets_what_the_description_does_not_say(bundle, process_env, tmp_path, shown):
    """Where a key was made each request is also tried without it and with another, and must be refused."""
    checks, headers, n = CHECKS, [], "60"
    with open_async(tmp_path, process_env, bundle, "submissions.max_body_bytes=100000") as opened:
        write_store(tmp_path / "online.db")
        if shown != "none is needed":
            with opened.ledger() as ledger:
                ledger.database.prepare()
                key = KeyStore(ledger.database).add("fuzz", 1)
            checks, n = f"{CHECKS},ignored_auth", "15"
            headers = ["--header", f"Authorization: Bearer {key if shown == 'right' else 'osk_guessed'}"]
        gateway = opened.gateway()
        opened.worker()
        url = f"http://127.0.0.1:{gateway.port}"
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{url}/openapi.json",
            "--url",
            url,
            "--checks",
            checks,
            *headers,
            "--max-examples",
            n,
            "--seed",
            "20130101",
            "--generation-database",
            "none",
            "--no-color",
        ]
        tried = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        log = gateway.output.read_text()
    assert tried.returncode == 0, tried.stdout[-6000:] + tried.stderr[-2000:]
    assert "incident" not in log, log[-3000:]
    assert "Traceback" not in log
    with opened.ledger() as ledger:
        n_taken = sum(ledger.counts().values())
    assert (n_taken > 0) == (shown != "wrong")
