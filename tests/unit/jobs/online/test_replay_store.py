"""Which URLs name the store that production serves from: a replay may empty its own store, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.online.replay_store import require_other

PROD = "redis://:pw@prod:6379/0"


@pytest.mark.parametrize(
    ("url", "production"),
    [
        ("redis://prod:6379/0", PROD),
        ("redis://prod/0", "redis://prod:6379/0"),
        ("redis://PROD", PROD),
        ("redis://prod/", PROD),
        ("redis://prod/00", PROD),
        ("redis://user:other@prod:6379/0", PROD),
        ("redis://prod./0", PROD),
        ("rediss://prod/0?ssl_ca_certs=ca.pem", "rediss://:pw@prod:6379/0"),
        ("redis://prod/0", "rediss://prod/0"),
        ("redis://prod/3", "redis://prod?db=3"),
        ("redis://prod/3?db=0", PROD),
        ("redis://prod?cluster=true", "redis://prod:6379/0"),
        ("redis://127.0.0.1/1", "redis://localhost:6379/1"),
        ("redis://[::1]:6379/1", "redis://localhost/1"),
        ("redis:///1", "redis://127.0.0.1/1"),
        ("sqlite:///served.db", "sqlite:///./there/../served.db"),
        ("redis://h:x/0", "redis://h:x/0"),
    ],
)
def test_store_that_is_served_from_is_known_however_it_is_written(
    url: str, production: str, home: Path
) -> None:
    for one, other in ((url, production), (production, url)):
        with pytest.raises(ConfigurationError, match=r"is store\.url, which is served from") as caught:
            require_other(one, other)
        assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://prod:6379/1",
        "redis://prod:6380/0",
        "redis://prod?db=1",
        "redis://test:6379/0",
        "sqlite:///replay.db",
        "redis://prod:x/0",
    ],
)
def test_another_store_is_taken(url: str) -> None:
    require_other(url, PROD)


def test_sqlite_files_are_told_by_where_they_are(home: Path) -> None:
    (home / "served.db").touch()
    (home / "link.db").symlink_to("served.db")
    with pytest.raises(ConfigurationError):
        require_other("sqlite:///link.db", f"sqlite:///{home}/served.db")
    require_other("sqlite:///other.db", f"sqlite:///{home}/served.db")
