"""A session that somebody else has opened, as in a notebook, whose workers have none of our code: each job sends it to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT
from tests.toy.depots import event_rows
from tests.toy.processes import finished

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

_CLIENT = """
import importlib, sys
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[2]").config("spark.driver.host", "127.0.0.1")
spark = builder.config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC").getOrCreate()

def imports(batches):
    import importlib.util, pyarrow
    for batch in batches:
        yield pyarrow.RecordBatch.from_pydict({"found": [importlib.util.find_spec("jobs") is not None]})

root, job, *flags = sys.argv[1:]
print("workers have the code:", spark.range(1).mapInArrow(imports, "found boolean").first()[0])
sys.path.insert(0, root)
from jobs.runs.command import run
code = run(importlib.import_module(job).main, flags)
spark.stop()
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("jobs.ingest_flights --rows 1000", "1,000 rows  written in"),
        ("jobs.build_features --model depots", "rows added in"),
        ("jobs.score_batch --model houses --set score.max_index_rows=0", "joined to 2,000 rows by shuffle"),
        ("jobs.materialize_features --model houses", "newest of their keys"),
    ],
    ids=lambda text: text.partition(" ")[0],
)
def test_job_in_a_session_of_somebody_else_sends_its_code(
    command: str, said: str, trained_workspace: Any, bare_env: dict[str, str], tmp_path: Path
) -> None:
    workspace = trained_workspace.copy_to(tmp_path / "workspace")
    workspace.write("depot_events", event_rows(120))
    (tmp_path / "client.py").write_text(_CLIENT)
    # The example's configuration is the project's own, the toys' is theirs.
    env = {**bare_env, **workspace.env()}
    if "ingest" in command:
        del env["ONESCORE_CONF_DIR"]
    line = [sys.executable, str(tmp_path / "client.py"), str(ROOT), *command.split()]
    answer = finished(line, env=env, cwd=tmp_path, seconds=480)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "workers have the code: False" in answer.stdout, "this test would prove nothing"
    assert said in answer.stdout + answer.stderr
