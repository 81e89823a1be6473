"""A package says what holds; the environment wins where it says something; nonsense is refused before anything is answered."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.serverless.settings import FunctionSettings, read_package


def written(directory: Path, **changes: object) -> Path:
    content = {
        "format_version": 1,
        "model_version": "7",
        "digest": "abc",
        "has_snapshot": True,
        "runtime": "cpython-311 x86_64",
        "settings": asdict(FunctionSettings(max_rows=5)),
    }
    (directory / "onescore.json").write_text(json.dumps({**content, **changes}))
    return directory


def test_package_says_what_it_is_and_a_setting_of_a_later_release_is_passed_over(tmp_path: Path) -> None:
    found = read_package(written(tmp_path, settings={"max_rows": 5, "of_tomorrow": 1}))
    assert (found.model_version, found.digest, found.has_snapshot) == ("7", "abc", True)
    assert found.settings.max_rows == 5
    assert found.settings.max_body_bytes == 6_291_456


def test_environment_wins(tmp_path: Path) -> None:
    packaged = FunctionSettings(sink="s3://a/b", store_timeout_ms=100)
    found = packaged.with_environment(
        {
            "ONESCORE_SINK": "s3://c",
            "ONESCORE_STORE_URL": "redis://:secret@host:6379/0",
            "ONESCORE_STORE_TIMEOUT_MS": "70",
            "ONESCORE_PREDICTION_LOG_SAMPLE_SHARE": "0.5",
            "ONESCORE_PREDICTION_LOG_PII_KEY": "key",
        }
    )
    assert (found.sink, found.store_timeout_ms, found.log_sample_share) == ("s3://c", 70, 0.5)
    assert packaged.with_environment({"ONESCORE_SINK": ""}).sink == "s3://a/b"
    assert found.digest() != packaged.digest()
    without = {
        name: value for name, value in asdict(found).items() if name not in ("log_pii_key", "store_url")
    }
    other = FunctionSettings(**without, log_pii_key="another", store_url="redis://:other@host:6379/0")
    assert found.digest() == other.digest()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ONESCORE_STORE_TIMEOUT_MS", "soon", "ONESCORE_STORE_TIMEOUT_MS='soon' is not a number"),
        ("ONESCORE_STORE_TIMEOUT_MS", "nan", "ONESCORE_STORE_TIMEOUT_MS='nan' is not a number"),
        ("ONESCORE_STORE_TIMEOUT_MS", "inf", "ONESCORE_STORE_TIMEOUT_MS='inf' is not a number"),
        ("ONESCORE_STORE_TIMEOUT_MS", "-5", "ONESCORE_STORE_TIMEOUT_MS: expected 1 ms or more, got -5"),
        ("ONESCORE_SINK", "s3:/typo", "sink 's3:/typo': expected s3://bucket/prefix"),
        ("ONESCORE_SINK", "file:///a/../b", r"sink .*without \. and \.\. in it"),
        ("ONESCORE_PREDICTION_LOG", "/var/log", "must be stdout or none"),
        ("ONESCORE_PREDICTION_LOG_SAMPLE_SHARE", "2", "0 to 1, got 'stdout' and 2.0"),
    ],
)
def test_nonsense_in_the_environment_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        FunctionSettings().with_environment({name: value})


def test_no_package_a_damaged_one_and_one_of_a_later_release_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"there is no package\. Build one with .*package_serverless"
    ):
        read_package(tmp_path)
    with pytest.raises(ConfigurationError, match="format_version 2; this release reads up to 1"):
        read_package(written(tmp_path, format_version=2))
    (tmp_path / "onescore.json").write_text("{")
    with pytest.raises(ConfigurationError, match="is damaged: JSONDecodeError"):
        read_package(tmp_path)
