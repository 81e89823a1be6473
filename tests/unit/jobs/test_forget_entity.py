"""Forgetting as a person runs it, after a real scoring run: every place, told by numbers, killed in the middle, and run again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from redis import Redis

from feature_pipelines.stores.opening import open_store
from jobs import forget_entity
from jobs.runs.batch import plan_from
from jobs.runs.command import run
from jobs.runs.score_run import score
from tests.toy.houses import RATES
from tests.toy.logged import logged_requests, write_log
from tests.toy.processes import free_port, wait_until
from tests.toy.redis_servers import redis_server
from tests.toy.runs import QUARANTINE, SCORED, InThisProcess, directory_tree
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import Workspace, house_rows, rate_rows
from udfs.prediction_files import gaps

TOWN, OTHER = "town-1", "town-2"
DIES = """
import sys
import jobs.online.log_rewriting as log, jobs.tables.removal as removal
import jobs.forget_entity as job
from tests.toy.dying import dying

place, n = sys.argv.pop(1), int(sys.argv.pop(1))
if place == "log":
    log.write_file = dying(log.write_file, n)
else:
    removal.swap_files = dying(removal.swap_files, n)
sys.exit(job.run(job.main))
"""


@pytest.fixture(scope="module")
def scored(trained_workspace: Workspace, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose tables hold a run with quarantined rows, a store with all rates, and a log of three files."""
    made = trained_workspace.copy_to(tmp_path_factory.mktemp("scored") / "w")
    houses = house_rows(bad=range(60))
    made.write("houses", houses, rows_per_file=500)
    conf = made.conf("score.unit_rows=1000", "quarantine.max_share=1.0")
    score(InThisProcess(spark), plan_from(conf, Path(conf.storage.cache)))
    with closing(open_store(conf.store.url, timeout_ms=10_000)) as store:
        write_rates(store, rate_rows())
    asked = [{"house_id": i, "town": town} for i, town in enumerate((TOWN, OTHER, TOWN))]
    write_log(made.root / ".onescore" / "prediction_log", [(0, asked), (0, [asked[1]]), (0, [asked[0]])])
    return made


