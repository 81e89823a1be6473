"""The registered model on MLflow's own server and command: the bits of the batch kernel, no answer lost, and what is MLflow's to say."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.wire import parse_timestamp
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_batch, house_wire
from tests.toy.houses import FEATURES
from tests.toy.stock_server import mlflow_env, stock_server
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, rate_rows
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.prediction_files import SEQUENCE, gaps
from udfs.registry import fetch, resolve

pytestmark = pytest.mark.slow
MODEL = "models:/houses@champion"
N = 40
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
TYPES = {
    "house_id": pa.int64(),
    "asked_ts": pa.timestamp("us", tz="UTC"),
    "area_m2": pa.float64(),
    "rooms": pa.int64(),
    "town": pa.string(),
    "as_of_ts": pa.timestamp("us", tz="UTC"),
}
SECRET = "Elm Street 7"


@pytest.fixture
def env(workspace: Workspace, process_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Registry, store and log of a server; the log is written when the server ends."""
    return process_env | {
        "MLFLOW_TRACKING_URI": workspace.conf().mlflow.tracking_uri,
        "ONESCORE_STORE_URL": f"sqlite:///{tmp_path}/online.db",
        "ONESCORE_PREDICTION_LOG": str(tmp_path / "log"),
        "ONESCORE_PREDICTION_LOG_FLUSH_SECONDS": "600",
    }


@pytest.fixture
def bundle(workspace: Workspace, tmp_path: Path) -> Path:
    """The registered model's directory."""
    return fetch(resolve(MODEL, workspace.connect()), tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OnlineStore]:
    """The store that `env` names; there is no file yet."""
    with closing(open_store(f"sqlite:///{tmp_path}/online.db", timeout_ms=10_000)) as opened:
        yield opened


def whole_rows() -> list[dict[str, Any]]:
    """Return rows that bring their stored fields, none of an unknown town, which CSV cannot express."""
    return [row for row in house_wire(N) if row["town"] is not None]


def asking_rows(through: int) -> list[dict[str, Any]]:
    """Return the same rows without their stored fields, as of a time."""
    return [
        {k: v for k, v in row.items() if not k.startswith("rate_")} | {"as_of_ts": through}
        for row in whole_rows()
    ]


def logged(tmp_path: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (tmp_path / "log").rglob("*.parquet"))


