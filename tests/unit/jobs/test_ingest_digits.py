import io

import numpy as np
import pytest
from deltalake import DeltaTable
from PIL import Image
from sklearn.datasets import load_digits

from feature_pipelines.evaluate import evaluate
from feature_pipelines.features.digits import FEATURES
from feature_pipelines.reasons import RowsRefused
from jobs.ingest_digits import main, unusable_images, write_png


@pytest.fixture
def tables(home):
    return home / ".onescore" / "tables"


def rows(tables, name):
    return DeltaTable(str(tables / name)).to_pyarrow_table().to_pylist()


def test_every_digit_is_an_image_of_its_own_pixels(tables, capsys):
    assert main([]) == 0

    requests, outcomes = rows(tables, "digits_requests"), rows(tables, "digits_outcomes")
    data = load_digits()
    assert len(requests) == len(outcomes) == 1_797
    assert [row["digit"] for row in outcomes] == data.target.tolist()
    assert [row["image_id"] for row in requests] == [row["image_id"] for row in outcomes]
    for row, drawn in zip(requests, data.images, strict=True):
        with Image.open(io.BytesIO(row["image"])) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))
            assert np.abs(np.asarray(image) / 255 - drawn / 16).max() <= 0.5 / 255
    assert "digits_requests                   1,797 rows  written" in capsys.readouterr().out


def test_a_second_ingest_changes_nothing(tables, capsys):
    main([])
    capsys.readouterr()

    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.count("were there already") == 2
    assert DeltaTable(str(tables / "digits_requests")).version() == 1


def test_bytes_of_an_image_are_these_and_no_others():
    pixels = np.array([[0, 255], [7, 128]], np.uint8)
    assert write_png(pixels).hex() == (
        "89504e470d0a1a0a"
        "0000000d494844520000000200000002080000000057dd52f8"
        "00000011494441547801010600f9ff0000ff000780049001874d409777"
        "0000000049454e44ae426082"
    )


def test_unusable_images_come_only_if_asked_for_and_go_again(tables, capsys):
    assert main(["--with-unusable"]) == 0
    added = {row["image_id"]: row["image"] for row in rows(tables, "digits_requests")[1_797:]}
    assert added == {f"unusable-{what}": image for what, image in unusable_images().items()}
    assert len(rows(tables, "digits_outcomes")) == 1_797

    assert main([]) == 0
    assert len(rows(tables, "digits_requests")) == 1_797


def test_every_unusable_image_is_refused_and_each_reason_occurs():
    images = {what: image for what, image in unusable_images().items() if image is not None}
    column = np.empty(len(images), dtype=np.object_)
    column[:] = list(images.values())

    with pytest.raises(RowsRefused) as refused:
        evaluate(FEATURES, {"image": column}, {}, len(images))
    codes = {list(images)[error.row]: str(error.code) for error in refused.value.errors}

    assert codes == {
        "empty": "IMAGE_BROKEN",
        "cut-off": "IMAGE_BROKEN",
        "trailing": "IMAGE_BROKEN",
        "bomb": "IMAGE_TOO_LARGE",
        "small": "IMAGE_TOO_SMALL",
        "animated": "IMAGE_ANIMATED",
        "jpeg": "IMAGE_FORMAT",
        "gif": "IMAGE_FORMAT",
        "rgb": "IMAGE_MODE",
        "alpha": "IMAGE_MODE",
        "16-bit": "IMAGE_MODE",
    }


def test_dry_run_writes_nothing(tables, capsys):
    assert main(["--dry-run", "--with-unusable"]) == 0
    assert "digits_requests                   1,809 rows  would be written" in capsys.readouterr().out
    assert not tables.exists()
