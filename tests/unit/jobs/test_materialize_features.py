"""The two jobs of the online store as a person runs them: what they print, and how they end."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_pipelines.columns import Float64
from feature_pipelines.schema import Field, Schema
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs import materialize_features, purge_features
from jobs.runs.command import run
from tests.toy.houses import RATES
from tests.toy.workspace import Workspace

UTC = pa.timestamp("us", tz="UTC")
DAY = 86_400_000_000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with a table of rates of three towns, on the days 1, 2 and 3 of 1970."""
    made = Workspace(tmp_path)
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    times = pa.array([0, DAY, 2 * DAY], UTC)
    table = pa.table(
        {
            "town": ["town-0", "town-1", "town-2"],
            "event_ts": times,
            "created_ts": times,
            "rate_pct": [0.0, 1.0, 2.0],
            "rate_pct_floor": [0.0, 0.0, 0.0],
        }
    )
    write_deltalake(made.table("rates"), table)
    return made


def materialise(*arguments: str) -> int:
    return run(materialize_features.main, ["--model", "houses", *arguments])


def purge(*arguments: str) -> int:
    return run(purge_features.main, ["--model", "houses", *arguments])


def test_job_fills_the_store_and_says_what_it_did(
    place: Workspace, spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert materialise("--through", "1970-01-02T00:00:00Z") == 0
    said = capsys.readouterr()
    assert "rates: read            3 of 3 rows (100%)" in said.err
    facts = dict(line.rsplit(maxsplit=1) for line in said.out.splitlines()[1:])
    assert {name.strip(): value for name, value in facts.items()}.items() >= {
        "through": "1970-01-02T00:00:00Z",
        "read": "2",
        "written": "2",
        "unchanged": "0",
        "broken": "0",
    }.items()
    for earlier in ("1970-01-02T00:00:00Z", "1970-01-01T00:00:00Z"):
        assert materialise("--through", earlier) == 0
        assert "rates: nothing to do, the store is at 1970-01-02T00:00:00Z already" in capsys.readouterr().err
    assert materialise() == 0
    with closing(open_store(f"sqlite:///{place.root}/.onescore/online.db")) as store:
        assert store.read([(RATES, [("town-2",)])])[0][0] is not None


def test_dry_run_shows_the_plan_and_makes_no_store(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert materialise("--dry-run", "--through", "1970-01-02T00:00:00Z") == 0
    said = capsys.readouterr()
    assert "planned as for an empty store" in said.err
    assert "plan (nothing was written)" in said.out
    assert "rows to read, at most          3" in said.out
    assert not (place.root / ".onescore" / "online.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--through", "1970-01-02"], 2, "--through 1970-01-02: expected RFC 3339"),
        (["--view", "rate"], 2, "Did you mean 'rates'"),
        (["--set", "store.url=mysql://h/x"], 2, "expected sqlite:///path"),
        (["--set", "store.url=env:NO_SUCH_VARIABLE"], 2, "env:NO_SUCH_VARIABLE: the variable is not set"),
        (["--set", "views.rates=none", "--dry-run"], 2, "no such input"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    place: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert materialise(*arguments) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_changed_schema_is_refused_until_rebuilt(
    place: Workspace, spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = FeatureView("rates", RATES.keys, Schema((Field("rate_pct", Float64),)))
    with closing(open_store(f"sqlite:///{place.root}/.onescore/online.db", timeout_ms=9_000)) as store:
        store.advance(before, 10 * DAY)
    assert materialise("--through", "1970-01-09T00:00:00Z") == 3
    assert f"{before.schema_digest()}, declared is {RATES.schema_digest()}" in capsys.readouterr().err
    assert materialise("--dry-run") == 0
    assert "--rebuild" in capsys.readouterr().out
    assert materialise("--through", "1970-01-09T00:00:00Z", "--rebuild") == 0
    assert purge("--as-of", "1970-01-01T00:00:00Z") == 0


def test_purge_removes_what_is_older_than_the_ttl_and_says_how_many(
    place: Workspace, spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert purge() == 2  # there is no store yet
    assert "online.db" in capsys.readouterr().err
    assert materialise() == 0
    assert purge("--as-of", "1970-02-01T00:00:00.000001Z", "--dry-run") == 0
    assert "plan (nothing was removed)" in capsys.readouterr().out
    assert (
        purge("--as-of", "1970-02-01T00:00:00.000001Z") == 0
    )  # 30 days after the second row, and a microsecond
    assert "rates   2" in capsys.readouterr().out
    with closing(open_store(f"sqlite:///{place.root}/.onescore/online.db")) as store:
        ((*rows,),) = store.read([(RATES, [("town-0",), ("town-1",), ("town-2",)])])
    assert [row is not None for row in rows] == [False, False, True]
