import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs.ingest_flights import main
from jobs.runs.command import run


@pytest.fixture
def tables(home):
    return home / ".onescore" / "tables"


def test_ingest_flights_fills_the_tables_and_says_so(tables, capsys):
    assert main([]) == 0

    said = capsys.readouterr().out
    assert "flights_requests                336,776 rows" in said
    assert "quarantined by reason: none" in said
    assert DeltaTable(str(tables / "flights_requests")).count() == 336_776

    assert main([]) == 0
    assert "were there already" in capsys.readouterr().out
    assert DeltaTable(str(tables / "flights_requests")).version() == 1


def test_ingest_flights_dry_run_prints_the_plan_and_writes_nothing(tables, capsys):
    assert main(["--dry-run", "--rows", "1_000_000"]) == 0

    said = capsys.readouterr().out
    assert "flights_requests           would be written" in said
    assert "flights_requests_scaled    1,000,000 rows, seed 0" in said
    assert not tables.exists()


def test_ingest_flights_makes_a_scaled_table_once(tables, capsys, spark):
    flags = ["--rows", "1000", "--seed", "3", "--scaled-table", "few_requests"]

    assert main(flags) == 0
    assert "written in" in capsys.readouterr().out
    table = pa.table(DeltaTable(str(tables / "few_requests")).to_pyarrow_table())
    assert table.num_rows == 1000

    assert main(flags) == 0
    assert "was there already" in capsys.readouterr().out


def test_ingest_flights_puts_tables_where_the_configuration_says(home, tmp_path, capsys):
    assert main(["--dry-run", "--set", f"storage.tables={tmp_path}/lake"]) == 0

    assert f"{tmp_path}/lake/weather" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"), [("0", "expected at least 1 row, got 0"), ("many", "expected a number of rows")]
)
def test_ingest_flights_refuses_a_nonsensical_size(home, capsys, rows, message):
    assert run(main, ["--rows", rows]) == 2

    assert message in capsys.readouterr().err
