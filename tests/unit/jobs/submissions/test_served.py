"""What a submission is pinned to besides its model: which store is asked, however its URL is written, and never its password."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.runs.conf import load
from jobs.submissions.served import resolve_served
from tests.toy.poison import write_poison_bundle
from tests.toy.workspace import CONF_DIR


@pytest.mark.parametrize(
    ("written", "pinned"),
    [
        ("sqlite:////data/a/../online.db", "sqlite:////data/online.db"),
        ("redis://Store.example:6379/2?protocol=2", "redis://store.example:6379/2"),
        ("redis://store", "redis://store:6379/0"),
        ("redis://store:6379", "redis://store:6379/0"),
        ("rediss://store/?db=0", "redis://store:6379/0"),
    ],
)
def test_a_submission_is_pinned_to_the_store_and_not_to_how_it_is_asked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, written: str, pinned: str
) -> None:
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    conf = load("local", "houses", [f"store.url={written}"])
    assert resolve_served(conf, bundle).pinned.store == pinned


def test_no_password_is_pinned(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    monkeypatch.setenv("RATES", "redis://me:secret@store:6379")
    conf = load("local", "houses", ["store.url=env:RATES"])
    assert resolve_served(conf, bundle).pinned.store == "redis://store:6379/0"


def test_a_file_is_pinned_by_where_it_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    (tmp_path / "link").symlink_to(tmp_path)
    conf = load("local", "houses", [f"store.url=sqlite:///{tmp_path}/link/online.db"])
    assert resolve_served(conf, bundle).pinned.store == f"sqlite:///{tmp_path.resolve()}/online.db"


def test_a_model_without_stored_views_is_pinned_to_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    write_poison_bundle(tmp_path / "bundle")
    conf = load("local", "houses", ["model.name=poison", "store.url=env:NOT_SET_HERE"])
    assert resolve_served(conf, tmp_path / "bundle").pinned.store == ""
