"""How a job starts and ends: flags, exit codes, one line on stderr, a traceback only in a file and without secrets."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import jobs
from feature_pipelines.errors import ConfigurationError, ContractError, VerificationError
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.secret_refs import SecretRef

CANARY = "canary-51c0ffee"
Main = Callable[[Sequence[str] | None], int]


def failing(error: BaseException) -> Main:
    def main(_argv: Sequence[str] | None) -> int:
        raise error

    return main


def test_shared_flags_become_a_configuration(home: Path) -> None:
    arguments = job_parser("score_batch", None).parse_args(
        ["--env", "staging", "--set", "score.chunk_rows=7", "--set", "train.seed=1", "--dry-run"]
    )
    conf = load_from(arguments)
    assert arguments.dry_run
    assert (conf.env, conf.model.name, conf.score.chunk_rows, conf.train.seed) == ("staging", "flights", 7, 1)


CALLED_BY_A_PLATFORM = {"serve_function", "serve_lambda"}
JOBS = sorted({file.stem for file in Path(jobs.__path__[0]).glob("[a-z]*.py")} - CALLED_BY_A_PLATFORM)


@pytest.mark.parametrize("job", JOBS)
def test_help_of_every_job_says_how_to_start_it_and_what_all_share(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(importlib.import_module(f"jobs.{job}").main, ["--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: python -m jobs.{job} " in said
    for flag in ("--env ENV", "--model MODEL", "--set KEY=VALUE", "--dry-run"):
        assert flag in said


def test_exit_code_of_the_job_is_returned() -> None:
    assert run(lambda argv: len(argv or ()), ["a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationError("counts differ"), 1),
        (ConfigurationError("no such key"), 2),
        (ContractError("too many\nbad rows"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_error_becomes_one_line_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(error), []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert " ".join(str(error).split()) in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("raised", "code"), [(SystemExit(2), 2), (SystemExit(None), 0), (SystemExit("text"), 1)]
)
def test_system_exit_becomes_its_code(raised: SystemExit, code: int) -> None:
    assert run(failing(raised), []) == code


def test_usage_error_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str] | None) -> int:
        job_parser("score_batch", None).parse_args(argv)
        return 0

    assert run(main, ["--nope"]) == 2
    assert "unrecognized arguments: --nope" in capsys.readouterr().err


def test_defect_is_a_short_line_and_a_log_without_secrets(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANARY_OF_TEST", CANARY)
    reference = SecretRef("env:CANARY_OF_TEST")

    def main(_argv: Sequence[str] | None) -> int:
        raise RuntimeError(f"refused the token {reference.reveal()}\nsecond line")

    assert run(main, []) == 70
    (log,) = (home / ".onescore" / "logs").iterdir()
    message = capsys.readouterr().err
    assert message == f"error: unexpected RuntimeError: refused the token *** (traceback in {log})\n"
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "second line" in text
    assert CANARY not in text


def test_log_goes_elsewhere_when_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONESCORE_HOME", str(tmp_path / "file"))
    assert run(failing(RuntimeError("boom")), []) == 70
    log = Path(capsys.readouterr().err.strip().partition("traceback in ")[2].rstrip(")"))
    assert "boom" in log.read_text()
    log.unlink()
    log.parent.rmdir()
