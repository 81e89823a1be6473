"""What a serving process is told by its environment: read once, refused where it makes no sense, and no reason not to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError
from tests.toy.house_bundle import house_wire
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import rate_rows
from udfs import serving
from udfs.serving import ServingSettings, open_scorer


def test_nothing_set_is_no_store_and_no_log(written: dict[str, Path]) -> None:
    settings = ServingSettings.read({})
    assert settings == ServingSettings()
    online = open_scorer(written["trees"], settings, lambda: 5)
    assert (online.store, online.log) == (None, None)
    (answer,) = online.answer(house_wire(1))
    assert (answer["model_version"], answer["as_of_ts"]) == (None, "1970-01-01T00:00:00.000005Z")
    online.close()


def test_every_variable_is_read_and_named_in_the_docstring(tmp_path: Path) -> None:
    environment = {
        "ONESCORE_STORE_URL": f"sqlite:///{tmp_path}/online.db",
        "ONESCORE_STORE_TIMEOUT_MS": "40",
        "ONESCORE_PREDICTION_LOG": str(tmp_path / "log"),
        "ONESCORE_PREDICTION_LOG_FLUSH_SECONDS": "0.5",
        "ONESCORE_PREDICTION_LOG_SAMPLE_SHARE": "0.25",
        "ONESCORE_PREDICTION_LOG_PII": "hash",
        "ONESCORE_PREDICTION_LOG_PII_KEY": "key",
        "ONESCORE_PREDICTION_LOG_MAX_QUEUE": "10",
        "ONESCORE_PREDICTION_LOG_MAX_QUEUE_BYTES": "1000",
    }
    expected = ServingSettings(
        f"sqlite:///{tmp_path}/online.db", 40, str(tmp_path / "log"), 0.5, 0.25, "hash", "key", 10, 1000
    )
    assert ServingSettings.read(environment) == expected
    assert all(f"{name} " in (serving.__doc__ or "") for name in environment)


def test_store_that_is_not_there_stops_no_start_and_is_used_when_it_comes(
    written: dict[str, Path], tmp_path: Path
) -> None:
    settings = ServingSettings(
        store_url=f"sqlite:///{tmp_path}/online.db", log_directory=str(tmp_path / "log")
    )
    online = open_scorer(written["trees"], settings, lambda: 1_600_000_000_000_000, model_version="3")
    row = {name: value for name, value in house_wire(1)[0].items() if not name.startswith("rate_")}
    asking = [row | {"town": "town-1"}]
    assert online.answer(asking)[0]["error"]["code"] == "STORE_UNAVAILABLE"
    assert online.store is not None
    write_rates(online.store, rate_rows())
    (answer,) = online.answer(asking)
    assert (answer["views"]["rates"]["status"], answer["model_version"]) == ("EXPIRED", "3")
    online.close()
    assert len(list((tmp_path / "log" / "houses").rglob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"ONESCORE_STORE_TIMEOUT_MS": "soon"}, "ONESCORE_STORE_TIMEOUT_MS='soon' is not a number"),
        ({"ONESCORE_STORE_URL": "mysql://u:secret@h/d"}, "expected sqlite:///path"),
        ({"ONESCORE_PREDICTION_LOG": "log", "ONESCORE_PREDICTION_LOG_PII": "blur"}, "'blur'"),
        (
            {"ONESCORE_PREDICTION_LOG": "log", "ONESCORE_PREDICTION_LOG_FLUSH_SECONDS": "0"},
            "flush_seconds > 0",
        ),
    ],
)
def test_setting_that_makes_no_sense_is_refused_at_the_start(
    written: dict[str, Path], environment: dict[str, str], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        open_scorer(written["trees"], ServingSettings.read(environment), lambda: 5)
    assert "secret" not in str(caught.value)


def test_digest_of_the_settings_changes_with_them_and_not_with_a_secret() -> None:
    url = "redis://user:{}@host:6379/0"
    one, other = (ServingSettings(store_url=url.format(secret)) for secret in ("one", "other"))
    assert one.digest() == other.digest()
    assert one.digest() != ServingSettings(store_url=one.store_url, store_timeout_ms=1).digest()
    assert one.digest() != ServingSettings(store_url=one.store_url, log_sample_share=0.5).digest()
