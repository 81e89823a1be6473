"""Secrets are references until the moment of use, and no way of printing shows more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from feature_pipelines.errors import ConfigurationError
from jobs.runs.secret_refs import SecretRef, mask, remember

CANARY = "canary-7f3a9d"


class Holder(BaseModel):
    secret: SecretRef | None = None


def test_reference_is_shown_by_every_way_of_printing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", CANARY)
    holder = Holder.model_validate({"secret": "env:TOKEN_OF_TEST"})

    assert holder.secret is not None
    assert holder.secret.reveal() == CANARY
    shown = [
        str(holder),
        repr(holder),
        f"{holder.secret}",
        holder.model_dump_json(),
        json.dumps(holder.model_dump()),
    ]
    for text in shown:
        assert "env:TOKEN_OF_TEST" in text
        assert CANARY not in text


def test_value_is_read_at_the_moment_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = SecretRef("env:TOKEN_OF_TEST")
    monkeypatch.setenv("TOKEN_OF_TEST", "before-rotation")
    assert reference.reveal() == "before-rotation"
    monkeypatch.setenv("TOKEN_OF_TEST", "after-rotation")
    assert reference.reveal() == "after-rotation"


def test_file_reference_reads_the_file_without_its_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{CANARY}\n")
    assert SecretRef(f"file:{tmp_path}/token").reveal() == CANARY


def test_relative_file_reference_is_below_onescore_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(CANARY)
    monkeypatch.setenv("ONESCORE_HOME", str(tmp_path))
    assert SecretRef("file:token").reveal() == CANARY


@pytest.mark.parametrize(
    "literal", [CANARY, "", "env:", "env:9X", "env:A B", "file:", "ENV:X", "vault:x", 7, None, ["env:X"]]
)
def test_literal_value_is_refused_without_being_repeated(literal: object) -> None:
    with pytest.raises(
        ValueError, match=r"expected a reference env:NAME or file:PATH, got a literal value \(not shown\)"
    ) as info:
        SecretRef(literal)
    assert CANARY not in str(info.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:TOKEN_THAT_IS_NOT_SET", r"^secret env:TOKEN_THAT_IS_NOT_SET: the variable is not set\.$"),
        ("file:/nowhere/token", r"^secret file:/nowhere/token: No such file or directory\.$"),
    ],
)
def test_secret_that_is_not_there_is_an_error_that_names_the_reference(reference: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SecretRef(reference).reveal()


def test_empty_or_binary_secret_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="the file is empty"):
        SecretRef(f"file:{tmp_path}/empty").reveal()
    with pytest.raises(ConfigurationError, match="it is not UTF-8 text"):
        SecretRef(f"file:{tmp_path}/binary").reveal()


def test_mask_covers_values_never_revealed_and_values_since_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "first-secret-value")
    reference = SecretRef("env:TOKEN_OF_TEST")
    assert mask("got first-secret-value") == "got ***"
    reference.reveal()
    monkeypatch.setenv("TOKEN_OF_TEST", "second-secret-value")
    assert mask("first-secret-value, second-secret-value") == "***, ***"


def test_mask_covers_credentials_in_a_uri() -> None:
    assert mask("at http://me:pass@host/path") == "at http://***@host/path"
    assert mask("at http://me:p@ss@host/path") == "at http://***@host/path"
    assert mask("mail me@host, see http://host/@x") == "mail me@host, see http://host/@x"


def test_mask_covers_secret_parameters_and_what_it_was_told_to_remember() -> None:
    assert (
        mask("db?user=u&password=p from sc://h/;token=t") == "db?user=u&password=*** from sc://h/;token=***"
    )
    remember("told-in-confidence")
    assert mask("it was told-in-confidence") == "it was ***"


def test_references_compare_by_what_they_refer_to() -> None:
    assert SecretRef("env:A") == SecretRef("env:A") != SecretRef("env:B")
    assert len({SecretRef("env:A"), SecretRef("env:A")}) == 1
