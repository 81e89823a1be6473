"""A model that an earlier release wrote is loaded from its directory alone, and scores the bits that were written down with it.

On another platform than the one that made it, bits may differ in the last places: then it is refused, or, where that is allowed,
scores within its recorded tolerance.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.parity import ulp_distance
from tests.toy.answers import score_rows
from tests.toy.bits import bits_of
from tests.toy.forgery import forge
from udfs.bundle import FORMAT_VERSION, bundle_digest, load_bundle
from udfs.platform import platform_id
from udfs.scorer import Scorer

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FORMATS = sorted(FIXTURES.glob("format_*"))
KIBIBYTE = 1024


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def fixture(request: pytest.FixtureRequest) -> Path:
    """The directory of one fixture model."""
    path: Path = request.param
    return path


def expectation(fixture: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((fixture / "expected.json").read_text())
    return content


def load(fixture: Path) -> Scorer:
    """Load a fixture; where this platform gives other bits, within its tolerance."""
    digest = expectation(fixture)["digest"]
    try:
        return load_bundle(fixture / "model", expected_digest=digest)
    except ModelIntegrityError as refused:
        made_here = platform_id() == expectation(fixture)["platform_id"]
        if made_here or "does not reproduce its golden rows" not in str(refused):
            raise
    return load_bundle(fixture / "model", expected_digest=digest, allow_tolerance=True)


def test_there_is_a_fixture_of_every_format() -> None:
    assert [path.name for path in FORMATS] == [f"format_{i}" for i in range(1, FORMAT_VERSION + 1)]


def test_fixture_is_in_git_as_it_was_written(fixture: Path) -> None:
    """If this fails, a formatter, a line ending or an editor changed a file of the fixture."""
    assert bundle_digest(fixture / "model") == expectation(fixture)["digest"]
    files = [path for path in fixture.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 300 * KIBIBYTE
    version = json.loads((fixture / "model" / "model.json").read_text())["format_version"]
    assert fixture.name == f"format_{version}"


def test_fixture_is_loaded_and_its_golden_rows_reproduced(fixture: Path) -> None:
    verified = load(fixture).verified
    if platform_id() == expectation(fixture)["platform_id"]:
        assert verified == "verified"
    else:
        assert verified in ("verified", "tolerance")


def test_fixture_scores_the_bits_that_were_written_down(fixture: Path) -> None:
    scorer, written = load(fixture), expectation(fixture)
    answers = score_rows(scorer, written["rows"])
    wanted = written["expected"]
    assert [a.get("error", {}).get("code") for a in answers] == [w.get("error") for w in wanted]
    assert {w.get("error") for w in wanted} == {None, "NULL_NOT_ALLOWED"}
    scored = [(a["score"], w["bits"]) for a, w in zip(answers, wanted, strict=True) if "bits" in w]
    assert len({bits for _, bits in scored}) > len(scored) / 2
    if scorer.verified == "verified":
        assert [bits_of(score) for score, _ in scored] == [bits for _, bits in scored]
        names = scorer.output.score_names
        for answer, written_down in zip(answers, wanted, strict=True):
            if "classes" in written_down:
                assert [bits_of(answer[name]) for name in names] == written_down["classes"]
                assert answer["label"] == written_down["label"]
        return
    expected = np.array([int(bits, 16) for _, bits in scored], np.uint64).view(np.float64)
    worst = ulp_distance(np.array([score for score, _ in scored]), expected).max()
    assert worst <= scorer.info["tolerance_ulps"]


def test_fixture_is_scored_by_its_own_features(fixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.toy import houses

    monkeypatch.setattr(houses, "FEATURES", None)
    scorer = load(fixture)
    assert all(f.__module__.startswith("_onescore_") for f in scorer.feature_set.features)


def made_elsewhere(fixture: Path, tmp_path: Path, ulps: int) -> Path:
    """Return a copy as another platform would have made it, with every golden and expected score so many ULP away."""
    copy = Path(shutil.copytree(fixture, tmp_path / "elsewhere"))
    golden = json.loads((copy / "model" / "golden.json").read_text())
    moved = np.frombuffer(base64.b64decode(golden["score"]), "<i8") + ulps
    golden["score"] = base64.b64encode(moved.tobytes()).decode()
    forge(copy / "model", "golden.json", json.dumps(golden).encode())
    written = expectation(copy)
    written["expected"] = [
        {"bits": f"{int(w['bits'], 16) + ulps:016x}"} if "bits" in w else w for w in written["expected"]
    ]
    written |= {"digest": bundle_digest(copy / "model"), "platform_id": "elsewhere"}
    (copy / "expected.json").write_text(json.dumps(written))
    return copy


@pytest.mark.parametrize("ulps", [1, 4])
def test_fixture_of_another_platform_scores_within_its_tolerance(
    fixture: Path, tmp_path: Path, ulps: int
) -> None:
    copy = made_elsewhere(fixture, tmp_path, ulps)
    assert load(copy).verified == "tolerance"
    test_fixture_scores_the_bits_that_were_written_down(copy)


def test_fixture_of_another_platform_beyond_its_tolerance_is_refused(fixture: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelIntegrityError, match="worst by 9 ULP, recorded tolerance 4"):
        load(made_elsewhere(fixture, tmp_path, 9))


@pytest.mark.parametrize("digit", range(0, 16, 5))
def test_an_expectation_one_bit_off_would_be_noticed(fixture: Path, tmp_path: Path, digit: int) -> None:
    """Guards the comparison above: it can fail."""
    if load(fixture).verified != "verified":
        pytest.skip("this platform is compared within a tolerance")
    copy = Path(shutil.copytree(fixture, tmp_path / "copy"))
    written = expectation(copy)
    bits = written["expected"][0]["bits"]
    written["expected"][0]["bits"] = bits[:digit] + f"{int(bits[digit], 16) ^ 1:x}" + bits[digit + 1 :]
    (copy / "expected.json").write_text(json.dumps(written))
    with pytest.raises(AssertionError):
        test_fixture_scores_the_bits_that_were_written_down(copy)
