"""The registered model as MLflow loads it, without Spark: the bits of the batch kernel, and errors a client can read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.stores.opening import open_store
from tests.toy.answers import score_rows
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_batch, house_wire
from tests.toy.serving import asking
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, rate_rows
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer

N = 40
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


def test_store_is_the_one_that_the_environment_names(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/online.db"
    with closing(open_store(url, timeout_ms=10_000)) as store:
        through = write_rates(store, rate_rows())
        rows = asking(N, through)
        expected = OnlineScorer(
            load_bundle(logged / "artifacts" / "bundle"), store, clock=lambda: through
        ).answer(rows)
    monkeypatch.setenv("ONESCORE_STORE_URL", url)
    answers = mlflow.pyfunc.load_model(str(logged)).predict(rows, params={"features": True})
    assert {answer["views"]["rates"]["status"] for answer in answers} >= {"PRESENT", "NULL"}
    assert all(answer.pop("features") for answer in answers)
    assert [answer | {"model_version": None} for answer in answers] == [
        answer | {"model_version": None} for answer in expected
    ]


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
