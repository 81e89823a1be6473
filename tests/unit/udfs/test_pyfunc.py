"""The registered model as MLflow loads and serves it, without Spark: the bits of the batch kernel, and errors a client can read."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.stores.opening import open_store
from feature_pipelines.wire import parse_timestamp
from tests.toy.answers import score_rows
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_batch, house_wire
from tests.toy.houses import FEATURES
from tests.toy.processes import command_of, descendants, free_port, is_listening, server, wait_until
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, rate_rows
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.prediction_files import gaps
from udfs.registry import fetch, resolve

N = 40
PARQUET = {
    "house_id": pa.int64(),
    "asked_ts": pa.timestamp("us", tz="UTC"),
    "area_m2": pa.float64(),
    "rooms": pa.int64(),
    "town": pa.string(),
    "as_of_ts": pa.timestamp("us", tz="UTC"),
}
LOAD_WITHOUT_SPARK = """
import json, sys


class NoSpark:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyspark":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoSpark())
import mlflow.pyfunc

model = mlflow.pyfunc.load_model(sys.argv[1])
answers = model.predict(json.load(sys.stdin))
import udfs.rows, feature_pipelines

assert "pyspark" not in sys.modules
print(json.dumps({
    "answers": answers,
    "hex": [a["score"].hex() for a in answers if "score" in a],
    "code": [udfs.rows.__file__, feature_pipelines.__file__],
    "features": [name for name in sys.modules if name.startswith("_onescore_")],
}))
"""


@pytest.fixture(scope="module")
def logged(trained_workspace: Workspace) -> Path:
    """The directory of the logged model, as an artifact store holds it."""
    (described,) = (trained_workspace.root / ".onescore").rglob("MLmodel")
    return described.parent


@pytest.fixture(scope="module")
def bits(logged: Path) -> list[str]:
    """The bits of the batch kernel."""
    scored = Kernel(load_bundle(logged / "artifacts" / "bundle")).score(house_batch(N))
    assert scored.index.tolist() == list(range(N))
    return [bits_of(score) for score in scored.outputs["score"].tolist()]


@pytest.fixture(scope="module")
def loaded(logged: Path) -> Any:
    """The model, loaded in this process."""
    return mlflow.pyfunc.load_model(str(logged))


def bits_of_answers(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [bits_of(answer["score"]) for answer in answers]


def in_a_process_without_spark(
    logged: Path, rows: list[Any], env: dict[str, str], cwd: Path
) -> dict[str, Any]:
    env = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", LOAD_WITHOUT_SPARK, str(logged)]
    done = subprocess.run(
        command, input=json.dumps(rows), env=env, cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_model_without_spark_has_the_bits_of_the_batch_kernel(
    logged: Path, bits: list[str], process_env: dict[str, str], tmp_path: Path
) -> None:
    rows = [*house_wire(N), {"house_id": 1}]
    found = in_a_process_without_spark(logged, rows, process_env, tmp_path)
    assert bits_of_answers(found["answers"][:N]) == bits
    assert found["answers"][N]["error"]["code"] == "NULL_NOT_ALLOWED"
    expected = score_rows(load_bundle(logged / "artifacts" / "bundle"), house_wire(N))
    for answer in (*expected, *found["answers"][:N]):
        del answer["as_of_ts"]  # the clock
        del answer[
            "model_version"
        ]  # MLflow writes it beside the files when somebody loads them from the registry
    assert found["answers"][:N] == expected
    assert found["hex"] == [answer["score"].hex() for answer in expected]
    assert len(set(bits)) > N / 2
    for file in found["code"]:  # its own code, not the code that happens to be installed
        assert Path(file).is_relative_to(logged), file
    assert len(found["features"]) == 2  # the packaged features' package and module


@pytest.mark.parametrize("size", [1, 7, N])
def test_model_in_this_process_has_the_bits_of_the_batch_kernel(
    loaded: Any, bits: list[str], size: int
) -> None:
    rows = house_wire(N)
    answers = [answer for start in range(0, N, size) for answer in loaded.predict(rows[start : start + size])]
    assert bits_of_answers(answers) == bits


def test_every_answer_names_the_model_and_says_that_it_is_verified(loaded: Any, logged: Path) -> None:
    digest = load_bundle(logged / "artifacts" / "bundle").info["digest"]
    (answer,) = loaded.predict(house_wire(1))
    assert (answer["model"], answer["digest"], answer["verified"]) == ("houses", digest, "verified")


def test_input_example_of_the_logged_model_is_scored(loaded: Any) -> None:
    answers = loaded.predict(loaded.input_example)
    assert len(answers) == 2
    assert all("score" in answer for answer in answers)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"area_m2": None}, "NULL_NOT_ALLOWED", "area_m2"),
        ({"area_m2": -1.0}, "OUT_OF_RANGE", "area_m2"),
        ({"area_m2": "wide"}, "WRONG_TYPE", "area_m2"),
        ({"rooms": 2.5}, "WRONG_TYPE", "rooms"),
        ({"house_id": 2**70}, "INTEGER_OVERFLOW", "house_id"),
        ({"asked_ts": "yesterday"}, "BAD_TIMESTAMP", "asked_ts"),
        ({"town": ["a", "list"]}, "WRONG_TYPE", "town"),
        ({"garage": True}, "UNKNOWN_FIELD", "garage"),
    ],
)
def test_bad_row_gets_an_error_and_its_neighbours_their_scores(
    loaded: Any, bits: list[str], changes: dict[str, Any], code: str, field: str
) -> None:
    first, second, third = house_wire(3)
    answers = loaded.predict([first, second | changes, third])
    assert bits_of_answers([answers[0], answers[2]]) == [bits[0], bits[2]]
    assert (answers[1]["error"]["code"], answers[1]["error"]["field"]) == (code, field)
    assert answers[1].keys() == {"error"}


@pytest.mark.parametrize("not_rows", [1, "row", {"house_id": 1}, None])
def test_what_is_no_list_is_answered_by_one_error(loaded: Any, not_rows: Any) -> None:
    (answer,) = loaded.predict(not_rows)
    assert answer["error"]["code"] == "UNREADABLE_ROW"


def test_row_that_is_no_object_is_refused_alone(loaded: Any, bits: list[str]) -> None:
    answers = loaded.predict([house_wire(1)[0], 1, None, [house_wire(1)[0]]])
    assert bits_of_answers(answers[:1]) == bits[:1]
    assert [answer["error"]["code"] for answer in answers[1:]] == ["UNREADABLE_ROW"] * 3


def test_no_rows_are_no_answers(loaded: Any) -> None:
    assert loaded.predict([]) == []


def test_answers_are_json_with_every_bit(loaded: Any) -> None:
    answers = loaded.predict(house_wire(N))
    assert bits_of_answers(json.loads(json.dumps(answers))) == bits_of_answers(answers)


def test_changed_model_is_not_served(logged: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(logged, tmp_path / "model"))
    golden = copy / "artifacts" / "bundle" / "golden.json"
    golden.write_text(golden.read_text() + " ")
    with pytest.raises(ModelIntegrityError, match=r"not those that were logged: changed: golden\.json"):
        mlflow.pyfunc.load_model(str(copy))


# --- mlflow models serve


@contextmanager
def served(model: Path | str, env: dict[str, str], directory: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve a model on the loopback interface as a user would; the address and the server's processes."""
    port, log = free_port(), directory / "serve.log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # mlflow starts uvicorn by name
    with server(command, env=env, cwd=directory, log=log) as process:
        wait_until(lambda: is_listening(port) or process.poll() is not None, "the model server", 150, log)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}", [process.pid, *descendants(process.pid)]


