"""The list of paths: what is chosen from it, and that one path's failure is not another's."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from feature_pipelines.errors import ConfigurationError, UnavailableError
from jobs import verify_paths
from jobs.proof import path_bench
from jobs.proof.path_answers import Answer, Row
from jobs.proof.path_bench import Bench
from jobs.proof.path_outcome import Golden, golden_of
from jobs.proof.path_servers import Server
from jobs.proof.paths import PATHS, Entry, chosen_paths, verified_paths
from jobs.runs.command import run
from tests.toy.forgery import forge
from tests.toy.workspace import Workspace
from udfs.bundle import read_golden

GOLDEN = Golden([{"a": 1}], [Answer(0.5)], "digest", "platform")
BENCH: Any = SimpleNamespace(version=None, model=SimpleNamespace(version="4"))


class Said:
    """A path that gives one answer, or fails."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, said: Answer | Exception) -> None:
        self._said = said

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return the answer."""
        if isinstance(self._said, Exception):
            raise self._said
        return [self._said]


def entry(name: str, said: Answer | Exception, **more: Any) -> Entry:
    return Entry(name, lambda bench: Said(said), **more)


def test_names_are_distinct_and_the_groups_are_those_of_the_readme() -> None:
    names = [one.name for one in PATHS]
    assert len(set(names)) == len(names)
    assert {name.partition("-")[0] for name in names} >= {
        "evaluator",
        "kernel",
        "pyfunc",
        "udf",
        "batch",
        "async",
        "lean",
        "stock",
    }


def test_all_are_chosen_by_no_name_some_by_name_or_group_in_the_order_of_the_list() -> None:
    assert chosen_paths(PATHS, []) == list(PATHS)
    assert [one.name for one in chosen_paths(PATHS, ["udf", "evaluator"])] == [
        "evaluator",
        "udf-arrow",
        "udf-pandas",
    ]
    with pytest.raises(ConfigurationError, match=r"no path 'kernal'. Did you mean 'kernel'\?"):
        chosen_paths(PATHS, ["evaluator", "kernal"])


def test_path_that_fails_does_not_keep_the_others_from_being_asked() -> None:
    entries = [
        entry("gone", UnavailableError("server x does not answer")),
        entry("broken", ValueError("first line\nsecond")),
        entry("unregistered", Answer(0.5), needs_registry=True),
        entry("other", Answer(0.5, digest="another", version="3")),
        entry("good", Answer(0.5, digest="digest")),
    ]
    told: list[str] = []
    found = verified_paths(entries, BENCH, GOLDEN, lambda outcome: told.append(outcome.path))
    assert told == ["gone", "broken", "unregistered", "other", "good"]
    assert [outcome.status for outcome in found] == ["failed", "failed", "skipped", "other model", ""]
    assert found[0].problem == "could not be asked: server x does not answer"
    assert found[1].problem == "failed: ValueError: first line"
    assert found[3].problem.startswith("another model answers: version 3 (digest another), and not version 4")
    assert [outcome.equal for outcome in found] == [0, 0, 0, 1, 1]


@pytest.fixture
def opened(bundle: Path, tmp_path: Path) -> Iterator[Bench]:
    """A bench on the toy bundle."""
    with Bench(lambda more: Workspace(tmp_path).conf(*more), [], bundle=bundle) as bench:
        yield bench


def test_server_is_started_once_and_what_could_not_start_is_not_started_again(
    opened: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    @contextmanager
    def broken(*_: Any) -> Iterator[Server]:
        asked.append("broken")
        raise UnavailableError("it ended with exit code 3")
        yield

    @contextmanager
    def good(*_: Any) -> Iterator[Server]:
        asked.append("good")
        yield Server("http://127.0.0.1:1")
        asked.append("ended")

    monkeypatch.setattr(path_bench, "lean_server", broken)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="exit code 3"):
            opened.lean()
    opened.close()
    monkeypatch.setattr(path_bench, "lean_server", good)
    assert opened.lean() is opened.lean()
    scratch = opened.scratch()
    assert scratch.is_dir()
    opened.close()
    assert asked == ["broken", "good", "ended"]
    assert not scratch.exists()


def test_bundle_has_no_registry_and_no_other_directory_is_a_bundle(opened: Bench, tmp_path: Path) -> None:
    assert (opened.version, opened.model.version, opened.model.name) == (None, "none", "houses")
    with pytest.raises(ConfigurationError, match="is in no registry"):
        opened.model_uri()
    with pytest.raises(ConfigurationError, match=r"--bundle .*: there is no model.json in it"):
        Bench(lambda more: Workspace(tmp_path).conf(*more), [], bundle=tmp_path)


def test_server_is_asked_where_the_model_scores_otherwise_here(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The golden rows are those of the processor where the model was logged, and the server may run on one like it."""
    away = Path(shutil.copytree(bundle, tmp_path / "away"))
    golden = json.loads((away / "golden.json").read_text())
    scores = np.frombuffer(base64.b64decode(golden["score"]), "<f8")
    golden["score"] = base64.b64encode(np.nextafter(scores, np.inf).tobytes()).decode()
    forge(away, "golden.json", json.dumps(golden).encode())
    for name, value in Workspace(tmp_path).env().items():
        monkeypatch.setenv(name, value)
    served = golden_of(read_golden(away)).expected
    remote = [Entry("lean-inputs", lambda bench: Answers(served), url="http://scores:80")]
    monkeypatch.setattr(verify_paths, "remote_paths", lambda url, bench: remote)
    asked = ["--model", "houses", "--bundle", str(away)]
    assert run(verify_paths.main, [*asked, "--url", "http://scores:80"]) == 0
    said = capsys.readouterr().out
    assert "equal in every bit: 64 answers on 1 paths" in said
    assert re.search(r"golden rows here +not asked", said)
    assert run(verify_paths.main, [*asked, "--paths", "evaluator"]) == 2
    assert "does not reproduce its golden rows here" in capsys.readouterr().err


class Answers(Said):
    """A path that gives these."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return them."""
        return self._answers
