import dataclasses
import zipfile

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from feature_pipelines.errors import TableError
from jobs.tables.delta import ensure_table
from jobs.tables.flights_ingest import ingest, plan_ingest
from jobs.tables.flights_schemas import DESCRIPTIONS, SCHEMAS
from jobs.tables.flights_source import SourceFiles, locate_files


@pytest.fixture
def files(tmp_path):
    """The real files, with the first five flights only; one of them cannot be read."""
    real = locate_files()
    with zipfile.ZipFile(real.flights) as archive, archive.open("flights.csv") as stream:
        lines = [stream.readline() for _ in range(6)]
    lines[5] = lines[5].replace(b"ATL", b"???")
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", b"".join(lines))
    return dataclasses.replace(real, flights=tmp_path / "flights.csv.zip")


@pytest.fixture
def locations(tmp_path):
    return {name: str(tmp_path / "tables" / name) for name in SCHEMAS}


def versions(locations):
    return {name: DeltaTable(uri).version() for name, uri in locations.items()}


def test_ingest_fills_every_table_and_counts_what_it_could_not_read(files, locations):
    summary = ingest(files, locations)

    assert summary.rows == {
        "flights_requests": 4,
        "flights_outcomes": 4,
        "flights_arrivals": 4,
        "flights_departures": 4,
        "weather": 26_115,
        "planes": 3_322,
        "flights_ingest_quarantine": 1,
    }
    assert summary.quarantined == {"UNKNOWN_TIME_ZONE": 1}
    assert summary.written == tuple(SCHEMAS)
    for name, uri in locations.items():
        table = DeltaTable(uri)
        assert table.metadata().description == DESCRIPTIONS[name]
        assert pa.schema(table.schema().to_arrow()) == SCHEMAS[name]


def test_ingest_again_changes_nothing(files, locations):
    first = ingest(files, locations)
    before = versions(locations)

    again = ingest(files, locations)

    assert again == dataclasses.replace(first, written=())
    assert versions(locations) == before


def test_ingest_of_other_data_replaces_the_content(files, locations, tmp_path):
    ingest(files, locations)
    other = tmp_path / "planes.csv"
    other.write_bytes(b"".join(files.planes.read_bytes().splitlines(keepends=True)[:3]))

    summary = ingest(dataclasses.replace(files, planes=other), locations)

    assert summary.rows["planes"] == 2
    assert summary.rows["flights_requests"] == 4


def test_ingest_continues_where_a_killed_one_stopped(files, locations):
    ingest(files, {name: uri if name != "planes" else f"{uri}_elsewhere" for name, uri in locations.items()})

    assert ingest(files, locations).written == ("planes",)


def test_plan_ingest_writes_nothing(files, locations, tmp_path):
    plans = plan_ingest(files, locations)

    assert [plan.name for plan in plans] == list(SCHEMAS)
    assert not any(plan.is_current for plan in plans)
    assert not (tmp_path / "tables").exists()


def test_ingest_into_a_table_of_another_schema_is_refused(files, locations):
    ensure_table(locations["planes"], pa.schema([pa.field("x", pa.int64())]))

    with pytest.raises(
        TableError,
        match=r"planes: the table has another schema\. x: the table has long, expected no such column",
    ):
        ingest(files, locations)


def test_source_files_are_plain_values(files):
    assert SourceFiles(files.flights, files.weather, files.planes, files.airports) == files