@pytest.fixture
def place(scored: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy for one test alone, as the home of jobs."""
    made = scored.copy_to(tmp_path / "w")
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    return made


def forget(*arguments: str) -> int:
    return run(forget_entity.main, ["--model", "houses", *arguments])


def held(place: Workspace) -> dict[str, int]:
    """Return how many rows each place has of the town, and of all others."""
    with closing(open_store(place.conf().store.url, timeout_ms=10_000)) as store:
        (rows,) = store.read([(RATES, [(f"town-{i}",) for i in range(5)])])
    requests = logged_requests(place.root / ".onescore" / "prediction_log")
    towns = place.rows(SCORED).column("town").to_pylist()
    originals = place.rows(QUARANTINE).column("row").to_pylist()
    return {
        "store": int(rows[1] is not None),
        "log": sum(request["town"] == f'"{TOWN}"' for request in requests),
        "scored": towns.count(TOWN),
        "quarantine": sum(f'"{TOWN}"' in row for row in originals),
        "others": sum(row is not None for row in rows)
        - int(rows[1] is not None)
        + sum(request["town"] != f'"{TOWN}"' for request in requests)
        + sum(town != TOWN for town in towns)
        + sum(f'"{TOWN}"' not in row for row in originals),
    }


def numbers(text: str) -> dict[str, str]:
    """Return the lines of a printed table by name."""
    lines = (line.rsplit(maxsplit=1) for line in text.splitlines() if line.startswith("  "))
    return {name.strip(): value for name, value in (parts for parts in lines if len(parts) == 2)}


def test_entity_leaves_every_place_and_the_numbers_are_told(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before, files = held(place), directory_tree(place.root)
    assert min(before.values()) > 0
    assert forget("--key", f"town={TOWN}", "--dry-run") == 0
    planned = capsys.readouterr().out
    assert directory_tree(place.root) == files
    assert forget("--key", f"town={TOWN}") == 0
    said = capsys.readouterr().out
    assert held(place) == dict.fromkeys(before, 0) | {"others": before["others"]}
    for text in (planned, said):
        found = numbers(text)
        assert (found["rates"], found["rows"], found["files rewritten"]) == ("1", "3", "2")
        assert found[place.table(SCORED)] == str(before["scored"])
        assert found[place.table(QUARANTINE)] == str(before["quarantine"])
    assert TOWN not in said
    assert gaps(place.root / ".onescore" / "prediction_log" / "houses") == []
    old = sum((Path(place.table(SCORED)) / path).stat().st_size for path in _replaced(place, SCORED))
    assert said.count("vacuum still owes") == 2
    assert f"{old:,}" in said
    assert "interval 1 week" in said
    assert "vacuum(full=True, dry_run=False)" in said
    kept = said.partition("not rewritten by this job")[2]
    for name in ("rates", "houses", "house_prices"):
        assert place.table(name) in kept
    for name in ("replay.db", "replays", "runs"):
        assert f"  {place.root}/.onescore/{name} " in kept
    assert forget("--key", f"town={TOWN}") == 0
    again = numbers(capsys.readouterr().out)
    assert [again[name] for name in ("rates", "rows", place.table(SCORED))] == ["0", "0", "0"]


def _replaced(place: Workspace, table: str) -> set[str]:
    delta = DeltaTable(place.table(table))
    before = DeltaTable(place.table(table), version=delta.version() - 1)
    return {Path(uri).name for uri in before.file_uris()} - {Path(uri).name for uri in delta.file_uris()}


@pytest.mark.parametrize(("where", "n"), [("log", 2), ("table", 1), ("table", 2)])
def test_killed_in_the_middle_and_run_again_completes(
    place: Workspace, where: str, n: int, process_env: dict[str, str]
) -> None:
    before = held(place)
    command = [sys.executable, "-c", DIES, where, str(n), "--model", "houses", "--key", f"town={TOWN}"]
    died = subprocess.run(
        command, env={**process_env, **place.env()}, cwd=place.root, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    between = held(place)
    assert between["store"] == 0
    assert between[QUARANTINE.removeprefix("houses_")] == before["quarantine"]
    assert between["scored"] == (0 if n == 2 and where == "table" else before["scored"])
    assert between["log"] == (1 if where == "log" else 0)
    assert forget("--key", f"town={TOWN}") == 0
    assert held(place) == dict.fromkeys(before, 0) | {"others": before["others"]}


def test_bytes_in_the_stores_file_are_gone_after_the_command_that_is_printed(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.root / ".onescore" / "online.db"

    def bytes_held() -> bool:
        return any(f'"{TOWN}"'.encode() in path.read_bytes() for path in file.parent.glob("online.db*"))

    assert bytes_held()
    assert forget("--key", f"town={TOWN}") == 0
    (command,) = [line for line in capsys.readouterr().out.splitlines() if "sqlite3" in line]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    assert not bytes_held()
    assert held(place)["others"] > 0


def test_entity_leaves_redis_and_its_files_after_the_commands_that_are_printed(
    place: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "redis"
    files.mkdir()
    with redis_server(files, "--appendonly", "yes", "--rdbcompression", "no") as running:
        url = f"store.url={running.url}"
        with closing(open_store(running.url, timeout_ms=10_000)) as store, Redis(port=running.port) as client:
            write_rates(store, rate_rows())
            client.save()

            def towns() -> list[bool]:
                (rows,) = store.read([(RATES, [(f"town-{i}",) for i in range(5)])])
                return [row is not None for row in rows]

            def bytes_held() -> bool:
                return any(f'"{TOWN}"'.encode() in content for content in contents(files))

            assert forget("--key", f"town={TOWN}", "--set", url, "--dry-run") == 0
            assert numbers(capsys.readouterr().out)["rates"] == "1"
            assert towns() == [True] * 5
            assert forget("--key", f"town={TOWN}", "--set", url) == 0
            said = capsys.readouterr().out
            assert numbers(said)["rates"] == "1"
            assert towns() == [True, False, True, True, True]
            assert bytes_held()
            (line,) = [line for line in said.splitlines() if "Redis wrote before" in line]
            for command in line.rpartition(": ")[2].split(", "):
                wait_until(lambda: not _is_writing(client), "Redis is free to write", 20)
                client.execute_command(command)
            wait_until(lambda: not bytes_held(), "the files are written again", 20)
            assert forget("--key", f"town={TOWN}", "--set", url) == 0
            assert numbers(capsys.readouterr().out)["rates"] == "0"
    assert held(place)["store"] == 1  # the file that the configuration names where it is not told otherwise


def contents(files: Path) -> Iterator[bytes]:
    """Yield what Redis has in its files; one that it removes meanwhile is not there any more."""
    for path in files.rglob("*"):
        if path.is_file() and path.name != "redis.log":
            with suppress(FileNotFoundError):
                yield path.read_bytes()


def _is_writing(client: Redis) -> bool:
    info: Any = client.info("persistence")
    return bool(info["rdb_bgsave_in_progress"] or info["aof_rewrite_in_progress"])


def test_redis_that_is_down_ends_the_job_before_anything_is_removed(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    files = directory_tree(place.root)
    url = f"store.url=redis://127.0.0.1:{free_port()}/0"
    assert forget("--key", f"town={TOWN}", "--set", url) == 2
    assert "refused" in capsys.readouterr().err
    assert directory_tree(place.root) == files


def test_entity_is_told_by_the_rows_id_where_its_column_is_not_repeated(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    log = place.root / ".onescore" / "prediction_log"
    assert forget("--key", "house_id=100") == 0
    found = numbers(capsys.readouterr().out)
    assert (found[place.table(SCORED)], found["rows"]) == ("1", "0")
    assert "100" not in place.rows(SCORED).column("row_id").to_pylist()
    assert forget("--key", "house_id=0") == 0
    found = numbers(capsys.readouterr().out)
    assert (found[place.table(SCORED)], found[place.table(QUARANTINE)], found["rows"]) == ("0", "1", "2")
    assert {request["house_id"] for request in logged_requests(log)} == {"1", "2"}


def test_table_that_cannot_tell_the_entity_is_left_and_said_so(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forget("--key", "house_id=100", "--set", "input.row_id=[]") == 0
    assert "NOT TOUCHED: it does not repeat house_id" in capsys.readouterr().out
    assert "100" in place.rows(SCORED).column("row_id").to_pylist()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("twn=x", "Did you mean 'town'?"),
        ("house_id=x", "the value is not of its type"),
        ("asked_ts=1", "timestamp"),
    ],
)
def test_wrong_key_is_exit_2_and_nothing_is_touched(
    place: Workspace, key: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = directory_tree(place.root)
    assert forget("--key", f"town={TOWN}", "--key", key) == 2
    assert said in capsys.readouterr().err
    assert directory_tree(place.root) == files


def test_places_that_are_not_there_hold_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in Workspace(tmp_path).env().items():
        monkeypatch.setenv(name, value)
    assert forget("--key", "town=x", "--set", "serve.log_directory=null") == 0
    said = capsys.readouterr().out
    for part in ("there is no store file", "no log is configured", "no Delta table there"):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_unreadable_file_of_the_log_is_exit_1_after_all_else_was_done(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = sorted((place.root / ".onescore" / "prediction_log").rglob("*.parquet"))[0]
    torn.write_bytes(b"torn")
    assert forget("--key", f"town={TOWN}") == 1
    assert f"{torn} cannot be read" in capsys.readouterr().err
    assert TOWN not in place.rows(SCORED).column("town").to_pylist()


@pytest.mark.parametrize(
    "why", ["the variable is not set", "the database cannot be worked on", "No module named"]
)
def test_submissions_that_are_not_reached_are_named_after_all_else_was_done(
    place: Workspace, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://127.0.0.1:{free_port()}/none"
    if why == "the variable is not set":
        url = "env:ONESCORE_TEST_UNSET"
    elif why == "No module named":
        monkeypatch.setitem(sys.modules, "jobs.submissions.forget_submissions", None)
        why = "import of jobs.submissions.forget_submissions halted"
    before = held(place)
    assert forget("--key", f"town={TOWN}", "--set", f"submissions.database_url={url}") == 1
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "NOT REACHED" in text
        assert why in text
    assert "not rewritten by this job" in said.out
    assert held(place) == dict.fromkeys(before, 0) | {"others": before["others"]}


def test_hashed_log_without_its_key_is_said_so() -> None:
    from dataclasses import replace

    from feature_pipelines.schema import Schema
    from jobs.online.entity import parse_entity
    from tests.toy.houses import FEATURES

    tagged = Schema(tuple(replace(f, tags=("pii",)) if f.name == "town" else f for f in FEATURES.request))
    secret = replace(FEATURES, request=tagged)
    entity = parse_entity(tagged, ["town=x"])
    for policy, said in (
        ("drop", "dropped when the log is written"),
        ("hash", "hashes were not looked for"),
        ("keep", ""),
    ):
        conf = Workspace(Path("/nowhere")).conf(f"serve.log_pii={policy}")
        assert said in forget_entity._pii_remark(conf, secret, entity)
        assert bool(said) == bool(forget_entity._pii_remark(conf, secret, entity))
