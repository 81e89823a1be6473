"""Images to a function: one that is uploaded to S3 is scored into ten probabilities, one that cannot be has its reason in the result."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

from feature_pipelines.evaluate import constants_from_json, evaluate
from feature_pipelines.features.digits import FEATURES
from jobs.ingest_digits import unusable_images
from jobs.package_serverless import main
from jobs.proof.path_functions import LambdaFunction, lambda_function
from jobs.runs.command import run
from tests.toy.bits import bits_of
from tests.toy.functions import Cloud, cloud, package_of
from udfs.bundle import load_bundle, write_bundle
from udfs.online import OnlineScorer
from udfs.output import OutputSpec

SCORES = ["score", *(f"score_{digit}" for digit in range(10))]
N_TRAINED = 400


def png_of(drawn: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.round(drawn / 16 * 255).astype(np.uint8), "L").save(file, "PNG")
    return file.getvalue()


def wire(name: str, image: bytes) -> dict[str, str]:
    return {"image_id": name, "image": base64.b64encode(image).decode()}


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [png_of(drawn) for drawn in load_digits().images]


@pytest.fixture(scope="module")
def digits(images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small forest; shared."""
    directory = tmp_path_factory.mktemp("digits") / "bundle"
    rows = [wire(f"digit-{i:04d}", image) for i, image in enumerate(images[:N_TRAINED])]
    columns, errors = FEATURES.sources.from_rows(rows)
    assert not errors
    matrix = evaluate(FEATURES, columns, constants_from_json({}), N_TRAINED)
    estimator = ExtraTreesClassifier(10, random_state=0).fit(matrix.T, load_digits().target[:N_TRAINED])
    write_bundle(
        directory,
        name="digits",
        reference="feature_pipelines.features.digits:FEATURES",
        constants={},
        estimator=estimator,
        output=OutputSpec("classification", classes=tuple(map(str, range(10)))),
        columns=columns,
        n_rows=N_TRAINED,
    )
    return directory


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with cloud() as running:
        running.bucket("images")
        running.bucket("results")
        yield running


@pytest.fixture(scope="module")
def function(digits: Path, aws: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaFunction]:
    directory = tmp_path_factory.mktemp("function")
    package = package_of(directory / "app", digits)
    variables = {**aws.environment, "ONESCORE_SINK": "s3://results"}
    with lambda_function(package, directory / "results", directory, variables=variables) as started:
        yield started


def test_uploaded_image_is_one_row_named_as_its_file_with_the_bits_of_the_scorer(
    function: LambdaFunction, aws: Cloud, digits: Path, images: list[bytes]
) -> None:
    name, image = "digit-1700.png", images[1_700]
    said = function.answers_to(aws.upload("images", f"new/{name}", image))["uploads"][0]
    assert (said["outcome"], said["rows"]) == ("scored", 1)
    (found,) = aws.results("results")[said["result"].removeprefix("s3://results/")]["predictions"]
    online = OnlineScorer(load_bundle(digits), None, clock=lambda: 0)
    (expected,) = online.answer([wire(name, image)])
    assert [bits_of(found[one]) for one in SCORES] == [bits_of(expected[one]) for one in SCORES]
    assert found["label"] == str(load_digits().target[1_700])
    assert found["verified"] == "verified"
    (direct,) = function.answers_to({"inputs": [wire(name, image)]})["predictions"]
    assert {one: direct[one] for one in SCORES} == {one: found[one] for one in SCORES}


def test_file_of_many_images_is_a_row_for_each_line(
    function: LambdaFunction, aws: Cloud, images: list[bytes]
) -> None:
    lines = [json.dumps(wire(f"{i}", image)) for i, image in enumerate(images[1_000:1_020])]
    said = function.answers_to(aws.upload("images", "many.ndjson", "\n".join(lines).encode()))["uploads"][0]
    content = aws.results("results")[said["result"].removeprefix("s3://results/")]
    right = [answer["label"] for answer in content["predictions"]] == load_digits().target[
        1_000:1_020
    ].astype(str)
    assert right.sum() >= 15


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("cut-off", "IMAGE_BROKEN"),
        ("bomb", "IMAGE_TOO_LARGE"),
        ("animated", "IMAGE_ANIMATED"),
        ("jpeg", "IMAGE_FORMAT"),
        ("rgb", "IMAGE_MODE"),
    ],
)
def test_image_that_cannot_be_scored_has_its_reason_in_the_result(
    function: LambdaFunction, aws: Cloud, what: str, code: str
) -> None:
    image = unusable_images()[what]
    assert image is not None
    said = function.answers_to(aws.upload("images", f"{what}.png", image))["uploads"][0]
    (found,) = aws.results("results")[said["result"].removeprefix("s3://results/")]["predictions"]
    assert (found["error"]["code"], found["error"]["field"]) == (code, "image")


@pytest.mark.e2e
def test_package_of_images_has_pillow_besides_and_answers_alone(
    digits: Path, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--model", "digits", "--bundle", str(digits), "--output", str(tmp_path / "out")]
    code = run(main, flags)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "64 of 64 equal in every bit (verified)" in said.out
    app = tmp_path / "out" / "context" / "app"
    assert (app / "PIL").is_dir()
    assert (app / "feature_pipelines" / "images.py").is_file()
    assert not (app / "sklearn").exists()