def test_served_model_answers_the_bits_of_the_batch_kernel_over_http(
    env: dict[str, str], bundle: Path, store: OnlineStore, tmp_path: Path
) -> None:
    """With a store that comes up later, by every kind of body, and its log when uvicorn was told to end."""
    rows = whole_rows()
    with stock_server(MODEL, env, tmp_path) as running:
        down = running.predictions({"inputs": [asking_rows(0)[0], rows[0]]})
        assert (down[0]["error"]["code"], down[0]["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
        assert "score" in down[1]

        through = write_rates(store, rate_rows())
        asking = asking_rows(through)
        scorer = OnlineScorer(load_bundle(bundle), store, clock=lambda: through, model_version="1")
        expected = scorer.answer(asking)
        assert running.predictions({"inputs": asking}) == expected
        assert {answer["views"]["rates"]["status"] for answer in expected} >= {"PRESENT", "NOT_FOUND"}
        assert expected[0]["model_version"] == "1"
        text = running.post(json.dumps({"inputs": asking}).encode())[1]
        texts = json.loads(text, parse_float=str)["predictions"]
        assert [answer["score"] for answer in texts] == [repr(answer["score"]) for answer in expected]
        (one,) = running.predictions({"inputs": asking[3:4], "params": {"features": True}})
        assert one.pop("features").keys() == set(FEATURES.feature_names)
        assert one == expected[3]

        frame = pd.DataFrame(asking)
        assert running.predictions(frame.to_csv(index=False).encode(), CSV) == expected
        assert running.predictions(parquet(asking), PARQUET) == expected

        no_town = frame.assign(town=["", *frame["town"][1:]]).to_csv(index=False).encode()
        first, *others = running.predictions(no_town, CSV)
        assert (first["error"]["code"], first["error"]["field"]) == ("BAD_VALUE", "town")
        assert others == expected[1:]

        bad, scored = running.predictions({"inputs": [asking[0] | {"area_m2": -1.0}, asking[1]]})
        assert (bad["error"]["code"], scored) == ("OUT_OF_RANGE", expected[1])
        (whole,) = running.predictions(b'{"inputs": 1}')
        assert whole["error"]["code"] == "UNREADABLE_ROW"
        assert running.predictions({"inputs": asking[3:4]}) == expected[3:4]
        assert logged(tmp_path) == 0
        running.end(running.uvicorn, signal.SIGTERM)
    assert logged(tmp_path) == 2 + 5 * len(asking) + 5
    assert gaps(tmp_path / "log" / "houses") == []


def parquet(rows: list[dict[str, Any]]) -> bytes:
    timed = [row | {"asked_ts": parse_timestamp(row["asked_ts"])} for row in rows]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(timed, schema=pa.schema([pa.field(n, t) for n, t in TYPES.items()])), sink
    )
    return sink.getvalue()


def test_several_workers_give_the_same_answers_and_lose_none_of_the_log(
    env: dict[str, str], bundle: Path, store: OnlineStore, tmp_path: Path
) -> None:
    """Each writes a log of its own, whole when the server was told to end."""
    through = write_rates(store, rate_rows())
    asking = asking_rows(through)
    expected = OnlineScorer(load_bundle(bundle), store, clock=lambda: through, model_version="1").answer(
        asking
    )
    n = 0
    with stock_server(MODEL, env, tmp_path, workers=2) as running, ThreadPoolExecutor(8) as callers:
        while n < 100 or len(processes(tmp_path)) < 2:
            found = list(callers.map(lambda _: running.predictions({"inputs": asking}), range(20)))
            assert found == [expected] * 20
            n += 20
            assert n < 5_000, "one of the workers answers nothing"
        running.end(running.uvicorn, signal.SIGTERM)
    assert logged(tmp_path) == n * len(asking)
    assert len(processes(tmp_path)) == 2
    files = [path.name for path in (tmp_path / "log").rglob("part-*.parquet")]
    assert {
        re.sub(r"-\d{12}-\d{12}\.parquet$", "", name).removeprefix("part-") for name in files
    } == processes(tmp_path)
    assert gaps(tmp_path / "log" / "houses") == []


def processes(tmp_path: Path) -> set[str]:
    """Return the processes that have numbered rows."""
    return {path.name.removeprefix(SEQUENCE) for path in (tmp_path / "log").rglob(f"{SEQUENCE}*")}


def test_mlflow_models_predict_gives_the_bits_of_the_batch_kernel(
    env: dict[str, str], bundle: Path, store: OnlineStore, tmp_path: Path
) -> None:
    """Rows that bring everything, and rows that are looked up in the store that the environment names."""
    through = write_rates(store, rate_rows())
    brought, asking = house_wire(N), asking_rows(through)
    (tmp_path / "rows.json").write_text(json.dumps({"inputs": [*brought, *asking]}))
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "predict",
        "-m",
        MODEL,
        "--env-manager",
        "local",
        "-t",
        "json",
    ]
    done = subprocess.run(
        [*command, "-i", "rows.json", "-o", "answers.json"],
        env=mlflow_env(env),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((tmp_path / "answers.json").read_text())["predictions"]
    model = load_bundle(bundle)
    scores = Kernel(model).score(house_batch(N)).outputs["score"].tolist()
    assert [bits_of(answer["score"]) for answer in answers[:N]] == [bits_of(score) for score in scores]
    assert answers[N:] == OnlineScorer(model, store, clock=lambda: through, model_version="1").answer(asking)
    assert {answer["views"]["rates"]["status"] for answer in answers[N:]} >= {"PRESENT", "NOT_FOUND"}


def json_of(rows: Any, **others: Any) -> bytes:
    return json.dumps({"inputs": rows, **others}).encode()


def test_what_is_mlflows_to_answer_is_what_the_readme_says(env: dict[str, str], tmp_path: Path) -> None:
    """Bodies that never reach this project's code, or only in a form of MLflow's; and the same server goes on answering."""
    row = house_wire(1)[0] | {"as_of_ts": "2020-03-01T00:00:00Z"}
    secret = row | {"town": SECRET}
    torn = f"house_id,town\n1,{SECRET}\n2,{SECRET},more\n".encode()
    with stock_server(MODEL, env, tmp_path, "--timeout", "40") as running:
        (expected,) = running.predictions(json_of([row]))
        assert "score" in expected
        # (body, content type) -> status, whether data comes back, a text in the answer
        for body, content_type, status, is_echoed, text in (
            (json_of([secret])[:-1], "application/json", 400, True, "Input:"),
            (b'{"inputs": "' + SECRET.encode() + b'\xff"}', "application/json", 400, True, "Input:"),
            (json.dumps([secret]).encode(), "application/json", 400, False, "Received a list"),
            (
                b'{"dataframe_records": ["' + SECRET.encode() + b'"]}',
                "application/json",
                400,
                False,
                "'inputs' key",
            ),
            (
                json_of([secret], params={"features": "yes"}),
                "application/json",
                400,
                True,
                "Failed to predict data",
            ),
            (json_of([secret], params=[1]), "application/json", 400, True, "Failed to predict data"),
            (torn, CSV, 400, False, "stack_trace"),
            (b"", CSV, 400, False, "stack_trace"),
            (torn + b"\xff", CSV, 400, True, "UnicodeDecodeError"),
            (SECRET.encode(), PARQUET, 400, False, "stack_trace"),
            (json_of([secret]), "text/plain", 415, False, "content types"),
            (json_of([secret]), "application/json; charset=latin-1", 415, False, "UTF-8"),
            (json_of([secret]), "application/json; version=1", 415, False, "version"),
            (json_of([secret]), None, 500, False, "Internal Server Error"),
            (b"[" * 100_000 + SECRET.encode(), "application/json", 500, False, "Internal Server Error"),
        ):
            found, said = running.post(body, content_type)
            case = f"{content_type}, {body[:60]!r}: {found} {said[:300]}"
            assert found == status, case
            assert (SECRET in said) == is_echoed, case
            assert text in said, case
            assert ("Traceback" in said) == (text == "stack_trace"), case

        for form in ("input", "messages", "prompt"):
            for body in (json.dumps({form: [secret]}).encode(), json_of([row], **{form: 1})):
                status, said = running.post(body)
                (answer,) = json.loads(said)
                assert (status, answer["error"]["code"]) == (200, "UNREADABLE_ROW")
                assert SECRET not in said
        assert running.predictions(json_of([row], params={"featurs": True})) == [expected]
        assert running.predictions(json_of([row], more=1)) == [expected]
        twice = json_of([row]).replace(b'"town"', b'"town": "elsewhere", "town"')
        assert running.predictions(twice) == [expected]

        many = [row | {"house_id": i} for i in range(10_000)]
        answers = running.predictions(json_of(many))
        assert len(answers) == len(many)
        assert {bits_of(answer["score"]) for answer in answers} == {bits_of(expected["score"])}
        assert slow_caller(running.port).startswith(b"HTTP/1.1 504")
        assert running.predictions(json_of([row])) == [expected]
        running.end(running.mlflow, signal.SIGTERM)
    assert gaps(tmp_path / "log" / "houses") == []
    assert logged(tmp_path) == 5 + len(many) + 6


def slow_caller(port: int) -> bytes:
    """Return the beginning of the answer to a request whose body never comes."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head)
        return connection.recv(1_000)