def post(address: str, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(
        f"{address}/invocations", body, {"Content-Type": content_type}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def predictions(address: str, body: Any, content_type: str = "application/json") -> list[dict[str, Any]]:
    """Return the answers to a body: rows to send as JSON, or bytes."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, text = post(address, sent, content_type)
    assert status == 200, text
    found: list[dict[str, Any]] = json.loads(text)["predictions"]
    return found


@pytest.mark.slow
def test_served_model_answers_the_bits_of_the_batch_kernel_over_http(
    workspace: Workspace, process_env: dict[str, str], tmp_path: Path
) -> None:
    """The stock server as a user starts it, with a store that comes up later, by every kind of body, and its log afterwards."""
    version = resolve("models:/houses@champion", workspace.connect())
    env = process_env | {
        "MLFLOW_TRACKING_URI": workspace.conf().mlflow.tracking_uri,
        "ONESCORE_STORE_URL": f"sqlite:///{tmp_path}/online.db",
        "ONESCORE_PREDICTION_LOG": str(tmp_path / "log"),
        "ONESCORE_PREDICTION_LOG_FLUSH_SECONDS": "600",
    }
    rows = [row for row in house_wire(N) if row["town"] is not None]
    asking = [{k: v for k, v in row.items() if not k.startswith("rate_")} for row in rows]
    with served(f"models:/{version.name}@champion", env, tmp_path) as (address, pids):
        down = predictions(address, {"inputs": [asking[0], rows[0]]})
        assert (down[0]["error"]["code"], down[0]["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
        assert "score" in down[1]

        store = open_store(f"sqlite:///{tmp_path}/online.db")
        through = write_rates(store, rate_rows())
        asking = [row | {"as_of_ts": through} for row in asking]
        bundle = fetch(version, tmp_path)
        expected = OnlineScorer(load_bundle(bundle), store, clock=lambda: through, model_version="1").answer(
            asking
        )
        assert predictions(address, {"inputs": asking}) == expected
        assert {answer["views"]["rates"]["status"] for answer in expected} >= {"PRESENT", "NOT_FOUND"}
        assert expected[0]["model_version"] == "1"
        text = post(address, json.dumps({"inputs": asking}).encode())[1]
        texts = json.loads(text, parse_float=str)["predictions"]
        assert [answer["score"] for answer in texts] == [repr(answer["score"]) for answer in expected]
        (one,) = predictions(address, {"inputs": asking[3:4], "params": {"features": True}})
        assert one.pop("features").keys() == set(FEATURES.feature_names)
        assert one == expected[3]

        frame = pd.DataFrame(asking)
        csv = frame.to_csv(index=False).encode()
        assert predictions(address, csv, "text/csv") == expected
        timed = [row | {"asked_ts": parse_timestamp(row["asked_ts"])} for row in asking]
        table = pa.Table.from_pylist(timed, schema=pa.schema([pa.field(n, t) for n, t in PARQUET.items()]))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        assert predictions(address, sink.getvalue(), "application/vnd.apache.parquet") == expected

        no_town = frame.assign(town=["", *frame["town"][1:]]).to_csv(index=False).encode()
        first, *others = predictions(address, no_town, "text/csv")
        assert (first["error"]["code"], first["error"]["field"]) == ("BAD_VALUE", "town")
        assert others == expected[1:]

        bad, scored = predictions(address, {"inputs": [asking[0] | {"area_m2": -1.0}, asking[1]]})
        assert (bad["error"]["code"], scored) == ("OUT_OF_RANGE", expected[1])
        (whole,) = predictions(address, b'{"inputs": 1}')
        assert whole["error"]["code"] == "UNREADABLE_ROW"
        for body in (b"no json", b'{"rows": []}', b"[]", b'{"dataframe_records": []}'):
            status, text = post(address, body)
            assert status == 400, (body, text)
            assert "Traceback" not in text, (body, text)
        assert post(address, b"{}", "text/plain")[0] == 415
        assert predictions(address, {"inputs": asking[3:4]}) == expected[3:4]
        assert not list((tmp_path / "log").rglob("*.parquet"))
        for pid in pids[1:]:  # mlflow itself dies at once, and takes nobody with it in good order
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not any(command_of(pid) for pid in pids[1:]), "the server to end", 20)
    store.close()
    port = int(address.rpartition(":")[2])
    assert len(pids) > 1  # mlflow, and the server that it started
    wait_until(lambda: not is_listening(port), "the server to be gone", 10)
    wait_until(lambda: not any(str(port) in command_of(pid) for pid in pids), "its processes to be gone", 10)
    logged = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "log").rglob("*.parquet"))
    assert logged == 2 + 5 * len(asking) + 5  # written when the server was told to end
    assert gaps(tmp_path / "log" / "houses") == []
